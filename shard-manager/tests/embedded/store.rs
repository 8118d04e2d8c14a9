//! Tests of a shard on real files, accessed through the manager and verified directly in the files.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value as Json, json};
use shard_manager::access::rights::Rights;
use shard_manager::error::{Error, Outcome};
use shard_manager::manager::RequestOptions;
use shard_manager::query::ReadQuery;
use shard_manager::row_change::{Change, Operation, RowError};
use shard_manager::topology::ShardNumber;
use shard_manager::value::Value;

use crate::cluster::{Cluster, deadline, execute, ints, log, options, texts};

use Operation::{Delete, Insert, Update, Upsert};

const ADA: &str = r#"{"user_id":"ada","name":"Ada","email":"ada@example.com"}"#;

fn parsed(json: &[u8]) -> Json {
    serde_json::from_slice(json).expect("a row is a JSON object")
}

#[tokio::test]
async fn each_operation_does_its_change_and_reports_the_result() {
    let cluster = Cluster::with_shards(1);
    let refused = async |op, json| {
        let failure = cluster.write("users", op, "ada", json).await.expect_err("refused");
        assert_eq!(failure.outcome, Outcome::Rejected);
        assert!(failure.place.is_some());
        failure.error
    };
    assert_eq!(refused(Update, r#"{"name":"A"}"#).await, Error::NoSuchRow);
    assert_eq!(refused(Delete, "{}").await, Error::NoSuchRow);
    let missing =
        Error::Row(RowError::MissingColumn { table: "users".into(), column: "email".into() });
    assert_eq!(refused(Insert, r#"{"name":"A"}"#).await, missing);
    assert_eq!(refused(Upsert, r#"{"name":"A"}"#).await, missing);
    assert_eq!(cluster.rows("users", None).await, Vec::<Json>::new());

    let made = cluster.write("users", Insert, "ada", ADA).await.expect("made").row;
    assert_eq!(made.change, Change::Created);
    assert_eq!(refused(Insert, ADA).await, Error::Exists);

    let set = r#"{"partition_key":"A","name":"Ada L."}"#;
    let changed = cluster.write("users", Upsert, "ada", set).await.expect("changed").row;
    assert_eq!(changed.change, Change::Changed);
    assert!(changed.version > made.version);
    let (before, after) = (parsed(&made.json), parsed(&changed.json));
    assert_eq!(after["created_at"], before["created_at"]);
    assert!(after["updated_at"].as_str() >= before["updated_at"].as_str());
    assert_eq!(after["version"], json!(changed.version));
    assert_eq!(
        [&after["name"], &after["email"], &after["partition_key"]],
        [&json!("Ada L."), &json!("ada@example.com"), &json!("A")],
        "columns that are not given are kept",
    );
    let unset = r#"{"partition_key":null}"#;
    let emptied = cluster.write("users", Update, "ada", unset).await.expect("changed").row;
    assert_eq!(parsed(&emptied.json)["partition_key"], Json::Null, "absent is not null");
    assert_eq!(cluster.rows("users", Some("ada")).await, [parsed(&emptied.json)]);

    let removed = cluster.write("users", Delete, "ada", "{}").await.expect("removed").row;
    assert_eq!(removed.change, Change::Removed);
    assert_eq!(parsed(&removed.json), parsed(&emptied.json), "as it was before");
    assert!(removed.version > emptied.version);
    assert_eq!(cluster.rows("users", None).await, Vec::<Json>::new());
}

#[tokio::test]
async fn a_restart_skips_no_version_even_after_a_batch_that_stored_nothing() {
    let cluster = Cluster::with_shards(1);
    let mut version = 0;
    for _ in 0..130 {
        version = cluster.write("users", Upsert, "ada", ADA).await.expect("stored").row.version;
    }
    cluster.write("users", Insert, "ada", ADA).await.expect_err("it exists");
    let cluster = cluster.restart_after(|_| {}).restart_after(|_| {});
    let next = cluster.write("users", Upsert, "ada", ADA).await.expect("stored").row.version;
    assert_eq!(next, version + 1);
}

#[tokio::test]
async fn an_answer_without_the_row_stores_and_logs_it_all_the_same() {
    let cluster = Cluster::with_shards(1);
    let (place, mut row) = cluster.prepare("users", Insert, "ada", ADA);
    row.wants_row = false;
    let written =
        cluster.manager.data(Rights::ALL).write(place, row, &options()).await.expect("made");
    assert!(written.row.json.is_empty());
    assert_eq!(written.receipt.place, place);
    let rows = cluster.rows("users", None).await;
    assert_eq!(rows[0]["name"], json!("Ada"));
    assert_eq!(log(&cluster.file(1))[0].1[0]["row"], rows[0]);
}

#[tokio::test]
async fn versions_only_grow_also_over_a_delete_an_insert_and_a_restart() {
    let mut cluster = Cluster::with_shards(1);
    let mut versions = Vec::new();
    for _ in 0..3 {
        for (op, json) in [(Insert, ADA), (Update, "{}"), (Delete, "{}")] {
            let written = cluster.write("users", op, "ada", json).await.expect("applied");
            versions.push(written.row.version);
        }
        // A refused write consumes no version.
        cluster.write("users", Delete, "ada", "{}").await.expect_err("gone already");
        cluster = cluster.restart_after(|_| {});
    }
    assert!(versions.windows(2).all(|pair| pair[0] < pair[1]), "{versions:?}");
    assert_eq!(versions.len(), 9);
}

#[tokio::test]
async fn rows_survive_a_restart_and_the_log_goes_on_where_it_stopped() {
    let cluster = Cluster::with_shards(2);
    for n in 0..20 {
        let row = format!(r#"{{"value":{{"n":{n}}}}}"#);
        cluster.write("kv", Upsert, &format!("k{n}"), &row).await.expect("stored");
    }
    let before = cluster.rows("kv", None).await;
    assert_eq!(before.len(), 20);
    let cluster = cluster.restart_after(|_| {});
    assert_eq!(cluster.rows("kv", None).await, before);
    let key = before[0]["key"].as_str().expect("a key").to_owned();
    let written = cluster.write("kv", Delete, &key, "{}").await.expect("removed");
    let shard = written.receipt.place.shard.index() + 1;
    let log = log(&cluster.file(shard));
    let positions: Vec<i64> = log.iter().map(|(position, _)| *position).collect();
    assert_eq!(
        positions,
        (1..=positions.len() as i64).collect::<Vec<_>>(),
        "no gap, no repetition"
    );
    let noted = ints(&cluster.file(shard), "SELECT position AS value FROM tessera_shard");
    assert_eq!(noted.last(), positions.last());
}

pub(crate) type Image = BTreeMap<(String, i64, String, String), Json>;

/// Applies each line of the log in order. Lines contain after-images only, without clock or
/// conditions.
pub(crate) fn replay(path: &Path) -> Image {
    let mut image = Image::new();
    for (_, lines) in log(path) {
        for line in lines {
            let table = line["table"].as_str().expect("a table").to_owned();
            let (row, removed) = (&line["row"], line["change"] == "removed");
            let id = if table == "kv" { &row["key"] } else { &row["order_id"] };
            let slot = line["slot"].as_i64().expect("a slot");
            let key = line["key"].as_str().expect("a key").to_owned();
            let address = (table, slot, key, id.to_string());
            if removed {
                assert!(image.remove(&address).is_some(), "only what is there is removed");
            } else {
                image.insert(address, row.clone());
            }
        }
    }
    image
}

/// Rows in the files of a shard, read without Tessera.
pub(crate) fn contents(path: &Path) -> Image {
    let address = |table: &str, id: &str| {
        format!(
            "SELECT json_array('{table}', slot, shard_key, {id}) AS value FROM {table} ORDER BY 1"
        )
    };
    let rows = |table: &str, columns: &str, id: &str| {
        let sql = format!(
            "SELECT json_object({columns}) AS value FROM {table} \
                           ORDER BY json_array('{table}', slot, shard_key, {id})"
        );
        texts(path, &sql).into_iter().zip(texts(path, &address(table, id))).collect::<Vec<_>>()
    };
    let own = "'version', version, 'created_at', created_at, 'updated_at', updated_at";
    let kv = rows("kv", &format!("'key', key, 'value', json(value), {own}"), "key");
    let columns = format!(
        "'order_id', order_id, 'user_id', user_id, 'amount', amount, 'status', status, 'note', note, {own}"
    );
    let orders = rows("orders", &columns, "order_id");
    let parsed = kv.into_iter().chain(orders).map(|(row, address)| {
        let (table, slot, key, id): (String, i64, String, String) =
            serde_json::from_str(&address).expect("an address");
        let row: Json = serde_json::from_str(&row).expect("a row");
        ((table, slot, key, Json::from(id).to_string()), row)
    });
    parsed.collect()
}

/// Random changes of few rows, so that they conflict: operation, table, key, id, amount or value.
fn changes() -> impl Strategy<Value = Vec<(Operation, bool, String, String, i64)>> {
    let operation = prop::sample::select(Operation::ALL.to_vec());
    let key = prop::sample::select(vec!["a", "b", "ключ", "🦀", "c d", "e'f\"g\\"]);
    let id = prop::sample::select(vec!["1", "2", "x\u{1}y"]);
    let change =
        (operation, any::<bool>(), key.prop_map(Into::into), id.prop_map(Into::into), any::<i64>());
    proptest::collection::vec(change, 400)
}

#[tokio::test]
async fn the_log_replays_to_the_same_rows_and_the_counts_are_exact() {
    let mut runner = TestRunner::new(crate::cases(1));
    let changes = changes().new_tree(&mut runner).expect("changes").current();
    let mut cluster = Cluster::with_shards(3);
    for (round, part) in changes.chunks(100).enumerate() {
        let rows = part.iter().map(|(op, kv, key, id, n)| {
            let json = match (kv, op) {
                (true, Delete) => "{}".to_owned(),
                (true, _) => json!({"value": [n, id]}).to_string(),
                (false, Delete) => json!({"order_id": id}).to_string(),
                (false, _) => json!({"order_id": id, "amount": n, "note": key}).to_string(),
            };
            cluster.prepare(if *kv { "kv" } else { "orders" }, *op, key, &json)
        });
        let done = cluster.write_all(rows.collect()).await;
        assert_eq!(done.len(), part.len());
        if round == 1 {
            cluster = cluster.restart_after(|_| {});
        }
    }
    let everywhere: Vec<ShardNumber> = (0..3).map(ShardNumber).collect();
    let mut total = 0;
    for report in cluster.manager.status().report(&everywhere, deadline()).await {
        let path = cluster.file(report.shard.index() + 1);
        let contents = contents(&path);
        assert_eq!(replay(&path), contents, "shard {:?}", report.shard);
        for size in report.tables.expect("the shard answers") {
            let rows = contents.keys().filter(|(table, ..)| *table == size.table).count();
            assert_eq!(size.rows, rows as i64, "{} of {:?}", size.table, report.shard);
            assert!(size.bytes > 0);
        }
        total += contents.len();
    }
    assert!(total > 5, "{total} rows are too few to show anything");
}

#[tokio::test]
async fn a_bulk_write_answers_each_row_and_keeps_the_order_of_each_key() {
    let cluster = Cluster::with_shards(3);
    let mut rows = Vec::new();
    for n in 0..3_500 {
        let json = json!({"value": n}).to_string();
        rows.push(cluster.prepare("kv", Upsert, &format!("k{}", n % 500), &json));
    }
    rows.push(cluster.prepare("kv", Insert, "k7", r#"{"value":"late"}"#));
    rows.push(cluster.prepare("kv", Delete, "k8", "{}"));
    rows.push(cluster.prepare("kv", Update, "k8", r#"{"value":"gone"}"#));
    let places: Vec<_> = rows.iter().map(|(place, _)| *place).collect();
    let mut done = cluster.write_all(rows).await;
    done.sort_by_key(|row| row.index);
    for (index, row) in done.iter().enumerate() {
        assert_eq!((row.index, row.place), (index, places[index]));
        let change = row.outcome.as_ref().map(|done| done.change).map_err(Clone::clone);
        let expected = match index {
            0..500 => Ok(Change::Created),
            500..3_500 => Ok(Change::Changed),
            3_500 => Err((Error::Exists, Outcome::Rejected)),
            3_501 => Ok(Change::Removed),
            _ => Err((Error::NoSuchRow, Outcome::Rejected)),
        };
        assert_eq!(change, expected, "row {index}");
    }
    let rows = cluster.rows("kv", None).await;
    assert_eq!(rows.len(), 499);
    for row in rows {
        let number: i64 = row["key"].as_str().expect("text")[1..].parse().expect("a number");
        assert_eq!(row["value"], json!(3_000 + number), "the last write of {} wins", row["key"]);
    }
}

#[tokio::test]
async fn concurrent_writes_of_one_row_are_all_applied_in_turn() {
    let cluster = Cluster::with_shards(1);
    let bodies: Vec<String> = (0..200).map(|n| json!({"value": n}).to_string()).collect();
    let writes = bodies.iter().map(|body| cluster.write("kv", Upsert, "hot", body));
    let done: Vec<_> = join_all(writes).await.into_iter().map(|w| w.expect("stored").row).collect();
    let mut versions: Vec<i64> = done.iter().map(|row| row.version).collect();
    versions.sort_unstable();
    versions.dedup();
    assert_eq!(versions.len(), 200, "each has a version of its own");
    assert_eq!(done.iter().filter(|row| row.change == Change::Created).count(), 1);
    let last = done.iter().max_by_key(|row| row.version).expect("a last one");
    assert_eq!(cluster.rows("kv", Some("hot")).await, [parsed(&last.json)]);
    let transactions = log(&cluster.file(1)).len();
    assert!(transactions < 200, "those that waited shared transactions: {transactions}");
}

#[tokio::test]
async fn a_write_to_a_slot_that_is_not_owned_here_is_rejected_and_stores_nothing() {
    let cluster = Cluster::with_shards(1);
    cluster.write("users", Insert, "ada", ADA).await.expect("stored");
    let slot = cluster.prepare("users", Update, "ada", "{}").0.slot;
    let position = "SELECT position AS value FROM tessera_shard";
    let before = ints(&cluster.file(1), position);
    // Long enough for a write that is tried; those that are refused wait so long.
    let patience = || RequestOptions::by(Instant::now() + Duration::from_secs(3));
    let states = [
        "UPDATE tessera_slots SET state='moved', moved_to='shard2'",
        "UPDATE tessera_slots SET state='importing'",
        "UPDATE tessera_slots SET state='fenced', until='9999-01-01T00:00:00.000000Z'",
        "DELETE FROM tessera_slots",
    ];
    for state in states {
        execute(&cluster.file(1), &format!("{state} WHERE slot={slot}"));
        let operations = [(Upsert, r#"{"name":"X"}"#), (Delete, "{}"), (Insert, ADA)];
        let refused = operations.map(async |(op, json)| {
            let (place, row) = cluster.prepare("users", op, "ada", json);
            let data = cluster.manager.data(Rights::ALL);
            let failure = data.write(place, row, &patience()).await.expect_err(state);
            assert!(matches!(failure.error, Error::SlotRefused(_)), "{failure}");
            assert_eq!(failure.outcome, Outcome::Rejected);
        });
        // Other slots of the same batch are not affected.
        let rows = vec![
            cluster.prepare("kv", Upsert, "other", r#"{"value":1}"#),
            cluster.prepare("users", Update, "ada", r#"{"name":"X"}"#),
        ];
        let (done, _) = join(cluster.write_all_by(rows, &patience()), join_all(refused)).await;
        assert!(done[0].outcome.is_ok());
        assert!(matches!(done[1].outcome, Err((Error::SlotRefused(_), Outcome::Rejected))));
    }
    assert_eq!(cluster.rows("users", Some("ada")).await[0]["name"], json!("Ada"));
    let after = ints(&cluster.file(1), position);
    assert_eq!(after[0], before[0] + 4, "only the other key's writes were logged");
    let expired = "INSERT INTO tessera_slots (slot, state, until) VALUES";
    let sql = format!("{expired} ({slot}, 'fenced', '2020-01-01T00:00:00.000000Z')");
    execute(&cluster.file(1), &sql);
    cluster.write("users", Update, "ada", r#"{"name":"X"}"#).await.expect("the fence is over");
}

#[tokio::test]
async fn a_closed_cluster_rejects_writes_and_reports_itself_down() {
    let cluster = Cluster::with_shards(1);
    assert!(cluster.manager.status().health(deadline()).await[0].nodes[0].up);
    cluster.manager.close();
    let failure = cluster.write("users", Insert, "ada", ADA).await.expect_err("closed");
    let gone = Error::ShardUnavailable { shard: "shard1".into() };
    assert_eq!((failure.error, failure.outcome), (gone, Outcome::Rejected));
    let health = cluster.manager.status().health(deadline()).await;
    assert_eq!(health[0].nodes[0].node, "shard1-primary");
    assert!(!health[0].nodes[0].up);
}

#[tokio::test]
async fn the_files_are_in_wal_mode_and_the_sqlite_that_is_linked_has_its_fix() {
    let cluster = Cluster::with_shards(1);
    cluster.write("users", Insert, "ada", ADA).await.expect("stored");
    let mode = "SELECT journal_mode AS value FROM pragma_journal_mode";
    assert_eq!(texts(&cluster.file(1), mode), ["wal"]);
    assert_eq!(texts(&cluster.dir.path().join("catalog.db"), mode), ["wal"]);
    let version = texts(&cluster.file(1), "SELECT sqlite_version() AS value");
    let parts: Vec<u32> =
        version[0].split('.').map(|part| part.parse().expect("a number")).collect();
    assert!(parts >= vec![3, 51, 3], "{version:?}");
    // After closing, the database file holds all rows and the WAL is empty.
    let dir = cluster.stop();
    let wal = dir.path().join("shard1-primary.db-wal");
    assert!(wal.metadata().map_or(0, |wal| wal.len()) == 0);
}

#[tokio::test]
async fn an_unknown_table_is_refused_with_a_suggestion() {
    let cluster = Cluster::with_shards(1);
    let reported =
        |name: &str| cluster.manager.schema(Rights::ALL).table(name).expect_err("no such table");
    let expected = Error::NoSuchTable { table: "user".into(), suggestion: Some("users".into()) };
    assert_eq!(reported("user"), expected);
    for name in ["", "tessera_log", "sqlite_schema", "users;", "USERS", "public.users"] {
        assert!(matches!(reported(name), Error::NoSuchTable { .. }), "{name}");
    }
}

#[tokio::test]
async fn an_answer_of_more_than_32_mib_is_refused_also_when_each_shard_sends_less() {
    let cluster = Cluster::with_shards(3);
    let rows = (0..36).map(|n| {
        let (place, mut row) = cluster.prepare("kv", Upsert, &format!("k{n}"), r#"{"value":0}"#);
        row.set[0].1 = Value::Text(format!("\"{}\"", "x".repeat(1 << 20)));
        (place, row)
    });
    let rows = rows.collect();
    let done = cluster.write_all(rows).await;
    assert!(done.iter().all(|row| row.outcome.is_ok()));
    let kv = cluster.manager.schema(Rights::ALL).table("kv").expect("a table");
    let few = ReadQuery { limit: 5, ..ReadQuery::all(&kv) };
    assert_eq!(cluster.try_read(few, None).await.expect("5 MiB").rows.len(), 5);
    let refused =
        cluster.try_read(ReadQuery::all(&kv), None).await.map(|read| read.rows.json().len());
    assert_eq!(refused.map_err(|failure| failure.error), Err(Error::AnswerTooLarge));
}
