//! Observation: the facts from which the mover decides. They come from both shards; of the catalog
//! only the plan, the goal and the published owner count, never its state of the move.
//!
//! **Invariant:** an observation may be out of date, or come from a deposed primary. The shard
//! checks each request again.

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

/// Goal that the operator has set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveGoal {
    /// The destination owns the slots. The origin is kept.
    Forward,
    /// The origin owns the slots: a leg to the destination is cancelled, or reversed if it has
    /// reached it.
    Back,
    /// The time of keeping is over: the side that no longer owns the slots is cleaned.
    Settle,
}

impl MoveGoal {
    /// Returns true if a leg goes to the side that is to own the slots; always for
    /// [`Self::Settle`].
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
    /// Unknown to the shard, or not the same for all slots. Occurs only without a row of the move.
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
    /// Feed and pass in which the rows on the target were verified. Cleared when a fence has ended
    /// without a commit, because a comparison precedes each fence.
    pub verified: Option<(Feed, u32)>,
    /// True while a fence of this mover should still last. Cleared when the commit was refused.
    pub is_fenced: bool,
    /// Last round up to which recorded changes were deleted.
    pub trimmed: Option<u64>,
    /// True once this mover, in its term, has sent the target a request to delete its copy, even if
    /// the outcome is unknown.
    pub empties_target: bool,
    /// True once this mover, in its term, has sent a shard a request to delete its row of the move.
    pub forgets: bool,
    /// True once this mover has sent a commit in its term, even if the outcome is known: the same
    /// request may arrive again.
    pub sends_commit: bool,
    /// True if the source has recorded more changes than it keeps, until this mover begins the next
    /// recording. The request that ends one may be lost, or find a lock taken.
    pub has_too_many_changes: bool,
    /// Sides on which this mover has raised its term.
    pub raised: [bool; 2],
}

impl MoveProgress {
    /// Records a request of this mover before it is sent: its outcome may stay unknown, and it may
    /// arrive late.
    pub fn note_sending(&mut self, request: &MoveRequest) {
        self.empties_target |=
            matches!(request, MoveRequest::CopyAgain(_) | MoveRequest::Discard(_));
        self.forgets |= matches!(request, MoveRequest::Forget(_));
        self.sends_commit |= matches!(request, MoveRequest::Commit(..));
        self.has_too_many_changes &= !matches!(request, MoveRequest::Trace(_));
    }

    /// Records that a shard could not be read. A source that has crashed may assign the ids of lost
    /// transactions again, and the copy then seems to have the changes of the new ones: another
    /// round and another comparison show that.
    pub fn note_outage(&mut self) {
        // A fence from before the outage does not make the comparison unnecessary.
        self.note_fence_end();
    }

    /// Records that a fence of this mover has ended without a commit. Clients may have written
    /// since, so the copy follows its source closely and is compared again before the next fence.
    pub fn note_fence_end(&mut self) {
        self.short_rounds = 0;
        self.is_fenced = false;
        self.verified = None;
    }
}

/// All facts from which the mover decides.
#[derive(Debug)]
pub struct MoveObservation<'a> {
    /// Plan of the move.
    pub plan: &'a MovePlan,
    /// Goal that the operator has set.
    pub goal: MoveGoal,
    /// True if the operator has paused the move.
    pub is_paused: bool,
    /// Term of this mover.
    pub term: MoveTerm,
    /// Origin and destination.
    pub shards: [&'a ShardObservation; 2],
    /// True if the receiving side lacks changes of the other one.
    pub is_behind: bool,
    /// True if changes that the target lacks are no longer recorded, or are too many to follow.
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
