//! Moving slots: checks that each slot that is in a move has one owner.
//!
//! The shard map names the old owner of such a slot until the new one has taken it over. Therefore
//! the records in the files of both shards are checked: either one of them owns the slot, or the
//! old owner has given it up and the new owner is still importing it.
//!
//! **Invariant:** a slot with two owners or none is reported, unless a router runs: the shards are
//! then read one after the other.
//! **Not here:** slots that are in no move (`audit/file_inventory`).

use std::collections::BTreeMap;

use model::keyspace::Slot;
use model::topology::ShardNumber;

use super::super::offline_view::NodeFile;
use super::Audit;
use super::file_inventory::{MovingState, is_owned, slot_state_text};

/// Slots that are in a move on some shard, each with that shard's file and its state there.
#[derive(Default)]
pub(super) struct MovingSlots(BTreeMap<u16, Vec<(NodeFile, MovingState)>>);

impl MovingSlots {
    /// Adds the slots of the primary of a shard.
    pub(super) fn add(&mut self, file: &NodeFile, moving: &BTreeMap<u16, MovingState>) {
        for (slot, state) in moving {
            self.0.entry(*slot).or_default().push((file.clone(), state.clone()));
        }
    }

    /// Reports slots with two owners or none.
    pub(super) fn check(&self, audit: &Audit<'_>) {
        if !self.0.is_empty() {
            audit.note(format!("{} slots are in a move between two shards", self.0.len()));
        }
        if audit.running {
            return;
        }
        for (slot, sides) in &self.0 {
            if let Some(known) = Slot::new(*slot) {
                check_slot(audit, (*slot, audit.view.map.owner(known)), sides);
            }
        }
    }
}

/// Checks one slot, whose owner by the shard map is `named`.
fn check_slot(
    audit: &Audit<'_>,
    (slot, named): (u16, ShardNumber),
    sides: &[(NodeFile, MovingState)],
) {
    // A shard without a record of the move was checked only against the shard map.
    let is_elsewhere = sides.iter().all(|(file, _)| file.shard != named);
    let owners = sides.iter().filter(|(_, side)| is_owned(side.state.as_deref())).count();
    let in_transit = |(_, gives): &(NodeFile, MovingState)| {
        let takes = |(_, takes): &(NodeFile, MovingState)| {
            takes.id == gives.id && takes.state.as_deref() == Some("importing")
        };
        gives.state.as_deref() == Some("moved") && sides.iter().any(takes)
    };
    let is_right = match owners + usize::from(is_elsewhere) {
        0 => sides.iter().any(in_transit),
        owners => owners == 1,
    };
    if is_right {
        return;
    }
    for (file, side) in sides {
        let what = slot_state_text(slot, side.state.as_deref());
        audit.find(audit.about(file, what, "one owner, as the slot is in a move"));
    }
}
