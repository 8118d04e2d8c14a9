//! Stats: counts of what the cache has done since the process began.
//!
//! **Not here:** counting (`tally`), judging Redis (`breaker`).

use model::topology::Role;

/// State of the cache, and counts since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Reads that were answered from it, those of the first level included.
    pub hits: u64,
    /// Reads that found nothing, could not ask, or are asked too seldom for that.
    pub misses: u64,
    /// Reads that found an entry that was not new enough for them, or knew of one.
    pub stale: u64,
    /// Reads that must not be answered from it.
    pub bypass: u64,
    /// Entries that were stored.
    pub fills: u64,
    /// Fills that were refused, by a lease that was lost or an entry that holds more.
    pub rejected: u64,
    /// Times that Redis did not answer in time, answered wrongly, or held what is no entry; and
    /// voids that were dropped.
    pub errors: u64,
    /// Keys whose entries were removed because somebody wrote.
    pub voids: u64,
    /// Those of the hits that needed no Redis.
    pub near_hits: u64,
    /// Reads for which Redis was left alone, because they are asked too seldom.
    pub seldom: u64,
    /// State of the breaker in front of Redis.
    pub breaker: BreakerState,
}

/// State of the breaker in front of Redis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BreakerState {
    /// Redis is used.
    #[default]
    Closed,
    /// A trial is under way.
    HalfOpen,
    /// Redis is not used, because it did not answer.
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

/// Part of the cache in a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheUse {
    /// The cache answered.
    Hit,
    /// The cache had no entry that was enough.
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
    /// The primary of its shard, or one of several.
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

    /// Role of the node; `None` if it was no node.
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
