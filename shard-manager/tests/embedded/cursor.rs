//! Tests of cursors: they decode to what was encoded, and only for the query that they were created
//! for.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use shard_manager::cursor::{CursorError, decode, encode, encode_sealed};
use shard_manager::query::{Comparison, Condition, OrderBy, Pattern, ReadQuery, Test, ValueState};
use shard_manager::table::{Column, Table};
use shard_manager::token::TokenKey;
use shard_manager::value::{ColumnType, Value};

fn secret() -> TokenKey {
    TokenKey::new(*b"0123456789abcdef")
}

fn things(name: &str) -> Arc<Table> {
    let columns = vec![
        Column::new("id", ColumnType::Text, false),
        Column::new("n", ColumnType::Bigint, true),
        Column::new("x", ColumnType::Double, true),
        Column::new("flag", ColumnType::Boolean, true),
    ];
    Arc::new(Table::new(name, columns, &["id".to_owned()], None).expect("a sound table"))
}

const N: usize = 3;
const X: usize = 4;
const FLAG: usize = 5;

fn sorted() -> ReadQuery {
    let by = |column| OrderBy { column, descending: false };
    ReadQuery { order: vec![by(N), by(X), by(FLAG)], ..ReadQuery::all(&things("things")) }
}

fn last(n: Value) -> Vec<Value> {
    let text = |text: &str| Value::Text(text.to_owned());
    vec![n, Value::Double(-0.5), Value::Null, text("ключ"), text("id")]
}

/// Queries that differ from [`sorted`] in a property that decides which rows come in which order.
fn others() -> Vec<(ReadQuery, Option<&'static str>)> {
    let column = |test| vec![Condition::Column(N, test)];
    let with = |conditions| ReadQuery { conditions, ..sorted() };
    let compare = |how, n| Test::Compare(how, Value::Int(n));
    let pattern = |text| Pattern::parse(text).expect("a pattern");
    let mut descending = sorted();
    descending.order[1].descending = true;
    let mut shorter = sorted();
    shorter.order.truncate(2);
    let one = compare(Comparison::Equal, 1);
    let list = |tests: &[&Test]| {
        tests.iter().map(|test| Condition::Column(N, (*test).clone())).collect::<Vec<_>>()
    };
    let others = vec![
        descending,
        shorter,
        ReadQuery { order: sorted().order, ..ReadQuery::all(&things("others")) },
        with(column(one.clone())),
        with(column(compare(Comparison::Equal, 2))),
        with(column(compare(Comparison::NotEqual, 1))),
        with(column(Test::Compare(Comparison::Equal, Value::Text("1".into())))),
        with(column(Test::In(vec![Value::Int(1)]))),
        with(column(Test::In(vec![]))),
        with(column(Test::Is(ValueState::Null))),
        with(column(Test::Is(ValueState::NotNull))),
        with(column(Test::Like(pattern("a%")))),
        with(column(Test::ILike(pattern("a%")))),
        with(column(Test::Like(pattern("a_")))),
        with(vec![Condition::Any(list(&[&one, &one]))]),
        with(vec![Condition::All(list(&[&one, &one]))]),
        with(vec![Condition::Not(Box::new(list(&[&one]).remove(0)))]),
        with(list(&[&one, &one])),
    ];
    let mut others: Vec<_> = others.into_iter().map(|query| (query, None)).collect();
    others.push((sorted(), Some("a key")));
    others.push((sorted(), Some("another key")));
    others
}

#[test]
fn a_cursor_is_refused_by_every_other_query() {
    let mut texts = vec![encode(&sorted(), None, &last(Value::Int(1)), &secret())];
    for (query, key) in others() {
        for text in &texts {
            let refused = decode(text, &query, key, &secret());
            assert_eq!(refused, Err(CursorError::OtherQuery), "{query:?}");
        }
        let keys = query.sort_keys(key.is_some());
        let values: Vec<Value> = keys.iter().map(|_| Value::Null).collect();
        texts.push(encode(&query, key, &values, &secret()));
    }
}

#[test]
fn selected_columns_and_page_sizes_may_change_between_pages() {
    let text = encode(&sorted(), None, &last(Value::Int(1)), &secret());
    let mut query = ReadQuery { limit: 7, offset: 3, counts: true, ..sorted() };
    query.outputs.truncate(1);
    assert_eq!(decode(&text, &query, None, &secret()), Ok(last(Value::Int(1))));
}

#[test]
fn a_modified_cursor_or_one_of_another_cluster_is_refused() {
    for encode in [encode, encode_sealed] {
        let text = encode(&sorted(), None, &last(Value::Int(1)), &secret());
        for at in 0..text.len() {
            let mut touched = text.clone().into_bytes();
            touched[at] = if touched[at] == b'A' { b'B' } else { b'A' };
            let touched = String::from_utf8(touched).expect("ASCII");
            // Unused trailing bits of base64 must not allow a second spelling.
            let refused = Err(CursorError::Foreign);
            assert_eq!(decode(&touched, &sorted(), None, &secret()), refused, "{at}");
        }
        for cut in 0..text.len() {
            assert_eq!(decode(&text[..cut], &sorted(), None, &secret()), Err(CursorError::Foreign));
        }
        let other = TokenKey::new(*b"fedcba9876543210");
        assert_eq!(decode(&text, &sorted(), None, &other), Err(CursorError::Foreign));
    }
}

#[test]
fn a_sealed_cursor_fits_its_query_only_and_shows_no_value() {
    let secrets = [Value::Int(0x0102_0304_0506), Value::Null];
    let texts = secrets.map(|n| {
        let text = encode_sealed(&sorted(), None, &last(n.clone()), &secret());
        assert_eq!(decode(&text, &sorted(), None, &secret()), Ok(last(n)));
        for (query, key) in others() {
            let other = decode(&text, &query, key, &secret());
            assert_eq!(other, Err(CursorError::OtherQuery), "{query:?}");
        }
        text
    });
    let bytes = texts.map(|text| URL_SAFE_NO_PAD.decode(text).expect("base64"));
    for bytes in &bytes {
        for value in ["ключ".as_bytes(), &0x0102_0304_0506_i64.to_le_bytes()[..6]] {
            assert!(!bytes.windows(value.len()).any(|part| part == value));
        }
    }
    assert_eq!(bytes[0].len(), bytes[1].len());
}

#[test]
fn a_session_token_is_no_cursor() {
    let token = shard_manager::token::SessionToken::empty().encode(&secret());
    assert_eq!(decode(&token, &sorted(), None, &secret()), Err(CursorError::Foreign));
    let cursor = encode(&sorted(), None, &last(Value::Int(1)), &secret());
    assert!(shard_manager::token::SessionToken::parse(&cursor, &secret()).is_err());
}

#[test]
fn the_text_of_a_cursor_is_the_same_for_ever() {
    let text = encode(&sorted(), None, &last(Value::Int(-7)), &secret());
    assert_eq!(text, "AoGf46uI60-oA_n_________BAAAAAAAAOC_AAUIAAAA0LrQu9GO0YcFAgAAAGlkWdiodH6vVdo");
}

proptest! {
    #[test]
    fn values_survive_encoding_and_decoding(n in any::<i64>(), x in any::<f64>(), text in ".{0,40}") {
        let x = if x.is_finite() { Value::Double(x) } else { Value::Null };
        let values = vec![Value::Int(n), x, Value::Bool(n % 2 == 0), Value::Text(text.clone()), Value::Text(text)];
        for encode in [encode, encode_sealed] {
            let cursor = encode(&sorted(), None, &values, &secret());
            prop_assert_eq!(decode(&cursor, &sorted(), None, &secret()), Ok(values.clone()));
        }
    }

    #[test]
    fn no_text_makes_a_decoder_panic(text in "[A-Za-z0-9_-]{0,200}") {
        prop_assert_eq!(decode(&text, &sorted(), None, &secret()), Err(CursorError::Foreign));
    }
}
