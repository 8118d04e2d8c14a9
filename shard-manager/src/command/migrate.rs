//! `migrate`: brings the files of a stopped cluster to the schema of this program.

use clap::Args;
use serde::Serialize;
use shard_manager::store::sqlite::migrate::{Migrated, migrate, plan};

use super::{Trouble, Where};
use crate::screen::Screen;

/// What to migrate.
#[derive(Args, Debug)]
#[command(after_help = "\
A start of the router does the same. Make a backup before. What was interrupted goes on with the next run.

Examples:
  shard-manager migrate --dry-run
  shard-manager migrate --data-dir /var/lib/tessera")]
pub(super) struct MigrateArgs {
    #[command(flatten)]
    place: Where,
    /// Only tell what would be done; works beside a running router
    #[arg(long)]
    dry_run: bool,
}

/// A file and what was done to it, as JSON.
#[derive(Debug, Serialize)]
struct FileDone<'m> {
    file: &'m str,
    migrations: &'m [String],
}

/// Migrates a cluster.
pub(super) fn run(args: &MigrateArgs, screen: &Screen) -> Result<(), Trouble> {
    let dir = &args.place.data_dir;
    if args.dry_run {
        return show(&plan(dir)?, screen);
    }
    let mut done = Vec::new();
    let ended = migrate(dir, |file| done.push(file.clone()));
    // Also of a run that failed half-way: what was migrated stays so.
    let shown = match ended.is_ok() || !done.is_empty() {
        true => show(&done, screen),
        false => Ok(()),
    };
    ended?;
    shown
}

fn show(files: &[Migrated], screen: &Screen) -> Result<(), Trouble> {
    let documents: Vec<FileDone<'_>> =
        files.iter().map(|file| FileDone { file: &file.file, migrations: &file.applied }).collect();
    let shown = screen.show(&documents, |screen| {
        let rows: Vec<Vec<String>> = files
            .iter()
            .map(|file| {
                let applied = file.applied.join(" ");
                let applied = if applied.is_empty() { "up to date".to_owned() } else { applied };
                vec![file.file.clone(), applied]
            })
            .collect();
        screen.table(&["file", "migrations"], &rows)
    });
    Ok(shown?)
}
