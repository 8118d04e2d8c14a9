//! Tests of restoring a backup.

use std::fs;
use std::path::Path;

use shard_manager::access::key_record::KeyState;
use shard_manager::access::rights::Rights;
use shard_manager::access::tenant::Tenants;
use shard_manager::backup::SaveError;
use shard_manager::backup::restore::{restore, verify};
use shard_manager::engine::access_store::{AccessChange, ChangeAuthor, NewKey, make_key, now};
use shard_manager::engine::cluster_spec::ClusterSpec;
use shard_manager::error::Error;
use shard_manager::keyspace::ShardKey;
use shard_manager::manager::{Manager, RequestOptions};
use shard_manager::query::ReadQuery;
use shard_manager::row_change::Operation;
use shard_manager::token::SessionToken;
use tempfile::TempDir;

use crate::backup::{ALONE, save};
use crate::cluster::{Cluster, deadline, open, options, texts, with_replicas};
use crate::command::{fail, fail_in_one_line, succeed, text};
use crate::scratch;

fn user(key: &str, name: &str) -> String {
    format!(r#"{{"user_id":"{key}","name":"{name}","email":"{key}@example.com"}}"#)
}

/// Creates a cluster of one shard that holds `before`, backs it up, and then also writes `after`.
async fn lived_on(dir: &TempDir) -> (Cluster, SessionToken, i64) {
    let cluster = Cluster::with(with_replicas(1, 1));
    let written = cluster.write("users", Operation::Upsert, "before", &user("before", "a")).await;
    written.expect("a write");
    save(&cluster, &dir.path().join("copy"));
    let after = cluster.write("users", Operation::Upsert, "after", &user("after", "b")).await;
    let after = after.expect("a write");
    let mut session = SessionToken::empty();
    cluster.manager.sessions().extend(
        &mut session,
        after.receipt.place.shard,
        after.receipt.position,
    );
    (cluster, session, after.row.version)
}

fn opened(dir: &Path) -> Manager {
    open(dir, ClusterSpec::default()).expect("the restored cluster starts")
}

#[tokio::test]
async fn a_restored_cluster_holds_acknowledged_rows_and_rejects_tokens_that_have_seen_more() {
    let dir = scratch::folder();
    let (lost, session, lost_version) = lived_on(&dir).await;
    let token = lost.manager.sessions().token(&session);
    drop(lost.stop());
    let home = dir.path().join("data");
    restore(&dir.path().join("copy"), &home, &ALONE).expect("it is put back");
    let back = Cluster { manager: opened(&home), source: None, dir };
    let rows = back.rows("users", None).await;
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(rows[0]["user_id"], "before");
    // The token belongs to this cluster, but to a timeline that was abandoned.
    let session =
        back.manager.sessions().merge([token.as_str()].into_iter()).expect("a token of ours");
    let query = ReadQuery::all(&back.manager.schema(Rights::ALL).table("users").expect("a table"));
    let key = ShardKey::parse("after").expect("a key");
    let shown = back
        .manager
        .data(Rights::ALL)
        .read(query, Some(key), &RequestOptions { session, ..options() })
        .await;
    let shown = shown.expect_err("what was seen is gone").error;
    assert_eq!(shown, Error::SeenMayBeLost { shard: "shard1".into() });
    // A version assigned on the abandoned timeline is never assigned again, so that an If-Match
    // with it never holds.
    let again = back.write("users", Operation::Upsert, "after", &user("after", "c")).await;
    assert!(again.expect("a write").row.version > lost_version);
    assert_eq!(back.manager.status().replicas(), 1, "replicas are rebuilt");
    back.manager.close();
}

#[tokio::test]
async fn versions_are_not_reused_after_restoring_an_empty_copy() {
    let dir = scratch::folder();
    let cluster = Cluster::with_shards(1);
    save(&cluster, &dir.path().join("copy"));
    let lost = cluster.write("users", Operation::Upsert, "a", &user("a", "a")).await;
    let lost = lost.expect("a write").row.version;
    drop(cluster.stop());
    let home = dir.path().join("data");
    restore(&dir.path().join("copy"), &home, &ALONE).expect("it is put back");
    let back = Cluster { manager: opened(&home), source: None, dir };
    let again = back.write("users", Operation::Upsert, "a", &user("a", "b")).await;
    assert!(again.expect("a write").row.version > lost);
    back.manager.close();
}

#[tokio::test]
async fn idempotency_keys_are_those_of_the_copy() {
    async fn write(cluster: &Cluster, key: &str) -> bool {
        let (place, mut row) = cluster.prepare("users", Operation::Insert, key, &user(key, "a"));
        row.idempotency_key = Some("once".to_owned());
        cluster
            .manager
            .data(Rights::ALL)
            .write(place, row, &RequestOptions::by(deadline()))
            .await
            .expect("stored")
            .row
            .replayed
    }
    let dir = scratch::folder();
    let cluster = Cluster::with_shards(1);
    assert!(!write(&cluster, "before").await);
    save(&cluster, &dir.path().join("copy"));
    assert!(!write(&cluster, "after").await);
    drop(cluster.stop());
    let home = dir.path().join("data");
    restore(&dir.path().join("copy"), &home, &ALONE).expect("it is put back");
    let back = Cluster { manager: opened(&home), source: None, dir };
    assert!(write(&back, "before").await, "known from before");
    assert!(!write(&back, "after").await, "stored again");
    back.manager.close();
}

#[test]
fn a_copy_that_differs_in_one_bit_is_refused() {
    let cluster = Cluster::with_shards(2);
    let dir = scratch::folder();
    let (copy, home) = (dir.path().join("copy"), dir.path().join("data"));
    save(&cluster, &copy);
    let refused = |file: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let path = copy.join(file);
        let whole = fs::read(&path).expect("a file of the copy");
        let mut changed = whole.clone();
        change(&mut changed);
        fs::write(&path, changed).expect("it can be written");
        let reported = restore(&copy, &home, &ALONE).expect_err("it is refused");
        assert!(matches!(reported, SaveError::Unsuitable { .. }), "{file}: {reported}");
        let arguments = ["restore", "--from", text(&copy), "--data-dir", text(&home)];
        let (code, reported) = fail(&arguments);
        assert_eq!((code, reported.lines().count()), (1, 1), "{reported}");
        assert!(reported.contains(file), "{reported}");
        assert_eq!(fail(&["backup", "--verify", text(&copy)]).0, 1);
        assert!(!home.exists(), "nothing was made");
        fs::write(&path, whole).expect("it can be written");
    };
    for file in ["shard1-primary.db", "shard2-primary.db", "catalog.db"] {
        refused(file, &|bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        });
        refused(file, &|bytes| bytes.truncate(bytes.len() - 1));
    }
    refused("manifest.json", &|bytes| bytes.clear());
    fs::rename(copy.join("shard1-primary.db"), dir.path().join("away")).expect("moved away");
    assert!(verify(&copy, &ALONE).is_err(), "a file is missing");
    fs::rename(dir.path().join("away"), copy.join("shard1-primary.db")).expect("moved back");
    succeed(&["restore", "--from", text(&copy), "--data-dir", text(&home)]);
    opened(&home).close();
}

#[test]
fn a_copy_is_valid_whatever_the_name_of_its_folder() {
    let cluster = Cluster::with_shards(1);
    let dir = scratch::folder();
    for name in ["a?mode=memory", "b#c", "d%20e", "grüße an \u{1f388}", "f//g", "file:h"] {
        let copy = dir.path().join(name);
        save(&cluster, &copy);
        verify(&copy, &ALONE).expect(name);
        let home = dir.path().join(format!("home of {name}"));
        restore(&copy, &home, &ALONE).expect(name);
        succeed(&["status", "--data-dir", text(&home)]);
    }
    // In a URI, two slashes introduce a host name.
    let twice = format!("/{}/b#c", text(dir.path()));
    succeed(&["backup", "--verify", &twice]);
    succeed(&["status", "--data-dir", &format!("/{}", text(cluster.dir.path()))]);
}

#[test]
fn a_copy_that_cannot_be_checked_is_not_reported_as_damaged() {
    let cluster = Cluster::with_shards(1);
    let dir = scratch::folder();
    let copy = dir.path().join("copy");
    save(&cluster, &copy);
    // The path is longer than SQLite can open: the checksums match, but the content cannot be
    // checked.
    let far = dir.path().join("far away ".repeat(20)).join("from here ".repeat(20));
    let far = far.join("and further ".repeat(15));
    fs::create_dir_all(&far).expect("a folder");
    for entry in fs::read_dir(&copy).expect("a folder") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, far.join(path.file_name().expect("a name"))).expect("a copy");
    }
    let could_not = |folder: &Path| {
        let (code, output) = fail(&["backup", "--verify", text(folder)]);
        assert_eq!((code, output.lines().count()), (2, 1), "{output}");
    };
    could_not(&far);
    for file in ["shard1-primary.db", "manifest.json"] {
        let path = copy.join(file);
        fs::remove_file(&path).expect("it was there");
        std::os::unix::fs::symlink(&path, &path).expect("a link that leads nowhere");
        could_not(&copy);
    }
}

#[test]
fn a_copy_with_a_forged_manifest_is_refused() {
    let cluster = Cluster::with_shards(1);
    let dir = scratch::folder();
    let copy = dir.path().join("copy");
    save(&cluster, &copy);
    let path = copy.join("manifest.json");
    let whole = fs::read_to_string(&path).expect("a manifest");
    let lies = [
        ("\"position\": 0", "\"position\": 1"),
        ("\"users\": 0", "\"users\": 5"),
        ("\"epoch\": 1", "\"epoch\": 2"),
        ("\"shard\": \"shard1\"", "\"shard\": \"shard2\""),
        ("\"format\": 1", "\"format\": 2"),
        ("\"file\": \"shard1-primary.db\"", "\"file\": \"../copy/shard1-primary.db\""),
    ];
    for (truth, lie) in lies {
        assert!(whole.contains(truth), "{truth} stands in {whole}");
        fs::write(&path, whole.replace(truth, lie)).expect("it can be written");
        let reported = verify(&copy, &ALONE).expect_err(lie);
        assert!(matches!(reported, SaveError::Unsuitable { .. }), "{lie}: {reported}");
    }
}

#[test]
fn a_target_that_exists_is_refused_in_one_line() {
    let cluster = Cluster::with_shards(1);
    let dir = scratch::folder();
    let (copy, full) = (dir.path().join("copy"), dir.path().join("full"));
    save(&cluster, &copy);
    fs::create_dir(&full).expect("a folder");
    fs::write(full.join("mine"), "x").expect("a file");
    let (home, file) = (text(cluster.dir.path()), full.join("mine"));
    let inside = cluster.dir.path().join("inside");
    let nowhere = dir.path().join("nowhere");
    let uses: [(&[&str], &str); 7] = [
        (&["backup", "--data-dir", home, "--to", text(&full)], "not empty"),
        (&["backup", "--data-dir", home, "--to", text(&file)], "a file with this name"),
        (&["backup", "--data-dir", home, "--to", text(&inside)], "in the data directory"),
        (&["backup", "--data-dir", text(&nowhere), "--to", text(&inside)], "not a data directory"),
        (&["restore", "--from", text(&copy), "--data-dir", text(&full)], "not empty"),
        (&["restore", "--from", text(&copy), "--data-dir", home], "in use"),
        (&["generate", "--users", "1", "--data-dir", home], "in use"),
    ];
    fail_in_one_line(&uses);
    assert!(!inside.exists() && !nowhere.exists(), "nothing was made");
    assert_eq!(fs::read_dir(&full).expect("a folder").count(), 1, "nothing was changed");
}

#[test]
fn an_unreadable_copy_and_an_incomplete_copy_are_reported_differently() {
    let dir = scratch::folder();
    let (nowhere, home) = (dir.path().join("nowhere"), dir.path().join("data"));
    let uses = |copy: &Path| {
        let verified = fail(&["backup", "--verify", text(copy)]);
        let restored = fail(&["restore", "--from", text(copy), "--data-dir", text(&home)]);
        assert!(!home.exists());
        [verified, restored]
    };
    for (code, shown) in uses(&nowhere) {
        assert!(code == 2 && shown.contains("nowhere: No such file"), "{shown}");
    }
    for (code, shown) in uses(dir.path()) {
        assert!(code == 1 && shown.contains("this is not a restorable copy"), "{shown}");
    }
}

#[test]
fn a_link_to_an_empty_folder_is_accepted_as_target() {
    let cluster = Cluster::with_shards(1);
    let dir = scratch::folder();
    let linked = |name: &str| {
        let (folder, link) = (dir.path().join("far").join(name), dir.path().join(name));
        fs::create_dir_all(&folder).expect("a folder");
        std::os::unix::fs::symlink(&folder, &link).expect("a link");
        (folder, link)
    };
    let ((copy, to), (home, data)) = (linked("copy"), linked("data"));
    succeed(&["backup", "--data-dir", text(cluster.dir.path()), "--to", text(&to)]);
    succeed(&["restore", "--from", text(&to), "--data-dir", text(&data)]);
    assert!(to.is_symlink() && data.is_symlink(), "the links stay");
    assert!(copy.join("manifest.json").exists() && home.join("catalog.db").exists());
    assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 3, "nothing is left beside");
    fs::remove_dir_all(&copy).expect("a folder");
    let (code, output) = fail(&["backup", "--data-dir", text(&data), "--to", text(&to)]);
    assert!(code == 2 && output.contains("target of this link does not exist"), "{output}");
}

#[test]
fn a_mount_point_is_refused_before_anything_is_copied() {
    let cluster = Cluster::with_shards(1);
    let dir = scratch::folder();
    let copy = dir.path().join("copy");
    save(&cluster, &copy);
    let link = dir.path().join("link");
    std::os::unix::fs::symlink("/proc", &link).expect("a link");
    for place in ["/proc", text(&link), "/"] {
        let reported = |arguments: &[&str]| {
            let (code, reported) = fail(arguments);
            assert_eq!((code, reported.lines().count()), (2, 1), "{reported}");
            assert!(reported.contains("name a folder inside it"), "{reported}");
        };
        reported(&["backup", "--data-dir", text(cluster.dir.path()), "--to", place]);
        reported(&["restore", "--from", text(&copy), "--data-dir", place]);
    }
}

/// A key that was revoked after the backup must not live again.
#[tokio::test]
async fn restored_keys_are_suspended_until_they_are_resumed() {
    let dir = scratch::folder();
    let cluster = Cluster::with_shards(1);
    let made = make_key().expect("random bytes");
    let key = NewKey {
        id: made.id(),
        digest: made.digest(),
        role: "reader".into(),
        tenants: Tenants::none(),
        name: "of the story".into(),
        expires_at: None,
    };
    let change = async |manager: &Manager, change: AccessChange| {
        let changed = manager.access().change(&change, &ChangeAuthor::CommandLine, now()).await;
        changed.expect("it is made");
    };
    change(&cluster.manager, AccessChange::CreateKey(key)).await;
    let copy = dir.path().join("copy");
    save(&cluster, &copy);
    change(&cluster.manager, AccessChange::RevokeKey(made.id())).await;
    let before = cluster.manager.access().load().await.expect("the catalog answers");
    assert_eq!(before.keys[0].state(now()), KeyState::Revoked);
    drop(cluster.stop());
    let home = dir.path().join("data");
    restore(&copy, &home, &ALONE).expect("it is put back");
    verify(&copy, &ALONE).expect("the copy itself is unchanged");
    assert!(!home.join("catalog.db-wal").exists(), "the catalog is one file");
    let manager = opened(&home);
    let state = manager.access().load().await.expect("the catalog answers");
    assert_eq!(state.keys[0].state(now()), KeyState::Suspended);
    let lines = texts(&home.join("catalog.db"), "SELECT what AS value FROM tessera_access_log");
    assert_eq!(lines.last().map(String::as_str), Some("all were suspended"));
    succeed(&["key", "resume", made.id().as_str(), "--data-dir", text(&home)]);
    let state = manager.access().load().await.expect("the catalog answers");
    assert_eq!(state.keys[0].state(now()), KeyState::Usable);
    manager.close();
}
