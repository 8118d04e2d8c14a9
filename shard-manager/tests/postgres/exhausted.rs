//! Tests of servers on which other clients have taken all connections just when a router has lost
//! its own, or when a move is to begin.

use std::time::{Duration, Instant};

use shard_manager::cache::ServedBy;
use shard_manager::consistency::Level;
use shard_manager::error::{Error, Failure, Outcome};
use shard_manager::keyspace::Slot;
use shard_manager::local::LocalNode;
use shard_manager::manager::{Manager, MovesError};
use shard_manager::shard::NodeHealth;
use shard_manager::slot_set::SlotSet;

use crate::cluster::{Databases, SideSession, Trio, connect};
use crate::move_steps::{LONG, SOURCE, new};
use crate::read_write_steps::{
    at, get, get_fails, put, put_fails, until_read, until_replicas, within,
};
use crate::server::runtime;

/// Sessions of other clients with a node, as many as the node accepts.
struct Crowd {
    _sessions: Vec<SideSession>,
}

impl Crowd {
    /// Takes every connection that sessions of this name hold, and all free ones.
    async fn take(node: &LocalNode, name: &str) -> Self {
        let mut sessions = vec![SideSession::open(node, "shard1").await];
        let end = format!(
            "SELECT count(pg_terminate_backend(pid))::text AS value FROM pg_stat_activity \
             WHERE application_name LIKE '{name}'"
        );
        // A session that is being opened counts, but is not listed yet: so wait until all are
        // listed. And at that same moment none of them may have that name: between two queries one
        // may appear.
        let left = format!(
            "SELECT (current_setting('max_connections')::integer-count(*) FILTER \
             (WHERE application_name NOT LIKE '{name}'))::text AS value \
             FROM pg_stat_activity WHERE backend_type='client backend'"
        );
        let deadline = Instant::now() + Duration::from_secs(60);
        while sessions[0].text(&left).await != "0" {
            while let Some(direct) = SideSession::try_open(node, "shard1").await {
                sessions.push(direct);
            }
            sessions[0].text(&end).await;
            assert!(Instant::now() < deadline, "the router is always quicker");
        }
        Self { _sessions: sessions }
    }

    /// Takes all free connections.
    async fn fill(node: &LocalNode) -> Self {
        let mut sessions = vec![SideSession::open(node, "shard1").await];
        while let Some(session) = SideSession::try_open(node, "shard1").await {
            sessions.push(session);
        }
        Self { _sessions: sessions }
    }
}

/// A primary and its replica, with few connections and none reserved for superusers, because the
/// router may be one.
fn pair() -> Trio {
    Trio::of(1, &[("max_connections", "20"), ("superuser_reserved_connections", "0")])
}

async fn nodes(manager: &Manager) -> Vec<NodeHealth> {
    manager.status().health(Instant::now() + Duration::from_millis(500)).await.remove(0).nodes
}

async fn until_primary_is_up(manager: &Manager) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !nodes(manager).await[0].up {
        assert!(Instant::now() < deadline, "the primary stays down");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Asserts that nothing was stored, and that the client may retry.
#[track_caller]
fn check_no_primary(failure: &Failure) {
    assert!(matches!(failure.error, Error::NoPrimary { .. }), "{failure:?}");
    assert_eq!(failure.outcome, Outcome::Rejected, "{failure:?}");
}

#[test]
fn without_free_connections_reads_use_other_nodes_and_writes_are_refused_in_time() {
    let trio = pair();
    let manager = connect(&trio.address());
    runtime().block_on(async {
        put(&manager, "k", &at(Level::All)).await.unwrap();
        get(&manager, "k", &at(Level::All)).await.unwrap();
        until_replicas(&manager, 1).await;

        let primary = Crowd::take(trio.node("shard1-primary"), "tessera %").await;
        for level in [Level::One, Level::Quorum, Level::All] {
            check_no_primary(&put_fails(&manager, "k", 400, level).await);
        }
        for level in [Level::Quorum, Level::All] {
            let failure = get_fails(&manager, "k", 400, level).await;
            assert!(matches!(failure.error, Error::ShardUnavailable { .. }), "{failure:?}");
        }
        assert_eq!(until_read(&manager, "k").await, 1);
        let read = get(&manager, "k", &at(Level::One)).await.unwrap();
        assert_eq!(read.served_by, ServedBy::Replica);
        // A replica that is up may answer too late on a busy machine.
        let limit = Instant::now() + Duration::from_secs(60);
        loop {
            let reported = nodes(&manager).await;
            assert!(!reported[0].up && Instant::now() < limit, "{reported:?}");
            if reported[1].up {
                break;
            }
        }

        // The replica has no free connection either: no read is possible, and reads report that.
        let replica = Crowd::take(trio.node("shard1-replica1"), "tessera %").await;
        let failure = get_fails(&manager, "k", 400, Level::One).await;
        assert!(failure.error.is_of_one_shard(), "{failure:?}");
        check_no_primary(&put_fails(&manager, "k", 400, Level::One).await);
        let reported = nodes(&manager).await;
        assert_eq!((reported[0].up, reported[1].up), (false, false), "{reported:?}");

        // The primary alone has free connections again: it is noticed without any request.
        drop(primary);
        until_primary_is_up(&manager).await;
        put(&manager, "k", &at(Level::One)).await.unwrap();
        let read = get(&manager, "k", &at(Level::One)).await.unwrap();
        assert_eq!((read.rows.len(), read.served_by), (1, ServedBy::Primary));
        let failure = put_fails(&manager, "k", 400, Level::Quorum).await;
        assert!(matches!(failure.error, Error::TooFewReplicas { .. }), "{failure:?}");

        drop(replica);
        until_replicas(&manager, 1).await;
        put(&manager, "k", &at(Level::All)).await.unwrap();
    });
    manager.close();
}

/// The read connections of a node may work although its write connections do not.
#[test]
fn a_primary_that_can_be_read_but_not_written_is_reported_as_down() {
    let trio = pair();
    let manager = connect(&trio.address());
    runtime().block_on(async {
        put(&manager, "k", &at(Level::All)).await.unwrap();
        get(&manager, "k", &at(Level::All)).await.unwrap();
        until_primary_is_up(&manager).await;
        let crowd = Crowd::take(trio.node("shard1-primary"), "tessera lane").await;
        check_no_primary(&put_fails(&manager, "k", 400, Level::One).await);
        check_no_primary(&put_fails(&manager, "k", 400, Level::Quorum).await);
        let read = get(&manager, "k", &at(Level::All)).await.unwrap();
        assert_eq!((read.rows.len(), read.served_by), (1, ServedBy::Primary));
        assert!(!nodes(&manager).await[0].up);
        drop(crowd);
        until_primary_is_up(&manager).await;
        put(&manager, "k", &within(20_000, Level::All)).await.unwrap();
    });
    manager.close();
}

#[test]
fn a_move_begins_only_while_the_servers_have_free_connections_for_its_mover() {
    let settings = [("max_connections", "40"), ("superuser_reserved_connections", "0")];
    let trio = Trio::of(0, &settings);
    let node = trio.node("shard1-primary");
    let databases = runtime().block_on(Databases::on(&[node, node]));
    let manager = connect(&databases.address());
    runtime().block_on(async {
        // The router has a connection for reads with each database, and needs no other one to count
        // those that are free.
        let limit = Instant::now() + Duration::from_secs(60);
        let sizes = manager.status().size_estimates(limit).await;
        assert!(sizes.iter().all(|(_, size)| size.is_some()), "{sizes:?}");
        let slots: SlotSet = manager.map().slots_of(SOURCE).take(1).filter_map(Slot::new).collect();
        let begin = || manager.moves().begin(new(&slots, LONG), None, limit);

        let crowd = Crowd::fill(node).await;
        let refused = begin().await.expect_err("no connection is free");
        let MovesError::NoConnections { shard, needed, free, limit: setting } = &refused else {
            panic!("{refused}")
        };
        assert_eq!((&**shard, *needed, *setting), ("shard1", 4, "max_connections"));
        assert!(free < needed, "{refused}");

        drop(crowd);
        let begun = loop {
            match begin().await {
                Ok(record) => break record,
                // The server closes a connection a moment after its client.
                Err(MovesError::NoConnections { .. }) if Instant::now() < limit => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("it does not begin: {error}"),
            }
        };
        let listed: Vec<_> = manager.moves().list().await.unwrap();
        let ids: Vec<_> = listed.iter().map(|record| record.id).collect();
        assert_eq!(ids, [begun.id], "a refused move is not listed");
    });
    manager.close();
}
