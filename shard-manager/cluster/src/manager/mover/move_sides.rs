//! Move sides: both shards of a move, and their state as a mover reads it.
//!
//! The receiving side is read first. The query to the sending side contains the state of the
//! receiver's copy, so that the response also says whether the copy lacks changes.
//!
//! **Invariant:** the state is read from the nodes that this process believes to be primaries. It
//! may be out of date, so the shards check each request again.
//! **Not here:** the decision (`moves::next_step`), the rows of rounds (`move_round`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::slot_move::{FactsQuery, MoveFacts, MoveReader, RoundBudget};
use model::position::Position;
use model::topology::ShardNumber;
use moves::applied::AppliedRows;
use moves::identity::{MoveLeg, MoveSide};
use moves::observation::{MovePlan, ShardObservation, SlotsState};

use super::copy_pace::OtherWrites;
use crate::manager::Manager;
use crate::shard::{Majority, PrimaryMoves, Shard};

/// Time limit of a request to a shard.
pub(super) const CALL_MAX: Duration = Duration::from_secs(5);
/// Maximum number of attempts to read both shards in the same leg of the move (one direction of the
/// transfer).
const LEGS_MAX: usize = 3;

/// Both shards of a move, origin first.
pub(super) struct MoveSides {
    shards: [Arc<Shard>; 2],
}

/// State of a move as a mover has read it.
pub(super) struct SeenMove {
    /// State of the origin and of the destination.
    pub(super) shards: [ShardObservation; 2],
    /// Highest leg that a shard knows.
    pub(super) leg: MoveLeg,
    /// True if the receiving side lacks changes of the other side.
    pub(super) is_behind: bool,
    /// True if some changes that the receiving side lacks are no longer recorded on the other side.
    pub(super) has_lost_changes: bool,
}

impl SeenMove {
    /// Returns the state of a side.
    pub(super) fn shard(&self, side: MoveSide) -> &ShardObservation {
        &self.shards[side.index()]
    }

    /// Returns the state of the receiving side: before the commit the target of the leg, after it
    /// the source, to which changes flow back.
    pub(super) fn receiver(&self) -> &ShardObservation {
        let side = if self.is_committed() { self.leg.source() } else { self.leg.target() };
        self.shard(side)
    }

    /// Returns true if the leg is committed: its source has given the slots away.
    pub(super) fn is_committed(&self) -> bool {
        self.shard(self.leg.source()).slots == SlotsState::Moved
    }
}

impl MoveSides {
    /// Finds both shards.
    ///
    /// # Errors
    /// A sentence that names a shard that is not open here.
    pub(super) fn find(manager: &Manager, plan: &MovePlan) -> Result<Self, String> {
        let find = |number: ShardNumber| {
            let name = || manager.shard_name(number);
            manager
                .shards()
                .find(number)
                .ok_or_else(|| format!("{} is not open on this router", name()))
        };
        let shards = [find(plan.shards[0])?, find(plan.shards[1])?];
        Ok(Self { shards })
    }

    /// Returns the shard of a side.
    pub(super) fn shard(&self, side: MoveSide) -> &Shard {
        &self.shards[side.index()]
    }

    /// Returns the [`Majority`] of the shard of a side.
    pub(super) fn majority(&self, side: MoveSide) -> Majority<'_> {
        Majority::of(self.shard(side))
    }

    /// Returns the reader of the shard of a side.
    ///
    /// # Errors
    /// A sentence, if the engine distributes rows by itself.
    pub(super) fn reader(&self, side: MoveSide) -> Result<&Arc<dyn MoveReader>, String> {
        reader_of(self.shard(side))
    }

    /// Returns the counters of the writes that this process's clients make on both shards.
    pub(super) fn other_writes(&self) -> OtherWrites {
        let moves = || self.shards.iter().filter_map(|shard| shard.primary().moves());
        let lanes = moves().map(PrimaryMoves::lane_stats).reduce(|one, other| one.with(&other));
        let lanes = lanes.unwrap_or_default();
        let are_waiting = lanes.waiting + lanes.applying > 0;
        let chunk = moves().map(PrimaryMoves::chunk_beside_writes).next();
        let chunk = chunk.unwrap_or(RoundBudget::BESIDE_WRITES);
        let lane_time =
            moves().map(PrimaryMoves::waits_for_lanes).reduce(|one, other| one || other);
        let lane_time = lane_time.unwrap_or_default().then_some(lanes.move_time);
        OtherWrites { done: lanes.operations, are_waiting, chunk, lane_time }
    }

    /// Converts a position of a side to the timeline that session tokens use.
    ///
    /// # Errors
    /// A sentence, if the engine distributes rows by itself.
    pub(super) fn token_position(
        &self,
        side: MoveSide,
        position: Position,
    ) -> Result<Position, String> {
        let timeline = self.reader(side)?.position_timeline(position.timeline);
        Ok(Position { timeline: timeline.unwrap_or(position.timeline), ..position })
    }

    /// Reads both shards. `leg` is the leg that the previous call found.
    ///
    /// # Errors
    /// A sentence that names the shard that cannot be read.
    pub(super) async fn look(&self, plan: &MovePlan, leg: MoveLeg) -> Result<SeenMove, String> {
        let mut leg = leg;
        for _ in 0..LEGS_MAX {
            let target = self.facts(plan, leg.target(), None).await?;
            let copied = target.row.as_ref().map(|row| row.applied.clone());
            let source = self.facts(plan, leg.source(), copied).await?;
            let rows = [&source.row, &target.row];
            let found = rows.into_iter().flatten().map(|row| row.leg).max();
            let found = found.unwrap_or(MoveLeg::FIRST);
            if found == leg {
                return self.join(plan, leg, (source, target)).await;
            }
            leg = found;
        }
        Err("the direction of the move changes".to_owned())
    }

    /// Combines the state of both sides. After the commit, the source receives changes from the
    /// target, so the target is read again, with a query that contains the state of the source's
    /// rows.
    async fn join(
        &self,
        plan: &MovePlan,
        leg: MoveLeg,
        (source, target): (MoveFacts, MoveFacts),
    ) -> Result<SeenMove, String> {
        let is_committed = source.slots == SlotsState::Moved;
        let (target, gap) = match &source.row {
            Some(row) if is_committed && target.row.is_some() => {
                let copied = Some(row.applied.clone());
                let target = self.facts(plan, leg.target(), copied).await?;
                let gap = Gap::between(&target, &source);
                (target, gap)
            }
            Some(_) | None => {
                let gap = Gap::between(&source, &target);
                (target, gap)
            }
        };
        let observe = |side, facts| self.observe(side, facts);
        let (source, target) = (observe(leg.source(), source), observe(leg.target(), target));
        let shards = match leg.source() {
            MoveSide::Origin => [source, target],
            MoveSide::Destination => [target, source],
        };
        let Gap { is_behind, has_lost_changes } = gap;
        Ok(SeenMove { shards, leg, is_behind, has_lost_changes })
    }

    async fn facts(
        &self,
        plan: &MovePlan,
        side: MoveSide,
        copied: Option<AppliedRows>,
    ) -> Result<MoveFacts, String> {
        facts_of(self.shard(side), plan, copied).await
    }

    fn observe(&self, side: MoveSide, facts: MoveFacts) -> ShardObservation {
        observed(self.shard(side), facts)
    }
}

/// Reads one shard of a move.
///
/// # Errors
/// A sentence that names the shard.
pub(super) async fn look_at(shard: &Shard, plan: &MovePlan) -> Result<ShardObservation, String> {
    let facts = facts_of(shard, plan, None).await?;
    Ok(observed(shard, facts))
}

/// Returns the reader of a shard.
///
/// # Errors
/// A sentence, if the engine distributes rows by itself.
pub(super) fn reader_of(shard: &Shard) -> Result<&Arc<dyn MoveReader>, String> {
    let missing = || format!("{} distributes its rows itself", shard.name());
    shard.primary().moves().map(PrimaryMoves::reader).ok_or_else(missing)
}

async fn facts_of(
    shard: &Shard,
    plan: &MovePlan,
    copied: Option<AppliedRows>,
) -> Result<MoveFacts, String> {
    let query = FactsQuery { id: plan.id, slots: plan.slots.clone(), copied };
    let facts = reader_of(shard)?.facts(&query, Instant::now() + CALL_MAX).await;
    facts.map_err(|error| format!("{} cannot be read: {error}", shard.name()))
}

fn observed(shard: &Shard, facts: MoveFacts) -> ShardObservation {
    let majority = Majority::of(shard);
    let MoveFacts { position, row, slots, has_rows, .. } = facts;
    ShardObservation {
        position,
        row,
        slots,
        is_confirmed: majority.has_confirmed(position),
        has_majority: majority.follows(),
        has_rows,
    }
}

/// Difference between the changes of the sending side and those that the receiving side has.
struct Gap {
    is_behind: bool,
    has_lost_changes: bool,
}

impl Gap {
    /// Compares the sending side (`giver`) with the receiving side. The query that returned `giver`
    /// contained the state of the receiver's rows.
    fn between(giver: &MoveFacts, receiver: &MoveFacts) -> Self {
        let (Some(row), Some(copy)) = (&giver.row, &receiver.row) else {
            return Self { is_behind: false, has_lost_changes: false };
        };
        let is_foreign = copy.applied.feed != row.feed(giver.position.timeline);
        Self {
            is_behind: is_foreign || giver.is_ahead,
            has_lost_changes: giver.lost_changes && !copy.applied.is_empty(),
        }
    }
}
