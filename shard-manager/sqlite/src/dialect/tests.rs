//! Tests of the SQL of reads for SQLite: the texts are finitely many, and none contains a value.

use std::collections::BTreeSet;
use std::sync::Arc;

use diesel::connection::SimpleConnection;
use engine::{IndexChange, Scope, sample_queries};
use model::query::{Comparison, Condition, OrderBy, Output, ReadQuery, Test, ValueState};
use model::table::{Column, Table};
use model::table_index::TableIndex;
use proptest::prelude::*;

use super::super::connection::{Statement, for_each_row};
use super::super::index_ddl;
use super::super::statement_deadline::StatementDeadline;
use super::*;

/// Marker that differs from every name, keyword and number of a text.
const MARK: &str = "zq'\"`;--";
const MARK_NUMBER: i64 = 987_654_321;

fn table() -> Arc<Table> {
    let columns = vec![
        Column::new("id", ColumnType::Text, false),
        Column::new("word", ColumnType::Text, true),
        Column::new("number", ColumnType::Bigint, true),
        Column::new("flag", ColumnType::Boolean, true),
        Column::new("doc", ColumnType::Json, true),
    ];
    Arc::new(Table::new("things", columns, &["id".to_owned()], None).expect("a sound table"))
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        ".{0,8}".prop_map(|text| Value::Text(format!("{MARK}{text}"))),
        any::<i32>().prop_map(|n| Value::Int(MARK_NUMBER * 1_000 + i64::from(n).abs() % 1_000)),
        any::<bool>().prop_map(Value::Bool),
    ]
}

fn test() -> impl Strategy<Value = Test> {
    let comparisons = vec![
        Comparison::Equal,
        Comparison::NotEqual,
        Comparison::Greater,
        Comparison::GreaterOrEqual,
        Comparison::Less,
        Comparison::LessOrEqual,
    ];
    let states = vec![ValueState::Null, ValueState::NotNull, ValueState::True, ValueState::False];
    let pattern =
        || ".{0,6}".prop_map(|text| Pattern::parse(&format!("{MARK}%{text}_")).unwrap_or_default());
    prop_oneof![
        (prop::sample::select(comparisons), value()).prop_map(|(how, v)| Test::Compare(how, v)),
        proptest::collection::vec(value(), 0..5).prop_map(Test::In),
        pattern().prop_map(Test::Like),
        pattern().prop_map(Test::ILike),
        prop::sample::select(states).prop_map(Test::Is),
    ]
}

fn condition() -> impl Strategy<Value = Condition> {
    let leaf = (0..7_usize, test()).prop_map(|(column, test)| Condition::Column(column, test));
    leaf.prop_recursive(5, 20, 4, |inner| {
        let list = proptest::collection::vec(inner.clone(), 0..4);
        prop_oneof![
            list.clone().prop_map(Condition::All),
            list.prop_map(Condition::Any),
            inner.prop_map(|one| Condition::Not(Box::new(one))),
        ]
    })
}

prop_compose! {
    fn query()(
        conditions in proptest::collection::vec(condition(), 0..4),
        order in proptest::sample::subsequence(vec![0_usize, 1, 2, 3, 4, 5], 0..4),
        descending in any::<u8>(),
        outputs in proptest::sample::subsequence((0..10).collect::<Vec<usize>>(), 1..10),
        after in proptest::option::of(proptest::collection::vec(value(), 8)),
        page in (0..1_001_u32, prop_oneof![Just(0), 1..10_001_u32]),
        keys in proptest::collection::vec((0..16_384_u16, ".{1,9}"), 0..3),
    ) -> ReadQuery {
        let by = |(n, column): (usize, usize)| OrderBy { column, descending: descending >> n & 1 == 1 };
        let output = |column| Output { column, alias: Some(MARK.to_owned()) };
        let (limit, offset) = page;
        let key = |(slot, key)| Some((Slot::new(slot)?, format!("{MARK}{key}")));
        ReadQuery {
            outputs: outputs.into_iter().map(output).collect(),
            order: order.into_iter().enumerate().map(by).collect(),
            conditions, after, limit, offset,
            keys: keys.into_iter().filter_map(key).collect(),
            ..ReadQuery::all(&table())
        }
    }
}

/// Returns the query with another value for each text and each number, and with other page sizes.
fn with_other_values(query: &ReadQuery) -> ReadQuery {
    let other = |value: &Value| match value {
        Value::Null => Value::Null,
        Value::Bool(truth) => Value::Bool(!truth),
        Value::Int(_) | Value::Double(_) | Value::Text(_) => Value::Text("other".to_owned()),
    };
    fn changed(condition: &Condition, other: &impl Fn(&Value) -> Value) -> Condition {
        let all = |list: &[Condition]| list.iter().map(|one| changed(one, other)).collect();
        match condition {
            Condition::All(list) => Condition::All(all(list)),
            Condition::Any(list) => Condition::Any(all(list)),
            Condition::Not(one) => Condition::Not(Box::new(changed(one, other))),
            Condition::Column(column, test) => Condition::Column(
                *column,
                match test {
                    Test::Compare(how, value) => Test::Compare(*how, other(value)),
                    Test::In(_) => Test::In(vec![Value::Null]),
                    Test::Like(_) => Test::Like(Pattern::default()),
                    Test::ILike(_) => Test::ILike(Pattern::default()),
                    Test::Is(state) => Test::Is(*state),
                },
            ),
        }
    }
    let mut twin = query.clone();
    twin.conditions = query.conditions.iter().map(|one| changed(one, &other)).collect();
    twin.after = query.after.as_ref().map(|after| after.iter().map(other).collect());
    twin.keys.truncate(1);
    twin.keys.iter_mut().for_each(|(_, key)| *key = "other".to_owned());
    twin.limit = 7;
    twin.offset = query.offset.min(1);
    twin
}

/// Returns the tokens of a text, and the numbers of its parameters.
fn tokens(sql: &str) -> (BTreeSet<String>, Vec<usize>) {
    let (mut words, mut parameters) = (BTreeSet::new(), Vec::new());
    let mut rest = sql.trim_start();
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let length = match first {
            '?' => 1 + rest[1..].chars().take_while(char::is_ascii_digit).count(),
            c if is_word(c) => rest.chars().take_while(|c| is_word(*c)).count(),
            c => c.len_utf8(),
        };
        let (token, after) = rest.split_at(length);
        match token.strip_prefix('?') {
            Some(number) => parameters.push(number.parse().expect("a number")),
            None => drop(words.insert(token.to_owned())),
        }
        rest = after.trim_start();
    }
    (words, parameters)
}

/// All tokens that a text may contain, besides the names of the table and its columns.
const VOCABULARY: &str = "SELECT FROM WHERE AND OR NOT IS NULL IN LIKE GLOB ESCAPE TRUE FALSE ORDER BY DESC \
    NULLS FIRST LAST LIMIT OFFSET value json_each tessera_in_time count ( ) , = < > - + * ' \\ 0 1";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn the_text_depends_on_the_shape_alone_and_is_made_of_known_words(
        query in query(),
        key in proptest::option::of(".{1,9}"),
    ) {
        let key = key.map(|key| format!("{MARK}{key}"));
        let slot = Slot::new(9_741).expect("a slot");
        let scope = key.as_deref().map_or(Scope::Shard, |key| Scope::Key(slot, key));
        let other_scope = key.as_ref().map_or(Scope::Shard, |_| Scope::Key(slot, "k"));
        let mut query = query;
        let width = query.sort_keys(scope.is_keyed()).len();
        if let Some(after) = &mut query.after {
            after.truncate(width);
        }
        let twin = with_other_values(&query);
        let table = table();
        let names = table.columns().iter().map(|column| column.name.as_str()).chain(["things"]);
        let known: BTreeSet<&str> = names.chain(VOCABULARY.split_whitespace()).collect();
        for (text, same) in [
            (Select::page(&query, scope), Select::page(&twin, other_scope)),
            (Select::count(&query, scope), Select::count(&twin, other_scope)),
        ] {
            prop_assert_eq!(&text.sql, &same.sql);
            let (words, parameters) = tokens(&text.sql);
            for word in &words {
                prop_assert!(known.contains(&**word), "{} in {}", word, text.sql);
            }
            let numbered: Vec<usize> = (1..=binds(&text).len()).collect();
            prop_assert_eq!(parameters, numbered, "each value is bound once, in order: {}", text.sql);
        }
    }
}

/// Creates an empty table in memory; returns the connection, and the deadline of its statements.
fn things() -> (diesel::sqlite::SqliteConnection, StatementDeadline) {
    let mut connection: diesel::sqlite::SqliteConnection =
        diesel::Connection::establish(":memory:").expect("a database in memory");
    let made = "CREATE TABLE things (slot INTEGER NOT NULL, shard_key TEXT NOT NULL, id TEXT NOT NULL, word TEXT,
        number INTEGER, flag INTEGER, doc TEXT, version INTEGER NOT NULL, created_at TEXT NOT NULL,
        updated_at TEXT NOT NULL, PRIMARY KEY (slot, shard_key, id)) STRICT, WITHOUT ROWID";
    connection.batch_execute(made).expect("a table");
    let statement_deadline = StatementDeadline::on(&mut connection).expect("a function");
    (connection, statement_deadline)
}

/// Returns SQLite's plan for the rows of a page.
fn plan(connection: &mut diesel::sqlite::SqliteConnection, select: &Select<'_>) -> String {
    let sql = format!("EXPLAIN QUERY PLAN {}", select.sql);
    let mut plan = String::new();
    let statement = Statement { sql: &sql, binds: &binds(select), cached: false };
    for_each_row(connection, statement, |row| {
        plan += &row.text(3, str::to_owned).unwrap_or_default();
        Ok(())
    })
    .expect("a plan");
    plan
}

#[test]
fn rows_of_the_keys_that_filters_name_are_found_by_the_primary_key() {
    let (mut connection, _watch) = things();
    let text = |text: &str| Value::Text(text.to_owned());
    let key = |number, key: &str| (Slot::new(number).expect("a slot"), key.to_owned());
    let keys = vec![key(7, "k"), key(9, "l"), key(11, "m")];
    let conditions = vec![Condition::Column(2, Test::In(["k", "l", "m"].map(text).into()))];
    let descending = vec![OrderBy { column: 3, descending: true }];
    let after = || vec![Value::Int(7), text("k"), text("i")];
    for (order, after) in [
        (vec![], None),
        (vec![], Some(after())),
        (descending.clone(), None),
        (descending, Some([vec![text("w")], after().split_off(1)].concat())),
    ] {
        let (keys, conditions) = (keys.clone(), conditions.clone());
        let query = ReadQuery { keys, conditions, order, after, ..ReadQuery::all(&table()) };
        for select in [Select::page(&query, Scope::Shard), Select::count(&query, Scope::Shard)] {
            let plan = plan(&mut connection, &select);
            let found = "SEARCH things USING PRIMARY KEY (slot=? AND shard_key=?";
            assert!(plan.contains(found), "{plan}: {}", select.sql);
        }
    }
}

#[test]
fn a_page_begins_at_its_cursor_whatever_the_filters_are() {
    let (mut connection, _watch) = things();
    let text = |text: &str| Value::Text(text.to_owned());
    let at_least =
        |column, value| Condition::Column(column, Test::Compare(Comparison::GreaterOrEqual, value));
    let slot = Slot::new(7).expect("a slot");
    let by = |column, descending| OrderBy { column, descending };
    let all = [Value::Int(7), text("k"), text("i")];
    for (scope, order, after, bound) in [
        (Scope::Shard, vec![], &all[..], "((slot,shard_key,id)>(?,?,?))"),
        (Scope::Key(slot, "k"), vec![], &all[2..], "(slot=? AND shard_key=? AND id>?)"),
        (
            Scope::Key(slot, "k"),
            vec![by(2, true)],
            &all[2..],
            "(slot=? AND shard_key=? AND id>? AND id<?)",
        ),
    ] {
        let conditions = vec![at_least(0, Value::Int(0)), at_least(2, text("a"))];
        let after = Some(after.to_vec());
        let query = ReadQuery { conditions, order, after, ..ReadQuery::all(&table()) };
        let select = Select::page(&query, scope);
        let plan = plan(&mut connection, &select);
        assert!(plan.contains(bound) && !plan.contains("TEMP B-TREE"), "{plan}: {}", select.sql);
    }
}

/// Builds an index of [`things`].
fn build(
    connection: &mut diesel::sqlite::SqliteConnection,
    name: &str,
    columns: &[&str],
    is_unique: bool,
) {
    let columns: Vec<String> = columns.iter().map(|name| (*name).to_owned()).collect();
    let index = TableIndex::new(&table(), name, &columns, is_unique).expect("a sound index");
    let built = index_ddl::apply(connection, &IndexChange::Make(Arc::new(index)));
    assert_eq!(built, Ok(true));
}

#[test]
fn filters_and_orders_use_an_index_on_all_shards_and_for_one_key() {
    let (mut connection, _watch) = things();
    build(&mut connection, "by_word", &["word", "number"], false);
    build(&mut connection, "by_number", &["number"], false);
    build(&mut connection, "one_flag", &["flag"], true);
    let text = |text: &str| Value::Text(text.to_owned());
    let test =
        |column, comparison, value| Condition::Column(column, Test::Compare(comparison, value));
    let word = || test(3, Comparison::Equal, text("w"));
    let by = |column, descending| OrderBy { column, descending };
    let key = Scope::Key(Slot::new(7).expect("a slot"), "k");
    let words = || Condition::Column(3, Test::In(vec![text("v"), text("w")]));
    for (scope, conditions, order, index, bound) in [
        (Scope::Shard, vec![word()], vec![], "by_word", "(word=?)"),
        (Scope::Shard, vec![words()], vec![], "by_word", "(word=?)"),
        (
            Scope::Shard,
            vec![word(), test(4, Comparison::Greater, Value::Int(5))],
            vec![],
            "by_word",
            "(word=? AND number>?)",
        ),
        (Scope::Shard, vec![word()], vec![by(4, false)], "by_word", "(word=?)"),
        (Scope::Shard, vec![], vec![by(4, true)], "by_number", ""),
        (
            key,
            vec![test(5, Comparison::Equal, Value::Bool(true))],
            vec![],
            "one_flag",
            "(slot=? AND shard_key=? AND flag=?)",
        ),
    ] {
        let query = ReadQuery { conditions, order, ..ReadQuery::all(&table()) };
        let select = Select::page(&query, scope);
        let plan = plan(&mut connection, &select);
        let used = format!("INDEX tessera_ix_{index}_");
        assert!(plan.contains(&used) && plan.contains(bound), "{plan}: {}", select.sql);
    }
}

#[test]
fn the_sql_of_the_sample_queries_is_pinned() {
    let written = sample_queries::written(|out, query, scope| {
        let page = Select::page(query, scope);
        let _ = writeln!(out, "{}\n{:?}", page.sql, binds(&page));
        if query.counts {
            let count = Select::count(query, scope);
            let _ = writeln!(out, "{}\n{:?}", count.sql, binds(&count));
        }
    });
    assert!(written == include_str!("texts.txt"), "{written}");
}
