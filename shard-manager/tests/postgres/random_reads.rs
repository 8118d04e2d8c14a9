//! Random reads for any engine.

use std::sync::Arc;

use proptest::prelude::*;
use shard_manager::query::{
    Comparison, Condition, OrderBy, Output, Pattern, ReadQuery, Test, ValueState,
};
use shard_manager::table::Table;
use shard_manager::value::{ColumnType, Value};

use crate::nested_conditions::nested;

/// All of a query but its table and its shard key.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) key: Option<usize>,
    conditions: Vec<Condition>,
    order: Vec<OrderBy>,
    outputs: Vec<usize>,
    pub(crate) limit: u32,
    offset: u32,
}

impl Question {
    /// The query, restricted to rows whose shard key is one of these.
    pub(crate) fn query(&self, table: &Arc<Table>, keys: Vec<Value>) -> ReadQuery {
        let mut conditions = self.conditions.clone();
        conditions.push(Condition::Column(Table::SHARD_KEY, Test::In(keys)));
        let output = |column: &usize| Output { column: *column, alias: None };
        ReadQuery {
            outputs: self.outputs.iter().map(output).collect(),
            conditions,
            order: self.order.clone(),
            limit: self.limit,
            offset: self.offset,
            counts: true,
            ..ReadQuery::all(table)
        }
    }
}

/// A random literal to compare a column with: a stored value or one close to it.
fn literal(kind: ColumnType) -> BoxedStrategy<Value> {
    let texts = |texts: &[&str]| {
        let read = texts.iter().map(|text| kind.read_text(text).unwrap());
        prop::sample::select(read.collect::<Vec<_>>()).boxed()
    };
    match kind {
        ColumnType::Text => texts(&[
            "",
            "a",
            "A",
            "é",
            "e\u{301}",
            "🦀",
            "\u{ffff}",
            "null",
            "%",
            " a ",
            "\u{1}\n\t",
        ]),
        ColumnType::Bigint => {
            texts(&["-9223372036854775808", "9223372036854775807", "-1", "0", "9007199254740993"])
        }
        ColumnType::Double => texts(&["0", "-0.0", "0.1", "1e308", "5e-324", "1e22", "-1e-7", "3"]),
        ColumnType::Boolean => texts(&["true", "false"]),
        ColumnType::Timestamp => texts(&[
            "0001-01-01T00:00:00Z",
            "9999-12-31T23:59:59.999999Z",
            "2026-11-21T12:00:00.000001+02:00",
            "1970-01-01T00:00:00Z",
        ]),
        ColumnType::Uuid => texts(&[
            "00000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
            "7fffffff-ffff-ffff-ffff-ffffffffffff",
        ]),
        ColumnType::Json => Just(Value::Null).boxed(),
    }
}

/// Patterns with every character that a database may treat as special.
fn pattern() -> impl Strategy<Value = Pattern> {
    let piece = prop::sample::select(vec![
        "%", "*", "_", "a", "A", "é", "à", "🦀", "\\%", "\\_", "\\*", "\\\\", "?", "[", "'", "^a",
    ]);
    let text = proptest::collection::vec(piece, 0..4).prop_map(|pieces| pieces.concat());
    text.prop_map(|text| Pattern::parse(&text).unwrap())
}

fn test(kind: ColumnType) -> BoxedStrategy<Test> {
    use Comparison::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, NotEqual};
    let state = prop::sample::select(vec![ValueState::Null, ValueState::NotNull])
        .prop_map(Test::Is)
        .boxed();
    if kind == ColumnType::Json {
        return state;
    }
    let how = vec![Equal, NotEqual, Greater, GreaterOrEqual, Less, LessOrEqual];
    let null = prop_oneof![1 => Just(Value::Null), 8 => literal(kind)];
    let compare = (prop::sample::select(how), null);
    let compare = compare.prop_map(|(how, literal)| Test::Compare(how, literal)).boxed();
    let list = proptest::collection::vec(literal(kind), 0..5).prop_map(Test::In).boxed();
    let like = prop_oneof![pattern().prop_map(Test::Like), pattern().prop_map(Test::ILike)].boxed();
    let truths = vec![Test::Is(ValueState::True), Test::Is(ValueState::False)];
    match kind {
        ColumnType::Text => prop_oneof![4 => compare, 2 => list, 1 => state, 3 => like].boxed(),
        ColumnType::Boolean => {
            prop_oneof![2 => compare, 1 => list, 1 => state, 2 => prop::sample::select(truths)]
                .boxed()
        }
        ColumnType::Bigint | ColumnType::Double | ColumnType::Timestamp | ColumnType::Uuid => {
            prop_oneof![4 => compare, 2 => list, 1 => state].boxed()
        }
        ColumnType::Json => unreachable!("it was looked at above"),
    }
}

fn condition(columns: &[(usize, ColumnType)]) -> impl Strategy<Value = Condition> + use<> {
    let leaf = prop::sample::select(columns.to_vec()).prop_flat_map(|(column, kind)| {
        test(kind).prop_map(move |test| Condition::Column(column, test))
    });
    nested(leaf)
}

/// Random reads of this table. They do not return versions and modification times, in which engines
/// may differ.
pub(crate) fn question(table: &Table, keys: usize) -> impl Strategy<Value = Question> + use<> {
    let columns = |only_comparable: bool| {
        let kind = move |column: usize| (column, table.column(column).kind);
        let all = [Table::SHARD_KEY].into_iter().chain(table.own()).map(kind);
        all.filter(move |(_, kind)| !only_comparable || kind.is_comparable()).collect::<Vec<_>>()
    };
    let (comparable, all) = (columns(true), columns(false));
    let by = (prop::sample::select(comparable), any::<bool>());
    let by = by.prop_map(|((column, _), descending)| OrderBy { column, descending });
    let order = proptest::collection::vec(by, 0..4).prop_map(|mut order: Vec<OrderBy>| {
        let mut seen = Vec::new();
        order.retain(|by| {
            !seen.contains(&by.column) && {
                seen.push(by.column);
                true
            }
        });
        order
    });
    let outputs = prop::sample::subsequence(all.clone(), 1..=all.len());
    let outputs = outputs.prop_map(|all| all.into_iter().map(|(column, _)| column).collect());
    let limit = prop_oneof![4 => 0..7_u32, 1 => Just(ReadQuery::LIMIT_MAX)];
    let offset = prop_oneof![3 => Just(0_u32), 1 => 1..5_u32];
    let conditions = proptest::collection::vec(condition(&all), 0..3);
    let key = prop::option::weighted(0.4, 0..keys);
    (key, conditions, order, outputs, limit, offset).prop_map(
        |(key, conditions, order, outputs, limit, offset)| Question {
            key,
            conditions,
            order,
            outputs,
            limit,
            offset,
        },
    )
}
