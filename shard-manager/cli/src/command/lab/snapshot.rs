//! `lab snapshot`: saves named copies of a cluster, to which the cluster can be restored after an
//! experiment.
//!
//! A snapshot is a copy made by `backup`, in a folder with its name. Unlike the experiments, these
//! commands work on the cluster of the user, so `restore` asks for confirmation first.
//!
//! **Invariant:** a snapshot is never overwritten; a restore changes nothing without confirmation.
//! **Not here:** making a copy (`backup`), replacing a cluster with it (`sqlite::backup::replace`,
//! `postgres::backup::replace`), reading the folders (`snapshot_folder`).

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;
use sqlite::offline_view::DirView;
use tokio::runtime::Builder;

use super::snapshot_folder::{ListedSnapshot, Snapshot, SnapshotFolder, TableDigest};
use crate::command::CommandError;
use crate::command::backup::{copy, judged, with_bars};
use crate::command::cluster_place::{ClusterArgs, ClusterPlace};
use crate::command::input_stream::Input;
use crate::terminal::{Terminal, say};

pub(super) const EXAMPLES: &str = "\
A snapshot contains all shards as of one moment, with every write that was acknowledged before the
command; a running router continues to serve. Restoring replaces the cluster of the snapshot, which
must be stopped. It asks for confirmation first, because everything written since is lost. API keys
are suspended, as after every restore.

Examples:
  shard-manager lab snapshot save before-load
  shard-manager lab snapshot list
  shard-manager lab snapshot restore before-load
  SHARD_URLS=postgres://app@db1/app,postgres://app@db2/app \
    shard-manager lab snapshot restore before-load --yes";

/// Maximum number of bytes that are read as the reply to the request for confirmation.
const LINE_MAX: u64 = 100;

#[derive(Args, Debug)]
pub(super) struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Saves the cluster as of one moment, under a new name
    Save {
        /// Name of the snapshot
        name: String,
        #[command(flatten)]
        place: SnapshotPlace,
        #[command(flatten)]
        cluster: ClusterArgs,
    },
    /// Replaces the stopped cluster with a snapshot of it, and compares the digests of all rows
    Restore {
        /// Name of the snapshot
        name: String,
        #[command(flatten)]
        place: SnapshotPlace,
        #[command(flatten)]
        cluster: ClusterArgs,
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
    },
    /// Lists the snapshots
    List {
        #[command(flatten)]
        place: SnapshotPlace,
    },
}

/// Folder of the snapshots, on the command line.
#[derive(Args, Debug)]
struct SnapshotPlace {
    /// Folder of the snapshots
    #[arg(long, value_name = "DIR", default_value = "./tessera-snapshots")]
    snapshots: PathBuf,
}

pub(super) fn run(options: &Options, terminal: &Terminal) -> Result<(), CommandError> {
    match &options.verb {
        Verb::Save { name, place, cluster } => {
            let folder = SnapshotFolder::new(&place.snapshots).free(name)?;
            save(name, &folder, (&cluster.place()?, terminal))
        }
        Verb::Restore { name, place, cluster, yes } => {
            let snapshot = SnapshotFolder::new(&place.snapshots).find(name)?;
            restore(&snapshot, &cluster.place()?, (*yes, terminal))
        }
        Verb::List { place } => list(&SnapshotFolder::new(&place.snapshots).all()?, terminal),
    }
}

fn save(
    name: &str,
    folder: &Path,
    (cluster, terminal): (&ClusterPlace, &Terminal),
) -> Result<(), CommandError> {
    if let ClusterPlace::Files(data_dir) = cluster {
        // This refuses files of an older version, which could be copied, but whose digests could
        // not be computed.
        DirView::open(data_dir)?;
    }
    let copied = copy(cluster, folder, terminal)?;
    let snapshot = Snapshot::read(folder)?;
    let document = json!({
        "snapshot": name,
        "folder": folder,
        "at": copied.at,
        "rows": copied.rows,
        "digests": snapshot.digests()?,
    });
    let shown = terminal.show(&document, |_| {
        format!(
            "{name} holds {} rows of {} shards as of {}; `lab snapshot restore {name}` restores it",
            copied.rows, copied.shards, copied.at
        )
    });
    Ok(shown?)
}

fn restore(
    snapshot: &Snapshot,
    cluster: &ClusterPlace,
    (yes, terminal): (bool, &Terminal),
) -> Result<(), CommandError> {
    let place = check(snapshot, cluster)?;
    if !yes && !is_confirmed(snapshot, &place)? {
        let line =
            "nothing was changed, because the restore was not confirmed; --yes skips the question";
        return Err(CommandError::Refused(line.to_owned()));
    }
    let digests = match cluster {
        ClusterPlace::Files(data_dir) => {
            let replaced = with_bars(terminal, |observer| {
                sqlite::backup::replace::replace(&snapshot.folder, data_dir, observer)
            });
            TableDigest::of_shards(replaced.map_err(|error| judged(&error))?.digests)
        }
        ClusterPlace::Servers(address) => {
            // Migrations call `block_in_place`, which needs a multi-threaded runtime.
            let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
            let runtime = runtime.map_err(|error| CommandError::Refused(error.to_string()))?;
            let replaced = with_bars(terminal, |observer| {
                let from = &snapshot.folder;
                runtime.block_on(postgres::backup::replace::replace(from, address, observer))
            });
            replaced.map_err(|error| judged(&error))?;
            // `replace` has read the restored rows back, and they have the digests of the snapshot.
            snapshot.digests()?
        }
    };
    let document = json!({
        "snapshot": snapshot.name,
        "at": snapshot.facts.at,
        "rows": snapshot.facts.rows,
        "digests": digests,
    });
    let shown = terminal.show(&document, |terminal| {
        format!(
            "{}\n{place} is restored to {}: the digests of all tables match those of {}; start the router",
            table(&digests, terminal),
            snapshot.facts.at,
            snapshot.name
        )
    });
    Ok(shown?)
}

/// Checks, as far as this is possible without a change, that a cluster can be replaced by a
/// snapshot. Returns the location of the cluster, for messages.
fn check(snapshot: &Snapshot, cluster: &ClusterPlace) -> Result<String, CommandError> {
    match (cluster, snapshot.is_of_servers()) {
        (ClusterPlace::Files(data_dir), false) => {
            let place = sqlite::backup::replace::check(&snapshot.folder, data_dir);
            Ok(place.map_err(|error| judged(&error))?.display().to_string())
        }
        (ClusterPlace::Servers(_), true) => Ok("the cluster of SHARD_URLS".to_owned()),
        (ClusterPlace::Files(_), true) => {
            let line =
                "this is a snapshot of servers: name the databases of its cluster in SHARD_URLS";
            Err(CommandError::Refused(line.to_owned()))
        }
        (ClusterPlace::Servers(_), false) => {
            let line = "this is a snapshot of files: name their data directory with --data-dir";
            Err(CommandError::Refused(line.to_owned()))
        }
    }
}

/// Asks for confirmation that a cluster is to be replaced.
fn is_confirmed(snapshot: &Snapshot, place: &str) -> Result<bool, CommandError> {
    say(format_args!(
        "{place} will hold the {} rows of {}, as of {}; everything written since is lost. Continue? [y/N]",
        snapshot.facts.rows, snapshot.name, snapshot.facts.at
    ));
    let mut line = String::new();
    let read = BufReader::new(Input::open(Path::new("-"))?).take(LINE_MAX).read_line(&mut line);
    read.map_err(|error| CommandError::Refused(error.to_string()))?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

fn table(digests: &[TableDigest], terminal: &Terminal) -> String {
    let row = |one: &TableDigest| {
        vec![one.shard.clone(), one.table.clone(), one.rows.to_string(), one.digest.clone()]
    };
    let rows: Vec<Vec<String>> = digests.iter().map(row).collect();
    terminal.table(&["shard", "table", "rows", "digest"], &rows)
}

fn list(all: &[ListedSnapshot], terminal: &Terminal) -> Result<(), CommandError> {
    let document = |found: &ListedSnapshot| match found {
        Ok(Snapshot { name, folder, facts, .. }) => json!({
            "snapshot": name,
            "folder": folder,
            "at": facts.at,
            "shards": facts.shards,
            "rows": facts.rows,
            "bytes": facts.bytes,
        }),
        Err((name, cause)) => json!({"snapshot": name, "unusable": cause}),
    };
    let documents: Vec<_> = all.iter().map(document).collect();
    let shown = terminal.show(&json!({"snapshots": documents}), |terminal| {
        if all.is_empty() {
            return "there are no snapshots; `lab snapshot save NAME` makes one".to_owned();
        }
        let row = |found: &ListedSnapshot| match found {
            Ok(snapshot) => {
                let facts = &snapshot.facts;
                let engine = if snapshot.is_of_servers() { "postgres" } else { "files" };
                let numbers = [facts.shards.to_string(), facts.rows.to_string()];
                let [shards, rows] = numbers;
                let mib = format!("{:.1}", facts.bytes as f64 / f64::from(1 << 20));
                vec![snapshot.name.clone(), facts.at.clone(), engine.to_owned(), shards, rows, mib]
            }
            Err((name, cause)) => {
                let rest = std::iter::repeat_n("-".to_owned(), 4);
                [name.clone(), cause.clone()].into_iter().chain(rest).collect()
            }
        };
        let rows: Vec<Vec<String>> = all.iter().map(row).collect();
        terminal.table(&["snapshot", "as of", "engine", "shards", "rows", "MiB"], &rows)
    });
    Ok(shown?)
}
