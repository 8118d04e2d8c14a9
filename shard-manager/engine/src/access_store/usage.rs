//! Usage: rows of callers and uses of keys, which a router adds to those of all routers.
//!
//! A router that does not know the outcome of a flush repeats it. So each flush has a number, and
//! the number of the last one is stored in the catalog beside the sums.
//!
//! **Invariant:** a flush that is repeated adds nothing.
//! **Not here:** collecting rows (`access::limit::usage`), the statements (`sql`).

use std::sync::Arc;

use access::key::KeyId;
use access::limit::usage::{DAYS_KEPT, UsageBatch};

use super::sql::{self, AccessRow, AccessStatement};
use super::state::{number, text};

/// First character of the name of a process among callers, whose names begin with a letter.
const PROCESS: char = '#';

/// Rows and uses of keys that are stored together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageFlush {
    /// Name of the process, which is unique.
    pub process: Box<str>,
    /// Rows of callers. A batch without callers adds nothing and needs no number.
    pub batch: UsageBatch,
    /// Keys, with the last day on which each was used.
    pub key_uses: Vec<(KeyId, u32)>,
    /// The present day. Sums of days long before it are removed.
    pub today: u32,
}

impl UsageFlush {
    /// Maximum number of keys in a flush, so that its transaction is short.
    pub const KEYS_MAX: usize = 1_000;

    /// Returns the statement that begins the flush. It returns a row if the flush was not stored
    /// before.
    pub fn begin(&self) -> AccessStatement {
        let name = format!("{PROCESS}{}", self.process);
        sql::begin_flush(self.batch.day, name, self.batch.number)
    }

    /// Returns the statements that add the rows, if the flush is new.
    pub fn additions(&self) -> impl Iterator<Item = AccessStatement> {
        let add = |(caller, rows): &(Arc<str>, u64)| sql::add_rows(self.batch.day, caller, *rows);
        self.batch.rows.iter().map(add)
    }

    /// Returns the statements that end the flush.
    pub fn end(&self) -> impl Iterator<Item = AccessStatement> {
        let uses = self.key_uses.iter().map(|(id, day)| sql::mark_key(*id, *day));
        uses.chain([sql::remove_rows_before(self.today.saturating_sub(DAYS_KEPT))])
    }
}

/// Reads the result of [`sql::usage`].
pub fn read_sums(rows: &[AccessRow]) -> Vec<(String, u64)> {
    let of_callers = rows.iter().filter(|row| !text(row, 0).starts_with(PROCESS));
    let read = |row: &AccessRow| {
        let sum = u64::try_from(number(row, 1)?).ok()?;
        Some((text(row, 0).to_owned(), sum))
    };
    of_callers.filter_map(read).collect()
}
