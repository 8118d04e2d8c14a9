//! Check: verifies the hash chain of an audit log line by line, and reports the first faulty line.
//!
//! **Invariant:** if no fault is found, no line between the first and the last line of the files
//! was changed, removed or added, unless all hashes after the change were recomputed. Lines may be
//! missing at the end. A comparison with the last line that the catalog keeps detects recomputed
//! hashes and a missing end, up to that line.
//! **Not here:** reading the files.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::chain::{AuditHead, ChainHash, ChainPoint};

/// Text between the hashed part of a line and its hash, which is the last member.
const HASH: &[u8] = b",\"hash\":\"";
/// Number of bytes after the hashed part of a line: the member `hash` and the closing brace.
const HASH_MEMBER_LEN: usize = HASH.len() + ChainHash::DIGITS + 2;

/// Fault of a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainFault {
    /// The text is not a line of an audit log.
    #[error("is not a line of an audit log")]
    NotALine,
    /// The text does not match the hash that it contains.
    #[error("was changed: it does not have the hash that stands in it")]
    Changed,
    /// The number of the line does not follow that of the line before it.
    #[error(
        "has the number {found} where {expected} is due: a line was removed, repeated or moved"
    )]
    Order {
        /// The number that must come next.
        expected: u64,
        /// The number in the line.
        found: u64,
    },
    /// The member `prev` differs from the hash of the line before it.
    #[error("does not continue the line before it: one of the two was replaced")]
    Replaced,
    /// The first line of a file is neither a `start` nor a `file` line.
    #[error("is not the beginning of a file: lines before it were removed")]
    NoBeginning,
    /// The line names another log than the lines before it.
    #[error("belongs to another log")]
    OtherLog,
    /// The catalog keeps a different hash for the line.
    #[error("has another hash than the catalog keeps: the log was written again")]
    NotTheHead,
    /// The line that the catalog keeps is later than the last line of the files.
    #[error("is the last line, and the catalog knows line {kept}: the end of the log was cut off")]
    CutOff {
        /// Number of the line that the catalog keeps.
        kept: u64,
    },
    /// The last line of a file has no newline, although another file follows.
    #[error("is incomplete, and another file follows")]
    Torn,
}

/// Members of a line that the check uses.
#[derive(Debug)]
pub struct ChainLine {
    /// Number and hash of the line.
    pub point: ChainPoint,
    /// Name of the log, which `start` and `file` lines contain. Every file begins with such a line.
    pub log: Option<Box<str>>,
    prev: ChainHash,
    time: Box<str>,
    event: Box<str>,
    count: u64,
}

#[derive(Deserialize)]
struct Members {
    seq: u64,
    time: Box<str>,
    event: Box<str>,
    log: Option<Box<str>>,
    count: Option<u64>,
    prev: Box<str>,
    hash: Box<str>,
}

impl ChainLine {
    /// Parses a line, given without its newline, and compares its text with the hash that it
    /// contains.
    ///
    /// # Errors
    /// [`ChainFault::NotALine`] or [`ChainFault::Changed`].
    pub fn read(text: &[u8]) -> Result<Self, ChainFault> {
        let members: Members = serde_json::from_slice(text).map_err(|_| ChainFault::NotALine)?;
        let hash = ChainHash::parse(&members.hash).ok_or(ChainFault::NotALine)?;
        let prev = ChainHash::parse(&members.prev).ok_or(ChainFault::NotALine)?;
        let (body, member) = text
            .split_at_checked(text.len().saturating_sub(HASH_MEMBER_LEN))
            .ok_or(ChainFault::NotALine)?;
        if !member.starts_with(HASH) {
            return Err(ChainFault::NotALine);
        }
        if ChainHash::of(body) != hash {
            return Err(ChainFault::Changed);
        }
        Ok(Self {
            point: ChainPoint { number: members.seq, hash },
            log: members.log,
            prev,
            time: members.time,
            event: members.event,
            count: members.count.unwrap_or(1),
        })
    }
}

/// Number and time of a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LineStamp {
    /// The number.
    pub seq: u64,
    /// The time, in RFC 3339.
    pub time: Box<str>,
}

/// Summary of the correct lines of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ChainSummary {
    /// Name of the log.
    pub log: Option<Box<str>>,
    /// Number of lines.
    pub lines: u64,
    /// Number of recorded requests. One line may stand for several requests.
    pub requests: u64,
    /// Number of events that were lost, because too many were waiting or the file could not be
    /// written.
    pub lost: u64,
    /// Number of times a router began to write the log.
    pub starts: u64,
    /// Number of starts at which the previous router had not ended the log.
    pub crashes: u64,
    /// The first line.
    pub first: Option<LineStamp>,
    /// The last line.
    pub last: Option<LineStamp>,
}

/// Result of the comparison with the catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadComparison {
    /// No catalog was given.
    None,
    /// The catalog has no record of a log with this name.
    UnknownLog,
    /// The line that the catalog keeps is earlier than the first line of the files, so it cannot be
    /// compared.
    Older,
    /// The files contain the line that the catalog keeps.
    Equal,
}

/// State of the check of a log.
#[derive(Debug)]
pub struct ChainCheck {
    /// The last lines that the catalog keeps, by name of the log; `None` if no catalog was given.
    heads: Option<BTreeMap<Box<str>, ChainPoint>>,
    /// Last line that was checked.
    last: Option<ChainPoint>,
    begins_file: bool,
    /// True if the last checked line is not an `end` line, so that a router may still be writing
    /// the log.
    is_running: bool,
    summary: ChainSummary,
}

impl ChainCheck {
    /// Begins a check. `heads` are the last lines that the catalog keeps, if there is a catalog.
    pub fn new(heads: Option<Vec<AuditHead>>) -> Self {
        let by_log =
            |heads: Vec<AuditHead>| heads.into_iter().map(|head| (head.log, head.point)).collect();
        Self {
            heads: heads.map(by_log),
            last: None,
            begins_file: true,
            is_running: false,
            summary: ChainSummary::default(),
        }
    }

    /// Returns the summary of the correct lines so far.
    pub fn summary(&self) -> &ChainSummary {
        &self.summary
    }

    /// Begins the next file.
    pub fn begin_file(&mut self) {
        self.begins_file = true;
    }

    /// Checks the next line, given without its newline.
    ///
    /// # Errors
    /// The fault of the line; the check cannot continue after it.
    pub fn push(&mut self, text: &[u8]) -> Result<(), ChainFault> {
        let line = ChainLine::read(text)?;
        self.check_order(&line)?;
        let names_log = matches!(&*line.event, "start" | "file") && line.log.is_some();
        if self.begins_file && !names_log {
            return Err(ChainFault::NoBeginning);
        }
        if let Some(log) = line.log.as_ref().filter(|_| names_log)
            && *self.summary.log.get_or_insert_with(|| log.clone()) != *log
        {
            return Err(ChainFault::OtherLog);
        }
        if self.head().is_some_and(|head| head.number == line.point.number && head != line.point) {
            return Err(ChainFault::NotTheHead);
        }
        self.begins_file = false;
        self.last = Some(line.point);
        self.count(line);
        Ok(())
    }

    /// Ends the check.
    ///
    /// # Errors
    /// [`ChainFault::CutOff`] if the line that the catalog keeps is later than the last checked
    /// line.
    pub fn finish(&self) -> Result<HeadComparison, ChainFault> {
        if self.heads.is_none() {
            return Ok(HeadComparison::None);
        }
        let Some(head) = self.head() else { return Ok(HeadComparison::UnknownLog) };
        let last = self.last.map_or(0, |last| last.number);
        let first = self.summary.first.as_ref().map_or(0, |first| first.seq);
        match head.number {
            kept if kept > last => Err(ChainFault::CutOff { kept }),
            kept if kept < first => Ok(HeadComparison::Older),
            _ => Ok(HeadComparison::Equal),
        }
    }

    fn head(&self) -> Option<ChainPoint> {
        self.heads.as_ref()?.get(self.summary.log.as_ref()?).copied()
    }

    fn check_order(&self, line: &ChainLine) -> Result<(), ChainFault> {
        let found = line.point.number;
        // The oldest files of a log are removed over time, so the first line need not have the
        // number 1.
        let expected = match self.last {
            Some(last) => last.number + 1,
            None => found.max(1),
        };
        let before = match self.last {
            Some(last) => last.hash,
            None if found == 1 => ChainHash::NONE,
            None => line.prev,
        };
        if found != expected {
            return Err(ChainFault::Order { expected, found });
        }
        if line.prev != before { Err(ChainFault::Replaced) } else { Ok(()) }
    }

    fn count(&mut self, line: ChainLine) {
        let stamp = LineStamp { seq: line.point.number, time: line.time };
        let summary = &mut self.summary;
        summary.lines += 1;
        match &*line.event {
            "start" => {
                summary.crashes += u64::from(self.is_running);
                summary.starts += 1;
            }
            "lost" => summary.lost += line.count,
            "request" => summary.requests += line.count,
            _ => {}
        }
        self.is_running = &*line.event != "end";
        summary.first.get_or_insert_with(|| stamp.clone());
        summary.last = Some(stamp);
    }
}
