//! File: the files of an audit log. Lines are appended to the current file; when it is full, it is
//! renamed and a new file is created.
//!
//! **Invariant:** the current file ends with a complete line before lines are appended: what a
//! failed write has left is removed first. A lock ensures that only one process writes a log. Only
//! the owner of a new file can read it.
//! **Not here:** the lines (`writer`).

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use shard_manager::access::audit::chain::AuditHead;
use shard_manager::access::audit::{FILES_MAX, file_path};

use super::AuditStartError;
use super::tail::{FileTail, read_tail};

/// Limits of the size of a log, at which files are renamed and removed.
#[derive(Clone, Copy, Debug)]
pub(super) struct RotationLimits {
    /// Number of bytes from which a file is full.
    pub(super) bytes_max: u64,
    /// Maximum number of files, including the current one.
    pub(super) files_max: usize,
}

impl RotationLimits {
    /// Allows half a GiB in all, which holds more than a million lines.
    pub(super) const DEFAULT: Self = Self { bytes_max: 64 << 20, files_max: FILES_MAX };
}

/// State of a log that an earlier process of the router wrote.
#[derive(Debug)]
pub(super) struct ResumedLog {
    /// Name of the log, and the position and hash of its last line.
    pub(super) head: AuditHead,
    /// Number of bytes of an incomplete last line, which was removed.
    pub(super) torn_bytes: u64,
}

/// File to which lines are appended.
#[derive(Debug)]
pub(super) struct AuditFile {
    path: PathBuf,
    file: File,
    /// Number of bytes in complete lines.
    bytes: u64,
    /// True if bytes of an incomplete line may follow the complete lines.
    is_torn: bool,
    limits: RotationLimits,
}

impl AuditFile {
    /// Opens a log, or creates it, and removes an incomplete last line. Also returns the state of
    /// the log to continue, if it has any line.
    ///
    /// # Errors
    /// [`AuditStartError::File`] names the file and what is wrong with it.
    pub(super) fn open(
        path: &Path,
        limits: RotationLimits,
    ) -> Result<(Self, Option<ResumedLog>), AuditStartError> {
        let error = |cause: String| AuditStartError::File { path: path.to_owned(), cause };
        let failed = |cause: io::Error| error(cause.to_string());
        if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(error("is not a regular file".to_owned()));
        }
        let mut file = options().create(true).open(path).map_err(failed)?;
        lock(&file).map_err(error)?;
        let mode = file.metadata().map_err(failed)?.mode() & 0o777;
        if mode & 0o027 != 0 {
            let cause =
                format!("others may read or change it (mode {mode:o}): set the mode to 600");
            return Err(error(cause));
        }
        let (tail, torn_bytes) = read_tail(&mut file).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len() - torn_bytes;
        let mut log = Self { path: path.to_owned(), file, bytes, is_torn: torn_bytes > 0, limits };
        log.restore().map_err(failed)?;
        let is_empty = tail == FileTail::Empty;
        let tail = if is_empty { log.tail_before().map_err(failed)? } else { tail };
        let head = match tail {
            FileTail::Line(head) => head,
            FileTail::Empty => return Ok((log, None)),
            FileTail::Damaged => {
                tracing::error!(
                    audit_log = %path.display(),
                    "the last line of the audit log is damaged: another log begins, and the files before it are kept; \
                     `shard-manager audit verify` names the first wrong line"
                );
                if log.bytes > 0 {
                    log.rotate().map_err(failed)?;
                }
                return Ok((log, None));
            }
        };
        Ok((log, Some(ResumedLog { head, torn_bytes })))
    }

    /// Returns true if the current file has no line yet.
    pub(super) fn is_new(&self) -> bool {
        self.bytes == 0
    }

    /// Returns true if a new file must be begun before the next line.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= self.limits.bytes_max
    }

    /// Appends complete lines.
    ///
    /// # Errors
    /// The I/O error. Any part of the lines that was written is removed now or, if that fails,
    /// before the next lines are appended.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        self.restore()?;
        self.is_torn = true;
        let written = self.file.write_all(lines);
        if written.is_err() {
            // If this fails too, the next call of `append` tries it again.
            let _ = self.restore();
            return written;
        }
        self.bytes += lines.len() as u64;
        self.is_torn = false;
        Ok(())
    }

    /// Makes all lines durable.
    ///
    /// # Errors
    /// The I/O error.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Begins a new file; the oldest one is removed if there are too many.
    ///
    /// # Errors
    /// The I/O error. If the full file was renamed but the new one is not in place yet, the next
    /// call completes the rotation.
    pub(super) fn rotate(&mut self) -> io::Result<()> {
        self.restore()?;
        self.file.sync_data()?;
        let next = self.numbered("next");
        match fs::remove_file(&next) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let file = options().create_new(true).open(&next)?;
        lock(&file).map_err(io::Error::other)?;
        let oldest = self.limits.files_max - 1;
        // Files are renamed only up to the first unused number, so that none is overwritten. A
        // process that was killed during a rotation may have left such a gap.
        let free = (1..oldest).find(|number| !file_path(&self.path, *number).exists());
        for number in (0..free.unwrap_or(oldest)).rev() {
            let (from, to) = (file_path(&self.path, number), file_path(&self.path, number + 1));
            match fs::rename(from, to) {
                // An earlier call was interrupted after it had renamed the file.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                renamed => renamed?,
            }
        }
        fs::rename(&next, &self.path)?;
        if let Some(folder) = self.path.parent() {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            File::open(folder)?.sync_all()?;
        }
        (self.file, self.bytes, self.is_torn) = (file, 0, false);
        Ok(())
    }

    /// Removes the bytes that a failed write has left after the last complete line.
    fn restore(&mut self) -> io::Result<()> {
        if self.is_torn {
            self.file.set_len(self.bytes)?;
            self.is_torn = false;
        }
        Ok(())
    }

    /// Returns the end of the newest earlier file that has any line.
    fn tail_before(&self) -> io::Result<FileTail> {
        for number in 1..self.limits.files_max {
            match File::open(file_path(&self.path, number)) {
                Ok(mut file) => match read_tail(&mut file)? {
                    (FileTail::Empty, 0) => {}
                    (tail, 0) => return Ok(tail),
                    // An incomplete line is removed only from the current file, so this file is
                    // reported as damaged.
                    (_, _) => return Ok(FileTail::Damaged),
                },
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(FileTail::Empty)
    }

    /// Replaces the file handle and returns the previous one, so that tests can make writes fail.
    #[cfg(test)]
    pub(super) fn replace_handle(&mut self, file: File) -> File {
        std::mem::replace(&mut self.file, file)
    }

    fn numbered(&self, ending: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{ending}"));
        name.into()
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).append(true).mode(0o600);
    options
}

/// Locks a file for this process.
fn lock(file: &File) -> Result<(), String> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => {
            "another router writes it: give each router a file of its own".to_owned()
        }
        TryLockError::Error(error) => format!("cannot be locked: {error}"),
    })
}
