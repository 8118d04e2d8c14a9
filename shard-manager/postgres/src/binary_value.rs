//! Binary value: one value in PostgreSQL's binary form, and as JSON.
//!
//! **Invariant:** the JSON of a value equals, byte for byte, the JSON of the same value in the
//! SQLite engine.
//! **Not here:** the columns of rows (`statement`, `key_reads`, `json_rows`).

use std::borrow::Cow;

use model::value::{ColumnType, Value, push_json_number, push_json_string};

use super::timestamp;

/// Appends a value, which is not null.
pub(super) fn encode(out: &mut Vec<u8>, kind: ColumnType, value: &Value) {
    match (kind, value) {
        (ColumnType::Timestamp, Value::Text(text)) => {
            out.extend_from_slice(&timestamp::read(text).to_be_bytes());
        }
        (ColumnType::Uuid, Value::Text(text)) => {
            // It was checked in the request; the server would refuse an invalid UUID.
            let uuid = uuid::Uuid::try_parse(text).unwrap_or_default();
            out.extend_from_slice(uuid.as_bytes());
        }
        (_, Value::Text(text)) => out.extend_from_slice(text.as_bytes()),
        (_, Value::Int(number)) => out.extend_from_slice(&number.to_be_bytes()),
        (_, Value::Double(number)) => out.extend_from_slice(&number.to_be_bytes()),
        (_, Value::Bool(truth)) => out.push(u8::from(*truth)),
        (_, Value::Null) => {}
    }
}

/// Decodes a whole number of 64 or 32 bits.
pub(super) fn bigint(bytes: &[u8]) -> i64 {
    match bytes.try_into().map(i64::from_be_bytes) {
        Ok(number) => number,
        Err(_) => bytes.try_into().map_or(0, |bytes| i64::from(i32::from_be_bytes(bytes))),
    }
}

/// Decodes a floating-point number of 64 bits.
pub(super) fn double(bytes: &[u8]) -> f64 {
    bytes.try_into().map_or(0.0, f64::from_be_bytes)
}

fn uuid(bytes: &[u8]) -> uuid::Uuid {
    uuid::Uuid::from_slice(bytes).unwrap_or_default()
}

/// Decodes a value that is not null.
pub(super) fn decode(kind: ColumnType, bytes: &[u8]) -> Value {
    match kind {
        ColumnType::Text | ColumnType::Json | ColumnType::Timestamp | ColumnType::Uuid => {
            Value::Text(text(kind, bytes).into_owned())
        }
        ColumnType::Bigint => Value::Int(bigint(bytes)),
        ColumnType::Double => Value::Double(double(bytes)),
        ColumnType::Boolean => Value::Bool(bytes == [1]),
    }
}

/// Returns the text of a value that is not null.
pub(super) fn text(kind: ColumnType, bytes: &[u8]) -> Cow<'_, str> {
    match kind {
        ColumnType::Text | ColumnType::Json => String::from_utf8_lossy(bytes),
        ColumnType::Timestamp => {
            let mut text = Vec::with_capacity(27);
            timestamp::write(&mut text, bigint(bytes));
            String::from_utf8_lossy(&text).into_owned().into()
        }
        ColumnType::Uuid => uuid(bytes).hyphenated().to_string().into(),
        ColumnType::Bigint => bigint(bytes).to_string().into(),
        ColumnType::Double => double(bytes).to_string().into(),
        ColumnType::Boolean => (bytes == [1]).to_string().into(),
    }
}

/// Appends a value that is not null as JSON.
pub(super) fn push_json(out: &mut Vec<u8>, kind: ColumnType, bytes: &[u8]) {
    match kind {
        ColumnType::Text => push_json_string(out, &String::from_utf8_lossy(bytes)),
        ColumnType::Json => out.extend_from_slice(bytes),
        ColumnType::Timestamp => {
            out.push(b'"');
            timestamp::write(out, bigint(bytes));
            out.push(b'"');
        }
        ColumnType::Uuid => {
            let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
            let text = uuid(bytes).hyphenated().encode_lower(&mut text);
            push_json_string(out, text);
        }
        ColumnType::Bigint => push_json_number(out, bigint(bytes)),
        ColumnType::Double => push_json_number(out, double(bytes)),
        ColumnType::Boolean => {
            out.extend_from_slice(if bytes == [1] { b"true" } else { b"false" });
        }
    }
}

/// Returns an array of `length` elements. `body` contains them in binary form, each preceded by its
/// length. Without a type, the elements are 32-bit integers.
pub(super) fn array(kind: Option<ColumnType>, length: usize, body: &[u8]) -> Vec<u8> {
    let mut array = Array::of_type(kind.map_or(INTEGER, oid), length);
    array.bytes.extend_from_slice(body);
    array.finish()
}

/// An array of one dimension under construction.
pub(super) struct Array {
    bytes: Vec<u8>,
}

/// Returns the object id of a type, which is the same on every server (`pg_type.dat`).
pub(super) const fn oid(kind: ColumnType) -> u32 {
    match kind {
        ColumnType::Text => 25,
        ColumnType::Bigint => 20,
        ColumnType::Double => 701,
        ColumnType::Boolean => 16,
        ColumnType::Timestamp => 1184,
        ColumnType::Json => 114,
        ColumnType::Uuid => 2950,
    }
}
/// Object id of whole numbers of 32 bits.
pub(super) const INTEGER: u32 = 23;

impl Array {
    /// Creates an array for this number of values of a type.
    pub(super) fn of(kind: ColumnType, length: usize) -> Self {
        Self::of_type(oid(kind), length)
    }

    /// Creates an array for this number of whole numbers of 32 bits.
    pub(super) fn of_integers(length: usize) -> Self {
        Self::of_type(INTEGER, length)
    }

    /// Creates an array for this number of elements of the type with this object id.
    pub(super) fn of_type(oid: u32, length: usize) -> Self {
        let mut bytes = Vec::with_capacity(20 + 12 * length);
        let dimensions = u32::from(length > 0);
        // Number of dimensions, the flag for nulls, the type; then length and lower bound of the
        // dimension.
        [dimensions, 1, oid].iter().for_each(|word| bytes.extend_from_slice(&word.to_be_bytes()));
        if length > 0 {
            [length as u32, 1].iter().for_each(|word| bytes.extend_from_slice(&word.to_be_bytes()));
        }
        Self { bytes }
    }

    /// Adds the bytes that `write` appends.
    pub(super) fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        write(&mut self.bytes);
        let length = (self.bytes.len() - start - 4) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }

    /// Adds null.
    pub(super) fn push_null(&mut self) {
        self.bytes.extend_from_slice(&u32::MAX.to_be_bytes());
    }

    /// Returns the bytes of the array.
    pub(super) fn finish(self) -> Vec<u8> {
        self.bytes
    }
}
