//! `audit`: verifies the audit log of a router.
//!
//! **Invariant:** the files are only read. A log that a router writes during the check is not
//! reported as faulty for that reason.
//! **Not here:** the form of a log (`access::audit`).

use std::fs::{File, Metadata};
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use access::audit::check::{ChainCheck, ChainFault, ChainSummary, HeadComparison};
use access::audit::{FILES_MAX, LINE_MAX, file_path};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::super::CommandError;
use super::catalog_place::CatalogArgs;
use crate::terminal::Terminal;

/// Operation on audit logs.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Checks that no line of an audit log was changed, removed, moved or cut off
    #[command(after_help = "\
Reads FILE.7 to FILE.1, as far as they exist, and FILE, and names the first line that is wrong. With
a catalog, the end of the log is compared with the line that its router kept there: without one, the
removal of the last lines is not found, nor that the whole log was written again. Works beside a
running router.

Examples:
  shard-manager audit verify /var/log/tessera/audit.log --data-dir ./data
  shard-manager audit verify audit.log --json

Exit code 1: a line is wrong; 2: the log cannot be read.")]
    Verify {
        /// Audit log of a router, as its setting `audit_log` names it
        #[arg(value_name = "FILE")]
        log: PathBuf,
        #[command(flatten)]
        catalog: CatalogArgs,
    },
}

/// Runs the operation.
pub(crate) fn run(options: &Options, terminal: &Terminal) -> Result<(), CommandError> {
    let Verb::Verify { log, catalog } = &options.verb;
    // The catalog is read before the log. In the other order, a line that was written in between
    // could seem to be missing from the log.
    let heads = catalog.named()?.map(|place| place.audit_heads()).transpose()?;
    let files = open(log)?;
    let report = verify(files, ChainCheck::new(heads))?;
    let shown = terminal.show(&report, |_| text(&report));
    match &report.fault {
        None => Ok(shown?),
        Some(_) => Err(CommandError::Found("the audit log is not as it was written".to_owned())),
    }
}

/// Open file of a log.
struct LogFile {
    path: PathBuf,
    file: File,
}

/// Result of checking a log.
#[derive(Serialize)]
struct LogReport {
    ok: bool,
    files: Vec<PathBuf>,
    #[serde(flatten)]
    summary: ChainSummary,
    catalog: HeadComparison,
    /// Number of bytes of an incomplete last line: the router is still writing it, or was killed.
    torn_bytes: u64,
    fault: Option<LineFault>,
}

/// First line that is not as a router wrote it.
#[derive(Serialize)]
struct LineFault {
    file: PathBuf,
    line: u64,
    fault: String,
}

/// Device number and inode number, which identify a file whatever its name is.
type FileIdentity = (u64, u64);

fn identity(metadata: &Metadata) -> FileIdentity {
    (metadata.dev(), metadata.ino())
}

/// Opens the files of a log, the oldest first. A router that begins a new file renames the older
/// ones; if this happens meanwhile, all files are opened again.
fn open(log: &Path) -> Result<Vec<LogFile>, CommandError> {
    let refused = |path: &Path, error: std::io::Error| {
        CommandError::Refused(format!("{}: {error}", path.display()))
    };
    loop {
        let (mut files, mut opened) = (Vec::new(), Vec::new());
        for path in (0..FILES_MAX).rev().map(|number| file_path(log, number)) {
            match File::open(&path) {
                Ok(file) => {
                    let metadata = file.metadata().map_err(|error| refused(&path, error))?;
                    opened.push(Some(identity(&metadata)));
                    files.push(LogFile { path, file });
                }
                Err(error) if error.kind() == ErrorKind::NotFound => opened.push(None),
                Err(error) => return Err(refused(&path, error)),
            }
        }
        // Renaming never returns a file to a path that it had before. So if each file is still at
        // its path, none was renamed while they were opened.
        if identities(log) != opened {
            continue;
        }
        if files.is_empty() {
            let path = log.display();
            return Err(CommandError::Refused(format!("{path}: there is no audit log")));
        }
        return Ok(files);
    }
}

/// Returns the identity of the file at each path of a log, the oldest first; `None` for a path
/// without a file.
fn identities(log: &Path) -> Vec<Option<FileIdentity>> {
    let paths = (0..FILES_MAX).rev().map(|number| file_path(log, number));
    paths.map(|path| std::fs::metadata(path).ok().map(|metadata| identity(&metadata))).collect()
}

fn verify(files: Vec<LogFile>, mut check: ChainCheck) -> Result<LogReport, CommandError> {
    let paths: Vec<PathBuf> = files.iter().map(|file| file.path.clone()).collect();
    let count = files.len();
    let (mut torn_bytes, mut fault, mut line) = (0, None, 0);
    for (number, LogFile { path, file }) in (1..).zip(files) {
        check.begin_file();
        line = 0;
        let mut reader = BufReader::new(file);
        let mut text = Vec::new();
        while fault.is_none() {
            text.clear();
            let mut limited = (&mut reader).take(LINE_MAX as u64);
            limited
                .read_until(b'\n', &mut text)
                .map_err(|error| CommandError::Refused(format!("{}: {error}", path.display())))?;
            let checked = match text.strip_suffix(b"\n") {
                Some(text) => check.push(text),
                None if text.is_empty() => break,
                None if text.len() == LINE_MAX => Err(ChainFault::NotALine),
                None if number < count => Err(ChainFault::Torn),
                None => {
                    torn_bytes = text.len() as u64;
                    break;
                }
            };
            line += 1;
            fault = checked.err().map(|fault| (path.clone(), fault));
        }
        if fault.is_some() {
            break;
        }
    }
    let catalog = match (&fault, check.finish()) {
        (None, Ok(compared)) => compared,
        (None, Err(cut_off)) => {
            fault = paths.last().map(|path| (path.clone(), cut_off));
            HeadComparison::None
        }
        (Some(_), _) => HeadComparison::None,
    };
    let fault = fault.map(|(file, fault)| LineFault { file, line, fault: fault.to_string() });
    let summary = check.summary().clone();
    Ok(LogReport { ok: fault.is_none(), files: paths, summary, catalog, torn_bytes, fault })
}

fn text(report: &LogReport) -> String {
    let ChainSummary { lines, requests, lost, starts, crashes, first, last, .. } = &report.summary;
    let mut text = Vec::new();
    if let (Some(first), Some(last)) = (first, last) {
        text.push(format!(
            "lines {} to {} of {} file(s), {} to {}: {lines} lines about {requests} requests, {starts} start(s)",
            first.seq,
            last.seq,
            report.files.len(),
            first.time,
            last.time,
        ));
    }
    if *crashes > 0 {
        text.push(format!("note: {crashes} time(s) the router did not end in order"));
    }
    if *lost > 0 {
        text.push(format!("note: {lost} event(s) were lost and have no line"));
    }
    if report.torn_bytes > 0 {
        text.push(format!(
            "note: the last {} bytes are not a whole line: it is being written, or the router was killed",
            report.torn_bytes
        ));
    }
    let end = match (&report.fault, report.catalog) {
        (Some(fault), _) => {
            format!("{}: line {} {}", fault.file.display(), fault.line, fault.fault)
        }
        (None, HeadComparison::None) => {
            "every line is as it was written; no catalog was given, so the end was not compared"
                .to_owned()
        }
        (None, HeadComparison::UnknownLog) => {
            "every line is as it was written; the catalog does not know this log, so the end was not compared"
                .to_owned()
        }
        (None, HeadComparison::Older) => {
            "every line is as it was written; the line that the catalog keeps is older than the files"
                .to_owned()
        }
        (None, HeadComparison::Equal) => {
            "every line is as it was written, and the log reaches the line that the catalog keeps"
                .to_owned()
        }
    };
    text.push(end);
    text.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn every_step_of_a_rotation_is_noticed_and_a_new_line_is_none() {
        let folder = format!("tessera-audit-verify-{}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        // A failed run of this test may have left the folder, if its process had the same id.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        let log = folder.join("audit.log");
        for number in 0..3 {
            fs::write(file_path(&log, number), "").unwrap();
        }
        let opened = identities(&log);
        assert_eq!(opened.iter().flatten().count(), 3);
        fs::write(&log, "a line\n").unwrap();
        assert_eq!(identities(&log), opened);
        for number in (0..3).rev() {
            fs::rename(file_path(&log, number), file_path(&log, number + 1)).unwrap();
            assert_ne!(identities(&log), opened, "{number}");
        }
        fs::write(&log, "").unwrap();
        assert_ne!(identities(&log), opened);
        assert_eq!(open(&log).map(|files| files.len()).ok(), Some(4));
        fs::remove_dir_all(&folder).unwrap();
    }
}
