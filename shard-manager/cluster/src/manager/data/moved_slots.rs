//! Moved slots: remembers that slots have moved, as shards report when they refuse a request,
//! before the shard map names the new owners.
//!
//! **Not here:** the routing of later requests (`slot_router`), the session tokens of the responses
//! (`manager::sessions`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::replication::ReplicationState;
use futures_util::future::{join, join_all};
use model::error::Error;
use model::position::Position;
use model::slot_refusal::{RefusedState, SlotRefusal};
use model::topology::ShardNumber;

use super::Data;
use crate::slot_redirects::FormerPosition;

/// Longest wait for the position of a shard that has refused a slot.
const POSITION_MAX: Duration = Duration::from_secs(1);

/// Remembers the refusals of a shard. If they name new owners that this process does not know yet,
/// waits for the present position of the shard, which is not before the changes that moved the
/// slots, and for the positions of the new owners.
pub(super) async fn learn(
    data: Data<'_>,
    shard: ShardNumber,
    refusals: impl Iterator<Item = SlotRefusal> + Clone,
    deadline: Instant,
) {
    let router = &data.manager.router;
    let new_owner = |refusal: SlotRefusal| match refusal.state {
        RefusedState::Moved { to } => router.is_news(refusal).then_some(to),
        RefusedState::Fenced { .. } | RefusedState::Importing | RefusedState::Absent => None,
    };
    let owners: BTreeSet<ShardNumber> = refusals.clone().filter_map(new_owner).collect();
    let former_position = if owners.is_empty() {
        None
    } else {
        let bound = owners.into_iter().map(|owner| bound_replicas(data, owner, deadline));
        let former = current_position(data, shard, deadline);
        let (former_position, bound) = join(former, join_all(bound)).await;
        former_position.filter(|_| bound.into_iter().all(|is_bound| is_bound))
    };
    refusals.for_each(|refusal| router.learn(shard, refusal, former_position.as_ref()));
}

/// Requires the replicas of a shard to have everything that its primary has now before they answer
/// a read. Without this, a replica that lags might serve outdated rows of a slot that its shard
/// gave away and has received back. The map does not name the shard as the owner yet, so the
/// position at which the slot returned is not known here. Returns false if the primary does not
/// answer in time.
async fn bound_replicas(data: Data<'_>, owner: ShardNumber, deadline: Instant) -> bool {
    let Some(now) = current_position(data, owner, deadline).await else { return false };
    let Position { timeline, sequence } = now.position;
    let record = |state: &ReplicationState| state.primary().record_schema_change(sequence);
    now.replication.update_if_current(timeline, record);
    true
}

/// Returns the present position of a shard: all changes of its slots so far are at or before it.
/// `None` if its primary does not answer in time.
async fn current_position(
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
