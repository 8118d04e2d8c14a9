//! Lane session: one connection of a lane, and the results of its transactions.
//!
//! **Invariant:** once the commit was sent, the outcome of a failed transaction is rejected only if
//! the server has answered after the commit; otherwise it is unknown.
//! **Not here:** the statements of a transaction (`batch_transaction`, `upsert_transaction`), lost
//! connections (`writer`).

use std::sync::Arc;

use diesel::QueryResult;
use diesel::result::Error as DieselError;
use diesel_async::AsyncPgConnection;
use engine::WriteGroup;
use model::error::{Error, Outcome};
use model::row_change::RowDone;

use super::citus::{self, Citus};
use super::db_error::DbErrorKind;
use super::insert_predictor::InsertPredictor;
use super::statement::{Prepared, RowView};
use super::statement_cache::StatementCache;

/// One connection of a lane, and the statements prepared on it.
pub(super) struct LaneSession {
    pub(super) connection: AsyncPgConnection,
    pub(super) prepared: Prepared,
    pub(super) statements: StatementCache,
    pub(super) insert_predictor: InsertPredictor,
    /// Known state of Citus, if the server is a coordinator.
    pub(super) citus: Option<Arc<Citus>>,
}

/// A batch that is durable.
pub(super) struct Stored {
    pub(super) rows: Vec<Result<RowDone, Error>>,
    pub(super) position: u64,
}

/// A transaction that failed.
#[derive(Debug)]
pub(super) struct TransactionError {
    pub(super) kind: DbErrorKind,
    pub(super) outcome: Outcome,
    /// True if the connection may be used again.
    pub(super) usable: bool,
    /// True if a smaller batch may succeed.
    pub(super) retry_split: bool,
}

impl TransactionError {
    /// Converts an error that occurred before the commit was sent, so that nothing was stored.
    pub(super) fn before_commit(error: &DieselError) -> Self {
        let kind = DbErrorKind::of(error);
        tracing::warn!(%error, ?kind, "a batch failed before it was committed");
        let retry_split = kind.is_of_rows();
        Self { kind, outcome: Outcome::Rejected, usable: false, retry_split }
    }

    /// Converts an error of a transaction whose commit was sent. `answers` is true if the server
    /// has answered a statement after the commit.
    pub(super) fn after_commit(error: &DieselError, answers: bool) -> Self {
        let kind = DbErrorKind::of(error);
        let outcome = if answers { Outcome::Rejected } else { Outcome::Unknown };
        if kind.is_of_rule() && answers {
            tracing::debug!(%error, "a rule of the database refused a batch");
        } else {
            let outcome = outcome.name();
            tracing::warn!(%error, ?kind, outcome, "a batch failed as it was committed");
        }
        let retry_split = answers && kind.is_of_rows();
        let failed = Self { kind, outcome, usable: false, retry_split };
        Self { usable: answers && failed.keeps_session(), ..failed }
    }

    /// Corrects an error of a server that still answers on the same connection: a message about a
    /// lost connection must then have been raised by a trigger.
    pub(super) fn on_living_connection(self) -> Self {
        if self.kind == DbErrorKind::Lost {
            Self { kind: DbErrorKind::Other, usable: true, retry_split: true, ..self }
        } else {
            self
        }
    }

    /// Completes the error about a discarded row: if its table is unknown, names the table of the
    /// first change.
    pub(super) fn about(mut self, writes: &[WriteGroup<'_>]) -> Self {
        if let DbErrorKind::Discarded(table @ None) = &mut self.kind {
            let row = writes.iter().find_map(|write| write.rows.first());
            *table = row.map(|row| row.table.name().to_owned());
        }
        self
    }

    /// Returns true if the error does not affect the session.
    pub(super) fn keeps_session(&self) -> bool {
        match self.kind {
            DbErrorKind::Constraint(_)
            | DbErrorKind::NotUnique(_)
            | DbErrorKind::IndexEntryTooLong(_)
            | DbErrorKind::Discarded(_)
            | DbErrorKind::Conflict
            | DbErrorKind::Full
            | DbErrorKind::Late
            | DbErrorKind::Other => true,
            DbErrorKind::ReadOnly
            | DbErrorKind::Outdated
            | DbErrorKind::Lost
            | DbErrorKind::Promoted => false,
        }
    }
}

/// Returns the position after a commit, from the results of all steps: the statements of the
/// transaction, `COMMIT`, and the query for the position. On Citus, the server that answers is not
/// one of those that commit, so its answer does not prove a rejection.
pub(super) fn ended(
    mut results: Vec<QueryResult<Vec<RowView>>>,
    is_citus: bool,
) -> Result<u64, TransactionError> {
    let position = results.pop();
    let answers = matches!(position, Some(Ok(_)));
    // The last step commits: `COMMIT`, or the only statement.
    let last = results.len().saturating_sub(1);
    let failed = results.into_iter().enumerate();
    let mut failed = failed.filter_map(|(at, result)| Some((at, result.err()?)));
    if let Some((at, error)) = failed.next() {
        let proven = !is_citus || citus::is_rejected(&error, at == last);
        let failed = TransactionError::after_commit(&error, answers && proven);
        // On Citus the message may be about the connection to a worker.
        return Err(if answers && !is_citus { failed.on_living_connection() } else { failed });
    }
    match position {
        Some(Ok(rows)) => {
            Ok(rows.first().and_then(|row| row.bigint(0)).unwrap_or(0).cast_unsigned())
        }
        // The rows are stored, but the position that a replica must reach to have them is unknown.
        Some(Err(error)) => Err(TransactionError::after_commit(&error, false)),
        None => Ok(0),
    }
}
