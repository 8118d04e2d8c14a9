//! Private files: creates files and folders that only their owner may read.
//!
//! The files of a cluster contain rows and the digests of API keys. SQLite creates a database with
//! the mode 0644 minus the umask, and a WAL with the mode of its database. Each database is
//! therefore created here, as an empty file, before SQLite opens it.
//!
//! **Invariant:** a new file never has permissions for group or others, whatever the umask is. The
//! modes of existing files and folders are never changed.
//! **Not here:** files that a user names for the output of a command.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Mode of new files.
pub const FILE_MODE: u32 = 0o600;
/// Mode of new folders.
pub const FOLDER_MODE: u32 = 0o700;

/// Opens a file for writing, and creates it if it is missing; existing contents are removed.
///
/// # Errors
/// The error of the system.
pub fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(path)
}

/// Creates an empty file unless something with this name exists.
///
/// # Errors
/// The error of the system.
pub fn create_empty(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Creates a folder. Missing folders above it are created with the usual mode: they are not part of
/// the data directory.
///
/// # Errors
/// The error of the system.
pub fn create_folder(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(FOLDER_MODE).create(path) {
        // Another process created the folder first.
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        created => created,
    }
}
