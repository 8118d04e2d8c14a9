//! Database error: the meaning of a node's error for a batch and for the clients that wait for it.
//!
//! **Invariant:** no client receives a message of a server.
//! **Not here:** deciding whether the transaction may have been committed nevertheless (`writer`).

use diesel::result::{DatabaseErrorKind, Error as DieselError};
use model::error::Error;
use model::table_index::TableIndex;

/// Text before the table's name in the error that a statement of `sql` raises if it has stored
/// other rows than it was sent.
pub(super) const STORED_OTHERWISE: &str = "tessera: not all rows were stored in ";

/// Messages of PostgreSQL about statements with a RETURNING clause on a table whose rule replaces
/// the statement (`DO INSTEAD`).
const REWRITTEN: [&str; 6] = [
    "cannot perform INSERT RETURNING on relation",
    "cannot perform UPDATE RETURNING on relation",
    "cannot perform DELETE RETURNING on relation",
    "ON CONFLICT clause cannot be used with table that has INSERT or UPDATE rules",
    "rules are not supported for data-modifying statements in WITH",
    "WITH cannot be used in a query that is rewritten by rules",
];

/// Error of a node that was read as a replica and accepts writes now.
#[derive(Debug, thiserror::Error)]
#[error("the replica that was read was promoted meanwhile")]
pub(super) struct Promoted;

/// Kind of an error of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DbErrorKind {
    /// A rule of the database forbids it.
    Constraint(&'static str),
    /// Another row has the same values in the unique index of this name.
    NotUnique(String),
    /// The database has stored other rows than it was sent: a trigger, a rule or a policy
    /// interfered, on this table if that is known.
    Discarded(Option<String>),
    /// The transaction conflicts with one of another router: a retry may succeed.
    Conflict,
    /// The node accepts no writes: it is a replica, or set to read-only.
    ReadOnly,
    /// No space left.
    Full,
    /// A timeout passed.
    Late,
    /// A prepared statement no longer fits its table.
    Outdated,
    /// The connection is lost or closing.
    Lost,
    /// The node was read as a replica and has been promoted: the read must use another node.
    Promoted,
    /// Anything else.
    Other,
}

impl DbErrorKind {
    /// Returns the kind of an error.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "diesel's enums may grow, and an unknown error is of kind `Other`"
    )]
    pub(super) fn of(error: &DieselError) -> Self {
        let (kind, information) = match error {
            DieselError::DatabaseError(kind, information) => (kind, information),
            DieselError::QueryBuilderError(cause) if cause.is::<Promoted>() => {
                return Self::Promoted;
            }
            _ => return Self::Other,
        };
        match kind {
            DatabaseErrorKind::UniqueViolation => {
                let index = information.constraint_name().and_then(TableIndex::name_in);
                index.map_or(Self::Constraint("unique"), |index| Self::NotUnique(index.to_owned()))
            }
            DatabaseErrorKind::ForeignKeyViolation => Self::Constraint("foreign key"),
            DatabaseErrorKind::CheckViolation => Self::Constraint("check"),
            DatabaseErrorKind::NotNullViolation => Self::Constraint("not null"),
            DatabaseErrorKind::SerializationFailure => Self::Conflict,
            DatabaseErrorKind::ReadOnlyTransaction => Self::ReadOnly,
            DatabaseErrorKind::UnableToSendCommand | DatabaseErrorKind::ClosedConnection => {
                Self::Lost
            }
            _ => Self::of_message(information.message()),
        }
    }

    /// Recognises an error by its message, because diesel does not pass on the SQLSTATE. Messages
    /// in another language than English are [`DbErrorKind::Other`].
    fn of_message(message: &str) -> Self {
        let says = |sentences: &[&str]| sentences.iter().any(|sentence| message.contains(sentence));
        if says(&[STORED_OTHERWISE]) {
            let rest = message.split_once(STORED_OTHERWISE).map_or("", |(_, rest)| rest);
            Self::Discarded(rest.split_once(';').map(|(table, _)| table.to_owned()))
        } else if says(&REWRITTEN) {
            Self::Discarded(None)
        } else if says(&["index row size", "index row requires", "row is too big"]) {
            Self::Constraint("size")
        } else if says(&["cached plan must not change"]) {
            Self::Outdated
        } else if says(&[
            "deadlock detected",
            "distributed deadlock",
            "could not serialize",
            "lock timeout",
        ]) {
            Self::Conflict
        } else if says(&["No space left", "disk full"]) {
            Self::Full
        } else if says(&["statement timeout", "canceling statement due to conflict"]) {
            Self::Late
        } else if says(&[
            "terminating connection",
            "the database system is",
            "connection",
            // Message of Citus about a worker that was lost during its commit.
            "could not commit transaction",
        ]) {
            Self::Lost
        } else {
            Self::Other
        }
    }

    /// Returns true if single rows of a batch may have caused the error.
    pub(super) fn is_of_rows(&self) -> bool {
        matches!(self, Self::Constraint(_) | Self::NotUnique(_) | Self::Discarded(_) | Self::Other)
    }

    /// Converts the kind to the error that clients receive.
    pub(super) fn error(&self, shard: &str) -> Error {
        let shard = || shard.to_owned();
        match self {
            Self::Constraint(rule) => Error::Constraint { rule },
            Self::NotUnique(index) => Error::NotUnique { index: index.clone() },
            Self::Discarded(Some(table)) => Error::Discarded { table: table.clone() },
            Self::Full => Error::StorageFull { shard: shard() },
            Self::Late => Error::DeadlinePassed,
            Self::Conflict | Self::ReadOnly | Self::Outdated | Self::Lost | Self::Promoted => {
                Error::ShardUnavailable { shard: shard() }
            }
            Self::Discarded(None) | Self::Other => Error::Internal,
        }
    }
}

/// Creates the error of a database whose contents are invalid.
pub(super) fn unreadable(cause: &dyn std::fmt::Display) -> DieselError {
    DieselError::DeserializationError(cause.to_string().into())
}
