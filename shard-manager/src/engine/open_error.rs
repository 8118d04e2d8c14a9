//! Open error: why a cluster cannot be opened, told to the operator.
//!
//! **Invariant:** every variant is a sentence that names the file or node it is about.
//! **Not here:** what goes wrong later (`error`).

use std::path::Path;

/// Why a cluster, or one of its files or nodes, cannot be used. Shown to the operator at start, never to a client.
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
    /// Another process writes here.
    #[error("{dir} is in use by another router or command (process {pid}); stop it first")]
    Locked {
        /// The data directory.
        dir: String,
        /// The process that holds the lock, as its lock file says.
        pid: String,
    },
    /// The file system said no.
    #[error("{path}: {cause}")]
    Io {
        /// File or folder.
        path: String,
        /// What the system said.
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
    /// The database said no.
    #[error("{path}: {cause}")]
    Database {
        /// The file.
        path: String,
        /// What SQLite said.
        cause: String,
    },
    /// The file is not the one that the catalog means.
    #[error("{path}: {cause}")]
    Foreign {
        /// The file.
        path: String,
        /// What differs.
        cause: String,
    },
    /// A node cannot be reached, or does not fit.
    #[error("{0}")]
    Node(String),
    /// The cluster in the directory is not the one that was asked for.
    #[error("{0}")]
    Conflict(String),
}

impl OpenError {
    pub(crate) fn file(path: &Path, cause: impl std::fmt::Display) -> Self {
        Self::Database { path: path.display().to_string(), cause: cause.to_string() }
    }

    /// Turns an error that comes from a full disk into [`OpenError::NoSpace`]. `has_no_room` checks
    /// the disk.
    pub(crate) fn or_no_space(self, dir: &Path, has_no_room: impl FnOnce() -> bool) -> Self {
        /// Messages of the system and of SQLite for a full disk.
        const FULL: [&str; 2] = ["No space left on device", "database or disk is full"];
        /// Messages of SQLite for a full disk as well as for other troubles.
        const VAGUE: [&str; 2] = ["disk I/O error", "unable to open database file"];
        let (Self::Io { cause, .. } | Self::Database { cause, .. }) = &self else { return self };
        let says = |sentences: &[&str]| sentences.iter().any(|sentence| cause.contains(sentence));
        if says(&FULL) || (says(&VAGUE) && has_no_room()) {
            Self::NoSpace { dir: dir.display().to_string(), cause: self.to_string() }
        } else {
            self
        }
    }

    pub(crate) fn io(path: &Path, cause: impl std::fmt::Display) -> Self {
        Self::Io { path: path.display().to_string(), cause: cause.to_string() }
    }

    pub(crate) fn foreign(path: &Path, cause: impl Into<String>) -> Self {
        Self::Foreign { path: path.display().to_string(), cause: cause.into() }
    }

    /// What a node said, which an operator knows by this name.
    pub(crate) fn node(name: &str, cause: impl std::fmt::Display) -> Self {
        Self::Node(format!("{name}: {cause}"))
    }
}
