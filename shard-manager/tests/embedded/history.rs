//! Tests of histories: many concurrent clients read and write, each at its consistency level, while
//! replicas are paused; a checker then verifies the results of the reads.
//!
//! Every write has a version, and the versions of a key grow in commit order. So a history of one
//! key is linearizable exactly if (i) no operation shows a version below one of an operation that
//! had ended before it began (a write must show a higher one), and (ii) no read shows a version
//! whose write had not begun. One pass over the events checks this; no search is needed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use shard_manager::access::rights::Rights;
use shard_manager::consistency::Level;
use shard_manager::engine::fault_injector::{NodeFault, NodeMode};
use shard_manager::keyspace::ShardKey;
use shard_manager::manager::RequestOptions;
use shard_manager::query::ReadQuery;
use shard_manager::row_change::Operation::Upsert;
use shard_manager::token::SessionToken;

use crate::cluster::{Cluster, deadline, with_replicas};

/// One operation of a client on one key, and its result.
#[derive(Clone, Debug, PartialEq)]
struct Event {
    key: usize,
    began: Duration,
    ended: Duration,
    /// The row's version; 0 if there is no row.
    version: i64,
    write: bool,
}

/// The first pair of operations that contradict each other.
fn contradiction(events: &[Event]) -> Option<(Event, Event)> {
    let mut written: HashMap<(usize, i64), &Event> = HashMap::new();
    for event in events.iter().filter(|event| event.write) {
        if let Some(twin) = written.insert((event.key, event.version), event) {
            return Some((twin.clone(), event.clone()));
        }
    }
    let mut by_end: Vec<&Event> = events.iter().collect();
    by_end.sort_by_key(|event| event.ended);
    let mut by_start = by_end.clone();
    by_start.sort_by_key(|event| event.began);
    let mut low: HashMap<usize, &Event> = HashMap::new();
    let mut ended = by_end.into_iter().peekable();
    for event in by_start {
        while let Some(before) = ended.next_if(|before| before.ended < event.began) {
            let least = low.entry(before.key).or_insert(before);
            if least.version < before.version {
                *least = before;
            }
        }
        if let Some(least) = low.get(&event.key) {
            let too_low =
                event.version < least.version || (event.write && event.version == least.version);
            if too_low {
                return Some(((*least).clone(), event.clone()));
            }
        }
        let source = written.get(&(event.key, event.version));
        if let Some(source) = source.filter(|source| !event.write && event.ended < source.began) {
            return Some(((*source).clone(), event.clone()));
        }
    }
    None
}

const KEYS: usize = 3;
const CLIENTS: u64 = 6;
const OPERATIONS: usize = 120;

/// A small generator of pseudo-random numbers, so that every run has the same mix of operations.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

/// One client: writes and reads at `level`, and keeps its session token if `remembers`. Returns its
/// history, and the operations that showed an older version of a key than the client had seen.
async fn client(
    cluster: &Cluster,
    level: Level,
    remembers: bool,
    (seed, epoch): (u64, Instant),
) -> (Vec<Event>, Vec<(i64, Event)>) {
    let table = cluster.manager.schema(Rights::ALL).table("users").expect("it is there");
    let mut random = seed;
    let mut session = SessionToken::empty();
    let (mut events, mut went_back, mut seen) = (Vec::new(), Vec::new(), [0; KEYS]);
    for n in 0..OPERATIONS {
        let key = next(&mut random) as usize % KEYS;
        let name = format!("k{key}");
        let options =
            RequestOptions { level, session: session.clone(), ..RequestOptions::by(deadline()) };
        let write = next(&mut random).is_multiple_of(3);
        let began = epoch.elapsed();
        let version = if write {
            let json = json!({"name": format!("{seed}:{n}"), "email": "a@example.com"}).to_string();
            let (place, row) = cluster.prepare("users", Upsert, &name, &json);
            // For the next read at a higher level, durability on the primary is enough.
            let one = RequestOptions { level: Level::One, ..options };
            let written =
                cluster.manager.data(Rights::ALL).write(place, row, &one).await.expect("stored");
            if remembers {
                cluster.manager.sessions().extend(
                    &mut session,
                    place.shard,
                    written.receipt.position,
                );
            }
            written.row.version
        } else {
            let key = ShardKey::parse(&name).expect("a key");
            let read = cluster
                .manager
                .data(Rights::ALL)
                .read(ReadQuery::all(&table), Some(key), &options)
                .await;
            let read = read.expect("read");
            if remembers {
                session = read.session.clone();
            }
            read.version().unwrap_or(0)
        };
        let event = Event { key, began, ended: epoch.elapsed(), version, write };
        if version < seen[key] {
            went_back.push((seen[key], event.clone()));
        }
        seen[key] = seen[key].max(version);
        events.push(event);
    }
    (events, went_back)
}

/// Runs many clients while another thread pauses and delays replicas.
fn run(level: Level, remembers: bool) -> (Vec<Event>, Vec<(i64, Event)>) {
    let cluster = &Cluster::with(with_replicas(2, 2));
    let epoch = Instant::now();
    let done = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(move || disturb(cluster, done));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|seed| {
                scope.spawn(move || {
                    let runtime =
                        tokio::runtime::Builder::new_current_thread().enable_all().build();
                    let runtime = runtime.expect("a runtime");
                    runtime.block_on(client(cluster, level, remembers, (seed + 1, epoch)))
                })
            })
            .collect();
        let (mut events, mut went_back) = (Vec::new(), Vec::new());
        for client in clients {
            let (own, back) = client.join().expect("the client ends");
            events.extend(own);
            went_back.extend(back);
        }
        done.store(true, Ordering::SeqCst);
        (events, went_back)
    })
}

fn disturb(cluster: &Cluster, done: &AtomicBool) {
    let mut random = 7;
    while !done.load(Ordering::SeqCst) {
        for shard in 1..=2 {
            for replica in 1..=2 {
                let injector =
                    cluster.manager.faults().node(&format!("shard{shard}-replica{replica}"));
                let mode = [NodeMode::Running, NodeMode::Paused, NodeMode::Cut]
                    [next(&mut random) as usize % 3];
                let delay = Duration::from_millis(next(&mut random) % 3 * 5);
                injector.expect("the node").set(NodeFault { mode, delay });
            }
        }
        std::thread::sleep(Duration::from_millis(3));
    }
}

#[test]
fn reads_at_quorum_and_all_are_linearizable_with_all_writes() {
    for level in [Level::Quorum, Level::All] {
        let (events, went_back) = run(level, false);
        assert_eq!(events.len(), CLIENTS as usize * OPERATIONS);
        assert_eq!(contradiction(&events), None, "{level:?}");
        assert_eq!(went_back, [], "{level:?}");
    }
}

#[test]
fn a_client_with_a_token_never_sees_less_than_it_has_seen() {
    let (_, went_back) = run(Level::One, true);
    assert_eq!(went_back, []);
}

#[test]
fn without_a_token_and_a_level_replicas_show_older_rows_so_the_checker_can_fail() {
    // On a busy machine the thread that pauses replicas may get its turn only after the clients.
    let is_found = (0..5).any(|_| {
        let (events, went_back) = run(Level::One, false);
        contradiction(&events).is_some() && !went_back.is_empty()
    });
    assert!(is_found, "replicas that stand still are never behind?");
}

#[test]
fn the_checker_finds_contradictions() {
    let event = |began, ended, version, write| {
        let at = Duration::from_millis;
        Event { key: 0, began: at(began), ended: at(ended), version, write }
    };
    let sound = [
        event(0, 10, 1, true),
        event(5, 30, 2, true),
        event(12, 14, 1, false),
        event(15, 20, 2, false),
        event(25, 26, 2, false),
    ];
    assert_eq!(contradiction(&sound), None);
    let stale = [event(0, 1, 1, true), event(2, 3, 2, true), event(4, 5, 1, false)];
    assert!(contradiction(&stale).is_some(), "a stale read");
    let back = [event(0, 9, 2, true), event(1, 2, 2, false), event(3, 4, 0, false)];
    assert!(contradiction(&back).is_some(), "a read that goes back");
    let lost = [event(0, 1, 3, true), event(2, 3, 2, true)];
    assert!(contradiction(&lost).is_some(), "a write that comes before an earlier one");
    let twins = [event(0, 1, 1, true), event(0, 1, 1, true)];
    assert!(contradiction(&twins).is_some(), "one version, two writes");
    let phantom = [event(0, 1, 5, false), event(2, 3, 5, true)];
    assert!(contradiction(&phantom).is_some(), "read before it was written");
}
