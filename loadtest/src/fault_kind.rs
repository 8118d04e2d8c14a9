//! Fault kinds: the names that `--faults` accepts, and the default faults of a run.
//!
//! **Not here:** causing faults (`chaos`).

/// A kind of fault, as `--faults` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum FaultKind {
    /// The router is killed (kill -9) and started again
    RouterKill,
    /// The router is frozen (SIGSTOP)
    RouterFreeze,
    /// The router is ended (SIGTERM) and started again
    RouterRestart,
    /// A node is stopped as if the power were gone, and started again
    Stop,
    /// A node is frozen
    Freeze,
    /// The way to a node is cut: connections end, and new ones are refused
    Cut,
    /// The way to a node discards what comes and answers nothing
    HalfOpen,
    /// The way to a node is slow
    Delay,
    /// Answers to writes that are stored are lost
    LostAnswer,
    /// A primary is stopped or frozen, the best replica promoted, and the old primary let rejoin
    Promote,
    /// Writes of random slots wait until their fence ends
    Fence,
    /// Slots move to another shard
    Move,
    /// A move of slots is rolled back
    Rollback,
    /// A new shard joins and takes its share of the slots
    Join,
    /// The shard that has joined is emptied and retires
    Drain,
    /// The cache is emptied
    RedisFlush,
    /// The cache is frozen (SIGSTOP)
    RedisFreeze,
    /// The cache is killed (kill -9) and started again, empty
    RedisKill,
}

impl FaultKind {
    /// Default faults without a cluster.
    pub(crate) const OF_ROUTER: [Self; 3] =
        [Self::RouterKill, Self::RouterFreeze, Self::RouterRestart];
    /// Default faults with a cluster. Promotions are not among them, because a promotion may lose
    /// writes at level `one` by design.
    pub(crate) const OF_CLUSTER: [Self; 9] = [
        Self::RouterKill,
        Self::RouterFreeze,
        Self::RouterRestart,
        Self::Stop,
        Self::Freeze,
        Self::Cut,
        Self::HalfOpen,
        Self::Delay,
        Self::LostAnswer,
    ];
    /// Faults of a cache.
    pub(crate) const OF_CACHE: [Self; 3] = [Self::RedisFlush, Self::RedisFreeze, Self::RedisKill];

    /// Returns true if the fault needs a cluster of servers behind the router.
    pub(crate) fn needs_cluster(self) -> bool {
        let others = [Self::Fence, Self::Move, Self::Rollback, Self::Join, Self::Drain];
        ![&Self::OF_ROUTER[..], &Self::OF_CACHE, &others].concat().contains(&self)
    }

    /// Returns the frequency of the fault, relative to the other kinds.
    pub(crate) fn weight(self) -> u32 {
        match self {
            Self::RouterKill | Self::Rollback => 6,
            Self::Move => 12,
            Self::RouterFreeze | Self::Promote => 3,
            Self::RouterRestart => 1,
            Self::Stop
            | Self::Freeze
            | Self::Cut
            | Self::HalfOpen
            | Self::Delay
            | Self::LostAnswer
            | Self::Fence
            | Self::Join
            | Self::Drain
            | Self::RedisFlush
            | Self::RedisFreeze
            | Self::RedisKill => 3,
        }
    }

    /// Returns true if the fault is a move of slots or its rollback.
    pub(crate) fn is_of_moves(self) -> bool {
        [Self::Move, Self::Rollback].contains(&self)
    }

    /// Returns true if the fault is a join or a drain of a shard.
    pub(crate) fn is_of_growth(self) -> bool {
        [Self::Join, Self::Drain].contains(&self)
    }

    /// Returns true if the fault requires a router with `--operate`.
    pub(crate) fn needs_operate(self) -> bool {
        self.is_of_moves() || self.is_of_growth()
    }

    /// Returns true if the fault makes one of a shard's nodes unavailable.
    pub(crate) fn breaks_a_node(self) -> bool {
        match self {
            Self::Stop | Self::Freeze | Self::Cut | Self::HalfOpen | Self::Promote => true,
            Self::RouterKill
            | Self::RouterFreeze
            | Self::RouterRestart
            | Self::Delay
            | Self::LostAnswer
            | Self::Fence
            | Self::Move
            | Self::Rollback
            | Self::Join
            | Self::Drain
            | Self::RedisFlush
            | Self::RedisFreeze
            | Self::RedisKill => false,
        }
    }
}
