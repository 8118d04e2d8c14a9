//! Owned slots: determines the slots that the shard of a file owns, for reads and writes of that
//! file.
//!
//! The table `tessera_slots` is authoritative, as a read sees it in its snapshot and a write in its
//! transaction. To spare reads that query, [`SlotOwnership`] keeps the owned slots in memory,
//! together with a count of their changes. The count is odd from before the commit of a change
//! until the new slots are in memory. If a read finds the same even count before it takes its
//! snapshot and after its last row, no change was committed in between, so the slots in memory are
//! those of its snapshot. Any other read queries the table in its own snapshot.
//!
//! This is correct because a file has only one writer, in the same process as its readers: the
//! shard's writer for a primary, the applier for a replica. Each file has a [`SlotOwnership`] of
//! its own, so a replica serves the slots that its shard owned at the replica's own position. A
//! commit with an unknown outcome leaves the count odd until the file is opened again.
//!
//! **Invariant:** while the count is even, the slots in memory equal those in the file.
//! **Not here:** changes (`slot_change`), leaving out rows (`slot_filter`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};
use diesel::QueryResult;
use diesel::sqlite::SqliteConnection;
use engine::slot_change::FENCE_MAX;
use model::keyspace::Slot;
use model::slot_refusal::RefusedState;
use model::slot_set::SlotSet;
use model::topology::ShardNumber;

use super::connection::{Bind, RowView, Statement, for_each_row};
use super::sql;

/// The slots that a shard owns.
#[derive(Debug)]
pub(super) struct OwnedSlots {
    /// The slots.
    pub(super) set: Arc<SlotSet>,
    /// True if the file may contain rows of slots that the shard does not own, because they have
    /// moved away or are being copied to the shard.
    pub(super) has_foreign: bool,
}

impl OwnedSlots {
    /// Reads the slots of a file.
    pub(super) fn load(connection: &mut SqliteConnection) -> QueryResult<Self> {
        let (mut set, mut has_foreign) = (SlotSet::empty(), false);
        let statement = Statement { sql: sql::OWNED_SLOTS, binds: &[], cached: true };
        for_each_row(connection, statement, |row| {
            match (slot(row), row.int(1)) {
                (Some(slot), Some(1)) => set.insert(slot),
                (Some(_) | None, _) => has_foreign = true,
            }
            Ok(())
        })?;
        Ok(Self { set: Arc::new(set), has_foreign })
    }
}

/// The slots that the shard of a file owns, in memory.
#[derive(Debug)]
pub struct SlotOwnership {
    changes: AtomicU64,
    owned: ArcSwap<OwnedSlots>,
}

impl Default for SlotOwnership {
    /// Creates the state before the slots of a file have been read, with an odd count.
    fn default() -> Self {
        let owned = OwnedSlots { set: Arc::new(SlotSet::empty()), has_foreign: true };
        Self { changes: AtomicU64::new(1), owned: ArcSwap::from_pointee(owned) }
    }
}

/// Owned slots, with the count of changes at which they were read from memory.
#[derive(Debug)]
pub(super) struct KnownSlots {
    count: u64,
    pub(super) owned: Arc<OwnedSlots>,
}

impl SlotOwnership {
    /// Records that a change is about to be committed. Called by the only writer of the file.
    pub(super) fn begin_change(&self) {
        self.changes.fetch_or(1, Ordering::SeqCst);
    }

    /// Stores the owned slots after a change was committed. Called by the only writer of the file.
    pub(super) fn finish_change(&self, owned: OwnedSlots) {
        self.owned.store(Arc::new(owned));
        let even = (self.changes.load(Ordering::SeqCst) | 1) + 1;
        self.changes.store(even, Ordering::SeqCst);
    }

    /// Brings `known` up to date, or sets it to `None` if the count is odd.
    #[inline]
    pub(super) fn refresh(&self, known: &mut Option<KnownSlots>) {
        let count = self.changes.load(Ordering::SeqCst);
        if known.as_ref().is_some_and(|known| known.count == count) {
            return;
        }
        let is_settled = count.is_multiple_of(2);
        *known = is_settled.then(|| KnownSlots { count, owned: self.owned.load_full() });
    }

    /// Returns true if the slots have not changed since `known` was brought up to date.
    #[inline]
    pub(super) fn is_current(&self, known: &KnownSlots) -> bool {
        self.changes.load(Ordering::SeqCst) == known.count
    }
}

/// State of a slot in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotState {
    Owned,
    Fenced,
    /// The new owner is `None` if it cannot be read.
    Moved(Option<ShardNumber>),
    Importing,
}

impl SlotState {
    /// Returns true if the shard owns the slot.
    pub(super) fn is_owned(self) -> bool {
        matches!(self, Self::Owned | Self::Fenced)
    }

    /// Reads the state of a slot from a query row with the columns slot, state, `until` and
    /// `moved_to`.
    fn of(row: &RowView<'_, '_>) -> Option<Self> {
        match row.text(1, str::to_owned)?.as_str() {
            "owned" => Some(Self::Owned),
            "fenced" => Some(Self::Fenced),
            "importing" => Some(Self::Importing),
            "moved" => {
                let to: Option<u16> = row.text(3, |number| number.parse().ok()).flatten();
                Some(Self::Moved(to.map(ShardNumber)))
            }
            _ => None,
        }
    }
}

/// Reads the number of a slot from the first column of a query row.
pub(super) fn slot(row: &RowView<'_, '_>) -> Option<Slot> {
    row.int(0).and_then(|slot| Slot::new(u16::try_from(slot).ok()?))
}

/// Reads from a query row with the columns slot, state, `until` and `moved_to` why the slot refuses
/// requests at the time `now`.
pub(super) fn refused_state(row: &RowView<'_, '_>, now: DateTime<Utc>) -> RefusedState {
    match SlotState::of(row) {
        Some(SlotState::Fenced) => {
            // A fence never lasts longer than `FENCE_MAX`, so that is the largest time left, and
            // the assumed one if the end of the fence cannot be read.
            let until = row.text(2, |until| until.parse::<DateTime<Utc>>().ok()).flatten();
            let left = until.map_or(FENCE_MAX, |until| (until - now).to_std().unwrap_or_default());
            RefusedState::Fenced { left: left.min(FENCE_MAX) }
        }
        Some(SlotState::Moved(Some(to))) => RefusedState::Moved { to },
        Some(SlotState::Importing) => RefusedState::Importing,
        Some(SlotState::Owned | SlotState::Moved(None)) | None => RefusedState::Absent,
    }
}

/// Returns the reason why a slot may not be read in the current snapshot; `None` if the shard owns
/// the slot.
pub(super) fn read_refusal(
    connection: &mut SqliteConnection,
    slot: Slot,
) -> QueryResult<Option<RefusedState>> {
    let binds = [Bind::Int(i64::from(slot.number()))];
    let statement = Statement { sql: sql::SLOT_STATE, binds: &binds, cached: true };
    let mut refused = Some(RefusedState::Absent);
    for_each_row(connection, statement, |row| {
        let owned = SlotState::of(row).is_some_and(SlotState::is_owned);
        refused = (!owned).then(|| refused_state(row, Utc::now()));
        Ok(())
    })?;
    Ok(refused)
}

/// Reads the states of those of the given slots of which the file has a record, and passes them to
/// `each`.
pub(super) fn each_state(
    connection: &mut SqliteConnection,
    slots: &SlotSet,
    mut each: impl FnMut(Slot, SlotState),
) -> QueryResult<()> {
    let slots = json_list(slots);
    let binds = [Bind::Text(&slots)];
    let statement = Statement { sql: sql::SLOT_STATES, binds: &binds, cached: true };
    for_each_row(connection, statement, |row| {
        if let (Some(slot), Some(state)) = (slot(row), SlotState::of(row)) {
            each(slot, state);
        }
        Ok(())
    })
}

/// Returns the position of the log at which the owned slots last changed.
pub(super) fn generation(connection: &mut SqliteConnection) -> QueryResult<u64> {
    let statement = Statement { sql: sql::GENERATION, binds: &[], cached: true };
    let mut generation = 0;
    for_each_row(connection, statement, |row| {
        generation = row.int(0).unwrap_or(0) as u64;
        Ok(())
    })?;
    Ok(generation)
}

/// Returns the number of rows in slots that the shard does not own, for each table that has some.
pub(super) fn foreign_rows(connection: &mut SqliteConnection) -> QueryResult<Vec<(String, i64)>> {
    let statement = Statement { sql: sql::FOREIGN_COUNTS, binds: &[], cached: false };
    let mut counts = Vec::new();
    for_each_row(connection, statement, |row| {
        counts.extend(row.text(0, str::to_owned).zip(row.int(1)));
        Ok(())
    })?;
    Ok(counts)
}

/// Formats slots as a JSON array of their numbers.
pub(super) fn json_list(slots: &SlotSet) -> String {
    let numbers: Vec<u16> = slots.iter().map(Slot::number).collect();
    serde_json::to_string(&numbers).expect("numbers always serialise")
}
