//! Errors: all that can go wrong between a request and its shard, once.
//!
//! Variants carry data; sentences are made from it where an error is shown.
//!
//! **Invariant:** no variant that reaches a client holds SQL, a path, an address or a row's value.
//! **Not here:** HTTP statuses and codes (the router's one table).

use crate::consistency::Level;
use crate::keyspace::KeyError;
use crate::position::Position;
use crate::reason::Reason;
use crate::row_change::RowError;
use crate::shard_map::KeyLocation;
use crate::table::Registry;

/// Reason why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The registry has no such table.
    #[error("there is no table `{table}`")]
    NoSuchTable {
        /// The name given, cut to 80 characters.
        table: String,
        /// A table that may have been meant.
        suggestion: Option<String>,
    },
    /// The members given are no row of the table.
    #[error(transparent)]
    Row(#[from] RowError),
    /// The keyspace has no place for the shard key.
    #[error("shard key: {0}")]
    Key(#[from] KeyError),
    /// An insert met the row.
    #[error("the row exists already")]
    Exists,
    /// An update or a delete met no row.
    #[error("there is no such row")]
    NoSuchRow,
    /// `If-Match`, or `if_version` of a bulk write, does not hold.
    #[error("the row is not of the version that If-Match names")]
    VersionDiffers,
    /// The idempotency key came before with another request.
    #[error("the idempotency key was used for another request under this shard key")]
    KeyReused,
    /// The write came before under this idempotency key, and was rejected for this.
    #[error("{0}")]
    Remembered(Box<Error>),
    /// The write stood in one transaction with another row, which was refused.
    #[error("undone with row {row} of the same transaction: {cause}")]
    Undone {
        /// The place of that row in the request.
        row: usize,
        /// Reason why it was refused.
        cause: Box<Error>,
    },
    /// The rows of one transaction are more than one entry of the log carries.
    #[error("the rows of this transaction are together more than {} MiB", crate::row_change::IMAGES_BYTES_MAX >> 20)]
    TransactionTooLarge,
    /// A rule of the database (unique, foreign key, check) forbids it.
    #[error("the row breaks a {rule} constraint")]
    Constraint {
        /// Kind of the rule.
        rule: &'static str,
    },
    /// The database did something else than the statement said, and the transaction was rolled
    /// back.
    #[error(
        "the database did not store the row in `{table}`: a trigger, a rule or a row-security policy discarded it, \
         and the transaction was rolled back"
    )]
    Swallowed {
        /// The table.
        table: String,
    },
    /// The table is UNLOGGED: a crash of the server would empty it.
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
    /// The deadline of a write passed while the primary finished no write.
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
    /// No read connection became free in time.
    #[error("no connection to {shard} became free in time")]
    PoolExhausted {
        /// The shard.
        shard: String,
    },
    /// The shard cannot be used.
    #[error("{shard} does not answer")]
    ShardUnavailable {
        /// The shard.
        shard: String,
    },
    /// Rows of the shard's primary are known to be wrong.
    #[error(
        "rows of {shard}'s primary are wrong: until it is restored (GET /api/health tells how), read at x-consistency one, \
         and write rows whole"
    )]
    WrongRows {
        /// The shard.
        shard: String,
    },
    /// The shard's files must not be written any more.
    #[error("{shard} takes no writes: {}", loss.sentence())]
    FilesLost {
        /// The shard.
        shard: String,
        /// Reason for the loss.
        loss: Reason,
    },
    /// None of the shard's nodes takes writes, and none did before the deadline.
    #[error("{shard} has no primary now, and had none before the deadline")]
    NoPrimary {
        /// The shard.
        shard: String,
    },
    /// Fewer replicas take part than the level asks for; nothing was written.
    #[error(
        "{level} needs {needed} replicas of {shard} beside its primary, and {found} can take part now",
        level = level.name()
    )]
    TooFewReplicas {
        /// The shard.
        shard: String,
        /// The level.
        level: Level,
        /// Replicas that it needs.
        needed: usize,
        /// Replicas that take part.
        found: usize,
    },
    /// The write is on the primary, but replicas did not confirm it before the deadline.
    #[error(
        "{shard} has stored it, but not on as many nodes as {level} asks for before the deadline",
        level = requested.name()
    )]
    NotConfirmed {
        /// The shard.
        shard: String,
        /// The level asked for.
        requested: Level,
        /// The level that it has reached.
        achieved: Level,
    },
    /// The position that the session has seen is not part of the shard's history.
    #[error(
        "what this session has seen of {shard} may have been lost: its data was put back from an older copy"
    )]
    SeenMayBeLost {
        /// The shard.
        shard: String,
    },
    /// The slot is not owned where the map said.
    #[error("the slot of this key is moving")]
    SlotNotOwned,
    /// The shard's storage takes no more.
    #[error("the storage of {shard} is full")]
    StorageFull {
        /// The shard.
        shard: String,
    },
    /// A table of this name is there, and is not the one that was asked for.
    #[error("the table `{table}` exists with another shape: {difference}")]
    TableDiffers {
        /// The table.
        table: String,
        /// The difference, as a fact about the existing table.
        difference: String,
    },
    /// A cluster keeps only so many tables.
    #[error("there are {} tables already, and there can be no more", Registry::TABLES_MAX)]
    TooManyTables,
    /// The rows asked for are more than one answer carries.
    #[error("the rows are more than {} MiB", crate::result_rows::Rows::BYTES_MAX >> 20)]
    AnswerTooLarge,
    /// A defect of ours; details are in the log.
    #[error("an internal error")]
    Internal,
}

impl Error {
    /// True if one shard cannot answer a read, while others may.
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

/// The kinds of rules that a database keeps.
const RULES: [&str; 5] = ["unique", "foreign key", "check", "not null", "size"];

/// The rule of this name, as [`Error::Constraint`] holds it.
pub(crate) fn rule(name: &str) -> &'static str {
    RULES.into_iter().find(|rule| *rule == name).unwrap_or("database")
}

/// Outcome of a write that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was stored, and nothing will be.
    Rejected,
    /// The write is durable on the primary; a later step failed.
    Committed,
    /// The write may have been stored.
    Unknown,
}

impl Outcome {
    /// Name in the body's `outcome`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Committed => "committed",
            Self::Unknown => "unknown",
        }
    }
}

/// A failed request: the reason, the place and the outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Failure {
    /// Reason of the failure.
    pub error: Error,
    /// Place of the key; `None` if the request failed before routing, or had several shards.
    pub place: Option<KeyLocation>,
    /// Outcome, if it was a write.
    pub outcome: Outcome,
    /// Position that the client has learnt all the same: the refusal of a write by a constraint
    /// depends on stored rows.
    pub seen: Option<Position>,
}

impl Failure {
    /// A failure that left nothing behind.
    pub fn rejected(error: Error, place: Option<KeyLocation>) -> Self {
        Self { error, place, outcome: Outcome::Rejected, seen: None }
    }
}

impl From<RowError> for Failure {
    fn from(error: RowError) -> Self {
        Self::rejected(Error::Row(error), None)
    }
}
