//! `restore`: creates a data directory from a copy, or fills empty databases of servers from it.
//!
//! **Not here:** verifying and copying (`sqlite::backup::restore`, `postgres::backup::restore`).

use std::path::PathBuf;

use clap::Args;
use postgres::backup::manifest::is_of_servers;
use sqlite::backup::restore;
use tokio::runtime::{Builder, Runtime};

use super::backup::{Copied, judged, verify, with_bars};
use super::cluster_place::{ClusterArgs, ClusterPlace};
use super::{CommandError, interrupt};
use crate::terminal::Terminal;

pub(super) const EXAMPLES: &str = "\
The copy is verified bit by bit before anything is created. The next start rebuilds the replicas.
Sessions that have seen more than the copy holds get an error (TSR305), and on servers all session
tokens become invalid; idempotency keys are those of the copy. A copy of servers goes into empty
databases, one for each shard, in the order of the copy; with MAINDB_URL the catalog goes there. A
restore that was cut off is repeated by the same command.

Examples:
  shard-manager restore --from /backups/monday --data-dir ./data
  shard-manager restore --from /backups/monday --dry-run
  SHARD_URLS=postgres://app@new1/app,postgres://app@new2/app \
    shard-manager restore --from /backups/monday";

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Copy that `backup` made
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Verify that the copy is complete, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Restores or verifies a copy.
pub(super) fn run(options: &Options, terminal: &Terminal) -> Result<(), CommandError> {
    interrupt::watch();
    if options.dry_run {
        return verify(&options.from, terminal);
    }
    let of_servers = is_of_servers(&options.from);
    let (copied, place) = match options.cluster.place()? {
        ClusterPlace::Files(_) if of_servers => {
            let line =
                "this is a copy of servers: name an empty database for each shard in SHARD_URLS";
            return Err(CommandError::Refused(line.to_owned()));
        }
        ClusterPlace::Files(data_dir) => {
            let restored = with_bars(terminal, |observer| {
                restore::restore(&options.from, &data_dir, observer)
            });
            let manifest = restored.map_err(|error| judged(&error))?;
            (Copied::of_files(&manifest)?, data_dir.display().to_string())
        }
        ClusterPlace::Servers(_) if !of_servers && options.from.join("catalog.db").exists() => {
            let line = "this is a copy of files: name a data directory with --data-dir";
            return Err(CommandError::Refused(line.to_owned()));
        }
        ClusterPlace::Servers(address) => {
            let restored = with_bars(terminal, |observer| {
                let restored =
                    postgres::backup::restore::restore(&options.from, &address, observer);
                Ok::<_, CommandError>(runtime()?.block_on(restored))
            });
            let manifest = restored?.map_err(|error| judged(&error))?;
            (Copied::of_servers(&manifest)?, "the cluster of SHARD_URLS".to_owned())
        }
    };
    let shown = terminal.show(&copied.document, |_| {
        format!("{place} holds {} rows as of {}; start the router over it", copied.rows, copied.at)
    });
    Ok(shown?)
}

/// Creates a multi-threaded runtime, because migrations call `block_in_place`, which needs one.
fn runtime() -> Result<Runtime, CommandError> {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.map_err(|error| CommandError::Refused(error.to_string()))
}
