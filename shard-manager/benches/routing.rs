//! Benchmark of routing: nanoseconds from a key to the name of the node that holds it, and
//! milliseconds to build a placement or to compute advice.
//!
//! Run it with `cargo bench -p shard-manager --bench routing`. Every key is checked, hashed to its
//! slot, looked up in the shard map and resolved to a node name. The keys are all different, so
//! that neither the CPU cache nor the branch predictor learns them.

use std::hint::black_box;
use std::time::Instant;

use shard_manager::advice::{BalanceBy, Observed, SlotLoad, advise};
use shard_manager::keyspace::{KeyError, Keyspace, ShardKey};
use shard_manager::placement::{Placement, rebalance};
use shard_manager::shard_map::{KeyLocation, ShardMap, with_group};
use shard_manager::table::{Column, Table, in_group};
use shard_manager::table_group::{GroupNumber, TableGroup};
use shard_manager::topology::{Role, ShardSpec, Topology};
use shard_manager::value::ColumnType;

const KEYS: usize = 10_000;
/// Passes over the keys in one run: a few milliseconds, far above the clock's resolution.
const PASSES: usize = 50;
/// Number of runs. Odd, so that the median is one of them.
const RUNS: usize = 21;
/// Shards in the placements that are built: more than a router serves.
const SHARDS: usize = 1_000;

fn main() {
    let plain: Vec<String> = (0..KEYS).map(|number| format!("user_{number}")).collect();
    for shards in [3, 256] {
        let topology = Topology::with_weights(&vec![1; shards]).expect("good weights");
        let map = ShardMap::first(Keyspace::Hash, Placement::Even, topology).expect("it fits");
        route(&format!("hash, {shards} shards"), &map, &plain, |key| map.place(key));
    }
    rows(&plain);
    for (name, keyspace, keys) in keyspaces(&plain) {
        let topology = Topology::with_weights(&[1; 256]).expect("good weights");
        let keyspace = keyspace.parse().expect("a good keyspace");
        let map = ShardMap::first(keyspace, Placement::Even, topology).expect("it fits");
        route(name, &map, &keys, |key| map.place(key));
    }
    build();
    advise_all();
}

/// Label, keyspace as the configuration writes it, and keys that are valid in this keyspace.
fn keyspaces(plain: &[String]) -> Vec<(&'static str, String, Vec<String>)> {
    let keys = |key: fn(usize) -> String| -> Vec<String> { (0..KEYS).map(key).collect() };
    let list = |items: Vec<String>| items.join(",");
    let splits = |count: usize| list((1..=count).map(|n| (n * KEYS / count).to_string()).collect());
    let texts = list((1..=1_000).map(|n| format!("user_{:05}", n * 10)).collect());
    let partitions = list((0..1_000).map(|n| format!("p{n}=1")).collect());
    let scattered: fn(usize) -> String = |n| (n * 7_919 % KEYS).to_string();
    vec![
        ("modulo", "modulo".to_owned(), plain.to_vec()),
        ("modulo, 200 digits", "modulo".to_owned(), keys(|n| format!("{}{n}", "9".repeat(200)))),
        ("range, 3 split points", "range:1000,2000,3000".to_owned(), keys(scattered)),
        ("range, 5000 split points", format!("range:{}", splits(5_000)), keys(scattered)),
        (
            "range-text, 1000 split points",
            format!("range-text:{texts}"),
            keys(|n| format!("user_{:05}", n * 7_919 % KEYS)),
        ),
        (
            "list, 5 partitions",
            "list:A=30,B=20,C=15,D=25,E=10".to_owned(),
            keys(|n| format!("{}:user_{n}", ["A", "B", "C", "D", "E"][n % 5])),
        ),
        (
            "list, 1000 partitions",
            format!("list:{partitions}"),
            keys(|n| format!("p{}:user_{n}", n * 7_919 % 1_000)),
        ),
        ("matrix:id", "matrix:id".to_owned(), keys(|n| format!("@user{n}:s{}.example", n % 100))),
        (
            "matrix:server",
            "matrix:server".to_owned(),
            keys(|n| format!("@user{n}:s{}.example", n % 100)),
        ),
    ]
}

/// Prints the routing time per row of a table: in a cluster of one table group, and in both
/// groups of a cluster of two. The times should be the same.
fn rows(keys: &[String]) {
    let topology = Topology::with_weights(&[1; 256]).expect("good weights");
    let one = ShardMap::first(Keyspace::Hash, Placement::Even, topology).expect("it fits");
    let group = TableGroup { name: "ledger".to_owned(), ..TableGroup::default() };
    let two = with_group(&one, group, 2).expect("it fits");
    let ledger = two.groups().find("ledger").expect("the group");
    let (main, ledger) = (table(GroupNumber::MAIN), table(ledger));
    for (name, map, table) in [
        ("rows, one group", &one, &main),
        ("rows of main, two groups", &two, &main),
        ("rows of the second group", &two, &ledger),
    ] {
        route(name, map, keys, |key| map.locate(table, key, None));
    }
}

/// Returns a table that is routed by its id.
fn table(group: GroupNumber) -> Table {
    let id = ["id".to_owned()];
    let column =
        Column { name: id[0].clone(), kind: ColumnType::Text, nullable: false, default: None };
    let table = Table::new("rows", vec![column], &id, Some(&id[0])).expect("a good table");
    in_group(table, group)
}

/// Prints the routing time per key.
fn route(
    name: &str,
    map: &ShardMap,
    keys: &[String],
    locate: impl Fn(ShardKey<'_>) -> Result<KeyLocation, KeyError>,
) {
    let shards = map.topology().shards().iter();
    let nodes: Vec<String> = shards.map(|s| format!("{}-{}", s.name, Role::Primary)).collect();
    run(&locate, &nodes, keys); // Warms up.
    let mut runs: Vec<f64> = (0..RUNS).map(|_| run(&locate, &nodes, keys)).collect();
    runs.sort_by(f64::total_cmp);
    let (median, least, most) = (runs[RUNS / 2], runs[0], runs[RUNS - 1]);
    println!(
        "key → slot → shard → node, {name}, {KEYS} keys: {median:.1} ns \
         (median of {RUNS} runs; {least:.1} to {most:.1})"
    );
}

/// Nanoseconds per key.
fn run(
    locate: impl Fn(ShardKey<'_>) -> Result<KeyLocation, KeyError>,
    nodes: &[String],
    keys: &[String],
) -> f64 {
    let began = Instant::now();
    for _ in 0..PASSES {
        for key in keys {
            let key = ShardKey::parse(black_box(key)).expect("a good key");
            let place = locate(key).expect("the keyspace has a place for these keys");
            black_box(nodes[place.shard.index()].as_str());
        }
    }
    began.elapsed().as_nanos() as f64 / (PASSES * keys.len()) as f64
}

/// Prints how long each placement takes to build.
fn build() {
    let topology = |weight: fn(usize) -> u32, shards: usize| {
        let spec = |n| ShardSpec::new(format!("shard{n}"), weight(n));
        Topology::simulated((1..=shards).map(spec).collect()).expect("good shards")
    };
    let even = topology(|_| 1, SHARDS);
    // All weights differ: the worst case for rendezvous hashing.
    let uneven = topology(|n| 1_000 + n as u32, SHARDS);
    let parts = |separator: char| {
        let part = |n| format!("p{n}=1{separator}shard{n}");
        (1..=SHARDS).map(part).collect::<Vec<_>>().join(",")
    };
    let slots = (0..16_384).map(|slot| format!("{slot}=shard{}", slot % SHARDS + 1));
    let manual = format!("manual:{}", slots.collect::<Vec<_>>().join(","));
    let partitions = format!("partitions:{}", parts('>'));
    for (name, text, topology) in [
        ("even", "even", &even),
        ("weighted", "weighted", &uneven),
        ("partitions", &*partitions, &even),
        ("modulo", "modulo", &even),
        ("ring, 160 points each", "ring", &even),
        ("rendezvous, equal weights", "rendezvous", &even),
        ("rendezvous, 1000 weights", "rendezvous", &uneven),
        ("jump", "jump", &even),
        ("manual", &*manual, &even),
    ] {
        let placement: Placement = text.parse().expect("a good placement");
        time(name, || drop(black_box(placement.assign(topology).expect("it fits"))));
    }
    let fewer = topology(|_| 1, SHARDS - 1);
    let before = Placement::Even.assign(&fewer).expect("it fits");
    time("rebalance for one shard more", || drop(black_box(rebalance(&before, &fewer, &even))));
}

/// Prints how long it takes to compute advice for a cluster of the maximum size, and to plan the
/// moves that would balance it.
fn advise_all() {
    let cubes = |slot: u64| 1_000 * slot.pow(3) / 16_384_u64.pow(3);
    let scattered = |slot: u64| slot * 7_919 % 16_384;
    for (name, placement, requests) in [
        ("even load", "even", &(|_| 100_u64) as &dyn Fn(u64) -> u64),
        ("a load that grows with the slot", "even", &cubes),
        ("the same, neighbours apart", "modulo", &cubes),
        ("few hot slots among many", "even", &|slot| 100_000 / (1 + scattered(slot))),
    ] {
        let topology = Topology::with_weights(&[1; 256]).expect("good weights");
        let placement: Placement = placement.parse().expect("a good placement");
        let map = ShardMap::first(Keyspace::Hash, placement, topology).expect("it fits");
        let load: Vec<SlotLoad> =
            (0..16_384).map(|slot| SlotLoad { reads: requests(slot), writes: 0 }).collect();
        let observed =
            Observed { map: &map, load: &load, sizes: &[], keys: &[], open: None, first_slot: 0 };
        let advice = advise(&observed, BalanceBy::Load);
        let text = format!("256 shards, advice, {name}, {} moves", advice.moves.len());
        time_of(&text, || drop(black_box(advise(&observed, BalanceBy::Load))));
    }
}

fn time(name: &str, work: impl Fn()) {
    time_of(&format!("{SHARDS} shards, {name}"), work);
}

fn time_of(what: &str, work: impl Fn()) {
    work(); // Warms up.
    let milliseconds = |_| {
        let began = Instant::now();
        work();
        began.elapsed().as_secs_f64() * 1e3
    };
    let mut runs: Vec<f64> = (0..RUNS).map(milliseconds).collect();
    runs.sort_by(f64::total_cmp);
    let (median, least, most) = (runs[RUNS / 2], runs[0], runs[RUNS - 1]);
    println!("{what}: {median:.2} ms (median of {RUNS} runs; {least:.2} to {most:.2})");
}
