//! Room: checks that the shards which receive slots have enough disk space for the moves of a plan.
//! If all shards are files on one machine, they share one disk.
//!
//! **Invariant:** if a size or the free space is not known, no move is refused because of it.
//! **Not here:** the check of a single move, when it begins (`moves`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use engine::ReplicaIsolation;
use futures_util::future::join_all;
use model::shard_map::ShardMap;
use model::slot_plan::SlotPlan;
use model::topology::ShardNumber;

use crate::manager::move_resources::nodes_of_disk;
use crate::manager::{Manager, MovesError};

/// Longest wait for the responses of the primaries.
const MEASURE_MAX: Duration = Duration::from_secs(2);

/// Disk on which a shard stores its rows.
#[derive(Clone, Copy, Debug)]
struct Disk {
    /// Free bytes.
    free: u64,
    /// Number of nodes of the shard that store their copy of the rows on this disk.
    nodes: usize,
}

/// Disk space that a plan needs on one disk.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DiskNeed {
    /// Shards on this disk that receive rows.
    shards: Vec<ShardNumber>,
    /// Estimated size in bytes of all rows that these shards receive, counted once for each of
    /// their nodes on this disk.
    needed: u64,
    /// Free bytes.
    free: u64,
}

impl DiskNeed {
    /// Returns the combined need of two shards that share a disk.
    fn with(mut self, mut other: Self) -> Self {
        self.shards.append(&mut other.shards);
        let (needed, free) = (self.needed.saturating_add(other.needed), self.free.min(other.free));
        Self { needed, free, ..self }
    }
}

/// Returns a refusal for each disk that has too little space for all rows that its shards receive.
pub(super) async fn refusals(
    manager: &Manager,
    plan: &SlotPlan,
    map: &ShardMap,
    deadline: Instant,
) -> Vec<MovesError> {
    let takers: BTreeSet<ShardNumber> = plan.steps.iter().map(|step| step.to).collect();
    let soon = deadline.min(Instant::now() + MEASURE_MAX);
    let disks = takers.into_iter().map(async |number| {
        let shard = manager.shards().find(number)?;
        let free = shard.primary().moves()?.free_bytes(soon).await.ok()??;
        Some((number, Disk { free, nodes: nodes_of_disk(manager, &shard) }))
    });
    let disks = join_all(disks).await.into_iter().flatten();
    let disks: BTreeMap<ShardNumber, Disk> = disks.collect();
    let refusal = |DiskNeed { shards, needed, free }: DiskNeed| {
        let names: Vec<&str> = shards.iter().map(|shard| map.topology().name(*shard)).collect();
        MovesError::NoRoom { shard: names.join(", "), needed, free }
    };
    let is_shared = manager.backend.isolation() == ReplicaIsolation::SameMachine;
    let shortages = shortages(plan, is_shared, |shard| disks.get(&shard).copied());
    shortages.into_iter().map(refusal).collect()
}

/// Returns the disks that have too little space. `is_shared` is true if all shards share one disk.
fn shortages(
    plan: &SlotPlan,
    is_shared: bool,
    disk: impl Fn(ShardNumber) -> Option<Disk>,
) -> Vec<DiskNeed> {
    let mut taken: BTreeMap<ShardNumber, u64> = BTreeMap::new();
    for step in &plan.steps {
        let bytes = taken.entry(step.to).or_default();
        *bytes = bytes.saturating_add(step.bytes.unwrap_or_default());
    }
    let needs = taken.into_iter().filter_map(|(shard, bytes)| {
        let Disk { free, nodes } = disk(shard)?;
        let needed = bytes.saturating_mul(nodes as u64);
        (needed > 0).then_some(DiskNeed { shards: vec![shard], needed, free })
    });
    let mut disks: Vec<DiskNeed> = if is_shared {
        needs.reduce(DiskNeed::with).into_iter().collect()
    } else {
        needs.collect()
    };
    disks.retain(|disk| disk.needed > disk.free);
    disks
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

    fn plan(steps: Vec<PlanStep>) -> SlotPlan {
        SlotPlan {
            steps,
            skew_before: 1.0,
            skew_planned: 1.0,
            needed: 0,
            shards: Vec::new(),
            note: None,
        }
    }

    fn disk(free: u64, nodes: usize) -> impl Fn(ShardNumber) -> Option<Disk> {
        move |_| Some(Disk { free, nodes })
    }

    #[test]
    fn a_plan_needs_room_for_all_of_its_moves_to_a_shard_on_each_node() {
        let steps = vec![step(1, Some(40)), step(2, Some(40)), step(1, Some(20)), step(3, None)];
        let plan = plan(steps);
        let first = DiskNeed { shards: vec![ShardNumber(1)], needed: 120, free: 119 };
        assert_eq!(shortages(&plan, false, disk(119, 2)), [first], "each move alone would fit");
        assert_eq!(shortages(&plan, false, disk(120, 2)), []);
        assert_eq!(shortages(&plan, false, disk(7, 1)).len(), 2, "unknown bytes need no room");
        for is_shared in [false, true] {
            let unknown = shortages(&plan, is_shared, |_| None);
            assert_eq!(unknown, [], "an unknown disk refuses nothing");
        }
    }

    #[test]
    fn shards_on_one_disk_need_room_for_the_rows_of_all_of_them() {
        let plan = plan(vec![step(2, Some(40)), step(3, Some(40)), step(4, None)]);
        let shards = vec![ShardNumber(2), ShardNumber(3)];
        let both = DiskNeed { shards, needed: 80, free: 79 };
        assert_eq!(shortages(&plan, true, disk(79, 1)), [both], "each shard alone would fit");
        assert_eq!(shortages(&plan, true, disk(80, 1)), []);
        assert_eq!(shortages(&plan, false, disk(79, 1)), [], "each has a disk of its own");
    }
}
