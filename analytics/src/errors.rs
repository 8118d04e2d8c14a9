//! The newest failures, for people who ask "what went wrong".
//!
//! **Invariant:** at most [`ErrorLog::KEPT_MAX`] events, each of bounded length; when full, the
//! oldest goes.
//! **Not here:** counts over time. Those are `metrics`, which count every failure; this log
//! forgets.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serializer;
use utoipa::ToSchema;

/// Longest message kept, in characters: a sentence, not a stack.
const MESSAGE_CHARS_MAX: usize = 300;
/// Longest id or shard name kept, in characters: clients choose some of them.
const ID_CHARS_MAX: usize = 128;
/// The last ms that RFC 3339 can write: the year has four digits.
const TIME_MAX_MS: u64 = 253_402_300_799_999;

/// One request that was refused or failed.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, ToSchema)]
pub struct ErrorEvent {
    /// When, in ms since 1970 UTC. Serialized as `time`, RFC 3339 with `Z`.
    #[serde(rename = "time", serialize_with = "rfc3339")]
    #[schema(value_type = String, format = DateTime, example = "2026-11-21T10:00:00.000Z")]
    pub at_ms: u64,
    /// Code of the problem: `TSR201`.
    pub code: &'static str,
    /// HTTP status of the answer.
    pub status: u16,
    /// Route as it is declared, without values: `/api/write`.
    pub route: &'static str,
    /// The shard it happened on, when there was one. At most 128 characters are kept.
    pub shard: Option<String>,
    /// The request's id. At most 128 characters are kept.
    pub request_id: String,
    /// The trace it belongs to, when the client sent one. At most 128 characters are kept.
    pub trace_id: Option<String>,
    /// What the client was told. At most 300 characters are kept.
    pub message: String,
}

/// Events of one code on one shard and route.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, ToSchema)]
pub struct ErrorGroup {
    /// Code of the problem.
    pub code: &'static str,
    /// The shard, when there was one.
    pub shard: Option<String>,
    /// Route as it is declared.
    pub route: &'static str,
    /// How many of the events kept.
    pub count: u64,
    /// The earliest of them, in ms since 1970 UTC. Serialized as RFC 3339 with `Z`.
    #[serde(rename = "first", serialize_with = "rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub first_ms: u64,
    /// The latest of them, in ms since 1970 UTC. Serialized as RFC 3339 with `Z`.
    #[serde(rename = "last", serialize_with = "rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub last_ms: u64,
    /// Id of the newest.
    pub sample_request_id: String,
    /// Message of the newest.
    pub message: String,
}

/// Which events, and how many. By default the newest 50 of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorFilter<'q> {
    /// Most events (or groups) to answer; the log has no more than 1,000.
    pub limit: usize,
    /// Only events at or after this time, in ms since 1970 UTC.
    pub since_ms: Option<u64>,
    /// Only events of this shard.
    pub shard: Option<&'q str>,
    /// Only events of this code.
    pub code: Option<&'q str>,
}

impl ErrorFilter<'_> {
    /// Parses `limit=` (or the older `count=`): 1 to 1000, digits only.
    ///
    /// # Errors
    /// [`FilterError::Limit`] for any other text.
    pub fn parse_limit(text: &str) -> Result<usize, FilterError> {
        match parse_digits(text).map(usize::try_from) {
            Some(Ok(limit @ 1..=ErrorLog::KEPT_MAX)) => Ok(limit),
            Some(_) | None => Err(FilterError::Limit),
        }
    }

    /// Parses `since=`: RFC 3339, or ms since 1970 UTC. Gives ms; a time before 1970 is 0.
    ///
    /// # Errors
    /// [`FilterError::Since`] for any other text.
    pub fn parse_since(text: &str) -> Result<u64, FilterError> {
        if let Some(ms) = parse_digits(text) {
            return Ok(ms);
        }
        let time = DateTime::parse_from_rfc3339(text).map_err(|_| FilterError::Since)?;
        Ok(u64::try_from(time.timestamp_millis()).unwrap_or(0))
    }

    fn admits(&self, event: &ErrorEvent) -> bool {
        self.since_ms.is_none_or(|since| event.at_ms >= since)
            && self.code.is_none_or(|code| event.code == code)
            && self.shard.is_none_or(|shard| event.shard.as_deref() == Some(shard))
    }
}

impl Default for ErrorFilter<'_> {
    fn default() -> Self {
        Self { limit: 50, since_ms: None, shard: None, code: None }
    }
}

/// Why a query for errors is refused. The message names what is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// `limit` is no integer in range.
    #[error("limit must be a whole number from 1 to 1000")]
    Limit,
    /// `since` is no time.
    #[error("since must be a time like 2026-11-21T10:00:00Z, or milliseconds since 1970")]
    Since,
}

/// The newest 1,000 failures. Share it by reference or `Arc`.
#[derive(Debug, Default)]
pub struct ErrorLog {
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    /// Oldest first. `Arc`, so that a question copies pointers under the lock, not text.
    events: VecDeque<Arc<ErrorEvent>>,
    total: u64,
}

impl ErrorLog {
    /// Events kept: enough to see a pattern, and under 3 MiB in the worst case.
    pub const KEPT_MAX: usize = 1_000;

    /// An empty log.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an event; texts that are too long are cut. From any thread.
    pub fn push(&self, mut event: ErrorEvent) {
        event.message = bounded(event.message, MESSAGE_CHARS_MAX);
        event.request_id = bounded(event.request_id, ID_CHARS_MAX);
        event.trace_id = event.trace_id.map(|id| bounded(id, ID_CHARS_MAX));
        event.shard = event.shard.map(|shard| bounded(shard, ID_CHARS_MAX));
        let event = Arc::new(event);
        let mut ring = self.ring();
        ring.total += 1;
        let full = ring.events.len() == Self::KEPT_MAX;
        let oldest = full.then(|| ring.events.pop_front()).flatten();
        ring.events.push_back(event);
        drop(ring);
        drop(oldest); // Freed outside the lock.
    }

    /// Events since the start, kept or not.
    pub fn total(&self) -> u64 {
        self.ring().total
    }

    /// The events that the filter admits, newest first.
    pub fn query(&self, filter: &ErrorFilter<'_>) -> Vec<ErrorEvent> {
        let events = self.newest_first();
        let admitted = events.iter().filter(|event| filter.admits(event));
        admitted.take(filter.limit).map(|event| ErrorEvent::clone(event)).collect()
    }

    /// The events that the filter admits, by code, shard and route; the group with the newest event
    /// first. The limit is one of groups: every event kept is counted.
    pub fn grouped(&self, filter: &ErrorFilter<'_>) -> Vec<ErrorGroup> {
        let events = self.newest_first();
        let mut places = HashMap::new();
        let mut groups: Vec<ErrorGroup> = Vec::new();
        for event in events.iter().filter(|event| filter.admits(event)) {
            let key = (event.code, event.shard.as_deref(), event.route);
            let place = *places.entry(key).or_insert(groups.len());
            match groups.get_mut(place) {
                Some(group) => group.add(event),
                None => groups.push(ErrorGroup::of(event)),
            }
        }
        groups.truncate(filter.limit);
        groups
    }

    fn newest_first(&self) -> Vec<Arc<ErrorEvent>> {
        self.ring().events.iter().rev().cloned().collect()
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ErrorGroup {
    fn of(newest: &ErrorEvent) -> Self {
        Self {
            code: newest.code,
            shard: newest.shard.clone(),
            route: newest.route,
            count: 1,
            first_ms: newest.at_ms,
            last_ms: newest.at_ms,
            sample_request_id: newest.request_id.clone(),
            message: newest.message.clone(),
        }
    }

    fn add(&mut self, event: &ErrorEvent) {
        self.count += 1;
        self.first_ms = self.first_ms.min(event.at_ms);
        self.last_ms = self.last_ms.max(event.at_ms);
    }
}

/// Cuts after `chars_max` characters and gives back the memory of the rest.
fn bounded(mut text: String, chars_max: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(chars_max) {
        text.truncate(end);
    }
    text.shrink_to_fit();
    text
}

fn parse_digits(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

fn rfc3339<S: Serializer>(at_ms: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    let at_ms = (*at_ms).min(TIME_MAX_MS) as i64;
    let time: DateTime<Utc> = DateTime::from_timestamp_millis(at_ms).unwrap_or_default();
    serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Millis, true))
}
