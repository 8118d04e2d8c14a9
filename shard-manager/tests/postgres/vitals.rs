//! Tests of statistics on PostgreSQL: what lanes, readers and nodes report without a query matches
//! what happened on the servers.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use shard_manager::access::rights::Rights;
use shard_manager::manager::Manager;
use shard_manager::query::ReadQuery;
use shard_manager::stats::{NodeStats, PoolStats};
use shard_manager::topology::Role;

use crate::cluster::{Databases, connect};
use crate::read_write_steps::{get, put, until_replicas};
use crate::rows::options;
use crate::server::runtime;

fn only(manager: &Manager) -> shard_manager::stats::ShardStats {
    manager.status().stats().remove(0)
}

/// Polls the statistics until a condition holds, without querying any server.
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
fn grouped_writes_are_counted_as_the_batches_that_they_formed() {
    runtime().block_on(async {
        let databases = Databases::new(1).await;
        let address = databases.with_replicas().await;
        let manager = tokio::task::spawn_blocking(move || connect(&address)).await.unwrap();
        until_replicas(&manager, 1).await;
        assert_eq!(only(&manager).lane.batches, 0, "nothing was written");
        for number in 0..5 {
            put(&manager, &format!("a{number}"), &options()).await.unwrap();
        }
        let lane = only(&manager).lane;
        assert_eq!((lane.batches, lane.operations, lane.rows, lane.largest_batch), (5, 5, 5, 1));
        let (keys, options) =
            ((0..200).map(|number| format!("b{number}")).collect::<Vec<_>>(), options());
        let writes = join_all(keys.iter().map(|key| put(&manager, key, &options))).await;
        assert!(writes.iter().all(Result::is_ok));
        let lane = only(&manager).lane;
        assert_eq!((lane.operations, lane.rows, lane.waiting), (205, 205, 0));
        assert_eq!(lane.batch_sizes.iter().sum::<u64>(), lane.batches);
        // All were queued at once: they share transactions.
        assert!(lane.batches < 105 && lane.largest_batch >= 2, "{lane:?}");

        let nodes = until(&manager, |nodes| {
            nodes[1].behind == Some(0) && nodes.iter().all(|node| node.up && node.lag.is_some())
        })
        .await;
        assert_eq!(nodes[0].role, Role::Primary);
        get(&manager, "a1", &options).await.unwrap();
        let nodes = until(&manager, |nodes| nodes.iter().all(|node| node.pool.in_use == 0)).await;
        // Two connections for short reads and two for long ones; a primary is read rarely.
        assert_eq!((nodes[0].pool.max, nodes[1].pool.max), (3, 4));
        assert!(nodes[1].pool.open >= 1, "{nodes:?}");
    });
}

#[test]
fn unanswered_reads_are_reported_as_busy_connections_and_queued_ones_as_waiting() {
    runtime().block_on(async {
        let databases = Databases::new(1).await;
        let address = databases.address();
        let manager = tokio::task::spawn_blocking(move || connect(&address)).await.unwrap();
        let mut direct = databases.direct_session(0).await;
        direct.run("BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE").await;
        let (options, all) =
            (options(), ReadQuery::all(&manager.schema(Rights::ALL).table("users").unwrap()));
        let scans =
            join_all((0..5).map(|_| manager.data(Rights::ALL).read(all.clone(), None, &options)));
        let of_key = get(&manager, "a", &options);
        // Two long reads and a short one occupy all their connections; three long ones wait.
        let taken = PoolStats { in_use: 3, open: 3, max: 3, waiting: 3 };
        let unlocked = async {
            until(&manager, |nodes| nodes[0].pool == taken).await;
            direct.run("COMMIT").await;
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
fn sizes_of_shards_are_reported_without_reading_their_rows() {
    runtime().block_on(async {
        let databases = Databases::new(2).await;
        let address = databases.address();
        let manager = tokio::task::spawn_blocking(move || connect(&address)).await.unwrap();
        let empty = manager.status().size_estimates(options().deadline).await;
        let (keys, options) =
            ((0..300).map(|number| format!("k{number}")).collect::<Vec<_>>(), options());
        let writes = join_all(keys.iter().map(|key| put(&manager, key, &options))).await;
        assert!(writes.iter().all(Result::is_ok));
        // Servers publish their statistics with a delay; counts not yet published are added to what
        // is found now.
        for shard in 0..2 {
            databases.direct_session(shard).await.run("ANALYZE users").await;
        }
        let reported = manager.status().size_estimates(options.deadline).await;
        let rows: u64 = reported.iter().map(|(_, size)| size.unwrap().rows.unwrap()).sum();
        assert!((300..=600).contains(&rows), "{reported:?}");
        for (before, after) in empty.iter().zip(&reported) {
            let (before, after) = (before.1.unwrap(), after.1.unwrap());
            assert_eq!((before.rows, after.is_estimate), (Some(0), true));
            assert!(after.bytes > before.bytes, "{before:?} {after:?}");
        }
        // A shard whose tables are locked reports as well, because its tables are not read.
        let mut direct = databases.direct_session(0).await;
        direct.run("BEGIN; LOCK TABLE users IN EXCLUSIVE MODE").await;
        let reported = manager.status().size_estimates(options.deadline).await;
        assert!(reported.iter().all(|(_, size)| size.is_some()), "{reported:?}");
    });
}
