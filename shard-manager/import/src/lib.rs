//! Import: stores many rows in an open cluster, in bounded memory, without a router.
//!
//! One thread produces chunks of rows, and one thread per shard stores its part of each: a part is
//! stored while the next one is produced.
//!
//! **Invariant:** rows of one key and table are stored in the order of the input; when
//! [`store_rows`] returns, every row is stored or counted as failed.
//! **Not here:** reading rows from a file (`row_reader`), generating them (`demo_data`).
#![forbid(unsafe_code)]

pub mod demo_data;
pub mod row_reader;

use std::collections::BTreeMap;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use access::rights::Rights;
use cluster::manager::{BulkRow, BulkRowDone, Manager, RequestOptions, place_row};
use model::error::Error;
use model::keyspace::{SLOT_COUNT, ShardKey};
use model::row_change::{Operation, RowWrite};
use model::shard_map::ShardMap;
use model::shard_map::partitions::partition_column;
use model::table::Table;
use model::topology::ShardNumber;

use crate::demo_data::{DemoRow, Plan};

/// Rows of a chunk per shard: they become one transaction there.
pub const CHUNK_ROWS_PER_SHARD: usize = 6_000;
/// Time limit of a part: there are no other writers, so only a slow disk delays it.
const PATIENCE: Duration = Duration::from_secs(600);
/// Highest number of failures that are listed; all are counted.
const FAILURES_LISTED_MAX: usize = 10;

/// Row that was not stored.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct FailedRow {
    /// Number of the row, or of its line.
    pub index: usize,
    /// Reason.
    pub cause: String,
}

/// Result of an import.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportResult {
    /// Number of rows stored on each shard, by its number; 0 for retired ones.
    pub stored: Vec<u64>,
    /// Number of rows that were not stored.
    pub failed: u64,
    /// First failed rows, by number.
    pub first_failed: Vec<FailedRow>,
}

impl ImportResult {
    /// Returns the number of rows stored on all shards.
    pub fn total(&self) -> u64 {
        self.stored.iter().sum()
    }

    /// Counts the results of rows that a shard has processed; returns the number of stored rows.
    fn add(&mut self, shard: ShardNumber, rows: Vec<BulkRowDone>) -> u64 {
        let mut stored = 0;
        for row in rows {
            match row.outcome {
                Ok(_) => stored += 1,
                Err((error, _)) => self.fail(row.index, || error.to_string()),
            }
        }
        if self.stored.len() <= shard.index() {
            self.stored.resize(shard.index() + 1, 0);
        }
        self.stored[shard.index()] += stored;
        stored
    }

    /// Counts a failed row, and lists it if it is one of the first.
    pub fn fail(&mut self, index: usize, cause: impl FnOnce() -> String) {
        self.failed += 1;
        let is_full = self.first_failed.len() == FAILURES_LISTED_MAX;
        let last = self.first_failed.last().filter(|_| is_full);
        if last.is_some_and(|last| last.index <= index) {
            return;
        }
        let at = self.first_failed.partition_point(|failed| failed.index <= index);
        self.first_failed.insert(at, FailedRow { index, cause: cause() });
        self.first_failed.truncate(FAILURES_LISTED_MAX);
    }
}

/// Chunk of rows, and the rows that could not be read.
#[derive(Debug, Default)]
pub struct RowChunk {
    /// Rows to store.
    pub rows: Vec<BulkRow>,
    /// Refused rows, by number, with the reason.
    pub refused: Vec<(usize, String)>,
}

/// Stores chunks until `next` returns none or fails; earlier chunks are stored in any case.
/// `progress` receives the number of rows that a shard has stored since the last call.
///
/// # Errors
/// The error of `next`.
pub fn store_rows<E>(
    manager: &Manager,
    mut next: impl FnMut() -> Result<Option<RowChunk>, E>,
    progress: impl Fn(ShardNumber, u64) + Sync,
) -> (ImportResult, Result<(), E>) {
    let map = manager.map();
    let filled = ImportResult { stored: vec![0; map.topology().len()], ..ImportResult::default() };
    let filled = Mutex::new(filled);
    let ended = std::thread::scope(|scope| {
        let mut pipes = vec![None; map.topology().len()];
        for shard in map.topology().numbers() {
            let (pipe, parts) = sync_channel::<Vec<BulkRow>>(1);
            let (filled, progress) = (&filled, &progress);
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let runtime = runtime.expect("a runtime without threads needs nothing");
                for rows in parts {
                    let options = RequestOptions::by(Instant::now() + PATIENCE);
                    let done = runtime
                        .block_on(manager.data(Rights::ALL).write_chunk(shard, rows, &options));
                    for (shard, part) in done {
                        progress(shard, locked(filled).add(shard, part.rows));
                    }
                }
            });
            pipes[shard.index()] = Some(pipe);
        }
        while let Some(chunk) = next()? {
            distribute(chunk, &pipes, &filled);
        }
        Ok(())
    });
    (filled.into_inner().unwrap_or_else(PoisonError::into_inner), ended)
}

/// Sends the rows of a chunk to the threads of their shards; `pipes` is indexed by shard number.
fn distribute(
    chunk: RowChunk,
    pipes: &[Option<SyncSender<Vec<BulkRow>>>],
    filled: &Mutex<ImportResult>,
) {
    if !chunk.refused.is_empty() {
        let mut filled = locked(filled);
        chunk.refused.into_iter().for_each(|(index, cause)| filled.fail(index, || cause));
    }
    let mut rows = chunk.rows;
    // Rows are written faster table by table (users before their orders) and in the order of the
    // file. Rows of one key and table keep their order.
    rows.sort_by(|a, b| {
        let tables = b.row.table.name().cmp(a.row.table.name());
        tables.then_with(|| (a.row.slot, &a.row.key).cmp(&(b.row.slot, &b.row.key)))
    });
    let mut parts: BTreeMap<ShardNumber, Vec<BulkRow>> = BTreeMap::new();
    for row in rows {
        parts.entry(row.place.shard).or_default().push(row);
    }
    for (shard, part) in parts {
        match pipes.get(shard.index()).and_then(Option::as_ref) {
            // The channel of a thread closes only when the thread ends.
            Some(pipe) => drop(pipe.send(part)),
            None => {
                let mut filled = locked(filled);
                let cause = || "its shard has joined or retired since the start".to_owned();
                part.iter().for_each(|row| filled.fail(row.index, cause));
            }
        }
    }
}

/// Locks a mutex; a panic leaves no inconsistent state behind it.
fn locked(filled: &Mutex<ImportResult>) -> MutexGuard<'_, ImportResult> {
    filled.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Number of users that one pass over a plan stores.
const PASS_USERS: u64 = 50_000;
/// Maximal number of passes over a plan: each computes the keys of all users.
const PASSES_MAX: u64 = 64;

/// Turns the rows of a plan into chunks.
///
/// Keys are scattered over a shard's file by their hash. So that rows of one chunk are neighbours
/// there, there are several passes over the plan, each for another part of each shard's slots:
/// pages are then written a few times instead of with every row, and no list of the users is
/// needed.
pub struct DemoRows<'p> {
    plan: &'p Plan,
    map: Arc<ShardMap>,
    users: Arc<Table>,
    orders: Arc<Table>,
    /// True if the rows of a key may be in several slots.
    is_divided: bool,
    /// Pass in which each slot is stored.
    pass_of: Vec<u64>,
    passes: u64,
    pass: u64,
    next: u64,
}

impl<'p> DemoRows<'p> {
    /// Returns the rows of a plan for this cluster.
    ///
    /// # Errors
    /// [`Error::NoSuchTable`] if the cluster has no table `users` or `orders`.
    pub fn new(manager: &Manager, plan: &'p Plan) -> Result<Self, Error> {
        let (users, orders) = (
            manager.schema(Rights::ALL).table("users")?,
            manager.schema(Rights::ALL).table("orders")?,
        );
        let map = manager.map();
        let passes = plan.users().div_ceil(PASS_USERS).clamp(1, PASSES_MAX);
        let mut pass_of = vec![0; map.groups().slot_count()];
        for shard in map.topology().numbers() {
            let slots = map.groups().slots_of(shard, &[users.group(), orders.group()]);
            let count = slots.len() as u64;
            for (rank, slot) in (0_u64..).zip(slots.iter()) {
                pass_of[slot.index()] = rank * passes / count;
            }
        }
        let has_partitions = |table| partition_column(&map, table).is_some();
        let is_divided =
            users.group() != orders.group() || has_partitions(&users) || has_partitions(&orders);
        let (pass, next) = (0, 0);
        Ok(Self { plan, map, users, orders, is_divided, pass_of, passes, pass, next })
    }

    /// Returns the approximate number of rows of each member, by its share of the slots.
    pub fn expected(&self) -> Vec<(ShardNumber, u64)> {
        let group = [self.users.group()];
        let slots = |shard| self.map.groups().slots_of(shard, &group).len();
        let share = |shard| slots(shard) as f64 / f64::from(SLOT_COUNT);
        let rows = |shard| (share(shard) * self.plan.rows() as f64) as u64;
        self.map.topology().numbers().map(|shard| (shard, rows(shard))).collect()
    }

    /// Returns the next rows; `None` after the last.
    ///
    /// # Errors
    /// [`Error`] if a row does not fit the cluster's tables.
    pub fn next_chunk(&mut self) -> Result<Option<RowChunk>, Error> {
        let most = CHUNK_ROWS_PER_SHARD * self.map.topology().numbers().count();
        let mut chunk = RowChunk::default();
        while chunk.rows.len() < most && self.pass < self.passes {
            let Some(user) = self.plan.user(self.next) else {
                (self.pass, self.next) = (self.pass + 1, 0);
                continue;
            };
            let index = self.next as usize;
            self.next += 1;
            if self.is_later(&user.id)? {
                continue;
            }
            let made = self.row(index, &self.users, &user.id, user.row())?;
            if self.is_due(&made) {
                chunk.rows.push(made);
            }
            for order in user.orders(self.plan) {
                let order = self.row(index, &self.orders, &user.id, order)?;
                if self.is_due(&order) {
                    chunk.rows.push(order);
                }
            }
        }
        Ok(Some(chunk).filter(|chunk| !chunk.rows.is_empty()))
    }

    /// Returns true if all rows of a key are stored in another pass; false if they may be in
    /// several slots, because then each row is checked by itself.
    fn is_later(&self, key: &str) -> Result<bool, Error> {
        if self.is_divided {
            return Ok(false);
        }
        let place = self.map.locate(&self.users, ShardKey::parse(key)?, None)?;
        Ok(self.pass_of[place.slot.index()] != self.pass)
    }

    /// Returns true if a row is stored in the current pass.
    fn is_due(&self, row: &BulkRow) -> bool {
        self.pass_of[row.place.slot.index()] == self.pass
    }

    fn row(
        &self,
        index: usize,
        table: &Arc<Table>,
        key: &str,
        row: DemoRow,
    ) -> Result<BulkRow, Error> {
        row_of(&self.map, (index, table), key, row)
    }
}

fn row_of(
    map: &ShardMap,
    (index, table): (usize, &Arc<Table>),
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
    let (place, row) = place_row(map, table, Operation::Upsert, ShardKey::parse(key)?, values)?;
    Ok(BulkRow { index, place, row: RowWrite { wants_row: false, ..row } })
}
