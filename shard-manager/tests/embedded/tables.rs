//! Tests of tables: a table is created on every shard or on none, even if a step fails, and every
//! node that is read knows it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use shard_manager::access::rights::Rights;
use shard_manager::cache::ServedBy;
use shard_manager::consistency::Level;
use shard_manager::declaration::Declaration;
use shard_manager::engine::cluster_spec::ClusterSpec;
use shard_manager::engine::fault_injector::{NodeFault, NodeMode};
use shard_manager::engine::{SchemaChange, Writer};
use shard_manager::error::{Error, Outcome};
use shard_manager::manager::{Manager, RequestOptions, Schema, TableCreated};
use shard_manager::position::TimelineHistory;
use shard_manager::query::{Comparison, Condition, OrderBy, ReadQuery, Test};
use shard_manager::replication::ReplicationState;
use shard_manager::row_change::Operation::{Delete, Insert, Update, Upsert};
use shard_manager::store::sqlite::digest::digest;
use shard_manager::store::sqlite::intents::{IntentTable, State};
use shard_manager::store::sqlite::writer::SqliteWriter;
use shard_manager::table::{Column, Registry, Table};
use shard_manager::value::{ColumnType, Value};

use crate::cluster::{
    Cluster, deadline, execute, ints, open, options, refusal, shard_file, texts, with_replicas,
};
use crate::replicas::stop_when_replicas_have_caught_up;

pub(crate) fn column(name: &str, kind: ColumnType, nullable: bool) -> Column {
    Column { name: name.to_owned(), kind, nullable, default: None }
}

pub(crate) fn declaration(name: &str) -> Declaration {
    Declaration {
        name: name.to_owned(),
        columns: vec![
            column("id", ColumnType::Text, false),
            column("grade", ColumnType::Text, true),
        ],
        id: vec!["id".to_owned()],
        routing: Some("id".to_owned()),
    }
}

pub(crate) fn table(name: &str) -> Table {
    declaration(name).check().expect("a good table")
}

pub(crate) async fn make(
    cluster: &Cluster,
    table: Table,
) -> Result<TableCreated, (Error, Outcome)> {
    let made = schema(cluster).create_table(table, deadline()).await;
    made.map_err(|failure| (failure.error, failure.outcome))
}

fn catalog(dir: &Path) -> PathBuf {
    dir.join("catalog.db")
}

/// Returns access to tables without bounds.
fn schema(cluster: &Cluster) -> Schema<'_> {
    cluster.manager.schema(Rights::ALL)
}

/// Number of shards that have the table, as seen by an operator with a database shell.
fn shards_with(dir: &Path, count: usize, name: &str) -> usize {
    let sql = format!(
        "SELECT (SELECT count(*) FROM sqlite_schema WHERE name='{name}')
              + (SELECT count(*) FROM tessera_tables WHERE name='{name}')
              + (SELECT count(*) FROM tessera_counts WHERE name='{name}') AS value"
    );
    let parts = (1..=count).map(|shard| ints(&shard_file(dir, shard), &sql)[0]);
    let whole = parts.map(|found| match found {
        0 => 0,
        3 => 1,
        other => panic!("{name} is there in part: {other} of 3"),
    });
    whole.sum()
}

fn intents(dir: &Path) -> Vec<String> {
    texts(&catalog(dir), "SELECT name || ' ' || state AS value FROM tessera_intents ORDER BY name")
}

/// Asserts that every replica holds the same rows as its primary, in every table.
fn assert_replicas_equal(dir: &Path, count: usize) {
    for shard in 1..=count {
        let replica = dir.join(format!("shard{shard}-replica1.db"));
        let (primary, replica) = (digest(&shard_file(dir, shard)), digest(&replica));
        assert_eq!(replica.expect("read"), primary.expect("read"), "shard{shard}");
    }
}

#[tokio::test]
async fn a_table_is_created_on_every_shard_and_can_be_used_at_once() {
    let cluster = Cluster::with(with_replicas(3, 1));
    let made = make(&cluster, table("students")).await;
    assert_eq!(made, Ok(TableCreated::New(Arc::new(table("students")))));
    assert_eq!(shards_with(cluster.dir.path(), 3, "students"), 3);
    assert!(intents(cluster.dir.path()).is_empty());
    for n in 0..30 {
        let key = format!("s{n}");
        let grade = json!({"grade": if n % 2 == 0 { json!("A") } else { json!(null) }});
        cluster.write("students", Insert, &key, &grade.to_string()).await.expect("stored");
    }
    // From now on every node that answers has all of them.
    let all = RequestOptions { level: Level::All, ..options() };
    for n in 0..30 {
        let (place, row) = cluster.prepare("students", Upsert, &format!("s{n}"), "{}");
        cluster
            .manager
            .data(Rights::ALL)
            .write(place, row, &all)
            .await
            .expect("on the replicas too");
    }
    assert_eq!(served_by(&cluster, "students").await, (30, ServedBy::Replica));
    for (operation, key, json) in [(Update, "s1", r#"{"grade":"B"}"#), (Delete, "s0", "{}")] {
        let (place, row) = cluster.prepare("students", operation, key, json);
        cluster
            .manager
            .data(Rights::ALL)
            .write(place, row, &all)
            .await
            .expect("on the replicas too");
    }
    let students = schema(&cluster).table("students").expect("it is there");
    let grade = students.find("grade").expect("a column");
    let query = ReadQuery {
        conditions: vec![Condition::Column(
            grade,
            Test::Compare(Comparison::Equal, Value::Text("A".into())),
        )],
        order: vec![OrderBy { column: grade, descending: true }],
        ..ReadQuery::all(&students)
    };
    assert_eq!(cluster.read(query, None).await.len(), 14);
    let dir = stop_when_replicas_have_caught_up(cluster).await;
    assert_replicas_equal(dir.path(), 3);
    let manager = open(dir.path(), ClusterSpec::default()).expect("starts again");
    let cluster = Cluster { manager, source: None, dir };
    assert_eq!(cluster.rows("students", None).await.len(), 29);
    assert_eq!(
        make(&cluster, table("students")).await,
        Ok(TableCreated::Known(Arc::new(table("students"))))
    );
}

#[tokio::test]
async fn another_declaration_under_the_same_name_is_refused_with_the_difference() {
    let cluster = Cluster::with_shards(1);
    make(&cluster, table("students")).await.expect("made");
    let other = |change: fn(&mut Declaration)| {
        let mut other = declaration("students");
        change(&mut other);
        other.check().expect("a good table")
    };
    let cases: [(Table, &str); 8] = [
        (other(|t| t.columns.truncate(1)), "it has a column grade"),
        (
            other(|t| t.columns.push(column("age", ColumnType::Bigint, true))),
            "it has no column age",
        ),
        (other(|t| t.columns.reverse()), "its columns come in the order id, grade"),
        (other(|t| t.columns[1].kind = ColumnType::Json), "its column grade is text"),
        (other(|t| t.columns[1].nullable = false), "its column grade may be null"),
        (
            other(|t| {
                t.columns[1].nullable = false;
                t.id = vec!["grade".into()];
            }),
            "its column grade may be null",
        ),
        (other(|t| t.routing = None), "its routing column is id"),
        (other(|t| t.columns[0].kind = ColumnType::Uuid), "its column id is text"),
    ];
    for (table, expected) in cases {
        let (error, outcome) = make(&cluster, table).await.expect_err("refused");
        let Error::TableDiffers { table, difference } = error else { panic!("{error}") };
        assert_eq!((&*table, &*difference, outcome), ("students", expected, Outcome::Rejected));
    }
    let known = schema(&cluster).table("students").expect("it is there");
    assert_eq!(*known, table("students"), "and nothing has changed");
    let two = |id: &[&str]| {
        let columns =
            vec![column("a", ColumnType::Text, false), column("b", ColumnType::Text, false)];
        let id = id.iter().map(|name| (*name).to_owned()).collect();
        Declaration { name: "pairs".into(), columns, id, routing: None }.check().expect("good")
    };
    make(&cluster, two(&["a", "b"])).await.expect("made");
    let (error, _) = make(&cluster, two(&["b", "a"])).await.expect_err("refused");
    assert!(error.to_string().contains("its id is a, b"), "{error}");
}

#[tokio::test]
async fn of_many_concurrent_creators_of_a_table_one_succeeds() {
    let cluster = Cluster::with_shards(2);
    let shape = |n: usize| {
        let mut shape = declaration("races");
        shape.columns[1].nullable = n.is_multiple_of(2);
        shape.check().expect("a good table")
    };
    let done = join_all((0..16).map(|n| make(&cluster, shape(n)))).await;
    let new = done.iter().filter(|made| matches!(made, Ok(TableCreated::New(_)))).count();
    let known = done.iter().filter(|made| matches!(made, Ok(TableCreated::Known(_)))).count();
    let differ = done.iter().filter(|made| matches!(made, Err((Error::TableDiffers { .. }, _))));
    assert_eq!((new, known, differ.count()), (1, 7, 8));
    assert_eq!(shards_with(cluster.dir.path(), 2, "races"), 2);
}

/// Changes the tables of one file, as the lane of a router that then crashes would.
fn change(dir: &Path, shard: usize, change: &SchemaChange) {
    let file = shard_file(dir, shard);
    let position = ints(&file, "SELECT position AS value FROM tessera_shard")[0] as u64;
    let history = TimelineHistory::new(vec![(1, 0)]).expect("a history");
    let replication = Arc::new(ReplicationState::new(history, position, 0));
    let mut writer = SqliteWriter::open("a shard", &file, &replication).expect("it opens");
    writer.change_schema(change).expect("it is done");
    writer.close();
}

#[tokio::test]
async fn a_router_that_dies_at_any_step_leaves_the_table_on_all_shards_or_on_none() {
    for (state, reached) in
        [State::Make, State::Undo].into_iter().flat_map(|state| (0..=3).map(move |n| (state, n)))
    {
        let cluster = Cluster::with(with_replicas(3, 1));
        cluster.write("kv", Upsert, "k", r#"{"value":1}"#).await.expect("stored");
        let dir = cluster.stop();
        let students = table("students");
        let mut noted = IntentTable::open(&catalog(dir.path())).expect("the catalog");
        noted.note(&students).expect("noted");
        let all = SchemaChange::Make(Arc::new(students.clone()));
        match state {
            State::Make => (1..=reached).for_each(|shard| change(dir.path(), shard, &all)),
            State::Undo => {
                (1..=3).for_each(|shard| change(dir.path(), shard, &all));
                noted.turn_to_undo("students").expect("noted");
                let none = SchemaChange::Drop(Arc::new(students.clone()));
                (1..=reached).for_each(|shard| change(dir.path(), shard, &none));
            }
        }
        drop(noted);
        let manager = open(dir.path(), ClusterSpec::default()).expect("starts again");
        let cluster = Cluster { manager, source: None, dir };
        let expected = if state == State::Make { 3 } else { 0 };
        let at = format!("{state:?} after {reached} shards");
        assert_eq!(shards_with(cluster.dir.path(), 3, "students"), expected, "{at}");
        assert!(intents(cluster.dir.path()).is_empty(), "{at}");
        assert_eq!(schema(&cluster).table("students").is_ok(), expected == 3, "{at}");
        assert_eq!(cluster.rows("kv", Some("k")).await.len(), 1, "{at}");
        let made = make(&cluster, students).await.expect("now it can be made");
        assert_eq!(matches!(made, TableCreated::Known(_)), expected == 3, "{at}");
        cluster.write("students", Insert, "ada", "{}").await.expect("and used");
        let dir = stop_when_replicas_have_caught_up(cluster).await;
        assert_replicas_equal(dir.path(), 3);
    }
}

#[tokio::test]
async fn a_start_that_cannot_finish_a_table_is_refused_with_the_reason_and_leaves_no_trace() {
    let cluster = Cluster::with_shards(2);
    make(&cluster, table("students")).await.expect("made");
    let dir = cluster.stop();
    let mut other = declaration("students");
    other.columns[1].nullable = false;
    let mut noted = IntentTable::open(&catalog(dir.path())).expect("the catalog");
    noted.note(&other.check().expect("a good table")).expect("noted");
    let timelines =
        || ints(&shard_file(dir.path(), 1), "SELECT count(*) AS value FROM tessera_timelines");
    let before = timelines();
    for _ in 0..3 {
        let reported = refusal(dir.path(), ClusterSpec::default());
        assert!(
            reported.contains("students") && reported.contains("grade may be null"),
            "{reported}"
        );
    }
    assert_eq!((timelines(), intents(dir.path()).len()), (before, 1));
    noted.remove("students").expect("an operator with a shell");
    drop(noted);
    open(dir.path(), ClusterSpec::default()).expect("starts again");
}

#[tokio::test]
async fn a_shard_restored_from_before_a_table_was_created_gets_it_again() {
    let cluster = Cluster::with(with_replicas(3, 1));
    let (file, replica) = (cluster.file(2), cluster.dir.path().join("shard2-replica1.db"));
    let aside = cluster.dir.path().join("aside.db");
    let cluster = cluster.restart_after(|_| drop(std::fs::copy(&file, &aside)));
    make(&cluster, table("students")).await.expect("made");
    for n in 0..30 {
        cluster.write("students", Insert, &format!("s{n}"), "{}").await.expect("stored");
    }
    let cluster = cluster.restart_after(|_| {
        std::fs::rename(&aside, &file).expect("put back");
        std::fs::remove_file(&replica).expect("moved out");
    });
    assert_eq!(shards_with(cluster.dir.path(), 3, "students"), 3);
    let left = cluster.rows("students", None).await.len();
    assert!((1..30).contains(&left), "what the second shard had is gone, and nothing else: {left}");
    for n in 0..30 {
        cluster.write("students", Upsert, &format!("s{n}"), "{}").await.expect("stored");
    }
    assert_replicas_equal(stop_when_replicas_have_caught_up(cluster).await.path(), 3);
}

/// Simulates a page that does not fit on the disk: SQLite reports the error and rolls back the
/// whole transaction.
fn fill(file: &Path, event: &str) {
    execute(
        file,
        &format!(
            "CREATE TRIGGER full BEFORE {event} ON tessera_tables
             BEGIN SELECT RAISE(ROLLBACK, 'database or disk is full'); END"
        ),
    );
}

fn full(shard: usize) -> (Error, Outcome) {
    (Error::StorageFull { shard: format!("shard{shard}") }, Outcome::Rejected)
}

#[tokio::test]
async fn when_one_shard_is_full_the_table_is_created_on_none() {
    let cluster = Cluster::with(with_replicas(3, 1));
    fill(&cluster.file(2), "INSERT");
    assert_eq!(make(&cluster, table("students")).await, Err(full(2)));
    assert_eq!(shards_with(cluster.dir.path(), 3, "students"), 0);
    assert!(intents(cluster.dir.path()).is_empty());
    assert!(matches!(schema(&cluster).table("students"), Err(Error::NoSuchTable { .. })));
    cluster.write("kv", Upsert, "k", r#"{"value":1}"#).await.expect("the shards go on");
    execute(&cluster.file(2), "DROP TRIGGER full");
    make(&cluster, table("students")).await.expect("now there is room");
    assert_eq!(shards_with(cluster.dir.path(), 3, "students"), 3);
    assert_replicas_equal(stop_when_replicas_have_caught_up(cluster).await.path(), 3);
}

#[tokio::test]
async fn a_failed_undo_is_completed_by_the_next_start_or_change() {
    for by in ["undo_tables", "the same", "another shape", "a start"] {
        let cluster = Cluster::with_shards(3);
        fill(&cluster.file(2), "INSERT");
        fill(&cluster.file(3), "DELETE");
        assert_eq!(make(&cluster, table("students")).await, Err(full(2)));
        assert_eq!(intents(cluster.dir.path()), ["students undo"], "{by}");
        assert_eq!(shards_with(cluster.dir.path(), 3, "students"), 1, "{by}");
        assert!(schema(&cluster).table("students").is_err(), "it is not visible");
        let again = schema(&cluster).undo_tables(deadline()).await;
        assert_eq!(again, Err(full(3).0), "{by}");
        make(&cluster, table("others")).await.expect_err("the second shard is still full");
        for shard in [2, 3] {
            execute(&cluster.file(shard), "DROP TRIGGER full");
        }
        make(&cluster, table("pupils")).await.expect("another name is not held up");
        let cluster = match by {
            "undo_tables" => {
                schema(&cluster).undo_tables(deadline()).await.expect("undone");
                cluster
            }
            "a start" => cluster.restart_after(|_| {}),
            "the same" => {
                make(&cluster, table("students")).await.expect("undone, and made");
                cluster
            }
            _ => {
                let mut other = declaration("students");
                other.routing = None;
                make(&cluster, other.check().expect("good")).await.expect("undone, and made");
                cluster
            }
        };
        let expected = if matches!(by, "the same" | "another shape") { 3 } else { 0 };
        assert_eq!(shards_with(cluster.dir.path(), 3, "students"), expected, "{by}");
        assert!(!intents(cluster.dir.path()).contains(&"students undo".to_owned()), "{by}");
        assert_eq!(schema(&cluster).table("students").is_ok(), expected == 3, "{by}");
        cluster.restart_after(|_| {});
    }
}

#[tokio::test]
async fn a_shard_that_times_out_prevents_the_table_on_all_shards() {
    let cluster = Cluster::with_shards(3);
    let injector = cluster.manager.faults().node("shard2-primary").expect("a node");
    injector.set(NodeFault { mode: NodeMode::Paused, delay: Duration::ZERO });
    // A busy machine may begin nothing before the first deadline.
    for millis in [100, 1_000, 10_000] {
        let soon = Instant::now() + Duration::from_millis(millis);
        let created = schema(&cluster).create_table(table("students"), soon).await;
        let failure = created.expect_err("paused");
        assert_eq!((failure.error, failure.outcome), (Error::DeadlinePassed, Outcome::Rejected));
        if !intents(cluster.dir.path()).is_empty() {
            break;
        }
    }
    assert_eq!(intents(cluster.dir.path()), ["students undo"]);
    injector.set(NodeFault::default());
    schema(&cluster).undo_tables(deadline()).await.expect("undone");
    assert_eq!(shards_with(cluster.dir.path(), 3, "students"), 0);
    make(&cluster, table("students")).await.expect("made");
    cluster.restart_after(|_| {});
}

#[tokio::test]
async fn a_client_that_disconnects_leaves_no_half_created_table() {
    let cluster = Cluster::with_shards(3);
    let injector = cluster.manager.faults().node("shard2-primary").expect("a node");
    injector.set(NodeFault { mode: NodeMode::Paused, delay: Duration::ZERO });
    let gone = schema(&cluster).create_table(table("students"), deadline());
    let left = tokio::time::timeout(Duration::from_millis(100), gone).await;
    assert!(left.is_err(), "it waits for the second shard");
    injector.set(NodeFault::default());
    assert!(schema(&cluster).table("students").is_err(), "it is not visible");
    make(&cluster, table("students")).await.expect("the next one finishes it");
    assert_eq!(shards_with(cluster.dir.path(), 3, "students"), 3);
    assert!(intents(cluster.dir.path()).is_empty());
}

#[tokio::test]
async fn there_are_no_more_tables_than_there_may_be() {
    let cluster = Cluster::with_shards(1);
    let there = schema(&cluster).tables().tables().count();
    for n in there..Registry::TABLES_MAX {
        make(&cluster, table(&format!("t{n}"))).await.expect("there is room");
    }
    assert_eq!(
        make(&cluster, table("one_more")).await,
        Err((Error::TooManyTables, Outcome::Rejected))
    );
    make(&cluster, table("t100")).await.expect("those that are there are there");
    let cluster = cluster.restart_after(|_| {});
    assert_eq!(schema(&cluster).tables().tables().count(), Registry::TABLES_MAX);
    cluster.write("t255", Insert, "ada", "{}").await.expect("stored");
}

fn hold(manager: &Manager, node: &str, mode: NodeMode) {
    let injector = manager.faults().node(node).expect("the node is there");
    injector.set(NodeFault { mode, delay: Duration::ZERO });
}

async fn served_by(cluster: &Cluster, name: &str) -> (usize, ServedBy) {
    let table = schema(cluster).table(name).expect("it is there");
    let read = cluster.try_read(ReadQuery::all(&table), None).await.expect("it is read");
    (read.rows.len(), read.served_by)
}

#[tokio::test]
async fn a_replica_without_a_table_does_not_serve_it_even_after_a_restart() {
    let cluster = Cluster::with(with_replicas(1, 1));
    hold(&cluster.manager, "shard1-replica1", NodeMode::Paused);
    make(&cluster, table("students")).await.expect("made");
    assert_eq!(served_by(&cluster, "students").await, (0, ServedBy::Primary));
    cluster.write("students", Insert, "ada", "{}").await.expect("stored");
    assert_eq!(served_by(&cluster, "students").await, (1, ServedBy::Primary));
    hold(&cluster.manager, "shard1-replica1", NodeMode::Running);
    let all = RequestOptions { level: Level::All, ..options() };
    let (place, row) = cluster.prepare("students", Upsert, "bob", "{}");
    cluster
        .manager
        .data(Rights::ALL)
        .write(place, row, &all)
        .await
        .expect("the replica has it too");
    assert_eq!(served_by(&cluster, "students").await, (2, ServedBy::Replica));
    // Happens when a router crashes before its replica has caught up: at the next start the replica
    // does not have the table yet.
    let replica = cluster.dir.path().join("shard1-replica1.db");
    let aside = cluster.dir.path().join("aside.db");
    let cluster = cluster.restart_after(|_| drop(std::fs::copy(&replica, &aside)));
    make(&cluster, table("pupils")).await.expect("made");
    cluster.write("pupils", Insert, "ada", "{}").await.expect("stored");
    let cluster = cluster.restart_after(|_| drop(std::fs::copy(&aside, &replica)));
    for _ in 0..20 {
        assert_eq!(served_by(&cluster, "pupils").await.0, 1, "the node that answers knows it");
    }
    assert_replicas_equal(stop_when_replicas_have_caught_up(cluster).await.path(), 1);
}

#[tokio::test]
async fn a_rebuilt_replica_knows_all_tables_and_those_created_later() {
    let cluster = Cluster::with(with_replicas(2, 1));
    make(&cluster, table("students")).await.expect("made");
    cluster.write("students", Insert, "ada", "{}").await.expect("stored");
    let cluster = cluster.restart_after(|dir| {
        for shard in 1..=2 {
            std::fs::remove_file(dir.join(format!("shard{shard}-replica1.db"))).expect("a loss");
        }
    });
    make(&cluster, table("pupils")).await.expect("made");
    for name in ["students", "pupils"] {
        cluster.write(name, Upsert, "bob", r#"{"grade":"A"}"#).await.expect("stored");
    }
    assert_replicas_equal(stop_when_replicas_have_caught_up(cluster).await.path(), 2);
}
