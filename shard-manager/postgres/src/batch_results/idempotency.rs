//! Idempotency: records in a batch by which a repeated change is recognized and gets its first
//! result.
//!
//! The record of an idempotency key is a row of the batch like any other: it is read and locked
//! with the rows that the changes name, and stored in the same transaction.
//!
//! **Invariant:** a change and the record of its key are stored together or not at all.
//! **Not here:** the contents of a record (`model::idempotency`), removing old records (`writer`).

use engine::idempotency_expiry::recorded_at;
use model::error::Error;
use model::idempotency;
use model::row_change::{RowDone, RowWrite};
use model::value::Value;

use super::Batch;

impl Batch {
    /// Returns the first result, if the change was stored before under its idempotency key.
    pub(super) fn replayed(&mut self, change: &RowWrite) -> Option<Result<RowDone, Error>> {
        let id = [Value::Text(idempotency::key(change)?.to_owned())];
        let at = self.rows.find(&idempotency::TABLE, (change.slot, &change.key), &id)?;
        let record = self.rows.all()[at].after.as_ref()?;
        let text = |column: usize| match record.get(column) {
            Some(Value::Text(text)) => text.as_str(),
            Some(Value::Null | Value::Bool(_) | Value::Int(_) | Value::Double(_)) | None => "",
        };
        Some(idempotency::replay(change, text(1), text(2)))
    }

    /// Stores the result under the idempotency key.
    pub(super) fn remember(&mut self, change: &RowWrite, outcome: &Result<RowDone, Error>) {
        if let Some(record) = idempotency::record(change, outcome) {
            let now = std::mem::replace(&mut self.now, recorded_at());
            // The row of the record belongs to the batch and does not exist yet, so this creates
            // it.
            let _ = self.apply(&record);
            self.now = now;
        }
    }

    /// Replaces the result that is stored under the idempotency key.
    pub(super) fn remember_again(&mut self, change: &RowWrite, answer: &RowDone) {
        let Some(record) = idempotency::record(change, &Ok(answer.clone())) else { return };
        let at = self.rows.find(&record.table, (record.slot, &record.key), &record.id);
        let Some(kept) = at.and_then(|at| self.rows.row_mut(at).after.as_mut()) else { return };
        for (column, value) in record.set {
            kept[column - record.table.answered().start] = value;
        }
    }
}
