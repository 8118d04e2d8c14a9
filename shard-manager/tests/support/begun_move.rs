//! Begun move: the start of a move in a test, which is tried until the replicas of both shards
//! follow.

use std::time::{Duration, Instant};

use shard_manager::engine::move_record::NewMove;
use shard_manager::manager::{Manager, MovesError};
use shard_manager::moves::identity::MoveId;

/// Longest wait for the replicas.
const READY_MAX: Duration = Duration::from_secs(60);

/// Begins a move, once the replicas of both shards follow; returns its id.
pub(crate) async fn begin(manager: &Manager, new: NewMove) -> MoveId {
    let limit = Instant::now() + READY_MAX;
    loop {
        let deadline = Instant::now() + READY_MAX;
        match manager.moves().begin(new.clone(), None, deadline).await {
            Ok(record) => return record.id,
            Err(MovesError::NoMajority { .. }) if Instant::now() < limit => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("the move does not begin: {error}"),
        }
    }
}
