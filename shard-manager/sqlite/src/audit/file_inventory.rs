//! File inventory: the contents of a file other than rows: its position, slots, moves and counters,
//! and undeclared tables.
//!
//! **Not here:** the rows (`audit/rows`), the tables' declarations (`audit`, `audit/replicas`), the
//! owners of slots that move (`audit/moving_slots`).

use std::collections::BTreeMap;

use diesel::QueryResult;
use model::table::Table;
use moves::identity::MoveId;

use super::super::OpenError;
use super::super::node_view::{FileState, NodeView};
use super::super::offline_view::NodeFile;
use super::super::stored_move::StoredMove;
use super::super::timeline::VERSIONS_LEFT_OUT;
use super::rows::Scan;
use super::{Audit, Discrepancy, is_declared};

/// State of a slot that is in a move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MovingState {
    pub(super) id: MoveId,
    pub(super) state: Option<String>,
}

/// Contents of one file other than its rows.
pub(super) struct FileInventory {
    pub(super) file_state: FileState,
    undeclared: Vec<String>,
    slots: BTreeMap<u16, String>,
    moves: Vec<StoredMove>,
}

impl FileInventory {
    pub(super) fn read(node: &mut NodeView) -> Result<Self, OpenError> {
        let (file_state, undeclared) = (node.file_state()?, node.undeclared_tables()?);
        let slots = node.slots()?.into_iter().collect();
        Ok(Self { file_state, undeclared, slots, moves: node.moves()? })
    }

    /// Returns the slots that are in a move, each with its move and its state.
    ///
    /// # Errors
    /// A row of a move cannot be read.
    pub(super) fn moving(&self) -> QueryResult<BTreeMap<u16, MovingState>> {
        let mut moving = BTreeMap::new();
        for row in &self.moves {
            let id = row.move_id()?;
            for slot in row.slots()?.iter().map(|slot| slot.number()) {
                let state = self.slots.get(&slot).cloned();
                moving.insert(slot, MovingState { id, state });
            }
        }
        Ok(moving)
    }

    /// Returns true if rows of the slot are foreign: it has moved away, or is being copied to the
    /// shard. Such rows are counted separately, and their owner's copy is checked.
    pub(super) fn is_foreign(&self, slot: i64) -> bool {
        let state = u16::try_from(slot).ok().and_then(|slot| self.slots.get(&slot));
        state.is_some_and(|state| state == "moved" || state == "importing")
    }

    /// Checks the file of a primary, whose slots must be those of the shard map, except those that
    /// are in a move.
    pub(super) fn check(
        &self,
        audit: &Audit<'_>,
        file: &NodeFile,
        moving: &BTreeMap<u16, MovingState>,
    ) {
        self.find_undeclared(audit, file);
        let mut known = self.slots.clone();
        known.retain(|slot, _| !moving.contains_key(slot));
        let expected = audit.view.map.slots_of(file.shard);
        for slot in expected.filter(|slot| !moving.contains_key(slot)) {
            let state = known.remove(&slot);
            if !is_owned(state.as_deref()) {
                let what = slot_state_text(slot, state.as_deref());
                audit.find(audit.about(file, what, "owned, as the map says"));
            }
        }
        for (slot, state) in known {
            if is_owned(Some(&state)) {
                let what = slot_state_text(slot, Some(&state));
                audit.find(audit.about(file, what, "owned by another shard, as the map says"));
            }
        }
    }

    /// Compares the file of a replica at the position of its primary, and returns true if both are
    /// equal.
    pub(super) fn compare(&self, audit: &Audit<'_>, file: &NodeFile, primary: &Self) -> bool {
        let mut same = self.find_undeclared(audit, file);
        let slots = self.slots.keys().chain(primary.slots.keys());
        let mut differ: Vec<u16> =
            slots.copied().filter(|slot| self.slots.get(slot) != primary.slots.get(slot)).collect();
        differ.sort_unstable();
        differ.dedup();
        if let Some(first) = differ.first() {
            let state = |inventory: &Self| inventory.slots.get(first).cloned();
            let mut what = slot_state_text(*first, state(self).as_deref());
            if differ.len() > 1 {
                what += &format!(", and {} more differ", differ.len() - 1);
            }
            let expected = format!("{}, as on the primary", state_name(state(primary).as_deref()));
            audit.find(audit.about(file, what, &expected));
            same = false;
        }
        if self.moves != primary.moves {
            let what = "its rows of moves are others";
            audit.find(audit.about(file, what, "those of the primary"));
            same = false;
        }
        let (own, expected) = (self.file_state.version, primary.file_state.version);
        // A primary skips versions when it continues an older timeline; a replica gets the next
        // version from its log.
        if own > expected || (expected - own) % VERSIONS_LEFT_OUT != 0 {
            let what = format!("its counter of versions stands at {own}");
            audit.find(audit.about(file, what, &format!("{expected}, as on the primary")));
            same = false;
        }
        same
    }

    /// Checks the counters of a table, and returns true if they are right.
    pub(super) fn check_count(
        &self,
        audit: &Audit<'_>,
        file: &NodeFile,
        (table, scan): (&Table, &Scan),
    ) -> bool {
        if !is_declared(table) {
            return true;
        }
        let FileState { counts, foreign_counts, .. } = &self.file_state;
        let mut right = true;
        for (counts, counter, rows) in [
            (counts, "tessera_counts", scan.rows),
            (foreign_counts, "tessera_foreign_counts", scan.foreign_rows),
        ] {
            let counted = counts.iter().find(|(name, _)| name == table.name());
            if counted.map_or(0, |(_, counted)| *counted) == rows as i64 {
                continue;
            }
            let what = match counted {
                Some((_, counted)) => format!("{counter} says {counted} rows"),
                None => format!("{counter} says nothing of it"),
            };
            let found = audit.about(file, what, "");
            let table = Some(table.name().to_owned());
            let expected = format!("{rows}, as there are");
            audit.find(Discrepancy { table, expected, ..found });
            right = false;
        }
        right
    }

    /// Reports tables that are not declared, and returns true if there are none.
    fn find_undeclared(&self, audit: &Audit<'_>, file: &NodeFile) -> bool {
        for name in &self.undeclared {
            let found = audit.about(file, "the table is there", "only tables that were declared");
            audit.find(Discrepancy { table: Some(name.clone()), ..found });
        }
        self.undeclared.is_empty()
    }
}

/// Returns true if a shard owns slots of this state. A fence delays their writes only for a short
/// time.
pub(super) fn is_owned(state: Option<&str>) -> bool {
    matches!(state, Some("owned" | "fenced"))
}

fn state_name(state: Option<&str>) -> &str {
    state.unwrap_or("missing")
}

pub(super) fn slot_state_text(slot: u16, state: Option<&str>) -> String {
    format!("slot {slot} is {} in the shard's tessera_slots", state_name(state))
}
