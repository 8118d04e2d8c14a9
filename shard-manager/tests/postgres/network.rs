//! Tests of network failures: nodes that cannot be reached, or that accept requests without
//! answering.

use std::time::{Duration, Instant};

use shard_manager::cache::ServedBy;
use shard_manager::consistency::Level;
use shard_manager::error::{Error, Outcome};
use shard_manager::local::Stop;
use shard_manager::manager::{Manager, RequestOptions};
use shard_manager::node_address::{ClusterAddress, NodeAddress, Timeouts};
use shard_manager::reason::Reason;

use crate::cluster::{Trio, address, cluster_of, connect};
use crate::read_write_steps::{at, get, put, put_fails, seen, until_read, until_replicas, within};
use crate::server::{patient, runtime};
use crate::tcp_proxy::{ProxyMode, TcpProxy};

/// Address of a shard each of whose nodes is behind a proxy.
fn proxied(trio: &Trio) -> (ClusterAddress, Vec<TcpProxy>) {
    let mut nodes: Vec<NodeAddress> = Vec::new();
    let mut proxies = Vec::new();
    for node in trio.cluster.nodes() {
        let proxy = TcpProxy::to(node.port);
        let mut at = address(node, "shard1");
        at.hosts[0].port = proxy.port;
        nodes.push(at);
        proxies.push(proxy);
    }
    let replicas = nodes.split_off(1);
    // A connection that is opened to a silent node delays the next attempt for this long.
    let timeouts = Timeouts { connect: Duration::from_secs(6), ..patient() };
    (ClusterAddress { replicas, timeouts, ..cluster_of(nodes) }, proxies)
}

/// Silences the primary and sends it a write, whose outcome is then unknown. A machine that stands
/// still sends none before the deadline.
async fn put_unanswered(manager: &Manager, primary: &TcpProxy) {
    let limit = Instant::now() + Duration::from_secs(60);
    loop {
        primary.set(ProxyMode::Silent);
        let failure = put(manager, "k", &within(500, Level::One)).await.unwrap_err();
        if failure.outcome == Outcome::Unknown {
            return;
        }
        assert!(Instant::now() < limit, "{failure:?}");
        primary.set(ProxyMode::Open);
        put(manager, "k", &within(30_000, Level::One)).await.unwrap();
    }
}

#[test]
fn health_comes_by_an_early_deadline_and_names_the_nodes_that_did_not_answer() {
    let trio = Trio::start();
    let (listed, proxies) = proxied(&trio);
    let manager = connect(&listed);
    runtime().block_on(async {
        until_replicas(&manager, 2).await;
        proxies.iter().for_each(|proxy| proxy.set(ProxyMode::Silent));
        // The second time new sessions are needed, because those of the first time still wait.
        for _ in 0..2 {
            let soon = Instant::now() + Duration::from_millis(100);
            let nodes = manager.status().health(soon).await.remove(0).nodes;
            assert_eq!(nodes.len(), 3, "{nodes:?}");
            for node in nodes {
                // The silence may have been noticed otherwise before.
                let named = [Reason::NoAnswerInTime, Reason::NoAnswer];
                let is_named = named.into_iter().any(|reason| node.reasons.contains(reason));
                assert!(!node.up && is_named, "{node:?}");
            }
        }
        proxies.iter().for_each(|proxy| proxy.set(ProxyMode::Open));
        until_replicas(&manager, 2).await;
    });
    manager.close();
}

#[test]
fn unreachable_nodes_delay_no_client_for_long_and_come_back_by_themselves() {
    let trio = Trio::start();
    let (listed, proxies) = proxied(&trio);
    let manager = connect(&listed);
    runtime().block_on(async {
        put(&manager, "k", &at(Level::All)).await.unwrap();

        // While the replicas do not answer, reads use the primary; afterwards they use the
        // replicas again.
        proxies[1..].iter().for_each(|proxy| proxy.set(ProxyMode::Silent));
        let began = Instant::now();
        while get(&manager, "k", &within(10_000, Level::One)).await.unwrap().served_by
            != ServedBy::Primary
        {
            assert!(began.elapsed() < Duration::from_secs(20), "replicas still get requests");
        }
        proxies[1..].iter().for_each(|proxy| proxy.set(ProxyMode::Open));
        until_replicas(&manager, 2).await;
        put(&manager, "k", &at(Level::All)).await.unwrap();

        // The primary is cut off: writes are refused with that reason; reads continue.
        proxies[0].set(ProxyMode::Cut);
        // The outcome of a write in flight is unknown. On a busy machine, the first one may end
        // before it is in flight.
        let _ = put(&manager, "k", &within(200, Level::One)).await;
        let mut failure = put_fails(&manager, "k", 200, Level::One).await;
        if failure.outcome == Outcome::Unknown {
            failure = put_fails(&manager, "k", 200, Level::One).await;
        }
        assert!(matches!(failure.error, Error::NoPrimary { .. }), "{failure:?}");
        assert_eq!(failure.outcome, Outcome::Rejected);
        assert_eq!(until_read(&manager, "k").await, 1);
        let strong = get(&manager, "k", &within(500, Level::Quorum)).await;
        assert!(strong.is_err(), "{strong:?}");
        proxies[0].set(ProxyMode::Open);
        put(&manager, "k", &within(20_000, Level::One)).await.unwrap();

        // The primary accepts requests and does not answer: the outcome of writes in flight is
        // unknown, and other writes wait.
        put_unanswered(&manager, &proxies[0]).await;
        let began = Instant::now();
        while !matches!(
            put(&manager, "k", &within(200, Level::One)).await.unwrap_err().error,
            Error::NoPrimary { .. }
        ) {
            assert!(began.elapsed() < Duration::from_secs(30), "the dead connection is kept");
        }
        assert_eq!(until_read(&manager, "k").await, 1);
        proxies[0].set(ProxyMode::Open);
        put(&manager, "k", &within(30_000, Level::One)).await.unwrap();
        until_replicas(&manager, 2).await;
        put(&manager, "k", &at(Level::All)).await.unwrap();
    });
    manager.close();
}

#[test]
fn a_token_of_a_timeline_unknown_to_the_router_waits_and_is_never_reported_as_lost() {
    let mut trio = Trio::start();
    let (listed, proxies) = proxied(&trio);
    let sleeper = connect(&listed);
    let other = connect(&trio.address());
    runtime().block_on(async {
        put(&sleeper, "before", &at(Level::All)).await.unwrap();
        // One router receives nothing, as if it were suspended, while a replica is promoted and the
        // other router writes there.
        proxies.iter().for_each(|proxy| proxy.set(ProxyMode::Silent));
        trio.cluster.commands().stop("shard1-primary", Stop::Immediate).unwrap();
        trio.cluster.commands().promote_best("shard1").unwrap();
        let after = put(&other, "after", &at(Level::One)).await.unwrap();
        let session = seen(&other, &after);

        let with = RequestOptions { session: session.clone(), ..within(2_000, Level::One) };
        let failure = get(&sleeper, "after", &with).await.unwrap_err();
        assert!(matches!(failure.error, Error::NoPrimary { .. }), "{failure:?}");

        proxies.iter().for_each(|proxy| proxy.set(ProxyMode::Open));
        let with = RequestOptions { session, ..within(30_000, Level::One) };
        assert_eq!(get(&sleeper, "after", &with).await.unwrap().rows.len(), 1);
    });
    sleeper.close();
    other.close();
}
