//! Shard metadata: states of slots, rows of moves, and counters, as a shard's database stores them.
//!
//! **Invariant:** a slot is in one row at most.
//! **Not here:** the rows of tables and the recorded changes (the engine, by
//! [`crate::request_context::RowWork`]).

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
    /// Rows of the moves in which the shard takes part. They are few: a shard is the source of one
    /// move and the target of one at a time.
    pub moves: Vec<MoveRow>,
    /// Number that grows with each change of the states, except by fences. Readers compare it to
    /// notice changes.
    pub generation: u64,
    /// Version counter: the highest version that was given to a row here.
    pub version: u64,
}

impl ShardMetadata {
    /// Returns the row of a move.
    pub fn row(&self, id: MoveId) -> Option<&MoveRow> {
        self.moves.iter().find(|row| row.id == id)
    }

    /// Returns the state of a slot, `None` if the shard knows nothing of it.
    pub fn state(&self, slot: Slot) -> Option<SlotState> {
        self.slots.get(&slot).copied()
    }

    /// Returns true if the shard owns the slot.
    pub fn owns(&self, slot: Slot) -> bool {
        self.state(slot).is_some_and(SlotState::is_owned)
    }

    /// Returns true if the shard accepts writes of a slot at a time of its clock, in milliseconds.
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

    /// Gives slots a new state, each computed from its present one, and counts the change.
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

    /// Returns true if all slots have a state with this property.
    pub(crate) fn all(&self, slots: &[Slot], is_so: impl Fn(SlotState) -> bool) -> bool {
        slots.iter().all(|slot| self.state(*slot).is_some_and(&is_so))
    }
}
