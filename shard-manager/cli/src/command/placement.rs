//! `placement`: shows the owners of slots, and compares other placements.

mod show;

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use model::keyspace::{Keyspace, SLOT_COUNT, ShardKey, Slot};
use model::placement::Placement;
use model::simulation::{Algorithm, ChangeError, Load, Simulated, TopologyChange, simulate};
use model::topology::{ShardSpec, Topology};
use serde::Serialize;
use sqlite::offline_view::DirView;

use super::CommandError;
use super::atomic_file::refused;
use super::keys::Keys;
use crate::terminal::Terminal;

/// Operation of `placement`.
#[derive(Args, Debug)]
pub(super) struct PlacementArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Shows the owners of slots
    #[command(after_help = "\
Examples:
  shard-manager placement show
  shard-manager placement show --ranges | grep shard2
  shard-manager placement show --url http://127.0.0.1:3000 --json")]
    Show(show::ShowArgs),
    /// Compares all placements by evenness and by the slots that would move
    #[command(after_help = "\
Without --add, --remove and --reweight three changes are tried: one more shard, the last one
removed, the first one with twice its weight. A default change that cannot be tried is left out,
with a note. Each placement is recomputed and compared with itself before; `rebalance` keeps what
it can of the cluster in --data-dir, or of a weighted placement. Skew is the load of the fullest
shard as a multiple of what its weight demands.

Examples:
  shard-manager placement simulate --shards 3
  shard-manager placement simulate --weights 50,25,25 --add 25 --remove shard3
  shard-manager placement simulate --shards 4 --reweight shard1=3 --keys user_ids.txt
  shard-manager placement simulate --shards 3 --placement ring:16 --placement ring:1024
  shard-manager placement simulate --shards 3 --add 1 --json")]
    Simulate(SimulateArgs),
}

#[derive(Args, Debug)]
struct SimulateArgs {
    /// Number of shards
    #[arg(long, value_name = "N", conflicts_with = "weights")]
    shards: Option<usize>,
    /// Weight of each shard
    #[arg(long, value_name = "W,W,…", value_delimiter = ',')]
    weights: Option<Vec<u32>>,
    /// Cluster whose shards are used if neither is given; otherwise three shards
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Try an additional shard of this weight
    #[arg(long, value_name = "WEIGHT", num_args = 0..=1, default_missing_value = "1")]
    add: Vec<u32>,
    /// Try the removal of this shard
    #[arg(long, value_name = "NAME")]
    remove: Vec<String>,
    /// Try another weight of a shard
    #[arg(long, value_name = "NAME=WEIGHT", value_parser = reweight)]
    reweight: Vec<(String, u32)>,
    /// Also try this placement, in the notation of the router's configuration
    #[arg(long, value_name = "PLACEMENT")]
    placement: Vec<Placement>,
    /// Count the keys of this file, one per line, instead of slots
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// Keyspace that maps keys to slots
    #[arg(long, value_name = "NAME", requires = "keys")]
    keyspace: Option<Keyspace>,
}

fn reweight(text: &str) -> Result<(String, u32), String> {
    let (name, weight) = text.split_once('=').ok_or("expected NAME=WEIGHT")?;
    let weight = weight.parse().map_err(|_| format!("`{weight}` is not a weight"))?;
    Ok((name.to_owned(), weight))
}

/// Runs the subcommand.
pub(super) fn run(args: &PlacementArgs, terminal: &Terminal) -> Result<(), CommandError> {
    match &args.what {
        What::Show(args) => show::run(args, terminal),
        What::Simulate(args) => try_all(args, terminal),
    }
}

fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

/// Result of a comparison, as JSON.
#[derive(Debug, Serialize)]
struct Compared {
    /// Counted unit: `slots` or `keys`.
    unit: &'static str,
    total: u64,
    algorithms: Vec<Simulated>,
    left_out: Vec<LeftOut>,
}

/// Default placement or default change that was left out because it cannot be tried.
#[derive(Debug, Serialize)]
struct LeftOut {
    /// Name of the algorithm or of the change.
    what: String,
    cause: String,
}

impl LeftOut {
    fn new(what: &impl ToString, cause: &ChangeError) -> Self {
        Self { what: what.to_string(), cause: cause.to_string() }
    }
}

fn try_all(args: &SimulateArgs, terminal: &Terminal) -> Result<(), CommandError> {
    let failed = |error: &dyn std::fmt::Display| CommandError::Refused(error.to_string());
    let view = match &args.data_dir {
        Some(dir) => Some(DirView::open(dir)?),
        None => None,
    };
    let weights = match (&args.weights, args.shards) {
        (Some(weights), _) => Some(weights.clone()),
        // A number above the maximum is reduced to the maximum plus one, which is refused as well,
        // so that no huge vector is allocated.
        (None, Some(shards)) => Some(vec![1; shards.min(Topology::SIMULATED_SHARDS_MAX + 1)]),
        (None, None) => None,
    };
    let topology = match (weights, &view) {
        (Some(weights), _) => Topology::simulated_with_weights(&weights),
        (None, Some(view)) => Ok(view.map.topology().clone()),
        (None, None) => Topology::with_weights(&[1, 1, 1]),
    };
    let topology = topology.map_err(|error| failed(&error))?;
    let (changes, mut left_out) = changes(args, &topology)?;
    let load = match &args.keys {
        None => Load::of_slots(),
        Some(file) => match (&args.keyspace, &view) {
            (None, Some(view)) => count(file, |key| view.map.place(key).map(|place| place.slot))?,
            (keyspace, _) => {
                let usual = Keyspace::default();
                let keyspace = keyspace.as_ref().unwrap_or(&usual);
                count(file, |key| keyspace.slot_of(key))?
            }
        },
    };
    let current = view.as_ref().map(|view| &view.map).filter(|map| *map.topology() == topology);
    let current = current.map(|map| (0..SLOT_COUNT).filter_map(Slot::new).map(|s| map.owner(s)));
    let algorithms = Algorithm::all(&topology, current.map(Iterator::collect));
    let algorithms = algorithms.map_err(|error| failed(&error))?;
    let requested = args.placement.iter().cloned().map(Algorithm::Placement);
    let requested = requested.map(|algorithm| simulate(&topology, &algorithm, &changes, &load));
    let requested: Result<Vec<Simulated>, _> = requested.collect();
    let mut simulated = requested.map_err(|error| failed(&error))?;
    for algorithm in &algorithms {
        match simulate(&topology, algorithm, &changes, &load) {
            Ok(one) => simulated.push(one),
            Err(cause) => left_out.push(LeftOut::new(&algorithm.name(), &cause)),
        }
    }
    let unit = if args.keys.is_some() { "keys" } else { "slots" };
    let compared = Compared { unit, total: load.total(), algorithms: simulated, left_out };
    Ok(terminal.show(&compared, |terminal| compared_text(&compared, terminal))?)
}

/// Returns the changes to try, and the default ones that cannot be tried.
fn changes(
    args: &SimulateArgs,
    topology: &Topology,
) -> Result<(Vec<TopologyChange>, Vec<LeftOut>), CommandError> {
    let requested = args.add.iter().map(|weight| TopologyChange::Add(*weight));
    let removed = args.remove.iter().map(|name| TopologyChange::Remove(name.clone()));
    let requested = requested.chain(removed);
    let reweighted = args.reweight.iter();
    let requested = requested
        .chain(reweighted.map(|(name, weight)| TopologyChange::Reweight(name.clone(), *weight)))
        .collect::<Vec<_>>();
    for change in &requested {
        change.apply(topology).map_err(|error| CommandError::Refused(error.to_string()))?;
    }
    if !requested.is_empty() {
        return Ok((requested, Vec::new()));
    }
    let members: Vec<&ShardSpec> = topology.members().map(|(_, shard)| shard).collect();
    let mut usual = vec![TopologyChange::Add(1)];
    if let [first, .., last] = &*members {
        usual.push(TopologyChange::Remove(last.name.clone()));
        let doubled = first.weight.saturating_mul(2).min(Topology::WEIGHT_MAX);
        usual.push(TopologyChange::Reweight(first.name.clone(), doubled));
    }
    let mut left_out = Vec::new();
    usual.retain(|change| {
        let applied = change.apply(topology);
        left_out.extend(applied.as_ref().err().map(|cause| LeftOut::new(change, cause)));
        applied.is_ok()
    });
    Ok((usual, left_out))
}

/// Counts the keys of a file by slot.
fn count<E: std::fmt::Display>(
    file: &Path,
    slot_of: impl Fn(ShardKey<'_>) -> Result<Slot, E>,
) -> Result<Load, CommandError> {
    let opened = File::open(file).map_err(|error| refused(file, &error))?;
    let mut load = Load::of_keys();
    let mut keys = Keys::new(file.display(), BufReader::new(opened));
    while let Some(key) = keys.next()? {
        let key = ShardKey::parse(&key).map_err(|error| keys.refused(&error))?;
        load.add(slot_of(key).map_err(|error| keys.refused(&error))?);
    }
    if load.total() == 0 {
        return Err(refused(file, &"it holds no keys"));
    }
    Ok(load)
}

fn compared_text(compared: &Compared, terminal: &Terminal) -> String {
    let Compared { unit, total, algorithms, left_out } = compared;
    let mut lines = vec![format!("{total} {unit}; skew 1 is ideal")];
    let note = |out: &LeftOut| format!("note: {} is left out: {}", out.what, out.cause);
    lines.extend(left_out.iter().map(note));
    let mut rows = Vec::new();
    for algorithm in algorithms {
        for share in &algorithm.before.shards {
            let part = share.load as f64 / (*total).max(1) as f64;
            rows.push(vec![
                algorithm.algorithm.clone(),
                share.shard.clone(),
                share.weight.to_string(),
                share.load.to_string(),
                percent(part),
                terminal.bar(part, 24),
            ]);
        }
    }
    lines.push(terminal.table(&["placement", "shard", "weight", unit, "share", ""], &rows));
    let mut rows = Vec::new();
    let changes = algorithms.first().map_or(0, |algorithm| algorithm.changes.len());
    for change in 0..changes {
        for algorithm in algorithms {
            let moved = &algorithm.changes[change];
            rows.push(vec![
                moved.change.clone(),
                algorithm.algorithm.clone(),
                format!("{:.3}", algorithm.before.skew),
                format!("{:.3}", moved.after.skew),
                moved.load.to_string(),
                percent(moved.share),
                percent(moved.needed),
                terminal.bar(moved.share, 24),
            ]);
        }
    }
    let moved = format!("{unit} moved");
    let heads = ["change", "placement", "skew", "skew then", &moved, "share", "needed", ""];
    lines.push(terminal.table(&heads, &rows));
    lines.join("\n")
}
