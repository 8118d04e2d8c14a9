//! Errors: the log of the newest failed requests, in which people search for the cause of a
//! problem.
//!
//! **Invariant:** at most [`ErrorLog::KEPT_MAX`] events are kept, with at most
//! [`ErrorLog::BYTES_MAX`] bytes together; each has a bounded length. A new event replaces the
//! oldest when the log is full.
//! **Invariant:** events are numbered without gaps, so that a client can request all events after
//! the last one that it has received.
//! **Not here:** counts over time. `figures` counts every failure; this log is bounded.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

/// Maximum length of a message, in characters: enough for a sentence, but not for a stack trace.
const MESSAGE_CHARS_MAX: usize = 300;
/// Maximum length of an id or shard name, in characters. It is limited because clients choose some
/// of them.
const ID_CHARS_MAX: usize = 128;
/// Maximum number of pairs of a code and a shard that have a count of their own.
const COUNTS_MAX: usize = 2_048;
/// Label that replaces a code or a shard in the counts when there are too many of them.
const OTHER: &str = "(other)";
/// Last millisecond that RFC 3339 can represent, because its years have four digits.
const TIME_MAX_MS: u64 = 253_402_300_799_999;

/// One request that was refused or failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorEvent {
    /// Time in ms since 1970 UTC. Serialized as `time`, RFC 3339 with `Z`.
    #[serde(rename = "time", serialize_with = "rfc3339", deserialize_with = "of_rfc3339")]
    #[schema(value_type = String, format = DateTime, example = "2026-11-21T10:00:00.000Z")]
    pub at_ms: u64,
    /// Code of the problem: `TSR201`.
    pub code: Cow<'static, str>,
    /// HTTP status of the response.
    pub status: u16,
    /// Route as it is declared, without values: `/api/write`.
    pub route: Cow<'static, str>,
    /// Shard on which the request failed, if there was one. At most 128 characters are kept.
    pub shard: Option<String>,
    /// Id of the request. At most 128 characters are kept.
    pub request_id: String,
    /// Trace of the request, if the client sent one. At most 128 characters are kept.
    pub trace_id: Option<String>,
    /// Message in the response to the client. At most 300 characters are kept.
    pub message: String,
}

/// Events of one code on one shard and route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ErrorGroup {
    /// Code of the problem.
    pub code: Cow<'static, str>,
    /// The shard, when there was one.
    pub shard: Option<String>,
    /// Route as it is declared.
    pub route: Cow<'static, str>,
    /// Number of kept events of the group.
    pub count: u64,
    /// The earliest of them, in ms since 1970 UTC. Serialized as RFC 3339 with `Z`.
    #[serde(rename = "first", serialize_with = "rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub first_ms: u64,
    /// The latest of them, in ms since 1970 UTC. Serialized as RFC 3339 with `Z`.
    #[serde(rename = "last", serialize_with = "rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub last_ms: u64,
    /// Id of the newest event.
    pub sample_request_id: String,
    /// Message of the newest event.
    pub message: String,
}

/// Filter and limit of a query for events. The default is the newest 50.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorFilter<'q> {
    /// Maximum number of events (or groups) in the response.
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
    /// Returns [`FilterError::Limit`] for any other value.
    pub fn parse_limit(text: &str) -> Result<usize, FilterError> {
        match parse_digits(text).map(usize::try_from) {
            Some(Ok(limit @ 1..=ErrorLog::LIMIT_MAX)) => Ok(limit),
            Some(_) | None => Err(FilterError::Limit),
        }
    }

    /// Parses `since=`: RFC 3339, or ms since 1970 UTC. Returns ms since 1970 UTC; a time before
    /// 1970 becomes 0.
    ///
    /// # Errors
    /// Returns [`FilterError::Since`] for any other value.
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

/// Reason why a query for errors is refused. The message names what is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// `limit` is not an integer in range.
    #[error("limit must be a whole number from 1 to 1000")]
    Limit,
    /// `since` is not a time.
    #[error("since must be a time like 2026-11-21T10:00:00Z, or milliseconds since 1970")]
    Since,
    /// Both `limit` and `count` are given.
    #[error("limit and count are the same; give one")]
    Twice,
    /// `grouped` is not a boolean.
    #[error("grouped must be true or false")]
    Grouped,
}

/// Log of the newest failures, at most 10,000. Threads share the log by reference or `Arc`.
#[derive(Debug, Default)]
pub struct ErrorLog {
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    /// Kept events, oldest first. A query copies only the `Arc`s while it holds the lock, not the
    /// events.
    events: VecDeque<Arc<ErrorEvent>>,
    bytes: usize,
    total: u64,
    /// Counts since the start, by code and shard.
    counts: HashMap<ErrorKind, u64>,
}

/// Key of the counts: the code, and the shard if there was one.
pub(crate) type ErrorKind = (Cow<'static, str>, Option<String>);

impl ErrorLog {
    /// Maximum number of events that are kept.
    pub const KEPT_MAX: usize = 10_000;
    /// Maximum number of bytes of the events that are kept. If strings are long and have multi-byte
    /// characters, the log holds fewer than [`ErrorLog::KEPT_MAX`] events.
    pub const BYTES_MAX: usize = 8 << 20;
    /// Maximum number of events in one response.
    pub const LIMIT_MAX: usize = 1_000;

    /// Creates an empty log.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an event, from any thread; strings that are too long are cut.
    pub fn push(&self, mut event: ErrorEvent) {
        event.code = bounded_label(event.code);
        event.route = bounded_label(event.route);
        event.message = bounded(event.message, MESSAGE_CHARS_MAX);
        event.request_id = bounded(event.request_id, ID_CHARS_MAX);
        event.trace_id = event.trace_id.map(|id| bounded(id, ID_CHARS_MAX));
        event.shard = event.shard.map(|shard| bounded(shard, ID_CHARS_MAX));
        let event = Arc::new(event);
        let mut forgotten = Vec::new();
        let mut ring = self.ring();
        ring.total += 1;
        ring.count(&event);
        ring.bytes += event.bytes();
        ring.events.push_back(event);
        while ring.events.len() > Self::KEPT_MAX || ring.bytes > Self::BYTES_MAX {
            let Some(oldest) = ring.events.pop_front() else { break };
            ring.bytes -= oldest.bytes();
            forgotten.push(oldest);
        }
        drop(ring);
        drop(forgotten); // Freed outside the lock.
    }

    /// Returns the number of bytes that the kept events take.
    pub fn bytes(&self) -> usize {
        self.ring().bytes
    }

    /// Returns the number of errors since the start by code and shard, including errors that are no
    /// longer kept.
    pub(crate) fn counts(&self) -> Vec<(ErrorKind, u64)> {
        let counts = self.ring().counts.clone();
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_unstable();
        counts
    }

    /// Returns the number of events since the start, including events that are no longer kept.
    pub fn total(&self) -> u64 {
        self.ring().total
    }

    /// Returns at most `limit` kept events after number `seq`, oldest first, and the number of the
    /// last event returned, with which the next query continues. The first event has number 1, so
    /// `seq` 0 returns events from the oldest on.
    pub fn events_after(&self, seq: u64, limit: usize) -> (Vec<Arc<ErrorEvent>>, u64) {
        let ring = self.ring();
        let oldest = ring.total - ring.events.len() as u64;
        let skip = seq.clamp(oldest, ring.total) - oldest;
        let events: Vec<_> = ring.events.iter().skip(skip as usize).take(limit).cloned().collect();
        let last = oldest + skip + events.len() as u64;
        (events, last)
    }

    /// Returns the events that match the filter, newest first.
    pub fn query(&self, filter: &ErrorFilter<'_>) -> Vec<ErrorEvent> {
        let events = self.newest_first();
        let admitted = events.iter().filter(|event| filter.admits(event));
        admitted.take(filter.limit).map(|event| ErrorEvent::clone(event)).collect()
    }

    /// Returns the events that match the filter, grouped by code, shard and route. The group with
    /// the newest event comes first. The limit applies to the number of groups, not to the number
    /// of events in them.
    pub fn grouped(&self, filter: &ErrorFilter<'_>) -> Vec<ErrorGroup> {
        let events = self.newest_first();
        let mut places = HashMap::new();
        let mut groups: Vec<ErrorGroup> = Vec::new();
        for event in events.iter().filter(|event| filter.admits(event)) {
            let key = (&*event.code, event.shard.as_deref(), &*event.route);
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

impl Ring {
    /// Counts an event by its code and shard. When there are too many pairs, new pairs are counted
    /// by code alone, and finally under a single label.
    fn count(&mut self, event: &ErrorEvent) {
        let full = self.counts.len() >= COUNTS_MAX;
        let kinds = [
            (event.code.clone(), event.shard.clone()),
            (event.code.clone(), Some(OTHER.to_owned())),
            (Cow::Borrowed(OTHER), None),
        ];
        let known = kinds.iter().position(|kind| self.counts.contains_key(kind));
        // Counts by code alone may take up as many entries again, so that different codes are still
        // counted separately.
        let code_full = self.counts.len() >= 2 * COUNTS_MAX;
        let place = known.unwrap_or(if code_full { 2 } else { usize::from(full) });
        let [exact, of_code, other] = kinds;
        let kind = [exact, of_code, other].into_iter().nth(place).unwrap_or_default();
        *self.counts.entry(kind).or_default() += 1;
    }
}

impl ErrorEvent {
    fn bytes(&self) -> usize {
        let optional = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let texts = [self.code.len(), self.route.len(), self.request_id.len(), self.message.len()];
        let texts: usize = texts.iter().sum();
        size_of::<Self>() + texts + optional(&self.shard) + optional(&self.trace_id)
    }
}

impl ErrorGroup {
    fn of(newest: &ErrorEvent) -> Self {
        Self {
            code: newest.code.clone(),
            shard: newest.shard.clone(),
            route: newest.route.clone(),
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

/// Cuts a string after `chars_max` characters and frees the memory of the rest.
fn bounded(mut text: String, chars_max: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(chars_max) {
        text.truncate(end);
    }
    text.shrink_to_fit();
    text
}

/// Cuts an owned string. A constant is short enough and stays as it is.
fn bounded_label(text: Cow<'static, str>) -> Cow<'static, str> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text),
        Cow::Owned(text) => Cow::Owned(bounded(text, ID_CHARS_MAX)),
    }
}

fn parse_digits(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

fn of_rfc3339<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = Cow::<'de, str>::deserialize(deserializer)?;
    let time = DateTime::parse_from_rfc3339(&text).map_err(serde::de::Error::custom)?;
    Ok(u64::try_from(time.timestamp_millis()).unwrap_or(0))
}

fn rfc3339<S: Serializer>(at_ms: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    let at_ms = (*at_ms).min(TIME_MAX_MS) as i64;
    let time: DateTime<Utc> = DateTime::from_timestamp_millis(at_ms).unwrap_or_default();
    serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Millis, true))
}
