//! Test harness: two shards of files with a replica each, and a mover that takes slots from one to
//! the other step by step.

use std::sync::Arc;

use shard_manager::engine::Writer;
use shard_manager::engine::slot_move::{
    FactsQuery, MoveChange, MoveChangeError, MoveFacts, MoveReader, RoundBudget, RoundError,
    RoundQuery, RoundRead, SlotDigest,
};
use shard_manager::keyspace::Slot;
use shard_manager::moves::applied::AppliedRows;
use shard_manager::moves::identity::{MoveId, MoveSide, MoveTerm, MoveTicket};
use shard_manager::moves::limits::SHORT_ROUND_CHANGES;
use shard_manager::moves::move_row::MoveRow;
use shard_manager::moves::next_step;
use shard_manager::moves::observation::{
    MoveGoal, MoveObservation, MovePlan, MoveProgress, ShardObservation, SlotsState,
};
use shard_manager::moves::request::MoveRequest;
use shard_manager::moves::request_context::MoveEffect;
use shard_manager::moves::rules::MoveRules;
use shard_manager::moves::step::MoveStep;
use shard_manager::store::sqlite::move_reader::FileMoveReader;
use shard_manager::topology::ShardNumber;

use crate::cluster::deadline;
use crate::slot_changes::assert_equal_files;
use crate::slot_nodes::{Nodes, slots};

/// Identity of the move.
pub(crate) const MOVE: MoveId = MoveId(7);

/// Extent of a chunk.
const BUDGET: RoundBudget = RoundBudget { rows: 2_000, bytes: 1 << 20 };

/// Result of a change of a move.
pub(crate) type Changed = Result<MoveEffect, MoveChangeError>;

/// Two shards, and the mover between them.
pub(crate) struct MovePair {
    pub(crate) shards: [Nodes; 2],
    pub(crate) plan: MovePlan,
    pub(crate) progress: MoveProgress,
    /// Changes in the order in which they were sent.
    pub(crate) sent: Vec<(MoveSide, MoveChange)>,
    term: MoveTerm,
    pub(crate) published: MoveSide,
    pub(crate) runtime: tokio::runtime::Runtime,
}

impl MovePair {
    /// A move of the slots of these keys. The first shard owns all slots.
    pub(crate) fn new(keys: &[&str]) -> Self {
        let slots: Arc<[Slot]> = slots(keys).iter().collect();
        let shards = [ShardNumber(0), ShardNumber(1)];
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        Self {
            shards: [Nodes::new(), Nodes::owning(&[])],
            plan: MovePlan { id: MOVE, slots, shards },
            progress: MoveProgress::default(),
            sent: Vec::new(),
            term: MoveTerm { number: 1, mover: u64::MAX },
            published: MoveSide::Origin,
            runtime: runtime.expect("a runtime"),
        }
    }

    pub(crate) fn shard(&mut self, side: MoveSide) -> &mut Nodes {
        &mut self.shards[side.index()]
    }

    pub(crate) fn reader(&mut self, side: MoveSide) -> FileMoveReader {
        let nodes = self.shard(side);
        let path = nodes.primary_file.clone();
        let writer = &nodes.primary().changes;
        let slots = writer.slots();
        let shared = (&slots.gate, &slots.compared);
        FileMoveReader::new(("shard1", &path), writer.file_check(), shared)
    }

    pub(crate) fn facts(&mut self, side: MoveSide, copied: Option<AppliedRows>) -> MoveFacts {
        let reader = self.reader(side);
        let query = FactsQuery { id: MOVE, slots: Arc::clone(&self.plan.slots), copied };
        self.runtime.block_on(reader.facts(&query, deadline())).expect("facts")
    }

    pub(crate) fn digests(&mut self, side: MoveSide) -> Vec<SlotDigest> {
        let (reader, slots) = (self.reader(side), Arc::clone(&self.plan.slots));
        self.runtime.block_on(reader.digests(&slots, deadline())).expect("digests")
    }

    pub(crate) fn read_round(
        &mut self,
        from: MoveSide,
        wants_digests: bool,
    ) -> Result<(MoveTicket, RoundRead), RoundError> {
        let row = self.row(from.other()).expect("a row");
        let ticket = MoveTicket { id: MOVE, leg: row.leg, term: self.term };
        let slots = Arc::clone(&self.plan.slots);
        let (base, base_cursor) = (row.applied, row.cursor);
        let query =
            RoundQuery { id: MOVE, slots, base, base_cursor, wants_digests, budget: BUDGET };
        let reader = self.reader(from);
        let read = self.runtime.block_on(reader.read_round(&query, deadline()))?;
        Ok((ticket, read))
    }

    pub(crate) fn row(&mut self, side: MoveSide) -> Option<MoveRow> {
        let reader = self.reader(side);
        let rows = self.runtime.block_on(reader.rows(deadline())).expect("rows");
        rows.into_iter().find(|row| row.id == MOVE)
    }

    /// Sends a change until the shard is not busy any more.
    pub(crate) fn change(&mut self, side: MoveSide, change: &MoveChange) -> Changed {
        loop {
            match self.shard(side).primary().changes.change_move(change) {
                Err(MoveChangeError::Busy { .. }) => {}
                changed => return changed,
            }
        }
    }

    /// Returns the next step, from the facts of both shards.
    pub(crate) fn next(&mut self, goal: MoveGoal) -> MoveStep {
        let rows = [MoveSide::Origin, MoveSide::Destination].map(|side| self.row(side));
        let copied =
            |side: MoveSide| rows[side.other().index()].as_ref().map(|row| row.applied.clone());
        let facts =
            [MoveSide::Origin, MoveSide::Destination].map(|side| self.facts(side, copied(side)));
        let observed = |facts: &MoveFacts| ShardObservation {
            position: facts.position,
            row: facts.row.clone(),
            slots: facts.slots,
            is_confirmed: true,
            has_majority: true,
            has_rows: facts.has_rows,
        };
        let seen = [observed(&facts[0]), observed(&facts[1])];
        let mut observation = MoveObservation {
            plan: &self.plan,
            goal,
            is_paused: false,
            term: self.term,
            shards: [&seen[0], &seen[1]],
            is_behind: false,
            must_copy_again: false,
            published: self.published,
            progress: &self.progress,
            rules: MoveRules::ALL,
        };
        let leg = observation.leg();
        let has_moved = facts[leg.source().index()].slots == SlotsState::Moved;
        let from = &facts[if has_moved { leg.target() } else { leg.source() }.index()];
        observation.is_behind = from.is_ahead;
        observation.must_copy_again = !has_moved && from.lost_changes;
        next_step::next(&observation)
    }

    /// Carries out a step. Returns false if the move rests or has ended.
    pub(crate) fn carry_out(&mut self, step: MoveStep) -> bool {
        match step {
            MoveStep::Send(side, request) => self.send(side, *request),
            MoveStep::CopyRound { from } => drop(self.copy(from, false)),
            MoveStep::Verify { from } => self.verify(from),
            MoveStep::AwaitConfirmation(side) => panic!("{side:?} is confirmed at once"),
            MoveStep::NextTerm => {
                self.term = self.term.next(3);
                self.progress = MoveProgress::default();
            }
            MoveStep::Publish(side) => self.published = side,
            MoveStep::Rest(_) | MoveStep::End(_) => return false,
        }
        self.shards.iter_mut().for_each(Nodes::catch_up);
        true
    }

    fn send(&mut self, side: MoveSide, request: MoveRequest) {
        self.progress.note_sending(&request);
        let change = MoveChange::from(request.clone());
        self.sent.push((side, change.clone()));
        let changed = self.change(side, &change);
        match (&request, &changed) {
            (MoveRequest::Commit(..), Err(MoveChangeError::Refused(_))) => {
                self.progress.note_fence_end();
                return;
            }
            (MoveRequest::Fence(_), _) => self.progress.is_fenced = true,
            (MoveRequest::Trim(_, applied), _) => self.progress.trimmed = Some(applied.round),
            _ => {}
        }
        changed.unwrap_or_else(|error| panic!("{request:?}: {error}"));
    }

    /// Copies a round; `None` if the changes since the last one are lost.
    fn copy(&mut self, from: MoveSide, wants_digests: bool) -> Option<RoundRead> {
        let (ticket, read) = match self.read_round(from, wants_digests) {
            Ok(read) => read,
            Err(RoundError::LostChanges) => return None,
            Err(error) => panic!("{error}"),
        };
        let request = MoveRequest::Store(ticket, read.round.clone());
        let change = MoveChange { request, rows: read.rows.clone() };
        self.sent.push((from.other(), change.clone()));
        self.change(from.other(), &change).expect("the round is stored");
        let is_short = read.changes <= SHORT_ROUND_CHANGES;
        let rounds = self.progress.short_rounds;
        self.progress.short_rounds = if is_short { rounds + 1 } else { 0 };
        Some(read)
    }

    fn verify(&mut self, from: MoveSide) {
        let Some(read) = self.copy(from, true) else { return };
        assert_eq!(self.digests(from.other()), read.digests.expect("digests"));
        let row = self.row(from.other()).expect("a row");
        self.progress.verified = Some((row.applied.feed, row.applied.pass));
    }

    /// Carries the move on until it rests or ends, and returns that step. `between` runs before
    /// each step.
    pub(crate) fn run(&mut self, goal: MoveGoal, mut between: impl FnMut(&mut Self)) -> MoveStep {
        for _ in 0..500 {
            between(self);
            let step = self.next(goal);
            if !self.carry_out(step.clone()) {
                return step;
            }
        }
        panic!("the move does not rest");
    }

    /// Checks that the replicas equal their primaries.
    pub(crate) fn assert_equal_files(&mut self) {
        self.shards.iter_mut().for_each(Nodes::catch_up);
        self.shards.iter().for_each(assert_equal_files);
    }
}
