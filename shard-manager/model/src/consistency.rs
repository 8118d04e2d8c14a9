//! Consistency: how many nodes must have stored a write, and which changes a read must observe.
//!
//! **Invariant:** the levels are ordered by strength: `all` includes the guarantees of `quorum`,
//! and `quorum` those of `one`.
//! **Not here:** waiting for nodes (`shard`), the positions that a session has seen (`token`).

/// Consistency level of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// A write is acknowledged when the primary has stored it. A read is answered by any node that
    /// has all changes that the session has seen.
    #[default]
    One,
    /// A write is acknowledged when a majority of the shard's nodes has stored it. A read observes
    /// every write that was acknowledged before the read began.
    Quorum,
    /// A write is acknowledged when every node of the shard has stored it. A read is answered by
    /// the primary.
    All,
}

impl Level {
    /// All levels, weakest first.
    pub const ALL: [Self; 3] = [Self::One, Self::Quorum, Self::All];

    /// Returns the name that the header `x-consistency` uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Quorum => "quorum",
            Self::All => "all",
        }
    }

    /// Returns the level with this name.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }

    /// Returns the number of replicas, in addition to the primary, that must have stored a write.
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
