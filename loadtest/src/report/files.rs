//! Files: writes the reports to files, and reads the report of an earlier run.
//!
//! **Invariant:** a file that cannot be read or written is reported before the load begins. The
//! name of a report file always refers to a complete report, either the old one or the new one.
//! **Not here:** the contents of the files (`html`, `Report::json`, `compare`).

use std::fs::{File, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde::Deserialize;
use tempfile::NamedTempFile;

use super::Report;
use super::compare::Comparison;
use crate::options::Load;

/// Maximum number of bytes of a report that is read. The report of a run of a day has about 10 MB.
const REPORT_BYTES_MAX: u64 = 64 << 20;
/// Permissions of a new file, before the umask.
const MODE: u32 = 0o666;

/// Files that `--html`, `--save` and `--compare` name.
pub(crate) struct Files {
    html: Option<Draft>,
    save: Option<Draft>,
    before: Option<(String, Report)>,
}

impl Files {
    /// Reads the report to compare with, and checks that the other files can be written.
    pub(crate) fn open(load: &Load) -> anyhow::Result<Self> {
        let Load { html, save, compare, .. } = load;
        let before = compare.as_deref().map(|path| {
            let name = path.display().to_string();
            let report = read(path).with_context(|| format!("--compare {name}"))?;
            anyhow::Ok((name, report))
        });
        let before = before.transpose()?;
        let draft = |option: &str, path: &Option<PathBuf>| {
            let draft = path.as_deref().map(|path| {
                Draft::new(path).with_context(|| format!("{option} {}", path.display()))
            });
            draft.transpose()
        };
        let (html, save) = (draft("--html", html)?, draft("--save", save)?);
        let same = matches!((&html, &save), (Some(a), Some(b)) if a.place == b.place);
        ensure!(!same, "--html and --save name the same file: one report would replace the other");
        Ok(Self { html, save, before })
    }

    /// Returns the comparison with the earlier run, if one was named.
    pub(crate) fn compare(&self, now: &Report) -> Option<Comparison> {
        self.before.as_ref().map(|(name, before)| Comparison::new(name, before, now))
    }

    pub(crate) fn write(self, report: &Report) -> anyhow::Result<()> {
        if let Some(draft) = self.html {
            draft.finish(&report.html())?;
        }
        if let Some(draft) = self.save {
            draft.finish(&report.json())?;
        }
        Ok(())
    }
}

/// Report file that is not complete yet. It is a temporary file in the directory of `place`, and
/// replaces the file at `place` when it is complete. If the program ends before, it is removed.
struct Draft {
    file: NamedTempFile,
    place: PathBuf,
}

impl Draft {
    fn new(path: &Path) -> anyhow::Result<Self> {
        let place = match std::fs::canonicalize(path) {
            Ok(place) => {
                // A device or a directory must not be replaced.
                ensure!(place.is_file(), "cannot be written: not a file");
                // A read-only file must not be replaced.
                File::options().write(true).open(&place).context("cannot be written")?;
                place
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let name = path.file_name().context("cannot be written: not a file's name")?;
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                let parent = parent.unwrap_or(Path::new("."));
                std::fs::canonicalize(parent).context("cannot be written")?.join(name)
            }
            Err(error) => return Err(error).context("cannot be written"),
        };
        let directory = place.parent().context("cannot be written: not a file's name")?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(".loadtest-").permissions(Permissions::from_mode(MODE));
        let file = builder.tempfile_in(directory).context("cannot be written")?;
        Ok(Self { file, place })
    }

    fn finish(mut self, text: &str) -> anyhow::Result<()> {
        let about = || format!("the report was not written to {}", self.place.display());
        let written = self.file.write_all(text.as_bytes());
        written.and_then(|()| self.file.as_file().sync_all()).with_context(about)?;
        self.file.persist(&self.place).map(drop).with_context(about)
    }
}

/// The only member that reports of all formats have.
#[derive(Deserialize)]
struct Form {
    format: u32,
}

fn read(path: &Path) -> anyhow::Result<Report> {
    let mut text = Vec::new();
    let file = File::open(path).context("cannot be read")?;
    file.take(REPORT_BYTES_MAX + 1).read_to_end(&mut text).context("cannot be read")?;
    ensure!(text.len() as u64 <= REPORT_BYTES_MAX, "longer than {REPORT_BYTES_MAX} bytes");
    let Form { format } =
        serde_json::from_slice(&text).context("not a report of this program (--save, --json)")?;
    ensure!(
        format == Report::FORMAT,
        "a report of format {format}; this program reads and writes {}",
        Report::FORMAT
    );
    serde_json::from_slice(&text).context("a report that was changed or cut")
}
