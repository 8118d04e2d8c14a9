//! Chain: writes the lines of an audit log so that each line contains the hash of the line before
//! it.
//!
//! The hash of a line is the SHA-256 of its text up to the member `hash`. This text includes the
//! member `prev`, the hash of the line before it.
//!
//! **Invariant:** the first line of a log has the number 1 and each further line the next number,
//! across restarts of the router and across files.
//! **Not here:** the verification of a chain (`check`).

use std::fmt::{self, Write as _};

use ring::digest;

use super::event::{AuditEvent, AuditKeys};
use super::line::{LineWriter, push_hex, time};

/// Hash of a line: the SHA-256 of its text up to the member `hash`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ChainHash([u8; ChainHash::LEN]);

impl ChainHash {
    /// Number of bytes of a hash.
    const LEN: usize = 32;
    /// Number of hexadecimal digits of a hash.
    pub const DIGITS: usize = 2 * Self::LEN;
    /// Value of `prev` in the first line of a log, which has no line before it.
    pub const NONE: Self = Self([0; Self::LEN]);

    pub(super) fn of(text: &[u8]) -> Self {
        let mut bytes = [0; Self::LEN];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, text).as_ref());
        Self(bytes)
    }

    /// Parses a hash from [`ChainHash::DIGITS`] hexadecimal digits in lower case.
    pub fn parse(text: &str) -> Option<Self> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        if text.len() != Self::DIGITS {
            return None;
        }
        let mut bytes = [0; Self::LEN];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Position in a chain: the number and the hash of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainPoint {
    /// Number of the line, from 1; 0 before the first line.
    pub number: u64,
    /// Hash of the line.
    pub hash: ChainHash,
}

impl ChainPoint {
    /// Position before the first line.
    pub const BEFORE_FIRST: Self = Self { number: 0, hash: ChainHash::NONE };
}

/// Name of a log, and the number and hash of its last line, as the catalog keeps them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditHead {
    /// Name of the log.
    pub log: Box<str>,
    /// Last line of the log.
    pub point: ChainPoint,
}

/// Content of a line.
#[derive(Clone, Copy, Debug)]
pub enum AuditEntry<'e> {
    /// A router began to write the log. If the line before is not an `End`, the previous router
    /// stopped without ending the log, for example because it was killed.
    Start {
        /// Version of the router.
        version: &'e str,
        /// Number of bytes of an incomplete last line that was removed at this start.
        torn_bytes: u64,
    },
    /// A new file of the log begins.
    File,
    /// Number of events that were lost, because too many events were waiting or the file could not
    /// be written.
    Lost(u64),
    /// The router stops writing the log.
    End,
    /// A request ended, with or without a response.
    Request(&'e AuditEvent),
}

/// State of a chain to which lines are appended.
#[derive(Debug)]
pub struct AuditChain {
    log: Box<str>,
    last: ChainPoint,
}

impl AuditChain {
    /// Number of random bytes in the name of a log.
    pub const NAME_LEN: usize = 16;

    /// Begins the chain of a new log, whose name consists of these random bytes.
    pub fn begin(random: &[u8; Self::NAME_LEN]) -> Self {
        let mut log = String::with_capacity(2 * Self::NAME_LEN);
        push_hex(&mut log, random);
        Self { log: log.into(), last: ChainPoint::BEFORE_FIRST }
    }

    /// Continues a chain after its last line.
    pub fn resume(head: AuditHead) -> Self {
        Self { log: head.log, last: head.point }
    }

    /// Returns the name of the log, and the number and hash of its last line.
    pub fn head(&self) -> AuditHead {
        AuditHead { log: self.log.clone(), point: self.last }
    }

    /// Returns the number and hash of the last line.
    pub fn last(&self) -> ChainPoint {
        self.last
    }

    /// Sets the last line back to an earlier one, because the lines after it could not be written.
    pub fn rewind(&mut self, last: ChainPoint) {
        self.last = last;
    }

    /// Appends the next line to `out`, including its newline.
    pub fn push(
        &mut self,
        out: &mut String,
        time_ms: u64,
        entry: AuditEntry<'_>,
        keys: &AuditKeys,
    ) {
        let start = out.len();
        let number = self.last.number + 1;
        let _ = write!(out, "{{\"seq\":{number}");
        let mut line = LineWriter(out);
        line.text("time", &time(time_ms));
        match entry {
            AuditEntry::Start { version, torn_bytes } => {
                line.text("event", "start");
                line.text("log", &self.log);
                line.text("version", version);
                if torn_bytes > 0 {
                    line.number("torn_bytes", torn_bytes);
                }
            }
            AuditEntry::File => {
                line.text("event", "file");
                line.text("log", &self.log);
            }
            AuditEntry::Lost(count) => {
                line.text("event", "lost");
                line.number("count", count);
            }
            AuditEntry::End => line.text("event", "end"),
            AuditEntry::Request(event) => {
                line.text("event", "request");
                event.write(&mut line, keys);
            }
        }
        line.hex("prev", &self.last.hash.0);
        let hash = ChainHash::of(&out.as_bytes()[start..]);
        LineWriter(out).hex("hash", &hash.0);
        out.push_str("}\n");
        self.last = ChainPoint { number, hash };
    }
}
