//! Fill: many rows into an open cluster, in bounded memory, without a router.
//!
//! One thread makes pieces of rows, and one for each shard stores its part of them: a part is being stored while the
//! next one waits.
//!
//! **Invariant:** rows of one key are stored in the order in which they were made; when [`store_rows`] returns, all that was
//! made is stored, or counted as failed.
//! **Not here:** reading rows from a file (`row_reader`), making them up (`demo_data`).

pub mod row_reader;

use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::demo_data::{DemoRow, Plan};
use crate::error::Error;
use crate::keyspace::{SLOT_COUNT, ShardKey};
use crate::manager::{BulkRow, Manager, Wish};
use crate::row::{Operation, RowWrite};
use crate::shard_map::{Place, ShardMap};
use crate::table::Table;
use crate::topology::ShardIndex;

/// Rows of a piece for each shard there is: they become one transaction there.
pub const CHUNK_ROWS_PER_SHARD: usize = 6_000;
/// How long a part may take: nobody else writes, so that it takes long only if the disk does.
const PATIENCE: Duration = Duration::from_secs(600);
/// Failures that are told one by one; all are counted.
const TOLD_MAX: usize = 10;

/// A row that was not stored.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct FailedRow {
    /// The number of the row, or of its line.
    pub index: usize,
    /// Why.
    pub cause: String,
}

/// What became of the rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filled {
    /// Rows stored on each shard.
    pub stored: Vec<u64>,
    /// Rows that were not.
    pub failed: u64,
    /// The first of them, by number.
    pub first_failed: Vec<FailedRow>,
}

impl Filled {
    /// Rows stored on all shards.
    pub fn total(&self) -> u64 {
        self.stored.iter().sum()
    }

    /// Counts a row that was not stored, and keeps it if it is one of the first.
    pub fn fail(&mut self, index: usize, cause: impl FnOnce() -> String) {
        self.failed += 1;
        let last = self.first_failed.last().filter(|_| self.first_failed.len() == TOLD_MAX);
        if last.is_some_and(|last| last.index <= index) {
            return;
        }
        let at = self.first_failed.partition_point(|failed| failed.index <= index);
        self.first_failed.insert(at, FailedRow { index, cause: cause() });
        self.first_failed.truncate(TOLD_MAX);
    }
}

/// Some rows, and those that could not even be read.
#[derive(Debug, Default)]
pub struct RowChunk {
    /// To be stored.
    pub rows: Vec<BulkRow>,
    /// Not to be stored, by number.
    pub refused: Vec<(usize, String)>,
}

/// Stores pieces until `next` has no more, or fails: what was made before is stored all the same. `told` learns how
/// many rows a shard has stored more.
///
/// # Errors
/// That of `next`.
pub fn store_rows<E>(
    manager: &Manager,
    mut next: impl FnMut() -> Result<Option<RowChunk>, E>,
    told: impl Fn(ShardIndex, u64) + Sync,
) -> (Filled, Result<(), E>) {
    let shards = manager.map().topology().len();
    let filled = Filled { stored: vec![0; shards], ..Filled::default() };
    let filled = Mutex::new(filled);
    let ended = std::thread::scope(|scope| {
        let pipes = (0..).map(ShardIndex).take(shards).map(|shard| {
            let (pipe, parts) = sync_channel::<Vec<BulkRow>>(1);
            let (filled, told) = (&filled, &told);
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let runtime = runtime.expect("a runtime without threads needs nothing");
                for rows in parts {
                    let wish = Wish::by(Instant::now() + PATIENCE);
                    let done = runtime.block_on(manager.write_chunk(shard, rows, &wish)).rows;
                    let mut stored = 0;
                    let mut filled = locked(filled);
                    for row in done {
                        match row.outcome {
                            Ok(_) => stored += 1,
                            Err((error, _)) => filled.fail(row.index, || error.to_string()),
                        }
                    }
                    filled.stored[shard.index()] += stored;
                    drop(filled);
                    told(shard, stored);
                }
            });
            pipe
        });
        let pipes: Vec<SyncSender<Vec<BulkRow>>> = pipes.collect();
        while let Some(piece) = next()? {
            hand_on(piece, &pipes, &filled);
        }
        Ok(())
    });
    (filled.into_inner().unwrap_or_else(PoisonError::into_inner), ended)
}

fn hand_on(piece: RowChunk, pipes: &[SyncSender<Vec<BulkRow>>], filled: &Mutex<Filled>) {
    if !piece.refused.is_empty() {
        let mut filled = locked(filled);
        piece.refused.into_iter().for_each(|(index, cause)| filled.fail(index, || cause));
    }
    let mut rows = piece.rows;
    // A table after the other (users before their orders), and neighbours in the file together, are written faster.
    // Rows of one key and table keep their order.
    rows.sort_by(|a, b| {
        let tables = b.row.table.name().cmp(a.row.table.name());
        tables.then_with(|| (a.row.slot, &a.row.key).cmp(&(b.row.slot, &b.row.key)))
    });
    let mut parts: Vec<Vec<BulkRow>> = pipes.iter().map(|_| Vec::new()).collect();
    for row in rows {
        parts[row.place.shard.index()].push(row);
    }
    for (pipe, part) in pipes.iter().zip(parts).filter(|(_, part)| !part.is_empty()) {
        // A pipe ends only with the process.
        let _ = pipe.send(part);
    }
}

/// Nothing is left half-done behind this lock.
fn locked(filled: &Mutex<Filled>) -> MutexGuard<'_, Filled> {
    filled.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Users of one pass over a plan.
const PASS_USERS: u64 = 50_000;
/// Passes over one plan: each of them looks at the keys of all users.
const PASSES_MAX: u64 = 64;

/// Turns the rows of a plan into pieces.
///
/// Keys are scattered over a shard's file by their hash. So that rows of one piece are neighbours there, the plan is
/// gone through several times, each time for another part of each shard's slots: pages are then written a few times
/// instead of with every row, and nobody needs a list of the users.
pub struct Making<'p> {
    plan: &'p Plan,
    map: Arc<ShardMap>,
    users: Arc<Table>,
    orders: Arc<Table>,
    /// In which pass each slot has its turn.
    pass_of: Vec<u64>,
    passes: u64,
    pass: u64,
    next: u64,
}

impl<'p> Making<'p> {
    /// The rows of a plan for this cluster.
    ///
    /// # Errors
    /// [`Error::NoSuchTable`] if it has no users or orders.
    pub fn new(manager: &Manager, plan: &'p Plan) -> Result<Self, Error> {
        let (users, orders) = (manager.table("users")?, manager.table("orders")?);
        let map = manager.map();
        let passes = plan.users().div_ceil(PASS_USERS).clamp(1, PASSES_MAX);
        let mut pass_of = vec![0; usize::from(SLOT_COUNT)];
        for shard in map.topology().indices() {
            let slots: Vec<u16> = map.slots_of(shard).collect();
            for (rank, slot) in (0_u64..).zip(&slots) {
                pass_of[usize::from(*slot)] = rank * passes / slots.len() as u64;
            }
        }
        Ok(Self { plan, map, users, orders, pass_of, passes, pass: 0, next: 0 })
    }

    /// About how many rows each shard will get: by its share of the slots.
    pub fn expected(&self) -> Vec<u64> {
        let share = |shard| self.map.slots_of(shard).count() as f64 / f64::from(SLOT_COUNT);
        let shards = self.map.topology().indices();
        shards.map(|shard| (share(shard) * self.plan.rows() as f64) as u64).collect()
    }

    /// The next rows; `None` after the last.
    ///
    /// # Errors
    /// [`Error`] if a row does not fit the cluster's tables.
    pub fn piece(&mut self) -> Result<Option<RowChunk>, Error> {
        let most = CHUNK_ROWS_PER_SHARD * self.map.topology().len();
        let mut piece = RowChunk::default();
        while piece.rows.len() < most && self.pass < self.passes {
            let Some(user) = self.plan.user(self.next) else {
                (self.pass, self.next) = (self.pass + 1, 0);
                continue;
            };
            let index = self.next as usize;
            self.next += 1;
            let place = self.map.place(ShardKey::parse(&user.id)?)?;
            if self.pass_of[place.slot.index()] != self.pass {
                continue;
            }
            piece.rows.push(row((index, place), &self.users, &user.id, user.row())?);
            for order in user.orders(self.plan) {
                piece.rows.push(row((index, place), &self.orders, &user.id, order)?);
            }
        }
        Ok(Some(piece).filter(|piece| !piece.rows.is_empty()))
    }
}

fn row(
    (index, place): (usize, Place),
    table: &Arc<Table>,
    key: &str,
    row: DemoRow,
) -> Result<BulkRow, Error> {
    let mut values = Vec::with_capacity(row.len());
    for (column, value) in row {
        let found = table.find(column).ok_or_else(|| Error::NoSuchTable {
            table: format!("{} with a column {column}", table.name()),
            suggestion: None,
        })?;
        values.push((found, value));
    }
    let key = (ShardKey::parse(key)?, place.slot);
    let row = RowWrite::of_values(table, Operation::Upsert, key, values)?;
    Ok(BulkRow { index, place, row: RowWrite { wants_row: false, ..row } })
}
