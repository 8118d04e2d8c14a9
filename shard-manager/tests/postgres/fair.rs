//! Tests of a server that several tenants share: writes and reads of one of them do not wait behind
//! all of another.

use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::future::{LocalBoxFuture, poll_fn};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use shard_manager::access::rights::Rights;
use shard_manager::keyspace::ShardKey;
use shard_manager::manager::Manager;
use shard_manager::query::ReadQuery;
use tokio::task::unconstrained;

use crate::cluster::{Databases, SideSession, connect};
use crate::fair_steps::{a_flood_does_not_delay_another_tenant, tenant};
use crate::read_write_steps::put;
use crate::rows::options;
use crate::server::runtime;

/// Stops every read of users, until the transaction ends.
const LOCK: &str = "BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE";

type Read<'r> = LocalBoxFuture<'r, bool>;

/// Sends a read of one key or of all; the future yields whether it is of the other tenant.
async fn send<'r>(
    manager: &'r Manager,
    (rights, is_other): (&'r Rights, bool),
    key: Option<&'r str>,
) -> Read<'r> {
    let mut read: Read<'r> = Box::pin(async move {
        let query = ReadQuery::all(&manager.schema(rights).table("users").unwrap());
        let key = key.map(|key| ShardKey::parse(key).unwrap());
        let done = manager.data(rights).read(query, key, &options()).await.unwrap();
        assert_eq!(done.rows.len(), 1);
        is_other
    });
    let now = poll_fn(|context| Poll::Ready(read.as_mut().poll(context))).await;
    match now {
        Poll::Ready(done) => Box::pin(std::future::ready(done)),
        Poll::Pending => read,
    }
}

/// Waits until this many reads wait for a connection to the primary.
async fn until_waiting(manager: &Manager, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let pool = manager.status().stats().remove(0).nodes.remove(0).pool;
        if pool.waiting == count {
            return;
        }
        assert!(Instant::now() < deadline, "{pool:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Lets the reads continue, and returns the number of reads of the first tenant that are done
/// before that of the other one.
async fn done_before(reads: Vec<Read<'_>>, direct: &mut SideSession) -> usize {
    let mut reads: FuturesUnordered<_> = reads.into_iter().collect();
    // Reads that were polled are woken in the order of their answers, however late this task runs,
    // unless it is constrained: tokio wakes those again that exceed the budget of a task.
    for _ in 0..reads.len() {
        let is_done = poll_fn(|context| Poll::Ready(reads.poll_next_unpin(context).is_ready()));
        assert!(!is_done.await, "a read did not wait for the lock");
    }
    direct.run("COMMIT").await;
    let mut before = 0;
    while let Some(is_other) = reads.next().await {
        if is_other {
            // All reads are awaited: none is dropped while it runs.
            while reads.next().await.is_some() {}
            return before;
        }
        before += 1;
    }
    panic!("the other tenant has read nothing");
}

/// A cluster of one shard with one row, and a session that holds up its reads.
async fn held_up() -> (Manager, SideSession) {
    let databases = Databases::new(1).await;
    let address = databases.address();
    let manager = tokio::task::spawn_blocking(move || connect(&address)).await.unwrap();
    put(&manager, "k", &options()).await.unwrap();
    let mut direct = databases.direct_session(0).await;
    direct.run(LOCK).await;
    (manager, direct)
}

#[test]
fn a_flood_of_writes_to_a_server_does_not_delay_another_tenant() {
    runtime().block_on(async {
        let databases = Databases::new(1).await;
        let address = databases.address();
        let manager = tokio::task::spawn_blocking(move || connect(&address)).await.unwrap();
        a_flood_does_not_delay_another_tenant(&manager).await;
    });
}

#[test]
fn a_flood_of_reads_by_key_does_not_delay_another_tenant() {
    runtime().block_on(unconstrained(async {
        let (manager, mut direct) = held_up().await;
        let (many, few) = (tenant(11), tenant(12));
        let mut reads = Vec::new();
        for _ in 0..600 {
            reads.push(send(&manager, (&many, false), Some("k")).await);
        }
        reads.push(send(&manager, (&few, true), Some("k")).await);
        // The statement that waited for the lock, and one that both share.
        let before = done_before(reads, &mut direct).await;
        assert!(before <= 2 * 128, "{before}");
    }));
}

#[test]
fn a_flood_of_scans_does_not_delay_another_tenant() {
    runtime().block_on(unconstrained(async {
        let (manager, mut direct) = held_up().await;
        let (many, few) = (tenant(11), tenant(12));
        let mut reads = Vec::new();
        for _ in 0..40 {
            reads.push(send(&manager, (&many, false), None).await);
        }
        // One tenant alone uses both connections.
        until_waiting(&manager, 38).await;
        reads.push(send(&manager, (&few, true), None).await);
        until_waiting(&manager, 39).await;
        let before = done_before(reads, &mut direct).await;
        assert!(before < 20, "{before}");
    }));
}
