//! Tests of table groups in a cluster of servers, with two routers.

use std::time::{Duration, Instant};

use shard_manager::access::rights::Rights;
use shard_manager::assembly::{self, ConnectedCluster};
use shard_manager::engine::cluster_spec::ClusterSpec;
use shard_manager::engine::open_error::OpenError;
use shard_manager::keyspace::{GROUPS_MAX, SLOT_COUNT};
use shard_manager::manager::Manager;
use shard_manager::table_group::GroupSpec;

use crate::cluster::{Databases, connect};
use crate::group_contract::{
    create, find_spread, find_vertically, hybrid, move_spread, plan_by_group, store_spread,
    store_vertically, vertical,
};
use crate::rows::deadline;

fn with_groups(databases: &Databases, groups: Vec<GroupSpec>) -> Result<Manager, OpenError> {
    let wanted = ClusterSpec { groups, ..ClusterSpec::default() };
    assembly::connect(&ConnectedCluster { address: databases.address(), wanted })
}

/// Bytes of the bits of slots in a database.
const BYTES: &str = "SELECT string_agg(length(bits)::text, ' ') AS value FROM
    (SELECT bits FROM tessera_owned UNION ALL SELECT bits FROM tessera_readable) AS own";

#[tokio::test]
async fn groups_keep_their_rows_on_their_shards_and_other_routers_follow_a_new_one() {
    let databases = Databases::new(3).await;
    let first = with_groups(&databases, vertical()).unwrap();
    store_vertically(&first).await;
    let second = with_groups(&databases, [vertical(), vec![hybrid()]].concat()).unwrap();
    assert_eq!((second.map().epoch(), second.map().groups().count()), (2, 3));
    store_spread(&second).await;
    let limit = deadline();
    while first.map().groups().count() < 3 || first.schema(Rights::ALL).table("clicks").is_err() {
        assert!(Instant::now() < limit, "the first router does not follow");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    find_spread(&first).await;
    find_vertically(&second).await;
    second.close();
    move_spread(&first).await;
    plan_by_group(&first).await;
    let map = first.map();
    first.close();
    for shard in 0..3 {
        assert_eq!(databases.direct_session(shard).await.text(BYTES).await, "6144 6144");
    }
    let again = connect(&databases.address());
    assert_eq!(again.map(), map);
    find_vertically(&again).await;
    find_spread(&again).await;
    again.close();
}

#[tokio::test]
async fn a_group_that_is_added_while_an_owner_is_published_gets_a_later_epoch() {
    let databases = Databases::new(3).await;
    connect(&databases.address()).close();
    let mut publication = databases.direct_session(0).await;
    let change = "BEGIN; UPDATE tessera_cluster SET epoch = 4;
        UPDATE tessera_owners SET since = 4 WHERE slot = 0";
    publication.run(change).await;
    let wanted = ClusterSpec { groups: vec![hybrid()], ..ClusterSpec::default() };
    let cluster = ConnectedCluster { address: databases.address(), wanted };
    let start = tokio::task::spawn_blocking(move || assembly::connect(&cluster));
    let waiting = "SELECT count(*)::text AS value FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    databases.direct_session(0).await.until(waiting, "1").await;
    publication.run("COMMIT").await;
    let manager = start.await.unwrap().unwrap();
    let stored = publication.text("SELECT epoch::text AS value FROM tessera_cluster").await;
    assert_eq!((manager.map().epoch(), &*stored), (5, "5"));
    let since: Vec<u64> = manager.map().owners().map(|owner| owner.since).collect();
    assert_eq!((since[0], since[1], since[usize::from(SLOT_COUNT)]), (4, 1, 5));
    manager.close();
}

#[tokio::test]
async fn four_groups_have_all_slot_numbers_although_their_bits_exceed_a_page() {
    let databases = Databases::new(3).await;
    let group = |name: &str| GroupSpec { name: name.to_owned(), ..GroupSpec::default() };
    connect(&databases.address()).close();
    let others = vec![hybrid(), group("third"), group("fourth")];
    let manager = with_groups(&databases, others).unwrap();
    let slots = GROUPS_MAX * usize::from(SLOT_COUNT);
    assert_eq!(manager.map().groups().slot_count(), slots);
    create(&manager, "pupils").await;
    store_spread(&manager).await;
    move_spread(&manager).await;
    manager.close();
    for shard in 0..3 {
        assert_eq!(databases.direct_session(shard).await.text(BYTES).await, "8192 8192");
    }
}
