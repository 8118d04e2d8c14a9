//! Stopped: plans rebalances of a cluster of files that no router serves at present.
//!
//! **Not here:** the plan (`planning`), reading the files of the cluster (`sqlite`).

use std::time::Instant;

use engine::rebalance_draft::RebalanceDraft;
use engine::rebalance_view::PlanView;

use super::planning::RebalancePlans;
use super::{RebalancesError, shown};
use crate::manager::{Manager, MovesError};

/// Interface to plan rebalances of a stopped cluster.
#[derive(Clone, Copy)]
pub struct StoppedPlans<'m>(&'m Manager);

impl<'m> StoppedPlans<'m> {
    /// Returns the interface for a cluster of which only the primaries are open.
    pub fn of(manager: &'m Manager) -> Self {
        Self(manager)
    }

    /// Plans a rebalance for the map in the files, which must have the expected epoch. A shard
    /// without a majority of following replicas does not prevent the plan: the replicas
    /// follow again once a router runs.
    ///
    /// # Errors
    /// [`RebalancesError`].
    pub async fn plan(
        self,
        draft: &RebalanceDraft,
        expected_epoch: Option<u64>,
        deadline: Instant,
    ) -> Result<PlanView, RebalancesError> {
        let plans = RebalancePlans::of(self.0);
        let mut planned = plans.planned(draft, expected_epoch, deadline).await?;
        planned.refusals.retain(|refusal| !matches!(refusal, MovesError::NoMajority { .. }));
        shown(self.0, &planned).await
    }
}
