//! Cost: memory and time of finding the shard of a key, and the time to compute the owners.
//!
//! A router never computes a placement for a request: it hashes the key to a slot and looks the
//! slot up. So the slot table and a lookup cost the same with all placements. They differ in the
//! structure that the table is computed from, for example the points of a ring, and in the number
//! of ranges of the map.

use std::hint::black_box;
use std::time::Instant;

use model::keyspace::{Keyspace, ShardKey};
use model::placement::{Placement, ring};
use model::shard_map::ShardMap;
use model::simulation::Algorithm;
use model::topology::{ShardNumber, Topology};

use super::{SLOTS, keyspace_label, placements};
use crate::key_set::LabKeys;
use crate::report::{Cell, ReportTable};

/// Number of keys that are looked up in one measurement.
const KEYS: usize = 50_000;
/// Number of measurements, of which the fastest is used: the others were disturbed.
const ROUNDS: usize = 3;

pub(super) fn table() -> ReportTable {
    let columns = [
        "keys",
        "keyspace",
        "placement",
        "lookup",
        "table bytes",
        "structure bytes",
        "ranges",
        "computed in",
    ];
    ReportTable::new("Cost of a lookup, and of the map", &columns)
}

/// Adds a row for each placement of a keyspace.
pub(super) fn measure(
    costs: &mut ReportTable,
    set: &LabKeys,
    keyspace: &Keyspace,
    topology: &Topology,
) {
    for (name, algorithm) in placements(keyspace, topology) {
        let Algorithm::Placement(placement) = algorithm else { continue };
        let began = Instant::now();
        let map = ShardMap::first(keyspace.clone(), placement.clone(), topology.clone());
        let Ok(map) = map else { continue };
        let computed_ms = began.elapsed().as_secs_f64() * 1_000.0;
        // Owner and epoch of each slot, and the values with which the keyspace compares keys.
        let bytes = SLOTS * (size_of::<ShardNumber>() + size_of::<u64>())
            + map.keyspace().parameters().len();
        costs.push([
            Cell::from(set.name.as_str()),
            Cell::from(keyspace_label(keyspace)),
            Cell::from(name),
            Cell::Nanos(lookup_ns(&map, set)),
            Cell::Count(bytes as u64),
            Cell::Count(structure_bytes(&placement, topology) as u64),
            Cell::Count(map.ranges().len() as u64),
            Cell::Millis(computed_ms),
        ]);
    }
}

/// Returns the bytes of what the owners of the slots are computed from.
fn structure_bytes(placement: &Placement, topology: &Topology) -> usize {
    let shards = topology.len();
    match placement {
        // The numbers of all shards, also of those with a weight of 0, which take no slots.
        Placement::Even | Placement::Modulo | Placement::Jump => shards * size_of::<ShardNumber>(),
        // The weight of each shard.
        Placement::Weighted => shards * size_of::<u64>(),
        // The hash of the name, and the weight, of each shard.
        Placement::Rendezvous => shards * (size_of::<u64>() + size_of::<u64>()),
        // The points of all shards, sorted.
        Placement::Ring { vnodes } => {
            ring::points(*vnodes, topology).map_or(0, |points| size_of_val(&*points))
        }
        // The named blocks, or the ranges, as they are stored.
        Placement::Partitions(_) | Placement::Manual(_) => placement.parameters().len(),
    }
}

/// Returns the time to find the shard of one key.
fn lookup_ns(map: &ShardMap, set: &LabKeys) -> f64 {
    let keys: Vec<ShardKey<'_>> =
        set.keys.iter().take(KEYS).filter_map(|key| ShardKey::parse(key).ok()).collect();
    let round = || {
        let began = Instant::now();
        for key in &keys {
            let _ = black_box(map.place(black_box(*key)));
        }
        began.elapsed().as_secs_f64() * 1e9 / keys.len().max(1) as f64
    };
    (0..ROUNDS).map(|_| round()).fold(f64::INFINITY, f64::min)
}
