//! Audit: checks the file of the audit log.
//!
//! Only the newest file is read: `shard-manager audit verify` reads all of them.
//!
//! **Invariant:** the files are only read, and no finding repeats a line.
//! **Not here:** the form of a log (`shard_manager::access::audit`).

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use shard_manager::access::audit::chain::AuditHead;
use shard_manager::access::audit::check::{ChainCheck, ChainFault, HeadComparison};
use shard_manager::access::audit::{FILES_MAX, LINE_MAX, file_path};
use shard_manager::doctor::{Finding, audit_heads_of_files, audit_heads_of_servers};

use crate::config::{AuditTarget, Config, Engine};

/// Command that checks all files of a log.
const VERIFY: &str = "shard-manager audit verify";

/// Runs the checks. Returns no findings if the audit log is not a file.
pub(super) async fn examine(config: &Config) -> Vec<Finding> {
    let AuditTarget::File(log) = &config.access.audit.target else { return Vec::new() };
    let about = log.display().to_string();
    if let Some(fault) = examine_file(log) {
        return vec![Finding::fault(about, fault)];
    }
    // The catalog's records of the last lines are read before the log. The log only grows, so it
    // contains these lines if nothing is lost.
    let heads = match &config.engine {
        Engine::Embedded { data_dir } => audit_heads_of_files(data_dir),
        Engine::Postgres(cluster) => audit_heads_of_servers(cluster).await,
    };
    let mut found = Vec::new();
    let heads = heads.map_err(|error| {
        let text = format!("the end of the audit log cannot be compared: {error}");
        found.push(Finding::warning(&about, text));
    });
    let path = log.clone();
    let heads = heads.ok();
    let checked = tokio::task::spawn_blocking(move || examine_chain(&path, heads)).await;
    let checked = checked.unwrap_or_else(|error| Err(error.to_string()));
    found.push(match checked {
        Ok(text) => Finding::good(&about, text),
        Err(text) => Finding::warning(&about, text),
    });
    found
}

/// Returns the reason why a router could not write the log.
fn examine_file(log: &Path) -> Option<String> {
    match fs::metadata(log) {
        Ok(found) if !found.is_file() => Some("is not a regular file".to_owned()),
        Ok(found) => {
            let mode = found.mode() & 0o777;
            let is_open = mode & 0o027 != 0;
            is_open.then(|| {
                format!("others may read or change it (mode {mode:o}): set the mode to 600")
            })
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let folder = log.parent().filter(|folder| !folder.as_os_str().is_empty());
            let is_missing = folder.is_some_and(|folder| !folder.is_dir());
            is_missing.then(|| "its folder does not exist".to_owned())
        }
        Err(error) => Some(error.to_string()),
    }
}

/// Checks the lines of the newest file, and compares them with the last line that the catalog
/// knows. Blocks the thread.
fn examine_chain(log: &Path, heads: Option<Vec<AuditHead>>) -> Result<String, String> {
    let Some(path) = newest_file(log) else {
        return Ok("does not exist yet: the router creates it".to_owned());
    };
    let mut check = ChainCheck::new(heads);
    let read = read_lines(&path, &mut check).map_err(|error| error.to_string())?;
    let wrong = |fault: ChainFault| {
        let (line, path) = (check.summary().lines + 1, path.display());
        format!("line {line} of {path} {fault}: {VERIFY} examines the whole log")
    };
    read.map_err(wrong)?;
    let compared =
        check.finish().map_err(|fault| format!("the last line of {} {fault}", path.display()))?;
    let lines = check.summary().lines;
    Ok(match compared {
        HeadComparison::None => format!("{lines} line(s) are as they were written"),
        HeadComparison::UnknownLog => {
            format!("{lines} line(s) are as they were written; the catalog does not know this log")
        }
        HeadComparison::Older | HeadComparison::Equal => format!(
            "{lines} line(s) are as they were written, and none that the catalog knows is missing"
        ),
    })
}

/// Returns the newest file that is not empty. A full file is renamed before the next one begins, so
/// that the current file may be missing or empty.
fn newest_file(log: &Path) -> Option<PathBuf> {
    let mut files = (0..FILES_MAX).map(|number| file_path(log, number));
    files.find(|path| fs::metadata(path).is_ok_and(|found| found.len() > 0))
}

/// Checks the complete lines of a file. The last line may be incomplete, because it is being
/// written, or because the router was killed while it wrote.
fn read_lines(path: &Path, check: &mut ChainCheck) -> io::Result<Result<(), ChainFault>> {
    let mut reader = BufReader::new(File::open(path)?);
    check.begin_file();
    let mut text = Vec::new();
    loop {
        text.clear();
        (&mut reader).take(LINE_MAX as u64).read_until(b'\n', &mut text)?;
        let Some(line) = text.strip_suffix(b"\n") else {
            let is_too_long = text.len() == LINE_MAX;
            return Ok(if is_too_long { Err(ChainFault::NotALine) } else { Ok(()) });
        };
        if let Err(fault) = check.push(line) {
            return Ok(Err(fault));
        }
    }
}
