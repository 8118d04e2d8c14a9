//! Stored moves: the rows of moves in `tessera_moves` of a file.
//!
//! **Not here:** the form of a row (`engine::stored_move`), the transaction (`move_change`).

use diesel::sqlite::SqliteConnection;
use diesel::{QueryResult, RunQueryDsl};

use super::connection::{Bind, Statement, for_each_row};
use super::declarations::unreadable;
use super::sql;

/// Timeline of every feed and position that moves see of a file.
///
/// Each opening of a primary begins a timeline with a random id, but the positions of its log
/// continue. If the file of a replica takes the place of its primary, positions are assigned a
/// second time: the file has no log then, and its moves begin another feed
/// (`move_change::restart_recording`).
pub(super) const FEED_TIMELINE: u32 = 1;

/// Row of a move, whose mark is a position of the change log.
pub(super) type StoredMove = engine::stored_move::StoredMove<u64>;

/// Returns the rows of all moves, by id.
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

/// Stores the row of a move.
pub(super) fn store(connection: &mut SqliteConnection, row: &StoredMove) -> QueryResult<()> {
    let json = serde_json::to_string(row).map_err(|error| unreadable(&error))?;
    let binds = [Bind::Text(&json)];
    Statement { sql: sql::STORE_MOVE, binds: &binds, cached: true }.execute(connection).map(drop)
}

/// Removes the row of a move.
pub(super) fn remove(connection: &mut SqliteConnection, id: &str) -> QueryResult<()> {
    let binds = [Bind::Text(id)];
    Statement { sql: sql::REMOVE_MOVE, binds: &binds, cached: true }.execute(connection).map(drop)
}
