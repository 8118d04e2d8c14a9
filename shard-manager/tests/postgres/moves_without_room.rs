//! Tests of moves and rebalances to shards whose databases may not grow above a size in the
//! settings.

use std::time::{Duration, Instant};

use shard_manager::engine::rebalance_draft::{DraftMembers, RebalanceDraft};
use shard_manager::engine::refusal_code::RefusalCode;
use shard_manager::manager::{Manager, MovesError, Rebalances};
use shard_manager::node_address::ClusterAddress;

use crate::cluster::{Databases, connect};
use crate::move_steps::{LONG, begin, new, store_large};

/// Moves of which the database of a shard has a row.
const MOVES: &str = "SELECT count(*)::text AS value FROM tessera_slot_moves";
/// Size of a database in bytes.
const SIZE: &str = "SELECT pg_database_size(current_database())::text AS value";

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn limited(databases: &Databases, bytes: u64) -> Manager {
    connect(&ClusterAddress { disk_bytes: Some(bytes), ..databases.address() })
}

#[tokio::test]
async fn a_move_to_a_shard_with_too_little_room_is_refused_and_nothing_has_begun() {
    let databases = Databases::new(2).await;
    let manager = limited(&databases, 1);
    let slots = store_large(&manager, 3).await;
    let begun = manager.moves().begin(new(&slots, LONG), None, soon()).await;
    let refused = begun.expect_err("the database of the target is larger");
    let MovesError::NoRoom { shard, needed, free } = &refused else { panic!("{refused}") };
    assert_eq!((&**shard, *free), ("shard2", 0));
    assert!(*needed > 0, "{refused}");
    assert_eq!(refused.code(), Some(RefusalCode::ShardState));
    assert_eq!(manager.moves().list().await, Ok(Vec::new()), "a refused move is not listed");
    for index in 0..2 {
        let mut direct = databases.direct_session(index).await;
        assert_eq!(direct.text(MOVES).await, "0", "database {index}");
    }
}

#[tokio::test]
async fn a_move_begins_if_the_database_of_its_target_may_grow_by_more_than_its_rows() {
    let databases = Databases::new(2).await;
    let creator = connect(&databases.address());
    tokio::task::spawn_blocking(move || creator.close()).await.unwrap();
    let size: u64 = databases.direct_session(1).await.text(SIZE).await.parse().unwrap();
    let manager = limited(&databases, size + (64 << 20));
    let slots = store_large(&manager, 3).await;
    let id = begin(&manager, new(&slots, LONG)).await;
    let listed = manager.moves().list().await.unwrap();
    assert_eq!(listed.iter().map(|record| record.id).collect::<Vec<_>>(), [id]);
}

#[tokio::test]
async fn a_plan_names_the_shards_with_too_little_room_and_does_not_begin() {
    let databases = Databases::new(2).await;
    let manager = limited(&databases, 1);
    let members = DraftMembers::default();
    let draft = RebalanceDraft::drain("shard2".to_owned(), &members).expect("within bounds");
    let rebalances = Rebalances::of(&manager);
    let plan = rebalances.plan(&draft, None, soon()).await.unwrap();
    let sentence = "on the disk of shard1, which has 0 left";
    let named = plan.refusals.iter().filter(|refusal| refusal.contains(sentence)).count();
    assert_eq!(named, 1, "{:?}", plan.refusals);
    let begun = rebalances.begin(&draft, None, soon()).await;
    let refused = begun.map(drop).expect_err("shard1 has no room");
    assert_eq!(refused.code(), Some(RefusalCode::ShardState), "{refused}");
    assert_eq!(rebalances.list().await.unwrap(), Vec::new());
}
