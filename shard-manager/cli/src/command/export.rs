//! `export`: writes all rows of a table, or of all tables, as NDJSON or CSV.
//!
//! **Not here:** reading the rows (`sqlite::export`, `postgres::export`).

mod source;

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use engine::export::{ExportError, ExportFormat};
use serde::Serialize;

use self::source::ExportSource;
use super::atomic_file::{Target, refused};
use super::cluster_place::ClusterArgs;
use super::format::FormatName;
use super::{CommandError, interrupt};
use crate::terminal::{Terminal, say};

/// Options of `export`.
#[derive(Args, Debug)]
#[command(after_help = "\
Each shard is read in one snapshot of its files or of its server, beside running routers too: so
there is no --url. It is complete, or an error says that it is not; a file gets its name when it is
complete. Lines without --system are what `import` and a bulk write take back:

  shard-manager export --table users --output users.ndjson
  curl --data-binary @users.ndjson -H 'Content-Type: application/x-ndjson' \\
       'http://127.0.0.1:3000/api/bulk-write?table=users'

Examples:
  shard-manager export --table users | head
  shard-manager export --table orders --output orders.csv
  shard-manager export --all --output /backup/tessera
  SHARD_URLS=postgres://app@db1/app,postgres://app@db2/app \\
    shard-manager export --table users")]
pub(super) struct ExportArgs {
    #[command(flatten)]
    place: ClusterArgs,
    /// Table to export
    #[arg(long, value_name = "TABLE", required_unless_present = "all", conflicts_with = "all")]
    table: Option<String>,
    /// Export all tables, one file each, into the folder --output
    #[arg(long, requires = "output")]
    all: bool,
    /// Format of the rows [default: csv if --output ends in .csv, else ndjson]
    #[arg(long, value_enum)]
    format: Option<FormatName>,
    /// File to write [default: standard output, also written as -]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Include `shard_key`, `version`, `created_at` and `updated_at`
    #[arg(long)]
    system: bool,
}

impl ExportArgs {
    /// Returns the format. With `--all`, `--output` names a folder, whose name does not determine
    /// the format.
    fn format(&self) -> FormatName {
        FormatName::of(self.format, self.output.as_deref().filter(|_| !self.all))
    }
}

/// Table that was exported, and the file with its rows.
#[derive(Debug, Serialize)]
struct Exported {
    table: String,
    rows: u64,
    file: String,
}

/// Exports a table, or all tables.
pub(super) fn run(args: &ExportArgs, terminal: &Terminal) -> Result<(), CommandError> {
    let to_stdout = args.output.as_deref().is_none_or(|output| output == Path::new("-"));
    if args.all && to_stdout {
        return Err(CommandError::Refused(
            "--all writes a file each: name a folder with --output".into(),
        ));
    }
    if to_stdout && terminal.is_json() {
        let line = "--json lists the files written: name one with --output";
        return Err(CommandError::Refused(line.into()));
    }
    let place = args.place.place()?;
    let output = args.output.as_deref().filter(|_| !to_stdout);
    // Checked first, because a snapshot may fail for a cause whose remedy takes long.
    match (output, &args.table) {
        (Some(file), Some(_)) => Target::check(file)?,
        (Some(folder), None) => {
            fs::create_dir_all(folder).map_err(|error| refused(folder, &error))?;
        }
        (None, _) => {}
    }
    let mut export = ExportSource::open(&place, args.table.as_deref())?;
    let Some(output) = output else {
        let table = args.table.as_deref().unwrap_or_default();
        let rows = write(args, &mut export, table, &mut io::stdout().lock(), terminal)?;
        say(format_args!("{rows} rows of {table}"));
        return Ok(());
    };
    interrupt::watch();
    let tables: Vec<(String, PathBuf)> = match &args.table {
        Some(table) => vec![(table.clone(), output.to_owned())],
        None => {
            let file = |name: &str| output.join(format!("{name}.{}", args.format().ending()));
            export.tables().into_iter().map(|name| (name.clone(), file(&name))).collect()
        }
    };
    let mut exported = Vec::with_capacity(tables.len());
    for (table, file) in tables {
        let rows = write_file(args, &mut export, (&table, &file), terminal)?;
        say(format_args!("{rows} rows of {table} in {}", file.display()));
        exported.push(Exported { table, rows, file: file.display().to_string() });
    }
    if terminal.is_json() {
        terminal.show(&exported, |_| String::new())?;
    }
    Ok(())
}

fn write(
    args: &ExportArgs,
    export: &mut ExportSource,
    table: &str,
    out: &mut dyn Write,
    terminal: &Terminal,
) -> Result<u64, CommandError> {
    let bar = terminal.progress(table, export.row_count(table) as u64);
    let format = match args.format() {
        FormatName::Ndjson => ExportFormat::Ndjson,
        FormatName::Csv => ExportFormat::Csv,
    };
    let format = (format, args.system);
    let written = export.write(table, format, out, &|rows| bar.set_position(rows));
    bar.finish_and_clear();
    written.map_err(command_error)
}

/// Replaces the file atomically: it has either all rows or its old contents.
fn write_file(
    args: &ExportArgs,
    export: &mut ExportSource,
    (table, file): (&str, &Path),
    terminal: &Terminal,
) -> Result<u64, CommandError> {
    let mut out = Target::begin(file)?;
    let rows = write(args, export, table, &mut out, terminal)?;
    out.finish()?;
    Ok(rows)
}

fn command_error(error: ExportError) -> CommandError {
    match error {
        ExportError::Output(_) if interrupt::is_interrupted() => {
            CommandError::Refused("cancelled; what was not complete is removed".to_owned())
        }
        ExportError::Output(error) if error.kind() == ErrorKind::BrokenPipe => CommandError::Unread,
        ExportError::Short { .. } => CommandError::Found(format!("error: {error}")),
        ExportError::Open(_)
        | ExportError::Output(_)
        | ExportError::NoSuchTable { .. }
        | ExportError::TablesDiffer { .. }
        | ExportError::SlotsUnsettled { .. }
        | ExportError::MoveRests { .. } => CommandError::Refused(error.to_string()),
    }
}
