//! `route`: shows the slots and shards of keys.

use std::io::{BufWriter, Write};
use std::sync::Arc;

use clap::Args;
use model::keyspace::partition_column::PartitionError;
use model::keyspace::{KeyError, ShardKey};
use model::shard_map::partitions::{explain, location};
use model::table::Table;
use serde::Serialize;
use sqlite::offline_view::DirView;

use super::keys::Keys;
use super::router::Router;
use super::{ClusterSource, CommandError};
use crate::terminal::{Terminal, Unwritten};

/// Code with which a router refuses a key without its partition.
const PARTITION_MISSING: &str = "(TSR355)";
/// Remedy for a key without its partition.
pub(super) const NAME_PARTITION: &str = "name it with --partition";

/// Options of `route`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  shard-manager route user_123 user_124
  shard-manager route user_123 --table transactions
  shard-manager route user_123 --partition A
  cut -d, -f1 users.csv | shard-manager route -
  shard-manager route user_123 --url http://127.0.0.1:3000 --json")]
pub(super) struct RouteArgs {
    /// Shard keys; `-` reads them from standard input, one per line
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<String>,
    /// Table of the rows, whose table group applies [default: the group main]
    #[arg(long, value_name = "TABLE")]
    table: Option<String>,
    /// Partition of the rows, in a keyspace by a column: the value of that column
    #[arg(long, value_name = "VALUE")]
    partition: Option<String>,
    #[command(flatten)]
    source: ClusterSource,
}

/// Slot and shard of a key.
#[derive(Debug, Serialize)]
struct Routed {
    key: String,
    /// Name of the table group, if a table is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    slot: u64,
    shard: String,
    primary: String,
    replicas: Vec<String>,
    epoch: u64,
}

/// Source from which the slots and shards of keys are read.
struct Map<'a> {
    view: View<'a>,
    /// Partition of the rows, if `--partition` is given.
    partition: Option<&'a str>,
}

/// Shard map, in files or of a router, and the table of the rows, if one is given.
enum View<'a> {
    Files(DirView, Option<Arc<Table>>),
    Router(Router, Option<&'a str>),
}

impl<'a> View<'a> {
    fn open(args: &'a RouteArgs) -> Result<Self, CommandError> {
        let table = args.table.as_deref();
        if let Some(address) = args.source.router() {
            return Ok(Self::Router(Router::at(&address)?, table));
        }
        let view = DirView::open(&args.source.data_dir()?)?;
        let table = table.map(|name| declared(&view, name)).transpose()?;
        Ok(Self::Files(view, table))
    }
}

/// Returns the table with this name in the schema of the shards.
fn declared(view: &DirView, name: &str) -> Result<Arc<Table>, CommandError> {
    let tables = view.tables()?;
    tables.find(name).cloned().ok_or_else(|| {
        let known = tables.tables().map(|table| table.name()).collect::<Vec<_>>().join(", ");
        CommandError::Refused(format!("there is no table `{name}`; there are: {known}"))
    })
}

/// Shows the slots and shards of keys.
pub(super) fn run(args: &RouteArgs, terminal: &Terminal) -> Result<(), CommandError> {
    let map = Map { view: View::open(args)?, partition: args.partition.as_deref() };
    if args.keys.iter().any(|key| key == "-") {
        return stream(&map, &args.keys, terminal);
    }
    let routed: Result<Vec<Routed>, CommandError> =
        args.keys.iter().map(|key| map.route(key)).collect();
    let routed = routed?;
    let shown = terminal.show(&routed, |terminal| {
        let rows: Vec<Vec<String>> = routed.iter().map(Routed::cells).collect();
        terminal.table(&HEADS, &rows)
    });
    Ok(shown?)
}

/// Prints the result for each key before the next one is read, because there may be any number of
/// keys.
fn stream(map: &Map<'_>, keys: &[String], terminal: &Terminal) -> Result<(), CommandError> {
    let out = BufWriter::new(std::io::stdout().lock());
    let mut list = List { out, json: terminal.is_json(), printed: 0 };
    let ended = list.print_all(map, keys);
    // The output is completed even after an error, because the results before it are printed.
    let closed = list.close();
    ended?;
    Ok(closed?)
}
const HEADS: [&str; 5] = ["key", "slot", "shard", "primary", "replicas"];

/// Output of the results for all keys: a JSON array, or lines with tabs.
struct List<W> {
    out: W,
    json: bool,
    printed: u64,
}

impl<W: Write> List<W> {
    fn print_all(&mut self, map: &Map<'_>, keys: &[String]) -> Result<(), CommandError> {
        for key in keys {
            if key != "-" {
                self.print(&map.route(key)?)?;
                continue;
            }
            let mut lines = Keys::new("standard input", std::io::stdin().lock());
            while let Some(key) = lines.next()? {
                let routed = map.route(&key).map_err(|error| lines.refused(&error))?;
                self.print(&routed)?;
            }
        }
        Ok(())
    }

    fn print(&mut self, routed: &Routed) -> Result<(), Unwritten> {
        let begin = match (self.json, self.printed) {
            (true, 0) => "[".to_owned(),
            (true, _) => ",\n".to_owned(),
            (false, 0) => HEADS.join("\t") + "\n",
            (false, _) => String::new(),
        };
        self.printed += 1;
        let line = match self.json {
            true => serde_json::to_string(routed).map_err(|error| Unwritten(error.into()))?,
            false => routed.cells().join("\t") + "\n",
        };
        write!(self.out, "{begin}{line}").map_err(Unwritten)
    }

    fn close(mut self) -> Result<(), Unwritten> {
        let end = match (self.json, self.printed) {
            (true, 0) => "[]\n",
            (true, _) => "]\n",
            (false, _) => "",
        };
        self.out.write_all(end.as_bytes()).and_then(|()| self.out.flush()).map_err(Unwritten)
    }
}

impl Routed {
    fn cells(&self) -> Vec<String> {
        let Self { key, slot, shard, primary, replicas, .. } = self;
        let replicas = if replicas.is_empty() { "-".to_owned() } else { replicas.join(",") };
        vec![key.clone(), slot.to_string(), shard.clone(), primary.clone(), replicas]
    }
}

impl Map<'_> {
    fn route(&self, key: &str) -> Result<Routed, CommandError> {
        let failed = |error: &dyn std::fmt::Display| {
            CommandError::Refused(format!("key `{}`: {error}", key.escape_debug()))
        };
        let parsed = ShardKey::parse(key).map_err(|error| failed(&error))?;
        match &self.view {
            View::Files(view, table) => {
                let found = explain(&view.map, table.as_deref(), parsed, self.partition);
                let found = found.map_err(|error| match is_partition_missing(&error) {
                    true => failed(&format!("{error}: {NAME_PARTITION}")),
                    false => failed(&error),
                })?;
                let group = table.as_ref().map(|table| view.map.groups().name_of(table.group()));
                let place = location(&view.map, found.slot);
                let mut nodes = view.nodes(place.shard).into_iter().map(|file| file.node);
                Ok(Routed {
                    key: key.to_owned(),
                    group: group.map(str::to_owned),
                    slot: u64::from(place.slot.number()),
                    shard: view.map.topology().name(place.shard).to_owned(),
                    primary: nodes.next().unwrap_or_default(),
                    replicas: nodes.collect(),
                    epoch: place.epoch,
                })
            }
            View::Router(router, table) => {
                let mut query = vec![("key", key)];
                query.extend(table.map(|table| ("table", table)));
                query.extend(self.partition.map(|partition| ("partition", partition)));
                let answer = router.get("/api/route", &query);
                let answer =
                    answer.map_err(|error| error.with_remedy(PARTITION_MISSING, NAME_PARTITION))?;
                let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
                let named = |member: &str| text(&answer[member]).unwrap_or_default();
                let replicas = answer["replicas"].as_array().into_iter().flatten();
                Ok(Routed {
                    key: key.to_owned(),
                    group: text(&answer["group"]),
                    slot: answer["slot"].as_u64().unwrap_or_default(),
                    shard: named("shard"),
                    primary: named("primary"),
                    replicas: replicas.filter_map(text).collect(),
                    epoch: answer["epoch"].as_u64().unwrap_or_default(),
                })
            }
        }
    }
}

/// Returns true if a key has no slot because its partition is not given.
fn is_partition_missing(error: &KeyError) -> bool {
    let KeyError::Partition(error) = error else { return false };
    matches!(**error, PartitionError::Missing { .. })
}
