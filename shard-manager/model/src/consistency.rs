//! Consistency: how many nodes must have a write, and how much a read must not miss.
//!
//! **Invariant:** levels are ordered: what `all` promises, `quorum` promises, and that `one`.
//! **Not here:** waiting for nodes (`shard`), what a session has seen (`token`).

/// Consistency level of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// A write is on the primary. A read comes from any node that is not behind the session.
    #[default]
    One,
    /// A write is on a majority of the shard's nodes. A read holds everything that was acknowledged
    /// before it began.
    Quorum,
    /// A write is on every node. A read comes from the primary.
    All,
}

impl Level {
    /// Every level, weakest first.
    pub const ALL: [Self; 3] = [Self::One, Self::Quorum, Self::All];

    /// The name in `x-consistency`.
    pub fn name(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Quorum => "quorum",
            Self::All => "all",
        }
    }

    /// The level of this name.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }

    /// Number of replicas that must have a write, beside the primary.
    pub fn replicas_needed(self, replicas: usize) -> usize {
        match self {
            Self::One => 0,
            // A majority of n + 1 nodes is (n + 1) / 2 + 1, and the primary is one of them.
            Self::Quorum => replicas.div_ceil(2),
            Self::All => replicas,
        }
    }

    /// The strongest level that a write has reached which is on the primary and on `confirmed` of
    /// so many replicas.
    pub fn reached(confirmed: usize, replicas: usize) -> Self {
        let strongest = Self::ALL.into_iter().rev();
        let mut reached = strongest.filter(|level| level.replicas_needed(replicas) <= confirmed);
        reached.next().unwrap_or_default()
    }
}
