//! Benchmark of an index that is built while clients send 500 requests a second.
//!
//! `-- indexing 1000000` stores a million rows on three shards of files, and builds an index of
//! their table. With one more argument, a file with the variables of a new PostgreSQL cluster (the
//! `tessera.env` of `shard-manager cluster up`), its servers are the shards. A request that fails
//! ends the benchmark.

use std::io::Error;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::beside::{numbers_and_file, variables};
use crate::moving::{ROWS_OF_A_KEY, get, post, store};
use crate::paced_load::{print_p99, send, send_beside, send_beside_computation};
use crate::servers::Router;

/// Requests a second.
const RATE: f64 = 500.0;
/// Longest pause of a shard of files, in milliseconds.
const PAUSE_MAX_MS: u64 = 60_000;
/// Deadline of a write, which waits for the pause.
const DEADLINE_MS: &str = "60000";
/// Kinds of requests.
const KINDS: [&str; 2] = ["point write", "point read"];
const NAME: &str = "by_amount";

/// Measures the build of an index.
pub(crate) fn measure() -> std::io::Result<()> {
    let (numbers, file) = numbers_and_file("indexing");
    let rows = numbers.first().copied().unwrap_or(1_000_000);
    let variables = variables(file)?;
    let dir = tempfile::tempdir()?;
    let router = Router::start_with(dir.path(), &[], &variables)?;
    let url = &*router.url;
    let keys: Vec<String> =
        (0..rows / ROWS_OF_A_KEY).map(|number| format!("user_{number}")).collect();
    let stored = store(url, &keys)?;
    let request = |agent: &ureq::Agent, number: usize, kind: usize| {
        let key = &keys[number.wrapping_mul(7_919) % keys.len()];
        if kind == 0 { write_order(agent, url, key) } else { read_orders(agent, url, key) }
    };
    let before = send(Some(RATE), &request)?;
    let (during, (took, index)) = send_beside(Some(RATE), &request, &|| {
        let began = Instant::now();
        let index = build(url)?;
        Ok((began.elapsed(), index))
    })?;
    println!(
        "{rows} rows, stored in {:.0} s; index built in {:.1} s, longest pause of a shard {} ms",
        stored.as_secs_f64(),
        took.as_secs_f64(),
        index["pause_ms"]
    );
    print_p99(KINDS, &before, &during);
    println!("beside a thread that only computes, and no index:");
    print_p99(KINDS, &before, &send_beside_computation(RATE, &request)?);
    Ok(())
}

/// Builds the index, and returns it once it is ready.
fn build(url: &str) -> std::io::Result<Value> {
    let indexes = format!("{url}/api/tables/orders/indexes");
    let body = json!({"name": NAME, "columns": ["amount"], "pause_max_ms": PAUSE_MAX_MS});
    post(&indexes, &body)?;
    loop {
        let listed = get(&indexes)?;
        let mut all = listed["indexes"].as_array().into_iter().flatten();
        let index = all.find(|index| index["name"] == NAME);
        let index = index.ok_or_else(|| Error::other("the index is not listed"))?;
        if index["state"] == "ready" {
            return Ok(index.clone());
        }
        if index["state"] == "failed" {
            return Err(Error::other(index.to_string()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Writes one of the rows of a key again.
fn write_order(agent: &ureq::Agent, url: &str, key: &str) -> std::io::Result<()> {
    let row = json!({"table": "orders", "op": "upsert", "data":
        {"order_id": format!("{key}_0"), "user_id": key, "amount": 1}});
    let sent = agent.post(format!("{url}/api/write")).header("x-shard-key", key);
    let sent = sent.header("x-deadline-ms", DEADLINE_MS).send_json(row);
    let mut reply = sent.map_err(Error::other)?;
    reply.body_mut().read_to_vec().map(drop).map_err(Error::other)
}

/// Reads rows of a key.
fn read_orders(agent: &ureq::Agent, url: &str, key: &str) -> std::io::Result<()> {
    let sent = agent.get(format!("{url}/api/read?table=orders&limit=10"));
    let mut reply = sent.header("x-shard-key", key).call().map_err(Error::other)?;
    reply.body_mut().read_to_vec().map(drop).map_err(Error::other)
}
