//! Slot plan: computes the moves of slots that bring the shards to a goal.
//!
//! A plan may be stopped after any of its moves, and no slot moves twice. In a plan by number of
//! slots, shards give only their excess and take only what they lack, so each move is an
//! improvement whether or not the others are carried out. If a plan that carries out an advice is
//! stopped after any of its moves, the fullest shard is not fuller than it was before the first
//! one. The moves of a plan for a placement bring each slot to the owner that the placement gives
//! it, whatever the effect on the load.
//!
//! **Invariant:** no move fills a shard beyond its goal, or leaves the shard that gives with less
//! than its goal; the number of slots in one move is limited, and all of them have the same owner.
//! **Not here:** carrying out a plan (`cluster`), the choice of slots by load or size
//! (`advice::load_plan`). No I/O, no clock, no `async`.

pub mod by_group;
mod drain;
mod even;
pub mod pace;
pub mod paper;
mod steps;
mod waves;

use crate::advice::{Advice, BalanceBy, ShardSize};
use crate::keyspace::{SLOT_COUNT, Slot};
use crate::placement::{Placement, PlacementError, contradiction};
use crate::shard_map::ShardMap;
use crate::shard_map::partitions::divided_partition;
use crate::slot_set::SlotSet;
use crate::table_group::GroupNumber;
use crate::topology::{ShardNumber, ShardState, Topology};

use self::pace::MovePace;
use self::steps::Transfers;
use self::waves::waves;

/// A plan for a placement gets a note if it moves more than this many times the number of slots
/// that the weights require.
const COSTLY: usize = 2;

/// Goal that a plan is to reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanGoal {
    /// Each shard has a number of slots in proportion to its weight.
    Slots,
    /// Each shard has bytes or requests in proportion to its weight, as far as the advice finds
    /// moves for that.
    Balance(BalanceBy),
    /// Each slot has the owner that this placement gives it.
    Placement(Placement),
    /// The given shard has no slots left.
    Drain(ShardNumber),
}

impl PlanGoal {
    /// Returns the name in the catalog, in requests and in responses.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Slots => "slots",
            Self::Balance(balance_by) => balance_by.name(),
            Self::Placement(_) => "placement",
            Self::Drain(_) => "drain",
        }
    }
}

/// State of a cluster for which a plan is computed.
#[derive(Clone, Copy, Debug)]
pub struct PlanScene<'s> {
    /// The shards.
    pub topology: &'s Topology,
    /// Owner of every slot, in slot order.
    pub owners: &'s [ShardNumber],
    /// Slots that are already being moved. A plan leaves them where they are, unless their shard is
    /// to be drained.
    pub moving: &'s SlotSet,
    /// Size of each shard, indexed by shard number; a shard beyond the end of the slice has an
    /// unknown size.
    pub sizes: &'s [ShardSize],
    /// Maximum number of slots in one move.
    pub slots_max: usize,
}

/// Moves of slots that reach a goal.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SlotPlan {
    /// Moves, in the order in which they should begin.
    pub steps: Vec<PlanStep>,
    /// Skew before the first move: the number of slots of the fullest shard as a multiple of its
    /// fair share, or its requests or bytes in a plan of an advice. Shards whose fair share is zero
    /// are left out.
    pub skew_before: f64,
    /// Skew after the last move.
    pub skew_planned: f64,
    /// Minimum number of slots that have to move so that each shard has its share of the slots. In
    /// a drain it is the number of slots of the drained shard.
    pub needed: usize,
    /// The members of the cluster, in order.
    pub shards: Vec<PlanShard>,
    /// Note for the operator, as a sentence.
    pub note: Option<String>,
}

/// Slots that move together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanStep {
    /// Owner now.
    pub from: ShardNumber,
    /// Owner after the move.
    pub to: ShardNumber,
    /// The slots.
    pub slots: SlotSet,
    /// Approximate number of rows that move, from the mean number of rows per slot of the shard
    /// `from`. It is rounded so that the rounding errors of the moves of a shard do not add up.
    pub rows: Option<u64>,
    /// Approximate number of bytes that move, estimated and rounded like `rows`.
    pub bytes: Option<u64>,
}

/// Number of slots of a shard before and after a plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlanShard {
    /// The shard.
    pub shard: ShardNumber,
    /// Number of slots of the shard before the plan.
    pub slots: usize,
    /// Number of slots of the shard after the plan.
    pub slots_after: usize,
    /// Exact share of the slots by the weight of the shard, as a number of slots.
    pub fair_slots: f64,
}

/// Reason why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanFault {
    /// No shard may receive the slots.
    #[error("no serving shard that could own the slots has a weight above 0: give one a weight")]
    NoTaker,
    /// No shard of a table group may receive the slots of the group.
    #[error("group {group} has no serving shard with a weight above 0 that could own its slots")]
    NoTakerOfGroup {
        /// Name of the group.
        group: String,
    },
    /// The placement does not fit the shards.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// The placement does not fit the keyspace.
    #[error("{0}")]
    Keyspace(String),
    /// The placement gives slots to a shard that is not serving.
    #[error("the placement gives slots to {shard}, which is {}", state.name())]
    NotServing {
        /// Name of the shard.
        shard: String,
        /// State of the shard.
        state: ShardState,
    },
    /// The shard cannot be drained in its present state.
    #[error("{shard} is {}: a serving shard is drained", state.name())]
    NotDrainable {
        /// Name of the shard.
        shard: String,
        /// State of the shard.
        state: ShardState,
    },
}

/// Plans the moves after which each shard has a number of slots in proportion to its weight.
///
/// # Errors
/// [`PlanFault::NoTaker`] if no serving shard has a weight above 0.
pub fn plan_by_slots(scene: &PlanScene<'_>) -> Result<SlotPlan, PlanFault> {
    let weights = serving_weights(scene.topology, None)?;
    let desired = even::desired(scene.topology, scene.owners, scene.moving);
    let mut plan = scene.plan(&desired, &weights);
    let left = plan.needed - plan.slots();
    if left > 0 {
        plan.note = Some(format!(
            "{left} more slots have to move, but move already: plan again when those moves have ended"
        ));
    }
    Ok(plan)
}

/// Plans the moves after which each slot has the owner that a placement gives it.
///
/// # Errors
/// [`PlanFault`] if the placement does not fit the shards or the keyspace.
pub fn plan_by_placement(
    scene: &PlanScene<'_>,
    map: &ShardMap,
    placement: &Placement,
) -> Result<SlotPlan, PlanFault> {
    let weights = serving_weights(scene.topology, None)?;
    let wanted = ShardMap::first(map.keyspace().clone(), placement.clone(), scene.topology.clone());
    let wanted = wanted?;
    let contradiction = contradiction(map.keyspace(), placement);
    if let Some(contradiction) =
        contradiction.or_else(|| divided_partition(&wanted, GroupNumber::MAIN))
    {
        return Err(PlanFault::Keyspace(contradiction));
    }
    let mut desired: Vec<ShardNumber> = wanted.owners().map(|owner| owner.shard).collect();
    for number in &desired {
        let shard = &scene.topology.shards()[number.index()];
        if shard.state != ShardState::Serving {
            let (shard, state) = (shard.name.clone(), shard.state);
            return Err(PlanFault::NotServing { shard, state });
        }
    }
    scene.keep_moving(&mut desired);
    let mut plan = scene.plan(&desired, &weights);
    plan.note = costly(placement, plan.slots(), plan.needed);
    Ok(plan)
}

/// Plans the moves that leave a shard without slots. No slot moves between the other shards.
///
/// # Errors
/// [`PlanFault::NoTaker`] if no other serving shard has a weight above 0,
/// [`PlanFault::NotDrainable`] if the shard is neither serving nor draining.
pub fn plan_drain(scene: &PlanScene<'_>, drained: ShardNumber) -> Result<SlotPlan, PlanFault> {
    let spec = &scene.topology.shards()[drained.index()];
    if !matches!(spec.state, ShardState::Serving | ShardState::Draining) {
        let (shard, state) = (spec.name.clone(), spec.state);
        return Err(PlanFault::NotDrainable { shard, state });
    }
    let weights = serving_weights(scene.topology, Some(drained))?;
    let desired = drain::desired(scene.owners, &weights, drained);
    let plan = scene.plan(&desired, &weights);
    Ok(SlotPlan { needed: plan.slots(), ..plan })
}

/// Returns the plan that carries out an advice. Slots that are already being moved are left out.
pub fn plan_of_advice(scene: &PlanScene<'_>, advice: &Advice) -> SlotPlan {
    let mut desired = scene.owners.to_vec();
    let mut parts = Vec::new();
    for wave in waves(&advice.moves) {
        let before = desired.clone();
        for moved in wave {
            for &(first, last) in &moved.ranges {
                desired[usize::from(first)..=usize::from(last)].fill(moved.to);
            }
        }
        scene.keep_moving(&mut desired);
        parts.extend(Transfers::between(&before, &desired).parts(scene.slots_max));
    }
    let plan = scene.plan(&desired, &scene.topology.share_weights());
    SlotPlan {
        steps: scene.steps(parts),
        skew_before: advice.skew,
        skew_planned: advice.skew_after,
        note: Some(advice.because.clone()),
        ..plan
    }
}

impl SlotPlan {
    /// Returns the total number of slots that move.
    pub fn slots(&self) -> usize {
        self.steps.iter().map(|step| step.slots.len()).sum()
    }

    /// Returns the approximate number of rows that move; `None` if it is not known for one of the
    /// moves.
    pub fn rows(&self) -> Option<u64> {
        self.steps.iter().map(|step| step.rows).sum()
    }

    /// Returns the approximate number of bytes that move; `None` if it is not known for one of the
    /// moves.
    pub fn bytes(&self) -> Option<u64> {
        self.steps.iter().map(|step| step.bytes).sum()
    }

    /// Returns the approximate duration of all moves at this pace, in seconds; `None` if the number
    /// of bytes is not known.
    pub fn seconds(&self, pace: MovePace) -> Option<f64> {
        let all = pace.seconds(self.bytes()?, self.steps.len()) / pace.at_a_time as f64;
        // At any time, a shard gives slots in at most one move and receives slots in at most one.
        // So the busiest shard may need longer than the average.
        let shards = self.shards.iter().map(|shard| shard.shard);
        let busiest = shards.map(|shard| {
            let sum = |is_part: fn(&PlanStep, ShardNumber) -> bool| {
                let steps = || self.steps.iter().filter(|step| is_part(step, shard));
                pace.seconds(steps().filter_map(|step| step.bytes).sum(), steps().count())
            };
            sum(|step, shard| step.from == shard).max(sum(|step, shard| step.to == shard))
        });
        Some(busiest.fold(all, f64::max))
    }
}

impl PlanScene<'_> {
    /// Restores the present owners of the slots that are already being moved, so that the plan does
    /// not move them.
    fn keep_moving(&self, desired: &mut [ShardNumber]) {
        for slot in self.moving.iter().map(Slot::index) {
            desired[slot] = self.owners[slot];
        }
    }

    /// Returns the plan whose moves give the slots these owners.
    fn plan(&self, desired: &[ShardNumber], weights: &[u32]) -> SlotPlan {
        let counts = |owners: &[ShardNumber]| {
            let mut counts = vec![0_usize; self.topology.len()];
            owners.iter().for_each(|owner| counts[owner.index()] += 1);
            counts
        };
        let (before, after) = (counts(self.owners), counts(desired));
        let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        let shard = |number: ShardNumber| PlanShard {
            shard: number,
            slots: before[number.index()],
            slots_after: after[number.index()],
            fair_slots: f64::from(SLOT_COUNT) * f64::from(weights[number.index()]) / total,
        };
        let even = even::desired(self.topology, self.owners, &SlotSet::empty());
        let needed = even.iter().zip(self.owners).filter(|(after, before)| after != before);
        SlotPlan {
            steps: self.steps(Transfers::between(self.owners, desired).parts(self.slots_max)),
            skew_before: skew(&before, weights),
            skew_planned: skew(&after, weights),
            needed: needed.count(),
            shards: self.topology.numbers().map(shard).collect(),
            note: None,
        }
    }

    /// Returns a move for each part, with its approximate size.
    fn steps(&self, parts: Vec<(ShardNumber, ShardNumber, SlotSet)>) -> Vec<PlanStep> {
        let mut counts = vec![0_u64; self.topology.len()];
        self.owners.iter().for_each(|owner| counts[owner.index()] += 1);
        // Each size is the difference of two rounded running sums, so that the sizes of the moves
        // of a shard add up exactly to the size of all slots that it gives.
        let part = |shard: ShardNumber, whole: Option<u64>, (before, after): (usize, usize)| {
            let count = u128::from(counts[shard.index()].max(1));
            let share =
                |whole: u64, slots: usize| (u128::from(whole) * slots as u128 / count) as u64;
            whole.map(|whole| share(whole, after) - share(whole, before))
        };
        let mut given = vec![0_usize; self.topology.len()];
        let step = |(from, to, slots): (ShardNumber, ShardNumber, SlotSet)| {
            let size = self.sizes.get(from.index()).copied().unwrap_or_default();
            let before = given[from.index()];
            let after = before + slots.len();
            given[from.index()] = after;
            let rows = part(from, size.rows, (before, after));
            let bytes = part(from, size.bytes, (before, after));
            PlanStep { from, to, slots, rows, bytes }
        };
        parts.into_iter().map(step).collect()
    }
}

/// Returns the weights by which slots are distributed, indexed by shard number: those of serving
/// shards, and 0 for all other shards and for the shard `leaves`.
fn serving_weights(
    topology: &Topology,
    leaves: Option<ShardNumber>,
) -> Result<Vec<u32>, PlanFault> {
    let weight = |(number, shard): (ShardNumber, &crate::topology::ShardSpec)| {
        let takes = shard.state == ShardState::Serving && Some(number) != leaves;
        if takes { shard.weight } else { 0 }
    };
    let numbered = (0..).map(ShardNumber).zip(topology.shards());
    let weights: Vec<u32> = numbered.map(weight).collect();
    if weights.iter().any(|weight| *weight > 0) { Ok(weights) } else { Err(PlanFault::NoTaker) }
}

/// Returns the skew of these numbers of slots: that of the fullest shard as a multiple of its fair
/// share. Only shards with a weight above 0 and their slots count. The skew is 1 if they have no
/// slots.
pub fn skew(counts: &[usize], weights: &[u32]) -> f64 {
    let with_weight = || counts.iter().zip(weights).filter(|(_, weight)| **weight > 0);
    let slots: f64 = with_weight().map(|(count, _)| *count as f64).sum();
    let total: f64 = with_weight().map(|(_, weight)| f64::from(*weight)).sum();
    if slots == 0.0 {
        return 1.0;
    }
    with_weight()
        .map(|(count, weight)| *count as f64 * total / (slots * f64::from(*weight)))
        .fold(0.0, f64::max)
}

/// Returns a note about a placement that moves many more slots than the weights require; `None` if
/// it does not.
fn costly(placement: &Placement, slots: usize, needed: usize) -> Option<String> {
    if slots <= needed * COSTLY || slots == 0 {
        return None;
    }
    let percent = 100.0 * slots as f64 / f64::from(SLOT_COUNT);
    Some(format!(
        "placement {} moves {slots} of {SLOT_COUNT} slots ({percent:.0} %); by slots, {needed} \
         would move, with the same effect on the number of slots of each shard",
        placement.name()
    ))
}

#[cfg(test)]
mod tests;
