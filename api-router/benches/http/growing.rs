//! Benchmark of a cluster that grows: a fourth shard joins three full ones, takes its share of the
//! slots and is drained again, while clients send 500 requests a second.
//!
//! `-- growing 1000000` stores a million rows on each shard, on files. With one more argument, a
//! file with the variables of a new PostgreSQL cluster of three shards (the `tessera.env` of
//! `shard-manager cluster up`), its servers are the shards, and the fourth is a new database on
//! the last of them. A request that fails ends the benchmark.

use std::io::Error;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shard_manager::keyspace::{Keyspace, ShardKey};

use crate::beside::{numbers_and_file, variables};
use crate::joining::{join, read_user, servers_of};
use crate::moving::{ROWS_OF_A_KEY, get, post, psql, store};
use crate::paced_load::{Times, print_p99, send, send_beside, send_beside_computation, write_user};
use crate::servers::Router;

/// Number of shards before the join.
const SHARDS: usize = 3;
/// Number of the shard that joins: the next one after those of the others.
const JOINING: usize = SHARDS + 1;
/// Requests a second.
const RATE: f64 = 500.0;
/// Kinds of requests.
const KINDS: [&str; 2] = ["point write", "point read"];

/// A change of the cluster, and what it cost.
struct Change {
    name: &'static str,
    took: Duration,
    moved_rows: f64,
    /// Rows of the slots that had to change their shard.
    needed_rows: f64,
    skew: f64,
    times: Times,
}

/// Measures a join and a drain.
pub(crate) fn measure() -> std::io::Result<()> {
    let (numbers, file) = numbers_and_file("growing");
    let rows = numbers.first().copied().unwrap_or(1_000_000);
    let variables = variables(file)?;
    let dir = tempfile::tempdir()?;
    let servers = servers_of(&variables);
    let router = Router::start_with(dir.path(), &["--operate"], &variables)?;
    let url = &*router.url;
    let keys: Vec<String> =
        (0..rows * SHARDS / ROWS_OF_A_KEY).map(|number| format!("user_{number}")).collect();
    let stored = store(url, &keys)?;
    println!("{} rows on {SHARDS} shards, stored in {:.0} s", rows * SHARDS, stored.as_secs_f64());
    let request = |agent: &ureq::Agent, number: usize, kind: usize| {
        let key = &keys[number.wrapping_mul(7_919) % keys.len()];
        if kind == 0 { write_user(agent, url, key) } else { read_user(agent, url, key) }
    };
    if let Some((primary, _)) = servers {
        psql(primary, &format!("CREATE DATABASE {}", shard_name()))?;
    }
    let before = send(Some(RATE), &request)?;
    let mut changes = Vec::new();
    for (name, change) in [("join", true), ("drain", false)] {
        let owned = rows_of(url, &keys)?;
        let (times, (took, view)) = send_beside(Some(RATE), &request, &|| {
            let began = Instant::now();
            let view = if change { grow(url, servers)? } else { shrink(url)? };
            Ok((began.elapsed(), view))
        })?;
        let needed_rows = if change { rows_of(url, &keys)? } else { owned };
        let number = |member: &str| view[member].as_f64().unwrap_or(f64::NAN);
        let (moved_rows, skew) = (number("rows"), number("skew_measured"));
        changes.push(Change { name, took, moved_rows, needed_rows, skew, times });
    }
    report(&before, &changes);
    println!("beside a thread that only computes, and no change:");
    print_p99(KINDS, &before, &send_beside_computation(RATE, &request)?);
    println!("resident {} MiB", router.resident_mib());
    Ok(())
}

fn report(before: &Times, changes: &[Change]) {
    for change in changes {
        println!(
            "{:<6} {:.0} s, {:.0} rows moved of {:.0} that had to, {:.3}; skew {:.3}; {} requests, none failed",
            change.name,
            change.took.as_secs_f64(),
            change.moved_rows,
            change.needed_rows,
            change.moved_rows / change.needed_rows,
            change.skew,
            change.times.len()
        );
        print_p99(KINDS, before, &change.times);
    }
}

fn shard_name() -> String {
    crate::joining::name_of(JOINING)
}

/// Lets the shard join and take its share, and returns the rebalance.
fn grow(url: &str, servers: Option<(&str, &str)>) -> std::io::Result<Value> {
    join(url, None, servers, JOINING)?;
    // The plan is refused until the replicas of the new shard follow its primary.
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match post(&format!("{url}/api/rebalance"), &json!({"by": "slots", "keep": 0})) {
            Ok(begun) => return ended(url, &begun),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Drains the shard, and returns the rebalance.
fn shrink(url: &str) -> std::io::Result<Value> {
    let begun = post(&format!("{url}/api/shards/{}/drain", shard_name()), &json!({"keep": 0}))?;
    ended(url, &begun)
}

/// Waits for the end of a rebalance.
fn ended(url: &str, begun: &Value) -> std::io::Result<Value> {
    let id = begun["id"].as_str().ok_or_else(|| Error::other(begun.to_string()))?;
    loop {
        let shown = get(&format!("{url}/api/rebalance/{id}"))?;
        if !shown["ended_at"].is_null() {
            let is_done = shown["state"] == "done";
            return is_done.then_some(shown).ok_or_else(|| Error::other("it was not done"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Returns the number of rows in the slots of the shard that joins.
fn rows_of(url: &str, keys: &[String]) -> std::io::Result<f64> {
    let map = get(&format!("{url}/api/shard-map"))?;
    let name = shard_name();
    let ranges: Vec<(u64, u64)> = map["ranges"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|range| range[2] == *name)
        .filter_map(|range| Some((range[0].as_u64()?, range[1].as_u64()?)))
        .collect();
    let is_owned = |key: &&String| {
        let slot = ShardKey::parse(key).ok().and_then(|key| Keyspace::Hash.slot_of(key).ok());
        slot.is_some_and(|slot| {
            let slot = u64::from(slot.number());
            ranges.iter().any(|(first, last)| (*first..=*last).contains(&slot))
        })
    };
    Ok((keys.iter().filter(is_owned).count() * ROWS_OF_A_KEY) as f64)
}
