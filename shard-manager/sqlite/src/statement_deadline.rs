//! Statement deadline: aborts a statement that runs longer than its deadline.
//!
//! A statement that may visit many rows calls `tessera_in_time()` for each row. After the deadline
//! the function fails, and the statement fails with it. By then the request has ended, and other
//! reads may be waiting for the connection.
//!
//! **Not here:** the statements that call it (`engine::select`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use diesel::QueryResult;
use diesel::result::Error as DieselError;
use diesel::serialize::{IsNull, Output, ToSql};
use diesel::sql_types::Bool;
use diesel::sqlite::{Sqlite, SqliteConnection};

/// Number of rows between two readings of the clock, because reading the clock costs more than
/// evaluating most rows.
const ROWS_BETWEEN: u32 = 64;
/// Error message of the function, by which this failure is recognised.
const LATE: &str = "tessera: the deadline passed";

#[diesel::declare_sql_function]
extern "SQL" {
    /// Returns true before the deadline, and fails after it.
    fn tessera_in_time() -> Bool;
}

/// The deadline of one connection's statements.
#[derive(Debug)]
pub(super) struct StatementDeadline {
    epoch: Instant,
    /// Deadline in microseconds after `epoch`.
    until: Arc<AtomicU64>,
    /// Number of rows between two readings of the clock.
    rows_between: Arc<AtomicU32>,
}

impl StatementDeadline {
    /// Registers the function on a connection.
    pub(super) fn on(connection: &mut SqliteConnection) -> QueryResult<Self> {
        let (epoch, until) = (Instant::now(), Arc::new(AtomicU64::new(u64::MAX)));
        let rows_between = Arc::new(AtomicU32::new(ROWS_BETWEEN));
        let (mut rows, deadline, between) = (0_u32, Arc::clone(&until), Arc::clone(&rows_between));
        tessera_in_time_utils::register_nondeterministic_impl(connection, move || {
            rows += 1;
            let looks = rows >= between.load(Ordering::Relaxed);
            rows = if looks { 0 } else { rows };
            InTime(!looks || micros(epoch, Instant::now()) < deadline.load(Ordering::Relaxed))
        })?;
        Ok(Self { epoch, until, rows_between })
    }

    /// Sets the deadline of the next statement. `slow_rows` is true if even a single row may take
    /// long to evaluate.
    pub(super) fn set(&self, deadline: Instant, slow_rows: bool) {
        self.rows_between.store(if slow_rows { 1 } else { ROWS_BETWEEN }, Ordering::Relaxed);
        self.until.store(micros(self.epoch, deadline), Ordering::Relaxed);
    }

    /// Returns true if a statement failed because of its deadline.
    pub(super) fn is_late(error: &DieselError) -> bool {
        matches!(error, DieselError::DatabaseError(_, said) if said.message().contains(LATE))
    }
}

fn micros(epoch: Instant, at: Instant) -> u64 {
    at.saturating_duration_since(epoch).as_micros() as u64
}

/// Result of the function.
#[derive(Debug)]
struct InTime(bool);

impl ToSql<Bool, Sqlite> for InTime {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Sqlite>) -> diesel::serialize::Result {
        if !self.0 {
            return Err(LATE.into());
        }
        out.set_value(1_i32);
        Ok(IsNull::No)
    }
}
