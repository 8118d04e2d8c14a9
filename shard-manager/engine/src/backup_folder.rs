//! Backup folder: the folder into which a router makes backups, each in a subfolder.
//!
//! **Invariant:** a folder has the id of a backup as its name only if the backup is complete. Only
//! folders with such names are read, and only folders that a process has left unfinished are
//! removed.
//! **Not here:** making a backup (`backup_maker`), the contents of one (the engines).

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::backup_id::BackupId;
use super::private_file;
use super::save_error::SaveError;
use super::unfinished_folder::{self, UNFINISHED};

/// Folder of backups.
#[derive(Clone, Debug)]
pub struct BackupFolder {
    path: PathBuf,
}

/// Folder that a process has left unfinished.
#[derive(Debug)]
pub struct LeftOver {
    /// Id of the backup that was not completed.
    pub id: BackupId,
    /// Reason why the folder could not be removed; `None` if it was removed.
    pub kept: Option<SaveError>,
}

impl BackupFolder {
    /// Opens the folder, and creates it if it is missing. If the cluster consists of files, the
    /// folder must not be inside the cluster's data directory.
    ///
    /// # Errors
    /// Errors of [`BackupFolder::check`], and [`SaveError::Io`] if it cannot be created.
    pub fn open(path: &Path, data_dir: Option<&Path>) -> Result<Self, SaveError> {
        Self::check(path, data_dir)?;
        let path = std::path::absolute(path).map_err(|error| SaveError::io(path, error))?;
        private_file::create_folder(&path).map_err(|error| SaveError::io(&path, error))?;
        Ok(Self { path })
    }

    /// Checks that backups can be made in a folder, and returns true if it exists. Changes nothing.
    ///
    /// # Errors
    /// [`SaveError::Target`] if the path is a file, contains a link to a missing folder, is in the
    /// data directory, or cannot be written; [`SaveError::Io`] if it cannot be inspected.
    pub fn check(path: &Path, data_dir: Option<&Path>) -> Result<bool, SaveError> {
        let failed = |error: io::Error| SaveError::io(path, error);
        let place = std::path::absolute(path).map_err(failed)?;
        if place.exists() && !place.is_dir() {
            return Err(SaveError::target(path, "there is a file with this name"));
        }
        // The existing part of the path determines the result.
        let exists = place.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
        if !exists.is_dir() {
            return Err(SaveError::target(path, "a part of the path is a file"));
        }
        if place.ancestors().take_while(|part| *part != exists).any(Path::is_symlink) {
            let cause = "a part of the path is a link to a folder that does not exist: create it";
            return Err(SaveError::target(path, cause));
        }
        let real = exists.canonicalize().map_err(failed)?;
        let data_dir = data_dir.map(|dir| real_path(dir).map_err(failed)).transpose()?;
        let missing = place.strip_prefix(exists).unwrap_or(Path::new(""));
        if data_dir.is_some_and(|data_dir| real.join(missing).starts_with(data_dir)) {
            return Err(SaveError::target(path, "it is in the data directory to be copied"));
        }
        match access(exists, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK) {
            Ok(()) => Ok(exists == place),
            Err(_) if exists == place => Err(SaveError::target(
                path,
                "the user of the router has no right to read and write it",
            )),
            Err(_) => {
                Err(SaveError::target(path, "the user of the router has no right to create it"))
            }
        }
    }

    /// Returns the path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path of a backup.
    pub fn place(&self, id: &BackupId) -> PathBuf {
        self.path.join(id.name())
    }

    /// Returns the ids of the complete backups, the latest first.
    ///
    /// # Errors
    /// [`SaveError::Io`] if the folder cannot be read.
    pub fn finished(&self) -> Result<Vec<BackupId>, SaveError> {
        let mut ids = self.named(BackupId::parse)?;
        ids.sort_unstable_by(|one, other| other.cmp(one));
        Ok(ids)
    }

    /// Removes unfinished folders of processes that no longer run.
    ///
    /// # Errors
    /// [`SaveError::Io`] if the folder cannot be read.
    pub fn remove_left_overs(&self) -> Result<Vec<LeftOver>, SaveError> {
        let ids = self.named(|name| BackupId::parse(name.strip_suffix(UNFINISHED)?))?;
        let removed = ids.into_iter().filter_map(|id| {
            match unfinished_folder::remove_left_over_of(&self.place(&id)) {
                Ok(()) => Some(LeftOver { id, kept: None }),
                // Another router is making it.
                Err(SaveError::TargetInUse { .. }) => None,
                Err(error) => Some(LeftOver { id, kept: Some(error) }),
            }
        });
        Ok(removed.collect())
    }

    fn named(&self, id: impl Fn(&str) -> Option<BackupId>) -> Result<Vec<BackupId>, SaveError> {
        let failed = |error| SaveError::io(&self.path, error);
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if let Some(id) = name.to_str().and_then(&id)
                && entry.path().is_dir()
            {
                ids.push(id);
            }
        }
        Ok(ids)
    }
}

/// Returns a path with all links followed; a path that does not exist is only made absolute.
fn real_path(path: &Path) -> io::Result<PathBuf> {
    match path.canonicalize() {
        Err(error) if error.kind() == ErrorKind::NotFound => std::path::absolute(path),
        real => real,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unfinished_folder::Unfinished;

    fn id(text: &str) -> BackupId {
        BackupId::parse(text).expect(text)
    }

    #[test]
    fn only_what_an_ended_process_has_left_is_removed() {
        let folder = std::env::temp_dir().join(format!("backup-folder-{}", std::process::id()));
        let backups = BackupFolder::open(&folder, None).expect("a folder");
        let [done, running, left] =
            ["20261125T093000Z-0001", "20261125T093000Z-0002", "20261125T093000Z-0003"].map(id);
        let finished = Unfinished::begin(&backups.place(&done)).expect("begun");
        finished.finish().expect("finished");
        let in_work = Unfinished::begin(&backups.place(&running)).expect("begun");
        // The lock of a process that was killed is free.
        let left_over = backups.path().join(format!("{left}{UNFINISHED}"));
        fs::create_dir(&left_over).expect("a folder");
        for name in ["unfinished.lock", "shard1-primary.db"] {
            fs::write(left_over.join(name), "").expect("a file");
        }
        for name in ["monday", "monday-unfinished"] {
            fs::create_dir(backups.path().join(name)).expect("a folder");
        }
        let removed = backups.remove_left_overs().expect("readable");
        let [LeftOver { id, kept: None }] = &removed[..] else { panic!("{removed:?}") };
        assert_eq!(*id, left);
        assert!(!left_over.exists() && in_work.path().exists());
        assert_eq!(backups.finished().expect("readable"), [done]);
        assert!(backups.path().join("monday-unfinished").exists());
        drop(in_work);
        fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn a_folder_is_refused_for_a_reason() {
        let folder = std::env::temp_dir().join(format!("backup-place-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join("file"), "").expect("a file");
        let refused = |path: &str, data_dir: Option<&Path>| {
            let refused = BackupFolder::open(&folder.join(path), data_dir);
            refused.expect_err(path).to_string()
        };
        assert!(refused("file", None).ends_with("there is a file with this name"));
        assert!(refused("file/backups", None).ends_with("a part of the path is a file"));
        std::os::unix::fs::symlink(folder.join("data/backups"), folder.join("link")).expect("made");
        for path in ["link", "link/backups"] {
            let sentence = refused(path, None);
            assert!(sentence.contains("a link to a folder that does not exist"), "{sentence}");
        }
        let data_dir = folder.join("data");
        for path in ["data", "data/backups", "data/a/b"] {
            assert!(refused(path, Some(&data_dir)).contains("data directory"), "{path}");
        }
        assert!(!data_dir.exists(), "nothing is created for a refused folder");
        assert!(!BackupFolder::check(&folder.join("a/b"), Some(&data_dir)).expect("creatable"));
        BackupFolder::open(&folder.join("a/b"), Some(&data_dir)).expect("created");
        assert!(BackupFolder::check(&folder.join("a/b"), Some(&data_dir)).expect("exists"));
        fs::remove_dir_all(&folder).expect("removed");
    }
}
