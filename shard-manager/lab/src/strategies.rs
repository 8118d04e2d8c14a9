//! Strategies: applies every combination of keyspace and placement to the same keys. It compares
//! each shard's share of the keys, the keys that move when the shards change, and the cost of a
//! lookup.
//!
//! **Invariant:** all combinations for a key set use the same keys; all results except the times
//! depend on the settings only.
//! **Not here:** clusters. Nothing is stored; moves are only computed.

mod cost;
mod explanation;
mod pictures;

use std::time::Instant;

use model::keyspace::{Keyspace, SLOT_COUNT, ShardKey};
use model::placement::Placement;
use model::shard_map::{ShardMap, SlotRange};
use model::simulation::{Algorithm, Load, Moved, TopologyChange, simulate};
use model::topology::{ShardSpec, Topology};

use crate::chart::{BarChart, Chart};
use crate::experiment_observer::ExperimentObserver;
use crate::key_set::{KEYS_MAX, KeyKind, LabKeys};
use crate::lab_error::LabError;
use crate::report::{Cell, Report, ReportTable, shards_in_words};

/// Settings of the experiment.
#[derive(Clone, Debug)]
pub struct StrategiesOptions {
    /// Kinds of keys to generate, each of which is a key set; may be empty if the user provides
    /// keys.
    pub kinds: Vec<KeyKind>,
    /// Key set that the user provides, if any.
    pub own_keys: Option<LabKeys>,
    /// Number of keys of each generated key set.
    pub keys: u64,
    /// Weight of each shard.
    pub weights: Vec<u32>,
    /// Additional keyspaces to try on the user's keys, besides those that [`LabKeys::keyspaces`]
    /// returns.
    pub keyspaces: Vec<Keyspace>,
    /// Seed of the generated keys.
    pub seed: u64,
}

/// Results of one keyspace with one placement on one key set.
#[derive(Clone, Debug)]
struct Tried {
    keyspace: String,
    placement: String,
    skew: f64,
    /// Fraction of the keys that are on the shard with the most keys.
    fullest: f64,
    /// Keys that each change of the shards moves; `None` if the placement does not permit the
    /// change.
    moved: Vec<Option<Moved>>,
}

/// Results of all combinations on one key set.
#[derive(Clone, Debug)]
struct TriedSet {
    name: String,
    tried: Vec<Tried>,
}

/// Carries out the experiment.
///
/// # Errors
/// [`LabError::Impossible`] before anything was computed, or [`LabError::Cancelled`].
pub fn run(
    options: &StrategiesOptions,
    observer: &dyn ExperimentObserver,
) -> Result<Report, LabError> {
    let began = Instant::now();
    let topology = checked(options)?;
    let changes = changes(&topology);
    let mut report = Report::new("strategies", options.seed)
        .set("shards", topology.len())
        .set("weights", joined(&options.weights));
    let mut sets = Vec::new();
    let mut costs = cost::table();
    let bar = observer.bar("key sets", options.sets() as u64);
    for set in options.key_sets() {
        let keyspaces = options.keyspaces_of(&set);
        report = report.set("keys", format!("{} {}", set.keys.len(), set.name));
        let mut tried = TriedSet { name: set.name.clone(), tried: Vec::new() };
        for (label, keyspace) in &keyspaces {
            observer.check_cancelled()?;
            let load = load_of(&set, keyspace);
            for placement in placements(keyspace, &topology) {
                tried.tried.push(try_one((label, &placement), &topology, &changes, &load)?);
            }
            cost::measure(&mut costs, &set, (label, keyspace), &topology);
        }
        report.tables.push(table(&tried, &topology, &changes));
        report.charts.push(skew_chart(&tried));
        sets.push(tried);
        bar.add(1);
    }
    report.charts.push(moved_chart(&sets, &changes));
    report.charts.extend(pictures::of(&topology, &changes));
    report.tables.push(costs);
    report.explanation = explanation::of(&sets);
    Ok(report.ended(began.elapsed()))
}

impl StrategiesOptions {
    fn sets(&self) -> usize {
        self.kinds.len() + usize::from(self.own_keys.is_some())
    }

    /// Returns an iterator that generates one key set at a time, because each may need much memory.
    fn key_sets(&self) -> impl Iterator<Item = LabKeys> + '_ {
        let generated =
            self.kinds.iter().map(|kind| LabKeys::generated(*kind, self.keys, self.seed));
        self.own_keys.iter().cloned().chain(generated)
    }

    /// Returns the keyspaces to try on a key set, each with its label in tables and charts. A
    /// keyspace of the user may have the same name as one that was fitted to the keys.
    fn keyspaces_of(&self, set: &LabKeys) -> Vec<(String, Keyspace)> {
        let fitted = set.keyspaces().into_iter();
        let fitted = fitted.map(|keyspace| (keyspace_label(&keyspace), keyspace));
        let own = self.keyspaces.iter().filter(|_| self.own_keys.is_some()).enumerate();
        let own = own.map(|(at, keyspace)| {
            let name = keyspace_label(keyspace);
            let label = match self.keyspaces.len() {
                1 => format!("{name} (--keyspace)"),
                _ => format!("{name} (--keyspace {})", at + 1),
            };
            (label, keyspace.clone())
        });
        fitted.chain(own).collect()
    }
}

/// Checks the settings, and returns the topology, which is the shards with their weights.
fn checked(options: &StrategiesOptions) -> Result<Topology, LabError> {
    let topology = Topology::with_weights(&options.weights).map_err(LabError::impossible)?;
    let own = options.own_keys.iter().map(|set| set.keys.len() as u64).max();
    let keys = own.unwrap_or(0).max(options.keys);
    if !(1..=KEYS_MAX).contains(&keys) {
        let line = format!("a set has 1 to {KEYS_MAX} keys, not {keys}");
        return Err(LabError::Impossible(line));
    }
    if options.sets() == 0 {
        return Err(LabError::Impossible("there are no keys: name a set, or a file".to_owned()));
    }
    for keyspace in &options.keyspaces {
        if let Some(column) = keyspace.column() {
            let line = format!(
                "keyspace {keyspace} takes the partition from the column {column} of a row, and the keys have no rows: \
                 name it without the column, and let the keys begin with the partition"
            );
            return Err(LabError::Impossible(line));
        }
        let own = options.own_keys.as_ref();
        if own.is_none_or(|own| !own.fits(keyspace)) {
            let line = format!("keyspace {keyspace} has no slot for some of the keys of the file");
            return Err(LabError::Impossible(line));
        }
    }
    Ok(topology)
}

fn joined(weights: &[u32]) -> String {
    weights.iter().map(u32::to_string).collect::<Vec<_>>().join(":")
}

/// Returns the changes of the shards that are tried: adding a shard of weight 1, removing the last
/// shard, and doubling the weight of the first one.
fn changes(topology: &Topology) -> Vec<TopologyChange> {
    let members: Vec<&ShardSpec> = topology.members().map(|(_, shard)| shard).collect();
    let mut changes = vec![TopologyChange::Add(1)];
    if let [first, .., last] = &*members {
        changes.push(TopologyChange::Remove(last.name.clone()));
        changes.push(TopologyChange::Reweight(first.name.clone(), first.weight * 2));
    }
    changes.retain(|change| change.apply(topology).is_ok());
    changes
}

/// Returns the placements that are tried with a keyspace, each with its name in the tables.
fn placements(keyspace: &Keyspace, topology: &Topology) -> Vec<(String, Algorithm)> {
    let simple = Algorithm::all(topology, None).unwrap_or_default().into_iter();
    let mut all: Vec<_> = simple.map(|algorithm| (algorithm.name(), algorithm)).collect();
    let names: Vec<&str> = topology.members().map(|(_, shard)| shard.name.as_str()).collect();
    if let Keyspace::List(list) = keyspace {
        let owners = list.partitions().iter().zip(names.iter().cycle());
        let parts: Vec<String> =
            owners.map(|(part, shard)| format!("{}={}>{shard}", part.name, part.weight)).collect();
        add(&mut all, "partitions", &format!("partitions:{}", parts.join(",")));
    }
    let even = ShardMap::first(Keyspace::Hash, Placement::Even, topology.clone());
    let ranges = even.as_ref().map(ShardMap::ranges).unwrap_or_default();
    let ranges: Vec<String> = ranges
        .iter()
        .map(|SlotRange { first, last, shard }| format!("{first}-{last}={}", topology.name(*shard)))
        .collect();
    add(&mut all, "manual", &format!("manual:{}", ranges.join(",")));
    all
}

fn add(all: &mut Vec<(String, Algorithm)>, name: &str, text: &str) {
    if let Ok(placement) = text.parse() {
        all.push((name.to_owned(), Algorithm::Placement(placement)));
    }
}

fn load_of(set: &LabKeys, keyspace: &Keyspace) -> Load {
    let mut load = Load::of_keys();
    for key in &set.keys {
        // There is no error here: a set is tried only with keyspaces that can map each of its keys
        // to a slot.
        if let Ok(slot) = ShardKey::parse(key).and_then(|key| keyspace.slot_of(key)) {
            load.add(slot);
        }
    }
    load
}

fn try_one(
    (label, (name, algorithm)): (&str, &(String, Algorithm)),
    topology: &Topology,
    changes: &[TopologyChange],
    load: &Load,
) -> Result<Tried, LabError> {
    let before = simulate(topology, algorithm, &[], load).map_err(LabError::failed)?.before;
    let fullest = before.shards.iter().map(|share| share.load).max().unwrap_or(0);
    let moved = changes.iter().map(|change| {
        let one = simulate(topology, algorithm, std::slice::from_ref(change), load);
        one.ok()?.changes.pop()
    });
    Ok(Tried {
        keyspace: label.to_owned(),
        placement: name.clone(),
        skew: before.skew,
        fullest: fullest as f64 / load.total().max(1) as f64,
        moved: moved.collect(),
    })
}

/// Returns the name of a keyspace for tables and charts, without long parameters.
fn keyspace_label(keyspace: &Keyspace) -> String {
    match keyspace {
        Keyspace::Hash | Keyspace::Modulo | Keyspace::List(_) => keyspace.name().to_owned(),
        // Ranges of numbers and ranges of text share one name, but their written forms begin
        // differently.
        Keyspace::Range(_) => {
            let form = keyspace.to_string();
            form.split([':', '(']).next().unwrap_or_default().to_owned()
        }
        Keyspace::Matrix(_) => keyspace.to_string(),
    }
}

fn table(set: &TriedSet, topology: &Topology, changes: &[TopologyChange]) -> ReportTable {
    let mut columns = vec!["keyspace", "placement", "skew", "fullest shard"];
    let moved: Vec<String> = changes.iter().map(|change| format!("moved: {change}")).collect();
    columns.extend(moved.iter().map(String::as_str));
    let title = format!("Keys `{}` on {}", set.name, shards_in_words(topology.len()));
    let mut table = ReportTable::new(title, &columns);
    for one in &set.tried {
        let moved = one.moved.iter().map(|moved| match moved {
            Some(moved) => Cell::Share(moved.share),
            None => Cell::Absent,
        });
        let begin = [
            Cell::from(one.keyspace.as_str()),
            Cell::from(one.placement.as_str()),
            Cell::Ratio(one.skew),
            Cell::Share(one.fullest),
        ];
        table.push(begin.into_iter().chain(moved));
    }
    table
}

fn skew_chart(set: &TriedSet) -> Chart {
    let label = |one: &Tried| format!("{} {}", one.keyspace, one.placement);
    Chart::Bars(BarChart {
        title: format!("Skew of keys `{}`: 1 is even", set.name),
        unit: "",
        series: vec!["fullest shard, as a multiple of its share".to_owned()],
        groups: set.tried.iter().map(|one| (label(one), vec![one.skew])).collect(),
    })
}

/// Returns the chart of the fraction of keys that move, for the first keyspace of the first key
/// set.
fn moved_chart(sets: &[TriedSet], changes: &[TopologyChange]) -> Chart {
    let first = sets.first().map(|set| set.tried.as_slice()).unwrap_or_default();
    let keyspace = first.first().map(|one| one.keyspace.clone()).unwrap_or_default();
    let own = first.iter().filter(|one| one.keyspace == keyspace);
    let percent = |moved: &Option<Moved>| 100.0 * moved.as_ref().map_or(0.0, |moved| moved.share);
    let groups = own.map(|one| (one.placement.clone(), one.moved.iter().map(percent).collect()));
    Chart::Bars(BarChart {
        title: format!("Keys that move, in keyspace {keyspace}"),
        unit: "%",
        series: changes.iter().map(ToString::to_string).collect(),
        groups: groups.collect(),
    })
}

/// Number of slots, as a `usize`.
const SLOTS: usize = SLOT_COUNT as usize;
