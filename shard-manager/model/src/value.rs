//! Values: values of columns, parsed from JSON or from plain text, and formatted as JSON.
//!
//! Values are checked and converted to one canonical form here, before any database receives them,
//! so that SQLite and PostgreSQL accept, refuse and store the same values.
//!
//! **Invariant:** no [`Value`] contains U+0000, a number that is not finite, or JSON that does not
//! parse.
//! **Not here:** SQL types and binding (`postgres`, `sqlite`); the columns of a table (`table`).

mod json_scan;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

use chrono::{DateTime, Datelike, SecondsFormat, Utc};
use serde_json::value::RawValue;

/// Type of a column in the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ColumnType {
    /// UTF-8 text without U+0000, compared byte by byte.
    Text,
    /// A signed integer of 64 bits.
    Bigint,
    /// A finite floating-point number (IEEE 754 binary64).
    Double,
    /// `true` or `false`.
    Boolean,
    /// An instant, stored as RFC 3339 text in UTC with microseconds. In this form the byte order of
    /// two values is their order in time.
    Timestamp,
    /// Any JSON value, stored as it was sent, but without white space between tokens.
    Json,
    /// A UUID, stored in the hyphenated lower-case form.
    Uuid,
}

impl ColumnType {
    /// Returns the name in responses and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Bigint => "bigint",
            Self::Double => "double",
            Self::Boolean => "boolean",
            Self::Timestamp => "timestamp",
            Self::Json => "json",
            Self::Uuid => "uuid",
        }
    }

    /// Returns true if values of the type can be compared and sorted.
    pub fn is_comparable(self) -> bool {
        self != Self::Json
    }

    /// Parses a value from the JSON of a body.
    ///
    /// # Errors
    /// [`TypeMismatch`] if the JSON has another type, is out of range or contains U+0000.
    pub fn read_json(self, json: &RawValue) -> Result<Value, TypeMismatch> {
        let raw = json.get();
        if raw == "null" && self != Self::Json {
            return Ok(Value::Null);
        }
        let wrong = || TypeMismatch::Type { expected: self, found: json_type(raw) };
        match self {
            Self::Text => Ok(Value::Text(json_string(raw).ok_or_else(wrong)??)),
            Self::Timestamp => timestamp(&json_string(raw).ok_or_else(wrong)??),
            Self::Uuid => uuid(&json_string(raw).ok_or_else(wrong)??),
            Self::Bigint if is_number(raw) => bigint(raw),
            Self::Double if is_number(raw) => double(raw),
            Self::Boolean if raw == "true" => Ok(Value::Bool(true)),
            Self::Boolean if raw == "false" => Ok(Value::Bool(false)),
            Self::Bigint | Self::Double | Self::Boolean => Err(wrong()),
            Self::Json => json_text(raw),
        }
    }

    /// Parses a value from plain text, such as a literal in a filter, a shard key or a CSV field.
    ///
    /// # Errors
    /// [`TypeMismatch`] if the text is not a value of this type.
    pub fn read_text(self, text: &str) -> Result<Value, TypeMismatch> {
        let wrong = || TypeMismatch::Type { expected: self, found: "text" };
        match self {
            Self::Text if text.contains('\0') => Err(TypeMismatch::NulCharacter),
            Self::Text => Ok(Value::Text(text.to_owned())),
            Self::Timestamp => timestamp(text),
            Self::Uuid => uuid(text),
            Self::Bigint => bigint(text),
            Self::Double => double(text),
            Self::Boolean => match text {
                "true" => Ok(Value::Bool(true)),
                "false" => Ok(Value::Bool(false)),
                _ => Err(wrong()),
            },
            Self::Json => json_text(text),
        }
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Checked value in canonical form.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// No value.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A `bigint`.
    Int(i64),
    /// A `double`, which is finite.
    Double(f64),
    /// A `text`, or a `timestamp`, `uuid` or `json` in its canonical text form.
    Text(String),
}

impl Value {
    /// Compares two values of one column, neither of which may be null, because the sort order
    /// determines the place of nulls. Text is compared byte by byte, and numbers are compared
    /// numerically.
    pub fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => a.as_bytes().cmp(b.as_bytes()),
            (Self::Int(a), Self::Int(b)) => a.cmp(b),
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Double(a), Self::Double(b)) => a.partial_cmp(b).unwrap_or(Ordering::Equal),
            (a, b) => a.rank().cmp(&b.rank()),
        }
    }

    /// Returns the shard key of a row whose routing column has this value; `None` for null, which
    /// cannot be a key.
    pub fn key_text(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Null => None,
            Self::Text(text) => Some(Cow::Borrowed(text)),
            Self::Int(number) => Some(Cow::Owned(number.to_string())),
            Self::Bool(truth) => Some(Cow::Owned(truth.to_string())),
            Self::Double(number) => Some(Cow::Owned(number.to_string())),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Bool(_) => 1,
            Self::Int(_) => 2,
            Self::Double(_) => 3,
            Self::Text(_) => 4,
        }
    }
}

/// Reason why a value does not fit its column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TypeMismatch {
    /// The value has another type.
    #[error("expected {expected}, got {found}")]
    Type {
        /// The column's type.
        expected: ColumnType,
        /// Kind of the given value.
        found: &'static str,
    },
    /// The number is not an integer of 64 bits: it is out of range, or has a fraction or an
    /// exponent.
    #[error("expected a whole number from -9223372036854775808 to 9223372036854775807")]
    NotBigint,
    /// The text is not a number, or the number is too large for binary64.
    #[error("expected a finite number")]
    NotDouble,
    /// The text is not an RFC 3339 timestamp, or its year is not 1 to 9999.
    #[error("expected an RFC 3339 timestamp such as 2026-11-21T10:00:00Z")]
    NotTimestamp,
    /// The text is not a UUID.
    #[error("expected a UUID such as 0198c3f2-7f4e-7cc3-9b6d-7e1f5a3c2b10")]
    NotUuid,
    /// A JSON string contains half a surrogate pair, such as the escape `\ud800` alone, which is
    /// not a character.
    #[error("the text holds half a surrogate pair, which is not a character")]
    LoneSurrogate,
    /// The JSON does not parse, or one of its strings contains half a surrogate pair.
    #[error("expected a JSON value")]
    NotJson,
    /// The value contains U+0000. PostgreSQL cannot store this character, so it is refused on files
    /// as well.
    #[error("the character U+0000 cannot be stored")]
    NulCharacter,
    /// The value is null, and the column must have a value.
    #[error("null is not allowed")]
    Null,
}

/// Formats an instant in the canonical form in which it is stored and sent.
pub fn format_timestamp(instant: DateTime<Utc>) -> String {
    instant.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// Appends text as a JSON string literal.
#[inline]
pub fn push_json_string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a string always serialises, and a Vec takes it");
}

/// Appends a number as JSON.
pub fn push_json_number(out: &mut Vec<u8>, number: impl serde::Serialize) {
    serde_json::to_writer(out, &number).expect("a finite number always serialises");
}

/// Appends a value as JSON. All values that are stored as text become JSON strings, even values of
/// json columns.
pub fn push_json(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(truth) => out.extend_from_slice(if *truth { b"true" } else { b"false" }),
        Value::Int(number) => push_json_number(out, *number),
        Value::Double(number) => push_json_number(out, *number),
        Value::Text(text) => push_json_string(out, text),
    }
}

fn json_type(raw: &str) -> &'static str {
    match raw.as_bytes().first() {
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        Some(_) => "a number",
        None => "nothing",
    }
}

fn is_number(raw: &str) -> bool {
    raw.starts_with(|c: char| c == '-' || c.is_ascii_digit())
}

/// Returns the decoded text of a JSON string; `None` if the JSON is not a string.
fn json_string(raw: &str) -> Option<Result<String, TypeMismatch>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if !inner.contains('\\') {
        return Some(Ok(inner.to_owned()));
    }
    Some(match serde_json::from_str::<String>(raw) {
        Ok(text) if text.contains('\0') => Err(TypeMismatch::NulCharacter),
        Ok(text) => Ok(text),
        // The raw value was already parsed as JSON, so the only possible fault is half a surrogate
        // pair.
        Err(_) => Err(TypeMismatch::LoneSurrogate),
    })
}

fn bigint(text: &str) -> Result<Value, TypeMismatch> {
    text.parse().map(Value::Int).map_err(|_| TypeMismatch::NotBigint)
}

fn double(text: &str) -> Result<Value, TypeMismatch> {
    match text.parse::<f64>() {
        // Adding 0.0 turns -0.0 into 0.0, because some databases keep the sign of zero and others
        // do not.
        Ok(number) if number.is_finite() => Ok(Value::Double(number + 0.0)),
        Ok(_) | Err(_) => Err(TypeMismatch::NotDouble),
    }
}

fn timestamp(text: &str) -> Result<Value, TypeMismatch> {
    let instant = DateTime::parse_from_rfc3339(text).map_err(|_| TypeMismatch::NotTimestamp)?;
    // The conversion to microseconds comes first. It moves a leap second to the next minute, as
    // PostgreSQL does.
    let instant = DateTime::from_timestamp_micros(instant.timestamp_micros())
        .ok_or(TypeMismatch::NotTimestamp)?;
    if !(1..=9999).contains(&instant.year()) {
        return Err(TypeMismatch::NotTimestamp);
    }
    Ok(Value::Text(format_timestamp(instant)))
}

fn uuid(text: &str) -> Result<Value, TypeMismatch> {
    let uuid = uuid::Uuid::try_parse(text).map_err(|_| TypeMismatch::NotUuid)?;
    Ok(Value::Text(uuid.hyphenated().to_string()))
}

/// Checks JSON and returns it without white space between its tokens.
fn json_text(raw: &str) -> Result<Value, TypeMismatch> {
    // JSON that was already parsed as a raw value has to be checked as well, because its strings
    // may contain half a surrogate pair.
    if !json_scan::is_json(raw) {
        return Err(TypeMismatch::NotJson);
    }
    if has_nul(raw) {
        return Err(TypeMismatch::NulCharacter);
    }
    Ok(Value::Text(compact(raw).into_owned()))
}

/// Returns true if valid JSON contains U+0000, which is possible only as an escape.
fn has_nul(raw: &str) -> bool {
    let mut rest = raw;
    while let Some(at) = rest.find('\\') {
        let escape = &rest[at + 1..];
        if escape.starts_with("u0000") {
            return true;
        }
        // Skips the escaped character, which may be a backslash itself.
        rest = escape.get(1..).unwrap_or("");
    }
    false
}

/// Removes white space outside strings, so that stored JSON is a single line without unneeded
/// bytes.
fn compact(raw: &str) -> Cow<'_, str> {
    if !raw.contains([' ', '\n', '\t', '\r']) {
        return Cow::Borrowed(raw);
    }
    let mut out = String::with_capacity(raw.len());
    let (mut in_string, mut escaped) = (false, false);
    for c in raw.chars() {
        if in_string {
            out.push(c);
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else if !matches!(c, ' ' | '\n' | '\t' | '\r') {
            out.push(c);
            in_string = c == '"';
        }
    }
    Cow::Owned(out)
}
