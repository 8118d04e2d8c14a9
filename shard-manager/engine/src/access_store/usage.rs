//! Usage: numbers of rows of API clients (callers) and uses of keys, which a router adds to the
//! sums of all routers.
//!
//! A flush is one such addition.
//!
//! A router that does not know the outcome of a flush repeats the flush. Each flush therefore has a
//! number, and the catalog stores the number of a router's last flush together with the sums.
//!
//! **Invariant:** a flush that is repeated adds nothing.
//! **Not here:** collecting rows (`access::limit::usage`), the statements (`sql`).

use std::sync::Arc;

use access::key::KeyId;
use access::limit::usage::{DAYS_KEPT, UsageBatch};

use super::sql::{self, AccessRow, AccessStatement};
use super::state::{number, text};

/// First character of the name under which a process is stored among the callers. The names of
/// callers begin with a letter.
const PROCESS: char = '#';

/// Numbers of rows and uses of keys that are stored together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageFlush {
    /// Name of the process, which is unique.
    pub process: Box<str>,
    /// Numbers of rows by caller. A batch without callers adds nothing and needs no number.
    pub batch: UsageBatch,
    /// Keys, with the last day on which each was used.
    pub key_uses: Vec<(KeyId, u32)>,
    /// The present day. The sums of days long before it are deleted.
    pub today: u32,
}

impl UsageFlush {
    /// Maximum number of keys in a flush, so that its transaction is short.
    pub const KEYS_MAX: usize = 1_000;

    /// Returns the statement that begins the flush. The statement returns a row if the flush has
    /// not been stored before.
    pub fn begin(&self) -> AccessStatement {
        let name = format!("{PROCESS}{}", self.process);
        sql::begin_flush(self.batch.day, name, self.batch.number)
    }

    /// Returns the statements that add the numbers of rows. They are run only if the flush is new.
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
