//! Tests of `lab snapshot` on servers: a cluster is restored to a snapshot, and after a killed
//! restore no router starts until it is repeated.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::json;
use shard_manager::manager::Manager;
use shard_manager::row_change::Operation::Upsert;
use tempfile::TempDir;

use crate::cluster::{Databases, SideSession, connect, try_connect};
use crate::commands::{Ended, program, run_with, urls};
use crate::rows::write;
use crate::scratch;

/// Digest of all rows of a table, whatever their order.
const DIGEST: &str = "SELECT count(*) || ' ' || coalesce(sum(hashtextextended(users::text,0)),0) \
    AS value FROM users";

/// Cluster of two databases, with a folder for its snapshots.
struct Saved {
    databases: Databases,
    folder: TempDir,
}

impl Saved {
    async fn with_users(users: std::ops::Range<usize>) -> Self {
        let saved = Self { databases: Databases::new(2).await, folder: scratch::folder() };
        saved.write(users).await;
        saved
    }

    fn snapshots(&self) -> PathBuf {
        self.folder.path().join("snapshots")
    }

    /// Opens the cluster, stores users, and closes it.
    async fn write(&self, users: std::ops::Range<usize>) {
        let manager = connect(&self.databases.address());
        fill(&manager, users).await;
        manager.close();
    }

    async fn rows(&self) -> Vec<String> {
        let mut rows = Vec::new();
        for shard in 0..self.databases.names.len() {
            rows.push(self.databases.direct_session(shard).await.text(DIGEST).await);
        }
        rows
    }

    /// Addresses of the shards in the catalog.
    async fn addresses(&self) -> Vec<String> {
        let sql =
            "SELECT coalesce(address, '') AS value FROM tessera.tessera_shards ORDER BY number";
        self.databases.direct_session(0).await.texts(sql).await
    }

    fn run(&self, args: &[&str]) -> Ended {
        let folder = self.snapshots().display().to_string();
        let args = [&["lab", "snapshot"], args, &["--snapshots", &folder]].concat();
        run_with(&[("SHARD_URLS", &urls(&self.databases))], &args)
    }
}

async fn fill(manager: &Manager, users: std::ops::Range<usize>) {
    for number in users {
        let row = format!(r#"{{"name":"name of {number}","email":"e"}}"#);
        write(manager, "users", Upsert, &format!("user_{number}"), &row).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_servers_returns_to_a_snapshot_with_the_digests_of_all_tables() {
    let saved = Saved::with_users(0..30).await;
    let before = saved.rows().await;
    let made = saved.run(&["save", "before", "--json"]).expect(0).json();
    assert_eq!((&made["snapshot"], &made["rows"]), (&json!("before"), &json!(30)));
    saved.write(10..50).await;
    assert_ne!(saved.rows().await, before);
    let addresses = saved.addresses().await;
    let restored = saved.run(&["restore", "before", "--yes", "--json"]).expect(0).json();
    assert_eq!(restored["digests"], made["digests"]);
    assert_eq!(saved.rows().await, before);
    assert_eq!(saved.addresses().await, addresses, "settings may still leave shards out");
    let manager = connect(&saved.databases.address());
    let row = r#"{"name":"n","email":"e"}"#;
    let first = write(&manager, "users", Upsert, "user_1", row).await.unwrap().row.version;
    manager.close();
    drop(manager);
    saved.run(&["restore", "before", "--yes"]).expect(0);
    let manager = connect(&saved.databases.address());
    let second = write(&manager, "users", Upsert, "user_1", row).await.unwrap().row.version;
    assert!(second > first, "the version {first} was given out by the life before");
    manager.close();
    let names: Vec<String> = std::fs::read_dir(saved.snapshots())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(names, ["before"], "what was read back is removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_restore_of_servers_serves_the_old_state_the_new_one_or_no_router() {
    let saved = Saved::with_users(0..40).await;
    saved.run(&["save", "new"]).expect(0);
    let new = saved.rows().await;
    let mut ends = BTreeMap::<&str, u32>::new();
    // On a busy machine, a restore may get past its middle before the kill; then more are tried.
    for round in 0..15 {
        if round >= 3 && ends.contains_key("refused") {
            break;
        }
        saved.write(round..round + 50).await;
        let old = saved.rows().await;
        assert_ne!(old, new);
        kill_in_the_middle(&saved, round % 3 == 2).await;
        match try_open(&saved) {
            Some(reported) => {
                assert!(reported.contains("run the restore again"), "{reported}");
                *ends.entry("refused").or_default() += 1;
            }
            None => {
                let found = saved.rows().await;
                assert!(found == old || found == new, "round {round}: a mix");
                *ends.entry("whole").or_default() += 1;
            }
        }
        saved.run(&["restore", "new", "--yes"]).expect(0);
        assert_eq!(saved.rows().await, new);
    }
    assert!(ends.contains_key("refused"), "no kill was in the middle: {ends:?}");
}

/// Opens the cluster; returns the reason if that is refused.
fn try_open(saved: &Saved) -> Option<String> {
    match try_connect(&saved.databases.address()) {
        Ok(manager) => {
            manager.close();
            None
        }
        Err(error) => Some(error.to_string()),
    }
}

/// Restores the snapshot `new`, and kills the command with kill -9: while the first shard is filled
/// and the second one is marked, or once all is filled.
async fn kill_in_the_middle(saved: &Saved, is_filled: bool) {
    let (node, name) = (&saved.databases.nodes[1], &saved.databases.names[1]);
    // A session with the database itself would be one of another client.
    let mut beside = SideSession::open(node, "postgres").await;
    let of_restore = format!("FROM pg_stat_activity WHERE datname='{name}'");
    let is_marked = format!("SELECT count(*)::text AS value {of_restore} AND query='COMMIT'");
    let folder = saved.snapshots().display().to_string();
    let args = ["lab", "snapshot", "restore", "new", "--yes", "--snapshots", &folder];
    let mut command = program(&[("SHARD_URLS", &urls(&saved.databases))], &args);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut child = child.unwrap();
    let read_back = saved.snapshots().join("new-read-back-unfinished/copy-unfinished");
    while child.try_wait().unwrap().is_none() && !read_back.exists() {
        if !is_filled && beside.text(&is_marked).await == "1" {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // Its sessions hold their locks until the server notices.
    beside.until(&format!("SELECT count(*)::text AS value {of_restore}"), "0").await;
}

/// The history is in the database of a shard if the settings name that as the store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_history_of_analytics_stays_when_a_cluster_of_servers_is_restored() {
    let saved = Saved::with_users(0..10).await;
    saved.run(&["save", "before"]).expect(0);
    let rows = saved.rows().await;
    saved.write(5..20).await;
    let mut second = saved.databases.direct_session(1).await;
    let history = "CREATE TABLE tessera.tessera_history AS SELECT 7 AS start; \
        INSERT INTO tessera.__diesel_schema_migrations (version) VALUES ('20261122950001')";
    second.run(history).await;
    drop(second);
    saved.run(&["restore", "before", "--yes"]).expect(0);
    assert_eq!(saved.rows().await, rows);
    let kept = "SELECT start || ' ' || version AS value FROM tessera.tessera_history, \
        tessera.__diesel_schema_migrations WHERE version LIKE '%950001'";
    let kept = saved.databases.direct_session(1).await.text(kept).await;
    assert_eq!(kept, "7 20261122950001");
    saved.write(20..21).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_in_use_another_one_and_foreign_tables_are_refused_and_stay() {
    let saved = Saved::with_users(0..10).await;
    saved.run(&["save", "one"]).expect(0);
    let restore = ["restore", "one", "--yes"];
    let manager = connect(&saved.databases.address());
    fill(&manager, 10..12).await;
    saved.run(&restore).refused("a router or another client is connected to the database");
    fill(&manager, 12..14).await;
    manager.close();
    drop(manager);
    let rows = saved.rows().await;
    saved.databases.direct_session(1).await.run("CREATE TABLE public.another (id INT)").await;
    saved.run(&restore).refused("shard2: the database also has another");
    saved.databases.direct_session(1).await.run("DROP TABLE public.another").await;
    // The rows could not be read back afterwards.
    let in_the_way = saved.snapshots().join("one-read-back-unfinished");
    std::fs::write(&in_the_way, "").unwrap();
    saved.run(&restore).refused("in the way");
    std::fs::remove_file(&in_the_way).unwrap();
    assert_eq!(saved.rows().await, rows);
    let other = Saved::with_users(0..3).await;
    let (folder, all) = (saved.snapshots().display().to_string(), urls(&other.databases));
    let args = ["lab", "snapshot", "restore", "one", "--yes", "--snapshots", &folder];
    let first = all.split(',').next().unwrap();
    let lacking = "SHARD_URLS names 1 databases: name the database of each shard, in this order: \
        shard1, shard2";
    run_with(&[("SHARD_URLS", first)], &args).refused(lacking);
    let rows = other.rows().await;
    run_with(&[("SHARD_URLS", &all)], &args).refused("does not belong to the copied cluster");
    assert_eq!(other.rows().await, rows);
    run_with(&[("TESSERA_DATA_DIR", "/nowhere")], &args).refused("this is a snapshot of servers");
}
