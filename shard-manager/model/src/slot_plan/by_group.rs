//! By group: presents each table group as if it were a separate cluster, so that it can be planned
//! by itself, and joins the plans of the groups.
//!
//! **Invariant:** a plan gives the slots of a group only to shards that may own them.
//! **Not here:** planning within a group (`slot_plan`).

use super::{PlanFault, PlanScene, PlanStep, SlotPlan};
use crate::advice::{Advice, KeyLoad, Observed, OpenMoves, ShardSize, SlotLoad};
use crate::keyspace::{SLOT_COUNT, Slot};
use crate::shard_map::{ShardMap, of_group};
use crate::slot_set::SlotSet;
use crate::table_group::GroupNumber;
use crate::topology::ShardNumber;

/// Table group of a cluster, presented as a separate cluster with slot numbers from 0.
#[derive(Clone, Debug)]
pub struct GroupScene {
    /// The group.
    pub group: GroupNumber,
    /// Map of the group, in which slots have the numbers of the group's keyspace, from 0.
    pub map: ShardMap,
    owners: Vec<ShardNumber>,
    moving: SlotSet,
    sizes: Vec<ShardSize>,
    slots_max: usize,
}

impl GroupScene {
    /// Extracts a group from the scene of the whole cluster.
    ///
    /// # Errors
    /// [`PlanFault::NoTakerOfGroup`] if none of the group's shards has a weight above 0.
    pub fn of(
        map: &ShardMap,
        scene: &PlanScene<'_>,
        group: GroupNumber,
    ) -> Result<Self, PlanFault> {
        let name = map.groups().name_of(group).to_owned();
        let own = of_group(map, group).ok_or(PlanFault::NoTakerOfGroup { group: name })?;
        let first = usize::from(group.first_slot());
        let owners = scene.owners[first..first + usize::from(SLOT_COUNT)].to_vec();
        let moving = scene.moving.iter().filter_map(|slot| group.within(slot)).collect();
        let sizes = sizes(scene, &owners);
        Ok(Self { group, map: own, owners, moving, sizes, slots_max: scene.slots_max })
    }

    /// Returns the scene of the group.
    pub fn scene(&self) -> PlanScene<'_> {
        PlanScene {
            topology: self.map.topology(),
            owners: &self.owners,
            moving: &self.moving,
            sizes: &self.sizes,
            slots_max: self.slots_max,
        }
    }

    /// Returns the moves of the group that are in progress; `None` if there are none.
    pub fn open(&self) -> Option<OpenMoves<'_>> {
        let open = OpenMoves { owners: &self.owners, moving: &self.moving };
        (!self.moving.is_empty()).then_some(open)
    }

    /// Returns the part of `all` that belongs to the group: the number of requests to each of its
    /// slots.
    pub fn load<'l>(&self, all: &'l [SlotLoad]) -> &'l [SlotLoad] {
        let first = usize::from(self.group.first_slot()).min(all.len());
        &all[first..all.len().min(first + usize::from(SLOT_COUNT))]
    }

    /// Returns those keys of `all` that are in the group's slots, with the slot numbers of the
    /// group.
    pub fn keys(&self, all: &[KeyLoad]) -> Vec<KeyLoad> {
        let own = all.iter().filter_map(|key| {
            let slot = self.group.within(key.slot)?;
            Some(KeyLoad { slot, ..key.clone() })
        });
        own.collect()
    }

    /// Returns the observations of the group.
    pub fn observed<'o>(&'o self, load: &'o [SlotLoad], keys: &'o [KeyLoad]) -> Observed<'o> {
        let first_slot = self.group.first_slot();
        let (map, sizes, open) = (&self.map, &*self.sizes, self.open());
        Observed { map, load, sizes, keys, open, first_slot }
    }

    /// Converts an advice for the group to the slot numbers of the cluster.
    pub fn with_own_numbers(&self, advice: Advice) -> Advice {
        let first = self.group.first_slot();
        let mut advice = advice;
        for moved in &mut advice.moves {
            moved.ranges.iter_mut().for_each(|range| {
                *range = (first + range.0, first + range.1);
            });
        }
        for spot in &mut advice.hot {
            spot.slot = self.group.slot(spot.slot);
        }
        for finding in &mut advice.findings {
            finding.slot = finding.slot.map(|slot| self.group.slot(slot));
        }
        advice
    }

    /// Converts a plan for the group to the slot numbers of the cluster.
    pub fn with_own_slots(&self, plan: SlotPlan) -> SlotPlan {
        let own = |slots: SlotSet| slots.iter().map(|slot| self.group.slot(slot)).collect();
        let step = |step: PlanStep| PlanStep { slots: own(step.slots), ..step };
        SlotPlan { steps: plan.steps.into_iter().map(step).collect(), ..plan }
    }
}

/// Returns the estimated size of one group on each shard: the size of the shard, multiplied by the
/// fraction of its slots that belong to the group.
fn sizes(scene: &PlanScene<'_>, owners: &[ShardNumber]) -> Vec<ShardSize> {
    let counts = |owners: &[ShardNumber]| {
        let mut counts = vec![0_u64; scene.topology.len()];
        owners.iter().for_each(|owner| counts[owner.index()] += 1);
        counts
    };
    let (all, own) = (counts(scene.owners), counts(owners));
    let sizes = scene.sizes.iter().zip(all.iter().zip(&own)).map(|(size, (all, own))| {
        let part =
            |whole: u64| (u128::from(whole) * u128::from(*own) / u128::from(*all.max(&1))) as u64;
        ShardSize { rows: size.rows.map(part), bytes: size.bytes.map(part) }
    });
    sizes.collect()
}

/// Joins the plans of all groups, each of which is given with the name of its group; `None` if
/// there are no plans. The skew of the result is the highest skew of a group.
pub fn joined(plans: Vec<(&str, SlotPlan)>) -> Option<SlotPlan> {
    let mut plans = plans.into_iter();
    let noted = |name: &str, plan: &SlotPlan| {
        plan.note.as_ref().map(|note| format!("group {name}: {note}"))
    };
    let (name, mut all) = plans.next()?;
    let mut notes: Vec<String> = noted(name, &all).into_iter().collect();
    for (name, plan) in plans {
        notes.extend(noted(name, &plan));
        all.steps.extend(plan.steps);
        all.skew_before = all.skew_before.max(plan.skew_before);
        all.skew_planned = all.skew_planned.max(plan.skew_planned);
        all.needed += plan.needed;
        for (sum, shard) in all.shards.iter_mut().zip(&plan.shards) {
            sum.slots += shard.slots;
            sum.slots_after += shard.slots_after;
            sum.fair_slots += shard.fair_slots;
        }
    }
    all.note = (!notes.is_empty()).then(|| notes.join("; "));
    Some(all)
}

/// Returns the highest skew of the number of slots among these groups.
pub fn slot_skew(map: &ShardMap, groups: impl Iterator<Item = GroupNumber>) -> f64 {
    let skews = groups.filter_map(|group| {
        let own = of_group(map, group)?;
        let mut counts = vec![0; own.topology().len()];
        own.owners().for_each(|owner| counts[owner.shard.index()] += 1);
        Some(super::skew(&counts, &own.topology().share_weights()))
    });
    skews.fold(1.0, f64::max)
}

/// Returns the groups that own slots on a shard, which are those that a drain of the shard has to
/// plan.
pub fn on_shard(map: &ShardMap, owners: &[ShardNumber], shard: ShardNumber) -> Vec<GroupNumber> {
    let slots = (0..=u16::MAX).zip(owners).filter(|(_, owner)| **owner == shard);
    let groups = slots.filter_map(|(slot, _)| Slot::new(slot).map(GroupNumber::of));
    let mut groups: Vec<GroupNumber> =
        groups.filter(|group| map.groups().get(*group).is_some()).collect();
    groups.dedup();
    groups
}
