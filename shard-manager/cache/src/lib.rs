//! Cache: answers of reads kept in Redis, used only where they prove themselves new enough.
//!
//! Redis may lose, rewind, evict, hang or be written by others. So **no guarantee depends on it**,
//! and none on the delivery of an invalidation: an entry carries facts about its content, and each
//! reader decides by them.
//!
//! # What is stored
//! All answers about one shard key of one table are one hash (`cache_key`). Each field is one
//! query; its value is the rows and a claim (`entry`): *these rows are of this timeline of the
//! shard, hold every change up to `min_position`, none after `seen`, and were complete at `as_of`*.
//! A claim is a fact about the past. It does not become wrong, only old; no loss, copy or rewind of
//! Redis changes that. A tag keyed with a secret of the cluster rejects everything else. The lease
//! for an entry is another field of its hash.
//!
//! The facts of a claim are measured before the rows are read, so that concurrent changes make the
//! rows newer than the claim and never older. `min_position` is the position that the replica has
//! applied or was required to have; on a primary in a file, the committed position. On a primary
//! server it is 0: a commit has a position when it is flushed, before reads see it, so the server's
//! position proves nothing. `as_of` is now, or the last moment at which the replica had every
//! change. An answer is not kept if another node became the primary during the read.
//!
//! # When an entry answers a read
//! At level `one`, if all of this holds (`proof`):
//! - its timeline is the current one of the shard. Positions of another timeline may belong to
//!   changes that were lost;
//! - its age is within the client's limit, or within the bound if the client sets none. The age of
//!   an entry stored by another router counts as higher by the allowed difference of clocks: with a
//!   bound not above [`CLOCK_ALLOWANCE`] each router uses its own entries only;
//! - the position that the session has seen of the shard is not after `min_position`. Every read
//!   has checked before that the shard's history holds that position.
//!
//! The session has then seen up to `seen`. So it reads its own writes, and never older data than
//! before, whether cache, replica or primary answers each of its reads: these are the session
//! guarantees of Terry et al. ("Session Guarantees for Weakly Consistent Replicated Data", 1994),
//! read-your-writes and monotonic reads.
//!
//! # Order of steps
//! A read whose query is too infrequent (`admission`) skips Redis and joins the shared read of its
//! query. Any other read looks up the entry, if one is known that is new enough. Without an entry
//! it joins the shared read (`shared_read`) or leads it: *take the lease; measure; read the shard;
//! answer; store under the lease*. If no entry is known to be new enough, the lease is requested at
//! once: Redis grants it if the stored entry is older than the reader allows, and otherwise returns
//! the entry. Redis compares times only; the reader decides whether the entry is enough. If the
//! entry is insufficient for another reason, a second request names its tag and takes the lease. A
//! write: *commit; send the invalidation; answer*; an invalidation removes the whole hash, leases
//! included. Leases are those of Nishtala et al. ("Scaling Memcache at Facebook", NSDI 2013): they
//! let one of many readers fill, and stop a fill that a write has overtaken.
//!
//! # Why each race ends well
//! *After any of these races the entry that is left is still a true claim: it serves no session
//! that has seen a change it lacks, and serves others only until it is older than the bound. The
//! lease makes such entries rare.*
//!
//! | Race | End |
//! |---|---|
//! | a write between the read of the rows and the fill | the invalidation took the lease: the fill is refused |
//! | the same, and the invalidation is lost or late | the claim predates the write: see above; the invalidation removes it on arrival |
//! | an invalidation before the lease is taken | the write was committed before, so the rows hold it |
//! | the lease is evicted, flushed, or lost with Redis | the fill is refused |
//! | a lease runs out, and another fills | the token is another: the late fill is refused |
//! | two routers miss at once | one gets the lease, the other reads and does not fill |
//! | an entry is stored before a reader that expects none requests the lease | it is new enough, and answers |
//! | the knowledge about an entry is out of date | one request more, or a read of the shard that a hit would have avoided |
//! | the rows come from a replica that lags | `min_position` and `as_of` are those of the replica |
//! | another node becomes primary, has lost changes, or a backup was restored | the timeline is another |
//! | a slot moves | its keys name the epoch of the move: no router that knows the move finds an entry of the old owner, or joins its read; nor if the slot returns later |
//! | another slot moves | the keys stay, and so does the owner whose positions the claims name |
//! | a router does not know that the slot has moved | the old owner's claims end with the move, because it refuses later reads: see above; a session that has read from the new owner brings the epoch, and the router learns the move first |
//! | a read of the old owner ends after the move | its rows and its claim are of the time before, under the old key |
//! | Redis restarts with old data | the claims are too old, or lack what the session has seen |
//! | a writer disconnects | the invalidation is still sent; before the commit, it counts as lost |
//! | a table is dropped and created again | its declaration is part of the field name |
//!
//! # Failures of Redis
//! A read waits for Redis no longer than `patience`, and writes do not wait at all. After some
//! failures Redis is not used for a while (`breaker`). Shared reads work without it: concurrent
//! readers of one query send one query to the shard.
//!
//! **Invariant:** an answer of the cache is one that the shard gave, and as new as its reader
//! demands.
//! **Not here:** the requirements of a read on its shard (`shard`), requests (`manager`).
#![forbid(unsafe_code)]

mod address;
mod admission;
mod breaker;
mod cache_key;
mod cached_entries;
mod client;
mod clock;
mod connections;
mod entry;
mod inspect;
mod invalidation;
mod local_cache;
mod proof;
mod read_path;
mod script;
mod shared_read;
mod stats;
mod tally;

use std::sync::Arc;
use std::time::Duration;

use admission::Admission;
use cache_key::Secrets;
use client::Client;
use clock::Clock;
use local_cache::LocalCache;
use model::token::TokenKey;
use shared_read::SharedReads;
use tally::{Count, Tally};

pub use address::{AddressError, CacheAddress};
pub use cache_key::About;
pub use cached_entries::CachedEntries;
pub use entry::Entry;
pub use inspect::{CacheServer, inspect};
pub use proof::{
    CLOCK_ALLOWANCE, ClockReading, EntryMetadata, FreshnessBound, FreshnessRequirement,
};
pub use read_path::{Answer, ShardAnswer};
pub use stats::{BreakerState, CacheStats, CacheUse, ServedBy};

/// Address of the cache, and its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSettings {
    /// Address of Redis.
    pub address: CacheAddress,
    /// Highest age of an answer for a client that sets none.
    pub bound: Duration,
    /// Lifetime of an entry in Redis.
    pub ttl: Duration,
    /// Longest wait of a read for Redis.
    pub patience: Duration,
    /// Highest size of an entry in bytes.
    pub entry_bytes_max: usize,
    /// Size of the in-process cache in bytes; 0 for none.
    pub near_bytes: usize,
    /// Redis is used only for queries that are expected at least this often while their answer is
    /// new enough.
    pub min_uses: usize,
}

impl CacheSettings {
    /// Default of `bound`.
    pub const BOUND_DEFAULT: Duration = Duration::from_secs(1);
    /// Highest `bound`.
    pub const BOUND_MAX: Duration = Duration::from_secs(30);
    /// Default of `ttl`.
    pub const TTL_DEFAULT: Duration = Duration::from_secs(30);
    /// Highest `ttl`: an entry is useless once it is older than every bound.
    pub const TTL_MAX: Duration = Duration::from_secs(30);
    /// Default of `patience`.
    pub const PATIENCE_DEFAULT: Duration = Duration::from_millis(20);
    /// Lowest `patience`.
    pub const PATIENCE_MIN: Duration = Duration::from_millis(1);
    /// Highest `patience`.
    pub const PATIENCE_MAX: Duration = Duration::from_secs(1);
    /// Default of `entry_bytes_max`.
    pub const ENTRY_BYTES_DEFAULT: usize = 64 << 10;
    /// Lowest `entry_bytes_max`.
    pub const ENTRY_BYTES_LEAST: usize = 1 << 10;
    /// Highest `entry_bytes_max`.
    pub const ENTRY_BYTES_MOST: usize = 1 << 20;
    /// Highest `near_bytes`.
    pub const NEAR_BYTES_MAX: usize = 1 << 30;
    /// Default of `min_uses`.
    pub const MIN_USES_DEFAULT: usize = 2;
    /// Lowest `min_uses`: every answer is kept.
    pub const MIN_USES_LEAST: usize = 1;
    /// Highest `min_uses`.
    pub const MIN_USES_MOST: usize = 1_000;

    /// Returns the default settings of a cache at this address.
    pub fn at(address: CacheAddress) -> Self {
        Self {
            address,
            bound: Self::BOUND_DEFAULT,
            ttl: Self::TTL_DEFAULT,
            patience: Self::PATIENCE_DEFAULT,
            entry_bytes_max: Self::ENTRY_BYTES_DEFAULT,
            near_bytes: 0,
            min_uses: Self::MIN_USES_DEFAULT,
        }
    }
}

/// Share by which the lifetime of an entry varies around its setting.
const TTL_JITTER: f64 = 0.1;

/// The cache of a cluster, as one router uses it.
pub struct Cache {
    settings: CacheSettings,
    secrets: Secrets,
    admission: Admission,
    client: Arc<Client>,
    shared_reads: Arc<SharedReads>,
    local_cache: Option<LocalCache>,
    tally: Arc<Tally>,
    clock: Clock,
}

impl Cache {
    /// Creates the cache for the cluster that signs its tokens with this key; it does not connect
    /// yet.
    pub fn new(settings: CacheSettings, key: &TokenKey) -> Self {
        let tally = Arc::default();
        Self {
            secrets: Secrets::of(key),
            admission: Admission::new(settings.min_uses),
            client: Arc::new(Client::new(&settings, &tally)),
            shared_reads: Arc::default(),
            local_cache: (settings.near_bytes > 0).then(|| LocalCache::new(settings.near_bytes)),
            tally,
            clock: Clock::new(),
            settings,
        }
    }

    /// Returns state and counts of the cache.
    pub fn stats(&self) -> CacheStats {
        let of = |what| self.tally.of(what);
        CacheStats {
            hits: of(Count::Hit),
            misses: of(Count::Miss),
            stale: of(Count::Stale),
            bypass: of(Count::Bypass),
            fills: of(Count::Fill),
            rejected: of(Count::Rejected),
            errors: of(Count::Error),
            invalidations: of(Count::Invalidation),
            local_hits: of(Count::LocalHit),
            too_infrequent: of(Count::TooInfrequent),
            breaker: self.client.breaker.state(),
        }
    }

    /// Returns the entries of the cluster in Redis, to remove them once nothing uses the cache.
    pub fn entries(&self) -> CachedEntries {
        CachedEntries {
            address: self.settings.address.clone(),
            prefix: self.secrets.prefix.clone(),
        }
    }

    /// Begins a trial of Redis if the pause of the breaker is over, without waiting for it. Reads
    /// do the same; this is for a cluster without reads.
    pub fn begin_due_trial(&self) {
        self.client.may_use();
    }

    /// Closes the connections to Redis.
    pub fn close(&self) {
        self.client.close();
    }
}
