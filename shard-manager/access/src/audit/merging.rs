//! Merging: equal refusals are merged into one line per second, so that a client that is refused
//! again and again does not fill the log.
//!
//! **Invariant:** the first of equal refusals is written at once; every one is counted in exactly
//! one line. Memory is bounded: beyond [`MERGED_MAX`] different refusals, further ones are not
//! merged.
//! **Not here:** the text of lines (`event`).

use std::collections::HashMap;
use std::net::IpAddr;

use super::event::{AuditCaller, AuditEvent, AuditOutcome};

/// Highest number of different refusals that are merged at the same time.
pub const MERGED_MAX: usize = 1_024;
/// Time between two lines of equal refusals, in milliseconds.
pub const INTERVAL_MS: u64 = 1_000;

/// Members in which equal refusals agree.
#[derive(Debug, PartialEq, Eq, Hash)]
struct RefusalKind {
    caller: AuditCaller,
    address: Option<IpAddr>,
    method: Box<str>,
    route: &'static str,
    code: Option<&'static str>,
}

/// Refusals since the last line of their kind.
#[derive(Debug)]
struct Held {
    /// Time from which there may be another line.
    next_at: u64,
    /// The latest of them; its count is the sum of all.
    last: Option<AuditEvent>,
}

/// Merger of refusals. Times are milliseconds of any clock that does not go back.
#[derive(Debug, Default)]
pub struct RefusalMerger {
    held: HashMap<RefusalKind, Held>,
}

impl RefusalMerger {
    /// Returns true if no kind of refusal is being merged.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Returns the event if it is to be written now. A refusal that equals one of the last second
    /// is held instead.
    pub fn take(&mut self, event: AuditEvent, now: u64) -> Option<AuditEvent> {
        if !matches!(event.outcome, AuditOutcome::Refused | AuditOutcome::WouldRefuse) {
            return Some(event);
        }
        let kind = RefusalKind {
            caller: event.caller.clone(),
            address: event.address,
            method: event.method.clone(),
            route: event.route,
            code: event.code,
        };
        if let Some(held) = self.held.get_mut(&kind) {
            let count = held.last.as_ref().map_or(0, |last| last.count);
            held.last = Some(AuditEvent { count: count + event.count, ..event });
            return None;
        }
        if self.held.len() < MERGED_MAX {
            self.held.insert(kind, Held { next_at: now + INTERVAL_MS, last: None });
        }
        Some(event)
    }

    /// Returns the held events whose second is over.
    pub fn take_due(&mut self, now: u64) -> Vec<AuditEvent> {
        let mut due = Vec::new();
        self.held.retain(|_, held| {
            if held.next_at > now {
                return true;
            }
            held.next_at = now + INTERVAL_MS;
            let last = held.last.take();
            let is_going_on = last.is_some();
            due.extend(last);
            is_going_on
        });
        due.sort_by_key(|event| event.time_ms);
        due
    }

    /// Returns all held events, at the end.
    pub fn take_all(&mut self) -> Vec<AuditEvent> {
        let held = self.held.drain();
        let mut all: Vec<AuditEvent> = held.filter_map(|(_, held)| held.last).collect();
        all.sort_by_key(|event| event.time_ms);
        all
    }
}
