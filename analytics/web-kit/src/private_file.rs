//! Private file: reads a file of keys, roles or secrets, if its protection is sufficient.
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
    /// Others may not write it.
    Writing,
    /// Others may neither read nor write it.
    Reading,
}

/// Reads a file of at most `bytes_max`.
///
/// # Errors
/// The reason why it cannot be used.
pub fn read(path: &Path, protection: Protection, bytes_max: u64) -> Result<Vec<u8>, String> {
    let failed = |cause: std::io::Error| cause.to_string();
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err("is no regular file".to_owned());
    }
    let mode = metadata.mode() & 0o777;
    // A group may read a secret that root owns: so service managers provide them.
    let readers = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if protection == Protection::Reading && mode & readers != 0 {
        return Err(format!("others may read the secret (mode {mode:o}): set the mode to 600"));
    }
    if protection == Protection::Writing && mode & 0o002 != 0 {
        return Err(format!("everyone may write the file (mode {mode:o}): set the mode to 644"));
    }
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > bytes_max {
        return Err(format!("is longer than {} KiB", bytes_max >> 10));
    }
    Ok(bytes)
}

/// Removes the line end that editors and `echo` add to a secret.
pub fn without_line_end(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}
