//! Benchmark of moves of slots: rows of 64 slots move from one shard to another and back, and the
//! time is compared with that of the bulk write that stored them.
//!
//! `-- moves 1000000 3` moves a million rows three times, on files. With one more argument, a file
//! with the variables of a new PostgreSQL cluster (the `tessera.env` of `shard-manager cluster
//! up`), its servers are the shards, and the time is also compared with that of a binary COPY of
//! these rows from one server into an empty table of another, by two `psql`. The comparison of both
//! copies, which COPY does not do, is counted apart, as the mover has measured it. Afterwards
//! clients write at half of the rate that they reach, while four of the slots move, once for each
//! move measured above, and while none does. The router counts how long the rows of these writes
//! wait for their slots.

use std::fmt::Write as _;
use std::io::Error;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shard_manager::keyspace::{Keyspace, ShardKey};

use crate::beside::{numbers_and_file, variables};
use crate::load::median;
use crate::paced_load::{
    SENDING, highest, print_p99, send, send_beside, send_beside_computation, write_user,
};
use crate::servers::Router;

/// Slots that move; they belong to the first shard of a new cluster.
const SLOTS: u16 = 64;
/// Rows of each shard key.
pub(crate) const ROWS_OF_A_KEY: usize = 100;
/// Rows of a request of the bulk write.
const BULK_ROWS: usize = 10_000;
/// Clients of the bulk write.
const BULK_CLIENTS: usize = 4;
/// Slots that move while clients write: beside them a move copies small rounds.
const SLOTS_BESIDE_WRITES: u16 = 4;
/// Keys of each shard that single writes have.
const KEYS_OF_A_SHARD: usize = 10_000;

/// Measures moves.
pub(crate) fn measure() -> std::io::Result<()> {
    let (numbers, file) = numbers_and_file("moves");
    let rows = numbers.first().copied().unwrap_or(1_000_000);
    let moves = numbers.get(1).copied().unwrap_or(3);
    let variables = variables(file)?;
    let dir = tempfile::tempdir()?;
    let servers = variables.iter().find(|(name, _)| name == "SHARD_URLS");
    let servers: Vec<String> =
        servers.map(|(_, urls)| urls.split(',').map(str::to_owned).collect()).unwrap_or_default();
    let router = Router::start_with(dir.path(), &["--operate"], &variables)?;
    let keys = keys_of_slots((0, SLOTS - 1), rows / ROWS_OF_A_KEY);
    let stored = store(&router.url, &keys)?;
    println!("{rows} rows in {SLOTS} slots: bulk write {:.2} s", stored.as_secs_f64());
    let before = router.resident_mib();
    let raw = copy_raw(&servers)?;
    let (mut owned, mut compared, mut held) = (Vec::new(), Vec::new(), Vec::new());
    let mut direction = (1, 2);
    for _ in 0..moves {
        let moved = move_slots(&router.url, SLOTS, direction)?;
        clean(&moved.path)?;
        direction = (direction.1, direction.0);
        owned.push((moved.owned - moved.compared).as_secs_f64());
        compared.push(moved.compared.as_secs_f64());
        held.push(moved.held_ms);
    }
    let ratio = |time: f64| {
        let of_copy = raw.map_or(String::new(), |raw| format!(", {:.2} of COPY", time / raw));
        format!("{time:.2} s   {:.2} of the bulk write{of_copy}", time / stored.as_secs_f64())
    };
    println!("until owned, without the comparison {}", ratio(median(&mut owned)));
    println!("comparison {}", ratio(median(&mut compared)));
    println!(
        "writes waited at most {:.0} ms (median), {:.0} ms (highest)",
        median(&mut held),
        highest(held.iter().copied())
    );
    println!("resident {before} MiB before, {} MiB after", router.resident_mib());
    write_beside(&router.url, moves, direction)
}

/// A move whose target owns the slots.
struct Moved {
    /// URL of the move.
    path: String,
    /// From its beginning until the target owned the slots.
    owned: Duration,
    /// Part of it during which both copies were compared.
    compared: Duration,
    /// Longest time for which writes of the slots had to wait.
    held_ms: f64,
}

/// Moves the first slots, and waits until the target owns them.
fn move_slots(url: &str, slots: u16, (from, to): (u16, u16)) -> std::io::Result<Moved> {
    let slots = json!([[0, slots - 1]]);
    let order = json!({"slots": slots, "from": format!("shard{from}"), "to": format!("shard{to}")});
    let began = Instant::now();
    let begun = post(&format!("{url}/api/moves"), &order)?;
    let path = format!("{url}/api/moves/{}", begun["id"].as_str().unwrap_or_default());
    let kept = loop {
        let shown = get(&path)?;
        if shown["phase"] == "keeping" {
            break shown;
        }
        if !shown["ended_at"].is_null() {
            return Err(Error::other(format!("the move has ended: {shown}")));
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let owned = began.elapsed();
    let compared_ms = kept["phase_ms"]["verifying"].as_f64();
    let compared_ms = compared_ms.ok_or_else(|| Error::other(format!("no comparison: {kept}")))?;
    let compared = Duration::from_secs_f64(compared_ms / 1e3);
    let held_ms = kept["longest_hold_ms"].as_f64().unwrap_or(0.0);
    Ok(Moved { path, owned, compared, held_ms })
}

/// Waits until the copy of a move on its source is deleted.
fn clean(path: &str) -> std::io::Result<()> {
    post(&format!("{path}/settle"), &json!({}))?;
    while get(path)?["ended_at"].is_null() {
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Copies the rows from the first server into a new table of the second one, with the same indexes,
/// and returns the median of three times in seconds; `None` without servers.
fn copy_raw(servers: &[String]) -> std::io::Result<Option<f64>> {
    let [from, to, ..] = servers else { return Ok(None) };
    let last = SLOTS - 1;
    let mut times = Vec::new();
    for _ in 0..3 {
        psql(to, "DROP TABLE IF EXISTS copied; CREATE TABLE copied (LIKE orders INCLUDING ALL)")?;
        let began = Instant::now();
        let read = format!("COPY (SELECT * FROM orders WHERE slot<={last}) TO STDOUT BINARY");
        let mut reading = Command::new("psql");
        reading.args([from, "-qc", &read]).stdout(std::process::Stdio::piped());
        let mut reading = reading.spawn()?;
        let rows = reading.stdout.take().ok_or_else(|| Error::other("psql has no output"))?;
        let mut writing = Command::new("psql");
        writing.args([to, "-qc", "COPY copied FROM STDIN BINARY"]).stdin(rows);
        if !(writing.status()?.success() && reading.wait()?.success()) {
            return Err(Error::other("the rows were not copied"));
        }
        times.push(began.elapsed().as_secs_f64());
    }
    psql(to, "DROP TABLE copied")?;
    let copied = median(&mut times);
    println!("COPY of these rows {copied:.2} s");
    Ok(Some(copied))
}

pub(crate) fn psql(server: &str, sql: &str) -> std::io::Result<()> {
    let done = Command::new("psql").args([server, "-qc", sql]).status()?.success();
    done.then_some(()).ok_or_else(|| Error::other(format!("psql failed: {sql}")))
}

/// Returns keys of slots between two, both included.
pub(crate) fn keys_of_slots((first, last): (u16, u16), count: usize) -> Vec<String> {
    let keyspace = Keyspace::Hash;
    let is_moving = |key: &String| {
        let slot = ShardKey::parse(key).ok().and_then(|key| keyspace.slot_of(key).ok());
        slot.is_some_and(|slot| (first..=last).contains(&slot.number()))
    };
    (0_u64..).map(|n| format!("user_{n}")).filter(is_moving).take(count).collect()
}

/// Stores the rows of all keys, and returns the time that it took.
pub(crate) fn store(url: &str, keys: &[String]) -> std::io::Result<Duration> {
    let began = Instant::now();
    std::thread::scope(|scope| {
        let share = keys.len().div_ceil(BULK_CLIENTS);
        let clients = keys.chunks(share).map(|keys| scope.spawn(|| store_keys(url, keys)));
        let clients: Vec<_> = clients.collect();
        clients
            .into_iter()
            .try_for_each(|client| client.join().map_err(|_| Error::other("a client failed"))?)
    })?;
    Ok(began.elapsed())
}

fn store_keys(url: &str, keys: &[String]) -> std::io::Result<()> {
    for keys in keys.chunks(BULK_ROWS / ROWS_OF_A_KEY) {
        let mut body = String::new();
        for (key, number) in keys.iter().flat_map(|key| (0..ROWS_OF_A_KEY).map(move |n| (key, n))) {
            let row =
                json!({"order_id": format!("{key}_{number}"), "user_id": key, "amount": number});
            let _ = writeln!(body, "{row}");
        }
        let sent = ureq::post(format!("{url}/api/bulk-write?table=orders"));
        let sent = sent.header("content-type", "application/x-ndjson").send(body);
        let mut reply = sent.map_err(Error::other)?;
        let report: String = reply.body_mut().read_to_string().map_err(Error::other)?;
        if report.contains("\"rejected\"") {
            return Err(Error::other(report));
        }
    }
    Ok(())
}

/// Writes single rows at half of the highest rate, while no move runs and while slots move this
/// number of times.
fn write_beside(url: &str, moves: usize, mut direction: (u16, u16)) -> std::io::Result<()> {
    let moving = keys_of_slots((0, SLOTS_BESIDE_WRITES - 1), KEYS_OF_A_SHARD);
    let [staying, others] = ["shard2", "shard3"].map(|shard| keys_of_shard(url, shard));
    let (staying, others) = (staying?, others?);
    let write = |agent: &ureq::Agent, number: usize, kind: usize| {
        let keys = match (kind, number % 4 < 2) {
            (0, true) => &moving,
            (0, false) => &staying,
            _ => &others,
        };
        write_user(agent, url, &keys[number % keys.len()])
    };
    let peak = send(None, &write)?;
    let rate = peak.len() as f64 / SENDING.as_secs_f64() / 2.0;
    let before = send(Some(rate), &write)?;
    let (mut during, mut cleaning) = (Vec::new(), Vec::new());
    for _ in 0..moves {
        let change = || move_slots(url, SLOTS_BESIDE_WRITES, direction);
        let (times, moved) = send_beside(Some(rate), &write, &change)?;
        during.extend(times);
        let (times, ()) = send_beside(Some(rate), &write, &|| clean(&moved.path))?;
        cleaning.extend(times);
        direction = (direction.1, direction.0);
    }
    let kinds = ["both shards", "another shard"];
    println!(
        "{rate:.0} writes a second, half of the highest rate, to all shards, until the slots are owned:"
    );
    print_p99(kinds, &before, &during);
    println!("while the source's copy is deleted:");
    print_p99(kinds, &before, &cleaning);
    println!("beside a thread that only computes, and no move:");
    print_p99(kinds, &before, &send_beside_computation(rate, &write)?);
    print_waits(url)
}

/// Prints the time for which rows have waited for their slots, as the router has counted it.
fn print_waits(url: &str) -> std::io::Result<()> {
    let mut reply = ureq::get(format!("{url}/metrics")).call().map_err(Error::other)?;
    let metrics = reply.body_mut().read_to_string().map_err(Error::other)?;
    let number = |text: &str| text.trim().parse::<f64>().ok();
    // The counts of the buckets are cumulative.
    let buckets: Vec<(f64, f64)> = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("tessera_parked_wait_seconds_bucket{le=\""))
        .filter_map(|line| line.split_once("\"}"))
        .filter_map(|(bound, count)| Some((number(bound)?, number(count)?)))
        .collect();
    let all = buckets.last().map_or(0.0, |(_, count)| *count);
    let longest =
        metrics.lines().find_map(|line| line.strip_prefix("tessera_parked_longest_seconds "));
    let longest = longest.and_then(number).unwrap_or(f64::NAN) * 1e3;
    let slow = buckets.iter().find(|(_, count)| *count >= all * 0.99);
    let slow = slow.filter(|_| all >= 100.0).map(|(bound, _)| bound * 1e3);
    let slow =
        slow.map_or("too few for p99".to_owned(), |slow| format!("p99 at most {slow:.0} ms"));
    println!("{all:.0} rows waited for their slots: {slow}, longest {longest:.1} ms");
    Ok(())
}

/// Returns keys of a shard.
fn keys_of_shard(url: &str, name: &str) -> std::io::Result<Vec<String>> {
    let map = get(&format!("{url}/api/shard-map"))?;
    let mut ranges = map["ranges"].as_array().into_iter().flatten();
    let range = ranges.find(|range| range[2] == *name);
    let range = range.ok_or_else(|| Error::other(format!("{name} owns no slots")))?;
    let [first, last] =
        [0, 1].map(|end| range[end].as_u64().and_then(|slot| u16::try_from(slot).ok()));
    let range = first.zip(last).ok_or_else(|| Error::other(range.to_string()))?;
    Ok(keys_of_slots(range, KEYS_OF_A_SHARD))
}

pub(crate) fn get(url: &str) -> std::io::Result<Value> {
    let mut reply = ureq::get(url).call().map_err(Error::other)?;
    reply.body_mut().read_json().map_err(Error::other)
}

pub(crate) fn post(url: &str, body: &Value) -> std::io::Result<Value> {
    let request = ureq::post(url).config().http_status_as_error(false).build();
    let mut reply = request.send_json(body).map_err(Error::other)?;
    let is_success = reply.status().is_success();
    let body: Value = reply.body_mut().read_json().map_err(Error::other)?;
    if is_success { Ok(body) } else { Err(Error::other(body.to_string())) }
}
