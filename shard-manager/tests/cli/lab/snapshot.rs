//! Tests of `lab snapshot` on files: a cluster is restored to a snapshot, or remains unchanged.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use shard_manager::store::sqlite::digest::digest;
use tempfile::TempDir;

use crate::cluster::{Cluster, file, open, program, run, run_in, run_reading, write_users};
use crate::scratch;

/// Rows of each shard: number and digest of each table.
type Rows = Vec<Vec<(String, u64, u128)>>;

/// A stopped cluster of three shards in its own folder, and a folder for snapshots beside it.
struct Stopped {
    parent: TempDir,
}

impl Stopped {
    fn with_users(users: std::ops::Range<usize>) -> Self {
        let stopped = Self { parent: scratch::folder() };
        stopped.write(users);
        stopped
    }

    fn data(&self) -> PathBuf {
        self.parent.path().join("data")
    }

    fn snapshots(&self) -> PathBuf {
        self.parent.path().join("snapshots")
    }

    /// Opens the cluster, stores users, and stops it.
    fn write(&self, users: std::ops::Range<usize>) {
        let manager = open(&self.data(), 3, 1);
        write_users(&manager, users);
        manager.close();
    }

    fn rows(&self) -> Rows {
        let digest = |shard| digest(&file(&self.data(), &format!("shard{shard}-primary")));
        (1..=3).map(|shard| digest(shard).expect("a file of rows").tables).collect()
    }

    /// Arguments of a command about snapshots, with those of the folder.
    fn args<'a>(&self, args: &[&'a str], folder: &'a str) -> Vec<&'a str> {
        [&["lab", "snapshot"], args, &["--snapshots", folder]].concat()
    }

    fn run(&self, args: &[&str]) -> crate::cluster::Ended {
        let folder = self.snapshots().display().to_string();
        run_in(&self.data(), &self.args(args, &folder))
    }

    /// Names beside the data directory.
    fn beside(&self) -> Vec<String> {
        let names = fs::read_dir(self.parent.path()).expect("readable").flatten();
        let mut names: Vec<String> =
            names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

#[test]
fn a_cluster_returns_to_a_snapshot_with_the_digests_of_all_tables() {
    let stopped = Stopped::with_users(0..60);
    let before = stopped.rows();
    let saved = stopped.run(&["save", "before", "--json"]).expect(0).json();
    assert_eq!((&saved["snapshot"], &saved["rows"]), (&json!("before"), &json!(60)));
    stopped.write(30..90);
    assert_ne!(stopped.rows(), before);
    stopped.run(&["save", "after"]).expect(0);
    let restored = stopped.run(&["restore", "before", "--yes", "--json"]).expect(0).json();
    assert_eq!(restored["digests"], saved["digests"]);
    assert_eq!(stopped.rows(), before, "every table of every shard");
    run_in(&stopped.data(), &["check"]).expect(0);
    stopped.write(0..1);
    stopped.run(&["restore", "after", "--yes"]).expect(0);
    let manager = open(&stopped.data(), 3, 1);
    assert_eq!(manager.status().replicas(), 1);
    manager.close();
    let listed = stopped.run(&["list", "--json"]).expect(0).json();
    let listed = listed["snapshots"].as_array().expect("snapshots").iter();
    let listed: Vec<Value> = listed.map(|one| json!([one["snapshot"], one["rows"]])).collect();
    assert_eq!(listed, [json!(["before", 60]), json!(["after", 90])]);
    assert_eq!(stopped.beside(), ["data", "snapshots"]);
}

#[test]
fn a_kill_in_the_middle_of_a_restore_leaves_the_old_or_the_new_state() {
    let stopped = Stopped::with_users(0..60);
    stopped.run(&["save", "new"]).expect(0);
    let new = stopped.rows();
    let history = stopped.data().join("analytics.db");
    fs::write(&history, "history").expect("written");
    let beside = stopped.parent.path().join("data-replaced-unfinished");
    let points =
        [beside.clone(), beside.join("data-unfinished"), beside.join("data"), stopped.data()];
    for (round, point) in points.iter().cycle().take(8).enumerate() {
        stopped.write(round..round + 70);
        let old = stopped.rows();
        assert_ne!(old, new);
        kill_once_there(&stopped, point);
        let found = stopped.rows();
        assert!(found == old || found == new, "round {round}: a mix");
        assert!(history.exists(), "round {round}: a file that is not of the cluster is lost");
        run_in(&stopped.data(), &["check"]).expect(0);
    }
    stopped.run(&["restore", "new", "--yes"]).expect(0);
    assert_eq!(stopped.rows(), new);
    assert_eq!(stopped.beside(), ["data", "snapshots"], "what kills have left is removed");
}

#[test]
fn a_restore_replaces_only_the_files_of_the_cluster() {
    let stopped = Stopped::with_users(0..20);
    stopped.run(&["save", "one"]).expect(0);
    let rows = stopped.rows();
    stopped.write(10..40);
    let data = stopped.data();
    fs::create_dir_all(data.join("backups/monday")).expect("a folder");
    let foreign =
        ["analytics.db", "catalog.db-old", "shard4-primary.db", "backups/monday/manifest.json"];
    for name in foreign {
        fs::write(data.join(name), name).expect("written");
    }
    let set_mode = |mode| {
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(data.join("backups/monday"), permissions).expect("a mode");
    };
    set_mode(0o555);
    std::os::unix::fs::symlink("analytics.db", data.join("link")).expect("a link");
    let own = ["doubtful-copies.json", "shard3-replica1.db", "catalog.db-journal"];
    for name in own {
        fs::write(data.join(name), "{}").expect("written");
    }
    stopped.run(&["restore", "one", "--yes"]).expect(0);
    let monday = fs::metadata(data.join("backups/monday")).expect("a folder");
    assert_eq!(monday.permissions().mode() & 0o777, 0o555);
    // The folder of the test can then be removed.
    set_mode(0o755);
    assert_eq!(stopped.rows(), rows);
    for name in foreign {
        assert_eq!(fs::read_to_string(data.join(name)).expect(name), name);
    }
    let link = fs::read_link(data.join("link")).expect("a link");
    assert_eq!(link, Path::new("analytics.db"));
    assert!(own.iter().all(|name| !data.join(name).exists()), "the old cluster is replaced");
    assert_eq!(stopped.beside(), ["data", "snapshots"]);
}

#[test]
fn a_shard_that_retired_after_the_snapshot_may_join_again() {
    let stopped = Stopped::with_users(0..20);
    stopped.run(&["save", "one"]).expect(0);
    let data = stopped.data();
    run_in(&data, &["shard", "add", "shard4"]).expect(0);
    run_in(&data, &["shard", "remove", "shard4"]).expect(0);
    assert!(data.join("shard4-primary.db").exists());
    stopped.run(&["restore", "one", "--yes"]).expect(0);
    run_in(&data, &["shard", "add", "shard4"]).expect(0);
    run_in(&data, &["check"]).expect(0);
}

/// Restores the snapshot `new`, and kills the command with kill -9 once a path exists.
fn kill_once_there(stopped: &Stopped, point: &Path) {
    let folder = stopped.snapshots().display().to_string();
    let mut command = program(&stopped.args(&["restore", "new", "--yes"], &folder));
    command.env("TESSERA_DATA_DIR", stopped.data());
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut child = child.expect("the program starts");
    while !point.exists() && child.try_wait().expect("a child").is_none() {
        std::thread::yield_now();
    }
    child.kill().expect("killed");
    child.wait().expect("ended");
}

#[test]
fn without_confirmation_nothing_changes() {
    let stopped = Stopped::with_users(0..20);
    stopped.run(&["save", "one"]).expect(0);
    stopped.write(20..40);
    let (rows, folder) = (stopped.rows(), stopped.snapshots().display().to_string());
    let args = stopped.args(&["restore", "one"], &folder);
    for answer in ["", "n\n", "yes, please\n"] {
        let ended = run_reading(&stopped.data(), &args, answer).expect(2);
        assert!(ended.err.contains("will hold the 20 rows of one"), "{ended:#?}");
        assert!(ended.err.contains("was not confirmed"), "{ended:#?}");
        assert_eq!(stopped.rows(), rows);
    }
    run_reading(&stopped.data(), &args, "y\n").expect(0);
    assert_ne!(stopped.rows(), rows);
}

#[test]
fn what_cannot_be_saved_or_restored_is_named_and_stays() {
    let stopped = Stopped::with_users(0..20);
    let nowhere = stopped.parent.path().join("nowhere");
    let folder = stopped.snapshots().display().to_string();
    run_in(&nowhere, &stopped.args(&["save", "one"], &folder)).refused("there is no cluster here");
    assert!(!nowhere.exists() && !stopped.snapshots().exists());
    stopped.run(&["restore", "none", "--yes"]).refused("there is no snapshot none, nor any other");
    stopped.run(&["save", "one"]).expect(0);
    stopped.run(&["save", "one"]).refused("a snapshot one exists already");
    stopped.run(&["restore", "on", "--yes"]).refused("there is no snapshot on; there are: one");
    for name in ["../data", "a/b", ".", "", "x-unfinished", &"n".repeat(65)] {
        stopped.run(&["save", name]).refused("the name of a snapshot has 1 to 64 letters");
        stopped.run(&["restore", name]).refused("the name of a snapshot has 1 to 64 letters");
    }
    let rows = stopped.rows();
    let other = Cluster::filled();
    let args = stopped.args(&["restore", "one", "--yes"], &folder);
    run_in(other.path(), &args).refused("is in use by a router");
    let other = other.stop();
    run_in(other.path(), &args).refused("the data directory of a different cluster");
    run_in(&nowhere, &args).refused("there is no cluster here");
    let shard = stopped.snapshots().join("one").join("shard2-primary.db");
    let mut bytes = fs::read(&shard).expect("readable");
    bytes[5_000] ^= 1;
    fs::write(&shard, bytes).expect("written");
    let ended = stopped.run(&["restore", "one", "--yes"]).expect(1);
    assert!(ended.err.contains("its bytes differ from those that were saved"), "{ended:#?}");
    fs::remove_file(stopped.snapshots().join("one").join("manifest.json")).expect("removed");
    let listed = stopped.run(&["list", "--json"]).expect(0).json();
    assert!(listed["snapshots"][0]["unusable"].is_string(), "{listed:#}");
    assert_eq!(stopped.rows(), rows);
    run(&["lab", "snapshot", "drop"]).refused("unrecognized subcommand 'drop'");
}
