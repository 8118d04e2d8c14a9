//! Idempotency: the records that recognize a repeated change and return its first result.
//!
//! **Invariant:** a change and the record of its key are stored together or not at all; a record is
//! removed only after it has expired.
//! **Not here:** the contents of a record and the comparison with a repeated request
//! (`model::idempotency`), the age at which a record may be removed (`engine::idempotency_expiry`).

use std::sync::Arc;

use diesel::prelude::*;
use diesel::result::Error as DieselError;
use engine::idempotency_expiry::{IdempotencyExpiry, recorded_at};
use model::error::Error;
use model::idempotency;
use model::keyspace::Slot;
use model::row_change::{Operation, RowDone, RowWrite};
use model::value::Value;

use super::Batch;

/// Maximum number of expired idempotency records that one batch removes.
const FORGOTTEN_MAX: usize = 256;

impl Batch<'_> {
    /// Returns the result that is stored under the idempotency key of a change, if there is one.
    pub(super) fn replayed(
        &mut self,
        change: &RowWrite,
    ) -> QueryResult<Option<Result<RowDone, Error>>> {
        let Some(key) = idempotency::key(change) else { return Ok(None) };
        let found = self.rows.remembered(change, key)?;
        Ok(found.map(|(fingerprint, answer)| idempotency::replay(change, &fingerprint, &answer)))
    }

    /// Stores the result under the idempotency key, if the change has one. If the record cannot be
    /// stored, the whole batch fails, so that the write is not stored without its record.
    pub(super) fn remember(
        &mut self,
        change: &RowWrite,
        outcome: &Result<RowDone, Error>,
    ) -> QueryResult<()> {
        let Some(record) = idempotency::record(change, outcome) else { return Ok(()) };
        let now = std::mem::replace(&mut self.now, recorded_at());
        let kept = self.apply(&record);
        self.now = now;
        kept?.map(drop).map_err(|_| DieselError::RollbackTransaction)
    }

    /// Removes expired idempotency records, oldest first, up to [`FORGOTTEN_MAX`] of them.
    ///
    /// Returns true if no expired record is left.
    pub(crate) fn forget_old(&mut self) -> QueryResult<bool> {
        let old = self.rows.old_records(&IdempotencyExpiry::now(), &self.now, FORGOTTEN_MAX)?;
        old.iter().try_for_each(|(slot, shard_key, key)| self.forget(*slot, shard_key, key))?;
        Ok(old.len() < FORGOTTEN_MAX)
    }

    fn forget(&mut self, slot: Slot, shard_key: &str, key: &str) -> QueryResult<()> {
        let removal = RowWrite {
            table: Arc::clone(&idempotency::TABLE),
            operation: Operation::Delete,
            slot,
            key: shard_key.to_owned(),
            id: vec![Value::Text(key.to_owned())],
            set: Vec::new(),
            precondition: None,
            idempotency_key: None,
            wants_row: false,
        };
        self.apply(&removal).map(drop)
    }
}
