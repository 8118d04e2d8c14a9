//! Moved slots: remembers the reports of shards that slots have moved, before the shard map names
//! their new owners.
//!
//! **Not here:** the routes that follow from a report (`slot_router`), the tokens of the responses
//! (`manager::sessions`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use model::error::Error;
use model::slot_refusal::SlotRefusal;
use model::topology::ShardNumber;

use super::Data;
use crate::slot_redirects::FormerPosition;

/// Longest wait for the position of a shard that has refused a slot.
const POSITION_MAX: Duration = Duration::from_secs(1);

/// Remembers refusals of a shard. If they name owners that are not known yet, waits for a position
/// of the shard: it is at or after the changes by which the slots have moved.
pub(super) async fn learn(
    data: Data<'_>,
    shard: ShardNumber,
    refusals: impl Iterator<Item = SlotRefusal> + Clone,
    deadline: Instant,
) {
    let router = &data.manager.router;
    let has_news = refusals.clone().any(|refusal| router.is_news(refusal));
    let former_position =
        if has_news { former_position_of(data, shard, deadline).await } else { None };
    refusals.for_each(|refusal| router.learn(shard, refusal, former_position.as_ref()));
}

/// Returns a position of a shard that is at or after every change of its slots; `None` if its
/// primary does not answer in time.
async fn former_position_of(
    data: Data<'_>,
    number: ShardNumber,
    deadline: Instant,
) -> Option<FormerPosition> {
    let shard = data.manager.shards().find(number)?;
    let until = deadline.min(Instant::now() + POSITION_MAX);
    let position = shard.primary().position(until).await;
    let unknown = |error: &Error| tracing::debug!(?number, %error, "no position of a shard");
    let position = position.inspect_err(unknown).ok()?;
    Some(FormerPosition { position, replication: Arc::clone(&shard.replication) })
}
