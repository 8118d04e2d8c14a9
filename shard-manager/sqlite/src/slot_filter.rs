//! Slot filter: leaves out of a scan the rows whose slots the shard does not own.
//!
//! A scan of a file with such rows calls the SQL function `tessera_owns(slot)` for each row, so
//! that the SQL of the scan does not depend on the slots. Scans of other files do not call the
//! function.
//!
//! **Not here:** the owned slots (`owned_slots`).

use std::sync::Arc;

use arc_swap::ArcSwap;
use diesel::QueryResult;
use diesel::sql_types::BigInt;
use diesel::sqlite::SqliteConnection;
use model::keyspace::Slot;
use model::slot_set::SlotSet;

#[diesel::declare_sql_function]
extern "SQL" {
    /// Returns true if the shard owns the slot.
    fn tessera_owns(slot: BigInt) -> Bool;
}

/// The owned slots of one connection's statements.
pub(super) struct SlotFilter(Arc<ArcSwap<SlotSet>>);

impl SlotFilter {
    /// Condition of a scan.
    pub(super) const CONDITION: &'static str = "tessera_owns(slot)";

    /// Registers the function on a connection, with no owned slots yet.
    pub(super) fn on(connection: &mut SqliteConnection) -> QueryResult<Self> {
        let owned = Arc::new(ArcSwap::from_pointee(SlotSet::empty()));
        let slots = Arc::clone(&owned);
        tessera_owns_utils::register_nondeterministic_impl(connection, move |slot: i64| {
            let slot = u16::try_from(slot).ok().and_then(Slot::new);
            slot.is_some_and(|slot| slots.load().contains(slot))
        })?;
        Ok(Self(owned))
    }

    /// Sets the owned slots of the next statement.
    pub(super) fn set(&self, owned: &Arc<SlotSet>) {
        self.0.store(Arc::clone(owned));
    }
}
