//! Exhausted: servers whose connections are all taken by others, just as a router has lost its own.

use std::time::{Duration, Instant};

use shard_manager::cache::ServedBy;
use shard_manager::consistency::Level;
use shard_manager::error::{Error, Failure, Outcome};
use shard_manager::local::LocalNode;
use shard_manager::manager::Manager;
use shard_manager::shard::NodeHealth;

use crate::cluster::{Door, Trio, connect};
use crate::read_write_steps::{at, get, put, until_read, until_replicas, within};
use crate::server::runtime;

/// Sessions of others with a node, as many as it takes.
struct Crowd {
    _doors: Vec<Door>,
}

impl Crowd {
    /// Takes every connection that sessions of this name have, and all that are free.
    async fn take(node: &LocalNode, name: &str) -> Self {
        let mut doors = vec![Door::open(node, "shard1").await];
        let end = format!(
            "SELECT count(pg_terminate_backend(pid))::text AS value FROM pg_stat_activity \
             WHERE application_name LIKE '{name}'"
        );
        // A session that is being made counts, and is not shown yet: so all must be shown. And none of them is of that name
        // at the same moment: between two looks one may come.
        let left = format!(
            "SELECT (current_setting('max_connections')::integer-count(*) FILTER \
             (WHERE application_name NOT LIKE '{name}'))::text AS value \
             FROM pg_stat_activity WHERE backend_type='client backend'"
        );
        let deadline = Instant::now() + Duration::from_secs(60);
        while doors[0].text(&left).await != "0" {
            while let Some(door) = Door::try_open(node, "shard1").await {
                doors.push(door);
            }
            doors[0].text(&end).await;
            assert!(Instant::now() < deadline, "the router is always quicker");
        }
        Self { _doors: doors }
    }
}

/// A primary and its replica, with room for few and nothing kept back for superusers, one of whom may be ours.
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

/// That nothing was stored, and that a client may try again.
#[track_caller]
fn check_no_primary(failure: &Failure) {
    assert!(matches!(failure.error, Error::NoPrimary { .. }), "{failure:?}");
    assert_eq!(failure.outcome, Outcome::Rejected, "{failure:?}");
}

#[test]
fn where_others_have_taken_all_connections_reads_go_elsewhere_and_writes_are_refused_in_time() {
    let trio = pair();
    let manager = connect(&trio.address());
    runtime().block_on(async {
        put(&manager, "k", &at(Level::All)).await.unwrap();
        get(&manager, "k", &at(Level::All)).await.unwrap();
        until_replicas(&manager, 1).await;

        let primary = Crowd::take(trio.node("shard1-primary"), "tessera %").await;
        for level in [Level::One, Level::Quorum, Level::All] {
            check_no_primary(&put(&manager, "k", &within(400, level)).await.unwrap_err());
        }
        for level in [Level::Quorum, Level::All] {
            let failure = get(&manager, "k", &within(400, level)).await.unwrap_err();
            assert!(matches!(failure.error, Error::ShardUnavailable { .. }), "{failure:?}");
        }
        assert_eq!(until_read(&manager, "k").await, 1);
        let read = get(&manager, "k", &at(Level::One)).await.unwrap();
        assert_eq!(read.served_by, ServedBy::Replica);
        let told = nodes(&manager).await;
        assert_eq!((told[0].up, told[1].up), (false, true), "{told:?}");

        // Nor has the replica one: nothing can be read, and that is told.
        let replica = Crowd::take(trio.node("shard1-replica1"), "tessera %").await;
        let failure = get(&manager, "k", &within(400, Level::One)).await.unwrap_err();
        assert!(failure.error.is_of_one_shard(), "{failure:?}");
        check_no_primary(&put(&manager, "k", &within(400, Level::One)).await.unwrap_err());
        let told = nodes(&manager).await;
        assert_eq!((told[0].up, told[1].up), (false, false), "{told:?}");

        // The primary alone has room again: nobody has to say so.
        drop(primary);
        until_primary_is_up(&manager).await;
        put(&manager, "k", &at(Level::One)).await.unwrap();
        let read = get(&manager, "k", &at(Level::One)).await.unwrap();
        assert_eq!((read.rows.len(), read.served_by), (1, ServedBy::Primary));
        let failure = put(&manager, "k", &within(400, Level::Quorum)).await.unwrap_err();
        assert!(matches!(failure.error, Error::TooFewReplicas { .. }), "{failure:?}");

        drop(replica);
        until_replicas(&manager, 1).await;
        put(&manager, "k", &at(Level::All)).await.unwrap();
    });
    manager.close();
}

/// What reads a node may be connected though what writes to it is not.
#[test]
fn a_primary_that_can_be_read_and_not_written_is_told_as_down_until_it_can() {
    let trio = pair();
    let manager = connect(&trio.address());
    runtime().block_on(async {
        put(&manager, "k", &at(Level::All)).await.unwrap();
        get(&manager, "k", &at(Level::All)).await.unwrap();
        assert!(nodes(&manager).await[0].up);
        let crowd = Crowd::take(trio.node("shard1-primary"), "tessera lane").await;
        check_no_primary(&put(&manager, "k", &within(400, Level::One)).await.unwrap_err());
        check_no_primary(&put(&manager, "k", &within(400, Level::Quorum)).await.unwrap_err());
        let read = get(&manager, "k", &at(Level::All)).await.unwrap();
        assert_eq!((read.rows.len(), read.served_by), (1, ServedBy::Primary));
        assert!(!nodes(&manager).await[0].up);
        drop(crowd);
        until_primary_is_up(&manager).await;
        put(&manager, "k", &within(20_000, Level::All)).await.unwrap();
    });
    manager.close();
}
