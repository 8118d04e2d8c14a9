//! Publication: names the new owner of the slots of a move in the catalog's shard map.
//!
//! **Invariant:** the map changes after the shards: a shard owns the slots before the map names it
//! as their owner.
//! **Not here:** updating the maps of other routers (the engines).

use std::time::{Duration, Instant};

use engine::catalog_rows::MapChangeError;
use model::map_change::MapChange;
use model::position::Position;
use model::shard_map::ShardMap;
use model::slot_set::SlotSet;
use moves::identity::MoveSide;
use moves::observation::{MovePlan, SlotsState};

use super::move_sides::{CALL_MAX, SeenMove};
use crate::manager::Manager;
use crate::manager::shards::epoch_to_retry;

/// Returns the side that the newest map names as owner of the slots. If the map does not name one
/// side for all slots, returns the side that does not own them, so that the actual owner is
/// published next.
pub(super) fn published(manager: &Manager, plan: &MovePlan, seen: &SeenMove) -> MoveSide {
    let map = manager.shards().newest_map();
    let owns = |side: MoveSide| is_named_owner(&map, plan, side);
    let has_arrived = || {
        let state = seen.shard(MoveSide::Destination).slots;
        matches!(state, SlotsState::Owned | SlotsState::Fenced)
    };
    if owns(MoveSide::Destination) || (!owns(MoveSide::Origin) && !has_arrived()) {
        MoveSide::Destination
    } else {
        MoveSide::Origin
    }
}

/// Returns true if a map names a side as owner of all slots of the move.
pub(super) fn is_named_owner(map: &ShardMap, plan: &MovePlan, side: MoveSide) -> bool {
    let shard = plan.shards[side.index()];
    plan.slots.iter().all(|slot| map.owner(*slot) == shard)
}

/// Names a side as owner in the catalog's map.
///
/// # Errors
/// A sentence. The map may have been changed nevertheless.
pub(super) async fn publish(
    manager: &Manager,
    plan: &MovePlan,
    (side, floor): (MoveSide, Position),
) -> Result<(), String> {
    let map = manager.shards().newest_map();
    let [from, to] = [side.other(), side].map(|side| plan.shards[side.index()]);
    let slots: SlotSet =
        plan.slots.iter().copied().filter(|slot| map.owner(*slot) == from).collect();
    let change = MapChange::Owners { slots, from, to, floor: Some(floor) };
    let changed = manager.shards().change_map(change, map.epoch());
    let failed = |cause: String| format!("the new owner of the slots is not published: {cause}");
    match tokio::time::timeout(CALL_MAX, changed).await {
        Ok(Ok(map)) => {
            let owner = manager.shard_name(to);
            tracing::info!(epoch = map.epoch(), owner, "slots have another owner");
            Ok(())
        }
        Ok(Err(MapChangeError::Stale { expected, epoch })) => {
            let later = epoch_to_retry((expected, epoch), None);
            let updated = manager.backend.update_map(later, Instant::now() + CALL_MAX).await;
            updated.map_err(|error| failed(error.to_string()))
        }
        Ok(Err(error)) => {
            // The change may be in force nevertheless.
            let soon = Instant::now() + Duration::from_secs(1);
            if let Err(error) = manager.backend.update_map(map.epoch() + 1, soon).await {
                tracing::debug!(%error, "the catalog has no newer shard map");
            }
            Err(failed(error.to_string()))
        }
        Err(_elapsed) => Err(failed("the catalog does not answer".to_owned())),
    }
}
