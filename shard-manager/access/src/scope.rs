//! Scopes: permissions to use routes that do not read or write rows, such as metrics or the
//! administration of keys.
//!
//! **Invariant:** each HTTP route that is not about rows either needs exactly one scope or is open
//! to everyone.
//! **Not here:** the scope of each route (the router).

/// Permission that is not about rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessScope {
    /// API keys, roles and denials.
    Keys,
    /// Creating tables with their columns and relations, and creating and removing indexes.
    Tables,
    /// Reserved for groups of shards and the schema. No route needs this scope yet.
    Topology,
    /// Analytics, which the dashboard shows; distribution of the data, advice about it, statistics,
    /// and the details of the health of the cluster.
    Analytics,
    /// Metrics for Prometheus.
    Metrics,
    /// Frames: the measurements of one interval, which the collectors of the analytics service
    /// fetch from each router.
    Frames,
    /// The lab: experiments for tests and teaching, in which nodes are paused, delayed or cut off.
    Lab,
    /// Operation of the cluster: shards, the fencing of slots, moves of slots, rebalancing and
    /// backup.
    Operate,
    /// Reserved for the audit log. No route needs this scope yet.
    Audit,
}

impl AccessScope {
    /// All scopes, in the order of their bits.
    pub const ALL: [Self; 9] = [
        Self::Keys,
        Self::Tables,
        Self::Topology,
        Self::Analytics,
        Self::Metrics,
        Self::Frames,
        Self::Lab,
        Self::Operate,
        Self::Audit,
    ];

    /// Names that [`AccessScope::find`] accepts, as listed in error messages.
    pub const NAMES: &str =
        "keys, tables, topology, analytics, metrics, frames, lab, operate, audit";

    /// Returns the name used in the JSON of a role.
    pub fn name(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Tables => "tables",
            Self::Topology => "topology",
            Self::Analytics => "analytics",
            Self::Metrics => "metrics",
            Self::Frames => "frames",
            Self::Lab => "lab",
            Self::Operate => "operate",
            Self::Audit => "audit",
        }
    }

    /// Returns the scope with this name.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == name)
    }
}

/// Set of scopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScopeSet(u16);

impl ScopeSet {
    /// No scope.
    pub const NONE: Self = Self(0);
    /// All scopes.
    pub const ALL: Self = Self((1 << AccessScope::ALL.len()) - 1);

    /// Returns a set with one more scope.
    #[inline]
    #[must_use]
    pub const fn with(self, scope: AccessScope) -> Self {
        Self(self.0 | 1 << scope as u16)
    }

    /// Returns true if the set has this scope.
    #[inline]
    pub const fn has(self, scope: AccessScope) -> bool {
        self.0 & 1 << scope as u16 != 0
    }

    /// Returns true if this set contains all scopes of the other set.
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Returns true if the set has no scope.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the scopes, in a fixed order.
    pub fn iter(self) -> impl Iterator<Item = AccessScope> {
        AccessScope::ALL.into_iter().filter(move |scope| self.has(*scope))
    }
}

impl FromIterator<AccessScope> for ScopeSet {
    fn from_iter<I: IntoIterator<Item = AccessScope>>(scopes: I) -> Self {
        scopes.into_iter().fold(Self::NONE, Self::with)
    }
}
