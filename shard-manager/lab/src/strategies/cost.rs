//! Cost: measures the memory and the time that finding the shard of a key takes, and the time to
//! compute the owners of all slots.
//!
//! A router never computes a placement for a request: it maps the key to a slot and looks up the
//! owner of the slot in a table. So with all placements the table has the same size and a lookup
//! costs the same. Placements differ in the size of the structure from which the table is computed,
//! for example the points of a ring, and in the number of slot ranges in the resulting map.

use std::hint::black_box;
use std::time::Instant;

use model::keyspace::{Keyspace, ShardKey};
use model::placement::{Placement, ring};
use model::shard_map::ShardMap;
use model::simulation::Algorithm;
use model::topology::{ShardNumber, Topology};

use super::{SLOTS, placements};
use crate::key_set::LabKeys;
use crate::report::{Cell, ReportTable};

/// Maximum number of keys that are looked up in one measurement.
const KEYS: usize = 50_000;
/// Number of measurements. The fastest is used, because other work of the machine has disturbed the
/// slower ones.
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

/// Adds a row to the table for each placement that is tried with a keyspace, which has this label.
pub(super) fn measure(
    costs: &mut ReportTable,
    set: &LabKeys,
    (label, keyspace): (&str, &Keyspace),
    topology: &Topology,
) {
    for (name, algorithm) in placements(keyspace, topology) {
        let Algorithm::Placement(placement) = algorithm else { continue };
        let began = Instant::now();
        let map = ShardMap::first(keyspace.clone(), placement.clone(), topology.clone());
        let Ok(map) = map else { continue };
        let computed_ms = began.elapsed().as_secs_f64() * 1_000.0;
        // The table has the owner and an epoch of each slot; a keyspace may also have values with
        // which it compares keys.
        let bytes = SLOTS * (size_of::<ShardNumber>() + size_of::<u64>())
            + map.keyspace().parameters().len();
        costs.push([
            Cell::from(set.name.as_str()),
            Cell::from(label),
            Cell::from(name),
            Cell::Nanos(lookup_ns(&map, set)),
            Cell::Count(bytes as u64),
            Cell::Count(structure_bytes(&placement, topology) as u64),
            Cell::Count(map.ranges().len() as u64),
            Cell::Millis(computed_ms),
        ]);
    }
}

/// Returns the size in bytes of the structure from which the owners of the slots are computed.
fn structure_bytes(placement: &Placement, topology: &Topology) -> usize {
    let shards = topology.len();
    match placement {
        // The structure has the number of every shard, including shards of weight 0, which get no
        // slots.
        Placement::Even | Placement::Modulo | Placement::Jump => shards * size_of::<ShardNumber>(),
        // The structure has the weight of each shard.
        Placement::Weighted => shards * size_of::<u64>(),
        // The structure has the hash of the name and the weight of each shard.
        Placement::Rendezvous => shards * (size_of::<u64>() + size_of::<u64>()),
        // The structure has the points of all shards on the ring, sorted.
        Placement::Ring { vnodes } => {
            ring::points(*vnodes, topology).map_or(0, |points| size_of_val(&*points))
        }
        // The structure is the stored text of the partitions or of the slot ranges.
        Placement::Partitions(_) | Placement::Manual(_) => placement.parameters().len(),
    }
}

/// Returns the average time to find the shard of one key, in nanoseconds.
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
