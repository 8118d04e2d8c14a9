//! Coverage: checks that the answers of several shards together contain the rows of every slot, and
//! of no slot twice.
//!
//! Each answer comes from one snapshot of its shard, and the snapshots belong to different moments.
//! If the owner of a slot changes between these moments, both shards may have shown the rows of the
//! slot, or neither.
//!
//! **Invariant:** answers are complete only if each slot that the read wants is in exactly one of
//! them, or its shard is reported as missing.
//! **Not here:** repeating a read whose answers are not complete (`scatter`).

use std::collections::BTreeSet;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use model::keyspace::Slot;
use model::slot_set::SlotSet;
use model::topology::ShardNumber;

/// A shard, and the slots whose rows its answer contains.
pub(super) type Shown = (ShardNumber, Arc<SlotSet>);

/// Result of a check.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Coverage {
    /// The answers can be merged.
    Complete,
    /// Several shards have shown the same slots.
    Overlap {
        /// The shards that have shown them.
        shards: Vec<ShardNumber>,
        /// The slots that were shown more than once.
        slots: SlotSet,
    },
    /// No shard has shown this slot.
    Gap(Slot),
    /// Replicas of these shards have shown slots that belong to other shards, as far as this
    /// process knows. Either the shards own the slots by now, or the replicas lag and show outdated
    /// rows: they have not applied yet that their shard gave the slots away, and the slots are
    /// returning to it.
    Doubtful(Vec<ShardNumber>),
}

/// Last combination of answers that was found to be complete, and the epoch of the map by which
/// their shards owned these slots. Slot sets are compared by their contents, because each node has
/// its own copy of a set; on PostgreSQL, each session has one.
#[derive(Default)]
pub(crate) struct KnownCoverage(ArcSwapOption<(u64, Vec<Shown>)>);

impl KnownCoverage {
    /// Returns true if these answers show the same slots as the last complete combination, and the
    /// map has the same epoch.
    pub(super) fn knows(&self, epoch: u64, shown: &[Shown]) -> bool {
        self.0.load().as_ref().is_some_and(|last| {
            let (known_epoch, known) = &**last;
            let pairs = known.iter().zip(shown);
            *known_epoch == epoch
                && known.len() == shown.len()
                && pairs.into_iter().all(|(known, now)| known == now)
        })
    }

    /// Remembers a complete combination, under the map of this epoch.
    pub(super) fn remember(&self, epoch: u64, shown: Vec<Shown>) {
        self.0.store(Some(Arc::new((epoch, shown))));
    }
}

/// Checks which of the wanted slots the answers show. `is_missing` is called for a slot that no
/// answer shows, and returns true if its shard is reported as missing.
pub(super) fn check(
    shown: &[Shown],
    wanted: &SlotSet,
    is_missing: impl Fn(Slot) -> bool,
) -> Coverage {
    let (mut all, mut twice) = (SlotSet::empty(), SlotSet::empty());
    for (_, set) in shown {
        if !all.is_disjoint(set) {
            twice.unite(&set.without(&set.without(&all)));
        }
        all.unite(set);
    }
    // A slot that the read does not want may be shown twice.
    let twice = twice.without(&twice.without(wanted));
    if !twice.is_empty() {
        let concerned = shown.iter().filter(|(_, set)| !set.is_disjoint(&twice));
        let shards = concerned.map(|(shard, _)| *shard).collect();
        return Coverage::Overlap { shards, slots: twice };
    }
    let gap = wanted.without(&all);
    match gap.is_empty() {
        true => Coverage::Complete,
        false => {
            gap.iter().find(|slot| !is_missing(*slot)).map_or(Coverage::Complete, Coverage::Gap)
        }
    }
}

/// Returns the shards that have shown a wanted slot which belongs to another shard. `owner` returns
/// the owner of a slot, as far as this process knows.
pub(super) fn foreign(
    shown: &[Shown],
    wanted: &SlotSet,
    owner: impl Fn(Slot) -> ShardNumber,
) -> Vec<ShardNumber> {
    let is_foreign = |(shard, set): &&Shown| {
        wanted.iter().any(|slot| set.contains(slot) && owner(slot) != *shard)
    };
    shown.iter().filter(is_foreign).map(|(shard, _)| *shard).collect()
}

/// Returns those of `shards` that own none of `slots` any more. `newer` returns the present owner
/// of a slot, if it is known. If an owner is not known, or each of the shards still owns one of the
/// slots, returns all `shards`.
pub(super) fn older_owners(
    mut shards: Vec<ShardNumber>,
    slots: &SlotSet,
    newer: impl Fn(Slot) -> Option<ShardNumber>,
) -> Vec<ShardNumber> {
    let owners: Option<BTreeSet<ShardNumber>> = slots.iter().map(newer).collect();
    let is_older = |shard: &ShardNumber| owners.as_ref().is_some_and(|new| !new.contains(shard));
    if shards.iter().any(is_older) {
        shards.retain(is_older);
    }
    shards
}

#[cfg(test)]
mod tests {
    use model::keyspace::SLOT_COUNT;

    use super::*;

    const NONE: fn(Slot) -> bool = |_| false;

    fn slots(first: u16, last: u16) -> Arc<SlotSet> {
        Arc::new((first..=last).filter_map(Slot::new).collect())
    }

    fn answers(sets: &[&Arc<SlotSet>]) -> Vec<Shown> {
        (0..).map(ShardNumber).zip(sets).map(|(shard, set)| (shard, Arc::clone(set))).collect()
    }

    #[test]
    fn answers_are_complete_if_each_slot_is_shown_once() {
        let (low, high) = (slots(0, 99), slots(100, SLOT_COUNT - 1));
        let late = slots(101, SLOT_COUNT - 1);
        let full = SlotSet::full();
        assert_eq!(check(&answers(&[&low, &high]), &full, NONE), Coverage::Complete);
        let gap = Slot::new(100).expect("a slot");
        assert_eq!(check(&answers(&[&low, &late]), &full, NONE), Coverage::Gap(gap));
        let missing = |slot| slot == gap;
        assert_eq!(check(&answers(&[&low, &late]), &full, missing), Coverage::Complete);
        let twice = answers(&[&low, &late, &slots(90, 100)]);
        let shards = vec![ShardNumber(0), ShardNumber(2)];
        let overlap = Coverage::Overlap { shards, slots: (*slots(90, 99)).clone() };
        assert_eq!(check(&twice, &full, NONE), overlap);
        assert_eq!(check(&twice, &slots(100, 200), NONE), Coverage::Complete);
    }

    #[test]
    fn the_older_owners_are_those_whose_slots_have_another_owner_now() {
        let [first, second, third] = [0, 1, 2].map(ShardNumber);
        let all = || vec![first, second, third];
        let older =
            |newer: &dyn Fn(Slot) -> Option<ShardNumber>| older_owners(all(), &slots(0, 9), newer);
        assert_eq!(older(&|_| Some(second)), [first, third]);
        assert_eq!(older(&|_| None), all());
        assert_eq!(older(&|slot| (slot.number() > 0).then_some(second)), all());
        let each = |slot: Slot| Some(ShardNumber(slot.number() % 3));
        assert_eq!(older(&each), all(), "slots went both ways");
    }

    #[test]
    fn an_answer_is_foreign_if_it_shows_a_wanted_slot_of_another_shard() {
        let (low, high) = (slots(0, 99), slots(100, SLOT_COUNT - 1));
        let answers = answers(&[&low, &high]);
        let owner = |slot: Slot| ShardNumber(u16::from(slot.number() >= 90));
        let found = |wanted: &SlotSet| foreign(&answers, wanted, owner);
        assert_eq!(found(&SlotSet::full()), [ShardNumber(0)]);
        assert_eq!(found(&slots(0, 89)), []);
        assert_eq!(found(&high), []);
    }

    #[test]
    fn a_known_combination_is_one_of_equal_sets() {
        let (low, high) = (slots(0, 99), slots(100, SLOT_COUNT - 1));
        let known = KnownCoverage::default();
        assert!(!known.knows(1, &answers(&[&low, &high])));
        known.remember(1, answers(&[&low, &high]));
        assert!(known.knows(1, &answers(&[&low, &high])));
        assert!(!known.knows(2, &answers(&[&low, &high])), "another map may name other owners");
        assert!(!known.knows(1, &answers(&[&low])));
        assert!(!known.knows(1, &answers(&[&low, &slots(101, SLOT_COUNT - 1)])));
        let copy = slots(100, SLOT_COUNT - 1);
        assert!(known.knows(1, &answers(&[&low, &copy])), "sets of other sessions are copies");
    }
}
