//! Room: the disk space that the moves of a plan need on the shards that take slots.
//!
//! **Invariant:** a size that is not known refuses nothing.
//! **Not here:** the check of a single move, when it begins (`moves`).

use std::collections::BTreeMap;

use model::shard_map::ShardMap;
use model::slot_plan::SlotPlan;
use model::topology::ShardNumber;

use crate::manager::{Manager, MovesError};
use crate::shard::PrimaryMoves;

/// Disk of a shard.
#[derive(Clone, Copy, Debug)]
struct Disk {
    /// Free bytes.
    free: u64,
    /// Number of nodes of the shard, each of which stores the rows.
    nodes: usize,
}

/// Shard whose disk has too little room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shortage {
    shard: ShardNumber,
    /// Estimated bytes of all rows that it takes, on all of its nodes.
    needed: u64,
    /// Free bytes.
    free: u64,
}

/// Returns a refusal for each shard whose disk has too little room for all rows that it takes.
pub(super) fn refusals(manager: &Manager, plan: &SlotPlan, map: &ShardMap) -> Vec<MovesError> {
    let disk = |number: ShardNumber| {
        let shard = manager.shards().find(number)?;
        let free = shard.primary().moves().map(PrimaryMoves::reader)?.free_bytes()?;
        Some(Disk { free, nodes: 1 + shard.replication.timeline().replica_count() })
    };
    let refusal = |Shortage { shard, needed, free }: Shortage| MovesError::NoRoom {
        shard: map.topology().name(shard).to_owned(),
        needed,
        free,
    };
    shortages(plan, disk).into_iter().map(refusal).collect()
}

fn shortages(plan: &SlotPlan, disk: impl Fn(ShardNumber) -> Option<Disk>) -> Vec<Shortage> {
    let mut taken: BTreeMap<ShardNumber, u64> = BTreeMap::new();
    for step in &plan.steps {
        let bytes = taken.entry(step.to).or_default();
        *bytes = bytes.saturating_add(step.bytes.unwrap_or_default());
    }
    let shortages = taken.into_iter().filter_map(|(shard, bytes)| {
        let Disk { free, nodes } = disk(shard)?;
        let needed = bytes.saturating_mul(nodes as u64);
        (needed > free).then_some(Shortage { shard, needed, free })
    });
    shortages.collect()
}

#[cfg(test)]
mod tests {
    use model::slot_plan::PlanStep;
    use model::slot_set::SlotSet;

    use super::*;

    fn step(to: u16, bytes: Option<u64>) -> PlanStep {
        let (from, to) = (ShardNumber(0), ShardNumber(to));
        PlanStep { from, to, slots: SlotSet::empty(), rows: None, bytes }
    }

    #[test]
    fn a_plan_needs_room_for_all_of_its_moves_to_a_shard_on_each_node() {
        let steps = vec![step(1, Some(40)), step(2, Some(40)), step(1, Some(20)), step(3, None)];
        let plan = SlotPlan {
            steps,
            skew_before: 1.0,
            skew_planned: 1.0,
            needed: 0,
            shards: Vec::new(),
            note: None,
        };
        let disk = |free: u64, nodes: usize| move |_: ShardNumber| Some(Disk { free, nodes });
        let first = Shortage { shard: ShardNumber(1), needed: 120, free: 119 };
        assert_eq!(shortages(&plan, disk(119, 2)), [first], "each move alone would fit");
        assert_eq!(shortages(&plan, disk(120, 2)), []);
        assert_eq!(shortages(&plan, disk(7, 1)).len(), 2, "unknown bytes need no room");
        assert_eq!(shortages(&plan, |_| None), [], "an unknown disk refuses nothing");
    }
}
