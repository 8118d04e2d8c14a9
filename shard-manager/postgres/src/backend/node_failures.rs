//! Node failures: the meaning of errors of a coordinator for requests about the nodes of Citus.
//!
//! **Invariant:** a request that may have been carried out is never called rejected; no client
//! receives a message of Citus.
//! **Not here:** the requests (`nodes`).

use diesel::result::Error as DieselError;
use engine::node_distributor::DistributorError;
use model::error::{Error, Outcome};

use crate::db_error::DbErrorKind;

/// Returns the failure for a state that the code rules out.
pub(super) fn internal() -> DistributorError {
    DistributorError::Failed { error: Error::Internal, outcome: Outcome::Unknown }
}

/// Returns the failure for an error of a commit: Citus may have carried the request out.
pub(super) fn unknown(error: DieselError) -> DistributorError {
    after_commit(failed(error))
}

/// Returns the failure for an error after a commit: the request was carried out, or may have been.
pub(super) fn after_commit(error: DistributorError) -> DistributorError {
    let error = if let DistributorError::Failed { error, .. } = error {
        error
    } else {
        Error::ShardUnavailable { shard: "the coordinator".to_owned() }
    };
    DistributorError::Failed { error, outcome: Outcome::Unknown }
}

/// Returns the meaning of an error of the coordinator before a commit. An open transaction ends
/// with its session.
pub(super) fn failed(error: DieselError) -> DistributorError {
    tracing::warn!(%error, "a statement about the nodes failed on the coordinator");
    let lacks_right =
        error.to_string().contains("permission denied") || error.to_string().contains("superuser");
    if lacks_right {
        let cause = "the user of this router lacks the right to it: Citus lets superusers change its \
                     nodes, and others drain and remove them with EXECUTE on \
                     citus_set_node_property and citus_remove_node";
        return DistributorError::Need(cause.to_owned());
    }
    match DbErrorKind::of(&error) {
        DbErrorKind::Late => {
            let error = Error::DeadlinePassed;
            DistributorError::Failed { error, outcome: Outcome::Rejected }
        }
        DbErrorKind::Lost | DbErrorKind::Promoted => {
            let error = Error::ShardUnavailable { shard: "the coordinator".to_owned() };
            DistributorError::Failed { error, outcome: Outcome::Unknown }
        }
        DbErrorKind::Constraint(_)
        | DbErrorKind::NotUnique(_)
        | DbErrorKind::IndexEntryTooLong(_)
        | DbErrorKind::Discarded(_)
        | DbErrorKind::Conflict
        | DbErrorKind::ReadOnly
        | DbErrorKind::Full
        | DbErrorKind::Outdated
        | DbErrorKind::Other => DistributorError::Need(
            "Citus refused the request, and nothing was changed: the log of this router has the message"
                .to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_failed_at_or_after_its_commit_is_never_called_rejected() {
        let rejected =
            DistributorError::Failed { error: Error::DeadlinePassed, outcome: Outcome::Rejected };
        let need = DistributorError::Need("nothing was changed".to_owned());
        for failure in [
            unknown(DieselError::NotFound),
            unknown(DieselError::BrokenTransactionManager),
            after_commit(rejected),
            after_commit(need),
        ] {
            let is_unknown =
                matches!(failure, DistributorError::Failed { outcome: Outcome::Unknown, .. });
            assert!(is_unknown, "{failure:?}");
        }
    }
}
