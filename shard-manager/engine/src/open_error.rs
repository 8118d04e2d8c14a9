//! Open error: the reason why a cluster cannot be opened, for the operator.
//!
//! **Invariant:** every variant is a sentence that names the file or node concerned.
//! **Not here:** errors after the start (`error`).

use std::path::Path;

/// Reason why a cluster, or one of its files or nodes, cannot be used. Operators see it at start;
/// clients never see it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The linked SQLite has a known defect.
    #[error(
        "SQLite {found} is too old: 3.51.3 or later is needed (it fixes a corruption of the WAL)"
    )]
    SqliteTooOld {
        /// The version found.
        found: String,
    },
    /// Another process uses the directory.
    #[error("{dir} is in use by another router or command (process {pid}); stop it first")]
    Locked {
        /// The data directory.
        dir: String,
        /// Id of the process in the lock file.
        pid: String,
    },
    /// The file system reported an error.
    #[error("{path}: {cause}")]
    Io {
        /// File or folder.
        path: String,
        /// Error of the system.
        cause: String,
    },
    /// The disk is full.
    #[error("{dir}: there is no space left on its disk; make room and start again ({cause})")]
    NoSpace {
        /// The folder.
        dir: String,
        /// The failed action and the cause.
        cause: String,
    },
    /// The database reported an error.
    #[error("{path}: {cause}")]
    Database {
        /// The file.
        path: String,
        /// Error of SQLite.
        cause: String,
    },
    /// The file does not belong to the cluster of the catalog.
    #[error("{path}: {cause}")]
    Foreign {
        /// The file.
        path: String,
        /// The difference.
        cause: String,
    },
    /// A node cannot be reached or is unsuitable.
    #[error("{0}")]
    Node(String),
    /// The cluster in the directory differs from the requested one.
    #[error("{0}")]
    Conflict(String),
}

impl OpenError {
    /// Creates the error of a file whose database cannot be read or written.
    pub fn file(path: &Path, cause: impl std::fmt::Display) -> Self {
        Self::Database { path: path.display().to_string(), cause: cause.to_string() }
    }

    /// Converts an error caused by a full disk into [`OpenError::NoSpace`]. `has_no_room` checks
    /// the disk.
    pub fn or_no_space(self, dir: &Path, has_no_room: impl FnOnce() -> bool) -> Self {
        /// Messages of the system and of SQLite for a full disk.
        const FULL: [&str; 2] = ["No space left on device", "database or disk is full"];
        /// Messages of SQLite that may mean a full disk, or another error.
        const VAGUE: [&str; 2] = ["disk I/O error", "unable to open database file"];
        let (Self::Io { cause, .. } | Self::Database { cause, .. }) = &self else { return self };
        let says = |sentences: &[&str]| sentences.iter().any(|sentence| cause.contains(sentence));
        if says(&FULL) || (says(&VAGUE) && has_no_room()) {
            Self::NoSpace { dir: dir.display().to_string(), cause: self.to_string() }
        } else {
            self
        }
    }

    /// Creates the error of a file that the system cannot read or write.
    pub fn io(path: &Path, cause: impl std::fmt::Display) -> Self {
        Self::Io { path: path.display().to_string(), cause: cause.to_string() }
    }

    /// Creates the error of a file that does not belong to the cluster.
    pub fn foreign(path: &Path, cause: impl Into<String>) -> Self {
        Self::Foreign { path: path.display().to_string(), cause: cause.into() }
    }

    /// Creates the error of a node. `name` is the name that the operator knows.
    pub fn node(name: &str, cause: impl std::fmt::Display) -> Self {
        Self::Node(format!("{name}: {cause}"))
    }
}
