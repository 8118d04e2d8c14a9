//! `import`: stores the rows of a file.
//!
//! **Not here:** reading rows (`import::row_reader`), storing rows (`import`, `upload`).

use std::path::{Path, PathBuf};
use std::time::Instant;

use ::import::row_reader::{ImportFormat, ReadError, RowReader};
use ::import::store_rows;
use access::rights::Rights;
use assembly::{self, EmbeddedCluster};
use clap::{Args, ValueEnum};
use cluster::manager::Manager;
use engine::cluster_spec::ClusterSpec;
use model::row_change::Operation;
use serde_json::json;

use super::format::FormatName;
use super::generate::{Bars, Stored};
use super::http_agent::RouterAddress;
use super::input_stream::Input;
use super::upload::Router;
use super::{CommandError, Destination, Store, interrupt};
use crate::terminal::Terminal;

pub(super) const EXAMPLES: &str = "\
NDJSON is one object a line, the columns of a row, as `export` writes it; it may name the
shard_key as well. The first line of CSV names the columns; an empty field is null unless it is
quoted. Rows of one key are stored in their order. Rows that fail are shown: by their lines, or
through a router by their numbers from 0, without blank lines.

Examples:
  shard-manager import --table users --input users.ndjson
  shard-manager import --table orders --input orders.csv --data-dir ./data
  zcat users.ndjson.gz | shard-manager import --table users --op insert";

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Table of all rows
    #[arg(long, value_name = "T")]
    table: String,
    /// Format of the rows [default: csv if --input ends in .csv, else ndjson]
    #[arg(long, value_enum)]
    format: Option<FormatName>,
    /// File to read; - is standard input
    #[arg(long, value_name = "FILE", default_value = "-")]
    input: PathBuf,
    /// Treatment of a row that exists
    #[arg(long, value_enum, default_value_t = OperationName::Upsert)]
    op: OperationName,
    #[command(flatten)]
    destination: Destination,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OperationName {
    /// Change its columns
    Upsert,
    /// Refuse the new row
    Insert,
}

/// Stores the rows.
pub(super) fn run(options: Options, terminal: &Terminal) -> Result<(), CommandError> {
    interrupt::watch();
    let began = Instant::now();
    let input = Input::open(&options.input)?;
    let bars = Bars::new(terminal);
    let stored = match options.destination.store() {
        Store::Files(data_dir) => {
            let manager = hold(&data_dir)?;
            let stored = store_in_files(&manager, &options, input, &bars);
            manager.close();
            stored
        }
        Store::Router(address) => store_through_router(&address, &options, input),
    };
    bars.end();
    let stored = stored?;
    let seconds = began.elapsed().as_secs_f64();
    let (total, failed) = (stored.total(), stored.failed);
    let document = json!({
        "table": options.table, "stored": total, "failed": failed, "seconds": seconds,
        "first_failed": stored.first_failed,
    });
    let shown = terminal.show(&document, |_| {
        format!("{total} rows of {} are stored, {failed} failed, in {seconds:.1} s", options.table)
    });
    stored.check_complete(total + failed, terminal)?;
    Ok(shown?)
}

/// Opens the cluster in a data directory, which no other process may use until this command ends.
fn hold(data_dir: &Path) -> Result<Manager, CommandError> {
    if !data_dir.join("catalog.db").exists() {
        let dir = data_dir.display();
        return Err(CommandError::Refused(format!(
            "{dir} is not a data directory: there is no catalog.db"
        )));
    }
    let cluster = EmbeddedCluster { data_dir: data_dir.to_owned(), wanted: ClusterSpec::default() };
    assembly::open_primaries(&cluster).map_err(|error| CommandError::Refused(error.to_string()))
}

fn store_in_files(
    manager: &Manager,
    options: &Options,
    input: Input,
    bars: &Bars<'_>,
) -> Result<Stored, CommandError> {
    let table = manager.schema(Rights::ALL).table(&options.table);
    let table = table.map_err(|error| CommandError::Refused(error.to_string()))?;
    let format = match options.format() {
        FormatName::Ndjson => ImportFormat::Ndjson,
        FormatName::Csv => ImportFormat::Csv,
    };
    let mut reading = RowReader::new(input, format, manager, (&table, options.operation()));
    let mut cancelled = false;
    let next = || {
        cancelled = interrupt::is_interrupted();
        if cancelled { Ok(None) } else { reading.next_chunk() }
    };
    let count_rows = |shard, rows| bars.add(manager.shard_name(shard), rows);
    let (filled, read) = store_rows(manager, next, count_rows);
    let stored = Stored { by_line: true, ..Stored::of(manager, filled) };
    let reached = |cause: String| {
        let (rows, failed, line) = (stored.total(), stored.failed, reading.line());
        CommandError::Refused(format!(
            "{cause}; {rows} rows before line {line} are stored and stay, {failed} failed, the rest were not read"
        ))
    };
    match read {
        Err(ReadError::Io(_)) if interrupt::is_interrupted() => {
            Err(reached("cancelled".to_owned()))
        }
        Err(error @ ReadError::Columns { .. }) => Err(CommandError::Refused(error.to_string())),
        Err(error) => Err(reached(error.to_string())),
        Ok(()) if cancelled => Err(reached("cancelled".to_owned())),
        Ok(()) => Ok(stored),
    }
}

fn store_through_router(
    address: &RouterAddress,
    options: &Options,
    input: Input,
) -> Result<Stored, CommandError> {
    let refused = |error: &dyn std::fmt::Display| CommandError::Refused(error.to_string());
    let router = Router::at(address).map_err(|error| refused(&error))?;
    let content_type = match options.format() {
        FormatName::Ndjson => "application/x-ndjson",
        FormatName::Csv => "text/csv",
    };
    let what = (options.table.as_str(), options.operation().name());
    let answer = router.stream(what, content_type, input);
    let answer = answer.map_err(|error| refused(&error))?;
    let (failed, first_failed) = answer.failures();
    let shards = answer.shards.into_iter().map(|shard| (shard.shard, shard.rows)).collect();
    Ok(Stored { shards, failed, first_failed, ..Stored::default() })
}

impl Options {
    fn format(&self) -> FormatName {
        FormatName::of(self.format, Some(&self.input))
    }

    fn operation(&self) -> Operation {
        match self.op {
            OperationName::Upsert => Operation::Upsert,
            OperationName::Insert => Operation::Insert,
        }
    }
}
