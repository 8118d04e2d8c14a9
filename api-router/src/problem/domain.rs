//! Domain: maps each error of the shard manager to its problem.
//!
//! **Invariant:** the mapping is exhaustive; no SQL, path, address or secret is in a detail.
//! **Not here:** the codes, and the form of a problem (`problem`).

use actix_web::http::header::RETRY_AFTER;
use shard_manager::error::{Error, Failure};
use shard_manager::keyspace::KeyError;
use shard_manager::keyspace::partition_column::PartitionError;
use shard_manager::row_change::RowError;
use shard_manager::value::TypeMismatch;

use super::{Code, Problem};

const EXISTS: &str = "use op upsert or update to change it";
const NO_SUCH_ROW: &str = "check the id and the shard key; op upsert or insert makes a row";
const VERSION_DIFFERS: &str =
    "read the row again, and send its version: the ETag in If-Match, or version in if_version";
const NOT_UNIQUE: &str = "send other values, or first change the row that has these";
const SHORTER_VALUES: &str = "shorten the values of the indexed columns, or the id of the row";
/// Hint for an index whose creation would make writes wait too long, or has done so.
pub(super) const LONGER_PAUSE: &str =
    "send a higher pause_max_ms when few clients write, or move slots to more shards first";
const FEWER_ROWS: &str = "send fewer rows in one request, or without tx=per-shard";
/// Hint for a read whose rows or response do not fit into the memory for them.
pub(crate) const LESS_AT_ONCE: &str =
    "send again after Retry-After, or ask for fewer rows or columns: limit, select";
const SMALLER_ROW: &str =
    "shorten other columns of the row first, or store the value in a row of its own";
const KEY_REUSED: &str = "a new request needs a new Idempotency-Key";
/// Hint for a discarded row: only the database knows the reason.
const ASK_OPERATOR: &str =
    "ask the operator of the database: the table's triggers, rules and policies say why";

/// Returns the problem of a caller whose writes take more than half of a shard's write queue. A few
/// batches empty the queue, so that a retry after one second is not too early.
fn share_exceeded(detail: String) -> Problem {
    let problem = Problem::new(Code::TSR429, detail).hint("send again after Retry-After");
    problem.header(RETRY_AFTER, "1".to_owned())
}

fn set_logged(table: &str) -> String {
    format!("ask the operator of the database for ALTER TABLE {table} SET LOGGED")
}

/// Returns the hint for a wrong name: the most similar name, or the route that lists all names.
fn did_you_mean(suggestion: Option<&str>, list: &str) -> String {
    suggestion.map_or_else(|| list.to_owned(), |name| format!("did you mean `{name}`?"))
}

impl From<&RowError> for Problem {
    fn from(error: &RowError) -> Self {
        let detail = error.to_string();
        match error {
            RowError::NoSuchColumn { table, suggestion, .. } => {
                let list = format!("/api/tables/{table} lists the columns");
                Self::new(Code::TSR311, detail).hint(did_you_mean(suggestion.as_deref(), &list))
            }
            RowError::SystemColumn { .. } => Self::new(Code::TSR102, detail)
                .hint("leave it out: the server sets it. A condition on it belongs into If-Match, not into the row"),
            RowError::Twice { .. } | RowError::NotInDelete { .. } | RowError::MissingId { .. } => {
                Self::new(Code::TSR101, detail)
            }
            RowError::TypeMismatch { mismatch, .. } => {
                let problem = Self::new(Code::TSR312, detail);
                match mismatch {
                    TypeMismatch::Null => {
                        problem.hint("give a value, or leave the column out of an update")
                    }
                    TypeMismatch::NulCharacter => problem.hint("remove the character \\u0000"),
                    TypeMismatch::Type { .. }
                    | TypeMismatch::NotBigint
                    | TypeMismatch::NotDouble
                    | TypeMismatch::NotTimestamp
                    | TypeMismatch::NotUuid
                    | TypeMismatch::LoneSurrogate
                    | TypeMismatch::NotJson => problem,
                }
            }
            RowError::KeyContradicted { column, stored } => Self::new(Code::TSR103, detail)
                .hint(crate::request_hints::contradiction(column, stored.as_deref())),
            RowError::MissingColumn { .. } => {
                Self::new(Code::TSR101, detail).hint("a row that exists may be changed without it")
            }
        }
    }
}

/// Returns the problem of a shard key without a slot, or of a row without a partition.
fn of_key(error: &KeyError, detail: String) -> Problem {
    if let KeyError::Partition(error) = error {
        return Problem::from(&**error);
    }
    let is_new = matches!(error, KeyError::UnknownGroup);
    Problem::new(if is_new { Code::TSR203 } else { Code::TSR113 }, detail)
}

impl From<&PartitionError> for Problem {
    fn from(error: &PartitionError) -> Self {
        let detail = error.to_string();
        match error {
            PartitionError::Missing { column, .. } => {
                Self::new(Code::TSR355, detail).hint(format!(
                    "give {column} in data, for updates and deletes as well; for these two, POST /api/write also accepts the \
                     parameter {column}=eq.value"
                ))
            }
            PartitionError::KeyAlone { column } => Self::new(Code::TSR355, detail)
                .hint(format!("name the partition as well, as {column}=…, or name a table without {column}")),
            PartitionError::Unknown { .. } | PartitionError::NotAnInteger { .. } => {
                Self::new(Code::TSR356, detail)
            }
            PartitionError::Changed { .. } => Self::new(Code::TSR357, detail)
                .hint("write the row to the new partition, and delete it from the old one"),
            PartitionError::Hidden => Self::new(Code::TSR403, detail),
        }
    }
}

/// Returns the problem of a request that was refused before under the same `Idempotency-Key`.
fn replayed(mut problem: Problem) -> Problem {
    problem.rare().replayed = true;
    problem
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        match error {
            Error::NoSuchTable { suggestion, .. } => Self::new(Code::TSR310, detail)
                .hint(did_you_mean(suggestion.as_deref(), "/api/tables lists the tables")),
            Error::Forbidden { .. } => Self::new(Code::TSR403, detail),
            Error::KeyRequired { .. } => Self::new(Code::TSR104, detail)
                .hint("send x-shard-key, or filter by the shard keys to read"),
            Error::Row(error) => Self::from(&error),
            Error::Key(error) => of_key(&error, detail),
            Error::Exists => Self::new(Code::TSR301, detail).hint(EXISTS),
            Error::NoSuchRow => Self::new(Code::TSR302, detail).hint(NO_SUCH_ROW),
            Error::VersionDiffers => Self::new(Code::TSR303, detail).hint(VERSION_DIFFERS),
            Error::KeyReused => Self::new(Code::TSR109, detail).hint(KEY_REUSED),
            Error::Remembered(first) => replayed((*first).into()),
            Error::Undone { row, cause } => Self::from(*cause).undone_with_row(row),
            Error::TransactionTooLarge => Self::new(Code::TSR108, detail).hint(FEWER_ROWS),
            Error::RowTooLarge => Self::new(Code::TSR108, detail).hint(SMALLER_ROW),
            Error::Constraint { .. } => Self::new(Code::TSR304, detail),
            Error::NotUnique { .. } => Self::new(Code::TSR304, detail).hint(NOT_UNIQUE),
            Error::IndexEntryTooLong { .. } => Self::new(Code::TSR304, detail).hint(SHORTER_VALUES),
            Error::IndexPauseExceeded { .. } => Self::new(Code::TSR346, detail).hint(LONGER_PAUSE),
            Error::Discarded { .. } => Self::new(Code::TSR306, detail).hint(ASK_OPERATOR),
            Error::Unlogged { table } => Self::new(Code::TSR306, detail).hint(set_logged(&table)),
            Error::DeadlinePassed => {
                Self::new(Code::TSR004, detail).hint("raise x-deadline-ms, or send less at once")
            }
            Error::WritesStalled { shard } => Self::new(Code::TSR004, detail).shard(shard).hint(
                "send again once GET /api/health reports that the primary takes writes; if outcome is unknown, read first",
            ),
            Error::QueueFull { shard } => {
                Self::new(Code::TSR005, detail).shard(shard).hint("send again after Retry-After")
            }
            Error::ScatterMemoryFull => Self::new(Code::TSR005, detail).hint(LESS_AT_ONCE),
            Error::QueueShareExceeded { shard } => share_exceeded(detail).shard(shard),
            Error::PoolExhausted { shard } => Self::new(Code::TSR003, detail).shard(shard),
            Error::ShardUnavailable { shard }
            | Error::WrongRows { shard }
            | Error::FilesLost { shard, .. } => {
                Self::new(Code::TSR201, detail).shard(shard)
            }
            Error::NoPrimary { shard } => Self::new(Code::TSR202, detail)
                .shard(shard)
                .hint("send again after Retry-After: once a replica is promoted, writes go on by themselves"),
            Error::TooFewReplicas { shard, .. } => Self::new(Code::TSR201, detail)
                .shard(shard)
                .hint("send again after Retry-After, or lower the level: x-consistency: one"),
            Error::NotConfirmed { shard, requested, achieved, .. } => {
                let mut problem = Self::new(Code::TSR205, detail).shard(shard).hint(
                    "the row is there; the same request with the same Idempotency-Key waits again",
                );
                problem.rare().levels = Some((requested, achieved));
                problem
            }
            Error::SeenMayBeLost { shard } => Self::new(Code::TSR305, detail)
                .shard(shard)
                .hint("begin a new session without x-session-token, and look at what is there"),
            Error::SlotRefused(_) => Self::new(Code::TSR203, detail).hint("send again shortly"),
            Error::StorageFull { shard } => {
                Self::new(Code::TSR204, detail).shard(shard).hint("make room; reads go on")
            }
            Error::TableDiffers { .. } => Self::new(Code::TSR301, detail)
                .hint("use the table as it is (/api/tables shows it), or take another name"),
            Error::TooManyTables => Self::new(Code::TSR108, detail)
                .hint("keep more kinds of rows in one table: its shard keys keep them apart"),
            Error::AnswerTooLarge => {
                Self::new(Code::TSR108, detail).hint("request fewer rows or fewer columns")
            }
            Error::Internal => Self::new(Code::TSR500, detail),
        }
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Self::from(failure.error).outcome(failure.outcome.name())
    }
}
