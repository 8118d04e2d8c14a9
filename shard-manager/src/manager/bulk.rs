//! Bulk: many rows at once, each with its own outcome.
//!
//! **Invariant:** rows of one key are applied in the order given.
//! **Not here:** how rows are read from a body (the router).

use super::{Manager, Wish};
use crate::error::{Error, Outcome};
use crate::position::Position;
use crate::row::{RowDone, RowWrite};
use crate::shard::{Shard, WriteDone};
use crate::shard_map::Place;
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
    pub place: Place,
    /// The change.
    pub row: RowWrite,
}

/// What became of one row of a bulk write.
#[derive(Clone, Debug)]
pub struct BulkRowDone {
    /// Its place in the request.
    pub index: usize,
    /// Where it went.
    pub place: Place,
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
}

impl Manager {
    /// Applies many changes, each on its own: shards in parallel, each shard's in the order given.
    /// Answers are in the order of the shards, not of the request.
    pub async fn write_bulk(&self, rows: Vec<BulkRow>, wish: &Wish) -> BulkDone {
        let mut by_shard: Vec<Vec<BulkRow>> = self.shards.iter().map(|_| Vec::new()).collect();
        for row in rows {
            by_shard[row.place.shard.index()].push(row);
        }
        let shards = self.shards.iter().zip(by_shard);
        let parts = shards.map(|(shard, rows)| write_chunks(shard, rows, wish));
        let parts = futures_util::future::join_all(parts).await;
        let mut session = wish.session.clone();
        let mut done = Vec::new();
        for (shard, (rows, position)) in (0..).map(ShardIndex).zip(parts) {
            if let Some(position) = position {
                self.seen(&mut session, shard, position);
            }
            done.extend(rows);
        }
        BulkDone { rows: done, session }
    }
}

/// One shard's part of a bulk write, a chunk after the other: so rows of one key keep their order, and one
/// bulk write cannot fill the lane. Tells the position that holds the last of them.
async fn write_chunks(
    shard: &Shard,
    rows: Vec<BulkRow>,
    wish: &Wish,
) -> (Vec<BulkRowDone>, Option<Position>) {
    let mut done = Vec::with_capacity(rows.len());
    let mut seen = None;
    let mut rows = rows.into_iter().peekable();
    while rows.peek().is_some() {
        let (mut chunk, mut places, mut bytes) = (Vec::new(), Vec::new(), 0);
        while chunk.len() < CHUNK_ROWS_MAX && bytes < CHUNK_BYTES_MAX {
            let Some(next) = rows.next() else { break };
            bytes += next.row.bytes();
            places.push((next.index, next.place));
            chunk.push(next.row);
        }
        let outcomes = match shard.write(chunk, wish.level, wish.deadline).await {
            Ok(WriteDone { applied, shortfall }) => {
                let position = shard.progress.position(applied.position);
                if seen.is_none_or(|seen: Position| seen.at <= position.at) {
                    seen = Some(position);
                }
                let told = |row: Result<RowDone, Error>| match (row, &shortfall) {
                    (Ok(_), Some(shortfall)) => Err((shortfall.clone(), Outcome::Committed)),
                    (Ok(row), None) => Ok(row),
                    (Err(error), _) => Err((error, Outcome::Rejected)),
                };
                applied.rows.into_iter().map(told).collect()
            }
            Err(failure) => vec![Err((failure.error, failure.outcome)); places.len()],
        };
        let rows = places.into_iter().zip(outcomes);
        done.extend(rows.map(|((index, place), outcome)| BulkRowDone { index, place, outcome }));
    }
    (done, seen)
}
