//! Tests of a catalog on its own servers, and of its failover.

use std::time::{Duration, Instant};

use shard_manager::access::rights::Rights;
use shard_manager::consistency::Level;
use shard_manager::engine::access_store::AccessChange;
use shard_manager::engine::move_catalog::MoveListError;
use shard_manager::engine::rebalance_draft::{DraftGoal, RebalanceDraft};
use shard_manager::error::Outcome;
use shard_manager::manager::{Manager, MovesError, Rebalances};
use shard_manager::map_change::MapChange;
use shard_manager::node_address::{ClusterAddress, NodeAddress};
use shard_manager::table::Table;
use shard_manager::topology::ShardNumber;
use shard_manager::value::ColumnType::{Bigint, Text};

use crate::access_contract::{change, create, now};
use crate::access_store;
use crate::cluster::{Databases, SideSession, Trio, address, connect};
use crate::log;
use crate::move_clients::keys_of;
use crate::move_steps::{LONG, SOURCE, new};
use crate::read_write_steps::{at, get, put, within};
use crate::rows::{make, table};
use crate::server::runtime;

const CHANGES: &str = "SELECT last_value::text AS value FROM tessera_tables_changed";

fn notes_table(name: &str) -> Table {
    table(name, &[("id", Text), ("n", Bigint)], 1, &["id"], None)
}

/// One address of both nodes, in this order.
fn listed(trio: &Trio, names: [&str; 2]) -> NodeAddress {
    let [mut first, second] = names.map(|name| address(trio.node(name), "shard1"));
    first.hosts.extend(second.hosts);
    first
}

async fn until_known(manager: &Manager, name: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while manager.schema(Rights::ALL).table(name).is_err() {
        assert!(Instant::now() < deadline, "{name} is never seen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Starts a router with this list, on a thread that may block.
async fn router(cluster: ClusterAddress) -> Manager {
    tokio::task::spawn_blocking(move || connect(&cluster)).await.unwrap()
}

async fn end(manager: Manager) {
    tokio::task::spawn_blocking(move || manager.close()).await.unwrap();
}

/// Waits until the replica has caught up with the primary.
async fn until_copied(trio: &Trio) {
    let mut primary = SideSession::open(trio.node("shard1-primary"), "shard1").await;
    let mut replica = SideSession::open(trio.node("shard1-replica1"), "shard1").await;
    let end = primary.text("SELECT pg_current_wal_flush_lsn()::text AS value").await;
    let has = format!("SELECT (pg_last_wal_replay_lsn()>='{end}')::text AS value");
    replica.until(&has, "true").await;
}

/// The old primary is still running, and its sessions continue undisturbed.
#[test]
fn a_catalog_primary_that_continues_without_its_replica_is_abandoned() {
    log::listen();
    let trio = Trio::of(1, &[]);
    runtime().block_on(async {
        let databases = Databases::blank(1).await;
        let (old, new) = ("shard1-primary", "shard1-replica1");
        let catalog = Some(listed(&trio, [old, new]));
        let manager = router(ClusterAddress { catalog, ..databases.address() }).await;
        make(&manager, &notes_table("first")).await;
        until_copied(&trio).await;
        let mut promoted = SideSession::open(trio.node(new), "shard1").await;
        let mut deposed = SideSession::open(trio.node(old), "shard1").await;
        promoted.run("SELECT pg_promote()").await;
        let port = format!("at=127.0.0.1:{}/", trio.node(new).port);
        let deadline = Instant::now() + Duration::from_secs(60);
        while log::said(&["a promoted node is followed", "node=catalog", &port]).is_empty() {
            assert!(Instant::now() < deadline, "the promotion is not looked up");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let before = deposed.text(CHANGES).await;
        make(&manager, &notes_table("second")).await;
        assert_eq!(deposed.text(CHANGES).await, before);
        assert_ne!(promoted.text(CHANGES).await, before);
        end(manager).await;
    });
}

#[test]
fn the_failover_of_a_catalog_is_followed_without_a_notice_of_its_old_primary() {
    let mut trio = Trio::of(1, &[]);
    runtime().block_on(async {
        let databases = Databases::blank(1).await;
        let of = |names| {
            let catalog = Some(listed(&trio, names));
            ClusterAddress { catalog, ..databases.address() }
        };
        let (old, new) = ("shard1-primary", "shard1-replica1");
        let (one, other) = (router(of([new, old])).await, router(of([old, new])).await);
        make(&one, &notes_table("first")).await;
        until_known(&other, "first").await;
        let weight = |weight| MapChange::Weight { shard: ShardNumber(0), weight };
        one.shards().change_map(weight(2), 1).await.unwrap();
        until_copied(&trio).await;

        // The catalog's old primary is frozen, with all its sessions open; reading and writing rows
        // does not need it.
        trio.cluster.commands().freeze(old).unwrap();
        put(&one, "k", &within(20_000, Level::One)).await.unwrap();
        let late = Instant::now() + Duration::from_millis(700);
        one.schema(Rights::ALL).create_table(notes_table("never"), late).await.unwrap_err();
        let promoting = tokio::task::spawn_blocking(move || {
            trio.cluster.commands().promote_best("shard1").unwrap();
            trio
        });
        while !promoting.is_finished() {
            put(&one, "k", &within(20_000, Level::One)).await.unwrap();
            assert_eq!(get(&one, "k", &at(Level::All)).await.unwrap().rows.len(), 1);
        }
        let mut trio = promoting.await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while let Err(failure) =
            one.schema(Rights::ALL).create_table(notes_table("second"), deadline).await
        {
            assert!(Instant::now() < deadline, "{failure:?}");
        }
        until_known(&other, "second").await;

        // It continues and still accepts writes, but the router no longer uses it.
        trio.cluster.commands().thaw(old).unwrap();
        let mut deposed = SideSession::open(trio.node(old), "shard1").await;
        let before = deposed.text(CHANGES).await;
        make(&other, &notes_table("third")).await;
        until_known(&one, "third").await;
        assert_eq!(deposed.text(CHANGES).await, before);
        let map = other.shards().change_map(weight(3), 2).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while one.map() != map {
            assert!(Instant::now() < deadline, "the map is never seen");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let epoch = "SELECT epoch::text AS value FROM tessera_cluster";
        assert_eq!(deposed.text(epoch).await, "2");

        // Nor does a router that starts now, although it is first in the list.
        let of_both = |names| {
            let catalog = Some(listed(&trio, names));
            ClusterAddress { catalog, ..databases.address() }
        };
        let late = router(of_both([old, new])).await;
        assert!(late.schema(Rights::ALL).table("third").is_ok());
        make(&late, &notes_table("fourth")).await;
        until_known(&one, "fourth").await;
        assert_eq!(deposed.text(CHANGES).await, before);
        for manager in [one, other, late] {
            end(manager).await;
        }
    });
}

/// Nothing begins, because neither the moves nor the rebalances of the catalog can be read.
#[test]
fn a_move_and_a_rebalance_end_at_their_deadline_while_the_catalog_is_frozen() {
    let mut trio = Trio::of(0, &[]);
    runtime().block_on(async {
        let databases = Databases::blank(2).await;
        let catalog = Some(address(trio.node("shard1-primary"), "shard1"));
        let manager = router(ClusterAddress { catalog, ..databases.address() }).await;
        let (_, slots) = keys_of(&manager, SOURCE, 1);
        trio.cluster.commands().freeze("shard1-primary").unwrap();
        let late = || Instant::now() + Duration::from_millis(700);
        let begun = manager.moves().begin(new(&slots, LONG), None, late()).await;
        let is_unread = matches!(begun, Err(MovesError::List(MoveListError::Unread(_))));
        assert!(is_unread, "{begun:?}");
        let draft = RebalanceDraft { goal: DraftGoal::Slots, group: None, rate: None, keep: None };
        let begun = Rebalances::of(&manager).begin(&draft, None, late()).await;
        let failure = begun.map(drop).expect_err("the catalog is frozen");
        let outcome = failure.failure().map(|(_, outcome)| outcome);
        assert_eq!(outcome, Some(Outcome::Rejected), "{failure}");
        trio.cluster.commands().thaw("shard1-primary").unwrap();
        end(manager).await;
    });
}

/// While the catalog has no primary the last state stays. A promotion begins a higher generation,
/// whatever the counter in the new primary is.
#[test]
fn keys_are_followed_over_the_failover_of_a_catalog() {
    let mut trio = Trio::of(1, &[]);
    runtime().block_on(async {
        let databases = Databases::blank(1).await;
        let (old, new) = ("shard1-primary", "shard1-replica1");
        let catalog = Some(listed(&trio, [old, new]));
        let manager = router(ClusterAddress { catalog, ..databases.address() }).await;
        let mut states = manager.access().subscribe().await.unwrap();
        let id = create(&manager, "reader").await;
        let before = states.borrow_and_update().generation;
        until_copied(&trio).await;
        trio.cluster.commands().freeze(old).unwrap();
        assert_eq!(states.borrow().keys[0].id, id, "the last state stays");
        assert!(manager.access().confirmed_at(now()).is_some());
        let promoting = tokio::task::spawn_blocking(move || {
            trio.cluster.commands().promote_best("shard1").unwrap();
            trio
        });
        let trio = promoting.await.unwrap();
        let state = access_store::until_known(&mut states, before + 1).await;
        assert_eq!(state.keys.iter().map(|key| key.id).collect::<Vec<_>>(), [id]);
        let revoked = change(&manager, AccessChange::RevokeKey(id)).await;
        assert!(revoked > state.generation);
        end(manager).await;
        drop(trio);
    });
}
