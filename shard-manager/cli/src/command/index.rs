//! `index`: builds, lists and drops secondary indexes of tables. A router builds an index on every
//! shard or on none.
//!
//! **Invariant:** an interrupt (Ctrl-C) ends the wait of a command, but never the work of the
//! router.
//! **Not here:** the requests (`place`), the wait (`wait`), building an index (`cluster`).

mod place;
mod view;
mod wait;

use clap::{Args, Subcommand};
use serde_json::json;

use self::place::{IndexPlace, NewIndex, RouterArgs};
use self::view::{IndexPlanView, IndexView};
use super::{ClusterSource, CommandError};
use crate::terminal::Terminal;

const ADD_EXAMPLES: &str = "\
The command waits until every shard has the index. On files the writes of a shard wait while its
index is built; if that would take longer than --pause-max-ms, nothing is begun. Ctrl-C ends the
wait, and the index is built nevertheless.

Examples:
  shard-manager index add orders by_status --columns status,amount --url http://127.0.0.1:3000
  shard-manager index add orders by_status --columns status --dry-run --url http://127.0.0.1:3000";
const LIST_EXAMPLES: &str = "\
Examples:
  shard-manager index list orders --url http://127.0.0.1:3000
  shard-manager index list orders --data-dir ./data --json";
const DROP_EXAMPLES: &str = "\
The command waits until no shard has the index. Ctrl-C ends the wait, and the index is dropped
nevertheless.

Example:
  shard-manager index drop orders by_status --url http://127.0.0.1:3000";

/// Operation on indexes.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Builds an index on every shard
    #[command(after_help = ADD_EXAMPLES)]
    Add(AddArgs),
    /// Lists the indexes of a table, with their states
    #[command(after_help = LIST_EXAMPLES)]
    List(ListArgs),
    /// Drops an index from every shard
    #[command(after_help = DROP_EXAMPLES)]
    Drop(DropArgs),
}

/// Index that is built, on the command line.
#[derive(Args, Clone, Debug)]
struct AddArgs {
    /// Name of the table
    #[arg(value_name = "TABLE")]
    table: String,
    /// Name of the index
    #[arg(value_name = "NAME")]
    name: String,
    /// Columns in order: first those with equality filters, then those of ranges and orders
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',', required = true)]
    columns: Vec<String>,
    /// Rows of one shard key must differ in these columns
    #[arg(long)]
    unique: bool,
    /// Longest time for which the writes of a shard may wait, on files [default: 2000]
    #[arg(long, value_name = "MS")]
    pause_max_ms: Option<u64>,
    /// Only show what would be done, and for how long writes would wait
    #[arg(long)]
    dry_run: bool,
    /// Do not wait until the index is built
    #[arg(long, conflicts_with = "dry_run")]
    no_wait: bool,
    #[command(flatten)]
    router: RouterArgs,
}

/// Indexes of a table, on the command line.
#[derive(Args, Clone, Debug)]
struct ListArgs {
    /// Name of the table
    #[arg(value_name = "TABLE")]
    table: String,
    #[command(flatten)]
    source: ClusterSource,
}

/// Index that is dropped, on the command line.
#[derive(Args, Clone, Debug)]
struct DropArgs {
    /// Name of the table
    #[arg(value_name = "TABLE")]
    table: String,
    /// Name of the index
    #[arg(value_name = "NAME")]
    name: String,
    /// Do not wait until no shard has the index
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    router: RouterArgs,
}

/// Runs the operation.
pub(super) fn run(options: &Options, terminal: &Terminal) -> Result<(), CommandError> {
    match &options.verb {
        Verb::Add(args) => add(args, terminal),
        Verb::List(args) => list(args, terminal),
        Verb::Drop(args) => remove(args, terminal),
    }
}

fn add(args: &AddArgs, terminal: &Terminal) -> Result<(), CommandError> {
    let AddArgs { table, name, columns, unique, pause_max_ms, dry_run, no_wait, router } =
        args.clone();
    let place = IndexPlace::of_router(&router, &table)?;
    let draft = NewIndex { name, columns, unique, pause_max_ms };
    if dry_run {
        let plan = place.plan(&draft)?;
        return Ok(terminal.show(&plan, |terminal| planned(&plan, terminal))?);
    }
    let begun = place.add(&draft)?;
    let last = if no_wait { begun } else { wait::until_built(&place, begun, terminal)? };
    terminal.show(&last, |_| sentence(&table, &last))?;
    if last.is_lost() {
        let reason = last.reason.as_deref().unwrap_or("the router gave no reason");
        return Err(CommandError::Found(format!("the index could not be built: {reason}")));
    }
    Ok(())
}

fn list(args: &ListArgs, terminal: &Terminal) -> Result<(), CommandError> {
    let indexes = IndexPlace::of(&args.source, &args.table)?.list()?;
    let document = json!({"table": args.table, "indexes": indexes});
    let shown = terminal.show(&document, |terminal| {
        let rows: Vec<Vec<String>> = indexes.iter().map(cells).collect();
        terminal.table(&["index", "columns", "unique", "state", "writes waited", "reason"], &rows)
    });
    Ok(shown?)
}

fn remove(args: &DropArgs, terminal: &Terminal) -> Result<(), CommandError> {
    let place = IndexPlace::of_router(&args.router, &args.table)?;
    let begun = place.remove(&args.name)?;
    if args.no_wait {
        return Ok(terminal.show(&begun, |_| sentence(&args.table, &begun))?);
    }
    wait::until_dropped(&place, begun, terminal)?;
    let (table, name) = (&args.table, &args.name);
    let document = json!({"table": table, "name": name, "state": "dropped"});
    Ok(terminal
        .show(&document, |_| format!("no shard has the index {name} of {table} any longer"))?)
}

fn cells(index: &IndexView) -> Vec<String> {
    vec![
        index.name.clone(),
        index.columns.join(", "),
        if index.unique { "yes" } else { "no" }.to_owned(),
        state(index),
        index.pause_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms")),
        index.reason.clone().unwrap_or_else(|| "-".to_owned()),
    ]
}

/// Returns the name of an index's state and, while it is being built, the number of shards that
/// have it.
fn state(index: &IndexView) -> String {
    match (index.built, index.shards) {
        (Some(built), Some(shards)) => format!("{} ({built} of {shards} shards)", index.state),
        _ => index.state.clone(),
    }
}

fn sentence(table: &str, index: &IndexView) -> String {
    let waited = index.pause_ms.map(|ms| format!("; the writes of a shard waited at most {ms} ms"));
    let (name, state) = (&index.name, state(index));
    format!("the index {name} of {table} is {state}{}", waited.unwrap_or_default())
}

fn planned(plan: &IndexPlanView, terminal: &Terminal) -> String {
    if plan.shards.is_empty() {
        return format!("the index {} exists, and is {}", plan.index.name, state(&plan.index));
    }
    let rows = plan.shards.iter().map(|shard| {
        let rows = shard.rows.map_or_else(|| "-".to_owned(), |rows| rows.to_string());
        vec![shard.shard.clone(), rows, format!("{} ms", shard.pause_ms)]
    });
    terminal.table(&["shard", "rows", "writes would wait"], &rows.collect::<Vec<_>>())
}
