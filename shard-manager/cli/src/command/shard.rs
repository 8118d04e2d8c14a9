//! `shard`: lists the shards in the catalog, and changes them, beside a running router or without
//! one.
//!
//! **Not here:** the state of the nodes (`status`), the catalog (`sqlite`, `postgres`).

use clap::{Args, Subcommand};
use model::keyspace::SLOT_COUNT;
use model::shard_map::ShardMap;
use model::topology::ShardNumber;
use postgres::shard_listing;
use serde::Serialize;
use sqlite::offline_view::DirView;

use super::CommandError;
use super::access::{CatalogArgs, CatalogPlace, with_runtime};
use crate::terminal::Terminal;

mod change;

const LIST_EXAMPLES: &str = "\
Examples:
  shard-manager shard list
  shard-manager shard list --data-dir /var/lib/tessera --json
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
    List(CatalogArgs),
    /// Lets a new shard join, without slots
    #[command(after_help = change::ADD_EXAMPLES)]
    Add(change::AddArgs),
    /// Gives a shard another weight
    #[command(after_help = change::WEIGHT_EXAMPLES)]
    Weight(change::WeightArgs),
    /// Retires a shard that owns no slots
    #[command(after_help = change::REMOVE_EXAMPLES)]
    Remove(change::RemoveArgs),
}

/// Shards of a cluster.
#[derive(Debug, Serialize)]
struct Listing {
    /// Version of the shard map.
    epoch: u64,
    shards: Vec<Listed>,
}

#[derive(Debug, Serialize)]
struct Listed {
    number: u16,
    shard: String,
    state: &'static str,
    weight: u32,
    slots: usize,
    /// Servers of the shard; null for files, and until a router has opened it.
    address: Option<String>,
}

/// Runs the operation.
pub(super) fn run(options: &Options, terminal: &Terminal) -> Result<(), CommandError> {
    match &options.verb {
        Verb::List(catalog) => list(catalog, terminal),
        Verb::Add(args) => change::add(args, terminal),
        Verb::Weight(args) => change::weigh(args, terminal),
        Verb::Remove(args) => change::remove(args, terminal),
    }
}

fn list(catalog: &CatalogArgs, terminal: &Terminal) -> Result<(), CommandError> {
    let (map, addresses) = match catalog.place()? {
        CatalogPlace::Files(data_dir) => (DirView::open(&data_dir)?.map, Vec::new()),
        CatalogPlace::Server(at) => {
            let (map, rows) = with_runtime(async { Ok(shard_listing::read(&at).await?) })?;
            (map, rows.into_iter().map(|row| row.address).collect())
        }
    };
    let listing = listing(&map, addresses);
    let shown = terminal.show(&listing, |terminal| {
        let rows: Vec<Vec<String>> = listing.shards.iter().map(Listed::cells).collect();
        let columns = ["number", "shard", "state", "weight", "slots", "address"];
        format!("epoch  {}\n{}", listing.epoch, terminal.table(&columns, &rows))
    });
    Ok(shown?)
}

fn listing(map: &ShardMap, addresses: Vec<Option<String>>) -> Listing {
    let shards = map.topology().shards().iter();
    let addresses = addresses.into_iter().chain(std::iter::repeat(None));
    let listed = (0..).zip(shards).zip(addresses).map(|((number, spec), address)| Listed {
        number,
        shard: spec.name.clone(),
        state: spec.state.name(),
        weight: spec.weight,
        slots: map.slots_of(ShardNumber(number)).count(),
        address,
    });
    Listing { epoch: map.epoch(), shards: listed.collect() }
}

impl Listed {
    fn cells(&self) -> Vec<String> {
        let share = 100.0 * self.slots as f64 / f64::from(SLOT_COUNT);
        vec![
            self.number.to_string(),
            self.shard.clone(),
            self.state.to_owned(),
            self.weight.to_string(),
            format!("{} ({share:.1} %)", self.slots),
            self.address.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    }
}
