//! Cursor: the position of an iteration over a table, as an opaque string that the client sends
//! back to get the next page.
//!
//! ```text
//! base64url( 2 | fingerprint of the query, 8 bytes | value of each sort key | tag of 8 bytes )
//! ```
//! A cursor contains the values of the sort keys of the last row that was returned, never a number
//! of rows to skip ("keyset pagination"; Markus Winand, "We need tool support for keyset
//! pagination"). Therefore rows that exist throughout the iteration are returned exactly once,
//! whatever is written meanwhile, and slots may move between shards during it. The tag is a keyed
//! hash, computed like that of a session token (`token`); the first byte distinguishes cursors from
//! tokens.
//!
//! A client without the right to read all columns gets a sealed cursor (`seal`), in which the
//! values are encrypted: the last sort keys are the columns that identify a row, and the client may
//! not be permitted to see them.
//!
//! ```text
//! base64url( 16 | fingerprint of the query, 8 bytes | sealed values )
//! ```
//!
//! **Invariant:** a cursor that was decoded fits the query: it has as many values as the query has
//! sort keys, and each value has the type of its column. A sealed cursor does not reveal its
//! values.
//! **Not here:** comparing rows with the values (`engine::select`).

mod seal;

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::query::{Comparison, Condition, Piece, ReadQuery, Test, ValueState};
use crate::token::{TAG_LEN, TokenKey};
use crate::value::{ColumnType, Value};

const VERSION: u8 = 2;
const SEALED: u8 = 16;
const FINGERPRINT_LEN: usize = 8;

/// Returns the cursor for a client that has received the rows of `query` up to the row with the
/// sort keys `last`.
pub fn encode(query: &ReadQuery, key: Option<&str>, last: &[Value], secret: &TokenKey) -> String {
    let mut bytes = head(VERSION, query, key);
    last.iter().for_each(|value| push_value(&mut bytes, value));
    let tag = secret.tag(&bytes);
    bytes.extend_from_slice(&tag);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Returns a cursor like that of [`encode`], from which the client cannot read any value of the
/// row.
pub fn encode_sealed(
    query: &ReadQuery,
    key: Option<&str>,
    last: &[Value],
    secret: &TokenKey,
) -> String {
    let mut bytes = head(SEALED, query, key);
    let mut values = Vec::with_capacity(64);
    last.iter().for_each(|value| push_value(&mut values, value));
    let sealed = seal::seal(values, &bytes, secret);
    bytes.extend_from_slice(&sealed);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Returns the part of a cursor that precedes its values.
fn head(version: u8, query: &ReadQuery, key: Option<&str>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    bytes.push(version);
    bytes.extend_from_slice(&fingerprint(query, key).to_le_bytes());
    bytes
}

/// Returns the sort keys of the row after which the next page of `query` begins.
///
/// # Errors
/// [`CursorError`] if `text` is not a cursor of this cluster, or belongs to another query.
pub fn decode(
    text: &str,
    query: &ReadQuery,
    key: Option<&str>,
    secret: &TokenKey,
) -> Result<Vec<Value>, CursorError> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| CursorError::Foreign)?;
    let is_sealed = bytes.first() == Some(&SEALED);
    let opened = if is_sealed { open_sealed(&bytes, secret) } else { open(&bytes, secret) };
    let (mark, values) = opened.ok_or(CursorError::Foreign)?;
    if mark != fingerprint(query, key) {
        return Err(CursorError::OtherQuery);
    }
    let mut rest = &*values;
    let keys = query.sort_keys(key.is_some());
    let values = keys.iter().map(|by| {
        let column = query.table.column(by.column);
        let value = take_value(&mut rest)?;
        fits(&value, column.kind, column.nullable).then_some(value)
    });
    let values: Option<Vec<Value>> = values.collect();
    let is_end = rest.is_empty() || (is_sealed && rest.iter().all(|byte| *byte == seal::PADDING));
    // If the fingerprint matches and the values do not fit the columns, the table was dropped and
    // created again with other columns.
    values.filter(|_| is_end).ok_or(CursorError::OtherQuery)
}

/// Returns the fingerprint and the values of a cursor that is not sealed.
fn open<'b>(bytes: &'b [u8], secret: &TokenKey) -> Option<(u64, Cow<'b, [u8]>)> {
    let (body, tag) = bytes.split_last_chunk::<TAG_LEN>()?;
    if secret.tag(body) != *tag {
        return None;
    }
    let body = body.strip_prefix(&[VERSION])?;
    let (mark, values) = body.split_first_chunk::<FINGERPRINT_LEN>()?;
    Some((u64::from_le_bytes(*mark), Cow::Borrowed(values)))
}

/// Returns the fingerprint and the values of a sealed cursor.
fn open_sealed<'b>(bytes: &'b [u8], secret: &TokenKey) -> Option<(u64, Cow<'b, [u8]>)> {
    let (head, sealed) = bytes.split_at_checked(1 + FINGERPRINT_LEN)?;
    let mark = head.last_chunk::<FINGERPRINT_LEN>()?;
    let values = seal::open(sealed, head, secret)?;
    Some((u64::from_le_bytes(*mark), Cow::Owned(values)))
}

fn fits(value: &Value, kind: ColumnType, nullable: bool) -> bool {
    match (value, kind) {
        (Value::Null, _) => nullable,
        (Value::Bool(_), ColumnType::Boolean)
        | (Value::Int(_), ColumnType::Bigint)
        | (Value::Double(_), ColumnType::Double)
        | (Value::Text(_), ColumnType::Text | ColumnType::Timestamp | ColumnType::Uuid) => true,
        (Value::Bool(_) | Value::Int(_) | Value::Double(_) | Value::Text(_), _) => false,
    }
}

/// Returns a fingerprint that distinguishes queries with different rows or a different order: the
/// table, the key, the conditions and the order. The selected columns and the page size may change
/// during an iteration.
fn fingerprint(query: &ReadQuery, key: Option<&str>) -> u64 {
    let mut text = Vec::with_capacity(128);
    push_text(&mut text, query.table.name());
    match key {
        Some(key) => {
            text.push(1);
            push_text(&mut text, key);
        }
        None => text.push(0),
    }
    for by in &query.order {
        text.push(b'o' + u8::from(by.descending));
        push_text(&mut text, &query.table.column(by.column).name);
    }
    query.conditions.iter().for_each(|condition| push_condition(&mut text, query, condition));
    xxhash_rust::xxh3::xxh3_64(&text)
}

fn push_condition(out: &mut Vec<u8>, query: &ReadQuery, condition: &Condition) {
    let mut push_list = |sign: u8, list: &[Condition]| {
        out.push(sign);
        push_length(out, list.len());
        list.iter().for_each(|condition| push_condition(out, query, condition));
    };
    match condition {
        Condition::All(list) => push_list(b'&', list),
        Condition::Any(list) => push_list(b'|', list),
        Condition::Not(one) => push_list(b'!', std::slice::from_ref(&**one)),
        Condition::Column(column, test) => {
            out.push(b'c');
            push_text(out, &query.table.column(*column).name);
            push_test(out, test);
        }
    }
}

fn push_test(out: &mut Vec<u8>, test: &Test) {
    match test {
        Test::Compare(comparison, value) => {
            out.push(match comparison {
                Comparison::Equal => b'=',
                Comparison::NotEqual => b'#',
                Comparison::Greater => b'>',
                Comparison::GreaterOrEqual => b'g',
                Comparison::Less => b'<',
                Comparison::LessOrEqual => b'l',
            });
            push_value(out, value);
        }
        Test::In(values) => {
            out.push(b'i');
            push_length(out, values.len());
            values.iter().for_each(|value| push_value(out, value));
        }
        Test::Like(pattern) | Test::ILike(pattern) => {
            out.push(if matches!(test, Test::Like(_)) { b'L' } else { b'I' });
            push_length(out, pattern.0.len());
            for piece in &pattern.0 {
                match piece {
                    Piece::Text(text) => {
                        out.push(b't');
                        push_text(out, text);
                    }
                    Piece::One => out.push(b'_'),
                    Piece::Many => out.push(b'%'),
                }
            }
        }
        Test::Is(state) => out.extend_from_slice(match state {
            ValueState::Null => b"sn",
            ValueState::NotNull => b"sv",
            ValueState::True => b"st",
            ValueState::False => b"sf",
        }),
    }
}

const NULL: u8 = 0;
const FALSE: u8 = 1;
const TRUE: u8 = 2;
const INT: u8 = 3;
const DOUBLE: u8 = 4;
const TEXT: u8 = 5;

fn push_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.push(NULL),
        Value::Bool(truth) => out.push(if *truth { TRUE } else { FALSE }),
        Value::Int(number) => {
            out.push(INT);
            out.extend_from_slice(&number.to_le_bytes());
        }
        Value::Double(number) => {
            out.push(DOUBLE);
            out.extend_from_slice(&number.to_le_bytes());
        }
        Value::Text(text) => {
            out.push(TEXT);
            push_text(out, text);
        }
    }
}

fn take_value(bytes: &mut &[u8]) -> Option<Value> {
    let (kind, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(match *kind {
        NULL => Value::Null,
        FALSE => Value::Bool(false),
        TRUE => Value::Bool(true),
        INT => Value::Int(i64::from_le_bytes(take(bytes)?)),
        DOUBLE => Value::Double(f64::from_le_bytes(take(bytes)?)),
        TEXT => {
            let length = u32::from_le_bytes(take(bytes)?) as usize;
            let (text, rest) = bytes.split_at_checked(length)?;
            *bytes = rest;
            Value::Text(std::str::from_utf8(text).ok()?.to_owned())
        }
        6.. => return None,
    })
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*taken)
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    push_length(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

fn push_length(out: &mut Vec<u8>, length: usize) {
    out.extend_from_slice(&(length as u32).to_le_bytes());
}

/// Reason why a string is not a cursor of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// The cursor was not created by this cluster, or is incomplete.
    #[error("this is not a cursor of this cluster")]
    Foreign,
    /// The cursor belongs to another table, key, filter or order.
    #[error("the cursor belongs to another query")]
    OtherQuery,
}
