//! Random changes of the rows of a few keys, in a form that any engine accepts.

use std::collections::HashMap;

use proptest::prelude::*;
use shard_manager::manager::Manager;
use shard_manager::row_change::{Operation, Precondition, RowWrite};
use shard_manager::shard_map::KeyLocation;
use shard_manager::table::Table;
use shard_manager::value::ColumnType::{Bigint, Boolean, Double, Json, Text, Timestamp, Uuid};

use crate::rows::{prepare, table};

/// A table with a column of each type, whose id is a text.
pub(crate) fn things() -> Table {
    let columns = [
        ("id", Text),
        ("owner", Text),
        ("must", Text),
        ("word", Text),
        ("n", Bigint),
        ("x", Double),
        ("flag", Boolean),
        ("at", Timestamp),
        ("u", Uuid),
        ("doc", Json),
    ];
    table("things", &columns, 3, &["id"], Some("owner"))
}

/// A table with an id of three columns of other types, and without a routing column.
pub(crate) fn pairs() -> Table {
    let columns =
        [("number", Bigint), ("at", Timestamp), ("who", Uuid), ("value", Json), ("note", Text)];
    table("pairs", &columns, 3, &["number", "at", "who"], None)
}

/// Shard keys, to which a test adds a prefix.
pub(crate) const KEYS: [&str; 4] = ["a", "ключ", "🦀 'x", "B"];

const WORDS: &[&str] = &[
    r#""""#,
    r#""a""#,
    r#""A""#,
    r#""é""#,
    r#""e\u0301""#,
    r#""🦀""#,
    r#""\uffff""#,
    r#""null""#,
    r#""%""#,
    r#""_'""#,
    r#""a\"b\\""#,
    r#""\u0001\n\t""#,
    r#"" a ""#,
    r#""{}""#,
    r#""ÀÈ""#,
    r#""\ud83e\udd80""#,
];
const NUMBERS: &[&str] = &[
    "-9223372036854775808",
    "9223372036854775807",
    "-1",
    "0",
    "-0",
    "1",
    "9007199254740993",
    "1000",
];
const DOUBLES: &[&str] = &[
    "0",
    "-0.0",
    "1",
    "-1.5",
    "0.1",
    "0.30000000000000004",
    "1e308",
    "5e-324",
    "1.7976931348623157e308",
    "1e22",
    "1e21",
    "1e15",
    "1e16",
    "123456789012345680",
    "0.3333333333333333",
    "-1e-7",
    "1e-5",
    "2.5e-5",
    "9007199254740993",
];
const BOOLEANS: &[&str] = &["true", "false"];
const TIMES: &[&str] = &[
    r#""0001-01-01T00:00:00Z""#,
    r#""9999-12-31T23:59:59.999999Z""#,
    r#""2026-11-21T10:00:00.000001Z""#,
    r#""2026-11-21T12:00:00.000001+02:00""#,
    r#""1969-12-31T23:59:59.999999Z""#,
    r#""2000-02-29T00:00:00.5Z""#,
];
const UUIDS: &[&str] = &[
    r#""00000000-0000-0000-0000-000000000000""#,
    r#""FFFFFFFF-ffff-ffff-ffff-ffffffffffff""#,
    r#""0191e8a0b5c07000800000000000abcd""#,
];
const DOCUMENTS: &[&str] = &[
    "{}",
    " [ 1 , 2.50 ,\n\t1e300 ] ",
    r#"{ "b" : 1 , "a" : 2 , "b" : 3 }"#,
    r#""a  b""#,
    "false",
    "null",
    r#"{"a":"\u00e9 \" \\","b":[{"c":null}]}"#,
    "-0.0",
    "123456789012345678901234567890",
    r#""\ud83e\udd80""#,
];

/// Values for the columns of a table except its id.
fn members(of_things: bool) -> BoxedStrategy<Vec<(&'static str, &'static str)>> {
    let things: &[(&str, &[&str])] = &[
        ("must", WORDS),
        ("word", WORDS),
        ("n", NUMBERS),
        ("x", DOUBLES),
        ("flag", BOOLEANS),
        ("at", TIMES),
        ("u", UUIDS),
        ("doc", DOCUMENTS),
    ];
    let pairs: &[(&str, &[&str])] = &[("value", DOCUMENTS), ("note", WORDS)];
    let columns = if of_things { things } else { pairs };
    let member = |(name, texts): &(&'static str, &'static [&'static str])| {
        let name = *name;
        let text = prop::sample::select(texts.to_vec());
        // A required member is usually given, and never null.
        let (given, text) = match name {
            "must" => (0.9, text.boxed()),
            _ => (0.5, prop_oneof![1 => Just("null"), 5 => text].boxed()),
        };
        prop::option::weighted(given, text.prop_map(move |text| (name, text))).boxed()
    };
    let members: Vec<_> = columns.iter().map(member).collect();
    members.prop_map(|members| members.into_iter().flatten().collect()).boxed()
}

/// Precondition of a change, independent of the versions that an engine assigns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Before {
    Anything,
    Absent,
    Present,
    /// The version that was last returned.
    LastReturned,
    /// A version that no row has.
    Nonexistent,
}

/// A random change.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    of_things: bool,
    operation: Operation,
    key: usize,
    id: usize,
    members: Vec<(&'static str, &'static str)>,
    before: Before,
    idempotency: Option<u8>,
    wants_row: bool,
}

/// Ways to send changes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SendMode {
    /// One after the other.
    Singly,
    /// All at once.
    Together,
    /// All at once, atomically per shard.
    AtomicPerShard,
}

pub(crate) type Step = (SendMode, Vec<Draft>);

/// Random upserts of whole rows, without conditions.
pub(crate) fn plain() -> impl Strategy<Value = Draft> {
    let place = (any::<bool>(), 0..KEYS.len(), 0..3_usize);
    (place, any::<bool>()).prop_flat_map(|((of_things, key, id), wants_row)| {
        members(of_things).prop_map(move |mut members| {
            if of_things && members.iter().all(|(name, _)| *name != "must") {
                members.push(("must", r#""there""#));
            }
            let (operation, before, idempotency) = (Operation::Upsert, Before::Anything, None);
            Draft { of_things, operation, key, id, members, before, idempotency, wants_row }
        })
    })
}

fn draft() -> impl Strategy<Value = Draft> {
    use Operation::{Delete, Insert, Update, Upsert};
    let operation = prop::sample::select(vec![Upsert, Upsert, Insert, Insert, Update, Delete]);
    let before = prop_oneof![
        6 => Just(Before::Anything),
        1 => Just(Before::Absent),
        1 => Just(Before::Present),
        2 => Just(Before::LastReturned),
        1 => Just(Before::Nonexistent),
    ];
    let place = (any::<bool>(), 0..KEYS.len(), 0..3_usize);
    let rest = (operation, before, prop::option::weighted(0.2, 0..6_u8), any::<bool>());
    (place, rest).prop_flat_map(|((of_things, key, id), (operation, before, token, wants_row))| {
        members(of_things).prop_map(move |members| {
            let members = if operation == Delete { Vec::new() } else { members };
            let idempotency = token;
            Draft { of_things, operation, key, id, members, before, idempotency, wants_row }
        })
    })
}

/// Random sequences of changes.
pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let mode = prop::sample::select(vec![
        SendMode::Singly,
        SendMode::Together,
        SendMode::Together,
        SendMode::AtomicPerShard,
    ]);
    let drafts = prop_oneof![
        3 => proptest::collection::vec(draft(), 1..12),
        1 => proptest::collection::vec(plain(), 1..12),
    ];
    proptest::collection::vec((mode, drafts), 1..7)
}

impl Draft {
    pub(crate) fn table(&self) -> &'static str {
        if self.of_things { "things" } else { "pairs" }
    }

    /// Shard key with the prefix of the test.
    pub(crate) fn key(&self, prefix: &str) -> String {
        format!("{prefix}{}", KEYS[self.key])
    }

    fn id(&self) -> String {
        if self.of_things {
            return format!(r#""id":{}"#, [r#""""#, r#""é\"""#, r#""z""#][self.id]);
        }
        let (number, at, who) = (NUMBERS[self.id], TIMES[self.id], UUIDS[self.id]);
        format!(r#""number":{number},"at":{at},"who":{who}"#)
    }

    /// Returns table, shard key and id of the row, as indexes.
    pub(crate) fn row(&self) -> (bool, usize, usize) {
        (self.of_things, self.key, self.id)
    }

    /// Prepares the change for a cluster that has returned these versions.
    pub(crate) fn prepare(
        &self,
        manager: &Manager,
        prefix: &str,
        versions: &HashMap<(bool, usize, usize), i64>,
    ) -> (KeyLocation, RowWrite) {
        let members = self.members.iter().map(|(name, text)| format!(r#","{name}":{text}"#));
        let json = format!("{{{}{}}}", self.id(), members.collect::<String>());
        let key = self.key(prefix);
        let (place, mut row) = prepare(manager, self.table(), self.operation, &key, &json);
        let last_returned = versions.get(&self.row()).copied().unwrap_or(i64::MAX);
        row.precondition = match self.before {
            Before::Anything => None,
            Before::Absent => Some(Precondition::Absent),
            Before::Present => Some(Precondition::Present),
            Before::LastReturned => Some(Precondition::Versions(vec![i64::MAX - 1, last_returned])),
            Before::Nonexistent => Some(Precondition::Versions(vec![i64::MAX])),
        };
        row.idempotency_key = self.idempotency.map(|token| format!("{prefix}{token}"));
        row.wants_row = self.wants_row;
        (place, row)
    }
}
