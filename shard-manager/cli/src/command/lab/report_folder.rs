//! Report folder: writes the files of a report into a new or empty folder.
//!
//! **Invariant:** existing files are never overwritten.
//! **Not here:** the contents of the files (`lab::report`).

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use ::lab::report::Report;

use crate::command::CommandError;
use crate::command::atomic_file::refused;

/// Folder for the files of a report. If this process created it and writes no report, the folder is
/// removed.
pub(super) struct ReportFolder {
    path: PathBuf,
    /// True if this process has created the folder and has not begun to write files.
    is_new: bool,
}

impl ReportFolder {
    /// Creates the folder, or accepts an existing one that is empty.
    pub(super) fn begin(path: &Path) -> Result<Self, CommandError> {
        let failed = |error: std::io::Error| refused(path, &error);
        let is_new = match fs::read_dir(path).map(|mut entries| entries.next().is_none()) {
            Ok(is_empty) if is_empty => false,
            Ok(_) => {
                let line = "--report needs a new or empty folder, but this one has files; name another one";
                return Err(refused(path, &line));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fs::create_dir_all(path).map_err(failed)?;
                true
            }
            Err(error) => return Err(failed(error)),
        };
        Ok(Self { path: path.to_owned(), is_new })
    }

    /// Writes the report as `report.md`, `report.json` and `report.html`.
    pub(super) fn write(mut self, report: &Report) -> Result<(), CommandError> {
        self.is_new = false;
        let files = [
            ("report.md", report.markdown()),
            ("report.json", report.json()),
            ("report.html", report.html()),
        ];
        for (name, text) in files {
            let path = self.path.join(name);
            fs::write(&path, text).map_err(|error| refused(&path, &error))?;
        }
        Ok(())
    }
}

impl Drop for ReportFolder {
    fn drop(&mut self) {
        if self.is_new {
            // This removes the folder only if it is empty.
            let _ = fs::remove_dir(&self.path);
        }
    }
}
