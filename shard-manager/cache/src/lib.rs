//! Cache: results of reads, kept in Redis and used only if their metadata proves them new enough.
//!
//! Redis may lose entries, restart with old data, evict, hang, or be written by other programs. So
//! **no guarantee depends on Redis**, and none depends on the delivery of an invalidation: each
//! entry states facts about its rows, and each reader decides from these facts whether it may use
//! the entry.
//!
//! # What is stored
//! All results about one shard key of one table are stored in one Redis hash (`cache_key`). Each
//! query has a field of that hash; its value is the rows and a claim about them (`entry`): *these
//! rows belong to this timeline of the shard, contain every change up to `min_position` and none
//! after `seen`, and were complete at the time `as_of`*. A *timeline* is a period of a shard's
//! history; a new one begins, for example, when another node becomes the primary.
//!
//! A claim describes a past moment, so it may become old but never false, even if Redis loses,
//! copies or restores entries. Each value ends with a tag that is keyed with a secret of the
//! cluster; a value with a wrong tag is rejected. A *lease* is the right of one reader to store an
//! entry, and is kept in another field of the same hash.
//!
//! The facts of a claim are measured before the rows are read, so that concurrent changes make the
//! rows newer than the claim says and never older. On a replica, `min_position` is the position
//! that the replica has applied or was required to have; on a primary in a SQLite file, it is the
//! committed position. On a primary server it is 0: a commit gets its position when it is flushed,
//! which is before reads see it, so the server's position does not prove which changes a read sees.
//! `as_of` is the current time, or for a replica the last moment at which it had every change. A
//! result is not kept if another node became the primary during the read.
//!
//! # When an entry answers a read
//! An entry answers a read at consistency level `one` if all of this holds (`proof`):
//! - The entry's timeline is the current one of the shard. Positions of another timeline may belong
//!   to changes that were lost.
//! - The entry's age is within the client's limit, or within the configured bound if the client
//!   sets none. The clocks of routers may differ, so [`CLOCK_ALLOWANCE`] is added to the age of an
//!   entry that another router stored. If the bound is lower and the clocks agree, each router
//!   therefore uses its own entries only.
//! - The position of the shard that the session has already seen is not after `min_position`. Every
//!   read has checked before that the shard's history contains that position.
//!
//! After the read, the session counts as having seen the position `seen`. So it reads its own
//! writes, and never data older than it has read before, whether the cache, a replica or the
//! primary answers each of its reads. These are two of the session guarantees of Terry et al.
//! ("Session Guarantees for Weakly Consistent Replicated Data", 1994): read-your-writes and
//! monotonic reads.
//!
//! # Order of steps
//! A *shared read* is one read of the shard for all concurrent readers of the same query
//! (`shared_read`); the first reader leads it. A read whose query is too infrequent (`admission`)
//! skips Redis and joins the shared read of its query. Any other read first looks up the entry in
//! Redis if this router knows of one that is new enough. Without such an entry it joins the shared
//! read or leads it. The leader's steps are: *take the lease; measure; read the shard; respond;
//! store under the lease*.
//!
//! If this router knows of no entry that is new enough, the leader requests the lease without a
//! lookup. Redis grants the lease if the stored entry is older than the reader allows, and
//! otherwise returns the entry. Redis compares times only; the reader checks the rest of the claim.
//! If the entry fails one of those checks, a second request names its tag and takes the lease. The
//! steps of a write are: *commit; send the invalidation; respond*. An invalidation removes the
//! whole hash, including the leases. Leases are those of Nishtala et al. ("Scaling Memcache at
//! Facebook", NSDI 2013): they let only one of many readers store the entry, which is called a
//! *fill*, and they prevent a fill with rows that a write has changed meanwhile.
//!
//! # Outcome of each race
//! *After any of these races the entry that is left is still a true claim: it is not used for a
//! session that has seen a change it lacks, and is used for others only until it is older than the
//! bound. The lease makes such outdated entries rare.*
//!
//! - **A write between the read of the rows and the fill:** the invalidation has removed the lease,
//!   so the fill is refused.
//! - **The same, but the invalidation is lost or late:** the claim predates the write, so the
//!   statement above holds; a late invalidation removes the entry on arrival.
//! - **An invalidation before the lease is taken:** the write was committed before, so the rows
//!   contain it.
//! - **The lease is evicted, flushed, or lost with Redis:** the fill is refused.
//! - **A lease expires, and another reader takes one:** the token of the lease differs, so the late
//!   fill is refused.
//! - **Two routers miss at once:** one gets the lease; the other reads and does not fill.
//! - **An entry is stored before a reader that expects none requests the lease:** Redis returns the
//!   entry, which is used if it is new enough.
//! - **A router's knowledge of an entry is out of date:** the cost is one more request, or a read
//!   of the shard that a hit would have avoided.
//! - **The rows come from a replica that lags:** `min_position` and `as_of` are those of the
//!   replica.
//! - **Another node becomes the primary and lacks changes, or a backup was restored:** the timeline
//!   differs.
//! - **A slot moves:** its keys contain the epoch of the move. No router that knows the move finds
//!   an entry of the old owner or joins a read of it, even if the slot returns later.
//! - **Another slot moves:** the keys stay the same, and so does the shard whose positions the
//!   claims contain.
//! - **A router does not know that the slot has moved:** the old owner refuses reads after the
//!   move, so no later claims come from it, and the statement above holds. The token of a session
//!   that has read from the new owner contains the epoch, so the router first learns of the move,
//!   or reads without the cache.
//! - **A read of the old owner ends after the move:** its rows and its claim are from before the
//!   move, and are stored under the old key.
//! - **Redis restarts with old data:** the claims are too old, or lack what the session has seen.
//! - **A client that writes disconnects:** the invalidation is still sent. If it is sent before the
//!   commit, it counts as lost, because a reader may still store the old rows.
//! - **A table is dropped and created again:** the table's declaration is part of the field name.
//!
//! # Failures of Redis
//! A read waits for Redis no longer than the setting `patience`, and writes do not wait at all.
//! After several failures Redis is not used for a while (`breaker`). Shared reads work without
//! Redis: concurrent readers of one query send one query to the shard.
//!
//! **Invariant:** a result from the cache was returned by the shard, and is as new as its reader
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

/// Settings of the cache, including the address of Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSettings {
    /// Address of Redis.
    pub address: CacheAddress,
    /// Maximum age of a cached result for a client that sets no limit.
    pub bound: Duration,
    /// Lifetime of an entry in Redis.
    pub ttl: Duration,
    /// Longest time that a read waits for Redis.
    pub patience: Duration,
    /// Maximum size of an entry in bytes.
    pub entry_bytes_max: usize,
    /// Size of the in-process cache in bytes; 0 for none.
    pub near_bytes: usize,
    /// Minimum number of requests of a query that must be expected while one result of it stays new
    /// enough; Redis is not used for less frequent queries.
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
    /// Lowest `min_uses`: Redis is used for every query.
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

/// Maximum deviation of an entry's lifetime from its setting, as a fraction of the setting.
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
    /// Creates the cache of the cluster that signs its tokens with this key. It does not connect to
    /// Redis yet.
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

    /// Returns the state of the circuit breaker and the counts of the cache.
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

    /// Returns a handle with which all entries of the cluster can be removed from Redis, once
    /// nothing uses the cache any more.
    pub fn entries(&self) -> CachedEntries {
        CachedEntries {
            address: self.settings.address.clone(),
            prefix: self.secrets.prefix.clone(),
        }
    }

    /// Starts a trial of Redis in the background if the pause of the circuit breaker is over. Reads
    /// do the same; a cluster without reads needs this call.
    pub fn begin_due_trial(&self) {
        self.client.may_use();
    }

    /// Closes the connections to Redis.
    pub fn close(&self) {
        self.client.close();
    }
}
