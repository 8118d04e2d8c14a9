//! Moved slots: remembers the reports of shards that slots have moved, before the shard map names
//! their new owners.
//!
//! **Not here:** the routes that follow from a report (`slot_router`), the tokens of the responses
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

/// Remembers refusals of a shard. If they name owners that are not known yet, waits for a position
/// of the shard, which is at or after the changes by which the slots have moved, and for positions
/// of the new owners.
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

/// Makes replicas of a shard answer only with everything that its primary has now. One that lags
/// may still serve a slot that the shard has given away and got back, with rows from before: the
/// map does not name it as the owner yet, so the position of the return is not known here. Returns
/// false if the primary does not answer in time.
async fn bound_replicas(data: Data<'_>, owner: ShardNumber, deadline: Instant) -> bool {
    let Some(now) = current_position(data, owner, deadline).await else { return false };
    let Position { timeline, sequence } = now.position;
    let record = |state: &ReplicationState| state.primary().record_schema_change(sequence);
    now.replication.update_if_current(timeline, record);
    true
}

/// Returns a position of a shard that is at or after every change of its slots; `None` if its
/// primary does not answer in time.
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
