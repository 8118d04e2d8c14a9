//! Idempotency: recognizes a write that a client repeats with the same idempotency key, and returns
//! the response to the first attempt.
//!
//! The response is stored in the same transaction as the write, in the slot of the written row, for
//! at least 24 hours. So it is stored if and only if the write is stored. Rejections that depend on
//! stored rows (the row exists already, there is no such row, …) are stored as well: a request that
//! was answered with `rejected` must not succeed when a proxy repeats it. If the rejection makes
//! the database roll back the transaction, a second transaction stores the rejection before it is
//! reported. The scheme follows the IETF draft "The Idempotency-Key HTTP Header Field".
//!
//! **Invariant:** the fingerprint of a write, by which another request under the same key is
//! detected, depends on the meaning of the request, not on its JSON formatting.
//! **Not here:** looking up and storing records (`batch/idempotency` of `postgres` and of
//! `sqlite`).

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::row_change::{Change, Operation, RowDone, RowError, RowWrite};
use crate::sabotage::{Mutation, is_on};
use crate::table::{Column, Table};
use crate::value::{ColumnType, Value, push_json};

/// Minimum time for which a response is stored.
pub const KEPT: chrono::TimeDelta = chrono::TimeDelta::hours(24);

/// Table of the stored responses. It is sharded, replicated and moved like any other table, but
/// hidden from clients.
pub static TABLE: LazyLock<Arc<Table>> = LazyLock::new(|| {
    let text = |name: &str| Column {
        name: name.to_owned(),
        kind: ColumnType::Text,
        nullable: false,
        default: None,
    };
    let answer = Column {
        name: "answer".to_owned(),
        kind: ColumnType::Json,
        nullable: false,
        default: None,
    };
    let columns = vec![text("idempotency_key"), text("fingerprint"), answer];
    let table = Table::new("tessera_idempotency", columns, &["idempotency_key".to_owned()], None);
    Arc::new(table.expect("the declaration above is sound"))
});

/// Response to a write in the form in which it is stored.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "result", rename_all = "snake_case")]
enum Answer<'a> {
    Made {
        version: i64,
        #[serde(borrow)]
        row: Cow<'a, str>,
    },
    Changed {
        version: i64,
        #[serde(borrow)]
        row: Cow<'a, str>,
    },
    Removed {
        version: i64,
        #[serde(borrow)]
        row: Cow<'a, str>,
    },
    Exists,
    NoSuchRow,
    VersionDiffers,
    Constraint {
        rule: String,
    },
    NotUnique {
        index: String,
    },
    IndexEntryTooLong {
        index: Option<String>,
    },
    MissingColumn {
        column: String,
    },
    RowTooLarge,
    /// The row was rolled back because another row of the same transaction was refused.
    Undone {
        row: usize,
        #[serde(borrow)]
        cause: Box<Answer<'a>>,
    },
}

/// Returns the idempotency key of a write, if it has one.
pub fn key(change: &RowWrite) -> Option<&str> {
    change.idempotency_key.as_deref().filter(|_| !is_on(Mutation::NoIdempotency))
}

/// Returns the row that stores the outcome of a write; `None` if this outcome is not stored.
pub fn record(change: &RowWrite, outcome: &Result<RowDone, Error>) -> Option<RowWrite> {
    let key = key(change)?;
    let answer = serde_json::to_string(&answer(outcome)?).ok()?;
    let table = &*TABLE;
    let column = |name| table.find(name).expect("declared above");
    Some(RowWrite {
        table: Arc::clone(table),
        operation: Operation::Insert,
        slot: change.slot,
        key: change.key.clone(),
        id: vec![Value::Text(key.to_owned())],
        set: vec![
            (column("fingerprint"), Value::Text(fingerprint(change))),
            (column("answer"), Value::Text(answer)),
        ],
        precondition: None,
        idempotency_key: None,
        wants_row: false,
    })
}

fn answer(outcome: &Result<RowDone, Error>) -> Option<Answer<'_>> {
    let done = match outcome {
        Ok(done) => done,
        Err(error) => return rejection(error),
    };
    let (version, row) = (done.version, String::from_utf8_lossy(&done.json));
    Some(match done.change {
        Change::Created => Answer::Made { version, row },
        Change::Changed => Answer::Changed { version, row },
        Change::Removed => Answer::Removed { version, row },
    })
}

/// Returns a rejection in the form in which it is stored; `None` if it does not depend on stored
/// rows, but for example on the present state of the shard.
fn rejection(error: &Error) -> Option<Answer<'static>> {
    match error {
        Error::Exists => Some(Answer::Exists),
        Error::NoSuchRow => Some(Answer::NoSuchRow),
        Error::VersionDiffers => Some(Answer::VersionDiffers),
        Error::Constraint { rule } => Some(Answer::Constraint { rule: (*rule).to_owned() }),
        Error::NotUnique { index } => Some(Answer::NotUnique { index: index.clone() }),
        Error::IndexEntryTooLong { index } => {
            Some(Answer::IndexEntryTooLong { index: index.clone() })
        }
        Error::RowTooLarge => Some(Answer::RowTooLarge),
        Error::Row(RowError::MissingColumn { column, .. }) => {
            Some(Answer::MissingColumn { column: column.clone() })
        }
        Error::Undone { row, cause } => {
            Some(Answer::Undone { row: *row, cause: Box::new(rejection(cause)?) })
        }
        // The cause may be another row of the transaction whose write was itself a repetition: then
        // the rejection of its first attempt is stored.
        Error::Remembered(first) => rejection(first),
        Error::Row(_)
        | Error::NoSuchTable { .. }
        | Error::Forbidden { .. }
        | Error::KeyRequired { .. }
        | Error::Key(_)
        | Error::KeyReused
        | Error::TransactionTooLarge
        | Error::IndexPauseExceeded { .. }
        | Error::Discarded { .. }
        | Error::Unlogged { .. }
        | Error::DeadlinePassed
        | Error::WritesStalled { .. }
        | Error::QueueFull { .. }
        | Error::QueueShareExceeded { .. }
        | Error::PoolExhausted { .. }
        | Error::ScatterMemoryFull
        | Error::ShardUnavailable { .. }
        | Error::WrongRows { .. }
        | Error::FilesLost { .. }
        | Error::NoPrimary { .. }
        | Error::TooFewReplicas { .. }
        | Error::NotConfirmed { .. }
        | Error::SeenMayBeLost { .. }
        | Error::SlotRefused(_)
        | Error::StorageFull { .. }
        | Error::TableDiffers { .. }
        | Error::TooManyTables
        | Error::AnswerTooLarge
        | Error::Internal => None,
    }
}

/// Returns the response to the first attempt of a write. `of` is the stored fingerprint, and
/// `answer` the stored response.
///
/// # Errors
/// [`Error::KeyReused`] if another request was sent under the same idempotency key,
/// [`Error::Remembered`] if the first attempt was rejected, [`Error::Internal`] if the stored
/// response cannot be parsed.
pub fn replay(change: &RowWrite, of: &str, answer: &str) -> Result<RowDone, Error> {
    if of != fingerprint(change) {
        return Err(Error::KeyReused);
    }
    let made = |change, version, row: Cow<'_, str>| {
        let version = version + i64::from(is_on(Mutation::IdempotencyOtherAnswer));
        Ok(RowDone { change, version, json: row.into_owned().into_bytes(), replayed: true })
    };
    match serde_json::from_str(answer).map_err(|_| Error::Internal)? {
        Answer::Made { version, row } => made(Change::Created, version, row),
        Answer::Changed { version, row } => made(Change::Changed, version, row),
        Answer::Removed { version, row } => made(Change::Removed, version, row),
        rejected @ (Answer::Exists
        | Answer::NoSuchRow
        | Answer::VersionDiffers
        | Answer::Constraint { .. }
        | Answer::NotUnique { .. }
        | Answer::IndexEntryTooLong { .. }
        | Answer::MissingColumn { .. }
        | Answer::RowTooLarge
        | Answer::Undone { .. }) => {
            Err(Error::Remembered(Box::new(rejected_for(change, &rejected))))
        }
    }
}

/// Returns the reason why a write was rejected the first time.
fn rejected_for(change: &RowWrite, answer: &Answer<'_>) -> Error {
    match answer {
        Answer::Exists => Error::Exists,
        Answer::NoSuchRow => Error::NoSuchRow,
        Answer::VersionDiffers => Error::VersionDiffers,
        Answer::Constraint { rule } => Error::Constraint { rule: crate::error::rule(rule) },
        Answer::NotUnique { index } => Error::NotUnique { index: index.clone() },
        Answer::IndexEntryTooLong { index } => Error::IndexEntryTooLong { index: index.clone() },
        Answer::RowTooLarge => Error::RowTooLarge,
        Answer::MissingColumn { column } => {
            let (table, column) = (change.table.name().to_owned(), column.clone());
            Error::Row(RowError::MissingColumn { table, column })
        }
        Answer::Undone { row, cause } => {
            Error::Undone { row: *row, cause: Box::new(rejected_for(change, cause)) }
        }
        // The cause of a rollback is never stored as a success.
        Answer::Made { .. } | Answer::Changed { .. } | Answer::Removed { .. } => Error::Internal,
    }
}

/// Returns the fingerprint of a write as 32 hex digits (XXH3-128). The hash need not resist
/// attackers: a client that knows a shard key and an idempotency key may write to that shard key
/// anyway.
fn fingerprint(change: &RowWrite) -> String {
    let mut text = Vec::with_capacity(128);
    text.extend_from_slice(change.operation.name().as_bytes());
    text.push(b' ');
    text.extend_from_slice(change.table.name().as_bytes());
    for value in &change.id {
        text.push(b'=');
        push_json(&mut text, value);
    }
    for (column, value) in &change.set {
        text.push(b',');
        text.extend_from_slice(change.table.column(*column).name.as_bytes());
        text.push(b'=');
        push_json(&mut text, value);
    }
    if let Some(precondition) = &change.precondition {
        precondition.append_to_fingerprint(&mut text);
    }
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&text))
}

#[cfg(test)]
mod tests {
    use crate::keyspace::Slot;

    use super::*;

    #[test]
    fn a_refusal_that_depends_on_stored_rows_is_returned_again_from_its_record() {
        let change = RowWrite {
            table: Arc::clone(&TABLE),
            operation: Operation::Update,
            slot: Slot::new(1).expect("a slot"),
            key: "ada".to_owned(),
            id: vec![Value::Text("ada".to_owned())],
            set: Vec::new(),
            precondition: None,
            idempotency_key: Some("once".to_owned()),
            wants_row: true,
        };
        let (table, column) = (TABLE.name().to_owned(), "answer".to_owned());
        for error in [
            Error::Exists,
            Error::NoSuchRow,
            Error::VersionDiffers,
            Error::Constraint { rule: "check" },
            Error::NotUnique { index: "one_note".to_owned() },
            Error::IndexEntryTooLong { index: Some("one_note".to_owned()) },
            Error::RowTooLarge,
            Error::Row(RowError::MissingColumn { table, column }),
            Error::Undone { row: 3, cause: Box::new(Error::RowTooLarge) },
        ] {
            let record = record(&change, &Err(error.clone())).expect("it is stored");
            let [(_, Value::Text(fingerprint)), (_, Value::Text(answer))] = &record.set[..] else {
                panic!("{record:?}")
            };
            let again = replay(&change, fingerprint, answer);
            assert_eq!(again, Err(Error::Remembered(Box::new(error))));
        }
    }
}
