//! Manifest file: `manifest.json` in the folder of a copy, which describes the other files.
//!
//! **Invariant:** the manifest is the last file of a copy to be written: if it exists, the others
//! are complete. It names only files in its own folder.
//! **Not here:** its members (the engines), comparing the manifest with the files (`restore` of the
//! engines).

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::private_file;
use super::save_error::SaveError;
use super::saved_file::SavedFile;

/// Name of the file.
pub const FILE: &str = "manifest.json";
/// Maximum size of a manifest in bytes; the manifest of the largest possible cluster is much
/// smaller.
const BYTES_MAX: u64 = 64 << 20;

/// Reads the manifest of a folder as a document.
///
/// # Errors
/// [`SaveError::Unsuitable`] if the folder has no manifest, or one that is not JSON;
/// [`SaveError::Io`] if the folder is missing or cannot be read.
pub fn read_document(folder: &Path) -> Result<Value, SaveError> {
    let path = folder.join(FILE);
    let opened = File::open(&path).map_err(|error| {
        // An unfinished copy has no manifest.
        let is_unfinished = error.kind() == ErrorKind::NotFound && folder.is_dir();
        if is_unfinished {
            return SaveError::unsuitable(&path, error.to_string());
        }
        SaveError::io(if folder.exists() { &path } else { folder }, error)
    })?;
    let mut text = Vec::new();
    let read = opened.take(BYTES_MAX).read_to_end(&mut text);
    read.map_err(|error| SaveError::io(&path, error))?;
    serde_json::from_slice(&text).map_err(|error| no_manifest(folder, &error))
}

/// Reads the manifest of a folder. If the manifest names a format, it must be `format`.
///
/// # Errors
/// Errors of [`read_document`], and [`SaveError::Unsuitable`] if the manifest has another format or
/// other members.
pub fn read<T: DeserializeOwned>(folder: &Path, format: u32) -> Result<T, SaveError> {
    let document = read_document(folder)?;
    if document["format"] != format && !document["format"].is_null() {
        let cause = format!("format {} is not supported by this version", document["format"]);
        return Err(SaveError::unsuitable(&folder.join(FILE), cause));
    }
    members(folder, document)
}

/// Reads the members of a manifest.
///
/// # Errors
/// [`SaveError::Unsuitable`] if members are missing or of another type.
pub fn members<T: DeserializeOwned>(folder: &Path, document: Value) -> Result<T, SaveError> {
    serde_json::from_value(document).map_err(|error| no_manifest(folder, &error))
}

fn no_manifest(folder: &Path, error: &serde_json::Error) -> SaveError {
    SaveError::unsuitable(&folder.join(FILE), format!("no manifest: {error}"))
}

/// Checks that the file names of a manifest are plain names, without a path to another folder.
///
/// # Errors
/// [`SaveError::Unsuitable`], which names the first file for which this is not so.
pub fn check_names<'f>(
    folder: &Path,
    mut files: impl Iterator<Item = &'f SavedFile>,
) -> Result<(), SaveError> {
    let is_plain = |file: &SavedFile| {
        Path::new(&file.file).file_name().is_some_and(|name| name == &*file.file)
    };
    match files.find(|file| !is_plain(file)) {
        None => Ok(()),
        Some(file) => {
            let cause = format!("`{}` is not a file in the same folder", file.file);
            Err(SaveError::unsuitable(&folder.join(FILE), cause))
        }
    }
}

/// Writes and syncs the manifest of a folder whose other files are complete.
///
/// # Errors
/// [`SaveError::Io`].
pub fn write(folder: &Path, manifest: &impl Serialize) -> Result<(), SaveError> {
    let path = folder.join(FILE);
    let failed = |error| SaveError::io(&path, error);
    let mut text =
        serde_json::to_vec_pretty(manifest).map_err(|error| failed(std::io::Error::from(error)))?;
    text.push(b'\n');
    let mut file = private_file::create(&path).map_err(failed)?;
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(failed)
}
