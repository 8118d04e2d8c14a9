//! Output file: a file that gets its final name only when it is complete, and that only one process
//! writes at a time.
//!
//! The file is first written as `<name>.part` in the same folder, and the writer holds a lock on
//! it. The system releases the lock of a process that dies, so the next writer overwrites a file
//! that such a process left behind.
//!
//! **Invariant:** the file with the final name always has either the old or the complete new
//! contents; two processes never write to the same file.
//! **Not here:** the contents of the file (the commands).

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{CommandError, interrupt};

/// Destination of a command's results.
pub(super) enum Target {
    /// A regular file, which gets its final name when it is complete.
    File(UnfinishedFile),
    /// A pipe, a terminal or a device.
    Device(File, PathBuf),
}

/// File with the suffix `.part`, which is removed when the value is dropped unless it was finished
/// before.
pub(super) struct UnfinishedFile {
    file: File,
    path: PathBuf,
    target: PathBuf,
    finished: bool,
}

impl Target {
    /// Begins to write to `path`. A symbolic link is followed: the file that it points to is
    /// replaced, not the link.
    pub(super) fn begin(path: &Path) -> Result<Self, CommandError> {
        let found = match fs::metadata(path) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if fs::symlink_metadata(path).is_ok() {
                    return Err(refused(path, &"this is a link to a file that is not there"));
                }
                return UnfinishedFile::begin(path.to_owned(), None).map(Self::File);
            }
            Err(error) => return Err(refused(path, &error)),
        };
        let kind = found.file_type();
        if kind.is_file() {
            let real = fs::canonicalize(path).map_err(|error| refused(path, &error))?;
            return UnfinishedFile::begin(real, Some(&found)).map(Self::File);
        }
        if kind.is_char_device() || kind.is_fifo() {
            let opened = OpenOptions::new().write(true).open(path);
            let file = opened.map_err(|error| refused(path, &error))?;
            return Ok(Self::Device(file, path.to_owned()));
        }
        Err(refused(path, &if kind.is_dir() { "this is a folder" } else { "this is not a file" }))
    }

    /// Checks that a file can be written. A device is not opened, because the reader of a pipe
    /// would see its end.
    pub(super) fn check(path: &Path) -> Result<(), CommandError> {
        let is_device = fs::metadata(path).is_ok_and(|found| {
            let kind = found.file_type();
            kind.is_char_device() || kind.is_fifo()
        });
        if is_device { Ok(()) } else { Self::begin(path).map(drop) }
    }

    /// Syncs the file to the disk, and gives it its final name. For a device, only flushes it.
    pub(super) fn finish(self) -> Result<(), CommandError> {
        match self {
            Self::File(part) => part.finish(),
            Self::Device(mut file, path) => file.flush().map_err(|error| refused(&path, &error)),
        }
    }
}

/// Writing fails once the command is interrupted.
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

impl UnfinishedFile {
    fn begin(target: PathBuf, before: Option<&fs::Metadata>) -> Result<Self, CommandError> {
        let mut path = target.as_os_str().to_owned();
        path.push(".part");
        let path = PathBuf::from(path);
        let failed = |error: io::Error| refused(&path, &error);
        loop {
            if fs::symlink_metadata(&path).is_ok_and(|found| !found.is_file()) {
                return Err(refused(&path, &"this is not a regular file; check it, and remove it"));
            }
            // The file is not truncated yet: another process may be writing it until this process
            // has the lock.
            let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
            let file = opened.map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let line = "another command is writing this file; wait for it, or name another";
                    return Err(refused(&target, &line));
                }
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            // The previous holder of the lock may have renamed or removed this file after it was
            // opened here.
            let own = file.metadata().map_err(failed)?;
            let named = fs::symlink_metadata(&path);
            if !named.is_ok_and(|named| (named.dev(), named.ino()) == (own.dev(), own.ino())) {
                continue;
            }
            let begun = Self { file, path, target, finished: false };
            let failed = |error: io::Error| refused(&begun.path, &error);
            begun.file.set_len(0).map_err(failed)?;
            if let Some(before) = before {
                // The permissions of the replaced file are kept.
                begun.file.set_permissions(before.permissions()).map_err(failed)?;
            }
            return Ok(begun);
        }
    }

    fn finish(mut self) -> Result<(), CommandError> {
        interrupt::check().map_err(|error| refused(&self.path, &error))?;
        self.file.sync_all().map_err(|error| refused(&self.path, &error))?;
        fs::rename(&self.path, &self.target).map_err(|error| refused(&self.target, &error))?;
        // From here on another process may create a file with the same `.part` name, so `drop` must
        // not remove it.
        self.finished = true;
        // The name itself is durable only when the folder is synced.
        let folder = self.target.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = File::open(folder.unwrap_or(Path::new(".")));
        folder.and_then(|folder| folder.sync_all()).map_err(|error| refused(&self.target, &error))
    }
}

impl Drop for UnfinishedFile {
    fn drop(&mut self) {
        if !self.finished {
            // An error is ignored, because the next writer overwrites a `.part` file that is left.
            let _ = fs::remove_file(&self.path);
        }
    }
}

pub(super) fn refused(path: &Path, error: &dyn std::fmt::Display) -> CommandError {
    CommandError::Refused(format!("{}: {error}", path.display()))
}
