//! Tests of a router that is frozen in the middle of a move, while another router resumes the move.
//! When the first router is resumed, it continues with its step of the move and with the writes
//! that were in progress.
//!
//! **Not here:** routers that are killed (`moves`), embedded shards (`move_stops`).

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Router, cluster_folder, start, start_program};
use crate::cluster::Cluster;
use crate::http::{send, try_send};
use crate::sabotage;

/// Stop points at which the first router freezes itself: while rows are copied, while it holds the
/// fence lock, and while no shard owns the slots.
const STOPS: [&str; 3] = ["freeze:before_store", "freeze:inside_commit", "freeze:before_activate"];
/// Number of keys whose slots move. Each has a client of its own.
const KEYS: usize = 20;
/// Longest wait for something that must happen. It is so long that a test that reaches it has found
/// a defect.
const PATIENCE: Duration = Duration::from_secs(120);

/// Number of the last acknowledged write to a key, and number of the last write that was sent.
struct LastWrites {
    acknowledged: u64,
    sent: u64,
}

/// Writes one number after the other to a key until the test is over. A write that was sent to the
/// frozen router waits until the router is resumed.
fn write_on(host: &str, key: &str, is_over: &AtomicBool) -> LastWrites {
    let mut written = LastWrites { acknowledged: 0, sent: 0 };
    while !is_over.load(Ordering::Acquire) {
        written.sent += 1;
        let body = json!({"number": written.sent}).to_string();
        if send(host, "PUT", &format!("/api/kv/{key}"), &body).starts_with("HTTP/1.1 2") {
            written.acknowledged = written.sent;
        }
    }
    written
}

fn ask(router: &Router, method: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
    let headers = [("x-consistency", "all")];
    let headers = if path.starts_with("/api/kv") { &headers[..] } else { &[] };
    let answer = try_send(&router.host(), (method, path), headers, &body.to_string()).ok()?;
    Some((answer.status, answer.body))
}

/// Returns the source and the target of a move, and keys on the source, each with its slot.
fn choose_keys(router: &Router, turn: usize) -> (String, String, Vec<(String, u64)>) {
    let route = |key: &str| {
        let route = read(router, &format!("/api/route?key={key}"));
        (route["shard"].as_str().unwrap().to_owned(), route["slot"].as_u64().unwrap())
    };
    let (from, _) = route("frozen");
    let to = if from == "shard1" { "shard2" } else { "shard1" };
    let mut keys: Vec<(String, u64)> = Vec::new();
    for number in 0.. {
        let key = format!("frozen{turn}-{number}");
        let (shard, slot) = route(&key);
        if shard == from && keys.iter().all(|(_, other)| *other != slot) {
            keys.push((key, slot));
        }
        if keys.len() == KEYS {
            break;
        }
    }
    (from, to.to_owned(), keys)
}

/// Repeats a step until it returns a value.
#[track_caller]
fn eventually<T>(what: &str, mut step: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(done) = step() {
            return done;
        }
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Returns the body of the response to a read, which is repeated if a busy router does not respond
/// in time.
#[track_caller]
fn read(router: &Router, path: &str) -> Value {
    eventually("the router responds", || {
        let (status, body) = ask(router, "GET", path, &json!({}))?;
        (status < 500).then_some(body)
    })
}

/// Begins a move on a router, which then freezes itself. Starts a second router, and returns it
/// when it has carried out the move.
fn move_beside_writes(
    environment: &Path,
    (first, stop): (&Router, &str),
    (from, to): (&str, &str),
    keys: &[(String, u64)],
) -> Router {
    let slots: Vec<[u64; 2]> = keys.iter().map(|(_, slot)| [*slot, *slot]).collect();
    let wished = json!({"slots": slots, "from": from, "to": to, "keep": 0});
    eventually("the move begins", || {
        // The response is lost if the router is frozen first.
        let begun = ask(first, "POST", "/api/moves", &wished);
        begun.is_none_or(|(status, _)| status == 202).then_some(())
    });
    eventually("the router is frozen", || first.is_frozen().then_some(()));
    let folder = tempfile::tempdir().unwrap();
    let second = start(environment, folder.path(), &["--operate"]);
    eventually("the other router carries the move on", || {
        let listed = ask(&second, "GET", "/api/moves", &json!({}))?.1;
        let phase = listed["moves"][0]["phase"].as_str()?.to_owned();
        assert!(phase != "failed" && phase != "cancelled", "{stop}: {listed}");
        (phase == "done").then_some(())
    });
    second
}

fn play(environment: &Path, turn: usize, stop: &str) {
    let folder = tempfile::tempdir().unwrap();
    let variables = [("TESSERA_STOP_AT", stop)];
    let options = (folder.path(), &["--operate"][..]);
    let first = start_program(&sabotage::PROGRAM, environment, options, &variables);
    let (from, to, keys) = choose_keys(&first, turn);
    let (host, is_over) = (first.host(), AtomicBool::new(false));
    let (second, written) = std::thread::scope(|scope| {
        let writers: Vec<_> =
            keys.iter().map(|(key, _)| scope.spawn(|| write_on(&host, key, &is_over))).collect();
        let end = End(&is_over, &first);
        let second = move_beside_writes(environment, (&first, stop), (&from, &to), &keys);
        drop(end);
        let written = writers.into_iter().map(|writer| writer.join().unwrap());
        (second, written.collect::<Vec<LastWrites>>())
    });
    for ((key, _), LastWrites { acknowledged, sent }) in keys.iter().zip(&written) {
        assert!(*acknowledged > 0, "{stop}: {key}");
        for router in [&first, &second] {
            let read = read(router, &format!("/api/kv/{key}"));
            let number = read["number"].as_u64();
            let is_right = number.is_some_and(|number| (*acknowledged..=*sent).contains(&number));
            assert!(is_right, "{stop}: {key} is {read}, not {acknowledged} to {sent}");
            let path = format!("/api/route?key={key}");
            eventually("each router knows the new owner", || {
                let (_, route) = ask(router, "GET", &path, &json!({}))?;
                (route["shard"] == *to).then_some(())
            });
        }
    }
}

/// Guard that ends the writing clients of a test and resumes the router for which they wait, even
/// if the test fails.
struct End<'a>(&'a AtomicBool, &'a Router);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
        self.1.thaw();
    }
}

#[test]
fn a_frozen_mover_is_replaced_and_its_late_requests_and_writes_do_no_harm() {
    let Some(_) = cluster_folder() else { return };
    // The test has its own cluster, because its replicas must follow their primaries, and other
    // tests delay the replicas of the shared servers.
    let Some(cluster) = Cluster::up("2", "1") else { return };
    for (turn, stop) in STOPS.into_iter().enumerate() {
        play(&cluster.dir().join("tessera.env"), turn, stop);
    }
}
