//! Known slots: the slots whose reads a node answers, as one session has last read them.
//!
//! A scan needs no slots in its own statement: if the node reports the same generation before and
//! after a statement, on one session, the slots were the same in the snapshot of the statement,
//! because each change of them raises the generation and a session only sees later snapshots.
//!
//! **Invariant:** slots and generation were read in one snapshot.
//! **Not here:** reads of single keys, which look up the slot in their own statement (`key_reads`).

use std::sync::Arc;

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use engine::Scope;
use model::keyspace::Slot;
use model::slot_refusal::SlotRefusal;
use model::slot_set::SlotSet;
use model::table::Table;

use super::db_error::unreadable;
use super::refusals;
use super::sql;
use super::statement::{Bind, Statement, load};

const SLOTS: &str = "SELECT generation,bits,leftover IS NOT NULL FROM tessera_readable WHERE id=1";
const REFUSED: &str = "SELECT tessera_refused($1)";

/// Slots whose reads a node answers.
pub(super) struct KnownSlots {
    /// Generation of the slots.
    pub(super) generation: i64,
    /// The slots.
    pub(super) readable: Arc<SlotSet>,
    /// True if the node may have rows of other slots.
    pub(super) has_leftover: bool,
}

impl KnownSlots {
    /// Reads the slots of a node.
    ///
    /// # Errors
    /// The error of the query, or of a table without contents.
    pub(super) async fn load(connection: &AsyncPgConnection) -> QueryResult<Self> {
        let rows = load(connection, Statement { sql: SLOTS, binds: &[], cached: true }).await?;
        let known = rows.first().and_then(|row| {
            let readable = row.cell(1, SlotSet::from_bytes)??;
            let (generation, has_leftover) = (row.bigint(0)?, row.boolean(2)?);
            Some(Self { generation, readable: Arc::new(readable), has_leftover })
        });
        known.ok_or_else(|| unreadable(&"tessera_readable does not contain the shard's slots"))
    }

    /// Returns true if the node answers this read: that of a whole shard, or that of a key whose
    /// slot it may read.
    pub(super) fn answer(&self, scope: Scope<'_>) -> bool {
        match scope {
            Scope::Key(slot, _) => self.readable.contains(slot),
            Scope::Shard => true,
        }
    }

    /// Returns true if a read must leave out rows whose slots the node does not own. The rows of a
    /// key have one slot, which is known to be readable.
    pub(super) fn must_filter(&self, scope: Scope<'_>) -> bool {
        self.has_leftover && !scope.is_keyed()
    }
}

/// Returns the reason why a slot is refused.
///
/// # Errors
/// The error of the query.
pub(super) async fn refusal(
    connection: &AsyncPgConnection,
    slot: Slot,
) -> QueryResult<SlotRefusal> {
    let binds = [Bind::integer(i32::from(slot.number()))];
    let rows = load(connection, Statement { sql: REFUSED, binds: &binds, cached: true }).await?;
    let reason = rows.first().and_then(|row| row.bigint(0)).unwrap_or(0);
    Ok(refusals::refusal(slot, reason))
}

/// Restricts the statement of a read to rows whose slots the node owns in the statement's snapshot:
/// a subquery, which the planner merges with the statement, takes the place of the table.
pub(super) fn leave_out_others(sql: &mut String, table: &Table) {
    let (from, name) = (format!(" FROM {}", table.name()), table.name());
    let owned = format!(" FROM (SELECT * FROM {name} WHERE {}) AS {name}", sql::IS_READABLE);
    // Names of columns contain no spaces, so the first occurrence is that of the table.
    *sql = sql.replacen(&from, &owned, 1);
}
