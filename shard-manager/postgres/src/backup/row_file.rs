//! Row file: the rows of one table in parts. Each part is its length, and then its columns as
//! arrays.
//!
//! **Invariant:** a file is synced before its entry in the manifest is made.
//! **Not here:** the arrays (`row_arrays`).

use std::fs::File;
use std::io::{BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use engine::private_file;
use engine::save_error::SaveError;
use engine::saved_file::SavedFile;
use xxhash_rust::xxh3::Xxh3;

/// Maximum number of bytes of a part, with room for a last row that exceeds the intended size.
const PART_MAX: u32 = 1 << 30;

/// File of a copy that is being written.
pub(super) struct RowFile {
    name: String,
    path: PathBuf,
    file: BufWriter<File>,
    hash: Xxh3,
    bytes: u64,
}

impl RowFile {
    /// Creates a file in a folder.
    pub(super) fn create(folder: &Path, name: &str) -> Result<Self, SaveError> {
        let path = folder.join(name);
        let file = private_file::create(&path).map_err(|error| SaveError::io(&path, error))?;
        let file = BufWriter::with_capacity(1 << 18, file);
        Ok(Self { name: name.to_owned(), path, file, hash: Xxh3::new(), bytes: 0 })
    }

    /// Adds bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), SaveError> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes).map_err(|error| SaveError::io(&self.path, error))
    }

    /// Adds a part of the rows.
    pub(super) fn write_part(&mut self, part: &[u8]) -> Result<(), SaveError> {
        let length = u32::try_from(part.len()).ok().filter(|length| *length <= PART_MAX);
        let Some(length) = length else {
            return Err(SaveError::unsuitable(&self.path, "a row is too large"));
        };
        self.write(&length.to_be_bytes())?;
        self.write(part)
    }

    /// Syncs the file, and returns its entry in the manifest.
    pub(super) fn finish(mut self) -> Result<SavedFile, SaveError> {
        let synced = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        synced.map_err(|error| SaveError::io(&self.path, error))?;
        let xxh3 = format!("{:032x}", self.hash.digest128());
        Ok(SavedFile { file: self.name, bytes: self.bytes, xxh3 })
    }
}

/// The parts of a file.
pub(super) struct Parts {
    path: PathBuf,
    file: BufReader<File>,
}

impl Parts {
    /// Opens a file.
    pub(super) fn open(path: PathBuf) -> Result<Self, SaveError> {
        let file = File::open(&path).map_err(|error| SaveError::io(&path, error))?;
        Ok(Self { path, file: BufReader::with_capacity(1 << 18, file) })
    }

    /// Returns the next part; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Vec<u8>>, SaveError> {
        let mut length = [0; 4];
        match self.file.read_exact(&mut length) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(SaveError::io(&self.path, error)),
        }
        let length = u32::from_be_bytes(length);
        if length > PART_MAX {
            return Err(SaveError::unsuitable(&self.path, "a part is too long"));
        }
        let mut part = vec![0; length as usize];
        self.file.read_exact(&mut part).map_err(|error| SaveError::io(&self.path, error))?;
        Ok(Some(part))
    }
}
