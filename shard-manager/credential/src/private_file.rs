//! Private file: reads a file of keys, roles or secrets, if its permissions are strict enough.
//!
//! **Invariant:** a secret that others may read is not used, and neither is a list that everyone
//! may write. No error repeats the content.
//! **Not here:** the meaning of the content.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Protection that a file needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Other users than the owner and the group may not write it.
    Writing,
    /// Only the owner may read or write it; if that is root, the group may read it, too.
    Reading,
}

/// Reads a file of at most `bytes_max` bytes.
///
/// # Errors
/// [`FileFault`] states why the file cannot be used.
pub fn read(path: &Path, protection: Protection, bytes_max: u64) -> Result<Vec<u8>, FileFault> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(FileFault::Irregular);
    }
    let mode = metadata.mode() & 0o777;
    // A group may read a secret that root owns: service managers provide secrets in this way.
    let readers = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if protection == Protection::Reading && mode & readers != 0 {
        return Err(FileFault::Readable(mode));
    }
    if protection == Protection::Writing && mode & 0o002 != 0 {
        return Err(FileFault::Writable(mode));
    }
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(FileFault::TooLong { kib: bytes_max >> 10 });
    }
    Ok(bytes)
}

/// Reason why a file is not used.
#[derive(Debug, thiserror::Error)]
pub enum FileFault {
    /// The file does not exist or cannot be read.
    #[error(transparent)]
    Unreadable(#[from] std::io::Error),
    /// The path is that of a directory, a pipe or a device.
    #[error("is not a regular file")]
    Irregular,
    /// Other users may read the secret.
    #[error("others may read the secret (mode {0:o}): set the mode to 600")]
    Readable(u32),
    /// Every user may write the list.
    #[error("everyone may write the file (mode {0:o}): set the mode to 644")]
    Writable(u32),
    /// The file is longer than its content can be.
    #[error("is longer than {kib} KiB")]
    TooLong {
        /// Limit in KiB.
        kib: u64,
    },
}

/// Removes the line end that editors and `echo` add to a secret.
pub fn without_line_end(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}
