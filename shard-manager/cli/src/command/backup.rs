//! `backup`: makes a copy of a cluster as of one moment, or verifies one.
//!
//! If a router holds the data directory, the command sends it a request through the control socket,
//! and the router makes the copy. Otherwise the command locks the directory and copies the files
//! itself. PostgreSQL servers are read by the command itself, while routers may be running. With
//! `--url`, a router that has a backup folder of its own makes the copy there, on request over
//! HTTP.
//!
//! **Not here:** making the copy (`sqlite::backup`, `postgres::backup`).

mod on_router;

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use clap::Args;
use engine::progress_observer::{ProgressObserver, Step};
use engine::save_error::SaveError;
use indicatif::ProgressBar;
use postgres::backup::manifest::is_of_servers;
use postgres::node_address::ClusterAddress;
use serde_json::{Value, json};
use sqlite::backup::manifest::Manifest;
use sqlite::backup::{restore, stopped};
use sqlite::control::Request;
use sqlite::control::client::{ControlError, request_backup};

use super::access::with_runtime;
use super::cluster_place::{ClusterArgs, ClusterPlace};
use super::http_agent::RouterAddress;
use super::{CommandError, interrupt};
use crate::terminal::Terminal;

pub(super) const EXAMPLES: &str = "\
The copy is of one moment: it holds every write that was acknowledged before, on all shards, and
no later one. A running router continues to serve. The files of a stopped cluster are copied as
they are, also those of an older program: this is the copy to make before `migrate`. A copy holds
the key of the session tokens: keep it as safe as the data. The rows of servers are read in
snapshots; their writes wait for the running batches and a few round trips.

Examples:
  shard-manager backup --data-dir ./data --to /backups/monday
  shard-manager backup --verify /backups/monday
  SHARD_URLS=postgres://app@db1/app,postgres://app@db2/app \
    shard-manager backup --to /backups/monday
  shard-manager backup --url http://127.0.0.1:3000   into the folder of the router's backup_dir";

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Folder to create; it must not exist, or be empty
    #[arg(long, value_name = "DIR", required_unless_present_any = ["verify", "url"])]
    to: Option<PathBuf>,
    /// Verify that a copy is complete, and change nothing
    #[arg(long, value_name = "DIR", conflicts_with = "to")]
    verify: Option<PathBuf>,
    /// Let a running router make the copy in its backup folder, and wait for its end
    #[arg(long, value_name = "URL", conflicts_with_all = ["to", "verify", "data_dir"])]
    url: Option<String>,
    /// File with the API key for that router [env: TESSERA_KEY, the key itself]
    #[arg(long, value_name = "FILE", requires = "url")]
    key_file: Option<PathBuf>,
}

/// Makes or verifies a copy.
pub(super) fn run(options: &Options, terminal: &Terminal) -> Result<(), CommandError> {
    interrupt::watch();
    if let Some(url) = &options.url {
        let (url, key_file) = (url.clone(), options.key_file.clone());
        return on_router::run(&RouterAddress { url, key_file }, terminal);
    }
    if let Some(folder) = &options.verify {
        return verify(folder, terminal);
    }
    let to = options.to.as_deref().unwrap_or(Path::new(""));
    let copied = copy(&options.cluster.place()?, to, terminal)?;
    let shown = terminal.show(&copied.document, |_| {
        let Copied { rows, shards, at, bytes, held_us, .. } = &copied;
        let (mib, held) = (bytes >> 20, *held_us as f64 / 1_000.0);
        format!(
            "{} holds {rows} rows of {shards} shards as of {at} ({mib} MiB; writes waited {held:.1} ms)",
            to.display()
        )
    });
    Ok(shown?)
}

/// Copies a cluster, of files or of servers, into a new folder.
pub(super) fn copy(
    place: &ClusterPlace,
    to: &Path,
    terminal: &Terminal,
) -> Result<Copied, CommandError> {
    match place {
        ClusterPlace::Files(data_dir) => Copied::of_files(&make(data_dir, to, terminal)?),
        ClusterPlace::Servers(address) => make_of_servers(address, to, terminal),
    }
}

/// Summary of a copy of files or of servers.
pub(super) struct Copied {
    /// Manifest of the copy, as JSON.
    pub(super) document: Value,
    pub(super) rows: u64,
    pub(super) at: String,
    pub(super) shards: usize,
    pub(super) bytes: u64,
    held_us: u64,
}

impl Copied {
    /// Returns the summary of a copy of files.
    pub(super) fn of_files(manifest: &Manifest) -> Result<Self, CommandError> {
        Ok(Self {
            document: document(manifest)?,
            rows: manifest.rows().max(0).cast_unsigned(),
            at: manifest.at.clone(),
            shards: manifest.shards.len(),
            bytes: manifest.bytes(),
            held_us: manifest.held_us,
        })
    }

    /// Returns the summary of a copy of servers.
    pub(super) fn of_servers(
        manifest: &postgres::backup::manifest::ServerManifest,
    ) -> Result<Self, CommandError> {
        Ok(Self {
            document: document(manifest)?,
            rows: manifest.rows(),
            at: manifest.at.clone(),
            shards: manifest.shards.len(),
            bytes: manifest.bytes(),
            held_us: manifest.held_us,
        })
    }
}

fn document(manifest: &impl serde::Serialize) -> Result<Value, CommandError> {
    serde_json::to_value(manifest).map_err(|error| CommandError::Refused(error.to_string()))
}

fn make_of_servers(
    address: &ClusterAddress,
    to: &Path,
    terminal: &Terminal,
) -> Result<Copied, CommandError> {
    let saved = with_bars(terminal, |observer| {
        with_runtime(async { Ok(postgres::backup::save(address, to, observer).await) })
    });
    let manifest = saved?.map_err(|error| CommandError::Refused(error.to_string()))?;
    Copied::of_servers(&manifest)
}

/// Verifies that a copy is complete.
pub(super) fn verify(folder: &Path, terminal: &Terminal) -> Result<(), CommandError> {
    let copied = match is_of_servers(folder) {
        true => {
            let verified =
                with_bars(terminal, |observer| postgres::backup::restore::verify(folder, observer));
            Copied::of_servers(&verified.map_err(|error| judged(&error))?)?
        }
        false => {
            let verified = with_bars(terminal, |observer| restore::verify(folder, observer));
            Copied::of_files(&verified.map_err(|error| judged(&error))?)?
        }
    };
    let shown = terminal.show(&json!({"whole": true, "manifest": copied.document}), |_| {
        format!("{} is complete: {} rows as of {}", folder.display(), copied.rows, copied.at)
    });
    Ok(shown?)
}

/// Converts the error that a copy is incomplete or damaged to `CommandError::Found` (exit code
/// 1), and any other error to `CommandError::Refused` (exit code 2).
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
    match with_bars(terminal, |observer| request_backup(data_dir, &request, observer)) {
        Ok(manifest) => return Ok(manifest),
        Err(ControlError::NoListener) => {}
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
    let saved = with_bars(terminal, |observer| stopped::save(data_dir, &to, observer));
    saved.map_err(|error| refused(&error))
}

/// Runs work that reports progress, shows the progress as bars, and cancels the work on Ctrl-C.
pub(super) fn with_bars<T>(
    terminal: &Terminal,
    work: impl FnOnce(&ProgressObserver<'_>) -> T,
) -> T {
    let bars = Mutex::new(HashMap::new());
    let step = |step: &Step| draw(terminal, &bars, step);
    let done = work(&ProgressObserver { step: &step, cancelled: &interrupt::is_interrupted });
    for bar in bars.lock().unwrap_or_else(PoisonError::into_inner).values() {
        bar.finish_and_clear();
    }
    done
}

fn draw(terminal: &Terminal, bars: &Mutex<HashMap<String, ProgressBar>>, step: &Step) {
    let (name, done, total) = match step {
        Step::Copying { shard, bytes, of } => (shard.as_str(), *bytes, *of),
        // These steps have no bar, because it is not known how much clients still write.
        Step::Following { .. } | Step::Held { .. } => return,
        Step::Checking { bytes, of } => ("checking", *bytes, *of),
        Step::Writing { bytes, of } => ("writing", *bytes, *of),
    };
    let mut bars = bars.lock().unwrap_or_else(PoisonError::into_inner);
    let bar = bars.entry(name.to_owned()).or_insert_with(|| terminal.progress(name, total));
    bar.set_length(total.max(done));
    bar.set_position(done);
}
