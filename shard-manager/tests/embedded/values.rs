//! Tests of values and rows: what each column type accepts, in which form, and how sorted results
//! are merged.

use std::borrow::Cow;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::value::RawValue;
use shard_manager::keyspace::{Keyspace, ShardKey};
use shard_manager::query::OrderBy;
use shard_manager::result_rows::{Rows, compare};
use shard_manager::row_change::{Operation, RowError, RowWrite};
use shard_manager::table::{Column, Table, TableError};
use shard_manager::value::{ColumnType, TypeMismatch, Value};

use ColumnType::{Bigint, Boolean, Double, Json, Text, Timestamp, Uuid};

type Read = Result<Value, TypeMismatch>;

fn json(kind: ColumnType, raw: &str) -> Read {
    let raw: Box<RawValue> = serde_json::from_str(raw).expect("the test spells JSON");
    kind.read_json(&raw)
}

fn text(value: &str) -> Read {
    Ok(Value::Text(value.to_owned()))
}

fn check(kind: ColumnType, cases: &[(&str, Read)]) {
    for (raw, expected) in cases {
        assert_eq!(json(kind, raw), *expected, "{kind} from {raw}");
    }
}

fn wrong(expected: ColumnType, found: &'static str) -> Read {
    Err(TypeMismatch::Type { expected, found })
}

#[test]
fn a_timestamp_is_kept_in_utc_with_microseconds() {
    let cases = [
        ("2026-11-21T10:00:00Z", Some("2026-11-21T10:00:00.000000Z")),
        ("2026-11-21t10:00:00z", Some("2026-11-21T10:00:00.000000Z")),
        ("2026-11-21T10:00:00+05:30", Some("2026-11-21T04:30:00.000000Z")),
        ("2026-11-21T10:00:00-00:00", Some("2026-11-21T10:00:00.000000Z")),
        ("2026-12-31T23:30:00-01:00", Some("2027-01-01T00:30:00.000000Z")),
        ("2026-11-21T10:00:00.1Z", Some("2026-11-21T10:00:00.100000Z")),
        // Fractions below a microsecond are cut off, never rounded up; before 1970 as well.
        ("2026-11-21T10:00:00.1234567Z", Some("2026-11-21T10:00:00.123456Z")),
        ("2026-11-21T10:00:00.999999999Z", Some("2026-11-21T10:00:00.999999Z")),
        ("1969-12-31T23:59:59.9999999Z", Some("1969-12-31T23:59:59.999999Z")),
        ("2016-12-31T23:59:60Z", Some("2017-01-01T00:00:00.000000Z")),
        ("2016-12-31T23:59:60.5Z", Some("2017-01-01T00:00:00.500000Z")),
        ("2024-02-29T00:00:00Z", Some("2024-02-29T00:00:00.000000Z")),
        ("0001-01-01T00:00:00Z", Some("0001-01-01T00:00:00.000000Z")),
        ("9999-12-31T23:59:59.999999Z", Some("9999-12-31T23:59:59.999999Z")),
        ("0001-01-01T00:00:00+00:01", None),
        ("0000-12-31T23:59:59Z", None),
        ("9999-12-31T23:59:60Z", None),
        ("9999-12-31T23:59:59-00:01", None),
        ("10000-01-01T00:00:00Z", None),
        ("+2026-11-21T10:00:00Z", None),
        ("-2026-11-21T10:00:00Z", None),
        ("2026-02-29T00:00:00Z", None),
        ("2026-11-21T24:00:00Z", None),
        ("2026-11-21T10:00:61Z", None),
        ("2026-11-21T10:00:00", None),
        ("2026-11-21T10:00:00+25:00", None),
        ("2026-11-21", None),
        ("now", None),
        ("", None),
        (" 2026-11-21T10:00:00Z", None),
        ("2026-11-21T10:00:00Z ", None),
    ];
    for (given, kept) in cases {
        let expected = kept.map_or(Err(TypeMismatch::NotTimestamp), text);
        assert_eq!(json(Timestamp, &format!("\"{given}\"")), expected, "{given}");
        assert_eq!(Timestamp.read_text(given), expected, "{given} as text");
    }
    check(Timestamp, &[("1763719200", wrong(Timestamp, "a number")), ("null", Ok(Value::Null))]);
}

#[test]
fn a_bigint_is_a_whole_number_of_64_bits_without_fraction_or_exponent() {
    let not = Err(TypeMismatch::NotBigint);
    check(
        Bigint,
        &[
            ("0", Ok(Value::Int(0))),
            ("-0", Ok(Value::Int(0))),
            ("9223372036854775807", Ok(Value::Int(i64::MAX))),
            ("-9223372036854775808", Ok(Value::Int(i64::MIN))),
            ("9007199254740993", Ok(Value::Int(9_007_199_254_740_993))),
            ("9223372036854775808", not.clone()),
            ("-9223372036854775809", not.clone()),
            ("18446744073709551616", not.clone()),
            ("1.0", not.clone()),
            ("1e3", not.clone()),
            ("1E0", not.clone()),
            ("-0.0", not.clone()),
            ("\"1\"", wrong(Bigint, "a string")),
            ("true", wrong(Bigint, "a boolean")),
            ("[1]", wrong(Bigint, "an array")),
            ("{}", wrong(Bigint, "an object")),
            ("null", Ok(Value::Null)),
        ],
    );
    for spelt in ["", " ", "1 ", " 1", "0x1", "1_000", "1.0", "١", "--1", "NaN", "-"] {
        assert_eq!(Bigint.read_text(spelt), not, "{spelt:?}");
    }
    assert_eq!(Bigint.read_text("-42"), Ok(Value::Int(-42)));
}

#[test]
fn a_double_is_finite_and_read_to_the_nearest() {
    let not = Err(TypeMismatch::NotDouble);
    check(
        Double,
        &[
            ("1", Ok(Value::Double(1.0))),
            ("0.1", Ok(Value::Double(0.1))),
            ("1e3", Ok(Value::Double(1000.0))),
            ("1.7976931348623157e308", Ok(Value::Double(f64::MAX))),
            ("5e-324", Ok(Value::Double(5e-324))),
            ("1e-400", Ok(Value::Double(0.0))),
            ("123456789012345678901234567890", Ok(Value::Double(1.234_567_890_123_456_8e29))),
            ("9007199254740993", Ok(Value::Double(9_007_199_254_740_992.0))),
            ("1e400", not.clone()),
            ("-1e400", not.clone()),
            ("\"1.5\"", wrong(Double, "a string")),
            ("false", wrong(Double, "a boolean")),
            ("null", Ok(Value::Null)),
        ],
    );
    for spelt in ["NaN", "nan", "inf", "-inf", "infinity", "+Infinity", "1e400", "", "1,5", " 1"] {
        assert_eq!(Double.read_text(spelt), not, "{spelt:?}");
    }
}

#[test]
fn a_boolean_is_exactly_true_or_false() {
    check(
        Boolean,
        &[
            ("true", Ok(Value::Bool(true))),
            ("false", Ok(Value::Bool(false))),
            ("1", wrong(Boolean, "a number")),
            ("\"true\"", wrong(Boolean, "a string")),
            ("null", Ok(Value::Null)),
        ],
    );
    for spelt in ["True", "t", "1", "yes", "", "null"] {
        assert_eq!(Boolean.read_text(spelt), wrong(Boolean, "text"), "{spelt:?}");
    }
}

#[test]
fn a_uuid_is_kept_hyphenated_and_lower_case_however_it_is_spelt() {
    let kept = text("0198c3f2-7f4e-7cc3-9b6d-7e1f5a3c2b10");
    for spelt in [
        "0198c3f2-7f4e-7cc3-9b6d-7e1f5a3c2b10",
        "0198C3F2-7F4E-7CC3-9B6D-7E1F5A3C2B10",
        "0198c3f27f4e7cc39b6d7e1f5a3c2b10",
        "{0198c3f2-7f4e-7cc3-9b6d-7e1f5a3c2b10}",
        "urn:uuid:0198c3f2-7f4e-7cc3-9b6d-7e1f5a3c2b10",
    ] {
        assert_eq!(Uuid.read_text(spelt), kept, "{spelt}");
        assert_eq!(json(Uuid, &format!("\"{spelt}\"")), kept, "{spelt}");
    }
    for spelt in [
        "",
        "0198c3f2",
        "0198c3f2-7f4e-7cc3-9b6d-7e1f5a3c2b1g",
        "0198c3f2-7f4e7cc3-9b6d-7e1f5a3c2b10",
    ] {
        assert_eq!(Uuid.read_text(spelt), Err(TypeMismatch::NotUuid), "{spelt}");
    }
    check(Uuid, &[("7", wrong(Uuid, "a number")), ("null", Ok(Value::Null))]);
}

#[test]
fn a_text_is_any_unicode_but_u0000_and_lone_surrogates() {
    check(
        Text,
        &[
            (r#""""#, text("")),
            (r#""null""#, text("null")),
            (r#""a\u00e9\ud83e\udd80\n\\\"""#, text("aé🦀\n\\\"")),
            (r#""\\u0000""#, text("\\u0000")),
            (r#""\u0000""#, Err(TypeMismatch::NulCharacter)),
            (r#""a\u0000b""#, Err(TypeMismatch::NulCharacter)),
            (r#""\ud800""#, Err(TypeMismatch::LoneSurrogate)),
            (r#""\udc00\ud800""#, Err(TypeMismatch::LoneSurrogate)),
            ("7", wrong(Text, "a number")),
            ("true", wrong(Text, "a boolean")),
            ("null", Ok(Value::Null)),
        ],
    );
    assert_eq!(Text.read_text("a\0"), Err(TypeMismatch::NulCharacter));
    assert_eq!(Text.read_text("\"quoted\""), text("\"quoted\""));
}

#[test]
fn json_is_kept_as_given_but_for_white_space_between_its_tokens() {
    check(
        Json,
        &[
            ("null", text("null")),
            (" [ 1 , 2.50 ,\t1e3 ]\r\n", text("[1,2.50,1e3]")),
            (r#"{ "b" : 1 , "a" : " two  words " }"#, text(r#"{"b":1,"a":" two  words "}"#)),
            (
                r#"{ " \" } , { " : "\\" , "x" : " \\\" " }"#,
                text(r#"{" \" } , { ":"\\","x":" \\\" "}"#),
            ),
            (r#"{"a":1, "a":2}"#, text(r#"{"a":1,"a":2}"#)),
            ("123456789012345678901234567890", text("123456789012345678901234567890")),
            (r#""\\u0000""#, text(r#""\\u0000""#)),
            (r#"["\\\\u0000"]"#, text(r#"["\\\\u0000"]"#)),
            (r#""\u0000""#, Err(TypeMismatch::NulCharacter)),
            (r#"["\\\u0000"]"#, Err(TypeMismatch::NulCharacter)),
            (r#"{"a":[{"b":"x\u0000"}]}"#, Err(TypeMismatch::NulCharacter)),
            (r#"{"\u0000":1}"#, Err(TypeMismatch::NulCharacter)),
            (r#""\ud800""#, Err(TypeMismatch::NotJson)),
            (r#"{"a":["\ud83e"]}"#, Err(TypeMismatch::NotJson)),
            (r#"{"\ud83e":1}"#, Err(TypeMismatch::NotJson)),
            (r#"[-1e308,{"a":1e309}]"#, Err(TypeMismatch::NotJson)),
            (r#""\ud83e\udd80""#, text(r#""\ud83e\udd80""#)),
        ],
    );
    for spelt in ["", "{", "[1,]", "{'a':1}", "nul", "1 2", "NaN", "\"\n\"", "\u{feff}1"] {
        assert_eq!(Json.read_text(spelt), Err(TypeMismatch::NotJson), "{spelt:?}");
    }
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    assert_eq!(Json.read_text(&deep), Err(TypeMismatch::NotJson));
}

#[test]
fn u0000_is_refused_in_json_also_where_a_later_member_of_the_same_name_hides_it() {
    let hidden = json(Json, r#"{"a":"\u0000","a":1}"#);
    assert_eq!(hidden, Err(TypeMismatch::NulCharacter));
    let hidden = json(Json, r#"[{"a":{"b":"x\u0000"},"a":{"b":2}}]"#);
    assert_eq!(hidden, Err(TypeMismatch::NulCharacter));
}

/// `id text, word text null, doc json null, must json, n bigint null`, routed by `id` if asked.
fn table(routing: Option<&str>) -> Arc<Table> {
    let column =
        |name: &str, kind, nullable| Column { name: name.into(), kind, nullable, default: None };
    let own = vec![
        column("id", Text, false),
        column("word", Text, true),
        column("doc", Json, true),
        column("must", Json, false),
        column("n", Bigint, true),
    ];
    Arc::new(Table::new("things", own, &["id".into()], routing).expect("a good table"))
}

fn parse(
    routing: Option<&str>,
    op: Operation,
    members: &[(&str, &str)],
) -> Result<RowWrite, RowError> {
    let raws: Vec<Box<RawValue>> =
        members.iter().map(|(_, raw)| serde_json::from_str(raw).expect("JSON")).collect();
    let names = members.iter().map(|(name, _)| Cow::Borrowed(*name));
    let fields: Vec<_> = names.zip(raws.iter().map(|raw| &**raw)).collect();
    let key = ShardKey::parse("k").expect("a good key");
    RowWrite::parse(
        &table(routing),
        op,
        (key, Keyspace::Hash.slot_of(key).expect("a slot")),
        &fields,
    )
}

#[test]
fn null_is_no_value_in_a_json_column_that_allows_it_and_the_json_null_in_one_that_does_not() {
    let members = [("id", "\"x\""), ("doc", "null"), ("must", "null"), ("word", "null")];
    let row = parse(None, Operation::Upsert, &members).expect("a good row");
    let expected = [(3, Value::Null), (4, Value::Null), (5, Value::Text("null".into()))];
    assert_eq!(row.set, expected);
    assert_eq!(row.id, [Value::Text("x".into())]);
    assert_eq!(row.missing(), None);
    let refused = parse(None, Operation::Upsert, &[("id", "null")]).expect_err("refused");
    assert_eq!(
        refused,
        RowError::TypeMismatch { column: "id".into(), mismatch: TypeMismatch::Null }
    );
}

#[test]
fn a_row_names_the_member_that_is_wrong() {
    let refused = |members: &[(&str, &str)]| {
        parse(Some("id"), Operation::Upsert, members).expect_err("refused")
    };
    let unknown = refused(&[("wrod", "1")]);
    assert!(matches!(unknown, RowError::NoSuchColumn { column, suggestion: Some(meant), .. }
        if column == "wrod" && meant == "word"));
    for system in ["slot", "shard_key", "version", "created_at", "updated_at"] {
        assert_eq!(refused(&[(system, "1")]), RowError::SystemColumn { column: system.into() });
    }
    let twice = refused(&[("word", "\"a\""), ("n", "1"), ("word", "\"a\"")]);
    assert_eq!(twice, RowError::Twice { column: "word".into() });
    let mismatch = TypeMismatch::Type { expected: Bigint, found: "a string" };
    assert_eq!(refused(&[("n", "\"1\"")]), RowError::TypeMismatch { column: "n".into(), mismatch });
    for other in ["K", "k ", ""] {
        let contradiction =
            RowError::KeyContradicted { column: "id".into(), stored: Some(other.into()) };
        assert_eq!(refused(&[("id", &format!("\"{other}\""))]), contradiction, "{other}");
    }
    let twice = refused(&[("id", "\"k\""), ("id", "\"other\"")]);
    assert_eq!(twice, RowError::Twice { column: "id".into() });
    let long = "x".repeat(1_000);
    assert!(
        matches!(refused(&[(&long, "1")]), RowError::NoSuchColumn { column, suggestion: None, .. }
        if column.len() == 80)
    );
}

#[test]
fn a_key_that_contradicts_a_hidden_routing_column_does_not_reveal_its_name() {
    let whole = table(Some("n"));
    let view = whole.view(|name| name != "n");
    let key = ShardKey::parse("007").expect("a good key");
    let place = (key, Keyspace::Hash.slot_of(key).expect("a slot"));
    for (table, column) in [(&whole, "n"), (&view, "the routing column")] {
        let refused = RowWrite::parse(table, Operation::Upsert, place, &[]);
        let (column, stored) = (column.into(), Some("7".into()));
        assert_eq!(refused, Err(RowError::KeyContradicted { column, stored }));
    }
}

#[test]
fn a_row_takes_its_routing_column_from_the_key_and_needs_its_id() {
    let row = parse(Some("id"), Operation::Delete, &[]).expect("the key is the id");
    assert_eq!((row.id, row.set), (vec![Value::Text("k".into())], vec![]));
    let missing = parse(None, Operation::Delete, &[]).expect_err("no id");
    assert_eq!(missing, RowError::MissingId { table: "things".into(), column: "id".into() });
    let extra = parse(Some("id"), Operation::Delete, &[("n", "1")]).expect_err("values");
    assert_eq!(extra, RowError::NotInDelete { column: "n".into() });
    let row = parse(Some("word"), Operation::Delete, &[("id", "\"x\""), ("word", "\"k\"")]);
    assert_eq!(row.expect("the routing column may be repeated").set, []);
    let partial = parse(Some("id"), Operation::Insert, &[]).expect("checked when it is made");
    assert_eq!(partial.missing(), Some("must"));
}

#[test]
fn a_table_has_good_names_each_once_and_an_id() {
    let column =
        |name: &str| Column { name: name.into(), kind: Text, nullable: false, default: None };
    let made = |name: &str, own: &[&str], id: &[&str]| {
        let id: Vec<String> = id.iter().map(ToString::to_string).collect();
        Table::new(name, own.iter().map(|name| column(name)).collect(), &id, None)
    };
    assert!(made("t", &["a"], &["a"]).is_ok());
    assert!(made(&"t".repeat(40), &["a_1"], &["a_1"]).is_ok());
    for bad in ["", "T", "1a", "_a", "a-b", "a b", "a;drop", "é", "a\"", &"t".repeat(41)] {
        assert!(matches!(made(bad, &["a"], &["a"]), Err(TableError::Name { .. })), "{bad}");
        assert!(matches!(made("t", &["a", bad], &["a"]), Err(TableError::Name { .. })), "{bad}");
    }
    for taken in ["a", "slot", "shard_key", "version", "created_at", "updated_at"] {
        let refused = made("t", &["a", taken], &["a"]);
        assert_eq!(refused, Err(TableError::NameTaken { name: taken.into() }));
    }
    assert_eq!(made("t", &["a"], &[]), Err(TableError::NoId));
    assert!(matches!(made("t", &["a"], &["slot"]), Err(TableError::UnknownKey { .. })));
    assert_eq!(made("t", &[], &["a"]), Err(TableError::ColumnCount { count: 0 }));
}

/// Any JSON without U+0000 and without members of one name.
fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let text = "[ \\n\\t\"\\\\{}:,a-zé🦀]{0,8}";
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_filter("JSON has no others", |n| n.is_finite()).prop_map(Into::into),
        text.prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            proptest::collection::btree_map(text, inner, 0..5)
                .prop_map(|members| members.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

/// A sort key of three columns, whose values repeat and are often null.
fn sort_key() -> impl Strategy<Value = Vec<Value>> {
    let text = prop_oneof![Just(Value::Null), "[aAbé]{0,2}".prop_map(Value::Text)];
    let double = prop_oneof![Just(Value::Null), (-3..3_i32).prop_map(|n| Value::Double(n.into()))];
    let int = prop_oneof![
        Just(Value::Null),
        (-2..3_i64).prop_map(Value::Int),
        any::<i64>().prop_map(Value::Int)
    ];
    (text, double, int).prop_map(|(a, b, c)| vec![a, b, c])
}

/// Reference comparison: null last, then by value.
pub(crate) fn plainly(a: &[Value], b: &[Value], descending: &[bool]) -> std::cmp::Ordering {
    let rank = |value: &Value| (*value == Value::Null, value.clone());
    let ordered = a.iter().zip(b).zip(descending).map(|((a, b), descending)| {
        let (a, b) = (rank(a), rank(b));
        let ordering = a.0.cmp(&b.0).then_with(|| match (&a.1, &b.1) {
            (Value::Text(a), Value::Text(b)) => a.bytes().cmp(b.bytes()),
            (Value::Int(a), Value::Int(b)) => a.cmp(b),
            (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
            (Value::Double(a), Value::Double(b)) => a.total_cmp(b),
            _ => std::cmp::Ordering::Equal,
        });
        if *descending { ordering.reverse() } else { ordering }
    });
    ordered.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then)
}

fn rows(part: &[(usize, Vec<Value>)]) -> Rows {
    let mut rows = Rows::default();
    for (number, key) in part {
        rows.push(|out| {
            out.extend_from_slice(format!("{{\"n\":{number}}}").as_bytes());
            Ok::<_, ()>(())
        })
        .expect("writing to memory");
        key.iter().for_each(|value| rows.push_key(value.clone()));
    }
    rows
}

proptest! {
    #![proptest_config(crate::cases(256))]

    #[test]
    fn json_written_with_white_space_is_the_same_json_without(given in any_json()) {
        let pretty = serde_json::to_string_pretty(&given).expect("JSON");
        let Value::Text(kept) = json(Json, &pretty).expect("accepted") else { panic!("a text") };
        prop_assert_eq!(&kept, &serde_json::to_string(&given).expect("JSON"));
        prop_assert_eq!(Json.read_text(&pretty), Ok(Value::Text(kept.clone())));
        prop_assert_eq!(json(Json, &kept), Ok(Value::Text(kept)), "compact JSON stays as it is");
    }

    #[test]
    fn a_text_survives_every_json_spelling(given in any::<String>(), ascii in any::<bool>()) {
        let spelt = if ascii {
            let units = given.encode_utf16().map(|unit| format!("\\u{unit:04x}"));
            format!("\"{}\"", units.collect::<String>())
        } else {
            serde_json::to_string(&given).expect("JSON")
        };
        let nul = given.contains('\0');
        let expected = if nul { Err(TypeMismatch::NulCharacter) } else { Ok(Value::Text(given.clone())) };
        prop_assert_eq!(&json(Text, &spelt), &expected);
        prop_assert_eq!(&Text.read_text(&given), &expected);
    }

    #[test]
    fn numbers_survive_encoding_and_decoding(int in any::<i64>(), bits in any::<u64>()) {
        prop_assert_eq!(json(Bigint, &int.to_string()), Ok(Value::Int(int)));
        let double = f64::from_bits(bits);
        if double.is_finite() {
            let mut out = Vec::new();
            shard_manager::value::push_json_number(&mut out, double);
            let spelt = String::from_utf8(out).expect("digits");
            prop_assert_eq!(json(Double, &spelt), Ok(Value::Double(double)));
        }
    }

    #[test]
    fn merging_sorted_parts_is_sorting_all_rows_and_keeping_the_first(
        keys in proptest::collection::vec((sort_key(), 0_usize..5), 0..40),
        descending in proptest::array::uniform3(any::<bool>()),
        limit in 0_usize..50,
    ) {
        let order: Vec<OrderBy> =
            (0..3).map(|column| OrderBy { column, descending: descending[column] }).collect();
        let mut parts: Vec<Vec<(usize, Vec<Value>)>> = vec![Vec::new(); 5];
        for (number, (key, part)) in keys.into_iter().enumerate() {
            parts[part].push((number, key));
        }
        parts.iter_mut().for_each(|part| part.sort_by(|a, b| plainly(&a.1, &b.1, &descending)));
        // Ties go to the first part, like a stable sort of all parts in sequence.
        let mut all: Vec<_> = parts.concat();
        all.sort_by(|a, b| plainly(&a.1, &b.1, &descending));
        for pair in all.windows(2) {
            prop_assert_eq!(compare(&pair[0].1, &pair[1].1, &order), plainly(&pair[0].1, &pair[1].1, &descending));
        }
        all.truncate(limit);
        let parts: Vec<Rows> = parts.iter().map(|part| rows(part)).collect();
        let merged = Rows::merge(&parts, &order, 0, limit);
        let expected: Vec<String> = all.iter().map(|(number, _)| format!("{{\"n\":{number}}}")).collect();
        prop_assert_eq!(merged.len(), expected.len());
        prop_assert_eq!(merged.is_empty(), expected.is_empty());
        prop_assert_eq!(std::str::from_utf8(merged.json()).expect("UTF-8"), expected.join(","));
        for (index, row) in expected.iter().enumerate() {
            prop_assert_eq!(merged.row(index), row.as_bytes());
        }
    }
}
