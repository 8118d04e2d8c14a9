//! `backup`: a copy of a cluster as of one moment.
//!
//! The holder of the data directory makes the copy: a running router does it on request through its
//! socket; without one, the command locks the directory itself and copies the files.
//!
//! **Not here:** making the copy (`sqlite::backup`).

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use clap::Args;
use indicatif::ProgressBar;
use serde_json::json;
use sqlite::backup::manifest::Manifest;
use sqlite::backup::{SaveError, Step, Watch, restore, stopped};
use sqlite::control::Request;
use sqlite::control::client::{ControlError, ask};

use super::{CommandError, DataDirArgs, interrupt};
use crate::terminal::Terminal;

pub(super) const EXAMPLES: &str = "\
The copy is of one moment: it holds every write that was acknowledged before, on all shards, and
no later one. A running router continues to serve. The files of a stopped cluster are copied as
they are, also those of an older program: this is the copy to make before `migrate`. A copy holds
the key of the session tokens: keep it as safe as the data.

Examples:
  shard-manager backup --data-dir ./data --to /backups/monday
  shard-manager backup --verify /backups/monday";

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    cluster: DataDirArgs,
    /// Folder to create; it must not exist, or be empty
    #[arg(long, value_name = "DIR", required_unless_present = "verify")]
    to: Option<PathBuf>,
    /// Verify that a copy is complete, and change nothing
    #[arg(long, value_name = "DIR", conflicts_with = "to")]
    verify: Option<PathBuf>,
}

/// Makes or verifies a copy.
pub(super) fn run(options: &Options, terminal: &Terminal) -> Result<(), CommandError> {
    interrupt::watch();
    if let Some(folder) = &options.verify {
        return verify(folder, terminal);
    }
    let to = options.to.as_deref().unwrap_or(Path::new(""));
    let manifest = make(&options.cluster.data_dir, to, terminal)?;
    let shown = terminal.show(&manifest, |_| {
        let rows = manifest.rows();
        let (shards, at) = (manifest.shards.len(), &manifest.at);
        let (mib, held) = (manifest.bytes() >> 20, manifest.held_us as f64 / 1_000.0);
        format!(
            "{} holds {rows} rows of {shards} shards as of {at} ({mib} MiB; writes waited {held:.1} ms)",
            to.display()
        )
    });
    Ok(shown?)
}

/// Verifies that a copy is complete.
pub(super) fn verify(folder: &Path, terminal: &Terminal) -> Result<(), CommandError> {
    let verified = with_bars(terminal, |watch| restore::verify(folder, watch));
    let manifest = verified.map_err(|error| judged(&error))?;
    let shown = terminal.show(&json!({"whole": true, "manifest": manifest}), |_| {
        let (rows, at) = (manifest.rows(), &manifest.at);
        format!("{} is complete: {rows} rows as of {at}", folder.display())
    });
    Ok(shown?)
}

/// Converts an incomplete copy to a found fault, and any other error to a refusal.
pub(super) fn judged(error: &SaveError) -> CommandError {
    if matches!(error, SaveError::Unsuitable { .. }) {
        return CommandError::Found(error.to_string());
    }
    CommandError::Refused(error.to_string())
}

fn make(data_dir: &Path, to: &Path, terminal: &Terminal) -> Result<Manifest, CommandError> {
    let refused = |error: &dyn std::fmt::Display| CommandError::Refused(error.to_string());
    let to = std::path::absolute(to).map_err(|error| refused(&error))?;
    let request = Request::Backup { to: to.clone() };
    match with_bars(terminal, |watch| ask(data_dir, &request, watch)) {
        Ok(manifest) => return Ok(manifest),
        Err(ControlError::NobodyListens) => {}
        Err(ControlError::Unreachable(error)) if error.kind() == ErrorKind::PermissionDenied => {
            let line = format_args!(
                "{} belongs to another user: only the user of the router may back it up ({error})",
                data_dir.display()
            );
            return Err(refused(&line));
        }
        Err(
            error @ (ControlError::Unreachable(_)
            | ControlError::Refused(_)
            | ControlError::Broken(_)),
        ) => return Err(refused(&error)),
    }
    let saved = with_bars(terminal, |watch| stopped::save(data_dir, &to, watch));
    saved.map_err(|error| refused(&error))
}

/// Runs work that reports progress, shows the progress as bars, and cancels the work on Ctrl-C.
pub(super) fn with_bars<T>(terminal: &Terminal, work: impl FnOnce(&Watch<'_>) -> T) -> T {
    let bars = Mutex::new(HashMap::new());
    let step = |step: &Step| draw(terminal, &bars, step);
    let done = work(&Watch { step: &step, cancelled: &interrupt::asked });
    for bar in bars.lock().unwrap_or_else(PoisonError::into_inner).values() {
        bar.finish_and_clear();
    }
    done
}

fn draw(terminal: &Terminal, bars: &Mutex<HashMap<String, ProgressBar>>, step: &Step) {
    let (name, done, total) = match step {
        Step::Copying { shard, bytes, of } => (shard.as_str(), *bytes, *of),
        // The amount of concurrent writes is unknown.
        Step::Following { .. } | Step::Held { .. } => return,
        Step::Checking { bytes, of } => ("checking", *bytes, *of),
        Step::Writing { bytes, of } => ("writing", *bytes, *of),
    };
    let mut bars = bars.lock().unwrap_or_else(PoisonError::into_inner);
    let bar = bars.entry(name.to_owned()).or_insert_with(|| terminal.progress(name, total));
    bar.set_length(total.max(done));
    bar.set_position(done);
}
