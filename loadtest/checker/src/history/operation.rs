//! Operation: one write, delete or read of one row, from the first byte of the request to the end
//! of the response.
//!
//! **Invariant:** an [`Operation`] has at most 64 bytes, so a million operations fit in 64 MB.
//! **Not here:** deciding whether operations contradict each other (the checks), the names of keys
//! and nodes (`names`, `nodes`).

use std::fmt;
use std::str::FromStr;

use super::{Key, NodeId};

/// End time of an operation without a response whose session did not give up either.
pub const NEVER: u64 = u64::MAX;

/// Request about one row, and its response.
///
/// A bulk write of twenty rows is recorded as twenty operations with the same `request`. A write
/// that is sent several times with the same idempotency key is one operation, which lasts from the
/// first attempt to the response that decided its outcome. If an attempt without a response is
/// followed by a refusal, the outcome is [`Outcome::Unknown`], because the first attempt may still
/// reach the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Key of the row.
    pub key: Key,
    /// Number of the session that sent the request, counted from 1.
    pub session: u32,
    /// Time at which the first byte was sent.
    pub start: u64,
    /// Time at which the response came or the session gave up; [`NEVER`] if neither happened.
    pub end: u64,
    /// Value of the operation. For a write, the value sent. For a delete, a unique value that is
    /// not sent and identifies the delete. For a read, the value returned, or [`Value::NONE`] if
    /// there was no row. For a replay, the value of the write or delete that is sent again.
    pub value: Value,
    /// Version in the response; 0 if there is none.
    pub version: u64,
    /// Value of `if_version` of a conditional write; 0 if there is no condition.
    pub based_on: u64,
    /// The number of the request within its session.
    pub request: u32,
    /// Value of the header `x-max-staleness-ms` of a read; 0 if there is none.
    pub bound_ms: u32,
    /// Node that responded.
    pub node: NodeId,
    /// Number of times that the request was sent; 255 stands for 255 or more.
    pub attempts: u8,
    /// Kind of the operation.
    pub kind: Kind,
    /// Requested level.
    pub level: Level,
    /// Outcome of the operation.
    pub outcome: Outcome,
    /// True if the guarantees of the session apply to the operation: it was sent with the session's
    /// token (if the session already had one), and the session kept the token of the response.
    pub token: bool,
    /// True for a read after the last write of the run.
    pub last: bool,
}

const _: () = assert!(size_of::<Operation>() <= 64, "a million operations are 64 MB");

impl Operation {
    /// Creates an operation at level `one` that was sent once and succeeded; tests and recorders
    /// then set the fields that differ.
    #[inline]
    pub fn new(kind: Kind, key: Key, session: u32, request: u32) -> Self {
        Self {
            key,
            session,
            start: 0,
            end: NEVER,
            value: Value::NONE,
            version: 0,
            based_on: 0,
            request,
            bound_ms: 0,
            node: NodeId::NONE,
            attempts: 1,
            kind,
            level: Level::One,
            outcome: Outcome::Ok,
            token: false,
            last: false,
        }
    }

    /// Returns true if the operation is a write or a delete.
    #[inline]
    pub fn changes(&self) -> bool {
        matches!(self.kind, Kind::Write | Kind::Delete)
    }

    /// Returns true if the operation is a change that was acknowledged as stored.
    pub fn is_acknowledged(&self) -> bool {
        self.changes() && matches!(self.outcome, Outcome::Ok | Outcome::Committed)
    }

    /// Returns true if the operation is a read that succeeded.
    pub fn is_answered_read(&self) -> bool {
        self.kind == Kind::Read && self.outcome == Outcome::Ok
    }

    /// Returns true if the operation is a successful read that found no row.
    pub fn is_absent_read(&self) -> bool {
        self.is_answered_read() && self.value == Value::NONE
    }

    /// Returns true if the operation is a read that must be linearizable.
    pub fn is_strong_read(&self) -> bool {
        self.is_answered_read() && (self.level != Level::One || self.last)
    }
}

/// Kind of the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Kind {
    /// An insert, update or upsert that gives the row this value.
    Write,
    /// A delete of the row.
    Delete,
    /// A read of the row.
    Read,
    /// A repetition of an acknowledged write or delete with its idempotency key.
    Replay,
}

/// Requested consistency level.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Level {
    /// Writes: acknowledged by the primary. Reads: from any replica whose state is no older than
    /// the session's token and the staleness bound allow.
    One,
    /// Writes: acknowledged by a majority. Reads: linearizable.
    Quorum,
    /// Writes: acknowledged by every node. Reads: from the primary, linearizable.
    All,
}

/// Outcome of an operation, as far as its session knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Outcome {
    /// The operation succeeded at the requested level.
    Ok,
    /// The write is stored, but at a lower level than requested (`"outcome":"committed"`, TSR205).
    Committed,
    /// The change or read did not happen, according to the response.
    Rejected,
    /// The change may have happened, or may still happen.
    Unknown,
}

impl Kind {
    /// Returns the name of the kind, for reports and for the lines of a file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Delete => "delete",
            Self::Read => "read",
            Self::Replay => "replay",
        }
    }
}

impl Level {
    /// All levels, the weakest first.
    pub const ALL: [Self; 3] = [Self::One, Self::Quorum, Self::All];

    /// Returns the value of the header `x-consistency`.
    #[inline]
    pub fn name(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Quorum => "quorum",
            Self::All => "all",
        }
    }
}

impl Outcome {
    /// Returns the name of the outcome, for reports and for the lines of a file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Committed => "committed",
            Self::Rejected => "rejected",
            Self::Unknown => "unknown",
        }
    }
}

/// Value that is unique among all attempted writes of a run, sent as `session:number`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(u64);

impl Value {
    /// No value: the row is absent.
    pub const NONE: Self = Self(0);
    /// Value that stands for content that is not a value of the form `session:number`.
    pub const FOREIGN: Self = Self(u64::MAX);

    /// Returns the value with this number within its session. Sessions are numbered from 1.
    #[inline]
    pub fn new(session: u32, number: u32) -> Self {
        debug_assert!(session > 0, "session 0 would make the absent value");
        Self(u64::from(session) << 32 | u64::from(number))
    }

    /// Parses the value of a row in a response. Any other string becomes [`Value::FOREIGN`], which
    /// differs from all values of the run.
    pub fn from_wire(text: &str) -> Self {
        text.parse().unwrap_or(Self::FOREIGN)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NONE => out.write_str("absent"),
            Self::FOREIGN => out.write_str("foreign"),
            Self(raw) => write!(out, "{}:{}", raw >> 32, raw & u64::from(u32::MAX)),
        }
    }
}

impl FromStr for Value {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        match text {
            "absent" => return Ok(Self::NONE),
            "foreign" => return Ok(Self::FOREIGN),
            _ => {}
        }
        let (session, number) = text.split_once(':').ok_or(BadValue)?;
        let value = Self::new_checked(
            session.parse().map_err(|_| BadValue)?,
            number.parse().map_err(|_| BadValue)?,
        );
        value.filter(|value| *value != Self::FOREIGN).ok_or(BadValue)
    }
}

impl Value {
    fn new_checked(session: u32, number: u32) -> Option<Self> {
        (session > 0).then(|| Self::new(session, number))
    }
}

/// Error for a string that is not of the form `session:number`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadValue;

impl fmt::Display for BadValue {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a value is written as session:number, both 32 bits, the session from 1")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_survives_the_wire_and_nonsense_is_foreign() {
        for value in [Value::new(1, 0), Value::new(12, 345), Value::new(u32::MAX, 7)] {
            assert_eq!(Value::from_wire(&value.to_string()), value);
        }
        for nonsense in ["", ":", "0:1", "1", "1:2:3", "a:b", "-1:2", "4294967296:1", "foreign"] {
            assert_eq!(Value::from_wire(nonsense), Value::FOREIGN, "{nonsense}");
        }
        assert_eq!(Value::NONE.to_string().parse(), Ok(Value::NONE));
    }
}
