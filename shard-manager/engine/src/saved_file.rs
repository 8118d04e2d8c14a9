//! Saved file: one file of a copy of a cluster, as its manifest describes it.
//!
//! **Not here:** the manifests (the engines).

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::save_error::SaveError;

/// Number of bytes that are read at a time.
const PIECE: usize = 1 << 20;

/// One file of a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedFile {
    /// Name in the folder.
    pub file: String,
    /// Length in bytes.
    pub bytes: u64,
    /// XXH3-128 hash of its bytes, in hexadecimal.
    pub xxh3: String,
}

/// Computes the manifest entry of a file, and passes each piece of the file to `each`.
///
/// # Errors
/// [`SaveError::Io`], and errors of `each`.
pub fn read_and_hash(
    folder: &Path,
    name: &str,
    mut each: impl FnMut(&[u8]) -> Result<(), SaveError>,
) -> Result<SavedFile, SaveError> {
    let path = folder.join(name);
    let failed = |error| SaveError::io(&path, error);
    let mut file = File::open(&path).map_err(failed)?;
    let (mut hash, mut bytes, mut piece) = (Xxh3::new(), 0, vec![0; PIECE]);
    loop {
        let read = file.read(&mut piece).map_err(failed)?;
        if read == 0 {
            break;
        }
        hash.update(&piece[..read]);
        bytes += read as u64;
        each(&piece[..read])?;
    }
    Ok(SavedFile { file: name.to_owned(), bytes, xxh3: format!("{:032x}", hash.digest128()) })
}

/// Checks the length of a file.
///
/// # Errors
/// [`SaveError::Unsuitable`] if the file is missing or has another length.
pub fn check_length(path: &Path, saved: u64) -> Result<(), SaveError> {
    match fs::metadata(path) {
        Ok(file) if file.len() == saved => Ok(()),
        Ok(_) => Err(SaveError::unsuitable(path, "its length differs")),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(SaveError::unsuitable(path, "it is missing"))
        }
        Err(error) => Err(SaveError::io(path, error)),
    }
}

/// Checks that the entry computed from a file equals the saved entry.
///
/// # Errors
/// [`SaveError::Unsuitable`] if the entries differ.
pub fn check_bits(path: &Path, found: &SavedFile, saved: &SavedFile) -> Result<(), SaveError> {
    if found == saved {
        return Ok(());
    }
    Err(SaveError::unsuitable(path, "its bytes differ from those that were saved"))
}
