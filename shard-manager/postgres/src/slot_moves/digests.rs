//! Digests: checksums of the rows of some slots, to compare a copy with its source.
//!
//! **Invariant:** rows of equal content have equal digests on all servers.
//! **Not here:** comparing them (`cluster`).

use diesel::QueryResult;
use engine::slot_move::SlotDigest;
use model::keyspace::Slot;
use model::table::Table;

use super::facts::ONE_SNAPSHOT;
use super::move_change::tables;
use super::move_metadata::slot_bind;
use super::move_session::{MoveSession, end};
use super::statements;
use crate::db_error::unreadable;
use crate::statement::{Statement, load, run};

/// Computes the digests of all tables in a new snapshot.
pub(super) async fn read(
    session: &mut MoveSession,
    slots: &[Slot],
) -> QueryResult<Vec<SlotDigest>> {
    run(&session.connection, ONE_SNAPSHOT).await?;
    let digests = of_tables(session, &tables(session).await?, slots).await?;
    end(session, digests).await
}

/// Computes the digests of these tables in the snapshot of the open transaction.
pub(super) async fn of_tables(
    session: &MoveSession,
    tables: &[Table],
    slots: &[Slot],
) -> QueryResult<Vec<SlotDigest>> {
    let binds = [slot_bind(slots)];
    let mut digests = Vec::new();
    for table in tables {
        let sql = statements::digest(table);
        let statement = Statement { sql: &sql, binds: &binds, cached: true };
        for row in load(&session.connection, statement).await? {
            let number = |column| row.bigint(column).unwrap_or(0).max(0).cast_unsigned();
            digests.push(SlotDigest {
                table: table.name().to_owned(),
                slot: u16::try_from(number(0)).map_err(|error| unreadable(&error))?,
                rows: number(1),
                sum: row.text(2).unwrap_or_default(),
            });
        }
    }
    Ok(digests)
}
