//! Bulk: many rows at once, each with its own outcome.
//!
//! **Invariant:** rows of one key are applied in the order given.
//! **Not here:** how rows are read from a body (the router).

use std::collections::BTreeMap;

use super::{Manager, Wish};
use crate::error::{Error, Outcome};
use crate::lane::LaneTimes;
use crate::position::Position;
use crate::row_change::{Change, RowDone, RowWrite, WriteRequest};
use crate::sabotage::{Mutation, is_on};
use crate::shard::{Shard, WriteDone};
use crate::shard_map::KeyLocation;
use crate::token::SessionToken;
use crate::topology::ShardIndex;

/// Rows of a bulk write that go to a lane as one operation.
const CHUNK_ROWS_MAX: usize = 1_000;
/// Bytes of such a chunk.
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// One row of a bulk write, checked and routed.
#[derive(Clone, Debug)]
pub struct BulkRow {
    /// Its place in the request.
    pub index: usize,
    /// Where it goes.
    pub place: KeyLocation,
    /// The change.
    pub row: RowWrite,
}

/// What became of one row of a bulk write.
#[derive(Clone, Debug)]
pub struct BulkRowDone {
    /// Its place in the request.
    pub index: usize,
    /// Where it went.
    pub place: KeyLocation,
    /// What became of it.
    pub outcome: Result<RowDone, (Error, Outcome)>,
}

/// A bulk write that was carried out.
#[derive(Clone, Debug)]
pub struct BulkDone {
    /// Its rows, in the order of the shards.
    pub rows: Vec<BulkRowDone>,
    /// What the client has seen with this.
    pub session: SessionToken,
    /// Where the time of the slowest shard went.
    pub times: LaneTimes,
}

/// What became of rows of one shard.
#[derive(Clone, Debug, Default)]
pub struct BulkPart {
    /// The rows.
    pub rows: Vec<BulkRowDone>,
    /// The position that holds the last of them.
    pub seen: Option<Position>,
    /// Where their time went.
    pub times: LaneTimes,
}

impl Manager {
    /// Applies many changes, each on its own: shards in parallel, each shard's in the order given.
    /// Answers are in the order of the shards, not of the request.
    pub async fn write_bulk(&self, rows: Vec<BulkRow>, wish: &Wish) -> BulkDone {
        self.write_parts(rows, wish, async |shard, rows| write_chunks(shard, rows, wish).await)
            .await
    }

    /// The same, but each shard's part is one transaction: all of it is stored, or nothing.
    pub async fn write_bulk_whole(&self, rows: Vec<BulkRow>, wish: &Wish) -> BulkDone {
        self.write_parts(rows, wish, async |shard, rows| {
            let whole = Some(rows.iter().map(|row| row.index).collect());
            write_request(shard, rows, wish, |rows| WriteRequest {
                rows,
                atomic_rows: whole,
                waits_for_room: false,
            })
            .await
        })
        .await
    }

    /// Applies changes of one shard, each on its own, those of each of its lanes as one operation. If the shard's queue is full it waits until
    /// there is room, but not past the deadline.
    pub async fn write_chunk(
        &self,
        shard: ShardIndex,
        rows: Vec<BulkRow>,
        wish: &Wish,
    ) -> BulkPart {
        let _written = self.written(rows.iter().map(|row| (row.place, &row.row)));
        debug_assert!(rows.iter().all(|row| row.place.shard == shard), "all of one shard");
        let request = |rows| WriteRequest { rows, atomic_rows: None, waits_for_room: true };
        write_by_lane(&self.shards[shard.index()], rows, wish, request).await
    }

    async fn write_parts(
        &self,
        rows: Vec<BulkRow>,
        wish: &Wish,
        write: impl AsyncFn(&Shard, Vec<BulkRow>) -> BulkPart,
    ) -> BulkDone {
        let mut by_shard: Vec<Vec<BulkRow>> = self.shards.iter().map(|_| Vec::new()).collect();
        for row in rows {
            by_shard[row.place.shard.index()].push(row);
        }
        let all = by_shard.iter().flatten();
        let written = self.written(all.map(|row| (row.place, &row.row)));
        let shards = self.shards.iter().zip(by_shard);
        let parts = shards.map(|(shard, rows)| write(shard, rows));
        let parts = futures_util::future::join_all(parts).await;
        drop(written);
        let mut session = wish.session.clone();
        let mut done = Vec::new();
        let mut slowest = LaneTimes::default();
        for (shard, BulkPart { rows, seen, times }) in (0..).map(ShardIndex).zip(parts) {
            if let Some(position) = seen {
                self.seen(&mut session, shard, position);
            }
            slowest = slowest.slower(times);
            done.extend(rows);
        }
        BulkDone { rows: done, session, times: slowest }
    }
}

/// One shard's part of a bulk write, a chunk after the other: so rows of one key keep their order, and one
/// bulk write cannot fill the lane.
async fn write_chunks(shard: &Shard, rows: Vec<BulkRow>, wish: &Wish) -> BulkPart {
    let mut done = BulkPart { rows: Vec::with_capacity(rows.len()), ..BulkPart::default() };
    let mut rows = rows.into_iter().peekable();
    while rows.peek().is_some() {
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        while chunk.len() < CHUNK_ROWS_MAX && bytes < CHUNK_BYTES_MAX {
            let Some(next) = rows.next() else { break };
            bytes += next.row.bytes();
            chunk.push(next);
        }
        let written = write_by_lane(shard, chunk, wish, WriteRequest::from).await;
        done.rows.extend(written.rows);
        done.seen = later(done.seen, written.seen, |one| shard.progress.history().holds(one));
        done.times = done.times.and_then(written.times);
    }
    done
}

/// Rows that go to each of the shard's lanes as one operation.
async fn write_by_lane(
    shard: &Shard,
    rows: Vec<BulkRow>,
    wish: &Wish,
    request: impl Fn(Vec<RowWrite>) -> WriteRequest,
) -> BulkPart {
    let mut by_lane: BTreeMap<usize, Vec<BulkRow>> = BTreeMap::new();
    for row in rows {
        by_lane.entry(shard.lane_of(&row.row.key)).or_default().push(row);
    }
    let parts = by_lane.into_values().map(|rows| write_request(shard, rows, wish, &request));
    let mut done = BulkPart::default();
    for written in futures_util::future::join_all(parts).await {
        done.rows.extend(written.rows);
        done.seen = later(done.seen, written.seen, |one| shard.progress.history().holds(one));
        done.times = done.times.slower(written.times);
    }
    done
}

/// Returns the position that holds both. Between positions of different timelines, one that the
/// shard's history has lost is returned: a later position must not hide the loss.
fn later(
    seen: Option<Position>,
    position: Option<Position>,
    holds: impl Fn(Position) -> bool,
) -> Option<Position> {
    let (Some(seen), Some(now)) = (seen, position) else { return seen.or(position) };
    let is_lost = |one: &Position| seen.timeline != now.timeline && !holds(*one);
    let later = if seen.sequence > now.sequence { seen } else { now };
    Some([seen, now].into_iter().find(is_lost).unwrap_or(later))
}

/// Rows that go to a lane as one operation.
async fn write_request(
    shard: &Shard,
    rows: Vec<BulkRow>,
    wish: &Wish,
    request: impl FnOnce(Vec<RowWrite>) -> WriteRequest,
) -> BulkPart {
    if rows.is_empty() {
        return BulkPart::default();
    }
    let (mut places, mut changes) =
        (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
    for BulkRow { index, place, row } in rows {
        places.push((index, place));
        changes.push(row);
    }
    let mut part_done = BulkPart::default();
    let outcomes = match shard.write(request(changes), wish.level, wish.deadline).await {
        Ok(WriteDone { applied, shortfall }) => {
            part_done.seen = Some(shard.seen_by_writer(applied.position));
            part_done.times = applied.times;
            let told = |row: Result<RowDone, Error>| match (row, &shortfall) {
                (Ok(_), Some(shortfall)) => Err((shortfall.clone(), Outcome::Committed)),
                (Ok(row), None) => Ok(row),
                (Err(_), _) if is_on(Mutation::BulkReportAllOk) => {
                    let (change, version, json) = (Change::Changed, 0, Vec::new());
                    Ok(RowDone { change, version, json, replayed: false })
                }
                (Err(error), _) => Err((error, Outcome::Rejected)),
            };
            applied.rows.into_iter().map(told).collect()
        }
        Err(failure) => vec![Err((failure.error, failure.outcome)); places.len()],
    };
    let rows = places.into_iter().zip(outcomes);
    let done = rows.map(|((index, place), outcome)| BulkRowDone { index, place, outcome });
    part_done.rows = done.collect();
    part_done
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(timeline: u32, sequence: u64) -> Option<Position> {
        Some(Position { timeline, sequence })
    }

    #[test]
    fn the_later_position_counts_unless_the_other_is_lost() {
        // Timeline 2 began at position 90 of timeline 1.
        let holds = |one: Position| one.timeline == 2 || one.sequence <= 90;
        assert_eq!(later(None, position(1, 5), holds), position(1, 5));
        assert_eq!(later(position(1, 5), None, holds), position(1, 5));
        assert_eq!(later(position(1, 7), position(1, 5), holds), position(1, 7));
        assert_eq!(later(position(1, 80), position(2, 95), holds), position(2, 95));
        for lost in [91, 95, 100] {
            assert_eq!(later(position(1, lost), position(2, 95), holds), position(1, lost));
            assert_eq!(later(position(2, 95), position(1, lost), holds), position(1, lost));
        }
    }
}
