//! Compare: checks that the files of a shard contain the same rows, while they are being written.
//!
//! A comparison proceeds in *looks*. Each look reads a *stretch*, which is a range of adjacent
//! rows, in one short snapshot of each file, the replicas before the primary. The primary's log
//! lists the changes between the snapshots; rows of the changed keys are left out, and all other
//! rows must be equal. Each look opens the files again, so that rows are read from the disk and not
//! from a cache, and so that a snapshot blocks WAL checkpoints only while one stretch is read.
//!
//! **Invariant:** rows are only reported as different if no transaction changed them between the
//! positions at which they were read.
//! **Not here:** deciding which file is right, and repairing the others (`comparison_loop`).

mod snapshot;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use model::position::TimelineHistory;
use model::table::Table;
use model::value::Value;

use super::log::{self, Line};
use super::row_hash::key_hash;
use super::{move_line, slot_line};
use snapshot::{Snapshot, Sum};

/// Number of bytes of the primary's rows that one look reads.
const STRETCH_BYTES: u64 = 256 << 10;
/// Maximum number of rows of a stretch that are compared one by one. A stretch can have more rows
/// only if the key at its end is damaged.
const ROWS_MAX: usize = 1 << 17;
/// Maximum number of transactions by which a replica may lag and still be compared.
const BEHIND_MAX: u64 = 256;
/// Maximum number of bytes of the log that are read to find the changes between two snapshots.
const LOG_BYTES_MAX: usize = 16 << 20;

/// One copy of a shard's rows.
#[derive(Clone, Copy, Debug)]
pub struct CopyFile<'f> {
    /// Number of the copy: 0 for the primary, and from 1 for the replicas.
    pub number: usize,
    /// Path of the copy's file, which must not be replaced during the comparison.
    pub path: &'f Path,
}

/// Settings of a walk over the rows.
#[derive(Clone, Copy, Debug)]
pub struct WalkSettings<'t> {
    /// The timelines of the shard.
    pub history: &'t TimelineHistory,
    /// Flag that is set to true to end the walk.
    pub stop: &'t AtomicBool,
}

/// Key of a row in its table: slot, shard key, id.
type Key = Vec<Value>;

/// Position that a walk over all rows has reached.
#[derive(Clone, Debug, Default)]
pub struct WalkPosition {
    table: String,
    after: Option<Key>,
}

/// Range of adjacent rows of a table.
#[derive(Clone, Debug)]
pub struct Stretch {
    /// Table of the rows.
    pub table: Arc<Table>,
    after: Option<Key>,
    until: Option<Key>,
}

/// Findings of one look.
#[derive(Debug, Default)]
pub struct Looked {
    /// Stretches whose rows differ between copies.
    pub differing: Vec<Stretch>,
    /// Position to continue from; `None` after the last row.
    pub next: Option<WalkPosition>,
    /// Number of bytes of rows that were read.
    pub bytes: u64,
    /// Number of copies that were compared; replicas that lag too far are not.
    pub copies: usize,
}

/// Row that differs between copies.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RowApart {
    /// Hash of the row's key.
    pub row: u128,
    /// Hash of the row in each copy, with the number of the copy; `None` if the copy does not have
    /// the row.
    pub copies: Vec<(usize, Option<u128>)>,
}

/// Reason why copies could not be compared.
#[derive(Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// One of the copies could not be read.
    Unreadable {
        /// Number of the copy.
        number: usize,
        /// True if the contents of the file are damaged; false if the file could not be accessed.
        damaged: bool,
        /// Error message.
        cause: String,
    },
    /// The changes between the snapshots are unknown.
    Apart,
    /// The look was cancelled.
    Stopped,
}

/// Compares the next rows of all tables, in the order of the tables' names; the primary is the
/// first of the files. Blocks for some milliseconds.
///
/// # Errors
/// [`Obstacle`] if the rows could not be compared.
pub fn look(
    files: &[CopyFile<'_>],
    tables: &[Arc<Table>],
    from: &WalkPosition,
    terms: WalkSettings<'_>,
) -> Result<Looked, Obstacle> {
    let mut copies = Copies::take(files, terms)?;
    let mut looked = Looked { copies: copies.replicas.len() + 1, ..Looked::default() };
    let mut taken = 0;
    for table in tables.iter().filter(|table| table.name() >= &*from.table) {
        let after = from.after.clone().filter(|_| table.name() == from.table);
        if taken >= STRETCH_BYTES {
            looked.next = Some(WalkPosition { table: table.name().to_owned(), after });
            break;
        }
        let mut stretch = Stretch { table: Arc::clone(table), after, until: None };
        let (expected, last) = copies.primary_sum(&stretch, STRETCH_BYTES - taken)?;
        stretch.until = last;
        taken += expected.bytes;
        looked.bytes += expected.bytes;
        let mut same = true;
        for index in 0..copies.replicas.len() {
            let found = copies.replica_sum(index, &stretch)?;
            looked.bytes += found.bytes;
            same &= found.is_that_of(&expected);
        }
        looked.next = stretch
            .until
            .clone()
            .map(|last| WalkPosition { table: table.name().to_owned(), after: Some(last) });
        if !same {
            looked.differing.push(stretch);
        }
        if looked.next.is_some() {
            break;
        }
    }
    Ok(looked)
}

/// Returns the rows of a stretch that differ between copies; none if the stretch has too many rows
/// to compare one by one. Blocks for some milliseconds.
///
/// # Errors
/// [`Obstacle`] if the rows could not be compared.
pub fn rows_apart(
    files: &[CopyFile<'_>],
    stretch: &Stretch,
    terms: WalkSettings<'_>,
) -> Result<Vec<RowApart>, Obstacle> {
    let mut copies = Copies::take(files, terms)?;
    let left_out = copies.left_out(&stretch.table);
    let mut rows: BTreeMap<u128, Vec<Option<u128>>> = BTreeMap::new();
    let count = copies.replicas.len() + 1;
    for (index, copy) in copies.all().enumerate() {
        let each = |row, hash| {
            rows.entry(row).or_insert_with(|| vec![None; count])[index] = Some(hash);
            rows.len() <= ROWS_MAX
        };
        copy.rows(stretch, &left_out, terms.stop, each)?;
    }
    if rows.len() > ROWS_MAX {
        return Ok(Vec::new());
    }
    rows.retain(|_, hashes| hashes.iter().any(|hash| *hash != hashes[0]));
    let numbers: Vec<usize> = copies.all().map(|copy| copy.number()).collect();
    let apart = |(row, hashes): (u128, Vec<Option<u128>>)| {
        let copies = numbers.iter().copied().zip(hashes).collect();
        RowApart { row, copies }
    };
    Ok(rows.into_iter().map(apart).collect())
}

/// Hashes of those shard keys of one table whose rows are not compared.
type LeftOut = HashSet<u64>;

/// One snapshot of each copy, and the changes between them.
struct Copies<'t> {
    primary: Snapshot,
    replicas: Vec<Snapshot>,
    changed: HashMap<String, Arc<LeftOut>>,
    stop: &'t AtomicBool,
}

impl<'t> Copies<'t> {
    fn take(files: &[CopyFile<'_>], terms: WalkSettings<'t>) -> Result<Self, Obstacle> {
        let (primary, replicas) = files.split_first().ok_or(Obstacle::Apart)?;
        // The snapshots of the replicas are taken first, so that they contain no change that is not
        // in the primary's.
        let replicas: Result<Vec<Snapshot>, Obstacle> =
            replicas.iter().map(Snapshot::begin).collect();
        let (mut replicas, mut primary) = (replicas?, Snapshot::begin(primary)?);
        let sequence = primary.position.sequence;
        let fits = |copy: &Snapshot| {
            copy.position.sequence <= sequence && terms.history.holds(copy.position)
        };
        if !replicas.iter().all(fits) {
            return Err(Obstacle::Apart);
        }
        replicas.retain(|copy| sequence - copy.position.sequence <= BEHIND_MAX);
        let oldest = replicas.iter().map(|copy| copy.position.sequence).min().unwrap_or(sequence);
        let changed = changed_keys(&mut primary, oldest)?;
        Ok(Self { primary, replicas, changed, stop: terms.stop })
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Snapshot> {
        std::iter::once(&mut self.primary).chain(&mut self.replicas)
    }

    fn left_out(&self, table: &Table) -> Arc<LeftOut> {
        self.changed.get(table.name()).cloned().unwrap_or_default()
    }

    /// Adds up the hashes of rows of the primary until `bytes_max` bytes are read, and returns the
    /// key of the last row; `None` at the end of the stretch.
    fn primary_sum(
        &mut self,
        stretch: &Stretch,
        bytes_max: u64,
    ) -> Result<(Sum, Option<Key>), Obstacle> {
        let left_out = self.left_out(&stretch.table);
        self.primary.sum(stretch, &left_out, bytes_max, self.stop)
    }

    fn replica_sum(&mut self, index: usize, stretch: &Stretch) -> Result<Sum, Obstacle> {
        let left_out = self.left_out(&stretch.table);
        let sum = self.replicas[index].sum(stretch, &left_out, u64::MAX, self.stop)?;
        Ok(sum.0)
    }
}

/// Returns, for each table, the keys whose rows the primary has changed after a position.
fn changed_keys(
    primary: &mut Snapshot,
    mut after: u64,
) -> Result<HashMap<String, Arc<LeftOut>>, Obstacle> {
    let mut changed: HashMap<String, LeftOut> = HashMap::new();
    let mut bytes = 0;
    while after < primary.position.sequence {
        let entries = primary.log_after(after)?;
        // The log no longer has the next entry, because it was trimmed meanwhile.
        if entries.first().is_none_or(|first| first.position != after + 1) {
            return Err(Obstacle::Apart);
        }
        for entry in &entries {
            after = entry.position;
            bytes += entry.changes.len();
            // A change of slots changes no row, and is irrelevant here because foreign rows are
            // compared as well.
            if slot_line::logged(&entry.changes).map_err(|_unread| Obstacle::Apart)?.is_some() {
                continue;
            }
            for line in log::lines(move_line::row_lines(&entry.changes)) {
                // A line that cannot be parsed may be a schema change, after which the rows of the
                // copies have different columns.
                let line = Line::parse(line).map_err(|_unread| Obstacle::Apart)?;
                let key = key_hash(&line.key);
                match changed.get_mut(&*line.table) {
                    Some(keys) => drop(keys.insert(key)),
                    None => drop(changed.insert(line.table.into_owned(), LeftOut::from([key]))),
                }
            }
        }
        if bytes > LOG_BYTES_MAX {
            return Err(Obstacle::Apart);
        }
    }
    Ok(changed.into_iter().map(|(table, keys)| (table, Arc::new(keys))).collect())
}
