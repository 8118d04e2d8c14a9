//! Tests of a catalog that lacks the last changes of the shard map after a failover, although
//! routers know them.

use std::time::{Duration, Instant};

use futures_util::future::join;
use shard_manager::engine::catalog_rows::MapChangeError;
use shard_manager::engine::move_record::{MoveOrder, MovePhase};
use shard_manager::manager::{Manager, ShardChangeError, ShardChanged};
use shard_manager::shard_map::ShardMap;

use crate::cluster::{Databases, SideSession, connect};
use crate::move_clients::keys_of;
use crate::move_steps::{LONG, SOURCE, TARGET, begin, kept_up, new, order, owners, until};
use crate::new_shard;

/// Undoes the last change of the map, like a failover to a replica that lacks it.
async fn lose_last(catalog: &mut SideSession, undoing: &str) {
    let epoch = "UPDATE tessera_cluster SET epoch = epoch - 1";
    catalog.run(&format!("BEGIN; {undoing}; {epoch}; COMMIT")).await;
}

async fn until_map(manager: &Manager, is_reached: impl Fn(&ShardMap) -> bool) {
    new_shard::until("the map", || is_reached(&manager.map())).await;
}

fn weights(map: &ShardMap) -> Vec<u32> {
    map.topology().shards().iter().map(|shard| shard.weight).collect()
}

/// Sets a weight. A change that is refused because its map is stale has stored nothing, so it is
/// tried again.
async fn weigh(manager: &Manager, shard: &str, weight: u32) -> ShardChanged {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match manager.shards().set_weight(shard, weight, None).await {
            Ok(changed) => return changed,
            Err(ShardChangeError::Map(MapChangeError::Stale { .. }))
                if Instant::now() < deadline =>
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn the_map_can_be_changed_after_the_catalog_has_lost_a_change() {
    let databases = Databases::new(2).await;
    let manager = connect(&databases.address());
    let mut catalog = databases.direct_session(0).await;
    manager.shards().set_weight("shard2", 5, None).await.unwrap();
    assert_eq!(manager.map().epoch(), 2);
    lose_last(&mut catalog, "UPDATE tessera_shards SET weight = 1 WHERE number = 1").await;
    let changed = weigh(&manager, "shard1", 3).await;
    assert_eq!(changed.map.epoch(), 4, "2 was the epoch of the lost map, and 3 succeeds it");
    assert_eq!(weights(&changed.map), [3, 1]);
    until_map(&manager, |map| *map == *changed.map).await;
}

#[tokio::test]
async fn routers_that_know_a_lost_epoch_agree_on_the_next_one() {
    let databases = Databases::new(2).await;
    let (one, other) = (connect(&databases.address()), connect(&databases.address()));
    let mut catalog = databases.direct_session(0).await;
    one.shards().set_weight("shard2", 5, None).await.unwrap();
    until_map(&other, |map| map.epoch() == 2).await;
    lose_last(&mut catalog, "UPDATE tessera_shards SET weight = 1 WHERE number = 1").await;
    let (first, second) = join(weigh(&one, "shard1", 3), weigh(&other, "shard2", 7)).await;
    let mut epochs = [first.map.epoch(), second.map.epoch()];
    epochs.sort_unstable();
    assert_eq!(epochs, [4, 5]);
    for manager in [&one, &other] {
        until_map(manager, |map| map.epoch() == 5).await;
        assert_eq!(weights(&manager.map()), [3, 7]);
    }
}

#[tokio::test]
async fn a_move_that_keeps_its_source_republishes_an_owner_that_the_catalog_has_lost() {
    let databases = Databases::new(2).await;
    let manager = connect(&databases.address());
    let mut catalog = databases.direct_session(0).await;
    let (_, slots) = keys_of(&manager, SOURCE, 1);
    kept_up(&manager, async {
        let id = begin(&manager, new(&slots, LONG)).await;
        until(&manager, id, &[MovePhase::Keeping]).await;
        let lost = manager.map().epoch();
        let undoing = "UPDATE tessera_owners
            SET shard = came_from, since = 1, came_from = NULL WHERE came_from IS NOT NULL";
        lose_last(&mut catalog, undoing).await;
        let published = format!(
            "SELECT count(*)::text AS value FROM tessera_owners
                WHERE shard = {} AND since > {lost}",
            TARGET.0
        );
        catalog.until(&published, &slots.len().to_string()).await;
        until_map(&manager, |map| map.epoch() > lost).await;
        until(&manager, id, &[MovePhase::Keeping]).await;
        order(&manager, id, MoveOrder::Settle).await;
        until(&manager, id, &[MovePhase::Done]).await;
        assert_eq!(owners(&manager, &slots), [TARGET]);
    })
    .await;
}
