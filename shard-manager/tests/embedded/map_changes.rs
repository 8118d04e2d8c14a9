//! Tests of changes of the shard map: one epoch after the other, stored before they are in force.

use std::sync::Arc;

use shard_manager::engine::catalog_rows::MapChangeError;
use shard_manager::engine::cluster_spec::ClusterSpec;
use shard_manager::keyspace::Slot;
use shard_manager::manager::Manager;
use shard_manager::map_change::{MapChange, MapChangeRefusal};
use shard_manager::position::Position;
use shard_manager::shard_map::ShardMap;
use shard_manager::slot_set::SlotSet;
use shard_manager::store::sqlite::offline_view::DirView;
use shard_manager::topology::{ShardNumber, ShardState, TopologyError};

use crate::cluster::{Cluster, ints, open};

fn slots(range: std::ops::RangeInclusive<u16>) -> SlotSet {
    range.filter_map(Slot::new).collect()
}

fn owners(range: std::ops::RangeInclusive<u16>, from: u16, to: u16) -> MapChange {
    let floor = Some(Position { timeline: 7, sequence: 9 });
    let (from, to) = (ShardNumber(from), ShardNumber(to));
    MapChange::Owners { slots: slots(range), from, to, floor }
}

async fn changed(
    manager: &Manager,
    change: MapChange,
    epoch: u64,
) -> Result<Arc<ShardMap>, MapChangeError> {
    manager.shards().change_map(change, epoch).await
}

fn refusal(result: Result<Arc<ShardMap>, MapChangeError>) -> MapChangeRefusal {
    match result {
        Err(MapChangeError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn slots_change_their_owner_with_the_epoch_and_stay_so_after_a_restart() {
    let cluster = Cluster::with_shards(2);
    let next = changed(&cluster.manager, owners(10..=12, 0, 1), 1).await.expect("changed");
    assert_eq!(next.epoch(), 2);
    assert_eq!(cluster.manager.map(), next, "in force at once");
    let place = |map: &ShardMap, slot| {
        let slot = Slot::new(slot).expect("a slot");
        (map.owner(slot), map.since(slot))
    };
    for (slot, expected) in [(9, (0, 1)), (10, (1, 2)), (12, (1, 2)), (13, (0, 1))] {
        let expected = (ShardNumber(expected.0), expected.1);
        assert_eq!(place(&next, slot), expected, "{slot}");
    }
    let back = changed(&cluster.manager, owners(12..=12, 1, 0), 2).await.expect("changed back");
    assert_eq!(place(&back, 12), (ShardNumber(0), 3));
    let dir = cluster.stop();
    let catalog = dir.path().join("catalog.db");
    let from = "SELECT came_from AS value FROM tessera_owners WHERE slot IN (10, 12) ORDER BY slot";
    assert_eq!(ints(&catalog, from), [0, 1]);
    let floor =
        "SELECT floor_timeline * 100 + floor_position AS value FROM tessera_owners WHERE slot = 10";
    assert_eq!(ints(&catalog, floor), [709]);
    assert_eq!(DirView::open(dir.path()).expect("readable").map, *back);
    assert_eq!(open(dir.path(), ClusterSpec::default()).expect("opened").map(), back);
}

#[tokio::test]
async fn of_two_changes_of_one_epoch_the_second_fails_with_the_current_epoch() {
    let cluster = Cluster::with_shards(2);
    let weight = |weight| MapChange::Weight { shard: ShardNumber(0), weight };
    changed(&cluster.manager, weight(4), 1).await.expect("the first");
    let stale = changed(&cluster.manager, weight(5), 1).await;
    assert_eq!(stale, Err(MapChangeError::Stale { expected: 1, epoch: 2 }));
    let map = cluster.manager.map();
    assert_eq!((map.epoch(), map.topology().shards()[0].weight), (2, 4));
}

/// A rollback that was ordered before or during a drain gives the shard slots in its database; a
/// map that refused them would never be published.
#[tokio::test]
async fn the_map_follows_a_rollback_to_a_shard_that_is_being_drained() {
    let cluster = Cluster::with_shards(2);
    let manager = &cluster.manager;
    let draining = MapChange::State { shard: ShardNumber(1), state: ShardState::Draining };
    changed(manager, draining, 1).await.expect("draining");
    let back = changed(manager, owners(0..=9, 0, 1), 2).await.expect("the slots are there");
    assert_eq!(back.slots_of(ShardNumber(1)).next(), Some(0));
    let retired = MapChange::State { shard: ShardNumber(1), state: ShardState::Retired };
    let refused = changed(manager, retired, 3).await;
    assert!(matches!(refusal(refused), MapChangeRefusal::HasSlots { .. }));
}

#[tokio::test]
async fn while_a_shard_is_drained_another_one_keeps_a_weight_above_0() {
    let cluster = Cluster::with_shards(3);
    let manager = &cluster.manager;
    let weight = |shard, weight| MapChange::Weight { shard: ShardNumber(shard), weight };
    let drain = |shard| {
        let state = ShardState::Draining;
        MapChange::State { shard: ShardNumber(shard), state }
    };
    changed(manager, weight(2, 0), 1).await.expect("the others have weights");
    changed(manager, drain(1), 2).await.expect("the first shard has a weight");
    for change in [weight(0, 0), drain(0)] {
        let refused = refusal(changed(manager, change, 3).await);
        assert_eq!(refused, MapChangeRefusal::Topology(TopologyError::NoWeight));
    }
    changed(manager, weight(2, 1), 3).await.expect("a weight");
    changed(manager, weight(0, 0), 4).await.expect("the third shard has a weight");
}

#[tokio::test]
async fn a_shard_joins_serves_and_retires_and_its_number_stays_taken() {
    let cluster = Cluster::with_shards(2);
    let manager = &cluster.manager;
    let join = |name: &str| MapChange::NewShard { name: name.to_owned(), weight: 2, address: None };
    let state = |state| MapChange::State { shard: ShardNumber(2), state };
    let joined = changed(manager, join("shard3"), 1).await.expect("joined");
    let shard = &joined.topology().shards()[2];
    assert_eq!((shard.weight, shard.state), (2, ShardState::Joining));
    assert_eq!(joined.slots_of(ShardNumber(2)).count(), 0);
    let map = manager.map();
    assert_eq!((map.epoch(), map.topology().len()), (2, 2), "not opened, and so not routed to");
    // A joining shard gets no slots, and a name is given once.
    let early = changed(manager, owners(0..=0, 0, 2), 2).await;
    assert!(matches!(refusal(early), MapChangeRefusal::NotServing { .. }));
    assert!(matches!(
        refusal(changed(manager, join("shard3"), 2).await),
        MapChangeRefusal::Topology(_)
    ));
    let served = changed(manager, state(ShardState::Serving), 2).await.expect("serving");
    assert_eq!(served.topology().shards()[2].state, ShardState::Serving);
    let retired = changed(manager, state(ShardState::Retired), 3).await.expect("retired");
    assert_eq!(retired.topology().numbers().count(), 2);
    let again = changed(manager, join("shard3"), 4).await.expect("joined again");
    assert_eq!(again.topology().find("shard3"), Some(ShardNumber(3)));
}

#[tokio::test]
async fn impossible_changes_are_refused_with_a_sentence_and_store_nothing() {
    let cluster = Cluster::with_shards(2);
    let manager = &cluster.manager;
    let before = manager.map();
    let join = |name: &str| MapChange::NewShard { name: name.to_owned(), weight: 1, address: None };
    let (one, nine) = (ShardNumber(0), ShardNumber(9));
    for (change, word) in [
        (owners(8_190..=8_193, 0, 1), "shard1 does not own the slots 8192"),
        (owners(0..=0, 0, 9), "number 9"),
        (MapChange::Weight { shard: nine, weight: 1 }, "number 9"),
        (MapChange::Weight { shard: one, weight: 2_000_000 }, "weight of shard1"),
        (MapChange::State { shard: one, state: ShardState::Retired }, "owns 8192 slots"),
        (MapChange::State { shard: one, state: ShardState::Joining }, "cannot become joining"),
        (join("../shard3"), "letters"),
        (join(""), "letters"),
    ] {
        let refused = refusal(changed(manager, change, 1).await).to_string();
        assert!(refused.contains(word), "{word}: {refused}");
    }
    let none =
        MapChange::Owners { slots: SlotSet::empty(), from: one, to: ShardNumber(1), floor: None };
    assert_eq!(refusal(changed(manager, none, 1).await), MapChangeRefusal::NoSlots);
    assert_eq!(manager.map(), before);
    let dir = cluster.stop();
    assert_eq!(open(dir.path(), ClusterSpec::default()).expect("opened").map(), before);
}
