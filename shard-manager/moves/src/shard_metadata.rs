//! Shard metadata: states of slots, records of moves, and counters, as a shard's database stores
//! them.
//!
//! **Invariant:** each slot belongs to at most one record of a move.
//! **Not here:** the rows of tables and the recorded changes, which the engine changes according to
//! [`crate::request_context::RowWork`].

use std::collections::BTreeMap;

use model::keyspace::Slot;

use crate::identity::MoveId;
use crate::limits::FENCE_HOLD;
use crate::move_row::MoveRow;
use crate::refusal::MoveRefusal;
use crate::slot_state::SlotState;

/// Metadata of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardMetadata {
    /// State of each slot that the shard knows.
    pub slots: BTreeMap<Slot, SlotState>,
    /// Records of the moves in which the shard takes part. They are few, because a shard is the
    /// source of at most one move in progress and the target of at most one; the other records are
    /// of moves whose source is only kept for a rollback.
    pub moves: Vec<MoveRow>,
    /// Number that grows with each change of a slot's state, except when a fence begins or ends.
    /// Readers notice such changes by comparing it.
    pub generation: u64,
    /// Version counter: the highest version that a row has been given on this shard.
    pub version: u64,
}

impl ShardMetadata {
    /// Returns the record of a move.
    pub fn row(&self, id: MoveId) -> Option<&MoveRow> {
        self.moves.iter().find(|row| row.id == id)
    }

    /// Returns the state of a slot; `None` if the shard has stored no state for it.
    pub fn state(&self, slot: Slot) -> Option<SlotState> {
        self.slots.get(&slot).copied()
    }

    /// Returns true if the shard owns the slot.
    pub fn owns(&self, slot: Slot) -> bool {
        self.state(slot).is_some_and(SlotState::is_owned)
    }

    /// Returns true if the shard accepts writes of a slot when its clock shows `now`, in
    /// milliseconds.
    pub fn admits_writes(&self, slot: Slot, now: u64) -> bool {
        self.state(slot).is_some_and(|state| state.admits_writes(now, FENCE_HOLD))
    }

    /// Returns true if changes of the slot are recorded.
    pub fn traces(&self, slot: Slot) -> bool {
        self.moves.iter().any(|row| row.is_traced && row.slots.contains(&slot))
    }

    pub(crate) fn row_mut(&mut self, id: MoveId) -> Result<&mut MoveRow, MoveRefusal> {
        self.moves.iter_mut().find(|row| row.id == id).ok_or(MoveRefusal::UnknownMove)
    }

    pub(crate) fn remove_row(&mut self, id: MoveId) {
        self.moves.retain(|row| row.id != id);
    }

    /// Replaces the state of each slot by one computed from its present state, and raises the
    /// generation. A slot for which `change` returns `None` has no state afterwards.
    pub(crate) fn change_states(
        &mut self,
        slots: &[Slot],
        change: impl Fn(Option<SlotState>) -> Option<SlotState>,
    ) {
        for slot in slots {
            match change(self.state(*slot)) {
                Some(state) => _ = self.slots.insert(*slot, state),
                None => _ = self.slots.remove(slot),
            }
        }
        self.generation += 1;
    }

    /// Returns true if each of the slots has a state, and all these states satisfy `is_so`.
    pub(crate) fn all(&self, slots: &[Slot], is_so: impl Fn(SlotState) -> bool) -> bool {
        slots.iter().all(|slot| self.state(*slot).is_some_and(&is_so))
    }
}
