//! Merging: equal refusals are merged into one line per second, so that a client that is refused
//! again and again does not fill the log.
//!
//! **Invariant:** the first of equal refusals is written at once; each refusal is counted in
//! exactly one line. Memory is bounded: while [`MERGED_MAX`] different refusals are being merged,
//! refusals of other kinds are written without merging.
//! **Not here:** the text of lines (`event`).

use std::collections::HashMap;
use std::net::IpAddr;

use super::event::{AuditCaller, AuditEvent, AuditOutcome};

/// Maximum number of different refusals that are merged at the same time.
pub const MERGED_MAX: usize = 1_024;
/// Shortest time between two lines of equal refusals, in milliseconds.
pub const INTERVAL_MS: u64 = 1_000;

/// Members by which refusals are compared: refusals count as equal if all these members are equal.
#[derive(Debug, PartialEq, Eq, Hash)]
struct RefusalKind {
    caller: AuditCaller,
    address: Option<IpAddr>,
    method: Box<str>,
    route: &'static str,
    code: Option<&'static str>,
}

/// Refusals of one kind that came after the latest line of that kind and are in no line yet.
#[derive(Debug)]
struct Held {
    /// Time from which the next line of this kind may be written.
    next_at: u64,
    /// The latest of these refusals, with the sum of their counts; `None` if there are none.
    last: Option<AuditEvent>,
}

/// Merger of refusals. Times are in milliseconds and may come from any monotonic clock.
#[derive(Debug, Default)]
pub struct RefusalMerger {
    held: HashMap<RefusalKind, Held>,
}

impl RefusalMerger {
    /// Returns true if no kind of refusal is being merged.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Returns the event if it must be written now. If an equal refusal is already being merged,
    /// the event is held instead, and the result is `None`.
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

    /// Returns the held events that may be written at the time `now`, and stops merging kinds
    /// without held events.
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

    /// Returns all held events. It is called when the log ends.
    pub fn take_all(&mut self) -> Vec<AuditEvent> {
        let held = self.held.drain();
        let mut all: Vec<AuditEvent> = held.filter_map(|(_, held)| held.last).collect();
        all.sort_by_key(|event| event.time_ms);
        all
    }
}
