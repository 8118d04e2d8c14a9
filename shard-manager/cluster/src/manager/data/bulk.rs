//! Bulk: many rows at once, each with its own outcome.
//!
//! **Invariant:** rows of one key are applied in the given order.
//! **Not here:** the parsing of rows from a body (the router).

use std::collections::BTreeMap;

use model::error::{Error, Outcome};
use model::fair_share::FairShare;
use model::position::Position;
use model::row_change::{Change, RowDone, RowWrite, WriteRequest};
use model::sabotage::{Mutation, is_on};
use model::shard_map::KeyLocation;
use model::token::SessionToken;
use model::topology::ShardNumber;

use super::super::RequestOptions;
use super::Data;
use super::permission::PermittedRows;
use crate::lane::LaneTimes;
use crate::shard::{Shard, WriteDone};

/// Highest number of rows of a bulk write that go to a lane as one operation.
const CHUNK_ROWS_MAX: usize = 1_000;
/// Highest size of such a chunk in bytes.
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// One row of a bulk write, checked and routed.
#[derive(Clone, Debug)]
pub struct BulkRow {
    /// Index of the row in the request.
    pub index: usize,
    /// Slot and shard of the row.
    pub place: KeyLocation,
    /// The change.
    pub row: RowWrite,
}

/// Outcome of one row of a bulk write.
#[derive(Clone, Debug)]
pub struct BulkRowDone {
    /// Index of the row in the request.
    pub index: usize,
    /// Slot and shard of the row.
    pub place: KeyLocation,
    /// Outcome of the row.
    pub outcome: Result<RowDone, (Error, Outcome)>,
}

/// Bulk write that was carried out.
#[derive(Clone, Debug)]
pub struct BulkDone {
    /// Rows of the request that were sent, in the order of the shards.
    pub rows: Vec<BulkRowDone>,
    /// Indices of the rows that were not sent, because the caller may no longer continue.
    pub unsent: Vec<usize>,
    /// Session of the client, with the positions of this write.
    pub session: SessionToken,
    /// Times of the slowest shard.
    pub times: LaneTimes,
}

/// Outcomes of rows of one shard.
#[derive(Clone, Debug, Default)]
pub struct BulkPart {
    /// The rows that were sent.
    pub rows: Vec<BulkRowDone>,
    /// Indices of the rows that were not sent.
    pub unsent: Vec<usize>,
    /// Position after the last of them.
    pub seen: Option<Position>,
    /// Times in the queue and in the database.
    pub times: LaneTimes,
}

impl Data<'_> {
    /// Applies many changes independently: shards in parallel, the changes of each shard in the
    /// given order. Outcomes are in the order of the shards, not of the request. Rows that the
    /// rights of the caller do not permit are rejected, and the others are applied.
    pub async fn write_bulk(self, rows: Vec<BulkRow>, options: &RequestOptions) -> BulkDone {
        self.write_bulk_while(rows, options, || true).await
    }

    /// Applies many changes like [`Data::write_bulk`], as long as the caller may continue.
    /// `may_continue` is called before each chunk; once it returns false, no more rows are sent.
    pub async fn write_bulk_while(
        self,
        rows: Vec<BulkRow>,
        options: &RequestOptions,
        may_continue: impl Fn() -> bool,
    ) -> BulkDone {
        let permitted = self.permit_rows(rows);
        let share = self.rights.share();
        self.write_parts(permitted, options, async |shard, rows| {
            write_chunks(shard, rows, (share, options), &may_continue).await
        })
        .await
    }

    /// Applies many changes; the rows of each shard are one transaction: all of them are stored, or
    /// none. A row that the rights of the caller do not permit undoes the rows of its shard.
    pub async fn write_bulk_atomic(self, rows: Vec<BulkRow>, options: &RequestOptions) -> BulkDone {
        let mut permitted = self.permit_rows(rows);
        permitted.undo_transactions();
        let share = self.rights.share();
        self.write_parts(permitted, options, async |shard, rows| {
            let atomic_rows = Some(rows.iter().map(|row| row.index).collect());
            write_request(shard, rows, options, |rows| WriteRequest {
                rows,
                atomic_rows,
                waits_for_room: false,
                share,
            })
            .await
        })
        .await
    }

    /// Applies changes of one shard independently; the rows of each of its lanes are one operation.
    /// Waits for room if the shard's queue is full, but not past the deadline. Rows that the rights
    /// of the caller do not permit are rejected.
    pub async fn write_chunk(
        self,
        shard: ShardNumber,
        rows: Vec<BulkRow>,
        options: &RequestOptions,
    ) -> BulkPart {
        debug_assert!(rows.iter().all(|row| row.place.shard == shard), "all of one shard");
        let mut permitted = self.permit_rows(rows);
        let rows = std::mem::take(&mut permitted.rows);
        let _pending = self.pending_keys(rows.iter().map(|row| (row.place, &row.row)));
        let share = self.rights.share();
        let request = |rows| WriteRequest { rows, atomic_rows: None, waits_for_room: true, share };
        let shard = &self.manager.shards[shard.index()];
        let mut done = write_by_lane(shard, rows, options, request).await;
        permitted.complete(&mut done.rows);
        done
    }

    async fn write_parts(
        self,
        mut permitted: PermittedRows<'_>,
        options: &RequestOptions,
        write: impl AsyncFn(&Shard, Vec<BulkRow>) -> BulkPart,
    ) -> BulkDone {
        let mut by_shard: Vec<Vec<BulkRow>> =
            self.manager.shards.iter().map(|_| Vec::new()).collect();
        for row in std::mem::take(&mut permitted.rows) {
            by_shard[row.place.shard.index()].push(row);
        }
        let all = by_shard.iter().flatten();
        let pending = self.pending_keys(all.map(|row| (row.place, &row.row)));
        let shards = self.manager.shards.iter().zip(by_shard);
        let parts = shards.map(|(shard, rows)| write(shard, rows));
        let parts = futures_util::future::join_all(parts).await;
        drop(pending);
        let mut session = options.session.clone();
        let (mut done, mut all_unsent) = (Vec::new(), Vec::new());
        let mut slowest = LaneTimes::default();
        for (shard, BulkPart { rows, unsent, seen, times }) in (0..).map(ShardNumber).zip(parts) {
            if let Some(position) = seen {
                self.manager.sessions().extend(&mut session, shard, position);
            }
            slowest = slowest.slower(times);
            done.extend(rows);
            all_unsent.extend(unsent);
        }
        permitted.complete(&mut done);
        BulkDone { rows: done, unsent: all_unsent, session, times: slowest }
    }
}

/// Writes the rows of one shard of a bulk write, one chunk after the other. So rows of one key keep
/// their order, and one bulk write cannot fill the lane. The rest is not sent once the caller may
/// not continue.
async fn write_chunks(
    shard: &Shard,
    rows: Vec<BulkRow>,
    (share, options): (FairShare, &RequestOptions),
    may_continue: &impl Fn() -> bool,
) -> BulkPart {
    let request = |rows: Vec<RowWrite>| WriteRequest { share, ..rows.into() };
    let mut done = BulkPart { rows: Vec::with_capacity(rows.len()), ..BulkPart::default() };
    let mut rows = rows.into_iter().peekable();
    while rows.peek().is_some() {
        if !may_continue() {
            done.unsent = rows.map(|row| row.index).collect();
            return done;
        }
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        while chunk.len() < CHUNK_ROWS_MAX && bytes < CHUNK_BYTES_MAX {
            let Some(next) = rows.next() else { break };
            bytes += next.row.bytes();
            chunk.push(next);
        }
        let written = write_by_lane(shard, chunk, options, request).await;
        done.rows.extend(written.rows);
        done.seen =
            later(done.seen, written.seen, |one| shard.replication.timeline().history().holds(one));
        done.times = done.times.and_then(written.times);
    }
    done
}

/// Writes rows, those of each of the shard's lanes as one operation.
async fn write_by_lane(
    shard: &Shard,
    rows: Vec<BulkRow>,
    options: &RequestOptions,
    request: impl Fn(Vec<RowWrite>) -> WriteRequest,
) -> BulkPart {
    let mut by_lane: BTreeMap<usize, Vec<BulkRow>> = BTreeMap::new();
    for row in rows {
        by_lane.entry(shard.lane_of(&row.row.key)).or_default().push(row);
    }
    let parts = by_lane.into_values().map(|rows| write_request(shard, rows, options, &request));
    let mut done = BulkPart::default();
    for written in futures_util::future::join_all(parts).await {
        done.rows.extend(written.rows);
        done.seen =
            later(done.seen, written.seen, |one| shard.replication.timeline().history().holds(one));
        done.times = done.times.slower(written.times);
    }
    done
}

/// Returns the later position. Of positions of different timelines, one that the shard's history
/// has lost is returned: a later position must not hide the loss.
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

/// Writes rows of one lane as one operation.
async fn write_request(
    shard: &Shard,
    rows: Vec<BulkRow>,
    options: &RequestOptions,
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
    let outcomes = match shard.write(request(changes), options.level, options.deadline).await {
        Ok(done) => {
            part_done.seen = Some(done.seen());
            let WriteDone { applied, shortfall } = done;
            part_done.times = applied.times;
            let failed = |row: Result<RowDone, Error>| match (row, &shortfall) {
                (Ok(_), Some(shortfall)) => Err((shortfall.clone(), Outcome::Committed)),
                (Ok(row), None) => Ok(row),
                (Err(_), _) if is_on(Mutation::BulkReportAllOk) => {
                    let (change, version, json) = (Change::Changed, 0, Vec::new());
                    Ok(RowDone { change, version, json, replayed: false })
                }
                (Err(error), _) => Err((error, Outcome::Rejected)),
            };
            applied.rows.into_iter().map(failed).collect()
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
