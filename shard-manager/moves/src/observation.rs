//! Observation: the facts from which the mover decides. They are read from both shards. From the
//! catalog the mover takes only the plan, the operator's orders and the published owner, never the
//! state of the move.
//!
//! **Invariant:** no decision relies on the facts alone, because they may be out of date or come
//! from a deposed primary: the shard checks each request again.

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

/// Plan of a move. It never changes.
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
    /// The destination is to own the slots, and the origin keeps its rows for a rollback.
    Forward,
    /// The origin is to own the slots. A leg to the destination is cancelled, or reversed if the
    /// slots have already reached the destination.
    Back,
    /// The time for a rollback is over: the rows are deleted on the side that no longer owns the
    /// slots.
    Settle,
}

impl MoveGoal {
    /// Returns true if the target of a leg is the side that is to own the slots. [`Self::Settle`]
    /// agrees with every leg.
    pub fn agrees_with(self, leg: MoveLeg) -> bool {
        match self {
            Self::Forward => leg.target() == MoveSide::Destination,
            Self::Back => leg.target() == MoveSide::Origin,
            Self::Settle => true,
        }
    }
}

/// State that all slots of a move have on one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotsState {
    /// The shard owns the slots and accepts writes of them.
    Owned,
    /// The shard owns the slots and has fenced them. The fence may have expired.
    Fenced,
    /// The shard has given the slots away.
    Moved,
    /// The shard imports the slots.
    Importing,
    /// The shard does not know the slots, or their states differ. This occurs only if the shard has
    /// no record of the move.
    Other,
}

/// Facts about one shard, read from one node.
#[derive(Clone, Debug)]
pub struct ShardObservation {
    /// Timeline of the node and insert position of its log, read after the other facts.
    pub position: Position,
    /// Record of the move, if the shard has one.
    pub row: Option<MoveRow>,
    /// State of the move's slots on this shard.
    pub slots: SlotsState,
    /// True if a majority of the shard's nodes has flushed `position` on the same timeline, so that
    /// no failover undoes the facts.
    pub is_confirmed: bool,
    /// True if enough replicas follow the node to form a majority with it.
    pub has_majority: bool,
    /// True if the shard stores table rows of the slots.
    pub has_rows: bool,
}

impl ShardObservation {
    /// Returns the feed of the shard's changes, if the shard has a record of the move.
    pub fn feed(&self) -> Option<Feed> {
        self.row.as_ref().map(|row| row.feed(self.position.timeline))
    }
}

/// Returns the state that all these slots have on a shard.
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

/// Progress that a mover keeps in memory. A mover that takes over a move begins without any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MoveProgress {
    /// Number of consecutive short rounds.
    pub short_rounds: u8,
    /// Feed and pass in which the rows on the target were verified by a comparison. The field is
    /// cleared when a fence has ended without a commit, because each fence requires a comparison
    /// before it.
    pub verified: Option<(Feed, u32)>,
    /// True while a fence that this mover has set should still be in force. The field is cleared
    /// when the commit was refused.
    pub is_fenced: bool,
    /// Number of the last round up to which recorded changes were deleted.
    pub trimmed: Option<u64>,
    /// True once this mover, in its term, has sent the target a request to delete its copy, even if
    /// the outcome is unknown.
    pub empties_target: bool,
    /// True once this mover, in its term, has sent a shard a request to delete its record of the
    /// move.
    pub forgets: bool,
    /// True once this mover has sent a commit in its term, even if the outcome is known: the same
    /// request may arrive again.
    pub sends_commit: bool,
    /// True once the source has recorded more changes than it keeps. The field stays true until
    /// this mover begins the next recording, because the request that ends the present one may be
    /// lost, or find a lock taken.
    pub has_too_many_changes: bool,
    /// True for each side on which this mover has stored its term.
    pub raised: [bool; 2],
}

impl MoveProgress {
    /// Records a request before this mover sends it, because its outcome may stay unknown and it
    /// may arrive late.
    pub fn note_sending(&mut self, request: &MoveRequest) {
        self.empties_target |=
            matches!(request, MoveRequest::CopyAgain(_) | MoveRequest::Discard(_));
        self.forgets |= matches!(request, MoveRequest::Forget(_));
        self.sends_commit |= matches!(request, MoveRequest::Commit(..));
        self.has_too_many_changes &= !matches!(request, MoveRequest::Trace(_));
    }

    /// Records that a shard could not be read. A source that has crashed may assign the IDs of lost
    /// transactions again, and the target then seems to have the changes of the new transactions
    /// although it lacks them. Another round and another comparison find such changes.
    pub fn note_outage(&mut self) {
        // A fence from before the outage does not make the comparison unnecessary.
        self.note_fence_end();
    }

    /// Records that a fence of this mover has ended without a commit. Clients may have written
    /// since then. Before the next fence, the copy must therefore follow its source closely again
    /// and be compared again.
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
    /// True if the side that receives rows lacks changes of the other side.
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
    /// Returns the facts about a side.
    pub fn shard(&self, side: MoveSide) -> &'a ShardObservation {
        self.shards[side.index()]
    }

    /// Returns the highest leg in the records of both shards, or the first leg if neither has a
    /// record.
    pub fn leg(&self) -> MoveLeg {
        let legs = self.shards.iter().filter_map(|shard| Some(shard.row.as_ref()?.leg));
        legs.max().unwrap_or(MoveLeg::FIRST)
    }
}
