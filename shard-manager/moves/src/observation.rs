//! Observation: the facts from which the mover decides. They come from both shards; of the catalog
//! only the plan, the wish and the published owner count, never its state of the move.
//!
//! **Invariant:** an observation may be out of date, of a deposed primary too. Each request is
//! checked again by the shard.

use std::sync::Arc;

use model::keyspace::Slot;
use model::position::Position;
use model::topology::ShardNumber;

use crate::applied::Feed;
use crate::identity::{MoveId, MoveLeg, MoveSide, MoveTerm};
use crate::move_row::MoveRow;
use crate::request::MoveRequest;
use crate::rules::MoveRules;
use crate::shard_metadata::ShardMetadata;
use crate::slot_state::SlotState;

/// Plan of a move, which never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MovePlan {
    /// The move.
    pub id: MoveId,
    /// Slots of the move.
    pub slots: Arc<[Slot]>,
    /// Origin and destination.
    pub shards: [ShardNumber; 2],
}

/// Wish of the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveGoal {
    /// The destination owns the slots. The origin is kept.
    Forward,
    /// The origin owns the slots: a leg to the destination is given up, or reversed if it has
    /// reached it.
    Back,
    /// The time of keeping is over: the side that no longer owns the slots is cleaned.
    Settle,
}

impl MoveGoal {
    /// Returns true if a leg goes to the side that is wished for.
    pub fn agrees_with(self, leg: MoveLeg) -> bool {
        match self {
            Self::Forward => leg.target() == MoveSide::Destination,
            Self::Back => leg.target() == MoveSide::Origin,
            Self::Settle => true,
        }
    }
}

/// Common state of the slots of a move on one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotsState {
    /// Owned, and writes are accepted.
    Owned,
    /// Owned, and fenced; the fence may have ended by itself.
    Fenced,
    /// Given away.
    Moved,
    /// Being imported.
    Importing,
    /// Unknown, or not alike. That happens only without a row of the move.
    Other,
}

/// Facts of one shard, read on one node.
#[derive(Clone, Debug)]
pub struct ShardObservation {
    /// Timeline and insert position of the node, read after the facts.
    pub position: Position,
    /// Row of the move.
    pub row: Option<MoveRow>,
    /// State of its slots.
    pub slots: SlotsState,
    /// True if a majority of the shard's nodes has flushed `position` on the same timeline, so that
    /// no failover undoes the facts.
    pub is_confirmed: bool,
    /// True if enough nodes follow for a majority.
    pub has_majority: bool,
    /// True if the shard has rows of the slots.
    pub has_rows: bool,
}

impl ShardObservation {
    /// Returns the stream of changes of the shard, if it has a row of the move.
    pub fn feed(&self) -> Option<Feed> {
        self.row.as_ref().map(|row| row.feed(self.position.timeline))
    }
}

/// Returns the common state of slots on a shard.
pub fn state_of(shard: &ShardMetadata, slots: &[Slot]) -> SlotsState {
    let is = |wanted: fn(SlotState) -> bool| shard.all(slots, wanted);
    if is(|state| matches!(state, SlotState::Owned)) {
        SlotsState::Owned
    } else if is(SlotState::is_owned) {
        SlotsState::Fenced
    } else if is(|state| matches!(state, SlotState::Moved { .. })) {
        SlotsState::Moved
    } else if is(|state| matches!(state, SlotState::Importing { .. })) {
        SlotsState::Importing
    } else {
        SlotsState::Other
    }
}

/// Progress that a mover remembers. A mover that takes over begins without it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MoveProgress {
    /// Short rounds in sequence.
    pub short_rounds: u8,
    /// Feed and pass in which the rows on the target were verified.
    pub verified: Option<(Feed, u32)>,
    /// True while a fence of this mover should still last. Cleared when the commit was refused.
    pub is_fenced: bool,
    /// Last round up to which recorded changes were deleted.
    pub trimmed: Option<u64>,
    /// True once this mover has asked the target in its term to delete its copy, also if it does
    /// not know the outcome.
    pub empties_target: bool,
    /// True once this mover has asked a shard in its term to forget the move.
    pub forgets: bool,
    /// True once this mover has sent a commit in its term, also if it knows the outcome: the same
    /// request may arrive again.
    pub sends_commit: bool,
    /// Sides on which this mover has raised its term.
    pub raised: [bool; 2],
}

impl MoveProgress {
    /// Notes a request of this mover before it is sent: its outcome may stay unknown, and it may
    /// arrive late.
    pub fn note_sending(&mut self, request: &MoveRequest) {
        self.empties_target |=
            matches!(request, MoveRequest::CopyAgain(_) | MoveRequest::Discard(_));
        self.forgets |= matches!(request, MoveRequest::Forget(_));
        self.sends_commit |= matches!(request, MoveRequest::Commit(..));
    }
}

/// Everything from which the mover decides.
#[derive(Debug)]
pub struct MoveObservation<'a> {
    /// Plan of the move.
    pub plan: &'a MovePlan,
    /// Wish of the operator.
    pub goal: MoveGoal,
    /// True if the operator wants the move to rest.
    pub is_paused: bool,
    /// Term of this mover.
    pub term: MoveTerm,
    /// Origin and destination.
    pub shards: [&'a ShardObservation; 2],
    /// True if the side that copies lacks changes of the other one.
    pub is_behind: bool,
    /// True if changes that the target lacks are recorded no more, or too many to follow.
    pub must_copy_again: bool,
    /// Side that the catalog names as owner of the slots.
    pub published: MoveSide,
    /// Progress that this mover remembers.
    pub progress: &'a MoveProgress,
    /// Rules that are in force.
    pub rules: MoveRules,
}

impl<'a> MoveObservation<'a> {
    /// Returns the facts of a side.
    pub fn shard(&self, side: MoveSide) -> &'a ShardObservation {
        self.shards[side.index()]
    }

    /// Returns the highest leg that a shard knows.
    pub fn leg(&self) -> MoveLeg {
        let legs = self.shards.iter().filter_map(|shard| Some(shard.row.as_ref()?.leg));
        legs.max().unwrap_or(MoveLeg::FIRST)
    }
}
