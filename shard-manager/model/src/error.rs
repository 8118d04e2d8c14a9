//! Errors: the reasons why a request to a shard fails.
//!
//! A variant contains data; its message is formatted from this data when the error is reported.
//!
//! **Invariant:** no variant that reaches a client contains SQL, a path, an address or a row's
//! value.
//! **Not here:** HTTP statuses and codes (the router's table).

use crate::consistency::Level;
use crate::keyspace::KeyError;
use crate::position::Position;
use crate::reason::Reason;
use crate::row_change::RowError;
use crate::shard_map::KeyLocation;
use crate::slot_refusal::SlotRefusal;
use crate::table::Registry;

/// Reason why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The registry has no such table.
    #[error("there is no table `{table}`")]
    NoSuchTable {
        /// Name in the request, truncated to 80 characters.
        table: String,
        /// A table that may have been meant.
        suggestion: Option<String>,
    },
    /// The rights of the client do not permit the request. The reason depends only on these rights,
    /// never on stored rows, so that it reveals nothing about them.
    #[error("this caller may not {operations} in `{table}`: {lack}")]
    Forbidden {
        /// Operations of the request.
        operations: String,
        /// The table.
        table: String,
        /// Missing right.
        lack: String,
    },
    /// The client may read only shard keys with a certain prefix, and the read names no shard key.
    /// Such keys cannot be enumerated, so the read cannot be limited to them.
    #[error("this caller may read `{table}` by shard key only")]
    KeyRequired {
        /// The table.
        table: String,
    },
    /// The members of the request are not a valid row of the table.
    #[error(transparent)]
    Row(#[from] RowError),
    /// The keyspace has no slot for the shard key.
    #[error("{}{}", subject(.0), .0)]
    Key(#[from] KeyError),
    /// The row to insert exists already.
    #[error("the row exists already")]
    Exists,
    /// The row to update or delete does not exist.
    #[error("there is no such row")]
    NoSuchRow,
    /// The version of the stored row does not match `If-Match`, or `if_version` of a bulk write.
    #[error("the row is not of the version that the request names")]
    VersionDiffers,
    /// The idempotency key was used before with another request.
    #[error("the idempotency key was used for another request under this shard key")]
    KeyReused,
    /// The write was sent before with this idempotency key, and was rejected for the reason that is
    /// repeated here.
    #[error("{0}")]
    Remembered(Box<Error>),
    /// The row was rolled back because another row of the same transaction was refused.
    #[error("undone with row {row} of the same transaction: {cause}")]
    Undone {
        /// Index of that row in the request.
        row: usize,
        /// Reason why it was refused.
        cause: Box<Error>,
    },
    /// The rows of one transaction are larger than one entry of the change log may be.
    #[error("the rows of this transaction are together more than {} MiB", crate::row_change::IMAGES_BYTES_MAX >> 20)]
    TransactionTooLarge,
    /// The columns that the change sets, together with those that are already stored, are too
    /// large.
    #[error("with this change the values of the row are together more than {} MiB", crate::row_change::ROW_BYTES_MAX >> 20)]
    RowTooLarge,
    /// A constraint of the database (unique, foreign key, check) forbids the change.
    #[error("the row breaks a {rule} constraint")]
    Constraint {
        /// Kind of the constraint.
        rule: &'static str,
    },
    /// Another row of the shard key has the same values in the columns of a unique index.
    #[error("another row of this shard key has the same values in the unique index `{index}`")]
    NotUnique {
        /// The index.
        index: String,
    },
    /// The values of the row in the columns of an index are longer than PostgreSQL indexes.
    #[error(
        "the values of the row for {} are longer than about 2 700 bytes, the most that PostgreSQL indexes",
        index_named(index.as_deref())
    )]
    IndexEntryTooLong {
        /// The index; `None` if it is unknown, or the client may not know it.
        index: Option<String>,
    },
    /// The build of an index was stopped, because it had made writes wait for the longest permitted
    /// time.
    #[error(
        "the build of the index was stopped, because it took longer than pause_max_ms = {pause_max_ms}"
    )]
    IndexPauseExceeded {
        /// Longest permitted wait in milliseconds.
        pause_max_ms: u64,
    },
    /// The database did not store the row as the statement requires, and the transaction was rolled
    /// back.
    #[error(
        "the database did not store the row in `{table}`: a trigger, a rule or a row-security policy discarded it, \
         and the transaction was rolled back"
    )]
    Discarded {
        /// The table.
        table: String,
    },
    /// The table is UNLOGGED: a crash of the server would empty it, so the write was refused.
    #[error(
        "`{table}` is UNLOGGED: a crash of its server would empty it, so nothing is written to it"
    )]
    Unlogged {
        /// The table.
        table: String,
    },
    /// The deadline passed.
    #[error("the deadline passed")]
    DeadlinePassed,
    /// The deadline of a write passed while the primary completed no write.
    #[error("the deadline passed: the primary of {shard} takes no writes now")]
    WritesStalled {
        /// The shard.
        shard: String,
    },
    /// The shard's queue of writes is full.
    #[error("too many writes wait for {shard}")]
    QueueFull {
        /// The shard.
        shard: String,
    },
    /// More than half of the writes in the shard's queue belong to the tenant of this client, and
    /// writes of other tenants wait too.
    #[error(
        "more than half of the writes that wait for {shard} are this caller's, and others wait too"
    )]
    QueueShareExceeded {
        /// The shard.
        shard: String,
    },
    /// All connections for reads of the node were in use, and none became free in time.
    #[error("no connection to {shard} became free in time")]
    PoolExhausted {
        /// The shard.
        shard: String,
    },
    /// The reads of several shards that run now have filled the memory that is reserved for their
    /// rows.
    #[error("the rows of reads of several shards that run now fill the {} MiB of memory for them", crate::result_rows::Rows::SCATTER_BYTES_MAX >> 20)]
    ScatterMemoryFull,
    /// The shard does not respond.
    #[error("{shard} does not answer")]
    ShardUnavailable {
        /// The shard.
        shard: String,
    },
    /// Rows of the shard's primary are known to be wrong.
    #[error(
        "rows of {shard}'s primary are wrong: until it is restored (GET /api/health explains how), read at x-consistency one, \
         and write rows whole"
    )]
    WrongRows {
        /// The shard.
        shard: String,
    },
    /// The shard's files must not be written to any more.
    #[error("{shard} takes no writes: {}", loss.sentence())]
    FilesLost {
        /// The shard.
        shard: String,
        /// Reason why the files must not be written to.
        loss: Reason,
    },
    /// No node of the shard accepted writes before the deadline.
    #[error("{shard} has no primary now, and had none before the deadline")]
    NoPrimary {
        /// The shard.
        shard: String,
    },
    /// Fewer replicas are available than the consistency level requires; nothing was written.
    #[error(
        "{level} needs {needed} replicas of {shard} beside its primary, and {found} can take part now",
        level = level.name()
    )]
    TooFewReplicas {
        /// The shard.
        shard: String,
        /// The level.
        level: Level,
        /// Number of replicas that the level requires.
        needed: usize,
        /// Number of replicas that are available.
        found: usize,
    },
    /// The write is stored on the primary, but too few replicas confirmed it before the deadline.
    #[error(
        "{shard} has stored it, but not on as many nodes as {level} asks for before the deadline",
        level = requested.name()
    )]
    NotConfirmed {
        /// The shard.
        shard: String,
        /// Consistency level that was requested.
        requested: Level,
        /// Consistency level that was reached.
        achieved: Level,
    },
    /// The position that the session has seen is not part of the shard's history.
    #[error(
        "the session has seen changes that {shard} no longer has: a failover lost them, or an older copy was restored"
    )]
    SeenMayBeLost {
        /// The shard.
        shard: String,
    },
    /// The shard does not accept the slot: writes to it are fenced, or the shard does not own it,
    /// although the shard map of the router names it as the owner.
    #[error("the slot of this key is fenced or moving")]
    SlotRefused(SlotRefusal),
    /// The shard's storage is full.
    #[error("the storage of {shard} is full")]
    StorageFull {
        /// The shard.
        shard: String,
    },
    /// A table of this name exists with a different declaration.
    #[error("the table `{table}` exists with another definition: {difference}")]
    TableDiffers {
        /// The table.
        table: String,
        /// The difference, as a fact about the existing table.
        difference: String,
    },
    /// The cluster already has the maximum number of tables.
    #[error("there are {} tables already, and there can be no more", Registry::TABLES_MAX)]
    TooManyTables,
    /// The requested rows are larger than one response may be.
    #[error("the rows are more than {} MiB", crate::result_rows::Rows::BYTES_MAX >> 20)]
    AnswerTooLarge,
    /// A defect of this program; the log has the details.
    #[error("an internal error")]
    Internal,
}

/// Returns the prefix of the message about a key. It is empty for a fault of a partition, whose
/// message already names the partition column.
fn subject(error: &KeyError) -> &'static str {
    if matches!(error, KeyError::Partition(_)) { "" } else { "shard key: " }
}

impl Error {
    /// Returns true if this error means that one shard cannot answer a read, while other shards may
    /// be able to.
    pub fn is_of_one_shard(&self) -> bool {
        matches!(
            self,
            Self::ShardUnavailable { .. }
                | Self::WrongRows { .. }
                | Self::NoPrimary { .. }
                | Self::PoolExhausted { .. }
                | Self::DeadlinePassed
        )
    }
}

/// Kinds of database constraints that an error can name.
const RULES: [&str; 6] = ["unique", "foreign key", "check", "not null", "exclusion", "size"];

/// Returns the kind of constraint with this name, as [`Error::Constraint`] contains it, or
/// `database` for an unknown kind.
pub(crate) fn rule(name: &str) -> &'static str {
    RULES.into_iter().find(|rule| *rule == name).unwrap_or("database")
}

/// Returns an index as the message of an error names it.
fn index_named(index: Option<&str>) -> String {
    index.map_or_else(|| "an index".to_owned(), |index| format!("the index `{index}`"))
}

/// Outcome of a write that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was stored, and this request will not store anything later.
    Rejected,
    /// The write is durable on the primary; a later step failed.
    Committed,
    /// The write may have been stored.
    Unknown,
}

impl Outcome {
    /// Returns the name that the member `outcome` of a response uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Committed => "committed",
            Self::Unknown => "unknown",
        }
    }
}

/// Failed request, with the reason, the slot and shard, and the outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Failure {
    /// Reason of the failure.
    pub error: Error,
    /// Slot and shard of the key; `None` if the request failed before it was routed, or concerned
    /// several shards.
    pub place: Option<KeyLocation>,
    /// Outcome, if the request was a write.
    pub outcome: Outcome,
    /// Position in the shard's history that the client has now seen despite the failure: if a
    /// constraint refuses a write, the refusal itself shows the state of stored rows.
    pub seen: Option<Position>,
}

impl Failure {
    /// Creates the failure of a request that stored nothing.
    pub fn rejected(error: Error, place: Option<KeyLocation>) -> Self {
        Self { error, place, outcome: Outcome::Rejected, seen: None }
    }
}

impl From<RowError> for Failure {
    fn from(error: RowError) -> Self {
        Self::rejected(Error::Row(error), None)
    }
}
