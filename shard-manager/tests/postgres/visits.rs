//! Visits: one row written or read at some level, and what a client has seen by it.

use std::time::{Duration, Instant};

use shard_manager::consistency::Level;
use shard_manager::error::Failure;
use shard_manager::keyspace::ShardKey;
use shard_manager::manager::{Manager, ReadDone, Wish, Written};
use shard_manager::query::ReadQuery;
use shard_manager::row_change::Operation::Upsert;
use shard_manager::token::SessionToken;
use shard_manager::topology::{Role, ShardIndex};

use crate::rows::{prepare, wish};

const ONLY: ShardIndex = ShardIndex(0);

pub(crate) fn at(level: Level) -> Wish {
    Wish { level, ..wish() }
}

pub(crate) fn within(millis: u64, level: Level) -> Wish {
    Wish { level, ..Wish::by(Instant::now() + Duration::from_millis(millis)) }
}

pub(crate) async fn put(manager: &Manager, key: &str, wish: &Wish) -> Result<Written, Failure> {
    let (place, row) = prepare(manager, "users", Upsert, key, r#"{"name":"n","email":"e"}"#);
    manager.write(place, row, wish).await
}

pub(crate) async fn get(manager: &Manager, key: &str, wish: &Wish) -> Result<ReadDone, Failure> {
    let query = ReadQuery::all(&manager.table("users").unwrap());
    manager.read(query, Some(ShardKey::parse(key).unwrap()), wish).await
}

/// What a client has seen that was answered so.
pub(crate) fn seen(manager: &Manager, written: &Written) -> SessionToken {
    let mut session = SessionToken::empty();
    manager.seen(&mut session, ONLY, written.receipt.position);
    session
}

/// Waits until so many replicas answer.
pub(crate) async fn until_replicas(manager: &Manager, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let soon = Instant::now() + Duration::from_millis(500);
        let nodes = manager.health(soon).await.remove(0).nodes;
        if nodes.iter().filter(|node| node.role == Role::Replica && node.up).count() == count {
            return;
        }
        assert!(Instant::now() < deadline, "{nodes:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Rows of a key from whichever node answers: on a busy machine a replica may be out for a moment just as the primary goes.
pub(crate) async fn until_read(manager: &Manager, key: &str) -> usize {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match get(manager, key, &wish()).await {
            Ok(read) => return read.rows.len(),
            Err(failure) => assert!(Instant::now() < deadline, "{failure:?}"),
        }
    }
}
