//! `shard`: lists the shards in the catalog, and changes them, with or without a running router.
//!
//! **Not here:** the state of the nodes (`status`), the catalog (`sqlite`, `postgres`).

use std::path::PathBuf;

use clap::{Args, Subcommand};
use indicatif::HumanBytes;
use model::shard_map::ShardMap;
use model::topology::ShardNumber;
use postgres::shard_listing;
use serde::Serialize;
use serde_json::Value;
use sqlite::offline_view::DirView;

use super::CommandError;
use super::access::{CatalogArgs, CatalogPlace, with_runtime};
use super::http_agent::RouterAddress;
use super::router::Router;
use super::status::slots_of_groups;
use crate::terminal::Terminal;

mod change;

const LIST_EXAMPLES: &str = "\
Examples:
  shard-manager shard list
  shard-manager shard list --data-dir /var/lib/tessera --json
  shard-manager shard list --url http://127.0.0.1:3000
  MAINDB_URL=postgres://tessera@db1/tessera shard-manager shard list";

/// Operation on shards.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Lists the shards with their states, weights and slots
    #[command(after_help = LIST_EXAMPLES)]
    List(ListArgs),
    /// Lets a new shard join, without slots
    #[command(after_help = change::ADD_EXAMPLES)]
    Add(change::AddArgs),
    /// Changes the weight of a shard
    #[command(after_help = change::WEIGHT_EXAMPLES)]
    Weight(change::WeightArgs),
    /// Moves all slots of a shard to the others, and retires it
    #[command(after_help = change::DRAIN_EXAMPLES)]
    Drain(change::DrainArgs),
    /// Retires a shard that owns no slots
    #[command(after_help = change::REMOVE_EXAMPLES)]
    Remove(change::RemoveArgs),
}

/// Cluster whose shards are listed, on the command line.
#[derive(Args, Clone, Debug)]
struct ListArgs {
    #[command(flatten)]
    catalog: CatalogArgs,
    /// Query a running router instead of reading the catalog: it lists no retired shards
    #[arg(long, value_name = "URL", conflicts_with = "data_dir")]
    url: Option<String>,
    /// File with the API key for that router [env: TESSERA_KEY, the key itself]
    #[arg(long, value_name = "FILE", requires = "url")]
    key_file: Option<PathBuf>,
}

/// Shards of a cluster.
#[derive(Debug, Serialize)]
struct Listing {
    /// Version of the shard map.
    epoch: u64,
    shards: Vec<Listed>,
    /// Nodes over which Citus distributes the rows. Only a router of a Citus cluster lists them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nodes: Vec<ListedNode>,
}

/// Node of a Citus cluster.
#[derive(Debug, Serialize)]
struct ListedNode {
    node: String,
    state: String,
    /// Number of Citus shards on the node.
    shards: u64,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct Listed {
    number: u16,
    shard: String,
    state: String,
    weight: u32,
    slots: usize,
    /// Servers of the shard; null for files, for a shard that no router has opened yet, and in a
    /// list from a router.
    address: Option<String>,
}

/// Runs the operation.
pub(super) fn run(options: &Options, terminal: &Terminal) -> Result<(), CommandError> {
    match &options.verb {
        Verb::List(args) => list(args, terminal),
        Verb::Add(args) => change::add(args, terminal),
        Verb::Weight(args) => change::weigh(args, terminal),
        Verb::Drain(args) => change::drain(args, terminal),
        Verb::Remove(args) => change::remove(args, terminal),
    }
}

fn list(args: &ListArgs, terminal: &Terminal) -> Result<(), CommandError> {
    let listing = match &args.url {
        Some(url) => listing_of_router(url, args.key_file.clone())?,
        None => listing_of_catalog(&args.catalog)?,
    };
    let shown = terminal.show(&listing, |terminal| {
        let all = slots_of_groups(listing.shards.iter().map(|shard| shard.slots as u64).sum());
        let rows: Vec<Vec<String>> = listing.shards.iter().map(|shard| shard.cells(all)).collect();
        let columns = ["number", "shard", "state", "weight", "slots", "address"];
        let shards = format!("epoch  {}\n{}", listing.epoch, terminal.table(&columns, &rows));
        if listing.nodes.is_empty() {
            return shards;
        }
        let rows: Vec<Vec<String>> = listing.nodes.iter().map(ListedNode::cells).collect();
        format!("{shards}\n{}", terminal.table(&["node", "state", "shards", "size"], &rows))
    });
    Ok(shown?)
}

fn listing_of_catalog(catalog: &CatalogArgs) -> Result<Listing, CommandError> {
    Ok(match catalog.place()? {
        CatalogPlace::Files(data_dir) => listing(&DirView::open(&data_dir)?.map, Vec::new()),
        CatalogPlace::Server(at) => {
            let (map, rows) = with_runtime(async { Ok(shard_listing::read(&at).await?) })?;
            listing(&map, rows.into_iter().map(|row| row.address).collect())
        }
    })
}

fn listing_of_router(url: &str, key_file: Option<PathBuf>) -> Result<Listing, CommandError> {
    let router = Router::at(&RouterAddress { url: url.to_owned(), key_file })?;
    let answer = router.get("/api/shards", &[])?;
    let unread = || CommandError::Refused(format!("{url} does not answer like a router"));
    let listed = |shard: &Value| {
        let number = |name: &str| shard[name].as_u64();
        Some(Listed {
            number: number("number")?.try_into().ok()?,
            shard: shard["shard"].as_str()?.to_owned(),
            state: shard["state"].as_str()?.to_owned(),
            weight: number("weight")?.try_into().ok()?,
            slots: number("slots")?.try_into().ok()?,
            address: None,
        })
    };
    let epoch = answer["epoch"].as_u64().ok_or_else(unread)?;
    let shards = answer["shards"].as_array().ok_or_else(unread)?.iter();
    let shards: Option<Vec<Listed>> = shards.map(listed).collect();
    let nodes = answer["shards"].as_array().into_iter().flatten();
    let nodes = nodes.filter_map(|shard| shard["citus"]["nodes"].as_array()).flatten();
    let nodes = nodes.filter_map(ListedNode::of).collect();
    Ok(Listing { epoch, shards: shards.ok_or_else(unread)?, nodes })
}

fn listing(map: &ShardMap, addresses: Vec<Option<String>>) -> Listing {
    let shards = map.topology().shards().iter();
    let addresses = addresses.into_iter().chain(std::iter::repeat(None));
    let listed = (0..).zip(shards).zip(addresses).map(|((number, spec), address)| Listed {
        number,
        shard: spec.name.clone(),
        state: spec.state.name().to_owned(),
        weight: spec.weight,
        slots: map.slots_of(ShardNumber(number)).count(),
        address,
    });
    Listing { epoch: map.epoch(), shards: listed.collect(), nodes: Vec::new() }
}

impl Listed {
    /// Returns the cells of the table row of a shard. `all` is the number of slots of the cluster.
    fn cells(&self, all: f64) -> Vec<String> {
        let share = 100.0 * self.slots as f64 / all;
        vec![
            self.number.to_string(),
            self.shard.clone(),
            self.state.clone(),
            self.weight.to_string(),
            format!("{} ({share:.1} %)", self.slots),
            self.address.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    }
}

impl ListedNode {
    /// Parses a node in a response of a router; `None` if a member is missing.
    fn of(node: &Value) -> Option<Self> {
        Some(Self {
            node: node["node"].as_str()?.to_owned(),
            state: node["state"].as_str()?.to_owned(),
            shards: node["shards"].as_u64()?,
            bytes: node["bytes"].as_u64()?,
        })
    }

    fn cells(&self) -> Vec<String> {
        let size = HumanBytes(self.bytes).to_string();
        vec![self.node.clone(), self.state.clone(), self.shards.to_string(), size]
    }
}
