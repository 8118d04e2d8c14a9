//! Stopped: plans of rebalances of a cluster that no router serves.
//!
//! **Not here:** the plan (`planning`), reading the files of the cluster (`sqlite`).

use std::time::Instant;

use engine::rebalance_draft::RebalanceDraft;
use engine::rebalance_view::PlanView;

use super::planning::RebalancePlans;
use super::{RebalancesError, shown};
use crate::manager::{Manager, MovesError};

/// Plans of rebalances of a stopped cluster.
#[derive(Clone, Copy)]
pub struct StoppedPlans<'m>(&'m Manager);

impl<'m> StoppedPlans<'m> {
    /// Returns the plans of a cluster whose primaries alone are open.
    pub fn of(manager: &'m Manager) -> Self {
        Self(manager)
    }

    /// Plans a rebalance for the map of the files, which must have the expected epoch. Replicas
    /// that do not follow are not a refusal: they follow once a router runs.
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
