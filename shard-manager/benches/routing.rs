//! Routing: nanoseconds from a key to the name of the node that holds it.
//!
//! `cargo bench -p shard-manager --bench routing`. Every key is checked, hashed, looked up in the shard map
//! and named; the keys are different, so that neither cache nor branch predictor learns them by heart.

use std::hint::black_box;
use std::time::Instant;

use shard_manager::keyspace::{Keyspace, ShardKey};
use shard_manager::placement::Placement;
use shard_manager::shard_map::ShardMap;
use shard_manager::topology::{Role, Topology};

const KEYS: usize = 10_000;
/// Passes over the keys in one run: some milliseconds, far above what the clock resolves.
const PASSES: usize = 50;
/// Odd, so that the median is a run.
const RUNS: usize = 21;

fn main() {
    let keys: Vec<String> = (0..KEYS).map(|number| format!("user_{number}")).collect();
    for shards in [3, 256] {
        let topology = Topology::with_weights(&vec![1; shards]).expect("good weights");
        let map = ShardMap::first(Keyspace::Hash, Placement::Even, topology);
        let nodes: Vec<String> = map
            .topology()
            .shards()
            .iter()
            .map(|s| format!("{}-{}", s.name, Role::Primary))
            .collect();
        run(&map, &nodes, &keys); // Warms up.
        let mut runs: Vec<f64> = (0..RUNS).map(|_| run(&map, &nodes, &keys)).collect();
        runs.sort_by(f64::total_cmp);
        let (median, least, most) = (runs[RUNS / 2], runs[0], runs[RUNS - 1]);
        println!(
            "key → slot → shard → node, {shards} shards, {KEYS} keys: {median:.1} ns \
             (median of {RUNS} runs; {least:.1} to {most:.1})"
        );
    }
}

/// Nanoseconds for each key.
fn run(map: &ShardMap, nodes: &[String], keys: &[String]) -> f64 {
    let began = Instant::now();
    for _ in 0..PASSES {
        for key in keys {
            let key = ShardKey::parse(black_box(key)).expect("a good key");
            let place = map.place(key).expect("a hash has a place for every key");
            black_box(nodes[place.shard.index()].as_str());
        }
    }
    began.elapsed().as_nanos() as f64 / (PASSES * keys.len()) as f64
}
