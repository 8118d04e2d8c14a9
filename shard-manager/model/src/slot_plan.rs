//! Slot plan: the moves of slots that bring the shards to a goal, as plain values.
//!
//! A plan may end after any of its moves, and no slot moves twice. By slots, shards give only their
//! excess and take only what they lack, so each move improves the cluster regardless of the others.
//! In a plan of an advice, the fullest shard is not fuller after any number of the moves, in order,
//! than before them. The moves of a placement bring slots to their places, and nothing else.
//!
//! **Invariant:** no move gives a shard more than its goal, or leaves its giver with less; a move
//! has a limited number of slots, all of one owner.
//! **Not here:** carrying out a plan (`cluster`), the observations of load (`advice`). No I/O, no
//! clock, no `async`.

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

/// A placement that moves more than this many times the slots that weights require gets a note.
const COSTLY: usize = 2;

/// Goal of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanGoal {
    /// Each shard has the share of the slots that its weight gives it.
    Slots,
    /// Bytes or requests are shared by weight, as the advice determines.
    Balance(BalanceBy),
    /// Each slot is where this placement puts it.
    Placement(Placement),
    /// A shard has no slots.
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

/// State of a cluster for which moves are planned.
#[derive(Clone, Copy, Debug)]
pub struct PlanScene<'s> {
    /// The shards.
    pub topology: &'s Topology,
    /// Owner of every slot, in slot order.
    pub owners: &'s [ShardNumber],
    /// Slots that are already being moved. They stay, unless their shard is drained.
    pub moving: &'s SlotSet,
    /// Sizes of the shards, by number; missing ones are unknown.
    pub sizes: &'s [ShardSize],
    /// Highest number of slots in one move.
    pub slots_max: usize,
}

/// Moves of slots to a goal.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SlotPlan {
    /// The moves, in the order in which they should begin.
    pub steps: Vec<PlanStep>,
    /// Skew before the first move: the most that a shard has, as a multiple of its fair share.
    /// Shards that should have nothing do not count.
    pub skew_before: f64,
    /// Skew after the last move.
    pub skew_planned: f64,
    /// Number of slots that have to move so that each shard has its share of the slots.
    pub needed: usize,
    /// The members of the cluster, in order.
    pub shards: Vec<PlanShard>,
    /// Remark for the operator, as a sentence.
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
    /// Approximate number of rows, by the mean of the shard. The sum over the moves of a shard is
    /// rounded, not each of them.
    pub rows: Option<u64>,
    /// Approximate number of bytes, by the mean of the shard, rounded like the rows.
    pub bytes: Option<u64>,
}

/// Slots of a shard before and after a plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlanShard {
    /// The shard.
    pub shard: ShardNumber,
    /// Number of its slots before.
    pub slots: usize,
    /// Number of its slots afterwards.
    pub slots_after: usize,
    /// Number of slots that its weight gives it.
    pub fair_slots: f64,
}

/// Reason why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanFault {
    /// No shard may get slots.
    #[error("no other serving shard has a weight above 0, so none could own the slots")]
    NoTaker,
    /// No shard of a group may get slots.
    #[error(
        "group {group} has no other serving shard with a weight above 0 that could own its slots"
    )]
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
    /// The placement gives slots to a shard that may have none.
    #[error("the placement gives slots to {shard}, which is {}", state.name())]
    NotServing {
        /// Name of the shard.
        shard: String,
        /// State of the shard.
        state: ShardState,
    },
    /// The shard cannot be emptied.
    #[error("{shard} is {}: a serving shard is drained", state.name())]
    NotDrainable {
        /// Name of the shard.
        shard: String,
        /// State of the shard.
        state: ShardState,
    },
}

/// Plans the moves after which each shard has the number of slots that its weight gives it.
///
/// # Errors
/// [`PlanFault::NoTaker`].
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

/// Plans the moves to the owners that a placement gives the slots.
///
/// # Errors
/// [`PlanFault`].
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

/// Plans the moves that leave a shard without slots. No slot moves between other shards.
///
/// # Errors
/// [`PlanFault::NoTaker`], [`PlanFault::NotDrainable`].
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

/// Returns the plan that carries out an advice, except for slots that are already being moved.
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
    /// Returns the number of slots that move.
    pub fn slots(&self) -> usize {
        self.steps.iter().map(|step| step.slots.len()).sum()
    }

    /// Returns the approximate number of rows that move; `None` if it is not known.
    pub fn rows(&self) -> Option<u64> {
        self.steps.iter().map(|step| step.rows).sum()
    }

    /// Returns the approximate number of bytes that move; `None` if it is not known.
    pub fn bytes(&self) -> Option<u64> {
        self.steps.iter().map(|step| step.bytes).sum()
    }

    /// Returns the approximate number of seconds for the moves at this pace; `None` if the bytes
    /// are not known.
    pub fn seconds(&self, pace: MovePace) -> Option<f64> {
        let all = pace.seconds(self.bytes()?, self.steps.len()) / pace.at_a_time as f64;
        // A shard gives slots in at most one move at a time, and takes slots in at most one.
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
    /// Excludes slots that are already being moved from the changes.
    fn keep_moving(&self, desired: &mut [ShardNumber]) {
        for slot in self.moving.iter().map(Slot::index) {
            desired[slot] = self.owners[slot];
        }
    }

    /// Returns the plan whose moves lead to these owners.
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

    /// Returns the moves of these slots, with their approximate sizes.
    fn steps(&self, parts: Vec<(ShardNumber, ShardNumber, SlotSet)>) -> Vec<PlanStep> {
        let mut counts = vec![0_u64; self.topology.len()];
        self.owners.iter().for_each(|owner| counts[owner.index()] += 1);
        // Differences of rounded sums, so that the moves of a shard add up to its share.
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

/// Returns, by number, the weights by which slots are distributed: those of serving shards, and 0
/// for the others and for the shard `leaves`.
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

/// Returns the skew of these counts: the highest one as a multiple of its share of all slots of
/// shards with a weight. Without such slots it is 1.
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

/// Returns the remark on a placement that moves many more slots than the weights require.
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
