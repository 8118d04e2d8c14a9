//! Cache: answers of reads kept in Redis, used only where they prove themselves new enough.
//!
//! **Invariant:** an answer of the cache is one that the shard gave, and as new as its reader demands.
//! **Not here:** what a read demands of its shard (`shard`), who asks (`manager`).

mod address;
mod asking;
mod breaker;
mod clock;
mod entry;
mod flight;
mod link;
mod look;
mod proof;
mod reading;
mod script;
mod shape;
mod tally;
mod vitals;
mod voiding;

use std::sync::Arc;
use std::time::Duration;

use crate::token::TokenKey;
use asking::{Turns, UNWAITED_MAX};
use breaker::Breaker;
use clock::Clock;
use flight::Flights;
use link::Links;
use shape::Secrets;
use tally::{Count, Tally};

pub use address::{AddressError, CacheAddress};
pub use entry::Entry;
pub use look::{CacheServer, look};
pub use proof::{CLOCK_ALLOWANCE, Claim, Moment, Stamp, Want};
pub use reading::{Answer, Fresh};
pub use shape::About;
pub use vitals::{BreakerState, CacheUse, CacheVitals, ServedBy};

/// Where the cache is, and how it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSettings {
    /// Where Redis is.
    pub address: CacheAddress,
    /// How old an answer may be for a client that says nothing of it.
    pub bound: Duration,
    /// How long Redis keeps an entry.
    pub ttl: Duration,
    /// How long a read waits for Redis.
    pub patience: Duration,
    /// Bytes of the largest entry.
    pub entry_bytes_max: usize,
    /// Bytes of the entries that this process keeps itself; none if zero.
    pub near_bytes: usize,
}

impl CacheSettings {
    /// How old an answer may be where nobody says.
    pub const BOUND_DEFAULT: Duration = Duration::from_secs(1);
    /// The loosest bound.
    pub const BOUND_MAX: Duration = Duration::from_secs(30);
    /// How long an entry is kept where nobody says.
    pub const TTL_DEFAULT: Duration = Duration::from_secs(30);
    /// The longest that one is kept: it is of no use when it is older than every bound.
    pub const TTL_MAX: Duration = Duration::from_secs(30);
    /// How long a read waits where nobody says.
    pub const PATIENCE_DEFAULT: Duration = Duration::from_millis(20);
    /// The least patience.
    pub const PATIENCE_MIN: Duration = Duration::from_millis(1);
    /// The most patience.
    pub const PATIENCE_MAX: Duration = Duration::from_secs(1);
    /// Bytes of the largest entry where nobody says.
    pub const ENTRY_BYTES_DEFAULT: usize = 64 << 10;
    /// The least that the largest entry may have.
    pub const ENTRY_BYTES_LEAST: usize = 1 << 10;
    /// The most.
    pub const ENTRY_BYTES_MOST: usize = 1 << 20;
    /// The most that a process keeps itself.
    pub const NEAR_BYTES_MAX: usize = 1 << 30;

    /// A cache there, used as it is where nobody says otherwise.
    pub fn at(address: CacheAddress) -> Self {
        Self {
            address,
            bound: Self::BOUND_DEFAULT,
            ttl: Self::TTL_DEFAULT,
            patience: Self::PATIENCE_DEFAULT,
            entry_bytes_max: Self::ENTRY_BYTES_DEFAULT,
            near_bytes: 0,
        }
    }
}

/// By which share entries are kept longer or shorter than they are said to.
const TTL_JITTER: f64 = 0.1;
/// Fills, and keys that are voided, that nobody waits for: what comes beyond is dropped.
const UNWAITED_COUNT_MAX: usize = 16_384;

/// The cache of a cluster, as one router uses it.
pub struct Cache {
    settings: CacheSettings,
    secrets: Secrets,
    links: Links,
    breaker: Breaker,
    flights: Arc<Flights>,
    turns: Turns,
    tally: Tally,
    clock: Clock,
}

impl Cache {
    /// A cache there, for the cluster that signs its tokens with this key. Nobody is asked yet.
    pub fn new(settings: CacheSettings, key: &TokenKey) -> Self {
        Self {
            secrets: Secrets::of(key),
            links: Links::new(settings.address.clone()),
            breaker: Breaker::new(settings.patience),
            flights: Arc::default(),
            turns: Turns::new(UNWAITED_COUNT_MAX),
            tally: Tally::default(),
            clock: Clock::new(),
            settings,
        }
    }

    /// How it does.
    pub fn vitals(&self) -> CacheVitals {
        let of = |what| self.tally.of(what);
        CacheVitals {
            hits: of(Count::Hit),
            misses: of(Count::Miss),
            stale: of(Count::Stale),
            bypass: of(Count::Bypass),
            fills: of(Count::Fill),
            rejected: of(Count::Rejected),
            errors: of(Count::Error),
            voids: of(Count::Void),
            near_hits: of(Count::NearHit),
            breaker: self.breaker.state(),
        }
    }

    /// Gives up its connections.
    pub fn close(&self) {
        self.links.close();
    }
}
