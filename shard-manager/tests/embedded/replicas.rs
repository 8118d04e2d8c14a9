//! Tests of replicas in a running cluster: which node answers, what is never shown, and what
//! happens to lost and foreign files.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;
use shard_manager::access::rights::Rights;
use shard_manager::cache::ServedBy;
use shard_manager::consistency::Level;
use shard_manager::engine::cluster_spec::ClusterSpec;
use shard_manager::engine::fault_injector::{NodeFault, NodeMode};
use shard_manager::error::{Error, Failure, Outcome};
use shard_manager::keyspace::ShardKey;
use shard_manager::manager::{Manager, ReadDone, RequestOptions};
use shard_manager::query::ReadQuery;
use shard_manager::row_change::Operation::Upsert;
use shard_manager::store::sqlite::digest::digest;
use shard_manager::token::SessionToken;
use shard_manager::topology::ShardNumber;

use crate::cluster::{Cluster, deadline, execute, open, options, refusal, with_replicas};

fn replica_file(dir: &Path, shard: usize, replica: usize) -> PathBuf {
    dir.join(format!("shard{shard}-replica{replica}.db"))
}

fn hold(manager: &Manager, node: &str, mode: NodeMode) {
    let injector = manager.faults().node(node).expect("the node is there");
    injector.set(NodeFault { mode, delay: Duration::ZERO });
}

fn user(n: i64) -> String {
    json!({"name": n.to_string(), "email": "a@example.com"}).to_string()
}

/// Writes the row of a key; returns the client's session token.
async fn write(cluster: &Cluster, key: &str, n: i64, options: &RequestOptions) -> SessionToken {
    let (place, row) = cluster.prepare("users", Upsert, key, &user(n));
    let written =
        cluster.manager.data(Rights::ALL).write(place, row, options).await.expect("it is stored");
    let mut session = options.session.clone();
    cluster.manager.sessions().extend(&mut session, place.shard, written.receipt.position);
    session
}

async fn try_read(
    cluster: &Cluster,
    key: &str,
    options: &RequestOptions,
) -> Result<ReadDone, Error> {
    let table = cluster.manager.schema(Rights::ALL).table("users").expect("it is there");
    let key = ShardKey::parse(key).expect("a key");
    let read =
        cluster.manager.data(Rights::ALL).read(ReadQuery::all(&table), Some(key), options).await;
    read.map_err(|failure| failure.error)
}

/// The number in a key's row, if the row exists, and the node that answered.
async fn read(cluster: &Cluster, key: &str, options: &RequestOptions) -> (Option<i64>, ServedBy) {
    let read = try_read(cluster, key, options).await.expect("it is read");
    (number(&read), read.served_by)
}

fn number(read: &ReadDone) -> Option<i64> {
    let rows = format!("[{}]", std::str::from_utf8(read.rows.json()).expect("UTF-8"));
    let rows: Vec<serde_json::Value> = serde_json::from_str(&rows).expect("rows");
    rows.first().map(|row| row["name"].as_str().expect("text").parse().expect("a number"))
}

fn at(level: Level) -> RequestOptions {
    RequestOptions { level, ..options() }
}

fn with(session: &SessionToken) -> RequestOptions {
    RequestOptions { session: session.clone(), ..options() }
}

/// Waits until every replica has caught up.
async fn caught_up(cluster: &Cluster) {
    while cluster
        .manager
        .status()
        .health(deadline())
        .await
        .iter()
        .any(|shard| shard.nodes.iter().any(|node| !node.up || node.lag != Some(Duration::ZERO)))
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Stops a cluster once every replica has caught up. A stop waits for replicas too, but not for
/// long.
pub(crate) async fn stop_when_replicas_have_caught_up(cluster: Cluster) -> tempfile::TempDir {
    caught_up(&cluster).await;
    cluster.stop()
}

#[tokio::test]
async fn a_client_sees_its_own_writes_while_all_replicas_are_paused() {
    let cluster = Cluster::with(with_replicas(1, 2));
    let first = write(&cluster, "ada", 1, &at(Level::All)).await;
    assert_eq!(read(&cluster, "ada", &with(&first)).await, (Some(1), ServedBy::Replica));
    for node in ["shard1-replica1", "shard1-replica2"] {
        hold(&cluster.manager, node, NodeMode::Paused);
    }
    let second = write(&cluster, "ada", 2, &with(&first)).await;
    assert_eq!(
        read(&cluster, "ada", &options()).await,
        (Some(1), ServedBy::Replica),
        "no promise, no wait"
    );
    assert_eq!(read(&cluster, "ada", &with(&first)).await, (Some(1), ServedBy::Replica));
    assert_eq!(read(&cluster, "ada", &with(&second)).await, (Some(2), ServedBy::Primary));
    for level in [Level::Quorum, Level::All] {
        assert_eq!(read(&cluster, "ada", &at(level)).await, (Some(2), ServedBy::Primary));
    }
    hold(&cluster.manager, "shard1-replica2", NodeMode::Running);
    caught_up_one(&cluster, "shard1-replica2").await;
    for _ in 0..10 {
        assert_eq!(read(&cluster, "ada", &with(&second)).await, (Some(2), ServedBy::Replica));
        assert_eq!(read(&cluster, "ada", &at(Level::Quorum)).await, (Some(2), ServedBy::Replica));
        assert_eq!(read(&cluster, "ada", &at(Level::All)).await, (Some(2), ServedBy::Primary));
    }
}

async fn caught_up_one(cluster: &Cluster, name: &str) {
    loop {
        let health = cluster.manager.status().health(deadline()).await;
        let mut nodes = health.iter().flat_map(|shard| &shard.nodes);
        if nodes.any(|node| node.node == name && node.up && node.lag == Some(Duration::ZERO)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn reads_of_all_shards_never_show_older_rows_than_before() {
    let cluster = Cluster::with(with_replicas(3, 1));
    for n in 1..=3 {
        hold(&cluster.manager, &format!("shard{n}-replica1"), NodeMode::Paused);
    }
    for n in 0..30 {
        write(&cluster, &format!("u{n}"), n, &options()).await;
    }
    let table = cluster.manager.schema(Rights::ALL).table("users").expect("it is there");
    let all = async |options: &RequestOptions| {
        let read = cluster
            .manager
            .data(Rights::ALL)
            .read(ReadQuery::all(&table), None, options)
            .await
            .expect("read");
        (read.rows.len(), read.served_by, read.session)
    };
    let (rows, role, _) = all(&options()).await;
    assert_eq!((rows, role), (0, ServedBy::Replica), "they stand still");
    let (rows, role, seen) = all(&at(Level::All)).await;
    assert_eq!((rows, role), (30, ServedBy::Primary));
    let (rows, role, again) = all(&with(&seen)).await;
    assert_eq!((rows, role), (30, ServedBy::Primary), "a read is remembered as a write is");
    assert_eq!(again, seen);
    for n in 0..3 {
        assert!(seen.seen(ShardNumber(n)).is_some(), "shard {n}");
    }
}

#[tokio::test]
async fn a_read_may_limit_the_staleness_of_its_node() {
    let cluster = Cluster::with(with_replicas(1, 1));
    write(&cluster, "ada", 1, &at(Level::All)).await;
    let current = |staleness| RequestOptions { staleness, ..options() };
    let now = current(Duration::ZERO);
    assert_eq!(
        read(&cluster, "ada", &now).await,
        (Some(1), ServedBy::Replica),
        "it has everything"
    );
    hold(&cluster.manager, "shard1-replica1", NodeMode::Paused);
    write(&cluster, "ada", 2, &options()).await;
    assert_eq!(read(&cluster, "ada", &now).await, (Some(2), ServedBy::Primary));
    let long = current(Duration::from_secs(9));
    assert_eq!(read(&cluster, "ada", &long).await, (Some(1), ServedBy::Replica));
}

#[tokio::test]
async fn a_write_that_too_few_replicas_can_confirm_is_refused_before_it_is_stored() {
    let cluster = Cluster::with(with_replicas(1, 2));
    hold(&cluster.manager, "shard1-replica1", NodeMode::Cut);
    cut(&cluster, 1).await;
    write(&cluster, "ada", 1, &at(Level::Quorum)).await;
    let (place, row) = cluster.prepare("users", Upsert, "ada", &user(2));
    let refused =
        cluster.manager.data(Rights::ALL).write(place, row.clone(), &at(Level::All)).await;
    let refused = refused.expect_err("one is cut");
    assert_eq!(refused.outcome, Outcome::Rejected);
    let shard = "shard1".to_owned();
    let error = Error::TooFewReplicas { shard, level: Level::All, needed: 2, found: 1 };
    assert_eq!(refused.error, error);
    assert_eq!(read(&cluster, "ada", &at(Level::All)).await.0, Some(1));
    hold(&cluster.manager, "shard1-replica1", NodeMode::Running);
    caught_up(&cluster).await;
    cluster
        .manager
        .data(Rights::ALL)
        .write(place, row, &at(Level::All))
        .await
        .expect("both are back");
}

/// Waits until this many replicas of the first shard are unavailable.
async fn cut(cluster: &Cluster, count: usize) {
    while cluster.manager.status().health(deadline()).await[0]
        .nodes
        .iter()
        .filter(|node| !node.up)
        .count()
        != count
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Writes at level `all` while replicas stand still, until the row is stored and the others confirm
/// it before the deadline. On a busy machine, that needs a later one.
async fn unconfirmed(cluster: &Cluster, n: i64, confirmed: Level) -> Failure {
    for millis in [150, 1_500, 15_000] {
        let (place, row) = cluster.prepare("users", Upsert, "ada", &user(n));
        let soon = Instant::now() + Duration::from_millis(millis);
        let options = RequestOptions { deadline: soon, ..at(Level::All) };
        let written = cluster.manager.data(Rights::ALL).write(place, row, &options).await;
        let failed = written.expect_err("one stands still");
        let is_late = if let Error::NotConfirmed { achieved, .. } = &failed.error {
            *achieved < confirmed
        } else {
            matches!(failed.error, Error::DeadlinePassed | Error::WritesStalled { .. })
        };
        if !is_late || millis == 15_000 {
            return failed;
        }
    }
    unreachable!("the last deadline returns")
}

#[tokio::test]
async fn a_write_that_replicas_do_not_confirm_reports_its_real_outcome() {
    let cluster = Cluster::with(with_replicas(1, 2));
    hold(&cluster.manager, "shard1-replica2", NodeMode::Paused);
    let failed = unconfirmed(&cluster, 1, Level::Quorum).await;
    assert_eq!(failed.outcome, Outcome::Committed);
    let Error::NotConfirmed { requested, achieved, .. } = failed.error else {
        panic!("{:?}", failed.error);
    };
    assert_eq!((requested, achieved), (Level::All, Level::Quorum));
    let mut session = SessionToken::empty();
    session.see(ShardNumber(0), failed.seen.expect("it is stored"));
    assert_eq!(read(&cluster, "ada", &with(&session)).await.0, Some(1), "it is stored");
    hold(&cluster.manager, "shard1-replica1", NodeMode::Paused);
    let failed = unconfirmed(&cluster, 2, Level::One).await;
    assert!(matches!(failed.error, Error::NotConfirmed { achieved: Level::One, .. }));
}

#[tokio::test]
async fn replicas_resume_where_they_stopped_and_finally_equal_their_primaries() {
    let mut cluster = Cluster::with(with_replicas(2, 1));
    for round in 0..4 {
        hold(&cluster.manager, "shard1-replica1", NodeMode::Paused);
        for n in 0..50 {
            write(&cluster, &format!("u{n}"), round * 100 + n, &options()).await;
        }
        cluster = cluster.restart_after(|_| {});
    }
    caught_up(&cluster).await;
    assert_equal(&cluster, 2, 1);
}

fn assert_equal(cluster: &Cluster, shards: usize, replicas: usize) {
    for shard in 1..=shards {
        let primary = digest(&cluster.file(shard)).expect("read");
        for replica in 1..=replicas {
            let file = replica_file(cluster.dir.path(), shard, replica);
            assert_eq!(digest(&file).expect("read"), primary, "{}", file.display());
        }
    }
}

#[tokio::test]
async fn a_lost_or_damaged_replica_is_rebuilt_and_others_are_kept() {
    let cluster = Cluster::with(with_replicas(3, 1));
    for n in 0..60 {
        write(&cluster, &format!("u{n}"), n, &options()).await;
    }
    let cluster = cluster.restart_after(|dir| {
        std::fs::remove_file(replica_file(dir, 1, 1)).expect("it was there");
        std::fs::write(
            replica_file(dir, 2, 1),
            "this is not a database, and long enough to be read",
        )
        .expect("written");
    });
    caught_up(&cluster).await;
    assert_equal(&cluster, 3, 1);
}

#[tokio::test]
async fn a_replica_that_becomes_unreadable_leaves_the_rotation_and_is_rebuilt() {
    let cluster = Cluster::with(with_replicas(1, 1));
    for n in 0..300 {
        write(&cluster, &format!("u{n}"), n, &at(Level::All)).await;
    }
    let file = replica_file(cluster.dir.path(), 1, 1);
    let cluster = cluster.restart_after(|_| ruin_pages(&file));
    for n in 0..300 {
        let (found, _) = read(&cluster, &format!("u{n}"), &options()).await;
        assert_eq!(found, Some(n), "from the primary, if the replica cannot");
    }
    caught_up(&cluster).await;
    assert_equal(&cluster, 1, 1);
}

#[tokio::test]
async fn after_an_unclean_stop_damage_is_found_without_reads() {
    let cluster = Cluster::with(with_replicas(2, 1));
    for n in 0..300 {
        write(&cluster, &format!("u{n}"), n, &at(Level::All)).await;
    }
    let (primary, replica) = (cluster.file(1), replica_file(cluster.dir.path(), 2, 1));
    let cluster = cluster.restart_after(|dir| {
        ruin_pages(&primary);
        ruin_pages(&replica);
        // The state that a killed process leaves behind.
        std::fs::write(dir.join("tessera.lock"), "4711").expect("written");
    });
    while cluster.manager.status().health(deadline()).await[0].nodes[0].up {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let whole = digest(&cluster.file(2)).expect("read");
    while digest(&replica).map_or(true, |digest| digest.tables != whole.tables) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    caught_up_one(&cluster, "shard2-replica1").await;
}

#[tokio::test]
async fn a_replica_whose_file_is_removed_while_it_runs_is_rebuilt() {
    let cluster = Cluster::with(with_replicas(1, 1));
    write(&cluster, "ada", 1, &at(Level::All)).await;
    let file = replica_file(cluster.dir.path(), 1, 1);
    std::fs::remove_file(&file).expect("it was there");
    while !file.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    caught_up(&cluster).await;
    write(&cluster, "ada", 2, &at(Level::All)).await;
    assert_equal(&cluster, 1, 1);
}

/// Overwrites every page but the first two with garbage: the schema is readable, the rows are not.
fn ruin_pages(file: &Path) {
    let mut bytes = std::fs::read(file).expect("read");
    let users = crate::cluster::ints(
        file,
        "SELECT rootpage AS value FROM sqlite_schema WHERE name='users'",
    );
    let page = 4096 * (users[0] as usize - 1);
    bytes[page..page + 4096].fill(0xa5);
    std::fs::write(file, bytes).expect("written");
}

#[tokio::test]
async fn replicas_may_become_more_and_fewer_at_any_start() {
    let cluster = Cluster::with(with_replicas(1, 0));
    write(&cluster, "ada", 1, &at(Level::All)).await;
    let dir = cluster.stop();
    for replicas in [3, 1, 2] {
        let manager = open(dir.path(), with_replicas(1, replicas)).expect("it starts");
        assert_eq!(manager.status().replicas(), replicas);
        manager.close();
    }
    let manager = open(dir.path(), ClusterSpec::default()).expect("it starts");
    assert_eq!(manager.status().replicas(), 2, "it keeps its settings");
}

#[tokio::test]
async fn a_primary_restored_from_an_older_copy_starts_a_new_timeline() {
    let cluster = Cluster::with(with_replicas(1, 1));
    let old = write(&cluster, "ada", 1, &at(Level::All)).await;
    let cluster = cluster.restart_after(|dir| {
        std::fs::copy(dir.join("shard1-primary.db"), dir.join("backup")).expect("copied");
    });
    let lost =
        write(&cluster, "ada", 2, &RequestOptions { session: old.clone(), ..at(Level::All) }).await;
    let dir = cluster.stop();
    std::fs::copy(dir.path().join("backup"), dir.path().join("shard1-primary.db")).expect("copied");
    let reported = refusal(dir.path(), ClusterSpec::default());
    for word in ["shard1-replica1.db", "changes that the primary lacks", "older copy"] {
        assert!(reported.contains(word), "{reported}");
    }
    // The operator continues without the writes since then.
    std::fs::remove_file(replica_file(dir.path(), 1, 1)).expect("removed");
    let manager = open(dir.path(), ClusterSpec::default()).expect("it starts");
    let cluster = Cluster { manager, source: None, dir };
    for n in 10..20 {
        write(&cluster, "ada", n, &at(Level::All)).await;
    }
    assert_eq!(read(&cluster, "ada", &with(&old)).await.0, Some(19), "its past is still there");
    let reported = try_read(&cluster, "ada", &with(&lost)).await.expect_err("its past is gone");
    assert_eq!(reported, Error::SeenMayBeLost { shard: "shard1".into() });
    let session = write(&cluster, "ada", 20, &with(&lost)).await;
    let reported =
        try_read(&cluster, "ada", &with(&session)).await.expect_err("a write hides it not");
    assert_eq!(reported, Error::SeenMayBeLost { shard: "shard1".into() });
}

#[tokio::test]
async fn a_replica_that_replaces_a_lost_primary_has_all_writes_confirmed_by_a_quorum() {
    let cluster = Cluster::with(with_replicas(1, 1));
    let mut session = SessionToken::empty();
    for n in 0..40 {
        let options = RequestOptions { session: session.clone(), ..at(Level::Quorum) };
        session = write(&cluster, &format!("u{n}"), n, &options).await;
    }
    let cluster = cluster.restart_after(|dir| {
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(dir.join(format!("shard1-primary.db{suffix}")));
        }
        std::fs::copy(replica_file(dir, 1, 1), dir.join("shard1-primary.db")).expect("copied");
    });
    for n in 0..40 {
        assert_eq!(read(&cluster, &format!("u{n}"), &with(&session)).await.0, Some(n));
    }
    let (place, row) = cluster.prepare("users", Upsert, "u1", &user(99));
    let written =
        cluster.manager.data(Rights::ALL).write(place, row, &at(Level::All)).await.expect("stored");
    assert!(written.row.version > 1 << 32, "the lost primary may have given versions of its own");
    assert_equal(&cluster, 1, 1);
}

#[tokio::test]
async fn a_file_of_another_shard_is_not_taken_for_a_replica() {
    let cluster = Cluster::with(with_replicas(2, 1));
    let dir = cluster.stop();
    let (one, two) = (replica_file(dir.path(), 1, 1), replica_file(dir.path(), 2, 1));
    std::fs::copy(two, &one).expect("copied");
    let reported = refusal(dir.path(), ClusterSpec::default());
    assert!(reported.contains("shard1-replica1.db") && reported.contains("shard2"), "{reported}");
    // The refusal leaves all files as they were.
    execute(&dir.path().join("shard1-primary.db"), "SELECT 1");
}
