//! Atomic file: a file that gets its name when it is complete, and that one process writes alone.
//!
//! It is written beside its place, as `<name>.part`, under a lock that only its writer holds. What a process that died
//! has left of one is told by the lock that nobody holds any more, and written over.
//!
//! **Invariant:** under the final name there is all, or what was there before; two writers never share a part.
//! **Not here:** what is written.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{Trouble, interrupt};

/// Destination of the results of a command.
pub(super) enum Target {
    /// A file, under its name.
    File(AtomicFile),
    /// A pipe, a terminal or `/dev/null`, which take bytes and are no files.
    Device(File, PathBuf),
}

/// A file that is being written. Dropping it before [`AtomicFile::finish`] removes it.
pub(super) struct AtomicFile {
    file: File,
    path: PathBuf,
    target: PathBuf,
    finished: bool,
}

impl Target {
    /// Opens the destination with this name. A link is followed: the file that it names is replaced, not the link.
    pub(super) fn begin(path: &Path) -> Result<Self, Trouble> {
        let found = match fs::metadata(path) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if fs::symlink_metadata(path).is_ok() {
                    return Err(refused(path, &"this is a link to a file that is not there"));
                }
                return AtomicFile::begin(path.to_owned(), None).map(Self::File);
            }
            Err(error) => return Err(refused(path, &error)),
        };
        let kind = found.file_type();
        if kind.is_file() {
            let real = fs::canonicalize(path).map_err(|error| refused(path, &error))?;
            return AtomicFile::begin(real, Some(&found)).map(Self::File);
        }
        if kind.is_char_device() || kind.is_fifo() {
            let opened = OpenOptions::new().write(true).open(path);
            let file = opened.map_err(|error| refused(path, &error))?;
            return Ok(Self::Device(file, path.to_owned()));
        }
        Err(refused(path, &if kind.is_dir() { "this is a folder" } else { "this is no file" }))
    }

    /// Completes the results and gives a file its name.
    pub(super) fn finish(self) -> Result<(), Trouble> {
        match self {
            Self::File(part) => part.finish(),
            Self::Device(mut file, path) => file.flush().map_err(|error| refused(&path, &error)),
        }
    }
}

/// Writing fails after the command is interrupted.
impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        interrupt::check()?;
        match self {
            Self::File(part) => part.file.write(bytes),
            Self::Device(file, _) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File(part) => part.file.flush(),
            Self::Device(file, _) => file.flush(),
        }
    }
}

impl AtomicFile {
    fn begin(target: PathBuf, before: Option<&fs::Metadata>) -> Result<Self, Trouble> {
        let mut path = target.as_os_str().to_owned();
        path.push(".part");
        let path = PathBuf::from(path);
        let told = |error: io::Error| refused(&path, &error);
        loop {
            if fs::symlink_metadata(&path).is_ok_and(|found| !found.is_file()) {
                return Err(refused(&path, &"this is no file; look what it is, and remove it"));
            }
            // Not emptied before it is known that nobody else writes it.
            let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
            let file = opened.map_err(told)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let line = "another command is writing this file; wait for it, or name another";
                    return Err(refused(&target, &line));
                }
                Err(TryLockError::Error(error)) => return Err(told(error)),
            }
            // Whoever had the lock until now may have given this very file its final name, or removed it.
            let own = file.metadata().map_err(told)?;
            let named = fs::symlink_metadata(&path);
            if !named.is_ok_and(|named| (named.dev(), named.ino()) == (own.dev(), own.ino())) {
                continue;
            }
            let begun = Self { file, path, target, finished: false };
            let told = |error: io::Error| refused(&begun.path, &error);
            begun.file.set_len(0).map_err(told)?;
            if let Some(before) = before {
                // Who may read the file is not for its writer to change.
                begun.file.set_permissions(before.permissions()).map_err(told)?;
            }
            return Ok(begun);
        }
    }

    fn finish(mut self) -> Result<(), Trouble> {
        interrupt::check().map_err(|error| refused(&self.path, &error))?;
        self.file.sync_all().map_err(|error| refused(&self.path, &error))?;
        fs::rename(&self.path, &self.target).map_err(|error| refused(&self.target, &error))?;
        // From here on the name of the part may be another's.
        self.finished = true;
        Ok(())
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.finished {
            // What cannot be removed now is written over by the next.
            let _ = fs::remove_file(&self.path);
        }
    }
}

pub(super) fn refused(path: &Path, error: &dyn std::fmt::Display) -> Trouble {
    Trouble::Refused(format!("{}: {error}", path.display()))
}
