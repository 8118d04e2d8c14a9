//! Benchmark of the memory of moves: four shards give rows to each other at the same time.
//!
//! `-- four-moves 250000` stores a quarter of a million rows in 64 slots of each shard, on files,
//! and moves them to the next shard. With one more argument, a file with the variables of a new
//! PostgreSQL cluster of four shards (the `tessera.env` of `shard-manager cluster up`), its servers
//! are the shards. It prints the memory that the router has at most meanwhile, and at most while
//! the rows were stored.

use std::io::Error;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::beside::{numbers_and_file, variables};
use crate::moving::{ROWS_OF_A_KEY, get, keys_of_slots, post, store};
use crate::servers::Router;

/// Shards, which are also the highest number of moves at a time.
const SHARDS: u16 = 4;
/// Slots of each move.
const SLOTS: u16 = 64;
/// Slots of a shard of a new cluster.
const SLOTS_OF_A_SHARD: u16 = 16_384 / SHARDS;

/// Measures the memory of four moves.
pub(crate) fn measure() -> std::io::Result<()> {
    let (numbers, file) = numbers_and_file("four-moves");
    let variables = variables(file)?;
    let rows = numbers.first().copied().unwrap_or(250_000);
    let dir = tempfile::tempdir()?;
    let flags = ["--operate", "--shards", "4"];
    // The variables name the shards of servers.
    let flags = if variables.is_empty() { &flags[..] } else { &flags[..1] };
    let router = Router::start_with(dir.path(), flags, &variables)?;
    let first_slots = (0..SHARDS).map(|shard| shard * SLOTS_OF_A_SHARD);
    let ranges: Vec<(u16, u16)> = first_slots.map(|first| (first, first + SLOTS - 1)).collect();
    router.reset_peak()?;
    for range in &ranges {
        store(&router.url, &keys_of_slots(*range, rows / ROWS_OF_A_KEY))?;
    }
    let (storing, before) = (router.peak_mib(), router.resident_mib());
    router.reset_peak()?;
    let began = Instant::now();
    let mut moves = Vec::new();
    for (shard, (first, last)) in ranges.iter().enumerate() {
        let target = (shard + 1) % usize::from(SHARDS) + 1;
        let order = json!({"slots": [[first, last]], "to": format!("shard{target}"), "keep": 0});
        let begun = post(&format!("{}/api/moves", router.url), &order)?;
        moves.push(format!("{}/api/moves/{}", router.url, begun["id"].as_str().unwrap_or("")));
    }
    for path in &moves {
        wait_until_done(path)?;
    }
    println!(
        "{SHARDS} moves of {rows} rows each: {:.1} s, resident {before} MiB before, at most {} MiB meanwhile, \
         {} MiB after; at most {storing} MiB while the rows were stored",
        began.elapsed().as_secs_f64(),
        router.peak_mib(),
        router.resident_mib()
    );
    Ok(())
}

fn wait_until_done(path: &str) -> std::io::Result<()> {
    loop {
        let shown = get(path)?;
        if !shown["ended_at"].is_null() {
            let is_done = shown["phase"] == "done";
            return is_done.then_some(()).ok_or_else(|| Error::other(shown.to_string()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
