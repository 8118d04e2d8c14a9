//! `restore`: creates a data directory from a copy.
//!
//! **Not here:** verifying and copying (`sqlite::backup::restore`).

use std::path::PathBuf;

use clap::Args;
use sqlite::backup::restore;

use super::backup::{judged, verify, with_bars};
use super::{CommandError, DataDirArgs, interrupt};
use crate::terminal::Terminal;

pub(super) const EXAMPLES: &str = "\
The copy is verified bit by bit before anything is created. The next start rebuilds the replicas.
Sessions that have seen more than the copy holds get an error (TSR305); idempotency keys are those
of the copy.

Examples:
  shard-manager restore --from /backups/monday --data-dir ./data
  shard-manager restore --from /backups/monday --dry-run";

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Copy that `backup` made
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    #[command(flatten)]
    cluster: DataDirArgs,
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
    let data_dir = &options.cluster.data_dir;
    let restored = with_bars(terminal, |watch| restore::restore(&options.from, data_dir, watch));
    let manifest = restored.map_err(|error| judged(&error))?;
    let shown = terminal.show(&manifest, |_| {
        let (rows, at) = (manifest.rows(), &manifest.at);
        format!("{} holds {rows} rows as of {at}; start the router over it", data_dir.display())
    });
    Ok(shown?)
}
