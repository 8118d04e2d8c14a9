//! Timeline: the position of a shard's file, and the timelines that led to it.
//!
//! **Invariant:** a file's timelines begin at positions that it has reached.
//! **Not here:** the consequences of a new timeline for clients (`position`).

use chrono::Utc;
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use engine::system_tables::{tessera_shard, tessera_timelines};
use model::position::{Position, TimelineHistory};
use model::value::format_timestamp;

use super::log;

/// Number of row versions that are skipped when a timeline may have been lost. It is larger than
/// the number of versions that a timeline assigns between a copy and its loss, and small compared
/// with 2^53, up to which every client represents integers exactly.
pub(super) const VERSIONS_LEFT_OUT: i64 = 1 << 32;

/// Begins a timeline at the position of the file, and returns all timelines; `None` if they are
/// inconsistent.
///
/// The shard may have continued on a timeline that the file does not contain. This is so if the
/// file was a replica's and now is in the primary's place, or if the file is an older copy, which
/// lacks the timeline `last` that was begun most recently. Such a file skips the row versions that
/// the other timeline may have assigned. If it lists timelines that begin after its position, these
/// are not its own and are dropped. A copy that was made while the router ran, and was put back
/// within the same timeline, cannot be recognised; so files must be copied while the router is
/// stopped.
pub(super) fn begin(
    connection: &mut SqliteConnection,
    last: Option<u32>,
) -> QueryResult<Option<TimelineHistory>> {
    connection.immediate_transaction(|connection| {
        let sequence = position(connection)?.sequence;
        // The log of a primary always keeps its last entry, while that of a replica is empty.
        let was_replica = sequence > 0 && log::is_empty(connection)?;
        let knows = |last: u32| {
            let same =
                tessera_timelines::table.filter(tessera_timelines::timeline.eq(i64::from(last)));
            diesel::select(diesel::dsl::exists(same)).get_result::<bool>(connection)
        };
        let is_older = last.map(knows).transpose()?.is_some_and(|knows| !knows);
        if was_replica || is_older {
            diesel::update(tessera_shard::table)
                .set(tessera_shard::version.eq(tessera_shard::version + VERSIONS_LEFT_OUT))
                .execute(connection)?;
        }
        let later = tessera_timelines::table.filter(tessera_timelines::began.gt(sequence as i64));
        diesel::delete(later).execute(connection)?;
        let timeline = i64::from(random_id());
        diesel::insert_into(tessera_timelines::table)
            .values((
                tessera_timelines::timeline.eq(timeline),
                tessera_timelines::began.eq(sequence as i64),
                tessera_timelines::at.eq(format_timestamp(Utc::now())),
            ))
            .execute(connection)?;
        diesel::update(tessera_shard::table)
            .set(tessera_shard::timeline.eq(timeline))
            .execute(connection)?;
        load(connection)
    })
}

/// Returns the timelines of a file; `None` if they are inconsistent.
pub(super) fn load(connection: &mut SqliteConnection) -> QueryResult<Option<TimelineHistory>> {
    let mut rows: Vec<(i64, i64)> = tessera_timelines::table
        .select((tessera_timelines::timeline, tessera_timelines::began))
        .order(tessera_timelines::number.desc())
        .limit(TimelineHistory::TIMELINES_MAX as i64)
        .load(connection)?;
    rows.reverse();
    let timelines = rows.into_iter().map(|(id, began)| (id as u32, began as u64));
    Ok(TimelineHistory::new(timelines.collect()))
}

/// Returns a random id for a timeline; never 0, which is the id of a file before its first
/// timeline.
fn random_id() -> u32 {
    (uuid::Uuid::now_v7().as_u64_pair().1 as u32).max(1)
}

/// Returns the position of a file.
pub(super) fn position(connection: &mut SqliteConnection) -> QueryResult<Position> {
    let row = tessera_shard::table.select((tessera_shard::timeline, tessera_shard::position));
    let (timeline, sequence): (i64, i64) = row.first(connection)?;
    Ok(Position { timeline: timeline as u32, sequence: sequence as u64 })
}

/// Number, timeline, first position and time of a row of `tessera_timelines`.
pub(super) type TimelineRow = (i64, i64, i64, String);

/// Returns the timelines of a primary, for its replica.
pub(super) fn rows(from: &mut SqliteConnection) -> QueryResult<Vec<TimelineRow>> {
    tessera_timelines::table.load(from)
}

/// Replaces the timelines of a replica by those of its primary.
pub(super) fn replace(to: &mut SqliteConnection, timelines: &[TimelineRow]) -> QueryResult<()> {
    to.immediate_transaction(|to| {
        diesel::delete(tessera_timelines::table).execute(to)?;
        for (number, timeline, began, at) in timelines {
            diesel::insert_into(tessera_timelines::table)
                .values((
                    tessera_timelines::number.eq(number),
                    tessera_timelines::timeline.eq(timeline),
                    tessera_timelines::began.eq(began),
                    tessera_timelines::at.eq(at),
                ))
                .execute(to)?;
        }
        Ok(())
    })
}
