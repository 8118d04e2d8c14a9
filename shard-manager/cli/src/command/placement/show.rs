//! Show: shows which shards own the slots of a cluster, by table group.
//!
//! **Not here:** comparing other placements (`placement`).

use clap::Args;
use model::keyspace::SLOT_COUNT;
use model::shard_map::ShardMap;
use model::table_group::{GroupNumber, TableGroup};
use model::topology::{ShardNumber, ShardSpec};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlite::offline_view::DirView;

use super::percent;
use crate::command::router::Router;
use crate::command::{ClusterSource, CommandError};
use crate::terminal::Terminal;

/// Maximum number of slot ranges that the table shows for a shard.
const RANGES_SHOWN: usize = 4;

#[derive(Args, Debug)]
pub(super) struct ShowArgs {
    #[command(flatten)]
    source: ClusterSource,
    /// Show every range of slots, one per line
    #[arg(long)]
    ranges: bool,
}

/// Owners of the slots of a cluster.
#[derive(Debug, Serialize)]
struct Shown {
    epoch: u64,
    keyspace: String,
    placement: String,
    slots: u16,
    /// Shards with the slots of the group `main` that they own.
    shards: Vec<ShownShard>,
    /// Table groups, `main` first; missing if all tables are in one group.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<ShownGroup>,
}

/// Owners of the slots of a table group.
#[derive(Debug, Serialize)]
struct ShownGroup {
    name: String,
    keyspace: String,
    placement: String,
    /// First and last slot, inclusive.
    slots: (u16, u16),
    /// Shards that may own slots of the group.
    shards: Vec<ShownShard>,
}

#[derive(Debug, Serialize)]
struct ShownShard {
    shard: String,
    weight: u64,
    slots: u64,
    share: f64,
    ranges: Vec<(u16, u16)>,
}

impl ShownShard {
    fn new(shard: &str, weight: u64, ranges: Vec<(u16, u16)>) -> Self {
        let slots = ranges.iter().map(|(first, last)| u64::from(last - first) + 1).sum::<u64>();
        let share = slots as f64 / f64::from(SLOT_COUNT);
        Self { shard: shard.to_owned(), weight, slots, share, ranges }
    }
}

/// Shows the owners of the slots.
pub(super) fn run(args: &ShowArgs, terminal: &Terminal) -> Result<(), CommandError> {
    let shown = match args.source.router() {
        Some(address) => fetch(&Router::at(&address)?)?,
        None => look(&DirView::open(&args.source.data_dir()?)?.map),
    };
    Ok(terminal.show(&shown, |terminal| text(&shown, args.ranges, terminal))?)
}

fn look(map: &ShardMap) -> Shown {
    let has_groups = map.groups().count() > 1;
    let groups = map.groups().iter().filter(|_| has_groups);
    Shown {
        epoch: map.epoch(),
        keyspace: map.keyspace().name().to_owned(),
        placement: map.placement().name().to_owned(),
        slots: SLOT_COUNT,
        shards: owners(map, GroupNumber::MAIN, map.topology().members()),
        groups: groups.map(|(number, group)| look_at_group(map, number, group)).collect(),
    }
}

fn look_at_group(map: &ShardMap, number: GroupNumber, group: &TableGroup) -> ShownGroup {
    let slots = number.slots();
    ShownGroup {
        name: group.name.clone(),
        keyspace: group.keyspace.name().to_owned(),
        placement: group.placement.name().to_owned(),
        slots: (*slots.start(), *slots.end()),
        shards: owners(map, number, group.members(map.topology())),
    }
}

/// Returns these shards with the slots of a group that they own.
fn owners<'m>(
    map: &ShardMap,
    group: GroupNumber,
    shards: impl Iterator<Item = (ShardNumber, &'m ShardSpec)>,
) -> Vec<ShownShard> {
    let ranges = map.groups().ranges(group);
    let shown = shards.map(|(number, shard)| {
        let own = ranges.iter().filter(|range| range.shard == number);
        let own = own.map(|range| (range.first, range.last)).collect();
        ShownShard::new(&shard.name, u64::from(shard.weight), own)
    });
    shown.collect()
}

/// Range of slots as a router sends it: first slot, last slot, and name of the owner.
type OwnedRange = (u16, u16, String);

/// Table group as a router sends it.
#[derive(Deserialize)]
struct SentGroup {
    name: String,
    keyspace: String,
    placement: String,
    shards: Vec<String>,
    slots: (u16, u16),
    ranges: Vec<OwnedRange>,
}

fn fetch(router: &Router) -> Result<Shown, CommandError> {
    let map = router.get("/api/shard-map", &[])?;
    let shards = router.get("/api/shards", &[])?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let unread = |error: serde_json::Error| {
        CommandError::Refused(format!("the router's map cannot be read: {error}"))
    };
    let ranges: Vec<OwnedRange> = serde_json::from_value(map["ranges"].clone()).map_err(unread)?;
    let groups: Option<Vec<SentGroup>> =
        serde_json::from_value(map["groups"].clone()).map_err(unread)?;
    let shards = shards["shards"].as_array().into_iter().flatten();
    let weights =
        shards.map(|shard| (text(&shard["shard"]), shard["weight"].as_u64().unwrap_or_default()));
    let weights: Vec<(String, u64)> = weights.collect();
    let groups = groups.into_iter().flatten().map(|group| {
        let weights = weights.iter().filter(|(name, _)| group.shards.contains(name));
        let shards = sent_owners(weights, &group.ranges);
        let SentGroup { name, keyspace, placement, slots, .. } = group;
        ShownGroup { name, keyspace, placement, slots, shards }
    });
    Ok(Shown {
        epoch: map["epoch"].as_u64().unwrap_or_default(),
        keyspace: text(&map["keyspace"]),
        placement: text(&map["placement"]),
        slots: SLOT_COUNT,
        shards: sent_owners(weights.iter(), &ranges),
        groups: groups.collect(),
    })
}

/// Returns shards, given by name and weight, with those of the ranges that they own.
fn sent_owners<'s>(
    weights: impl Iterator<Item = &'s (String, u64)>,
    ranges: &[OwnedRange],
) -> Vec<ShownShard> {
    let shown = weights.map(|(name, weight)| {
        let own = ranges.iter().filter(|(_, _, owner)| owner == name);
        ShownShard::new(name, *weight, own.map(|(first, last, _)| (*first, *last)).collect())
    });
    shown.collect()
}

fn text(shown: &Shown, ranges: bool, terminal: &Terminal) -> String {
    if ranges {
        return all_ranges(shown, terminal);
    }
    if shown.groups.is_empty() {
        let Shown { epoch, keyspace, placement, shards, .. } = shown;
        let head = format!("keyspace {keyspace}, placement {placement}, epoch {epoch}");
        return head + "\n" + &table(shards, terminal);
    }
    let mut lines = vec![format!("epoch {}", shown.epoch)];
    for ShownGroup { name, keyspace, placement, shards, .. } in &shown.groups {
        lines.push(format!("\ngroup {name}: keyspace {keyspace}, placement {placement}"));
        lines.push(table(shards, terminal));
    }
    lines.join("\n")
}

/// Formats every range of slots as a row, with the table group if there are several.
fn all_ranges(shown: &Shown, terminal: &Terminal) -> String {
    let of_group = |name: &str, shards: &[ShownShard]| {
        let ranges = shards.iter().flat_map(|shard| {
            shard.ranges.iter().map(|(first, last)| (*first, *last, shard.shard.clone()))
        });
        let mut ranges: Vec<OwnedRange> = ranges.collect();
        ranges.sort_unstable();
        let row = |(first, last, shard): OwnedRange| {
            vec![first.to_string(), last.to_string(), shard, name.to_owned()]
        };
        ranges.into_iter().map(row).collect::<Vec<_>>()
    };
    if shown.groups.is_empty() {
        let mut rows = of_group("", &shown.shards);
        rows.iter_mut().for_each(|row| row.truncate(3));
        return terminal.table(&["first", "last", "shard"], &rows);
    }
    let groups = shown.groups.iter();
    let rows: Vec<_> = groups.flat_map(|group| of_group(&group.name, &group.shards)).collect();
    terminal.table(&["first", "last", "shard", "group"], &rows)
}

/// Formats shards as a table, with the slots of one group that they own.
fn table(shards: &[ShownShard], terminal: &Terminal) -> String {
    let largest = shards.iter().map(|shard| shard.share).fold(0.0, f64::max);
    let rows = shards.iter().map(|shard| {
        let ranges = shard.ranges.iter().take(RANGES_SHOWN);
        let mut named: Vec<String> =
            ranges.map(|(first, last)| format!("{first}-{last}")).collect();
        if shard.ranges.len() > RANGES_SHOWN {
            named.push(format!("and {} more", shard.ranges.len() - RANGES_SHOWN));
        }
        vec![
            shard.shard.clone(),
            shard.weight.to_string(),
            shard.slots.to_string(),
            percent(shard.share),
            terminal.bar(shard.share / largest, 24),
            named.join(", "),
        ]
    });
    let heads = ["shard", "weight", "slots", "share", "", "ranges"];
    terminal.table(&heads, &rows.collect::<Vec<_>>())
}
