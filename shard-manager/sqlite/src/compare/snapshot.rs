//! Snapshot: reads one copy of a shard's rows as of one position.
//!
//! **Not here:** comparing the copies (`compare`).

use std::sync::atomic::{AtomicBool, Ordering};

use diesel::connection::SimpleConnection;
use diesel::sqlite::SqliteConnection;
use model::position::Position;
use model::table::Table;
use model::value::{ColumnType, Value};

use super::super::check::is_damage;
use super::super::connection::{Bind, RowView, Statement, for_each_row_while, open_in_place};
use super::super::log::{self, Entry};
use super::super::row_hash::{hash_columns, key_hash, row_hash};
use super::super::{sql, timeline};
use super::{CopyFile, Key, LeftOut, Obstacle, Stretch};

/// Open snapshot of a copy.
pub(super) struct Snapshot {
    number: usize,
    connection: SqliteConnection,
    /// Position of the snapshot.
    pub(super) position: Position,
}

/// Number of some rows, and the sum of their hashes.
#[derive(Debug, Default)]
pub(super) struct Sum {
    rows: u64,
    sum: u128,
    /// Number of bytes of the rows, including rows that are left out of the sum.
    pub(super) bytes: u64,
}

impl Sum {
    /// Returns true if both sums are of the same rows.
    pub(super) fn is_that_of(&self, other: &Self) -> bool {
        (self.rows, self.sum) == (other.rows, other.sum)
    }
}

impl Snapshot {
    pub(super) fn begin(file: &CopyFile<'_>) -> Result<Self, Obstacle> {
        let number = file.number;
        let failed = |error: &dyn std::fmt::Display| unreadable(number, error);
        let mut connection = open_in_place(file.path).map_err(|error| failed(&error))?;
        connection.batch_execute("BEGIN").map_err(|error| failed(&error))?;
        // The first read takes the snapshot.
        let position = timeline::position(&mut connection).map_err(|error| failed(&error))?;
        Ok(Self { number, connection, position })
    }

    pub(super) fn number(&self) -> usize {
        self.number
    }

    /// Reads some entries of the change log after a position, oldest first.
    pub(super) fn log_after(&mut self, position: u64) -> Result<Vec<Entry>, Obstacle> {
        let entries = log::read_after(&mut self.connection, position, None);
        entries.map_err(|error| unreadable(self.number, &error))
    }

    /// Adds up the hashes of rows until `bytes_max` bytes are read, and returns the key of the last
    /// row; `None` at the end of the stretch.
    pub(super) fn sum(
        &mut self,
        stretch: &Stretch,
        left_out: &LeftOut,
        bytes_max: u64,
        stop: &AtomicBool,
    ) -> Result<(Sum, Option<Key>), Obstacle> {
        let table = &*stretch.table;
        let (mut sum, mut last, mut bytes) = (Sum::default(), None, Vec::new());
        self.walk(stretch, stop, |row| {
            let hash = row_hash(&mut bytes, row, table);
            sum.bytes += bytes.len() as u64;
            if !is_left_out(row, left_out) {
                sum.rows += 1;
                sum.sum = sum.sum.wrapping_add(hash);
            }
            let goes_on = sum.bytes < bytes_max;
            if !goes_on {
                last = Some(key(row, table));
            }
            goes_on
        })?;
        Ok((sum, last))
    }

    /// Calls `each` with the hash of each row's key and the hash of all its columns, until `each`
    /// returns false.
    pub(super) fn rows(
        &mut self,
        stretch: &Stretch,
        left_out: &LeftOut,
        stop: &AtomicBool,
        mut each: impl FnMut(u128, u128) -> bool,
    ) -> Result<(), Obstacle> {
        let (table, mut bytes) = (&*stretch.table, Vec::new());
        self.walk(stretch, stop, |row| {
            if is_left_out(row, left_out) {
                return true;
            }
            let key = hash_columns(&mut bytes, row, table, key_columns(table));
            each(key, row_hash(&mut bytes, row, table))
        })
    }

    fn walk(
        &mut self,
        stretch: &Stretch,
        stop: &AtomicBool,
        mut each: impl FnMut(&RowView<'_, '_>) -> bool,
    ) -> Result<(), Obstacle> {
        let (after, until) = (&stretch.after, &stretch.until);
        let sql = sql::select_range(&stretch.table, after.is_some(), until.is_some());
        let binds: Vec<Bind<'_>> = after.iter().chain(until).flatten().map(Bind::from).collect();
        let statement = Statement { sql: &sql, binds: &binds, cached: false };
        let mut stopped = false;
        let walked = for_each_row_while(&mut self.connection, statement, |row| {
            stopped = stop.load(Ordering::Relaxed);
            Ok(!stopped && each(row))
        });
        match walked {
            _ if stopped => Err(Obstacle::Stopped),
            Ok(()) => Ok(()),
            Err(error) => Err(unreadable(self.number, &error)),
        }
    }
}

fn unreadable(number: usize, error: &dyn std::fmt::Display) -> Obstacle {
    let cause = error.to_string();
    Obstacle::Unreadable { number, damaged: is_damage(&cause), cause }
}

fn is_left_out(row: &RowView<'_, '_>, left_out: &LeftOut) -> bool {
    !left_out.is_empty()
        && row.text(Table::SHARD_KEY, |key| left_out.contains(&key_hash(key))) == Some(true)
}

/// Columns of [`Key`].
fn key_columns(table: &Table) -> impl Iterator<Item = usize> {
    [Table::SLOT, Table::SHARD_KEY].into_iter().chain(table.id().iter().copied())
}

fn key(row: &RowView<'_, '_>, table: &Table) -> Key {
    let value = |column: usize| {
        let value = match table.column(column).kind {
            // A string in a damaged file may not be valid UTF-8.
            ColumnType::Text | ColumnType::Timestamp | ColumnType::Uuid | ColumnType::Json => {
                row.blob(column, |text| Value::Text(String::from_utf8_lossy(text).into_owned()))
            }
            ColumnType::Bigint | ColumnType::Boolean => row.int(column).map(Value::Int),
            ColumnType::Double => row.double(column).map(Value::Double),
        };
        value.unwrap_or(Value::Null)
    };
    key_columns(table).map(value).collect()
}
