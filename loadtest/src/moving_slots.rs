//! Moving slots: the slots in which the workload has rows, and the slots that are moving now.
//!
//! While slots move, a share of the operations is directed to rows in these slots. Otherwise only
//! few operations would use rows in moving slots, because the rows of the workload are spread over
//! all slots.
//!
//! **Invariant:** while no slot is moving, no random number is drawn for this choice, so that a
//! seed results in the same operations as in a run without moves.
//! **Not here:** the moves (`chaos`), the operations (`verify`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::random::Random;

/// Maximum number of rows that are remembered for each slot.
const ROWS_OF_SLOT: usize = 4;
/// Period of the phases of concentrated load on moving slots: the number of operations on single
/// rows, while slots move, from the end of one phase to the end of the next.
const PHASE_EVERY: u64 = 1_000;
/// Number of operations in a phase of concentrated load. All of them are on rows of moving slots.
const PHASE: u64 = 250;

/// Slots of one run that have rows of the workload, and those that are moving.
#[derive(Debug, Default)]
pub(crate) struct MovingSlots(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Some rows of each slot; none if the slot contains only rows that [`MovingSlots::draw`] does
    /// not return.
    rows: BTreeMap<u16, Vec<String>>,
    moving: Vec<u16>,
    /// Number of operations on single rows while slots moved.
    drawn: u64,
    /// Number of operations, among those in `drawn`, in phases of concentrated load.
    focused: u64,
}

impl MovingSlots {
    /// Remembers the slot of a row.
    pub(crate) fn note_row(&self, slot: u16, row: &str) {
        let mut known = self.lock();
        let rows = known.rows.entry(slot).or_default();
        if rows.len() < ROWS_OF_SLOT && !rows.iter().any(|known| known == row) {
            rows.push(row.to_owned());
        }
    }

    /// Remembers a slot with rows that [`MovingSlots::draw`] does not return.
    pub(crate) fn note_slot(&self, slot: u16) {
        self.lock().rows.entry(slot).or_default();
    }

    /// Returns the slots that are known to have rows of the workload.
    pub(crate) fn with_rows(&self) -> BTreeSet<u16> {
        self.lock().rows.keys().copied().collect()
    }

    /// Replaces the set of moving slots.
    pub(crate) fn set(&self, moving: &BTreeSet<u16>) {
        self.lock().moving = moving.iter().copied().collect();
    }

    /// Returns the number of operations in phases of concentrated load.
    pub(crate) fn focused(&self) -> u64 {
        self.lock().focused
    }

    /// Returns a row in a moving slot, with a probability of `percent`, or always during a phase of
    /// concentrated load. Otherwise returns `None`.
    pub(crate) fn draw(&self, random: &mut Random, percent: u32) -> Option<String> {
        let mut known = self.lock();
        if known.moving.is_empty() {
            return None;
        }
        let is_focused = known.drawn % PHASE_EVERY >= PHASE_EVERY - PHASE;
        known.drawn += 1;
        if !is_focused && random.below(100) >= percent {
            return None;
        }
        known.focused += u64::from(is_focused);
        let rows: Vec<&String> =
            known.moving.iter().filter_map(|slot| known.rows.get(slot)).flatten().collect();
        rows.get(random.below(rows.len() as u32) as usize).map(|row| (*row).clone())
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Each change is a single call, so the values are intact even if the lock is poisoned.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rows_of_slots_that_move_are_drawn() {
        let slots = MovingSlots::default();
        slots.note_row(3, "a");
        slots.note_row(3, "a");
        slots.note_row(4, "b");
        slots.note_slot(5);
        assert_eq!(slots.with_rows(), BTreeSet::from([3, 4, 5]));
        let mut random = Random::of_user(1, 0);
        let before = random.clone().below(1_000);
        assert_eq!(slots.draw(&mut random, 100), None);
        assert_eq!(random.below(1_000), before, "nothing was drawn");
        slots.set(&BTreeSet::from([3, 5]));
        for _ in 0..20 {
            assert_eq!(slots.draw(&mut random, 100).as_deref(), Some("a"));
        }
        assert_eq!(slots.draw(&mut random, 0), None);
    }

    #[test]
    fn a_phase_has_only_operations_on_slots_that_move() {
        let slots = MovingSlots::default();
        slots.note_row(3, "a");
        slots.set(&BTreeSet::from([3]));
        let mut random = Random::of_user(1, 0);
        let drawn = (0..PHASE_EVERY).map(|_| slots.draw(&mut random, 0).is_some());
        let drawn: Vec<bool> = drawn.collect();
        let (before, phase) = drawn.split_at((PHASE_EVERY - PHASE) as usize);
        assert!(!before.contains(&true) && !phase.contains(&false));
        assert_eq!(slots.focused(), PHASE);
    }
}
