//! Tests of failures: invalid rows, locked files, full disks; and that a durable write really
//! reaches the disk.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use diesel::connection::SimpleConnection;
use futures_util::future::join_all;
use serde_json::json;
use shard_manager::access::rights::Rights;
use shard_manager::consistency::Level;
use shard_manager::engine::cluster_spec::ClusterSpec;
use shard_manager::engine::{BatchDone, Writer};
use shard_manager::error::{Error, Outcome};
use shard_manager::manager::RequestOptions;
use shard_manager::position::TimelineHistory;
use shard_manager::replication::ReplicationState;
use shard_manager::row_change::Operation::{Delete, Insert, Update, Upsert};
use shard_manager::store::sqlite::digest::digest;
use shard_manager::store::sqlite::writer::SqliteWriter;

use crate::cluster::{Cluster, connect, execute, ints, log, open, options, with_replicas};
use crate::prerequisites::{Prerequisite, skip};
use crate::tables::{make, table};

fn user(name: &str, email: &str) -> String {
    json!({"name": name, "email": email}).to_string()
}

fn unavailable() -> Error {
    Error::ShardUnavailable { shard: "shard1".into() }
}

#[tokio::test]
async fn a_row_that_breaks_its_transaction_does_not_hurt_those_that_share_it() {
    let cluster = Cluster::with_shards(1);
    // An error other than a constraint violation, so that the whole batch fails and is split.
    execute(
        &cluster.file(1),
        "CREATE TRIGGER no BEFORE INSERT ON users WHEN NEW.name = 'bad'
         BEGIN SELECT RAISE(ROLLBACK, 'go away'); END",
    );
    let names = (0..40).map(|n| if n % 13 == 5 { "bad" } else { "good" });
    let bodies: Vec<String> = names.map(|name| user(name, "e@example.com")).collect();
    let keys: Vec<String> = (0..40).map(|n| format!("u{n}")).collect();
    let writes =
        keys.iter().zip(&bodies).map(|(key, body)| cluster.write("users", Insert, key, body));
    for (n, done) in join_all(writes).await.into_iter().enumerate() {
        if n % 13 == 5 {
            let failure = done.expect_err("the culprit");
            assert_eq!((failure.error, failure.outcome), (Error::Internal, Outcome::Rejected));
        } else {
            assert!(done.is_ok(), "row {n}: {done:?}");
        }
    }
    assert_eq!(cluster.rows("users", None).await.len(), 37);
    assert_eq!(
        ints(&cluster.file(1), "SELECT rows AS value FROM tessera_counts WHERE name='users'"),
        [37]
    );
    let logged: usize = log(&cluster.file(1)).iter().map(|(_, lines)| lines.len()).sum();
    assert_eq!(logged, 37, "each once");
}

#[tokio::test]
async fn a_row_that_breaks_a_constraint_gets_that_error_and_its_neighbours_are_stored() {
    let cluster = Cluster::with_shards(1);
    execute(&cluster.file(1), "CREATE UNIQUE INDEX mail ON users (email)");
    let rows = vec![
        cluster.prepare("users", Insert, "a", &user("A", "a@example.com")),
        cluster.prepare("users", Insert, "b", &user("B", "b@example.com")),
        cluster.prepare("users", Update, "b", r#"{"email":"a@example.com","name":"C"}"#),
        cluster.prepare("users", Upsert, "a", r#"{"name":"Ann"}"#),
    ];
    let done = cluster.write_all(rows).await;
    let constraint = Err((Error::Constraint { rule: "unique" }, Outcome::Rejected));
    assert_eq!(done[2].outcome, constraint);
    assert!([0, 1, 3].into_iter().all(|row: usize| done[row].outcome.is_ok()));
    let names: Vec<_> =
        cluster.rows("users", None).await.iter().map(|row| row["name"].clone()).collect();
    assert!(names.contains(&json!("Ann")) && names.contains(&json!("B")), "{names:?}");
}

#[tokio::test]
async fn a_new_row_that_breaks_a_unique_constraint_is_not_reported_as_existing() {
    let cluster = Cluster::with_shards(1);
    execute(&cluster.file(1), "CREATE UNIQUE INDEX mail ON users (email)");
    let body = user("A", "a@example.com");
    cluster.write("users", Insert, "a", &body).await.expect("stored");
    for op in [Insert, Upsert] {
        let failure =
            cluster.write("users", op, "b", &body).await.expect_err("the address is taken");
        assert_eq!(failure.error, Error::Constraint { rule: "unique" }, "{op:?}");
    }
}

#[tokio::test]
async fn small_changes_of_large_rows_do_not_make_one_large_entry_of_the_log() {
    let cluster = Cluster::with_shards(1);
    let note = "n".repeat(3 << 19);
    let orders = (0..20).map(|n| {
        let json = json!({"order_id": n.to_string(), "amount": 1, "note": note}).to_string();
        cluster.prepare("orders", Insert, "ada", &json)
    });
    assert!(cluster.write_all(orders.collect()).await.iter().all(|row| row.outcome.is_ok()));
    for operation in [Update, Delete] {
        let orders = (0..20).map(|n| {
            let json = match operation {
                Delete => json!({"order_id": n.to_string()}),
                Upsert | Insert | Update => json!({"order_id": n.to_string(), "status": "paid"}),
            };
            cluster.prepare("orders", operation, "ada", &json.to_string())
        });
        let done = cluster.write_all(orders.collect()).await;
        assert!(done.iter().all(|row| row.outcome.is_ok()), "{operation:?}");
    }
    let largest = "SELECT max(length(changes)) AS value FROM tessera_log";
    assert!(ints(&cluster.file(1), largest)[0] <= 16 << 20);
}

#[tokio::test]
async fn a_writer_accepts_an_empty_batch() {
    let cluster = Cluster::with_shards(1);
    let file = cluster.file(1);
    let _dir = cluster.stop();
    let history = TimelineHistory::new(vec![(1, 0)]).expect("a history");
    let replication = Arc::new(ReplicationState::new(history, 0, 0));
    let mut writer = SqliteWriter::open("shard1", &file, &replication).expect("the file opens");
    assert_eq!(
        writer.apply(&[]),
        Ok(BatchDone { rows: vec![], position: replication.timeline().position(0) })
    );
}

#[tokio::test]
async fn while_another_process_locks_the_file_writes_are_rejected_and_later_work_again() {
    let cluster = Cluster::with_shards(2);
    let body = user("A", "a@example.com");
    let on = |shard: u16| {
        let keys = (0..).map(|n| format!("u{n}"));
        let mut here =
            keys.filter(|key| cluster.prepare("users", Upsert, key, &body).0.shard.0 == shard);
        here.next().expect("a key of each shard")
    };
    let (held, free) = (on(0), on(1));
    cluster.write("users", Upsert, &held, &body).await.expect("stored");
    let mut other = connect(&cluster.file(1));
    other.batch_execute("BEGIN IMMEDIATE").expect("the lock");
    let changed = user("B", "a@example.com");
    let writes = [
        cluster.write("users", Upsert, &held, &changed),
        cluster.write("users", Upsert, &free, &changed),
    ];
    let [held_done, free_done] = <[_; 2]>::try_from(join_all(writes).await).expect("two answers");
    let failure = held_done.expect_err("the file is locked");
    assert_eq!((failure.error, failure.outcome), (unavailable(), Outcome::Rejected));
    assert!(free_done.is_ok(), "the other shard goes on");
    let rows = cluster.rows("users", Some(&held)).await;
    assert_eq!(rows[0]["name"], json!("A"), "reads go on, and nothing was stored");
    other.batch_execute("ROLLBACK").expect("the lock is given back");
    cluster.write("users", Upsert, &held, &changed).await.expect("works again");
    assert_eq!(cluster.rows("users", Some(&held)).await[0]["name"], json!("B"));
}

#[tokio::test]
async fn a_disk_that_fills_up_inside_a_transaction_is_reported_as_full() {
    let cluster = Cluster::with_shards(1);
    // Simulates a page that does not fit on the disk: SQLite reports the error and rolls back the
    // whole transaction.
    execute(
        &cluster.file(1),
        "CREATE TRIGGER no BEFORE INSERT ON users WHEN NEW.name = 'large'
         BEGIN SELECT RAISE(ROLLBACK, 'database or disk is full'); END",
    );
    let large = user("large", "e@example.com");
    let failure = cluster.write("users", Insert, "a", &large).await.expect_err("no room");
    let full = Error::StorageFull { shard: "shard1".into() };
    assert_eq!((failure.error, failure.outcome), (full, Outcome::Rejected));
    cluster
        .write("users", Insert, "a", &user("small", "e@example.com"))
        .await
        .expect("works again");
}

/// Runs an ignored test of this binary in a separate process, started by this program with these
/// arguments.
fn child(test: &str, dir: &Path, wrap: &[&str]) -> std::io::Result<Output> {
    let this = std::env::current_exe()?;
    let (program, arguments) = wrap.split_first().expect("a program");
    let mut command = Command::new(program);
    command.args(arguments).arg(this).args(["--exact", test, "--ignored", "--nocapture"]);
    command.env("TESSERA_TEST_DIR", dir).env("RUST_BACKTRACE", "0").output()
}

fn stderr_of(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

/// Directory that the parent process assigns to its child; `None` if all ignored tests are run by
/// hand.
fn dir_of_child() -> Option<PathBuf> {
    std::env::var_os("TESSERA_TEST_DIR").map(PathBuf::from)
}

/// Exit code of the shell that mounts, if this machine does not permit mounting.
const CANNOT_MOUNT: i32 = 77;

#[test]
fn a_full_disk_rejects_writes_keeps_what_was_stored_and_recovers() {
    on_small_disk("failures::inside_a_folder_of_20_mib");
}

#[test]
fn a_full_disk_rejects_new_tables_as_it_rejects_writes() {
    on_small_disk("failures::inside_a_folder_without_any_room");
}

/// Runs an ignored test of this binary on a disk of 20 MiB.
fn on_small_disk(test: &str) {
    let dir = tempfile::tempdir().expect("a folder for the test");
    let mount = format!(
        "mount -t tmpfs -o size=20m tessera '{}' || exit {CANNOT_MOUNT}; exec \"$@\"",
        dir.path().display()
    );
    let wrap = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", &mount, "sh"];
    let run = child(test, dir.path(), &wrap);
    let Ok(output) = run else {
        return skip(Prerequisite::Mount, "there is no unshare(1), so no small disk can be made");
    };
    let text = stderr_of(&output);
    if output.status.code() == Some(CANNOT_MOUNT) || text.contains("unshare:") {
        let reason = format!("this machine does not let a test mount a small disk: {text}");
        return skip(Prerequisite::Mount, &reason);
    }
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
}

#[tokio::test]
#[ignore = "run by a_full_disk_rejects_writes_keeps_what_was_stored_and_recovers"]
async fn inside_a_folder_of_20_mib() {
    let Some(dir) = dir_of_child() else { return };
    let ballast = dir.join("ballast");
    std::fs::write(&ballast, vec![0; 12 << 20]).expect("a ballast of 12 MiB");
    let manager = open(&dir.join("data"), with_replicas(1, 1)).expect("a new cluster starts");
    // Removed at once: only the folder of the parent is used.
    let cluster = Cluster { manager, source: None, dir: tempfile::tempdir().expect("a folder") };
    let body = json!({"value": "x".repeat(100_000)}).to_string();
    let mut stored = Vec::new();
    let failure = loop {
        let key = format!("k{:03}", stored.len());
        match cluster.write("kv", Insert, &key, &body).await {
            Ok(_) => stored.push(key),
            Err(failure) => break failure,
        }
        assert!(stored.len() < 100, "the disk is never full");
    };
    let full = Error::StorageFull { shard: "shard1".into() };
    assert_eq!((failure.error, failure.outcome), (full.clone(), Outcome::Rejected));
    assert!(stored.len() > 5, "{}", stored.len());
    let again = cluster.write("kv", Insert, "again", &body).await.expect_err("still full");
    assert_eq!((again.error, again.outcome), (full.clone(), Outcome::Rejected));
    // This row outgrows the page cache, so that the disk is full before the commit.
    let huge = json!({"value": "x".repeat(10 << 20)}).to_string();
    let failure = cluster.write("kv", Insert, "huge", &huge).await.expect_err("still full");
    assert_eq!((failure.error, failure.outcome), (full, Outcome::Rejected));
    assert_eq!(keys(&cluster).await, stored, "reads go on, and nothing is lost");
    std::fs::remove_file(&ballast).expect("room");
    cluster.write("kv", Insert, "later", r#"{"value":1}"#).await.expect("works again");
    cluster.write("kv", Delete, &stored[0], "{}").await.expect("works again");
    let (place, row) = cluster.prepare("kv", Delete, &stored[1], "{}");
    let all = RequestOptions { level: Level::All, ..options() };
    while cluster.manager.data(Rights::ALL).write(place, row.clone(), &all).await.is_err_and(
        |failure| {
            // The replica retries at growing intervals, and so confirms a little later.
            matches!(failure.error, Error::TooFewReplicas { .. })
        },
    ) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cluster.manager.close();
    let digest = |node: &str| digest(&dir.join(format!("data/shard1-{node}.db"))).expect("read");
    assert_eq!(digest("replica1"), digest("primary"), "it has caught up");
    drop(cluster);
    let manager = open(&dir.join("data"), ClusterSpec::default()).expect("starts again");
    let cluster = Cluster { manager, source: None, dir: tempfile::tempdir().expect("a folder") };
    stored.drain(..2);
    stored.push("later".to_owned());
    assert_eq!(keys(&cluster).await, stored);
}

#[tokio::test]
#[ignore = "run by a_full_disk_rejects_new_tables_as_it_rejects_writes"]
async fn inside_a_folder_without_any_room() {
    let Some(dir) = dir_of_child() else { return };
    // Without replicas nothing changes the files in the background.
    let manager = open(&dir.join("data"), with_replicas(1, 0)).expect("a new cluster starts");
    let cluster = Cluster { manager, source: None, dir: tempfile::tempdir().expect("a folder") };
    let ballast = dir.join("ballast");
    fill_up(&ballast);
    // SQLite cannot open the catalog without room for the files beside it.
    let full = Error::StorageFull { shard: "the catalog".into() };
    for _ in 0..2 {
        let made = make(&cluster, table("students")).await;
        assert_eq!(made, Err((full.clone(), Outcome::Rejected)));
    }
    std::fs::remove_file(&ballast).expect("room");
    make(&cluster, table("students")).await.expect("works again");
    cluster.manager.close();
}

/// Writes a file that takes the rest of a disk.
fn fill_up(path: &Path) {
    let mut file = std::fs::File::create(path).expect("a file");
    let full = (0..1 << 20).find_map(|_| file.write_all(&[0; 4096]).err());
    assert_eq!(full.expect("the disk is never full").kind(), std::io::ErrorKind::StorageFull);
}

async fn keys(cluster: &Cluster) -> Vec<String> {
    let kv = cluster.manager.schema(Rights::ALL).table("kv").expect("a table");
    let column = kv.find("key").expect("a column");
    let outputs = vec![shard_manager::query::Output { column, alias: None }];
    let query =
        shard_manager::query::ReadQuery { outputs, ..shard_manager::query::ReadQuery::all(&kv) };
    let all = RequestOptions { level: Level::All, ..options() };
    let read =
        cluster.manager.data(Rights::ALL).read(query, None, &all).await.expect("reads go on");
    let rows = format!("[{}]", std::str::from_utf8(read.rows.json()).expect("UTF-8"));
    let rows: Vec<serde_json::Value> = serde_json::from_str(&rows).expect("rows");
    let mut keys: Vec<String> =
        rows.iter().map(|row| row["key"].as_str().expect("text").to_owned()).collect();
    keys.sort();
    keys
}

/// Number of writes of the child, sent one after the other, each after the previous answer.
const DURABLE_WRITES: usize = 150;

#[test]
fn each_acknowledged_write_was_synced_to_the_disk() {
    let dir = tempfile::tempdir().expect("a folder for the test");
    let trace = dir.path().join("trace");
    let path = trace.to_string_lossy().into_owned();
    let wrap = ["strace", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-o", &path];
    let run = child("failures::inside_a_traced_process", dir.path(), &wrap);
    let Ok(output) = run else {
        return skip(Prerequisite::Strace, "there is no strace(1), which records the syncs");
    };
    let text = stderr_of(&output);
    if text.contains("PTRACE") || text.contains("ptrace") {
        let reason = format!("this machine does not let a test trace: {text}");
        return skip(Prerequisite::Strace, &reason);
    }
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
    let trace = std::fs::read_to_string(&trace).expect("a trace");
    let syncs = trace.lines().filter(|line| line.contains("sync")).count();
    assert!(syncs >= DURABLE_WRITES, "{syncs} syncs for {DURABLE_WRITES} durable writes");
}

#[tokio::test]
#[ignore = "run by each_acknowledged_write_was_synced_to_the_disk"]
async fn inside_a_traced_process() {
    let Some(dir) = dir_of_child() else { return };
    let manager = open(&dir.join("data"), with_replicas(1, 0)).expect("a new cluster starts");
    let cluster = Cluster { manager, source: None, dir: tempfile::tempdir().expect("a folder") };
    for n in 0..DURABLE_WRITES {
        let body = json!({"value": n}).to_string();
        cluster.write("kv", Upsert, "k", &body).await.expect("stored");
    }
}
