//! Tests of a router whose shard map is older than the epoch of a session, because another router
//! has changed the catalog.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use shard_manager::access::rights::Rights;
use shard_manager::cache::ServedBy;
use shard_manager::manager::{Manager, ReadDone, RequestOptions};
use shard_manager::node_address::ClusterAddress;
use shard_manager::query::ReadQuery;
use shard_manager::token::SessionToken;

use crate::cluster::{Databases, connect};
use crate::read_write_steps::{get, put, until_replicas};
use crate::rows::options;

/// Options of a client that was answered by a map of this epoch.
fn at_epoch(epoch: u64) -> RequestOptions {
    let mut session = SessionToken::empty();
    session.see_epoch(epoch, |_, _| true);
    RequestOptions { session, ..options() }
}

async fn scatter(manager: &Manager, options: &RequestOptions) -> ReadDone {
    let query = ReadQuery::all(&manager.schema(Rights::ALL).table("users").unwrap());
    manager.data(Rights::ALL).read(query, None, options).await.unwrap()
}

#[tokio::test]
async fn a_map_that_a_session_knows_is_read_before_the_answer() {
    let databases = Databases::new(2).await;
    let manager = connect(&databases.address());
    put(&manager, "ada", &options()).await.unwrap();
    let mut catalog = databases.direct_session(0).await;
    // On a machine that stands still, the map may come only after the longest wait for it: then the
    // same reads follow a further change.
    let (mut epoch, mut on_time) = (1, 0);
    let deadline = Instant::now() + Duration::from_secs(60);
    while on_time < 5 {
        assert!(Instant::now() < deadline, "the map of epoch {epoch} is not read in time");
        epoch += 1;
        // Without a notification, so that the router learns it from the session.
        catalog.run(&format!("UPDATE tessera_cluster SET epoch={epoch}")).await;
        let options = at_epoch(epoch);
        let all = if on_time % 2 == 0 {
            join_all((0..50).map(|_| get(&manager, "ada", &options))).await
        } else {
            vec![Ok(scatter(&manager, &options).await)]
        };
        let mut is_late = false;
        for read in all {
            let read = read.unwrap();
            assert_eq!(read.rows.len(), 1);
            assert!(read.epoch <= epoch, "{} is ahead of {epoch}", read.epoch);
            is_late |= read.epoch < epoch;
        }
        on_time += u64::from(!is_late);
        if is_late {
            // So that no later read gains from the one that came too late.
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}

#[tokio::test]
async fn without_a_map_for_the_session_the_primary_answers() {
    let databases = Databases::new(1).await;
    let separate = Databases::new(1).await;
    let catalog = Some(separate.address().shards.remove(0).primary);
    let address = databases.with_replicas().await;
    let address = ClusterAddress { catalog, ..address };
    let manager = connect(&address);
    put(&manager, "ada", &options()).await.unwrap();
    until_replicas(&manager, 1).await;
    let mut catalog = separate.direct_session(0).await;
    catalog.run("ALTER TABLE tessera_cluster RENAME TO hidden").await;
    let deadline = Instant::now() + Duration::from_secs(60);
    while get(&manager, "ada", &options()).await.unwrap().served_by != ServedBy::Replica {
        assert!(Instant::now() < deadline, "the replica never answers");
    }
    let read = get(&manager, "ada", &at_epoch(2)).await.unwrap();
    assert_eq!((read.rows.len(), read.served_by, read.epoch), (1, ServedBy::Primary, 1));
    assert_eq!(read.session.epoch(), 2, "the session stays ahead of the map");
    catalog.run("ALTER TABLE hidden RENAME TO tessera_cluster").await;
    catalog.run("UPDATE tessera_cluster SET epoch=2").await;
    let deadline = Instant::now() + Duration::from_secs(60);
    while get(&manager, "ada", &at_epoch(2)).await.unwrap().epoch != 2 {
        assert!(Instant::now() < deadline, "the map is never read again");
    }
}
