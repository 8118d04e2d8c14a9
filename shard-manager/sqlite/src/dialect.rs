//! Dialect: the SQL and the values of reads where SQLite differs from other engines.
//!
//! **Invariant:** lists and patterns are one parameter each, so that the text does not depend on
//! their values.
//! **Not here:** the rest of a statement (`engine::select`), running a statement (`reader`),
//! statements that write (`sql`).

use std::fmt::Write as _;

use engine::select::{self, Dialect, like_pattern, spell_pattern};
use model::keyspace::Slot;
use model::query::Pattern;
use model::value::{ColumnType, Value, push_json_number, push_json_string};

use super::connection::Bind;

/// SQLite's [`Dialect`].
pub(super) struct SqliteDialect;

/// A read of a file.
pub(super) type Select<'q> = select::Select<'q, SqliteDialect>;

/// A value to bind: borrowed from the query, or a text built from it.
#[derive(Debug)]
pub(super) enum ReadBind<'q> {
    Borrowed(Bind<'q>),
    Text(String),
}

/// Returns the values of a read in the form that a statement takes.
pub(super) fn binds<'s>(select: &'s Select<'_>) -> Vec<Bind<'s>> {
    let binds = select.binds.iter().map(|bind| match bind {
        ReadBind::Borrowed(bind) => *bind,
        ReadBind::Text(text) => Bind::Text(text),
    });
    binds.collect()
}

impl Dialect for SqliteDialect {
    type Bind<'q> = ReadBind<'q>;

    const PARAMETER: char = '?';
    const DEADLINE_CHECK: Option<&'static str> = Some("tessera_in_time()");
    const IS_SAME: &'static str = " IS ";
    const IS_TRUE: &'static str = " IS 1";
    const IS_FALSE: &'static str = " IS 0";
    const IN_LIST: [&'static str; 2] = [" IN (SELECT value FROM json_each(", "))"];
    // LIKE is not case-sensitive in SQLite; GLOB is.
    const LIKE: [&'static str; 2] = [" GLOB ", ""];
    const ILIKE: [&'static str; 2] = [" LIKE ", " ESCAPE '\\'"];
    // Makes the limit an expression: SQLite uses the value of a bare LIMIT parameter for its plan,
    // and plans again whenever that parameter is bound, which triples the cost of a point read.
    const AFTER_LIMIT: &'static str = "+0";

    fn slot<'q>(slot: Slot) -> ReadBind<'q> {
        ReadBind::Borrowed(Bind::Int(i64::from(slot.number())))
    }

    fn key(key: &str) -> ReadBind<'_> {
        ReadBind::Borrowed(Bind::Text(key))
    }

    fn row_count<'q>(count: i64) -> ReadBind<'q> {
        ReadBind::Borrowed(Bind::Int(count))
    }

    fn value(_: ColumnType, value: &Value) -> ReadBind<'_> {
        ReadBind::Borrowed(Bind::from(value))
    }

    fn list(_: ColumnType, values: &[Value]) -> ReadBind<'_> {
        ReadBind::Text(json_array(values))
    }

    fn like<'q>(pattern: &Pattern) -> ReadBind<'q> {
        ReadBind::Text(glob_pattern(pattern))
    }

    fn ilike<'q>(pattern: &Pattern) -> ReadBind<'q> {
        ReadBind::Text(like_pattern(pattern))
    }

    /// Appends pairs of slot and key, so that each key is looked up in its own slot alone.
    fn push_keys<'q>(select: &mut Select<'q>, keys: &'q [(Slot, String)]) {
        select.push("(slot,shard_key) IN (SELECT value->>0,value->>1 FROM json_each(");
        select.bind(ReadBind::Text(json_pairs(keys)));
        select.push("))");
    }
}

fn glob_pattern(pattern: &Pattern) -> String {
    spell_pattern(pattern, ["?", "*"], |out, c| match c {
        '*' | '?' | '[' => {
            let _ = write!(out, "[{c}]");
        }
        c => out.push(c),
    })
}

fn json_array(values: &[Value]) -> String {
    let mut out = Vec::with_capacity(values.len() * 8 + 2);
    out.push(b'[');
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        match value {
            Value::Null => out.extend_from_slice(b"null"),
            // SQLite stores booleans as 1 and 0.
            Value::Bool(truth) => push_json_number(&mut out, i64::from(*truth)),
            Value::Int(number) => push_json_number(&mut out, *number),
            Value::Double(number) => push_json_number(&mut out, *number),
            Value::Text(text) => push_json_string(&mut out, text),
        }
    }
    out.push(b']');
    String::from_utf8(out).expect("made of strings and digits")
}

fn json_pairs(keys: &[(Slot, String)]) -> String {
    let mut out = Vec::with_capacity(keys.len() * 24 + 2);
    for (index, (slot, key)) in keys.iter().enumerate() {
        out.extend_from_slice(if index == 0 { b"[[" } else { b",[" });
        push_json_number(&mut out, slot.number());
        out.push(b',');
        push_json_string(&mut out, key);
        out.push(b']');
    }
    out.push(b']');
    String::from_utf8(out).expect("made of strings and digits")
}

#[cfg(test)]
mod tests;
