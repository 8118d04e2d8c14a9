//! Growth: adds a shard to an experiment's cluster and moves its share of the slots to it, or
//! drains a shard, which moves all its slots away.
//!
//! **Invariant:** when a function returns without an error, every slot that had to move is on its
//! new shard.
//! **Not here:** joining and moving (`cluster`).

use std::time::{Duration, Instant};

use cluster::manager::{Manager, Rebalances};
use engine::new_shard::NewShard;
use engine::rebalance_draft::{DraftGoal, RebalanceDraft};
use engine::rebalance_record::RebalanceState;
use engine::rebalance_view::{RebalanceBegun, RebalanceView};

use crate::experiment_observer::ExperimentObserver;
use crate::lab_cluster::{LabCluster, PATIENCE};
use crate::lab_error::LabError;

/// Interval at which the state of a rebalance is polled.
const LOOK: Duration = Duration::from_millis(20);

/// Adds a shard of weight 1, and moves slots until each shard has its share. If the cluster is on
/// servers, the new shard uses the database at this URL.
///
/// # Errors
/// [`LabError`] of the step that failed.
pub(crate) fn add_shard(
    cluster: &LabCluster,
    (name, url): (&str, Option<&str>),
    observer: &dyn ExperimentObserver,
) -> Result<RebalanceView, LabError> {
    let manager = cluster.manager();
    cluster.beside_upkeep(async {
        let url = url.map(str::to_owned);
        let shard = NewShard { name: name.to_owned(), weight: 1, url };
        let deadline = Instant::now() + PATIENCE;
        manager.shards().join(shard, None, deadline).await.map_err(LabError::failed)?;
        carry_out(manager, DraftGoal::Slots, observer).await
    })
}

/// Moves all slots of a shard to the other shards, and then removes the shard from the cluster.
///
/// # Errors
/// [`LabError`] of the step that failed.
pub(crate) fn drain_shard(
    cluster: &LabCluster,
    name: &str,
    observer: &dyn ExperimentObserver,
) -> Result<RebalanceView, LabError> {
    let manager = cluster.manager();
    let goal = DraftGoal::Drain(name.to_owned());
    cluster.beside_upkeep(carry_out(manager, goal, observer))
}

async fn carry_out(
    manager: &Manager,
    goal: DraftGoal,
    observer: &dyn ExperimentObserver,
) -> Result<RebalanceView, LabError> {
    let draft = RebalanceDraft { goal, group: None, rate: None, keep: Some(0) };
    let rebalances = Rebalances::of(manager);
    let deadline = Instant::now() + PATIENCE;
    let begun = rebalances.begin(&draft, None, deadline).await.map_err(LabError::failed)?;
    let RebalanceBegun::Begun(begun) = begun else {
        return Err(LabError::failed("nothing has to move"));
    };
    loop {
        observer.check_cancelled()?;
        let listed = rebalances.get(&begun.id).await.map_err(LabError::failed)?;
        let state = RebalanceState::parse(&listed.state);
        if state == Some(RebalanceState::Done) {
            return Ok(listed);
        }
        if state.is_some_and(RebalanceState::has_ended) {
            let reason = listed.reason.unwrap_or_else(|| "the rebalance has failed".to_owned());
            return Err(LabError::Failed(reason));
        }
        tokio::time::sleep(LOOK).await;
    }
}
