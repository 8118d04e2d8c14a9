//! Cache: answers of reads kept in Redis, used only where they prove themselves new enough.
//!
//! Redis may lose, rewind, evict, hang or be written by others. So **no promise depends on it**,
//! and none on a message that voids something: an entry carries what is known of it, and each
//! reader judges by that.
//!
//! # What is stored
//! All answers about one shard key of one table are one hash (`cache_key`). A field is one
//! question; its value is the rows and a claim (`entry`): *these rows are of this timeline of the
//! shard, hold every change up to `floor`, none after `seen`, and were all there was at `as_of`*. A
//! claim is a fact about the past. It does not become wrong, only old; no loss, copy or rewind of
//! Redis changes that. A tag under a secret of the cluster keeps everything else out. Beside the
//! field of an entry may stand a lease for it.
//!
//! What is claimed is measured before the rows are read, so that everything that happens meanwhile
//! makes the rows newer than the claim and never older. `floor` is what the replica that is read
//! has applied, or what it was asked to have; of a primary in a file, what is committed. Of a
//! server that leads it is 0: a commit that is flushed has a position before reads see it, so the
//! server's position proves nothing. `as_of` is now, or when the replica last had everything. An
//! answer during which another node has become the primary is not kept.
//!
//! # When an entry answers a read
//! At level `one`, if all of this holds (`proof`):
//! - its timeline is the one in which the shard lives. Positions of another may be of changes that
//!   were lost;
//! - its age is within what the client allows, or the bound where it says nothing. Of what another
//!   router has stored, the age counts as more by what clocks may differ: so with a bound not above
//!   [`CLOCK_ALLOWANCE`] each router uses its own entries only;
//! - what the session has seen of the shard is not after `floor`. That the history of the shard
//!   holds it was checked before, as for every read.
//!
//! The session has then seen up to `seen`. So it reads its own writes, and never older than before,
//! whichever of cache, replicas and primary answers which of its reads: these are the session
//! guarantees of Terry et al. ("Session Guarantees for Weakly Consistent Replicated Data", 1994),
//! read-your-writes and monotonic reads.
//!
//! # In which order
//! A read that is asked too seldom to be worth a visit (`admission`) joins the shared read of its
//! question, and leaves Redis alone. Any other asks for the entry, if one is known that is new
//! enough; there is none: join the shared read (`shared_read`), lead it: *take the lease; measure;
//! read the shard; answer; store under the lease*. Where nothing that is new enough is known, the
//! lease is asked for at once: Redis gives it if what is there is older than the reader allows,
//! else it gives the entry. Redis compares times only; whether the entry is enough is judged here,
//! and if it lacks something else, a second visit says so and takes the lease. A write: *commit;
//! send the void; answer*; a void removes the whole hash, leases included. Leases are those of
//! Nishtala et al. ("Scaling Memcache at Facebook", NSDI 2013): they let one of many fill, and stop
//! a fill that a write has overtaken.
//!
//! # Why each race ends well
//! *For whom a race is lost, the entry that is left is still a true claim: it serves nobody who has
//! seen what it lacks, and nobody else longer than the bound. The lease makes that rare.*
//!
//! | Race | End |
//! |---|---|
//! | a write between the read of the rows and the fill | the void took the lease: the fill is refused |
//! | the same, and the void is lost or late | the claim is of before the write: see above; the void ends it when it comes |
//! | a void before the lease is taken | the write was committed before, so the rows hold it |
//! | the lease is evicted, flushed, or lost with Redis | the fill is refused |
//! | a lease runs out, and another fills | the token is another: the late fill is refused |
//! | two routers miss at once | one gets the lease, the other reads and does not fill |
//! | an entry comes before one who expects none asks for the lease | it is new enough, and answers |
//! | what is known of an entry is not true any more | a visit more, or a read of the shard that a hit would have spared |
//! | the rows come from a replica that lags | `floor` and `as_of` are those of the replica |
//! | another node leads, has lost changes, or a copy was put back | the timeline is another |
//! | a slot moves | its keys name another epoch |
//! | Redis comes back with what it had | claims of long ago: too old, or they do not hold what was seen |
//! | a writer's client goes away | the void is sent all the same; if before the commit, as if it were lost |
//! | a table is dropped and made anew | its declaration is in the name of the question |
//!
//! # When Redis is not well
//! Nobody waits for it longer than the patience, and writes do not wait at all. After some failures
//! it is left alone for a while (`breaker`). Shared reads work without it: many who ask the same at
//! once make one query.
//!
//! **Invariant:** an answer of the cache is one that the shard gave, and as new as its reader
//! demands.
//! **Not here:** what a read demands of its shard (`shard`), requests (`manager`).
#![forbid(unsafe_code)]

mod address;
mod admission;
mod breaker;
mod cache_key;
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
use breaker::Breaker;
use cache_key::Secrets;
use client::{SendPermits, UNWAITED_MAX};
use clock::Clock;
use connections::Connections;
use local_cache::LocalCache;
use model::token::TokenKey;
use shared_read::SharedReads;
use tally::{Count, Tally};

pub use address::{AddressError, CacheAddress};
pub use cache_key::About;
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
    /// Bytes of the largest entry.
    pub entry_bytes_max: usize,
    /// Bytes of the entries that this process keeps itself; none if zero.
    pub near_bytes: usize,
    /// Redis is left alone with a question that is not expected to be asked so often while its
    /// answer is new enough.
    pub min_uses: usize,
}

impl CacheSettings {
    /// Default of `bound`.
    pub const BOUND_DEFAULT: Duration = Duration::from_secs(1);
    /// The loosest bound.
    pub const BOUND_MAX: Duration = Duration::from_secs(30);
    /// Default of `ttl`.
    pub const TTL_DEFAULT: Duration = Duration::from_secs(30);
    /// The longest that one is kept: it is of no use when it is older than every bound.
    pub const TTL_MAX: Duration = Duration::from_secs(30);
    /// Default of `patience`.
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
    /// Default of `min_uses`.
    pub const MIN_USES_DEFAULT: usize = 2;
    /// Every answer is kept.
    pub const MIN_USES_LEAST: usize = 1;
    /// The most often.
    pub const MIN_USES_MOST: usize = 1_000;

    /// A cache there, used as it is where nobody says otherwise.
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

/// By which share entries are kept longer or shorter than they are said to.
const TTL_JITTER: f64 = 0.1;
/// Fills, and keys that are voided, that nobody waits for: what comes beyond is dropped.
const UNWAITED_COUNT_MAX: usize = 16_384;

/// The cache of a cluster, as one router uses it.
pub struct Cache {
    settings: CacheSettings,
    secrets: Secrets,
    admission: Admission,
    connections: Connections,
    breaker: Breaker,
    shared_reads: Arc<SharedReads>,
    local_cache: Option<LocalCache>,
    permits: SendPermits,
    tally: Tally,
    clock: Clock,
}

impl Cache {
    /// A cache there, for the cluster that signs its tokens with this key. Nobody is asked yet.
    pub fn new(settings: CacheSettings, key: &TokenKey) -> Self {
        Self {
            secrets: Secrets::of(key),
            admission: Admission::new(settings.min_uses),
            connections: Connections::new(settings.address.clone()),
            breaker: Breaker::new(settings.patience),
            shared_reads: Arc::default(),
            local_cache: (settings.near_bytes > 0).then(|| LocalCache::new(settings.near_bytes)),
            permits: SendPermits::new(UNWAITED_COUNT_MAX),
            tally: Tally::default(),
            clock: Clock::new(),
            settings,
        }
    }

    /// State and counts of the cache.
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
            voids: of(Count::Invalidation),
            near_hits: of(Count::LocalHit),
            seldom: of(Count::Seldom),
            breaker: self.breaker.state(),
        }
    }

    /// Closes its connections.
    pub fn close(&self) {
        self.connections.close();
    }
}
