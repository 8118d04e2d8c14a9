//! Vitals: what is told of lanes, readers and nodes without asking them is what happened on the servers.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use shard_manager::manager::Manager;
use shard_manager::query::ReadQuery;
use shard_manager::stats::{NodeStats, PoolStats};
use shard_manager::topology::Role;

use crate::cluster::{Databases, connect};
use crate::rows::wish;
use crate::server::runtime;
use crate::visits::{get, put, until_replicas};

fn only(manager: &Manager) -> shard_manager::stats::ShardStats {
    manager.vitals().remove(0)
}

/// Asks until it is so, without asking any server.
async fn until(manager: &Manager, is_so: impl Fn(&[NodeStats]) -> bool) -> Vec<NodeStats> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let nodes = only(manager).nodes;
        if is_so(&nodes) {
            return nodes;
        }
        assert!(Instant::now() < deadline, "{nodes:?}");
        tokio::task::yield_now().await;
    }
}

#[test]
fn writes_that_gather_are_counted_as_the_batches_that_they_became() {
    runtime().block_on(async {
        let databases = Databases::new(1).await;
        let address = databases.with_replicas().await;
        let manager = tokio::task::spawn_blocking(move || connect(&address)).await.unwrap();
        until_replicas(&manager, 1).await;
        assert_eq!(only(&manager).lane.batches, 0, "nobody has written");
        for number in 0..5 {
            put(&manager, &format!("a{number}"), &wish()).await.unwrap();
        }
        let lane = only(&manager).lane;
        assert_eq!((lane.batches, lane.operations, lane.rows, lane.largest_batch), (5, 5, 5, 1));
        let (keys, wish) =
            ((0..200).map(|number| format!("b{number}")).collect::<Vec<_>>(), wish());
        let writes = join_all(keys.iter().map(|key| put(&manager, key, &wish))).await;
        assert!(writes.iter().all(Result::is_ok));
        let lane = only(&manager).lane;
        assert_eq!((lane.operations, lane.rows, lane.waiting), (205, 205, 0));
        assert_eq!(lane.batch_sizes.iter().sum::<u64>(), lane.batches);
        // All waited at once: they share transactions.
        assert!(lane.batches < 105 && lane.largest_batch >= 2, "{lane:?}");

        let nodes = until(&manager, |nodes| nodes[1].behind == Some(0)).await;
        assert_eq!(nodes[0].role, Role::Primary);
        assert!(nodes.iter().all(|node| node.up && node.lag.is_some()), "{nodes:?}");
        get(&manager, "a1", &wish).await.unwrap();
        let nodes = until(&manager, |nodes| nodes.iter().all(|node| node.pool.in_use == 0)).await;
        // Two for short reads and two for long ones; a primary is read seldom.
        assert_eq!((nodes[0].pool.max, nodes[1].pool.max), (3, 4));
        assert!(nodes[1].pool.open >= 1, "{nodes:?}");
    });
}

#[test]
fn reads_that_a_server_does_not_answer_are_told_as_taken_connections_and_those_behind_them_as_waiting()
 {
    runtime().block_on(async {
        let databases = Databases::new(1).await;
        let address = databases.address();
        let manager = tokio::task::spawn_blocking(move || connect(&address)).await.unwrap();
        let mut door = databases.door(0).await;
        door.run("BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE").await;
        let (wish, all) = (wish(), ReadQuery::all(&manager.table("users").unwrap()));
        let scans = join_all((0..5).map(|_| manager.read(all.clone(), None, &wish)));
        let of_key = get(&manager, "a", &wish);
        // Two long reads and a short one have all there are; three long ones wait.
        let taken = PoolStats { in_use: 3, open: 3, max: 3, waiting: 3 };
        let unlocked = async {
            until(&manager, |nodes| nodes[0].pool == taken).await;
            door.run("COMMIT").await;
        };
        let (scans, of_key, ()) = futures_util::future::join3(scans, of_key, unlocked).await;
        for read in scans.into_iter().chain([of_key]) {
            assert_eq!(read.unwrap().rows.len(), 0);
        }
        let rest = PoolStats { in_use: 0, waiting: 0, ..taken };
        until(&manager, |nodes| nodes[0].pool == rest).await;
    });
}

#[test]
fn how_much_shards_hold_is_told_without_looking_at_their_rows() {
    runtime().block_on(async {
        let databases = Databases::new(2).await;
        let address = databases.address();
        let manager = tokio::task::spawn_blocking(move || connect(&address)).await.unwrap();
        let empty = manager.size_estimates(wish().deadline).await;
        let (keys, wish) =
            ((0..300).map(|number| format!("k{number}")).collect::<Vec<_>>(), wish());
        let writes = join_all(keys.iter().map(|key| put(&manager, key, &wish))).await;
        assert!(writes.iter().all(Result::is_ok));
        // Servers tell what they have counted after a while; what they had not told is added to what is found now.
        for shard in 0..2 {
            databases.door(shard).await.run("ANALYZE users").await;
        }
        let told = manager.size_estimates(wish.deadline).await;
        let rows: u64 = told.iter().map(|shard| shard.unwrap().rows.unwrap()).sum();
        assert!((300..=600).contains(&rows), "{told:?}");
        for (before, after) in empty.iter().zip(&told) {
            let (before, after) = (before.unwrap(), after.unwrap());
            assert_eq!((before.rows, after.is_estimate), (Some(0), true));
            assert!(after.bytes > before.bytes, "{before:?} {after:?}");
        }
        // A shard whose tables are locked tells as well; nobody looks at them.
        let mut door = databases.door(0).await;
        door.run("BEGIN; LOCK TABLE users IN EXCLUSIVE MODE").await;
        let told = manager.size_estimates(wish.deadline).await;
        assert!(told.iter().all(Option::is_some), "{told:?}");
    });
}
