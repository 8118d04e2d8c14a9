//! Connections: finds the database servers that have too few free connections for the moves of a
//! plan.
//!
//! **Invariant:** if the number of free connections of a server is not known, the server refuses
//! nothing.
//! **Not here:** the check of a single move, when it begins (`move_resources`).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use model::shard_map::ShardMap;
use model::slot_plan::SlotPlan;
use model::stats::MoverConnections;
use model::topology::ShardNumber;

use crate::manager::{Manager, MovesError};

/// Longest wait for the responses of the primaries.
const MEASURE_MAX: Duration = Duration::from_secs(2);

/// Returns a refusal for each shard of the plan whose server has too few free connections for one
/// move.
pub(super) async fn refusals(
    manager: &Manager,
    plan: &SlotPlan,
    map: &ShardMap,
    deadline: Instant,
) -> Vec<MovesError> {
    let shards = plan.steps.iter().flat_map(|step| [step.from, step.to]);
    let shards: BTreeSet<ShardNumber> = shards.collect();
    let soon = deadline.min(Instant::now() + MEASURE_MAX);
    let refusals = shards.into_iter().map(async |number| {
        let shard = manager.shards().find(number)?;
        let known = shard.primary().moves()?.connections(soon).await.ok()?;
        let MoverConnections { needed, free, limit } = known?;
        let name = || map.topology().name(number).to_owned();
        let refusal = || MovesError::NoConnections { shard: name(), needed, free, limit };
        (free < needed).then(refusal)
    });
    join_all(refusals).await.into_iter().flatten().collect()
}
