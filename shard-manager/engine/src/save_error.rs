//! Save error: the reasons why a cluster was not copied, or a copy was not restored.
//!
//! **Not here:** reporting the errors to the operator (`command`).

use std::io::ErrorKind;
use std::path::Path;

use super::open_error::OpenError;

/// Reason that clients get if a disk is full.
const DISK_FULL: &str = "the disk of the backups is full";

/// Reason why a cluster was not copied, or a copy was not restored. The message of the error is for
/// operators; clients get [`SaveError::for_clients`].
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The folder cannot be used.
    #[error("{path}: {cause}")]
    Target {
        /// Path of the folder.
        path: String,
        /// Reason.
        cause: &'static str,
    },
    /// Another process uses the same folder.
    #[error("{path} is being created by another command; wait for it, or choose another folder")]
    TargetInUse {
        /// Path of the folder.
        path: String,
    },
    /// Another backup of this cluster is being made.
    #[error("another backup of this cluster is running; wait until it ends")]
    Busy,
    /// The disk has too little room.
    #[error("{path} has room for {free_mib} MiB, and the copy needs about {needed_mib} MiB")]
    NoRoom {
        /// Path of the folder.
        path: String,
        /// Required MiB.
        needed_mib: u64,
        /// Free MiB.
        free_mib: u64,
    },
    /// The backup or restore was cancelled.
    #[error("cancelled; all partial files were removed")]
    Cancelled,
    /// The writes of a shard could not be paused.
    #[error("the writes of {shard} cannot be paused: a batch takes too long")]
    WritesNotPaused {
        /// Name of the shard.
        shard: String,
    },
    /// Shards have joined or retired while the cluster was copied.
    #[error("shards have joined or retired while the cluster was copied: try again")]
    ShardsChanged,
    /// A shard's copy could not follow its log.
    #[error("the copy of {shard}: {cause}")]
    Follow {
        /// Name of the shard.
        shard: String,
        /// Reason.
        cause: String,
    },
    /// A file of the cluster or of the copy cannot be used.
    #[error(transparent)]
    File(#[from] OpenError),
    /// The file system reported an error.
    #[error("{path}: {cause}")]
    Io {
        /// Path of the file or folder.
        path: String,
        /// Error of the system.
        cause: std::io::Error,
    },
    /// The copy differs from its manifest.
    #[error("{path}: {cause}: this is not a restorable copy")]
    Unsuitable {
        /// Path of the file.
        path: String,
        /// Difference from the manifest.
        cause: String,
    },
    /// The target databases do not match the copy, or contain other data.
    #[error("{0}")]
    Databases(String),
    /// The target databases contain only a part of the copy.
    #[error(
        "{cause}; the databases hold a part of the copy, with which no router starts: run the command again, or drop \
         them"
    )]
    Partial {
        /// Reason.
        cause: String,
    },
    /// Another process holds the data directory.
    #[error("{path} is in use by a router or a command (process {pid}); stop it first")]
    InUse {
        /// Path of the data directory.
        path: String,
        /// Id of the process that holds it.
        pid: String,
    },
}

impl SaveError {
    /// Returns an error about a folder that cannot be used.
    pub fn target(path: &Path, cause: &'static str) -> Self {
        Self::Target { path: path.display().to_string(), cause }
    }

    /// Returns the reason for clients, which contains no path and no address.
    pub fn for_clients(&self) -> String {
        const LOG: &str = "the log of the router names the reason";
        match self {
            Self::Busy | Self::Cancelled | Self::WritesNotPaused { .. } | Self::ShardsChanged => {
                self.to_string()
            }
            Self::NoRoom { needed_mib, free_mib, .. } => format!(
                "the disk for backups has room for {free_mib} MiB, but the copy needs about {needed_mib} MiB"
            ),
            Self::File(OpenError::NoSpace { .. }) => DISK_FULL.to_owned(),
            Self::Io { cause, .. } => about_disk(cause.kind()),
            Self::Follow { shard, .. } => {
                format!("the copy of {shard} cannot follow its log: {LOG}")
            }
            Self::File(_) | Self::Databases(_) => {
                format!("a shard or the catalog cannot be read: {LOG}")
            }
            Self::Target { .. } | Self::TargetInUse { .. } => {
                format!("the folder for the copy cannot be created: {LOG}")
            }
            Self::Unsuitable { .. } => format!("the copy has failed its check: {LOG}"),
            Self::Partial { .. } | Self::InUse { .. } => LOG.to_owned(),
        }
    }

    /// Returns an error of the system.
    pub fn io(path: &Path, cause: std::io::Error) -> Self {
        Self::Io { path: path.display().to_string(), cause }
    }

    /// Returns an error about a file of a copy.
    pub fn unsuitable(path: &Path, cause: impl Into<String>) -> Self {
        Self::Unsuitable { path: path.display().to_string(), cause: cause.into() }
    }
}

/// Returns the reason that clients get for an input or output error of the copy.
fn about_disk(kind: ErrorKind) -> String {
    const REASONS: [(ErrorKind, &str); 5] = [
        (ErrorKind::StorageFull, DISK_FULL),
        (ErrorKind::QuotaExceeded, DISK_FULL),
        (
            ErrorKind::PermissionDenied,
            "the user of the router has no right to write to the folder for backups",
        ),
        (ErrorKind::NotFound, "the folder for backups is missing"),
        (ErrorKind::ReadOnlyFilesystem, "the disk of the backups cannot be written"),
    ];
    const OTHER: &str =
        "a file of the copy cannot be read or written: the log of the router names the reason";
    let known = REASONS.iter().find(|(listed, _)| *listed == kind);
    known.map_or(OTHER, |(_, reason)| reason).to_owned()
}
