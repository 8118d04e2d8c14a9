//! Idempotency: the records that recognize a repeated change and return its first result.
//!
//! **Invariant:** a change and the record of its key are stored together or not at all; records are
//! removed only when they are too old to be needed.
//! **Not here:** the contents of a record (`model::idempotency`), the age at which a record may go
//! (`engine::forgetting`).

use std::sync::Arc;

use diesel::prelude::*;
use diesel::result::Error as DieselError;
use engine::forgetting::{Forgetting, recorded_at};
use model::error::Error;
use model::idempotency;
use model::keyspace::Slot;
use model::row_change::{Operation, RowDone, RowWrite};
use model::value::Value;

use super::Batch;
use crate::connection::{Bind, Statement, for_each_row};
use crate::sql;

/// Maximum number of records of idempotency keys that one batch removes.
const FORGOTTEN_MAX: usize = 256;

impl Batch<'_> {
    /// Returns the first result, if the change was stored before under its idempotency key.
    pub(super) fn replayed(
        &mut self,
        change: &RowWrite,
    ) -> QueryResult<Option<Result<RowDone, Error>>> {
        let Some(key) = idempotency::key(change) else { return Ok(None) };
        let found = self.remembered(change, key)?;
        Ok(found.map(|(fingerprint, answer)| idempotency::replay(change, &fingerprint, &answer)))
    }

    /// Stores the result under the idempotency key. Without its record the write must not be stored
    /// either.
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

    /// Returns the record of an idempotency key, if there is one.
    fn remembered(
        &mut self,
        change: &RowWrite,
        key: &str,
    ) -> QueryResult<Option<(String, String)>> {
        let slot = Bind::Int(i64::from(change.slot.number()));
        let binds = [slot, Bind::Text(&change.key), Bind::Text(key)];
        let statement = Statement { sql: sql::REMEMBERED, binds: &binds, cached: true };
        let mut found = None;
        for_each_row(self.connection, statement, |row| {
            let text = |column| row.text(column, str::to_owned).unwrap_or_default();
            found = Some((text(0), text(1)));
            Ok(())
        })?;
        Ok(found)
    }

    /// Removes records of idempotency keys that are too old, a few in each batch, oldest first.
    ///
    /// Returns true if none are left.
    pub(crate) fn forget_old(&mut self) -> QueryResult<bool> {
        let Forgetting { from, until, witness } = Forgetting::now();
        if let Some((from, until)) = witness {
            let binds = [Bind::Text(&from), Bind::Text(&until)];
            let statement = Statement { sql: sql::WITNESS, binds: &binds, cached: true };
            let mut is_sure = false;
            for_each_row(self.connection, statement, |_| {
                is_sure = true;
                Ok(())
            })?;
            if !is_sure {
                return Ok(true);
            }
        }
        let binds = [Bind::Text(&from), Bind::Text(&until), Bind::Int(FORGOTTEN_MAX as i64)];
        let statement = Statement { sql: sql::FORGOTTEN, binds: &binds, cached: true };
        let mut old = Vec::new();
        for_each_row(self.connection, statement, |row| {
            let slot = row.int(0).and_then(|slot| Slot::new(u16::try_from(slot).ok()?));
            let text = |column| row.text(column, str::to_owned).unwrap_or_default();
            old.extend(slot.map(|slot| (slot, text(1), text(2))));
            Ok(())
        })?;
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
