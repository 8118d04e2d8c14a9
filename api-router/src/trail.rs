//! Trail: what a request about rows leaves on its way, for whoever counts it when it has been answered.
//!
//! It lies with the request itself, so that a route which refuses halfway has still told how far it came, and so that
//! nothing has to be allocated for it beyond that one place, but for a long key.
//!
//! **Invariant:** what stands here happened: a shard that nobody asked is not named, a time that nobody took is zero.
//! **Not here:** counting (`gate`), what the client is told (`answer`).

use std::time::Duration;

use actix_web::HttpMessage;
use actix_web::HttpRequest;
use shard_manager::cache::ServedBy;
use shard_manager::error::{Error, Failure, Outcome};
use shard_manager::keyspace::Slot;
use shard_manager::shard_map::KeyLocation;
use shard_manager::topology::ShardIndex;

/// What is known of a request about rows.
#[derive(Debug)]
pub struct Trail {
    /// The one shard that was asked.
    pub shard: Option<ShardIndex>,
    /// The slot of its key.
    pub slot: Option<Slot>,
    /// What answered.
    pub served_by: Option<ServedBy>,
    /// How many shards were asked.
    pub fanout: u16,
    /// Reading, checking and routing: until the first shard was asked.
    pub route: Duration,
    /// Waiting for the shard; of several the slowest.
    pub queue: Duration,
    /// In its database.
    pub database: Duration,
    key: Key,
}

/// The key that a request is about. Most are short and lie here.
#[derive(Debug)]
enum Key {
    None,
    Short(u8, [u8; SHORT_MAX]),
    Long(Box<str>),
}

/// Longest key, in bytes, that takes no memory of its own: one like a UUID, and some more.
const SHORT_MAX: usize = 47;

/// Makes the place for a trail; without it nothing is noted.
pub fn lay(request: &impl HttpMessage) {
    request.extensions_mut().insert(Trail {
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

/// Notes something, if somebody wants to know.
pub fn note(request: &HttpRequest, noted: impl FnOnce(&mut Trail)) {
    if let Some(trail) = request.extensions_mut().get_mut::<Trail>() {
        noted(trail);
    }
}

impl Trail {
    /// The key that the request is about.
    pub fn key(&self) -> Option<&str> {
        match &self.key {
            Key::None => None,
            Key::Short(length, text) => str::from_utf8(text.get(..usize::from(*length))?).ok(),
            Key::Long(text) => Some(text),
        }
    }

    /// Notes the key.
    pub fn about(&mut self, key: &str) {
        let mut text = [0; SHORT_MAX];
        self.key = match text.get_mut(..key.len()) {
            Some(place) => {
                place.copy_from_slice(key.as_bytes());
                Key::Short(key.len() as u8, text)
            }
            None => Key::Long(key.into()),
        };
    }

    /// Notes that the one shard of a key is asked.
    pub fn ask(&mut self, place: KeyLocation) {
        (self.shard, self.slot, self.fanout) = (Some(place.shard), Some(place.slot), 1);
    }

    /// Notes what a shard, or one of `all`, did not do, after `waited`.
    pub fn fail(&mut self, failure: &Failure, waited: Duration, all: usize) {
        match failure.place {
            Some(place) => self.ask(place),
            // A key that is none of this keyspace was sent nowhere.
            None if self.key().is_some() => return,
            None => self.fanout = fanout(all),
        }
        // Of a write that was refused by its rows as they are, or by the replicas: the primary has looked.
        self.served_by = failure.seen.map(|_| ServedBy::Primary);
        if is_in_queue(failure) {
            self.queue = waited;
        } else {
            self.database = waited;
        }
    }
}

/// A number of shards, of which there are never so many.
pub fn fanout(shards: usize) -> u16 {
    u16::try_from(shards).unwrap_or(u16::MAX)
}

/// Whether a request got no further than to wait for its turn.
fn is_in_queue(failure: &Failure) -> bool {
    match failure.error {
        Error::QueueFull { .. } | Error::PoolExhausted { .. } => true,
        // A write that nobody began to carry out.
        Error::DeadlinePassed | Error::WritesStalled { .. } => failure.outcome == Outcome::Rejected,
        Error::NoSuchTable { .. }
        | Error::Row(_)
        | Error::Key(_)
        | Error::Exists
        | Error::NoSuchRow
        | Error::VersionDiffers
        | Error::KeyReused
        | Error::Remembered(_)
        | Error::Undone { .. }
        | Error::TransactionTooLarge
        | Error::Constraint { .. }
        | Error::Swallowed { .. }
        | Error::Unlogged { .. }
        | Error::ShardUnavailable { .. }
        | Error::WrongRows { .. }
        | Error::FilesLost { .. }
        | Error::NoPrimary { .. }
        | Error::TooFewReplicas { .. }
        | Error::NotConfirmed { .. }
        | Error::SeenMayBeLost { .. }
        | Error::SlotNotOwned
        | Error::StorageFull { .. }
        | Error::TableDiffers { .. }
        | Error::TooManyTables
        | Error::AnswerTooLarge
        | Error::Internal => false,
    }
}
