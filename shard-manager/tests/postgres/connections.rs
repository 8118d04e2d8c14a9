//! Tests of the number of connections that a router opens to a node, whatever its clients do and
//! however often slots move.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use shard_manager::consistency::Level;
use shard_manager::engine::move_record::{MovePhase, NewMove};
use shard_manager::local::{LocalNode, Stop};
use shard_manager::manager::Manager;
use shard_manager::node_address::ServerEngine;
use shard_manager::value::ColumnType::{Bigint, Text};

use crate::cluster::{Databases, SideSession, Trio, connect};
use crate::move_steps::{SOURCE, TARGET, begin, kept_up, new, store_large, until};
use crate::read_write_steps::{at, get, put, until_replicas};
use crate::rows::{make, rows, table};
use crate::server::runtime;

const COUNT: &str = "SELECT count(*)::text AS value FROM pg_stat_activity \
                     WHERE application_name LIKE 'tessera %'";

/// Counts the sessions of a router with a node until `ends` is set; returns the maximum.
fn count(node: &LocalNode, ends: &Arc<AtomicBool>) -> tokio::task::JoinHandle<usize> {
    let (node, ends) = (node.clone(), Arc::clone(ends));
    tokio::task::spawn_blocking(move || {
        runtime().block_on(async {
            let mut direct = SideSession::open(&node, "shard1").await;
            let mut most = 0;
            while !ends.load(Ordering::SeqCst) {
                most = most.max(direct.text(COUNT).await.parse().unwrap());
            }
            most
        })
    })
}

/// Runs a future; returns the maximum number of sessions of each node meanwhile.
async fn with_session_peaks<T>(
    nodes: &[LocalNode],
    work: impl Future<Output = T>,
) -> (T, BTreeMap<String, usize>) {
    let ends = Arc::new(AtomicBool::new(false));
    let counts: Vec<_> = nodes.iter().map(|node| (node.name.clone(), count(node, &ends))).collect();
    let done = work.await;
    ends.store(true, Ordering::SeqCst);
    let mut most = BTreeMap::new();
    for (node, count) in counts {
        most.insert(node, count.await.unwrap());
    }
    (done, most)
}

/// Every kind of request, from many clients at once.
async fn load(manager: &Manager, name: &str) {
    for round in 0..5 {
        let tables = async {
            let notes =
                table(&format!("{name}{round}"), &[("id", Text), ("n", Bigint)], 1, &["id"], None);
            make(manager, &notes).await;
        };
        let clients = (0..40).map(async |client| {
            let (key, level) = (format!("k{client}"), Level::ALL[client % 3]);
            put(manager, &key, &at(level)).await.unwrap();
            get(manager, &key, &at(level)).await.unwrap();
            rows(manager, "users", None).await;
        });
        let health = manager.status().health(Instant::now() + Duration::from_secs(5));
        tokio::join!(tables, join_all(clients), health);
    }
}

fn check(most: &BTreeMap<String, usize>) {
    eprintln!("connections at most: {most:?}");
    let allowed = ServerEngine::Postgres.connections_of_router() as usize;
    assert!(most.values().all(|most| *most <= allowed), "{most:?}");
}

#[test]
fn a_router_opens_no_more_connections_to_a_node_than_configured_however_many_clients_it_has() {
    let mut trio = Trio::start();
    runtime().block_on(async {
        let nodes = trio.cluster.nodes().to_vec();
        let listed = trio.address();
        let starting = tokio::task::spawn_blocking(move || connect(&listed));
        let (manager, most) = with_session_peaks(&nodes, starting).await;
        let manager = manager.unwrap();
        check(&most);
        check(&with_session_peaks(&nodes, load(&manager, "before")).await.1);

        trio.cluster.commands().stop("shard1-primary", Stop::Immediate).unwrap();
        let alive: Vec<_> = trio.cluster.replicas_of(0).cloned().collect();
        let promoting = tokio::task::spawn_blocking(move || {
            trio.cluster.commands().promote_best("shard1").unwrap();
            trio
        });
        let over = AtomicBool::new(false);
        // Requests in flight at this moment may fail; other tests check how that is reported.
        let clients = (0..40).map(async |client| {
            let key = format!("k{client}");
            while !over.load(Ordering::SeqCst) {
                let _ = put(&manager, &key, &at(Level::One)).await;
                let _ = get(&manager, &key, &at(Level::ALL[client % 3])).await;
                tokio::task::yield_now().await;
            }
        });
        let failing_over = async {
            put(&manager, "waits", &at(Level::Quorum)).await.unwrap();
            until_replicas(&manager, 1).await;
            over.store(true, Ordering::SeqCst);
            promoting.await.unwrap()
        };
        let both = async { tokio::join!(failing_over, join_all(clients)).0 };
        let (mut trio, most) = with_session_peaks(&alive, both).await;
        check(&most);

        trio.cluster.commands().rejoin("shard1-primary").unwrap();
        until_replicas(&manager, 2).await;
        check(&with_session_peaks(&nodes, load(&manager, "after")).await.1);
        tokio::task::spawn_blocking(move || manager.close()).await.unwrap();
    });
}

/// A session costs the server and the router as much as hundreds of writes, and each move changes
/// the shard map.
#[tokio::test]
async fn consecutive_moves_open_no_new_sessions() {
    const FIRST: usize = 3;
    const FURTHER: usize = 6;
    let databases = Databases::new(2).await;
    let manager = connect(&databases.address());
    let mut direct = databases.direct_session(0).await;
    let names = databases.names.join("','");
    let opened = format!(
        "SELECT sum(sessions)::text AS value FROM pg_stat_database WHERE datname IN ('{names}')"
    );
    let slots = store_large(&manager, 2).await;
    kept_up(&manager, async {
        let mut before = 0;
        for turn in 0..FIRST + FURTHER {
            if turn == FIRST {
                before = direct.text(&opened).await.parse::<usize>().unwrap();
            }
            let (source, target) = if turn % 2 == 0 { (SOURCE, TARGET) } else { (TARGET, SOURCE) };
            let there = NewMove { source, target, ..new(&slots, Duration::ZERO) };
            let id = begin(&manager, there).await;
            until(&manager, id, &[MovePhase::Done]).await;
        }
        let after = direct.text(&opened).await.parse::<usize>().unwrap();
        // Not even one for each move.
        assert!(after - before < FURTHER, "{before} sessions before and {after} after");
    })
    .await;
}
