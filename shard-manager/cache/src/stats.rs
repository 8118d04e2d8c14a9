//! Stats: counts of what the cache has done since the process began.
//!
//! **Not here:** counting (`tally`), the state of Redis (`breaker`).

use model::topology::Role;

/// State of the cache, and counts since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Reads that were answered from the cache, those of the in-process cache included.
    pub hits: u64,
    /// Reads that found no entry, could not use Redis, or are too infrequent for a lookup.
    pub misses: u64,
    /// Reads that found an entry, or knew of one, that was not new enough for them.
    pub stale: u64,
    /// Reads that must not be answered from the cache.
    pub bypass: u64,
    /// Entries that were stored.
    pub fills: u64,
    /// Fills that were refused because the lease was lost or the stored entry is more complete.
    pub rejected: u64,
    /// Timeouts and wrong answers of Redis, stored values that are not entries, and invalidations
    /// that were dropped.
    pub errors: u64,
    /// Keys whose entries were removed because of a write.
    pub invalidations: u64,
    /// Hits in the in-process cache, without Redis.
    pub local_hits: u64,
    /// Reads that did not use Redis because their query is too infrequent.
    pub too_infrequent: u64,
    /// State of the breaker in front of Redis.
    pub breaker: BreakerState,
}

/// State of the circuit breaker in front of Redis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BreakerState {
    /// Redis is used.
    #[default]
    Closed,
    /// A trial is under way.
    HalfOpen,
    /// Redis is not used, because it failed or was too slow.
    Open,
}

impl BreakerState {
    /// Name in `GET /api/health`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

/// Use of the cache by a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheUse {
    /// The read was answered from the cache.
    Hit,
    /// The cache had no entry that was new enough.
    Miss,
    /// The read must not be answered from the cache.
    Bypass,
}

impl CacheUse {
    /// Name in `x-cache`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
        }
    }
}

/// Source of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServedBy {
    /// The primary of the shard; for several shards, at least one primary.
    Primary,
    /// Replicas only.
    Replica,
    /// The cache.
    Cache,
}

impl ServedBy {
    /// Name in `x-served-by`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Primary => Role::Primary.name(),
            Self::Replica => Role::Replica.name(),
            Self::Cache => "cache",
        }
    }

    /// Returns the role of the node; `None` if the answer came from the cache.
    pub fn role(self) -> Option<Role> {
        match self {
            Self::Primary => Some(Role::Primary),
            Self::Replica => Some(Role::Replica),
            Self::Cache => None,
        }
    }
}

impl From<Role> for ServedBy {
    fn from(role: Role) -> Self {
        match role {
            Role::Primary => Self::Primary,
            Role::Replica => Self::Replica,
        }
    }
}
