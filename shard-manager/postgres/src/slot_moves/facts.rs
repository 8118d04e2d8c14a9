//! Facts: the state of one of the two shards of a move, as its mover reads it.
//!
//! **Invariant:** the facts come from one snapshot, and the position of the log is not lower than
//! the position at which the snapshot was taken.

use diesel::QueryResult;
use engine::move_record::move_name;
use engine::slot_move::{FactsQuery, MoveFacts, recorded_feed};
use engine::stored_move::StoredMove;
use model::position::Position;
use moves::observation::state_of;
use moves::shard_metadata::ShardMetadata;

use super::move_metadata::{self, slot_bind};
use super::move_session::MoveSession;
use super::{snapshot_mark, statements};
use crate::statement::{Bind, Statement, pipeline, plain, step};
use model::value::{ColumnType, Value};

/// Begins a transaction whose statements see one snapshot.
pub(super) const ONE_SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// Reads the facts of a move.
pub(super) async fn read(session: &mut MoveSession, query: &FactsQuery) -> QueryResult<MoveFacts> {
    let system = [session.system_bind()];
    let MoveSession { connection, prepared, timeline, .. } = session;
    let (connection, timeline) = (&*connection, *timeline);
    let copied = query.copied.as_ref().filter(|copied| !copied.is_empty());
    let seen = copied.and_then(|copied| snapshot_mark::text(&copied.mark));
    let seen = Bind::value(ColumnType::Text, &seen.map_or(Value::Null, Value::Text));
    let slots = [slot_bind(&query.slots), Bind::text("")];
    let asked = [slot_bind(&query.slots), seen];
    let statement = |sql, binds| step(connection, Statement { sql, binds, cached: true });
    let steps = vec![
        plain(connection, ONE_SNAPSHOT),
        statement(statements::MOVES, &system),
        statement(statements::STATES, &slots),
        statement(statements::FACTS, &asked),
        plain(connection, "COMMIT"),
        statement(crate::sql::INSERT_POSITION, &[]),
    ];
    let results: QueryResult<Vec<_>> = pipeline(prepared, steps).await.into_iter().collect();
    let mut results = results?.into_iter().skip(1);
    let mut next = || results.next().unwrap_or_default();
    let (stored, states, facts) = (move_metadata::stored(&next())?, next(), next());
    let position = next_position(&mut results.skip(1));
    let name = move_name(query.id);
    let row = stored.iter().find(|row| row.name() == name).map(StoredMove::row).transpose()?;
    let slots = move_metadata::states(&states)?;
    let metadata = ShardMetadata { slots, ..ShardMetadata::default() };
    let truth = |column| facts.first().and_then(|row| row.boolean(column)) == Some(true);
    let feed = row.as_ref().and_then(|row| recorded_feed(row, timeline));
    let is_recorded = copied.is_some_and(|copied| feed == Some(copied.feed));
    Ok(MoveFacts {
        position: Position { timeline, sequence: position },
        slots: state_of(&metadata, &query.slots),
        has_rows: truth(0),
        is_ahead: is_recorded && truth(1),
        lost_changes: copied.is_some() && !is_recorded,
        row,
    })
}

fn next_position(results: &mut impl Iterator<Item = Vec<crate::statement::RowView>>) -> u64 {
    let rows = results.next().unwrap_or_default();
    rows.first().and_then(|row| row.bigint(0)).unwrap_or(0).cast_unsigned()
}
