//! `migrate`: migrates the files of a stopped cluster to the schema of this program.

use clap::Args;
use serde::Serialize;
use sqlite::migrate::{Migrated, migrate, plan};

use super::{CommandError, DataDirArgs};
use crate::terminal::Terminal;

/// Options of `migrate`.
#[derive(Args, Debug)]
#[command(after_help = "\
A start of the router does the same. Make a backup first. The next run continues an interrupted
migration.

Examples:
  shard-manager migrate --dry-run
  shard-manager migrate --data-dir /var/lib/tessera")]
pub(super) struct MigrateArgs {
    #[command(flatten)]
    place: DataDirArgs,
    /// Only show what would be done; works beside a running router
    #[arg(long)]
    dry_run: bool,
}

/// File with the names of its migrations, as JSON.
#[derive(Debug, Serialize)]
struct FileDone<'m> {
    file: &'m str,
    migrations: &'m [String],
}

/// Migrates a cluster.
pub(super) fn run(args: &MigrateArgs, terminal: &Terminal) -> Result<(), CommandError> {
    let dir = args.place.dir("name files with --data-dir")?;
    if args.dry_run {
        return show(&plan(&dir)?, terminal);
    }
    let mut done = Vec::new();
    let ended = migrate(&dir, |file| done.push(file.clone()));
    // The list is shown even if a file could not be migrated, because the files before it stay
    // migrated.
    let shown = match ended.is_ok() || !done.is_empty() {
        true => show(&done, terminal),
        false => Ok(()),
    };
    ended?;
    shown
}

fn show(files: &[Migrated], terminal: &Terminal) -> Result<(), CommandError> {
    let documents: Vec<FileDone<'_>> =
        files.iter().map(|file| FileDone { file: &file.file, migrations: &file.applied }).collect();
    let shown = terminal.show(&documents, |terminal| {
        let rows: Vec<Vec<String>> = files
            .iter()
            .map(|file| {
                let applied = file.applied.join(" ");
                let applied = if applied.is_empty() { "up to date".to_owned() } else { applied };
                vec![file.file.clone(), applied]
            })
            .collect();
        terminal.table(&["file", "migrations"], &rows)
    });
    Ok(shown?)
}
