//! Failure: reacts to a failed attempt of a replica to open its file or to apply log entries.
//!
//! **Invariant:** a file is rebuilt only if it is missing, damaged or foreign, or if the log no
//! longer continues from its position. Any other error may be temporary, so the attempt is repeated
//! with the same file.
//! **Not here:** the pauses between two attempts (`pauses`).

use std::path::Path;
use std::time::Instant;

use engine::replication::ReplicaState;

use super::pauses::pauses;
use super::{Next, ReplicaThread};
use crate::OpenError;
use crate::applier::ApplyError;

/// Error messages of SQLite (sqlite3ErrStr) that do not mean that a file is damaged. They appear
/// when the process has too many open files or lacks a permission, when another process has the
/// file open, or when there is too little memory or disk space.
const PASSING: [&str; 6] = [
    "unable to open database file",
    "locked",
    "locking protocol",
    "readonly database",
    "out of memory",
    "disk is full",
];

/// Failure of one attempt.
pub(super) enum ReplicaFailure {
    Attach(OpenError),
    Apply(ApplyError),
}

impl ReplicaFailure {
    /// Returns true if the only cause is a full disk, in which case frequent retries cost little.
    fn is_of_room(&self) -> bool {
        matches!(self, Self::Attach(OpenError::NoSpace { .. }) | Self::Apply(ApplyError::Full(_)))
    }
}

impl ReplicaThread {
    /// Logs a failure, and prepares the next attempt, which begins after a pause.
    pub(super) fn fail(&mut self, failure: &ReplicaFailure) -> Next {
        let node = &self.spec.node;
        match failure {
            ReplicaFailure::Apply(ApplyError::LogTrimmed) => {
                tracing::warn!(%node, "a replica is too far behind for the log and is rebuilt");
                self.detach();
            }
            ReplicaFailure::Apply(ApplyError::Primary(error)) => {
                tracing::error!(%node, %error, "the change log cannot be read");
                self.applier = None;
            }
            ReplicaFailure::Apply(ApplyError::Full(error)) => {
                tracing::error!(%node, %error, "the disk of a replica is full");
            }
            ReplicaFailure::Apply(ApplyError::Damaged(error)) => {
                tracing::error!(%node, %error, "a replica is damaged and is rebuilt");
                self.detach();
            }
            ReplicaFailure::Apply(ApplyError::Replica(error)) => {
                tracing::error!(%node, %error, "a replica could not be written");
                self.applier = None;
            }
            ReplicaFailure::Attach(error) => {
                let is_lost = is_lost(error, &self.spec.file);
                tracing::error!(%node, %error, is_lost, "a replica could not be opened");
                self.usable = self.usable && !is_lost;
            }
        }
        self.replication.replicas().set_state(self.spec.index, ReplicaState::Down);
        let (pause, next) = pauses(self.retry, failure.is_of_room());
        self.not_before = Instant::now() + pause;
        self.retry = next;
        Next::Work
    }
}

/// Returns true if an error shows that the file of a replica cannot be used again: it is missing,
/// damaged or foreign. An error of another file, such as the primary's, proves nothing about this
/// file.
pub(super) fn is_lost(error: &OpenError, file: &Path) -> bool {
    let is_of_file = |path: &str| path == file.display().to_string();
    match error {
        OpenError::Foreign { path, .. } => is_of_file(path),
        OpenError::Database { path, cause } => {
            let may_pass = PASSING.iter().any(|message| cause.contains(message));
            is_of_file(path) && (is_missing(file) || !may_pass)
        }
        OpenError::SqliteTooOld { .. }
        | OpenError::Locked { .. }
        | OpenError::Io { .. }
        | OpenError::NoSpace { .. }
        | OpenError::Node(_)
        | OpenError::Conflict(_) => false,
    }
}

/// Returns true if a file certainly does not exist or is empty.
fn is_missing(file: &Path) -> bool {
    match std::fs::metadata(file) {
        Ok(found) => found.len() == 0,
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::open;

    #[test]
    fn a_whole_file_that_cannot_be_opened_now_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("replica.db");
        std::fs::write(&file, "rows").expect("written");
        for cause in [
            "unable to open database file",
            "database is locked",
            "locking protocol",
            "attempt to write a readonly database",
            "database or disk is full",
        ] {
            assert!(!is_lost(&OpenError::file(&file, cause), &file), "{cause}");
        }
        assert!(!is_lost(&OpenError::io(&file, "Too many open files (os error 24)"), &file));
        let primary = folder.path().join("primary.db");
        let of_primary = OpenError::file(&primary, "database disk image is malformed");
        assert!(!is_lost(&of_primary, &file), "the error is about the primary");
    }

    #[test]
    fn a_missing_a_damaged_and_a_foreign_file_are_rebuilt() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("replica.db");
        let missing = open(&file, "").err().expect("there is no file");
        assert!(is_lost(&missing, &file), "{missing}");
        std::fs::write(&file, "").expect("written");
        assert!(is_lost(&OpenError::file(&file, "unable to open database file"), &file), "empty");
        std::fs::write(&file, [b'x'; 5_000]).expect("written");
        let damaged = open(&file, "").err().expect("no database");
        assert!(is_lost(&damaged, &file), "{damaged}");
        assert!(is_lost(&OpenError::foreign(&file, "the file belongs to another cluster"), &file));
    }
}
