//! Digests: summarises the rows of each slot in a hash, so that a copy can be compared with its
//! source.
//!
//! **Invariant:** rows of equal content have equal digests in every file.
//! **Not here:** comparing them (`cluster`).

use diesel::QueryResult;
use engine::slot_move::SlotDigest;
use model::slot_set::SlotSet;
use model::table::Table;

use super::Snapshot;
use crate::connection::{Statement, for_each_row};
use crate::row_hash::row_hash;
use crate::{moving_rows, sql};

/// Computes a digest for each table and each of these slots. Also stores the numbers of rows, which
/// are needed when the slots change their owner (`move_counts`).
pub(super) fn read(snapshot: &mut Snapshot<'_>, slots: &SlotSet) -> QueryResult<Vec<SlotDigest>> {
    let (position, mut digests) = (snapshot.position()?, Vec::new());
    for table in moving_rows::tables(snapshot.connection)? {
        for slot in slots.iter() {
            digests.extend(digest(snapshot, &table, slot.number())?);
        }
    }
    snapshot.compared.keep(slots, position, &digests);
    Ok(digests)
}

/// Computes the digest of the rows of one slot in one table; `None` if there are none.
fn digest(
    snapshot: &mut Snapshot<'_>,
    table: &Table,
    slot: u16,
) -> QueryResult<Option<SlotDigest>> {
    snapshot.check()?;
    let sql = sql::select_slot(table, i64::from(slot));
    let (mut rows, mut sum, mut bytes) = (0_u64, 0_u128, Vec::new());
    let Snapshot { gate, deadline, .. } = *snapshot;
    let statement = Statement { sql: &sql, binds: &[], cached: false };
    for_each_row(snapshot.connection, statement, |row| {
        sum = sum.wrapping_add(row_hash(&mut bytes, row, table));
        rows += 1;
        super::check_over(gate, deadline)
    })?;
    let table = table.name().to_owned();
    Ok((rows > 0).then(|| SlotDigest { table, slot, rows, sum: format!("{sum:032x}") }))
}
