//! Helpers to write or read one row at some consistency level, and to track what a client has seen.

use std::time::{Duration, Instant};

use shard_manager::access::rights::Rights;
use shard_manager::consistency::Level;
use shard_manager::error::{Error, Failure};
use shard_manager::keyspace::ShardKey;
use shard_manager::manager::{Manager, ReadDone, RequestOptions, WriteReceipt};
use shard_manager::query::ReadQuery;
use shard_manager::row_change::Operation::Upsert;
use shard_manager::token::SessionToken;
use shard_manager::topology::{Role, ShardNumber};

use crate::rows::{options, prepare};

const ONLY: ShardNumber = ShardNumber(0);

pub(crate) fn at(level: Level) -> RequestOptions {
    RequestOptions { level, ..options() }
}

pub(crate) fn within(millis: u64, level: Level) -> RequestOptions {
    RequestOptions { level, ..RequestOptions::by(Instant::now() + Duration::from_millis(millis)) }
}

pub(crate) async fn put(
    manager: &Manager,
    key: &str,
    options: &RequestOptions,
) -> Result<WriteReceipt, Failure> {
    let (place, row) = prepare(manager, "users", Upsert, key, r#"{"name":"n","email":"e"}"#);
    manager.data(Rights::ALL).write(place, row, options).await
}

pub(crate) async fn get(
    manager: &Manager,
    key: &str,
    options: &RequestOptions,
) -> Result<ReadDone, Failure> {
    let query = ReadQuery::all(&manager.schema(Rights::ALL).table("users").unwrap());
    manager.data(Rights::ALL).read(query, Some(ShardKey::parse(key).unwrap()), options).await
}

/// Writes until a write fails with the reason why none is accepted. A machine that stands still may
/// let a deadline pass before the router has noticed anything.
pub(crate) async fn put_fails(manager: &Manager, key: &str, millis: u64, level: Level) -> Failure {
    let limit = Instant::now() + Duration::from_secs(60);
    loop {
        let written = put(manager, key, &within(millis, level)).await;
        let failure = written.expect_err("no write succeeds");
        if !is_only_late(&failure) || Instant::now() > limit {
            return failure;
        }
    }
}

/// Reads until a read fails with the reason why none is answered, like [`put_fails`].
pub(crate) async fn get_fails(manager: &Manager, key: &str, millis: u64, level: Level) -> Failure {
    let limit = Instant::now() + Duration::from_secs(60);
    loop {
        let read = get(manager, key, &within(millis, level)).await;
        let failure = read.expect_err("no read succeeds");
        if !is_only_late(&failure) || Instant::now() > limit {
            return failure;
        }
    }
}

fn is_only_late(failure: &Failure) -> bool {
    matches!(failure.error, Error::DeadlinePassed | Error::WritesStalled { .. })
}

/// Session token of a client that received this answer.
pub(crate) fn seen(manager: &Manager, written: &WriteReceipt) -> SessionToken {
    let mut session = SessionToken::empty();
    manager.sessions().extend(&mut session, ONLY, written.receipt.position);
    session
}

/// Waits until this many replicas answer.
pub(crate) async fn until_replicas(manager: &Manager, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let soon = Instant::now() + Duration::from_millis(500);
        let nodes = manager.status().health(soon).await.remove(0).nodes;
        if nodes.iter().filter(|node| node.role == Role::Replica && node.up).count() == count {
            return;
        }
        assert!(Instant::now() < deadline, "{nodes:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Number of rows of a key, from any node that answers: on a busy machine a replica may be
/// unavailable for a moment just when the primary fails.
pub(crate) async fn until_read(manager: &Manager, key: &str) -> usize {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match get(manager, key, &options()).await {
            Ok(read) => return read.rows.len(),
            Err(failure) => assert!(Instant::now() < deadline, "{failure:?}"),
        }
    }
}
