//! Sample queries: reads for which each engine stores the expected SQL in a file next to its tests.
//!
//! Databases cache and plan statements by their SQL text, so this text must not change by accident.
//! The samples cover each kind of condition on a column, each type of column, each kind of order
//! (on a first page and on a page that continues after a row), nested conditions, reads of named
//! keys and all forms of a page.
//!
//! **Invariant:** the samples and their order are fixed: adding a sample does not change the SQL of
//! the others.
//! **Not here:** random queries (the property tests of the engines), the results of a query.

use std::sync::Arc;

use model::keyspace::Slot;
use model::query::{Comparison, Condition, OrderBy, Output, Pattern, ReadQuery, Test, ValueState};
use model::table::{Column, Table};
use model::value::{ColumnType, Value};

use super::Scope;

/// Title and query of a sample.
pub type Sample = (String, ReadQuery);

/// Writes the statements of each sample through `write`. That function appends the SQL and the
/// values of a query's page within a scope and, if the query counts rows, also those of the count.
pub fn written(write: impl Fn(&mut String, &ReadQuery, Scope<'_>)) -> String {
    let mut out = String::new();
    for (title, query) in tests_of_columns() {
        out += &format!("# {title}\n");
        write(&mut out, &query, Scope::Shard);
    }
    let others = nested_conditions().into_iter().chain(orders()).chain(pages());
    for (title, query) in others {
        for scope in [Scope::Shard, Scope::Key(slot(9_741), "k-1")] {
            let keyed = scope.is_keyed();
            out += &format!("# {title}{}\n", if keyed { ", one key" } else { "" });
            write(&mut out, &fitted(&query, keyed), scope);
        }
    }
    out
}

/// Returns the query, with one value for each sort key if it continues after a row.
fn fitted(query: &ReadQuery, keyed: bool) -> ReadQuery {
    let place = |index: usize| match index {
        Table::SLOT => Value::Int(77),
        Table::SHARD_KEY => Value::Text("k-0".to_owned()),
        index => sample_value(query.table.column(index).kind),
    };
    let given = query.after.as_ref().map(|given| {
        let keys = query.sort_keys(keyed).into_iter().enumerate();
        let value =
            |(n, by): (usize, OrderBy)| given.get(n).cloned().unwrap_or_else(|| place(by.column));
        keys.map(value).collect()
    });
    ReadQuery { after: given, ..query.clone() }
}

/// Returns samples with conditions on columns of every type: all comparisons for one column,
/// equality for the others.
fn tests_of_columns() -> Vec<Sample> {
    let table = things();
    let mut samples = Vec::new();
    for (index, column) in table.columns().iter().enumerate().skip(Table::PLACE.len()) {
        let value = || sample_value(column.kind);
        let mut tests = vec![
            ("in", Test::In(vec![value(), value()])),
            ("in nothing", Test::In(Vec::new())),
            ("is null", Test::Is(ValueState::Null)),
            ("is not null", Test::Is(ValueState::NotNull)),
        ];
        let signs = [
            ("=", Comparison::Equal),
            ("<>", Comparison::NotEqual),
            (">", Comparison::Greater),
            (">=", Comparison::GreaterOrEqual),
            ("<", Comparison::Less),
            ("<=", Comparison::LessOrEqual),
        ];
        let signs = if index == 3 { &signs[..] } else { &signs[..1] };
        tests.extend(
            signs.iter().map(|(sign, comparison)| (*sign, Test::Compare(*comparison, value()))),
        );
        if column.kind == ColumnType::Boolean {
            tests.push(("is true", Test::Is(ValueState::True)));
            tests.push(("is false", Test::Is(ValueState::False)));
        }
        if column.kind == ColumnType::Text {
            tests.push(("in with null", Test::In(vec![value(), Value::Null])));
            tests.push(("= null", Test::Compare(Comparison::Equal, Value::Null)));
            for text in ["", "a%b_c", r"%\%\_\*?[x]\\%", "ß*"] {
                let pattern = Pattern::parse(text).expect("a sound pattern");
                tests.push(("like", Test::Like(pattern.clone())));
                tests.push(("ilike", Test::ILike(pattern)));
            }
        }
        samples.extend(tests.into_iter().map(|(sign, test)| {
            let conditions = vec![Condition::Column(index, test)];
            let title = format!("{} {sign}", column.name);
            (title, ReadQuery { conditions, ..one_output(&table) })
        }));
    }
    samples
}

fn nested_conditions() -> Vec<Sample> {
    let equal = |column: usize| {
        let value = sample_value(things().column(column).kind);
        Condition::Column(column, Test::Compare(Comparison::Equal, value))
    };
    let not = |condition| Condition::Not(Box::new(condition));
    let (all, any) = (Condition::All, Condition::Any);
    let nested = [
        ("all of nothing", vec![all(vec![])]),
        ("any of nothing", vec![any(vec![])]),
        ("all of one", vec![all(vec![equal(3)])]),
        ("all of three", vec![all(vec![equal(3), equal(4), equal(5)])]),
        ("any of three", vec![any(vec![equal(3), equal(4), equal(5)])]),
        ("not", vec![not(equal(3))]),
        ("not nothing", vec![not(any(vec![]))]),
        ("not any", vec![not(any(vec![equal(3), not(equal(4))]))]),
        ("several", vec![equal(2), any(vec![all(vec![equal(3), equal(4)]), equal(5)]), equal(6)]),
    ];
    let sample = |(title, conditions): (&str, _)| {
        (title.to_owned(), ReadQuery { conditions, counts: true, ..one_output(&things()) })
    };
    nested.into_iter().map(sample).collect()
}

fn orders() -> Vec<Sample> {
    let up = |column| OrderBy { column, descending: false };
    let down = |column| OrderBy { column, descending: true };
    let lists = [
        vec![],
        vec![up(2)],
        vec![down(2)],
        vec![up(3)],
        vec![down(3)],
        vec![up(3), down(4)],
        vec![down(4), up(5), down(6), up(7)],
        vec![up(9)],
        vec![down(9), up(10)],
        vec![down(1), down(0), down(2)],
        vec![up(0), up(4)],
    ];
    let mut samples = Vec::new();
    for table in [things(), pairs()] {
        for order in &lists {
            let known = |by: &OrderBy| by.column < table.columns().len();
            let order: Vec<OrderBy> = order.iter().copied().filter(known).collect();
            let afters = [None, Some(vec![]), Some(vec![Value::Null]), Some(vec![Value::Null; 2])];
            for after in afters {
                // A page cannot continue after a null in a column that is never null.
                let nulls = after.as_ref().map_or(0, Vec::len);
                if order.len() < nulls
                    || order[..nulls].iter().any(|by| !table.column(by.column).nullable)
                {
                    continue;
                }
                let by = |by: &OrderBy| {
                    format!(
                        "{}{}",
                        table.column(by.column).name,
                        if by.descending { "-" } else { "+" }
                    )
                };
                let names: Vec<String> = order.iter().map(by).collect();
                let after_title =
                    if after.is_some() { format!(" after {nulls} nulls") } else { String::new() };
                let title = format!("{} by {}{after_title}", table.name(), names.join(" "));
                samples
                    .push((title, ReadQuery { order: order.clone(), after, ..one_output(&table) }));
            }
        }
    }
    samples
}

fn pages() -> Vec<Sample> {
    let table = things();
    let all = || one_output(&table);
    let keys =
        || vec![(slot(9), "l".to_owned()), (slot(7), "k\"'".to_owned()), (slot(9), "m".to_owned())];
    let outputs = |columns: &[usize]| {
        let output = |column: &usize| Output { column: *column, alias: Some("alias".to_owned()) };
        columns.iter().map(output).collect()
    };
    let word = Condition::Column(3, Test::Is(ValueState::NotNull));
    let by_word = vec![OrderBy { column: 3, descending: true }];
    let pages = [
        ("limit 0", ReadQuery { limit: 0, ..all() }),
        ("limit 1000 offset 10000", ReadQuery { limit: 1_000, offset: 10_000, ..all() }),
        ("counted", ReadQuery { counts: true, ..all() }),
        ("all outputs", ReadQuery::all(&table)),
        ("outputs twice", ReadQuery { outputs: outputs(&[3, 2, 3]), ..all() }),
        ("keys", ReadQuery { keys: keys(), counts: true, ..all() }),
        ("keys by word", ReadQuery { keys: keys(), order: by_word.clone(), ..all() }),
        (
            "keys, conditions, order, place and offset",
            ReadQuery {
                keys: keys(),
                conditions: vec![word],
                order: by_word,
                after: Some(vec![]),
                offset: 3,
                ..all()
            },
        ),
    ];
    pages.into_iter().map(|(title, query)| (title.to_owned(), query)).collect()
}

fn one_output(table: &Arc<Table>) -> ReadQuery {
    let outputs = vec![Output { column: 2, alias: None }];
    ReadQuery { outputs, ..ReadQuery::all(table) }
}

/// Returns a table with a column of each type.
fn things() -> Arc<Table> {
    let columns = vec![
        column("id", ColumnType::Text, false),
        column("word", ColumnType::Text, true),
        column("number", ColumnType::Bigint, true),
        column("flag", ColumnType::Boolean, true),
        column("ratio", ColumnType::Double, true),
        column("doc", ColumnType::Json, true),
        column("tag", ColumnType::Uuid, true),
        column("moment", ColumnType::Timestamp, false),
    ];
    Arc::new(Table::new("things", columns, &["id".to_owned()], None).expect("a sound table"))
}

/// Returns a table whose rows are identified by two columns.
fn pairs() -> Arc<Table> {
    let columns = vec![
        column("part", ColumnType::Bigint, false),
        column("id", ColumnType::Uuid, false),
        column("word", ColumnType::Text, true),
    ];
    let id = ["id".to_owned(), "part".to_owned()];
    Arc::new(Table::new("pairs", columns, &id, Some("id")).expect("a sound table"))
}

fn column(name: &str, kind: ColumnType, nullable: bool) -> Column {
    Column::new(name, kind, nullable)
}

fn slot(number: u16) -> Slot {
    Slot::new(number).expect("a slot")
}

fn sample_value(kind: ColumnType) -> Value {
    match kind {
        ColumnType::Text => Value::Text("wörd \"'".to_owned()),
        ColumnType::Bigint => Value::Int(-42),
        ColumnType::Boolean => Value::Bool(true),
        ColumnType::Double => Value::Double(0.5),
        ColumnType::Json => Value::Text("{\"a\":1}".to_owned()),
        ColumnType::Uuid => Value::Text("67e55044-10b1-426f-9247-bb680e5fe0c8".to_owned()),
        ColumnType::Timestamp => Value::Text("2026-01-02T03:04:05.000006Z".to_owned()),
    }
}
