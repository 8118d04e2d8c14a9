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

/// Beginnings of the messages about a connection that is lost or closing. A lost connection of this
/// router has an error kind of its own.
const LOST: [&str; 9] = [
    "terminating connection",
    "the database system is",
    // Messages of Citus about a worker that does not answer, or was lost during its commit.
    "connection to the remote node",
    "could not establish any connections to the node",
    "failure on connection marked as essential",
    "could not commit transaction",
    // Messages of libpq, which Citus passes on.
    "server closed the connection unexpectedly",
    "SSL connection has been closed unexpectedly",
    "no connection to the server",
];

/// Beginnings of messages about the server itself or about a cancelled statement, which no trigger
/// raises.
const OF_SERVER: [&str; 8] = [
    "permission denied",
    "could not ",
    "invalid page",
    "out of memory",
    "out of shared memory",
    "cache lookup failed",
    "canceling statement",
    "database is not accepting commands",
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
    /// The values of a row are too long for an index, of this name if that is known.
    IndexEntryTooLong(Option<String>),
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
            DatabaseErrorKind::ForeignKeyViolation | DatabaseErrorKind::RestrictViolation => {
                Self::Constraint("foreign key")
            }
            DatabaseErrorKind::ExclusionViolation => Self::Constraint("exclusion"),
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
    /// in another language than English are [`DbErrorKind::Other`]. The message of a trigger may
    /// contain values of a row, so sentences of the server are compared from their beginning.
    fn of_message(message: &str) -> Self {
        let says = |sentences: &[&str]| sentences.iter().any(|sentence| message.contains(sentence));
        let begins = |sentences: &[&str]| sentences.iter().any(|start| message.starts_with(start));
        if says(&[STORED_OTHERWISE]) {
            let rest = message.split_once(STORED_OTHERWISE).map_or("", |(_, rest)| rest);
            Self::Discarded(rest.split_once(';').map(|(table, _)| table.to_owned()))
        } else if says(&REWRITTEN) || begins(&["new row violates row-level security policy"]) {
            Self::Discarded(None)
        } else if says(&["index row size", "index row requires"]) {
            Self::IndexEntryTooLong(index_in(message).map(ToOwned::to_owned))
        } else if says(&["row is too big"]) {
            Self::Constraint("size")
        } else if begins(&["cached plan must not change"]) {
            Self::Outdated
        } else if begins(&[
            "deadlock detected",
            "canceling the transaction since it was involved in a distributed deadlock",
            "could not serialize",
            "canceling statement due to lock timeout",
        ]) {
            Self::Conflict
        } else if begins(&["could not "]) && says(&["No space left", "disk full"]) {
            Self::Full
        } else if begins(&[
            "canceling statement due to statement timeout",
            "canceling statement due to conflict",
        ]) {
            Self::Late
        } else if begins(&LOST) {
            Self::Lost
        } else {
            Self::Other
        }
    }

    /// Returns true if single rows of a batch may have caused the error.
    pub(super) fn is_of_rows(&self) -> bool {
        self.is_of_rule() || matches!(self, Self::Other)
    }

    /// Returns true if a rule, a limit or a trigger of the database has refused a row.
    pub(super) fn is_of_rule(&self) -> bool {
        matches!(
            self,
            Self::Constraint(_)
                | Self::NotUnique(_)
                | Self::IndexEntryTooLong(_)
                | Self::Discarded(_)
        )
    }

    /// Converts the kind to the error that clients receive.
    pub(super) fn error(&self, shard: &str) -> Error {
        let shard = || shard.to_owned();
        match self {
            Self::Constraint(rule) => Error::Constraint { rule },
            Self::NotUnique(index) => Error::NotUnique { index: index.clone() },
            Self::IndexEntryTooLong(index) => Error::IndexEntryTooLong { index: index.clone() },
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

/// Returns the name with which the index in a message of the server was declared; `None` if the
/// message names no index that Tessera has created.
fn index_in(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once(" for index \"")?;
    let (name, _) = rest.split_once('"')?;
    TableIndex::name_in(name)
}

/// Returns true if an error of kind [`DbErrorKind::Other`] may be an exception that a trigger or a
/// rule has raised.
pub(super) fn may_be_raised(error: &DieselError) -> bool {
    let DieselError::DatabaseError(_, information) = error else { return false };
    !OF_SERVER.iter().any(|start| information.message().starts_with(start))
}

/// Creates the error of a database whose contents are invalid.
pub(super) fn unreadable(cause: &dyn std::fmt::Display) -> DieselError {
    DieselError::DeserializationError(cause.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: DatabaseErrorKind, message: &str) -> DbErrorKind {
        DbErrorKind::of(&DieselError::DatabaseError(kind, Box::new(message.to_owned())))
    }

    #[test]
    fn a_server_message_within_the_message_of_a_trigger_does_not_determine_the_kind() {
        for name in [
            "connection",
            "terminating connection",
            "the database system is",
            "could not commit transaction",
            "deadlock detected",
            "canceling statement due to lock timeout",
            "canceling statement due to statement timeout",
            "cached plan must not change",
            "disk full",
            "No space left on device",
        ] {
            let raised = format!("invalid name {name}");
            assert_eq!(of(DatabaseErrorKind::Unknown, &raised), DbErrorKind::Other, "{raised}");
        }
    }

    #[test]
    fn server_messages_about_lost_connections_conflicts_and_disk_space_are_recognised() {
        let lost = [
            "terminating connection due to administrator command",
            "the database system is shutting down",
            "connection to the remote node app@w1:5432 failed with the following error: gone",
            "could not commit transaction on w1:5432",
            "server closed the connection unexpectedly",
        ];
        for message in lost {
            assert_eq!(of(DatabaseErrorKind::Unknown, message), DbErrorKind::Lost, "{message}");
        }
        assert_eq!(of(DatabaseErrorKind::UnableToSendCommand, "x"), DbErrorKind::Lost);
        let conflicts = [
            "deadlock detected",
            "canceling the transaction since it was involved in a distributed deadlock",
            "canceling statement due to lock timeout",
        ];
        for message in conflicts {
            assert_eq!(of(DatabaseErrorKind::Unknown, message), DbErrorKind::Conflict, "{message}");
        }
        let late = "canceling statement due to statement timeout";
        assert_eq!(of(DatabaseErrorKind::Unknown, late), DbErrorKind::Late);
        let full = "could not extend file \"base/1/2\": No space left on device";
        assert_eq!(of(DatabaseErrorKind::Unknown, full), DbErrorKind::Full);
    }

    #[test]
    fn cancellations_and_refusals_by_the_server_are_not_exceptions_of_a_trigger() {
        let is_raised = |message: &str| {
            let information = Box::new(message.to_owned());
            may_be_raised(&DieselError::DatabaseError(DatabaseErrorKind::Unknown, information))
        };
        for message in [
            "canceling statement due to user request",
            "database is not accepting commands that assign new transaction IDs to avoid \
             wraparound data loss in database \"app\"",
        ] {
            assert_eq!(of(DatabaseErrorKind::Unknown, message), DbErrorKind::Other, "{message}");
            assert!(!is_raised(message), "{message}");
        }
        assert!(is_raised("invalid name x"));
    }

    #[test]
    fn a_text_that_is_too_long_for_an_index_is_reported_with_the_declared_name_of_the_index() {
        let kind = |message: &str| of(DatabaseErrorKind::Unknown, message);
        let size = "index row size 6024 exceeds btree version 4 maximum 2704 for index";
        let named = Some("one_note".to_owned());
        let own = kind(&format!("{size} \"tessera_ix_one_note_0123456789\""));
        assert_eq!(own, DbErrorKind::IndexEntryTooLong(named));
        let other = kind(&format!("{size} \"orders_pkey\""));
        assert_eq!(other, DbErrorKind::IndexEntryTooLong(None));
        let longer = kind("index row requires 10016 bytes, maximum size is 8191");
        assert_eq!(longer, DbErrorKind::IndexEntryTooLong(None));
    }

    #[test]
    fn an_exclusion_constraint_of_any_name_is_reported_as_a_violated_constraint() {
        let message = "conflicting key value violates exclusion constraint \"one_connection\"";
        let kind = of(DatabaseErrorKind::ExclusionViolation, message);
        assert_eq!(kind, DbErrorKind::Constraint("exclusion"));
    }
}
