//! Property tests of reads: random reads of random rows, on one shard and on several, compared with
//! an evaluation in memory.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{TestCaseError, TestRunner};
use serde_json::{Value as Json, json};
use shard_manager::access::rights::Rights;
use shard_manager::keyspace::ShardKey;
use shard_manager::manager::ReadDone;
use shard_manager::query::{Comparison, Condition, OrderBy, Output, ReadQuery, Test};
use shard_manager::row_change::Operation::Insert;
use shard_manager::table::Table;
use shard_manager::value::{ColumnType, Value};

use crate::cluster::{Cluster, execute, shard_file};
use crate::evaluation::{self, truth};
use crate::values::plainly;

/// A table with a column of each type, created as an operator would.
const THINGS: &str = r#"
    CREATE TABLE things (slot INTEGER NOT NULL, shard_key TEXT NOT NULL, id TEXT NOT NULL,
        owner TEXT NOT NULL, word TEXT, n INTEGER, x REAL, flag INTEGER, at TEXT, u TEXT, doc TEXT,
        version INTEGER NOT NULL, created_at TEXT NOT NULL, updated_at TEXT NOT NULL,
        PRIMARY KEY (slot, shard_key, id)) STRICT, WITHOUT ROWID;
    INSERT INTO tessera_counts VALUES ('things', 0);
    INSERT INTO tessera_tables (name, column_list, id, routing) VALUES ('things', '[{"name":"id","type":"text","null":false},
        {"name":"owner","type":"text","null":false},{"name":"word","type":"text","null":true},
        {"name":"n","type":"bigint","null":true},{"name":"x","type":"double","null":true},
        {"name":"flag","type":"boolean","null":true},{"name":"at","type":"timestamp","null":true},
        {"name":"u","type":"uuid","null":true},{"name":"doc","type":"json","null":true}]',
        '["id"]', 'owner')"#;

/// Index of `id`, `owner`, the six columns that can be compared, and `doc`; slot and shard key are
/// 0 and 1.
const ID: usize = 2;
const OWNER: usize = 3;
const FIRST: usize = 4;
const X: usize = 6;
const DOC: usize = 10;

/// A row in memory: its values by column, slot and shard key included, up to `doc`.
type Line = Vec<Value>;

fn cluster(shards: usize) -> Cluster {
    let made = Cluster::with_shards(shards);
    made.restart_after(|dir: &Path| {
        (1..=shards).for_each(|shard| execute(&shard_file(dir, shard), THINGS));
    })
}

fn or_null(values: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    prop_oneof![1 => Just(Value::Null), 4 => values]
}

fn pick(texts: &'static [&'static str]) -> impl Strategy<Value = Value> {
    prop::sample::select(texts.to_vec()).prop_map(|text| Value::Text(text.to_owned()))
}

/// A value of a column, drawn from few so that rows match: empty and large ones, and ones that SQL
/// or JSON might misread.
fn value(column: usize) -> BoxedStrategy<Value> {
    const EDGE: i64 = 1 << 53;
    let ints = vec![i64::MIN, i64::MAX, -1, 0, 1, 7, EDGE, EDGE + 1, -EDGE - 1, i64::MAX - 1];
    let doubles =
        vec![0.0, -1.5, 0.1, 0.1 + 0.2, 1e308, 5e-324, f64::MAX, 1e22, 1.0 / 3.0, -1e-7, 2e15];
    match column {
        4 => pick(&[
            "", "a", "A", "b", "é", "e\u{301}", "🦀", "\u{ffff}", "null", "%", "'", "a\"b\\",
            "\u{1}\n",
        ])
        .boxed(),
        5 => prop::sample::select(ints).prop_map(Value::Int).boxed(),
        X => prop::sample::select(doubles).prop_map(Value::Double).boxed(),
        7 => any::<bool>().prop_map(Value::Bool).boxed(),
        8 => pick(&[
            "0001-01-01T00:00:00.000000Z",
            "2026-11-21T10:00:00.000001Z",
            "9999-12-31T23:59:59.999999Z",
        ])
        .boxed(),
        9 => {
            pick(&["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"])
                .boxed()
        }
        DOC => {
            pick(&["{}", "[1,2.50]", r#"{"a":"\u00e9 \"","b":null}"#, "\"text\"", "false"]).boxed()
        }
        _ => pick(&["a", "b", "ключ", "🦀", "c d", "'", "nobody"]).boxed(),
    }
}

fn line() -> impl Strategy<Value = Line> {
    let columns = (FIRST..=DOC).map(|column| or_null(value(column)).boxed()).collect::<Vec<_>>();
    (value(OWNER), columns).prop_map(|(owner, columns)| {
        let head = [Value::Null, owner.clone(), Value::Null, owner];
        head.into_iter().chain(columns).collect()
    })
}

/// A literal for a column, except the slot: rows have slots of their own, so the caller replaces
/// those literals.
fn literal(column: usize) -> BoxedStrategy<Value> {
    match column {
        0 => (0..16_384_i64).prop_map(Value::Int).boxed(),
        ID => (0..140_u32).prop_map(|n| Value::Text(format!("{n:03}"))).boxed(),
        _ => value(column),
    }
}

fn condition() -> impl Strategy<Value = Condition> {
    let is_text = |column| matches!(column, 1 | ID | OWNER | FIRST);
    let columns = (0..DOC).map(|column| (column, literal(column), is_text(column), column == 7));
    evaluation::condition(columns.collect())
}

fn equal(column: usize, value: Value) -> Condition {
    Condition::Column(column, Test::Compare(Comparison::Equal, value))
}

/// All of a query but its table; the limit comes with the offset.
type QueryParts = (Vec<Condition>, Vec<OrderBy>, Vec<Output>, (u32, u32), Option<Value>);

fn query_parts() -> impl Strategy<Value = QueryParts> {
    let order =
        (0..DOC, any::<bool>()).prop_map(|(column, descending)| OrderBy { column, descending });
    let order = proptest::collection::vec(order, 0..4).prop_map(|mut order| {
        order.sort_by_key(|by| by.column);
        order.dedup_by_key(|by| by.column);
        let half = order.len() / 2;
        order.rotate_left(half);
        order
    });
    let outputs = proptest::collection::vec((0..=DOC, any::<bool>()), 1..6).prop_map(|outputs| {
        let output = |(n, (column, alias)): (usize, (usize, bool))| Output {
            column,
            alias: alias.then(|| format!("out{n}")),
        };
        outputs.into_iter().enumerate().map(output).collect()
    });
    let limit = prop_oneof![3 => 0..12_u32, 1 => Just(ReadQuery::LIMIT_MAX)];
    let offset = prop_oneof![3 => Just(0_u32), 1 => 1..9_u32];
    let limit = (limit, offset);
    let conditions = proptest::collection::vec(condition(), 0..3);
    (conditions, order, outputs, limit, proptest::option::weighted(0.3, value(OWNER)))
}

fn to_json(value: &Value, kind: ColumnType) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(truth) => json!(truth),
        Value::Int(number) => json!(number),
        Value::Double(number) => json!(number),
        Value::Text(text) if kind == ColumnType::Json => serde_json::from_str(text).expect("JSON"),
        Value::Text(text) => json!(text),
    }
}

/// Order by the contract: by the requested columns or as stored; ties by shard key and id; null
/// last.
fn by_contract(a: &Line, b: &Line, order: &[OrderBy]) -> Ordering {
    let mut columns: Vec<(usize, bool)> =
        order.iter().map(|by| (by.column, by.descending)).collect();
    if order.is_empty() {
        columns.push((0, false));
    }
    columns.extend([(1, false), (ID, false)]);
    let key =
        |line: &Line| columns.iter().map(|(column, _)| line[*column].clone()).collect::<Line>();
    let descending: Vec<bool> = columns.iter().map(|(_, descending)| *descending).collect();
    plainly(&key(a), &key(b), &descending)
}

/// The requested page, and the number of all rows that meet the conditions.
fn plain(lines: &[Line], table: &Table, asked: &QueryParts) -> (Vec<Json>, usize) {
    let (conditions, order, outputs, (limit, offset), key) = asked;
    let wanted = |line: &&Line| {
        key.as_ref().is_none_or(|key| *key == line[1])
            && conditions.iter().all(|condition| truth(line, condition) == Some(true))
    };
    let mut found: Vec<&Line> = lines.iter().filter(wanted).collect();
    found.sort_by(|a, b| by_contract(a, b, order));
    let total = found.len();
    found.drain(..(*offset as usize).min(total));
    found.truncate(*limit as usize);
    let object = |line: &Line| {
        let members = outputs.iter().map(|output| {
            let column = table.column(output.column);
            let name = output.alias.clone().unwrap_or_else(|| column.name.clone());
            (name, to_json(&line[output.column], column.kind))
        });
        Json::Object(members.collect())
    };
    (found.into_iter().map(object).collect(), total)
}

fn spelt(line: &Line, table: &Table) -> String {
    let members = (ID..=DOC).map(|column| {
        let column_ = table.column(column);
        let json = match (&line[column], column_.kind) {
            (Value::Text(text), ColumnType::Json) => text.clone(),
            (value, kind) => to_json(value, kind).to_string(),
        };
        format!("{}:{json}", json!(column_.name))
    });
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

/// Stores lines, and fills in the id and slot of each.
async fn store(cluster: &Cluster, table: &Table, lines: &mut [Line]) {
    let mut rows = Vec::new();
    for (number, line) in lines.iter_mut().enumerate() {
        line[ID] = Value::Text(format!("{number:03}"));
        let Value::Text(owner) = line[OWNER].clone() else { panic!("an owner is a text") };
        let (place, row) = cluster.prepare("things", Insert, &owner, &spelt(line, table));
        line[0] = Value::Int(i64::from(place.slot.number()));
        rows.push((place, row));
    }
    let done = cluster.write_all(rows).await;
    assert!(done.iter().all(|row| row.outcome.is_ok()), "{done:?}");
}

fn compare_with_plain_evaluation(shards: usize, queries: u32) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let cluster = cluster(shards);
    let table = cluster.manager.schema(Rights::ALL).table("things").expect("learned at the start");
    let mut runner = TestRunner::new(crate::cases(queries));
    let lines = proptest::collection::vec(line(), 140).new_tree(&mut runner).expect("rows");
    let mut lines = lines.current();
    runtime.block_on(store(&cluster, &table, &mut lines));
    let sizes = std::cell::RefCell::new(BTreeMap::<usize, usize>::new());
    let ran = runner.run(&query_parts(), |asked| {
        let (expected, total) = plain(&lines, &table, &asked);
        *sizes.borrow_mut().entry(expected.len()).or_default() += 1;
        let (conditions, order, outputs, (limit, offset), key) = asked;
        let mut query = ReadQuery { outputs, conditions, order, ..ReadQuery::all(&table) };
        (query.limit, query.offset, query.counts) = (limit, offset, true);
        let key = key.map(|key| to_json(&key, ColumnType::Text));
        let key = key.as_ref().and_then(Json::as_str);
        let read = runtime.block_on(cluster.try_read(query.clone(), key)).expect("answered");
        let found = rows_of(&read);
        if found != expected || read.rows.total != Some(total as u64) {
            return Err(differ(&found, &expected));
        }
        (query.limit, query.offset, query.counts) = (5, 0, false);
        let walked = runtime.block_on(walk(&cluster, query.clone(), key));
        query.limit = ReadQuery::LIMIT_MAX;
        let at_once = runtime.block_on(cluster.read(query, key));
        if walked == at_once { Ok(()) } else { Err(differ(&walked, &at_once)) }
    });
    ran.unwrap_or_else(|failure| panic!("over {shards} shards: {failure}"));
    let some: usize = sizes.borrow().iter().filter(|(rows, _)| **rows > 0).map(|(_, n)| n).sum();
    assert!(some * 3 > queries as usize, "too few queries found rows: {:?}", sizes.borrow());
}

fn rows_of(read: &ReadDone) -> Vec<Json> {
    (0..read.rows.len())
        .map(|row| serde_json::from_slice(read.rows.row(row)).expect("JSON"))
        .collect()
}

/// All rows, page by page.
async fn walk(cluster: &Cluster, mut query: ReadQuery, key: Option<&str>) -> Vec<Json> {
    let mut walked = Vec::new();
    loop {
        let read = cluster.try_read(query.clone(), key).await.expect("answered");
        assert!(read.rows.len() <= query.limit as usize, "a page is too large");
        walked.extend(rows_of(&read));
        let Some(cursor) = &read.next_cursor else { return walked };
        assert_eq!(read.rows.len(), query.limit as usize, "only the last page is short");
        let key = key.map(|key| ShardKey::parse(key).expect("a key"));
        query.after = Some(
            cluster.manager.data(Rights::ALL).resume(&query, key, cursor).expect("its own cursor"),
        );
    }
}

fn differ(found: &[Json], expected: &[Json]) -> TestCaseError {
    TestCaseError::fail(format!("found    {found:?}\nexpected {expected:?}"))
}

#[test]
fn reads_of_one_shard_equal_the_evaluation_in_memory() {
    compare_with_plain_evaluation(1, 400);
}

#[test]
fn reads_of_three_shards_equal_the_evaluation_in_memory() {
    compare_with_plain_evaluation(3, 300);
}

#[test]
fn reads_of_eight_shards_equal_the_evaluation_in_memory() {
    compare_with_plain_evaluation(8, 200);
}

/// Stores rows of one owner that differ in `x`.
async fn with_doubles(doubles: &[f64]) -> (Cluster, Arc<Table>) {
    let cluster = cluster(1);
    let table = cluster.manager.schema(Rights::ALL).table("things").expect("learned at the start");
    let line = |x: &f64| {
        let mut line = vec![Value::Null; DOC + 1];
        line[OWNER] = Value::Text("o".into());
        line[X] = Value::Double(*x);
        line
    };
    let mut lines: Vec<Line> = doubles.iter().map(line).collect();
    store(&cluster, &table, &mut lines).await;
    (cluster, table)
}

#[tokio::test]
async fn any_double_is_found_by_eq_and_by_in_and_comes_back_bit_by_bit() {
    let any = any::<f64>().prop_filter("stored doubles are finite", |x| x.is_finite() && *x != 0.0);
    let mut runner = TestRunner::new(crate::cases(1));
    let tree = proptest::collection::vec(any, 300).new_tree(&mut runner).expect("doubles");
    let doubles = tree.current();
    let (cluster, table) = with_doubles(&doubles).await;
    let query = |test| ReadQuery {
        conditions: vec![Condition::Column(X, test)],
        limit: ReadQuery::LIMIT_MAX,
        ..ReadQuery::all(&table)
    };
    for x in &doubles {
        let rows =
            cluster.read(query(Test::Compare(Comparison::Equal, Value::Double(*x))), None).await;
        assert_eq!(rows.len(), 1, "{x:e}");
        assert_eq!(rows[0]["x"].as_f64().map(f64::to_bits), Some(x.to_bits()));
    }
    let all = doubles.iter().map(|x| Value::Double(*x)).collect();
    let found = cluster.read(query(Test::In(all)), None).await;
    let lost = doubles.iter().filter(|x| !found.iter().any(|row| row["x"].as_f64() == Some(**x)));
    let lost: Vec<String> = lost.map(|x| format!("{x:e}")).collect();
    assert_eq!(lost, Vec::<String>::new(), "not found by `in`");
}

#[tokio::test]
async fn the_answer_to_a_write_the_log_and_a_later_read_show_the_same_double() {
    let cluster = cluster(1);
    for spelt in ["-0.0", "0", "1", "1e15", "-1.5"] {
        let json = format!(r#"{{"id":"{spelt}","x":{spelt}}}"#);
        let written = cluster.write("things", Insert, "o", &json).await.expect("stored");
        let written = String::from_utf8(written.row.json).expect("UTF-8");
        let table = cluster.manager.schema(Rights::ALL).table("things").expect("a table");
        let id = equal(ID, Value::Text(spelt.into()));
        let query = ReadQuery { conditions: vec![id], ..ReadQuery::all(&table) };
        let read = cluster.try_read(query, Some("o")).await.expect("answered").rows;
        assert_eq!(std::str::from_utf8(read.json()).expect("UTF-8"), written);
    }
}

#[tokio::test]
async fn more_shapes_of_a_query_than_are_kept_prepared_are_answered_all_the_same() {
    let (cluster, table) = with_doubles(&[1.0, 2.0]).await;
    for shape in 1..600_usize {
        let outputs = (0..10).filter(|bit| shape >> bit & 1 == 1);
        let outputs = outputs.map(|bit| Output { column: bit, alias: None }).collect();
        let rows = cluster.read(ReadQuery { outputs, ..ReadQuery::all(&table) }, Some("o")).await;
        assert_eq!(rows.len(), 2, "shape {shape}");
        let members = rows[0].as_object().expect("an object").len();
        assert_eq!(members, shape.count_ones() as usize, "shape {shape}");
    }
}
