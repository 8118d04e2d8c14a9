//! Benchmark of the changes that a move applies: rows that have moved are all written again while
//! the source is kept and the move is paused, and flow back to the source once it goes on.
//!
//! `-- changes 300000` writes that many rows, on files. With one more argument, a file with the
//! variables of a new PostgreSQL cluster (the `tessera.env` of `shard-manager cluster up`), its
//! servers are the shards.

use std::io::Error;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::beside::{numbers_and_file, variables};
use crate::moving::{ROWS_OF_A_KEY, get, keys_of_slots, post, store};
use crate::servers::Router;

/// Slots that move; they belong to the first shard of a new cluster.
const SLOTS: (u16, u16) = (0, 63);

/// Measures the changes.
pub(crate) fn measure() -> std::io::Result<()> {
    let (numbers, file) = numbers_and_file("changes");
    let rows = numbers.first().copied().unwrap_or(300_000);
    let variables = variables(file)?;
    let dir = tempfile::tempdir()?;
    let router = Router::start_with(dir.path(), &["--operate"], &variables)?;
    let keys = keys_of_slots(SLOTS, rows / ROWS_OF_A_KEY);
    store(&router.url, &keys)?;
    let order = json!({"slots": [[SLOTS.0, SLOTS.1]], "to": "shard2", "keep": 3600});
    let begun = post(&format!("{}/api/moves", router.url), &order)?;
    let path = format!("{}/api/moves/{}", router.url, begun["id"].as_str().unwrap_or_default());
    let kept = wait_until(&path, |shown| shown["phase"] == "keeping")?;
    let all = kept["rows"].as_u64().unwrap_or(0) + (keys.len() * ROWS_OF_A_KEY) as u64;
    post(&format!("{path}/pause"), &json!({}))?;
    let written = store(&router.url, &keys)?;
    post(&format!("{path}/resume"), &json!({}))?;
    let began = Instant::now();
    wait_until(&path, |shown| shown["rows"].as_u64() >= Some(all))?;
    let applied = began.elapsed();
    println!(
        "{rows} changes: written in {:.2} s, applied to the other shard in {:.2} s, {:.0} a second",
        written.as_secs_f64(),
        applied.as_secs_f64(),
        rows as f64 / applied.as_secs_f64()
    );
    Ok(())
}

fn wait_until(path: &str, is_so: impl Fn(&Value) -> bool) -> std::io::Result<Value> {
    loop {
        let shown = get(path)?;
        if is_so(&shown) {
            return Ok(shown);
        }
        if !shown["ended_at"].is_null() {
            return Err(Error::other(format!("the move has ended: {shown}")));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
