//! Bulk: writes many rows in one request, each with its own outcome.
//!
//! **Invariant:** rows of one key are applied in the order of the request.
//! **Not here:** the parsing of rows from a body (the router).

use std::collections::BTreeMap;

use futures_util::future::join_all;
use model::error::{Error, Outcome};
use model::fair_share::FairShare;
use model::row_change::{Change, RowDone, RowWrite, WriteRequest};
use model::sabotage::{Mutation, is_on};
use model::shard_map::KeyLocation;
use model::slot_refusal::SlotRefusal;
use model::topology::ShardNumber;

use super::super::RequestOptions;
use super::Data;
use super::bulk_rows::{BulkDone, BulkPart, BulkRow, BulkRowDone};
use super::cached::KeysBeingWritten;
use super::refused_row::RefusedRow;
use super::shard_parts::{ShardParts, later};
use super::write_rights::PermittedRows;
use crate::lane::LaneTimes;
use crate::shard::{Shard, WriteDone};

/// Maximum number of rows of a bulk write that are sent to a shard at once (a chunk). In a shard,
/// each lane (write queue) gets its rows of the chunk as one operation.
const CHUNK_ROWS_MAX: usize = 1_000;
/// Size in bytes at which a chunk of a bulk write is sent, even if it has fewer rows.
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// Options with which rows are sent to a shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestKind {
    /// True if all rows of a shard are stored in one transaction.
    pub(super) is_atomic: bool,
    /// True if the write waits for room when a queue is full; false if it fails then.
    pub(super) waits_for_room: bool,
    /// Tenant for whom the changes are made.
    pub(super) share: FairShare,
}

/// Sender that writes checked rows to the shards that own their slots.
#[derive(Clone, Copy)]
pub(super) struct RowSender<'d> {
    pub(super) data: Data<'d>,
    pub(super) kind: RequestKind,
    pub(super) options: &'d RequestOptions,
}

/// Result of sending rows to a shard.
#[derive(Default)]
pub(super) struct WrittenPart {
    /// Outcomes of the rows that the shard has stored, or that have failed.
    pub(super) part: BulkPart,
    /// Rows that the shard has refused because it does not accept writes of their slots.
    pub(super) refused: Vec<RefusedRow>,
}

impl Data<'_> {
    /// Applies many changes independently of each other: the shards work in parallel, and the
    /// changes of each key are applied in the order of the request. The outcomes are in the order
    /// of the shards, not of the request. Rows that the client's rights do not permit are rejected,
    /// and the others are applied.
    pub async fn write_bulk(self, rows: Vec<BulkRow>, options: &RequestOptions) -> BulkDone {
        self.write_bulk_while(rows, options, || true).await
    }

    /// Applies many changes like [`Data::write_bulk`], as long as the client may continue.
    /// `may_continue` is called before each chunk; once it returns false, no more rows are sent.
    pub async fn write_bulk_while(
        self,
        rows: Vec<BulkRow>,
        options: &RequestOptions,
        may_continue: impl Fn() -> bool,
    ) -> BulkDone {
        let permitted = PermittedRows::new(self, rows);
        RowSender::new(self, options).write_parts(permitted, &may_continue).await
    }

    /// Applies many changes in one transaction for each shard: all rows of a shard are stored, or
    /// none. If the client's rights do not permit a row, no row of its shard is stored. If some
    /// slots of a transaction move to other shards before it is executed, the rows of each new
    /// owner become a transaction of their own.
    pub async fn write_bulk_atomic(self, rows: Vec<BulkRow>, options: &RequestOptions) -> BulkDone {
        let mut permitted = PermittedRows::new(self, rows);
        permitted.undo_transactions();
        RowSender::new(self, options).atomic().write_parts(permitted, &|| true).await
    }

    /// Applies changes of one shard independently; the rows of each of its lanes are one operation.
    /// If a queue of the shard is full, waits for room, but not past the deadline. Rows that the
    /// client's rights do not permit are rejected. Returns the outcomes by shard, because rows
    /// whose slots have moved are stored by other shards.
    pub async fn write_chunk(
        self,
        shard: ShardNumber,
        rows: Vec<BulkRow>,
        options: &RequestOptions,
    ) -> Vec<(ShardNumber, BulkPart)> {
        debug_assert!(rows.iter().all(|row| row.place.shard == shard), "all of one shard");
        let mut permitted = PermittedRows::new(self, rows);
        let rows = std::mem::take(&mut permitted.rows);
        let _pending =
            KeysBeingWritten::new(self.manager, rows.iter().map(|row| (row.place, &row.row)));
        let mut parts = ShardParts::default();
        let sender = RowSender::new(self, options).patient();
        sender.write_settled((shard, rows), &mut parts).await;
        parts.iter_mut().for_each(|part| permitted.cut(&mut part.rows));
        parts.of(shard).rows.append(&mut permitted.refused);
        parts.into_parts().collect()
    }
}

impl<'d> RowSender<'d> {
    /// Creates a sender that stores rows independently of each other.
    pub(super) fn new(data: Data<'d>, options: &'d RequestOptions) -> Self {
        let share = data.rights.share();
        let kind = RequestKind { is_atomic: false, waits_for_room: false, share };
        Self { data, kind, options }
    }

    /// Makes the sender store the rows of each shard in one transaction.
    fn atomic(mut self) -> Self {
        self.kind.is_atomic = true;
        self
    }

    /// Makes the sender wait for room when a queue is full.
    pub(super) fn patient(mut self) -> Self {
        self.kind.waits_for_room = true;
        self
    }

    /// Writes rows to their shards, all shards in parallel.
    async fn write_parts(
        self,
        mut permitted: PermittedRows<'_>,
        may_continue: &impl Fn() -> bool,
    ) -> BulkDone {
        let mut by_shard: BTreeMap<ShardNumber, Vec<BulkRow>> = BTreeMap::new();
        for row in std::mem::take(&mut permitted.rows) {
            by_shard.entry(row.place.shard).or_default().push(row);
        }
        let all = by_shard.values().flatten();
        let pending =
            KeysBeingWritten::new(self.data.manager, all.map(|row| (row.place, &row.row)));
        let pipes = by_shard.into_iter().map(|part| self.write_pipe(part, may_continue));
        let pipes = join_all(pipes).await;
        drop(pending);
        let mut session = self.options.session.clone();
        let (mut done, mut all_unsent) = (Vec::new(), Vec::new());
        let mut slowest = LaneTimes::default();
        for (shard, part) in pipes.into_iter().flat_map(ShardParts::into_parts) {
            let BulkPart { rows, unsent, seen, times } = part;
            if let Some(position) = seen {
                self.data.manager.sessions().extend(&mut session, shard, position);
            }
            slowest = slowest.slower(times);
            done.extend(rows);
            all_unsent.extend(unsent);
        }
        permitted.complete(&mut done);
        BulkDone { rows: done, unsent: all_unsent, session, times: slowest }
    }

    /// Writes those rows of a bulk write that belong to one shard, one chunk after the other. So
    /// rows of one key keep their order, and one bulk write cannot fill a lane. A transaction is
    /// one chunk. Once `may_continue` returns false, the remaining rows are not sent.
    async fn write_pipe(
        self,
        (shard, rows): (ShardNumber, Vec<BulkRow>),
        may_continue: &impl Fn() -> bool,
    ) -> ShardParts {
        let mut parts = ShardParts::default();
        if self.kind.is_atomic {
            self.write_settled((shard, rows), &mut parts).await;
            return parts;
        }
        parts.of(shard).rows.reserve(rows.len());
        let mut rows = rows.into_iter().peekable();
        while rows.peek().is_some() {
            if !may_continue() {
                parts.of(shard).unsent = rows.map(|row| row.index).collect();
                return parts;
            }
            let (mut chunk, mut bytes) = (Vec::new(), 0);
            while chunk.len() < CHUNK_ROWS_MAX && bytes < CHUNK_BYTES_MAX {
                let Some(next) = rows.next() else { break };
                bytes += next.row.bytes();
                chunk.push(next);
            }
            self.write_settled((shard, chunk), &mut parts).await;
        }
        parts
    }

    /// Writes rows that belong to one shard by the map of the request, and waits until each has an
    /// outcome. Rows whose slots have moved are written to other shards.
    async fn write_settled(
        self,
        (shard, rows): (ShardNumber, Vec<BulkRow>),
        parts: &mut ShardParts,
    ) {
        let Some(first) = rows.first() else { return };
        let manager = self.data.manager;
        let refused = if manager.router.is_current(first.place) {
            let WrittenPart { part, refused } = self.write_group((shard, rows)).await;
            parts.absorb(manager, shard, part);
            if !refused.is_empty() {
                Box::pin(self.learn(shard, &refused)).await;
            }
            refused
        } else {
            Box::pin(self.write_relocated(rows, parts)).await
        };
        if !refused.is_empty() {
            Box::pin(self.settle(refused, parts)).await;
        }
    }

    /// Sends rows to a shard, either as one transaction or as one operation for each lane.
    pub(super) async fn write_group(
        self,
        (number, rows): (ShardNumber, Vec<BulkRow>),
    ) -> WrittenPart {
        let Self { data, kind, options } = self;
        match data.manager.shards().find(number) {
            Some(shard) if kind.is_atomic => write_request(&shard, rows, options, kind).await,
            Some(shard) => write_by_lane(&shard, rows, options, kind).await,
            // A shard that has retired owns no slots.
            None => {
                let absent = |row: BulkRow| {
                    let refusal = SlotRefusal::absent(row.place.slot);
                    RefusedRow::new(row, refusal)
                };
                let refused = rows.into_iter().map(absent).collect();
                WrittenPart { refused, ..WrittenPart::default() }
            }
        }
    }
}

/// Writes rows to a shard, as one operation for each lane.
async fn write_by_lane(
    shard: &Shard,
    rows: Vec<BulkRow>,
    options: &RequestOptions,
    kind: RequestKind,
) -> WrittenPart {
    let mut by_lane: BTreeMap<usize, Vec<BulkRow>> = BTreeMap::new();
    for row in rows {
        by_lane.entry(shard.lane_of(&row.row.key)).or_default().push(row);
    }
    let parts = by_lane.into_values().map(|rows| write_request(shard, rows, options, kind));
    let mut done = WrittenPart::default();
    for WrittenPart { part, refused } in join_all(parts).await {
        let whole = &mut done.part;
        whole.rows.extend(part.rows);
        let holds = |one| shard.replication.timeline().holds(one);
        whole.seen = later(whole.seen, part.seen, holds);
        whole.times = whole.times.slower(part.times);
        done.refused.extend(refused);
    }
    done
}

/// Writes rows of one lane as one operation.
async fn write_request(
    shard: &Shard,
    rows: Vec<BulkRow>,
    options: &RequestOptions,
    kind: RequestKind,
) -> WrittenPart {
    let mut written = WrittenPart::default();
    if rows.is_empty() {
        return written;
    }
    let RequestKind { is_atomic, waits_for_room, share } = kind;
    let atomic_rows = is_atomic.then(|| rows.iter().map(|row| row.index).collect());
    let (mut places, mut changes) =
        (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
    for BulkRow { index, place, row } in rows {
        places.push((index, place));
        changes.push(row);
    }
    let request = WriteRequest { rows: changes, atomic_rows, waits_for_room, share };
    let part = &mut written.part;
    let outcomes = match shard.write(request, options.level, options.deadline).await {
        Ok(done) => {
            part.seen = Some(done.seen());
            let WriteDone { applied, shortfall } = done;
            part.times = applied.times;
            if let Some(request) = applied.refused {
                let refused = (request.rows, applied.rows);
                return written.sort(places, refused, shortfall.as_ref(), is_atomic);
            }
            applied.rows.into_iter().map(|row| outcome(row, shortfall.as_ref())).collect()
        }
        Err(failure) => vec![Err((failure.error, failure.outcome)); places.len()],
    };
    let rows = places.into_iter().zip(outcomes);
    let done = rows.map(|((index, place), outcome)| BulkRowDone { index, place, outcome });
    part.rows = done.collect();
    written
}

fn outcome(
    row: Result<RowDone, Error>,
    shortfall: Option<&Error>,
) -> Result<RowDone, (Error, Outcome)> {
    match (row, shortfall) {
        (Ok(_), Some(shortfall)) => Err((shortfall.clone(), Outcome::Committed)),
        (Ok(row), None) => Ok(row),
        (Err(_), _) if is_on(Mutation::BulkReportAllOk) => {
            let (change, version, json) = (Change::Changed, 0, Vec::new());
            Ok(RowDone { change, version, json, replayed: false })
        }
        (Err(error), _) => Err((error, Outcome::Rejected)),
    }
}

impl WrittenPart {
    /// Separates the rows that the shard has refused because of their slots from the others. If one
    /// row of a transaction was refused for this reason, the whole transaction counts as refused.
    fn sort(
        mut self,
        places: Vec<(usize, KeyLocation)>,
        (changes, results): (Vec<RowWrite>, Vec<Result<RowDone, Error>>),
        shortfall: Option<&Error>,
        is_atomic: bool,
    ) -> Self {
        let refusal = |result: &Result<RowDone, Error>| match result {
            Err(Error::SlotRefused(refusal)) => Some(*refusal),
            Ok(_) | Err(_) => None,
        };
        let culprit = results.iter().zip(&places);
        let culprit = culprit.filter(|_| is_atomic);
        let culprit = culprit.filter_map(|(result, (index, _))| Some((refusal(result)?, *index)));
        let culprit = culprit.min_by_key(|(_, index)| *index);
        let rows = places.into_iter().zip(changes).zip(results);
        for (((index, place), row), result) in rows {
            let row = BulkRow { index, place, row };
            match (refusal(&result), culprit) {
                (Some(refusal), _) => self.refused.push(RefusedRow::new(row, refusal)),
                (None, Some((refusal, by))) => {
                    self.refused.push(RefusedRow::new(row, refusal).undone_by(by));
                }
                (None, None) => {
                    let outcome = outcome(result, shortfall);
                    self.part.rows.push(BulkRowDone { index, place, outcome });
                }
            }
        }
        self
    }
}
