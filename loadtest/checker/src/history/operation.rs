//! Operation: one write, delete or read of one row, from the first byte of the request to the end
//! of the response.
//!
//! **Invariant:** an [`Operation`] has at most 64 bytes, so a million fits in 64 MB.
//! **Not here:** the consequences of an operation for others (the checks), the names of keys and
//! nodes (`names`, `nodes`).

use std::fmt;
use std::str::FromStr;

use super::{Key, NodeId};

/// End time of an operation that was never answered.
pub const NEVER: u64 = u64::MAX;

/// Request about one row, and its response.
///
/// A bulk of twenty rows is twenty operations with one `request`. Sends of one write with the same
/// idempotency key are one operation, from the first send to the answer that settled it: an
/// attempt without an answer followed by a refusal is [`Outcome::Unknown`], because the first
/// attempt may still arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The row.
    pub key: Key,
    /// Session that sent the request, from 1.
    pub session: u32,
    /// Time at which the first byte was sent.
    pub start: u64,
    /// Time of the response, or at which the session gave up; [`NEVER`] without either.
    pub end: u64,
    /// Value of the operation. Write: the value sent. Delete: a value that is never sent and
    /// identifies the delete. Read: the value returned, or [`Value::NONE`] if the row was absent.
    /// Replay: the value of the write or delete that is sent again.
    pub value: Value,
    /// Version in the response; 0 without one.
    pub version: u64,
    /// The `if_version` of a conditional write; 0 without a condition.
    pub based_on: u64,
    /// The number of the request within its session.
    pub request: u32,
    /// The `x-max-staleness-ms` of a read; 0 without one.
    pub bound_ms: u32,
    /// Node that answered.
    pub node: NodeId,
    /// Number of times it was sent; 255 stands for more.
    pub attempts: u8,
    /// Kind of the operation.
    pub kind: Kind,
    /// Requested level.
    pub level: Level,
    /// Outcome of the operation.
    pub outcome: Outcome,
    /// True if it belongs to the order of its session: it was sent with the session's token (once
    /// there was one), and the session kept the token of the response.
    pub token: bool,
    /// True for a read after the last write of the run.
    pub last: bool,
}

const _: () = assert!(size_of::<Operation>() <= 64, "a million operations are 64 MB");

impl Operation {
    /// Creates a plain operation at level `one` that was sent once and succeeded, from which tests
    /// and recorders start.
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

    /// Returns true if it is a write or a delete.
    #[inline]
    pub fn changes(&self) -> bool {
        matches!(self.kind, Kind::Write | Kind::Delete)
    }

    /// Returns whether it is a change that was acknowledged as stored.
    pub fn is_acknowledged(&self) -> bool {
        self.changes() && matches!(self.outcome, Outcome::Ok | Outcome::Committed)
    }

    /// Returns whether it is a read that was answered.
    pub fn is_answered_read(&self) -> bool {
        self.kind == Kind::Read && self.outcome == Outcome::Ok
    }

    /// Returns whether it is a read that found no row.
    pub fn is_absent_read(&self) -> bool {
        self.is_answered_read() && self.value == Value::NONE
    }

    /// Returns true if it is a read that must be linearizable.
    pub fn is_strong_read(&self) -> bool {
        self.is_answered_read() && (self.level != Level::One || self.last)
    }
}

/// Kind of the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Kind {
    /// The row was to have this value: insert, update or upsert.
    Write,
    /// The row was to be absent.
    Delete,
    /// The row was read.
    Read,
    /// A write or delete that had been acknowledged was sent again with its idempotency key.
    Replay,
}

/// Requested consistency level.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Level {
    /// Writes: the primary. Reads: any replica, no older than token and bound allow.
    One,
    /// Writes: a majority. Reads: linearizable.
    Quorum,
    /// Writes: every node. Reads: the primary, linearizable.
    All,
}

/// Outcome of an operation as its session knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Outcome {
    /// Done at the requested level.
    Ok,
    /// A write is stored, at a lower level than requested (`"outcome":"committed"`, TSR205).
    Committed,
    /// The change or read did not happen, as the response says.
    Rejected,
    /// The change may have happened, or may still happen.
    Unknown,
}

impl Kind {
    /// Returns the name of the kind, for people and in lines.
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
    /// Returns the name of the outcome, for people and in lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Committed => "committed",
            Self::Rejected => "rejected",
            Self::Unknown => "unknown",
        }
    }
}

/// Value that is unique among all attempted writes of a run: `session:number` on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(u64);

impl Value {
    /// No value: the row is absent.
    pub const NONE: Self = Self(0);
    /// Value that no run writes.
    pub const FOREIGN: Self = Self(u64::MAX);

    /// Returns the value with this number within its session. Sessions are numbered from 1.
    #[inline]
    pub fn new(session: u32, number: u32) -> Self {
        debug_assert!(session > 0, "session 0 would make the absent value");
        Self(u64::from(session) << 32 | u64::from(number))
    }

    /// Returns the value of a row as read from a response: any other text is [`Value::FOREIGN`],
    /// which no check takes for a value of this run.
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

/// Error of a text that is not a `session:number`.
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
