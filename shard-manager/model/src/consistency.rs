//! Consistency: the number of nodes that must have a write, and the changes that a read must
//! observe.
//!
//! **Invariant:** levels are ordered: `all` includes the guarantees of `quorum`, and `quorum` those
//! of `one`.
//! **Not here:** waiting for nodes (`shard`), the positions that a session has seen (`token`).

/// Consistency level of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// A write is on the primary. A read comes from any node that has everything the session has
    /// seen.
    #[default]
    One,
    /// A write is on a majority of the shard's nodes. A read observes everything that was
    /// acknowledged before it began.
    Quorum,
    /// A write is on every node. A read comes from the primary.
    All,
}

impl Level {
    /// All levels, weakest first.
    pub const ALL: [Self; 3] = [Self::One, Self::Quorum, Self::All];

    /// Returns the name in `x-consistency`.
    pub fn name(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Quorum => "quorum",
            Self::All => "all",
        }
    }

    /// Returns the level of this name.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }

    /// Returns the number of replicas that must have a write, beside the primary.
    pub fn replicas_needed(self, replicas: usize) -> usize {
        match self {
            Self::One => 0,
            // A majority of n + 1 nodes is (n + 1) / 2 + 1 nodes, one of which is the primary.
            Self::Quorum => replicas.div_ceil(2),
            Self::All => replicas,
        }
    }

    /// Returns the strongest level that a write has reached if it is on the primary and on
    /// `confirmed` of `replicas` replicas.
    pub fn reached(confirmed: usize, replicas: usize) -> Self {
        let strongest = Self::ALL.into_iter().rev();
        let mut reached = strongest.filter(|level| level.replicas_needed(replicas) <= confirmed);
        reached.next().unwrap_or_default()
    }
}
