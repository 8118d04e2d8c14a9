//! Identity of a move, its terms and legs, and the roles of shards in it.
//!
//! **Not here:** the numbers of shards (`model::topology`).

/// Identity of a move: a random UUID. If the catalog numbered moves with a counter, it could assign
/// a number twice, because a failover of the catalog may lose the last numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MoveId(pub u128);

/// Term of a mover. Each mover that takes over a move has a higher term than the one before, and
/// stores its term on both shards before it does anything else. The shards then refuse requests of
/// the earlier mover.
///
/// A failover of the catalog may lose an assigned number, so two movers may have the same number.
/// In that case the term with the higher random number is the higher one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MoveTerm {
    /// Number that is one higher than the highest in the catalog and on both shards.
    pub number: u64,
    /// Random number that the mover has chosen.
    pub mover: u64,
}

impl MoveTerm {
    /// Returns the term that follows this one, for a mover with this random number.
    #[must_use]
    pub fn next(self, mover: u64) -> Self {
        Self { number: self.number + 1, mover }
    }
}

/// Leg of a move: one transfer of the slots in one direction. The first leg goes from the origin to
/// the destination, and each change of direction begins the next leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MoveLeg(pub u32);

impl MoveLeg {
    /// The first leg, from the origin to the destination.
    pub const FIRST: Self = Self(1);

    /// Returns the leg after this one, in the other direction.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Returns the side that gives the slots away in this leg.
    pub fn source(self) -> MoveSide {
        if self.0 % 2 == 1 { MoveSide::Origin } else { MoveSide::Destination }
    }

    /// Returns the side that receives the slots in this leg.
    pub fn target(self) -> MoveSide {
        self.source().other()
    }
}

/// Side of a move. Unlike its role, the side of a shard is the same in all legs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MoveSide {
    /// Shard that owned the slots when the move was planned.
    Origin,
    /// Shard that owns the slots when the move has succeeded.
    Destination,
}

impl MoveSide {
    /// Returns the other side.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Origin => Self::Destination,
            Self::Destination => Self::Origin,
        }
    }

    /// Returns the index into a pair of shards, origin first.
    pub fn index(self) -> usize {
        match self {
            Self::Origin => 0,
            Self::Destination => 1,
        }
    }
}

/// Role of a shard in the current leg of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MoveRole {
    /// The shard gives the slots away.
    Source,
    /// The shard receives the slots.
    Target,
}

/// Move, leg and term to which a request belongs. A shard compares all three with its record of the
/// move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoveTicket {
    /// The move.
    pub id: MoveId,
    /// Leg for which the mover has decided the request. A request of an earlier leg would act in
    /// the wrong direction.
    pub leg: MoveLeg,
    /// Term of the mover.
    pub term: MoveTerm,
}
