//! Stats: state of the cache, and counts of its events since the process began.
//!
//! **Not here:** counting (`tally`), the state of Redis (`breaker`).

use model::topology::Role;

/// State of the cache, and counts of its events since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Number of reads that were answered from the cache, including the in-process cache.
    pub hits: u64,
    /// Number of reads for which no entry was found, including reads that did not use Redis.
    pub misses: u64,
    /// Number of reads for which an entry was found or known that was not new enough for them.
    pub stale: u64,
    /// Number of reads that must not be answered from the cache.
    pub bypass: u64,
    /// Number of entries that were stored in Redis.
    pub fills: u64,
    /// Number of entries that were not stored because the lease was lost, the key was written
    /// meanwhile, or a more complete entry is stored.
    pub rejected: u64,
    /// Number of commands to Redis that failed, of stored values that are not valid entries, and of
    /// invalidations that were dropped.
    pub errors: u64,
    /// Number of invalidations of keys because of writes. A key counts once for each write.
    pub invalidations: u64,
    /// Number of hits in the in-process cache.
    pub local_hits: u64,
    /// Number of reads that did not use Redis because their query is too infrequent.
    pub too_infrequent: u64,
    /// State of the circuit breaker in front of Redis.
    pub breaker: BreakerState,
}

/// State of the circuit breaker in front of Redis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BreakerState {
    /// Redis is used.
    #[default]
    Closed,
    /// A trial is running: Redis is not used yet, and a test command is sent to it in the
    /// background.
    HalfOpen,
    /// Redis is not used, because it failed or was too slow.
    Open,
}

impl BreakerState {
    /// Returns the name in `GET /api/health`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

/// Outcome of a read for the cache.
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
    /// Returns the value of the response header `x-cache`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
        }
    }
}

/// Node role or cache that served a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServedBy {
    /// The primary of the shard; for a read of several shards, at least one primary.
    Primary,
    /// Replicas only.
    Replica,
    /// The cache.
    Cache,
}

impl ServedBy {
    /// Returns the value of the response header `x-served-by`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Primary => Role::Primary.name(),
            Self::Replica => Role::Replica.name(),
            Self::Cache => "cache",
        }
    }

    /// Returns the role of the node that served the read; `None` if the cache served it.
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
