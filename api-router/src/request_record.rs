//! Request record: collects the properties of a request about rows while it is processed, to be
//! recorded after its response.
//!
//! The record is stored in the request, so that the properties known at the time at which a route
//! refuses the request are recorded too. The record allocates no memory of its own, except for a
//! long key.
//!
//! **Invariant:** the record contains only facts: no shard that was not contacted, no duration of a
//! step that was not taken.
//! **Not here:** recording (`middleware`), the response (`response_headers`).

use std::time::Duration;

use actix_web::HttpMessage;
use actix_web::HttpRequest;
use shard_manager::cache::ServedBy;
use shard_manager::error::{Error, Failure, Outcome};
use shard_manager::keyspace::Slot;
use shard_manager::row_change::RowError;
use shard_manager::shard_map::KeyLocation;
use shard_manager::topology::ShardNumber;

/// Known properties of a request about rows.
#[derive(Debug)]
pub struct RequestRecord {
    /// The shard, if the request went to exactly one.
    pub shard: Option<ShardNumber>,
    /// The slot of its key.
    pub slot: Option<Slot>,
    /// Node or cache that served the request.
    pub served_by: Option<ServedBy>,
    /// Number of shards that received the request.
    pub fanout: u16,
    /// Time for reading, checking and routing, until the first shard received the request.
    pub route: Duration,
    /// Time in the queue of the shard; with several shards, of the slowest one.
    pub queue: Duration,
    /// Time in the database of that shard.
    pub database: Duration,
    key: Key,
}

/// Key of a request. Most keys are short and stored inline.
#[derive(Debug)]
enum Key {
    None,
    Short(u8, [u8; SHORT_MAX]),
    Long(Box<str>),
}

/// Maximum length, in bytes, of a key that is stored inline: a UUID of 36 bytes, and some more.
const SHORT_MAX: usize = 47;

/// Attaches an empty record to a request. A request without a record is not recorded.
pub fn attach(request: &impl HttpMessage) {
    request.extensions_mut().insert(RequestRecord {
        shard: None,
        slot: None,
        served_by: None,
        fanout: 0,
        route: Duration::ZERO,
        queue: Duration::ZERO,
        database: Duration::ZERO,
        key: Key::None,
    });
}

/// Changes the record of a request, if it has one.
pub fn update(request: &HttpRequest, change: impl FnOnce(&mut RequestRecord)) {
    if let Some(record) = request.extensions_mut().get_mut::<RequestRecord>() {
        change(record);
    }
}

impl RequestRecord {
    /// Returns the key of the request.
    pub fn key(&self) -> Option<&str> {
        match &self.key {
            Key::None => None,
            Key::Short(length, text) => str::from_utf8(text.get(..usize::from(*length))?).ok(),
            Key::Long(text) => Some(text),
        }
    }

    /// Sets the key of the request.
    pub fn set_key(&mut self, key: &str) {
        let mut text = [0; SHORT_MAX];
        self.key = match text.get_mut(..key.len()) {
            Some(place) => {
                place.copy_from_slice(key.as_bytes());
                Key::Short(key.len() as u8, text)
            }
            None => Key::Long(key.into()),
        };
    }

    /// Sets the shard and the slot of a request about one key.
    pub fn set_location(&mut self, place: KeyLocation) {
        (self.shard, self.slot, self.fanout) = (Some(place.shard), Some(place.slot), 1);
    }

    /// Records the failure of a request that was sent to one shard, or to all shards, whose number
    /// is `all`. `waited` is the time since it was sent.
    pub fn set_failure(&mut self, failure: &Failure, waited: Duration, all: usize) {
        match failure.place {
            Some(place) => self.set_location(place),
            // A request with a key outside the keyspace, or one that was refused at once, was sent
            // to no shard.
            None if self.key().is_some() || is_refused_at_once(&failure.error) => return,
            None => self.fanout = fanout(all),
        }
        // A failure with a position comes from the primary, which has examined the write.
        self.served_by = failure.seen.map(|_| ServedBy::Primary);
        if is_in_queue(failure) {
            self.queue = waited;
        } else {
            self.database = waited;
        }
    }
}

/// Converts a number of shards, which is always small enough.
pub fn fanout(shards: usize) -> u16 {
    u16::try_from(shards).unwrap_or(u16::MAX)
}

/// Returns true if a request was refused before any shard received it.
fn is_refused_at_once(error: &Error) -> bool {
    matches!(
        error,
        Error::Forbidden { .. }
            | Error::KeyRequired { .. }
            | Error::NoSuchTable { .. }
            | Error::Row(RowError::NoSuchColumn { .. })
    )
}

/// Returns true if a request failed while it waited in a queue.
fn is_in_queue(failure: &Failure) -> bool {
    let is_unstarted_write = failure.outcome == Outcome::Rejected
        && matches!(failure.error, Error::DeadlinePassed | Error::WritesStalled { .. });
    is_unstarted_write
        || matches!(
            failure.error,
            Error::QueueFull { .. }
                | Error::QueueShareExceeded { .. }
                | Error::PoolExhausted { .. }
        )
}
