//! Stored moves: the records of moves in the table `tessera_moves` of a shard's file.
//!
//! **Not here:** the contents of a record (`engine::stored_move`), the transaction (`move_change`).

use diesel::sqlite::SqliteConnection;
use diesel::{QueryResult, RunQueryDsl};

use super::connection::{Bind, Statement, for_each_row};
use super::declarations::unreadable;
use super::sql;

/// Timeline in every position that a file reports to moves, and in every feed of a file. A feed is
/// a stream of recorded changes whose positions are comparable with each other.
///
/// The timeline is constant, although each opening of a primary begins a timeline with a random id,
/// because the positions of the log simply continue. Only if the file of a replica takes the place
/// of its primary may positions be assigned a second time. The log of that file is empty, and its
/// moves then begin a new feed (`move_change::restart_recording`).
pub(super) const FEED_TIMELINE: u32 = 1;

/// Record of a move, whose mark is a position of the change log.
pub(super) type StoredMove = engine::stored_move::StoredMove<u64>;

/// Returns the records of all moves, sorted by id.
pub(super) fn load(connection: &mut SqliteConnection) -> QueryResult<Vec<StoredMove>> {
    let statement = Statement { sql: sql::MOVES, binds: &[], cached: true };
    let mut rows = Vec::new();
    for_each_row(connection, statement, |row| {
        let read = row.text(0, |json| serde_json::from_str::<StoredMove>(json));
        let read = read.ok_or_else(|| unreadable(&"a row of a move is missing"))?;
        rows.push(read.map_err(|error| unreadable(&error))?);
        Ok(())
    })?;
    Ok(rows)
}

/// Stores the record of a move.
pub(super) fn store(connection: &mut SqliteConnection, row: &StoredMove) -> QueryResult<()> {
    let json = serde_json::to_string(row).map_err(|error| unreadable(&error))?;
    let binds = [Bind::Text(&json)];
    Statement { sql: sql::STORE_MOVE, binds: &binds, cached: true }.execute(connection).map(drop)
}

/// Removes the record of a move.
pub(super) fn remove(connection: &mut SqliteConnection, id: &str) -> QueryResult<()> {
    let binds = [Bind::Text(id)];
    Statement { sql: sql::REMOVE_MOVE, binds: &binds, cached: true }.execute(connection).map(drop)
}
