//! Work folder: the temporary folder of an experiment's databases.
//!
//! Each folder contains a file that the experiment keeps locked while it runs. If the file is not
//! locked, the process of the experiment was killed; the next experiment in the same parent folder
//! then removes the folder.
//!
//! **Invariant:** only folders with the name prefix and lock file of an experiment are removed, and
//! none while its experiment runs.
//! **Not here:** the databases (`lab_cluster`).

use std::fs::{self, DirEntry, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{Mode, OFlags, open, statfs};

use crate::lab_error::LabError;

/// Prefix of the names of all work folders.
const PREFIX: &str = "tessera-lab-";
/// Name of the file that the experiment keeps locked.
const LOCK: &str = "lab.lock";
/// Name of that file before it is locked.
const UNLOCKED: &str = "lab.lock.new";
/// Magic number in `statfs` of the in-memory file system (tmpfs).
const TMPFS: i64 = 0x0102_1994;

/// Temporary folder. The folder and its contents are removed when the value is dropped.
#[derive(Debug)]
pub struct WorkFolder {
    path: PathBuf,
    run: String,
    _lock: File,
}

impl WorkFolder {
    /// Creates a folder in `parent`, or without it in the system's folder for temporary files.
    /// First removes folders there whose experiments were killed.
    ///
    /// # Errors
    /// [`LabError::Impossible`] if no folder can be created there.
    pub fn create(parent: Option<&Path>) -> Result<Self, LabError> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        let failed = |error: io::Error| {
            LabError::Impossible(format!("{}: no folder can be created: {error}", parent.display()))
        };
        remove_left_behind(&parent);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let run = format!("{:x}_{}", now.as_micros(), std::process::id());
        let path = parent.join(format!("{PREFIX}{run}"));
        fs::create_dir(&path).map_err(failed)?;
        // The file gets its name when it is locked: another lab that found it unlocked would remove
        // the folder.
        let unlocked = path.join(UNLOCKED);
        let lock = File::create(&unlocked).and_then(|lock| {
            lock.try_lock()?;
            fs::rename(&unlocked, path.join(LOCK)).map(|()| lock)
        });
        let lock = lock.inspect_err(|_| drop(fs::remove_dir_all(&path))).map_err(failed)?;
        Ok(Self { path, run, _lock: lock })
    }

    /// Returns the unique name of this run, which is part of the names of its databases.
    pub fn run(&self) -> &str {
        &self.run
    }

    /// Returns the path of a database or folder with this name in the work folder.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Returns a note for the report if the folder is in an in-memory file system; otherwise
    /// nothing.
    pub fn notes(&self) -> Vec<String> {
        let is_in_memory = statfs(&self.path).is_ok_and(|found| found.f_type == TMPFS);
        let note = "the temporary folder is in memory, so commits do not wait for a disk: choose another one with --work-dir";
        Vec::from_iter(is_in_memory.then(|| note.to_owned()))
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        // If this fails, the next experiment removes the remaining folder.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes the folders in `parent` whose experiments have ended without removing them.
fn remove_left_behind(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    let is_ours = |entry: &DirEntry| entry.file_name().to_string_lossy().starts_with(PREFIX);
    for entry in entries.flatten().filter(is_ours) {
        // The parent folder may be shared with other users. Opening a FIFO that one of them has put
        // there would block for ever without `NONBLOCK`.
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(lock) = open(entry.path().join(LOCK), flags, Mode::empty()) else { continue };
        let lock = File::from(lock);
        if lock.metadata().is_ok_and(|lock| lock.is_file()) && lock.try_lock().is_ok() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn only_abandoned_folders_of_labs_are_removed_and_no_fifo_is_waited_for() {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = |name: &str| {
            let folder = parent.path().join(name);
            fs::create_dir(&folder).expect("created");
            folder
        };
        let (abandoned, other) = (folder("tessera-lab-1"), folder("other"));
        let fifo = folder("tessera-lab-2");
        for folder in [&abandoned, &other] {
            File::create(folder.join(LOCK)).expect("created");
        }
        let made = Command::new("mkfifo").arg(fifo.join(LOCK)).status();
        assert!(made.expect("mkfifo runs").success());
        let running = WorkFolder::create(Some(parent.path())).expect("created");
        assert!(!abandoned.exists() && other.exists() && fifo.exists());
        drop(WorkFolder::create(Some(parent.path())).expect("created"));
        assert!(running.join(LOCK).exists(), "its lock is held");
    }
}
