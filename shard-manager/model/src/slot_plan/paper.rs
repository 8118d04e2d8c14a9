//! Paper: computes the plan for a hypothetical cluster, with the amount of data that its moves
//! would copy.
//!
//! **Invariant:** the numbers are those of the plan by slots that a real cluster of this size would
//! get.
//! **Not here:** parsing the command (`cli`).

use super::{PlanFault, PlanScene, SlotPlan, plan_by_slots};
use crate::advice::ShardSize;
use crate::placement::Placement;
use crate::slot_set::SlotSet;
use crate::topology::{ShardSpec, Topology, TopologyError};

/// Hypothetical cluster with shards of equal weight, to which more shards are added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HypotheticalCluster {
    /// Number of shards before the others are added.
    pub shards: usize,
    /// Number of shards that are added.
    pub add: usize,
    /// Number of bytes of all rows of the cluster.
    pub bytes: u64,
}

/// Reason why a hypothetical cluster has no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PaperFault {
    /// The number of shards is 0, or too high.
    #[error("shards and add: {0}")]
    Shards(#[from] TopologyError),
    /// No plan can be computed for the shards.
    #[error(transparent)]
    Plan(#[from] PlanFault),
}

impl HypotheticalCluster {
    /// Plans the moves that give the added shards their share of the slots.
    ///
    /// # Errors
    /// [`PaperFault`] if the number of shards is 0 or too high, or no plan can be computed.
    pub fn plan(&self, slots_max: usize) -> Result<SlotPlan, PaperFault> {
        let spec = |number: usize| ShardSpec::new(format!("shard{number}"), 1);
        let all = self.shards.saturating_add(self.add);
        // The number is checked before a vector of this length is allocated.
        let most = Topology::SIMULATED_SHARDS_MAX;
        if self.shards == 0 || all > most {
            let count = if self.shards == 0 { 0 } else { all };
            return Err(TopologyError::Count { count, most }.into());
        }
        let shards: Vec<ShardSpec> = (1..=all).map(spec).collect();
        let before = Topology::simulated(shards[..self.shards].to_vec())?;
        let owners = Placement::Even.assign(&before).map_err(PlanFault::from)?;
        let each = ShardSize { rows: None, bytes: Some(self.bytes / self.shards as u64) };
        let scene = PlanScene {
            topology: &Topology::simulated(shards)?,
            owners: &owners,
            moving: &SlotSet::empty(),
            sizes: &vec![each; self.shards],
            slots_max,
        };
        Ok(plan_by_slots(&scene)?)
    }
}
