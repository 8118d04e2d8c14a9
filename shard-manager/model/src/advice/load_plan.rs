//! Load plan: chooses the moves of slots that reduce the load of the fullest shards.
//!
//! Each step moves slots from the fullest shard that can still give (the giver) to the shard with
//! the largest deficit (the taker), as balancers of ranges do (CockroachDB's store rebalancer, the
//! Redis Cluster rebalance). The load to move is the giver's excess or the taker's deficit,
//! whichever is less. Choosing slots for this load is a packing problem. Heavy slots are chosen
//! first, because they move the most load for the rows that must be copied (longest processing time
//! first, Graham 1969). The remaining load is filled with one run of consecutive slots, so that the
//! shard map has few ranges.
//!
//! Each step leaves both shards less full than the giver was. Therefore the list of loads, sorted
//! with the fullest first, becomes lexicographically smaller with each step: the highest load never
//! rises, and the first steps of a plan are an improvement even if the others are not carried out.
//! A slot moves at most once, and there are at most [`MOVES_MAX`] moves. If every slot is light
//! enough to fit into the load to move, each move brings the giver or the taker to its fair load,
//! so a plan needs at most as many moves as there are shards.
//!
//! **Invariant:** no move makes the fullest shard fuller, and after a move its taker is less full
//! than its giver was before it.
//! **Not here:** the decision whether anything should move (`advice`).

use std::cmp::{Ordering, Reverse};

use crate::keyspace::Slot;
use crate::slot_set::SlotSet;

/// Maximum number of moves of a plan, so that an operator can review it.
pub const MOVES_MAX: usize = 32;
/// Percentage of its fair load above which a shard begins to give slots away; it equals
/// [`super::SKEW_TOLERATED`].
const TOLERATED: u64 = 110;
/// A slot is heavy if its load exceeds the load that a step has to move, divided by this number.
/// Each heavy slot is chosen individually, so a step moves at most this many of them.
const HEAVY_PARTS: u64 = 16;
/// Limits in percent of a shard's fair load: a shard that has begun to give continues while it has
/// more than `leave`, and a shard receives slots up to `fill`. The first aim is as even as
/// possible. The second is less even: it is for clusters in which the first would take too many
/// moves, because all other shards are nearly full.
const AIMS: [Aim; 2] = [Aim { leave: 102, fill: 100 }, Aim { leave: 105, fill: 105 }];
/// Percentage of its fair load up to which a shard may be filled by one hot slot, although many
/// cool slots would distribute the load more evenly.
const HOT_FILL: u64 = 105;

/// A slot is hot if its load is at least the fair load of a shard divided by this number.
const HOT_PARTS: u64 = 10;

/// Returns true if a slot with this load is hot on a shard with this fair load.
pub(super) fn is_hot(cost: u64, fair: u64) -> bool {
    cost > 0 && u128::from(cost) * u128::from(HOT_PARTS) >= u128::from(fair)
}

#[derive(Clone, Copy)]
struct Aim {
    leave: u64,
    fill: u64,
}

/// Slots that move from one shard to another; shards are given by their index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PlannedMove {
    pub(super) from: usize,
    pub(super) to: usize,
    /// The slots, in order.
    pub(super) slots: Vec<u16>,
}

/// Plans the moves that make the load of each shard proportional to its weight, as far as whole
/// slots allow. A shard whose weight is 0 gives away all slots that have load. `owners` and `costs`
/// contain the owner and the load of each slot; the slots of `moving` stay with their owners.
///
/// One hot slot is moved instead of many cool ones if it leaves the fuller of the two shards less
/// full than the cool slots would, or at most `HOT_FILL` percent full: one slot has fewer rows to
/// copy than thousands of slots. Plans without this preference are considered only if those with it
/// leave a shard too full.
pub(super) fn plan(
    weights: &[u64],
    (owners, moving): (&[usize], &SlotSet),
    costs: &[u64],
) -> Vec<PlannedMove> {
    let best = |prefers_hot: bool| {
        let [even, loose] = AIMS.map(|aim| {
            let mut shards = Shards::new(weights, (owners, moving), costs, (aim, prefers_hot));
            let moves = shards.settle();
            (shards.fullest(), shards.is_within(shards.fullest(), TOLERATED), moves)
        });
        if compare(loose.0, even.0) == Ordering::Less { loose } else { even }
    };
    let hot = best(true);
    if hot.1 {
        return hot.2;
    }
    let cool = best(false);
    if compare(cool.0, hot.0) == Ordering::Less { cool.2 } else { hot.2 }
}

/// Load of a shard divided by its weight, as numerator and denominator. A shard of weight 0 counts
/// as fuller than any shard with a weight while it has load.
type Fullness = (u64, u64);

/// Returns the fullness of a shard. A shard without load is the least full one, even if its weight
/// is 0.
fn fullness(load: u64, weight: u64) -> Fullness {
    if (load, weight) == (0, 0) { (0, 1) } else { (load, weight) }
}

fn compare((load, weight): Fullness, (other_load, other_weight): Fullness) -> Ordering {
    if (weight, other_weight) == (0, 0) {
        return load.cmp(&other_load);
    }
    let this = u128::from(load) * u128::from(other_weight);
    this.cmp(&(u128::from(other_load) * u128::from(weight)))
}

/// Returns true if the first shard, given by load and weight, is fuller than the second.
pub(super) fn is_fuller(one: (u64, u64), other: (u64, u64)) -> bool {
    compare(fullness(one.0, one.1), fullness(other.0, other.1)) == Ordering::Greater
}

/// Candidate for the next step.
struct Choice {
    to: usize,
    slots: Vec<(u16, u64)>,
    /// Fullness of the fuller of giver and taker after the step.
    after: Fullness,
}

/// State of the shards during planning.
struct Shards {
    weights: Vec<u64>,
    loads: Vec<u64>,
    /// Slots that each shard may still give, in slot order, with their loads. Slots without load
    /// are left out, because moving them would change nothing.
    slots: Vec<Vec<(u16, u64)>>,
    /// Fair load of each shard.
    targets: Vec<u64>,
    /// For each shard, its slot that exceeds the fair load of any shard, if there is one. It stays
    /// where it is, because it would overload any other shard as well.
    pinned: Vec<Option<u16>>,
    /// True for each shard that has given slots: it continues down to the lower limit `leave`.
    giving: Vec<bool>,
    /// True for each shard that is too full, but for which no further step helps.
    stuck: Vec<bool>,
    aim: Aim,
    /// True if one hot slot is preferred to many cool ones.
    prefers_hot: bool,
}

impl Shards {
    fn new(
        weights: &[u64],
        (owners, moving): (&[usize], &SlotSet),
        costs: &[u64],
        (aim, prefers_hot): (Aim, bool),
    ) -> Self {
        let mut loads = vec![0; weights.len()];
        let mut slots = vec![Vec::new(); weights.len()];
        for ((slot, &owner), &cost) in (0..).zip(owners).zip(costs) {
            loads[owner] += cost;
            let moves = Slot::new(slot).is_some_and(|slot| moving.contains(slot));
            if cost > 0 && !moves {
                slots[owner].push((slot, cost));
            }
        }
        let count = weights.len();
        let mut shards = Self {
            weights: weights.to_vec(),
            loads,
            slots,
            targets: vec![0; count],
            pinned: vec![None; count],
            giving: vec![false; count],
            stuck: vec![false; count],
            aim,
            prefers_hot,
        };
        shards.recompute_targets();
        shards
    }

    /// Recomputes the fair loads of the shards that are not stuck. If a shard of the highest weight
    /// has a slot that exceeds its fair load, the load of that slot becomes the shard's fair load,
    /// and the others share the rest. Otherwise the fair loads of the others would include a part
    /// of a slot that cannot be split.
    fn recompute_targets(&mut self) {
        let largest = self.weights.iter().max().copied().unwrap_or(0);
        let mut open: Vec<usize> = (0..self.loads.len()).filter(|&one| !self.stuck[one]).collect();
        let stuck = (0..self.loads.len()).filter(|&one| self.stuck[one]);
        let mut load =
            self.loads.iter().sum::<u64>() - stuck.map(|one| self.loads[one]).sum::<u64>();
        loop {
            let weight: u64 = open.iter().map(|&one| self.weights[one]).sum();
            let share = |one: usize| {
                let share = u128::from(load) * u128::from(self.weights[one]);
                share.checked_div(u128::from(weight)).unwrap_or(0) as u64
            };
            // The slot of a shard with a lower weight is not pinned: it may be below the fair load
            // of a shard with a higher weight, and may move there.
            let is_outweighed = |&one: &usize| {
                let heaviest = self.heaviest(one).map_or(0, |(_, cost)| cost);
                self.weights[one] == largest && heaviest > share(one)
            };
            let Some(at) = open.iter().position(is_outweighed) else {
                let shares: Vec<_> = open.iter().map(|&one| (one, share(one))).collect();
                shares.into_iter().for_each(|(one, share)| self.targets[one] = share);
                return;
            };
            let one = open.remove(at);
            if let Some((slot, cost)) = self.heaviest(one) {
                (self.pinned[one], self.targets[one]) = (Some(slot), cost);
                load -= cost;
            }
        }
    }

    /// Returns the heaviest slot that a shard may give or that is pinned to it; of equally heavy
    /// ones, the slot with the lowest number.
    fn heaviest(&self, shard: usize) -> Option<(u16, u64)> {
        self.slots[shard].iter().copied().max_by_key(|&(slot, cost)| (cost, Reverse(slot)))
    }

    fn fullness(&self, shard: usize) -> Fullness {
        fullness(self.loads[shard], self.weights[shard])
    }

    fn fullest(&self) -> Fullness {
        let all = (0..self.loads.len()).map(|shard| self.fullness(shard));
        all.max_by(|a, b| compare(*a, *b)).unwrap_or((0, 1))
    }

    /// Returns true if a fullness is at most `percent` of the fullness that all shards would have
    /// if the load were even.
    fn is_within(&self, (load, weight): Fullness, percent: u64) -> bool {
        let (loads, weights) = (self.loads.iter().sum::<u64>(), self.weights.iter().sum::<u64>());
        let most = u128::from(loads) * u128::from(percent) * u128::from(weight);
        u128::from(load) * u128::from(weights) * 100 <= most
    }

    /// Returns true if a shard may give away a hot slot that is heavier than the load to move.
    fn has_hot(&self, from: usize, amount: u64) -> bool {
        let is_hot = |cost: u64| cost > amount && is_hot(cost, self.targets[from]);
        let mut slots = self.slots[from].iter();
        self.prefers_hot
            && slots.any(|&(slot, cost)| is_hot(cost) && self.pinned[from] != Some(slot))
    }

    /// Plans one move after the other, until no shard is too full, no further move helps, or there
    /// are [`MOVES_MAX`] moves. Returns these moves.
    fn settle(&mut self) -> Vec<PlannedMove> {
        let mut moves: Vec<PlannedMove> = Vec::new();
        while let Some(giver) = self.giver() {
            let Some(planned) = self.next_move(giver) else {
                self.stuck[giver] = true;
                self.recompute_targets();
                continue;
            };
            let full = moves.len() == MOVES_MAX;
            match moves.last_mut() {
                Some(last) if (last.from, last.to) == (planned.from, planned.to) => {
                    last.slots.extend(&planned.slots);
                    last.slots.sort_unstable();
                }
                Some(_) | None if full => break,
                Some(_) | None => moves.push(planned.clone()),
            }
            self.apply(&planned);
        }
        moves
    }

    /// Returns the fullest shard that is too full and not stuck; of equally full ones, the shard
    /// with the lowest number.
    fn giver(&self) -> Option<usize> {
        let too_full = |&shard: &usize| {
            let leave = if self.giving[shard] { self.aim.leave } else { TOLERATED };
            let most = u128::from(self.targets[shard]) * u128::from(leave);
            !self.stuck[shard] && u128::from(self.loads[shard]) * 100 > most
        };
        let both = |a: &usize, b: &usize| compare(self.fullness(*a), self.fullness(*b));
        (0..self.loads.len()).filter(too_full).rev().max_by(both)
    }

    fn next_move(&self, from: usize) -> Option<PlannedMove> {
        let takes = |shard: usize| self.weights[shard] > 0 && !self.stuck[shard];
        let others = || (0..self.loads.len()).filter(|&shard| shard != from && takes(shard));
        let to = others().max_by_key(|&shard| (self.lack(shard), Reverse(shard)))?;
        let amount = self.lack(to).min(self.loads[from] - self.targets[from]);
        let slots = self.pack(from, amount);
        let load: u64 = slots.iter().map(|(_, cost)| cost).sum();
        let packed = (load > 0).then(|| Choice { to, slots, after: self.after(from, to, load) });
        let has_hot = self.has_hot(from, amount);
        let is_enough = packed.is_some() && load >= amount / 2 && !has_hot;
        // The slots that fit may be too light, or there may be very many of them; in either case
        // one heavier slot may help more.
        let single = if is_enough { None } else { self.single(from, others()) };
        let is_better = |single: &Choice| {
            // One slot has fewer rows to copy than many, so a hot slot is accepted if it leaves
            // both shards within `HOT_FILL`, even where many slots would be more even.
            let is_hot = has_hot && single.slots.iter().all(|&(_, cost)| cost > amount);
            let is_good = is_hot && self.is_within(single.after, HOT_FILL);
            is_good
                || packed
                    .as_ref()
                    .is_none_or(|it| compare(single.after, it.after) == Ordering::Less)
        };
        let chosen = single.filter(is_better).or(packed)?;
        let mut slots: Vec<u16> = chosen.slots.into_iter().map(|(slot, _)| slot).collect();
        slots.sort_unstable();
        Some(PlannedMove { from, to: chosen.to, slots })
    }

    /// Returns the load that a shard may still receive.
    fn lack(&self, shard: usize) -> u64 {
        // A shard with a pinned slot already has more than its share by weight, so it may not be
        // filled above its fair load.
        let fill = if self.pinned[shard].is_some() { 100 } else { self.aim.fill };
        let most = u128::from(self.targets[shard]) * u128::from(fill) / 100;
        (most as u64).saturating_sub(self.loads[shard])
    }

    /// Returns the fullness of the fuller of the two shards after this load has moved.
    fn after(&self, from: usize, to: usize, load: u64) -> Fullness {
        let giver = fullness(self.loads[from] - load, self.weights[from]);
        let taker = fullness(self.loads[to] + load, self.weights[to]);
        if compare(giver, taker) == Ordering::Less { taker } else { giver }
    }

    /// Returns slots of a shard whose total load is at most `amount`, and close to it if possible:
    /// heavy slots, and one run of neighbouring light slots.
    fn pack(&self, from: usize, amount: u64) -> Vec<(u16, u64)> {
        let is_heavy = |cost: u64| cost > amount / HEAVY_PARTS;
        let slots = &self.slots[from];
        let mut heavy: Vec<_> =
            slots.iter().copied().filter(|&(_, cost)| is_heavy(cost) && cost <= amount).collect();
        heavy.sort_unstable_by_key(|&(slot, cost)| (Reverse(cost), slot));
        let mut left = amount;
        heavy.retain(|&(_, cost)| {
            let fits = cost <= left;
            left -= if fits { cost } else { 0 };
            fits
        });
        let light: Vec<_> = slots.iter().copied().filter(|&(_, cost)| !is_heavy(cost)).collect();
        heavy.extend_from_slice(run(&light, left));
        heavy
    }

    /// Returns the step that moves a single slot and leaves the fuller of giver and taker as empty
    /// as possible; `None` if no such step leaves both less full than the giver is now.
    fn single(&self, from: usize, takers: impl Iterator<Item = usize>) -> Option<Choice> {
        let mut slots = self.slots[from].clone();
        slots.retain(|(slot, _)| self.pinned[from] != Some(*slot));
        slots.sort_unstable_by_key(|&(slot, cost)| (cost, Reverse(slot)));
        let mut best: Option<Choice> = None;
        for to in takers {
            // Load that would have to move to make both shards equally full.
            let (giver, taker) = (self.fullness(from), self.fullness(to));
            let surplus = (u128::from(giver.0) * u128::from(taker.1))
                .saturating_sub(u128::from(taker.0) * u128::from(giver.1));
            let even = surplus / u128::from(giver.1 + taker.1);
            let above = slots.partition_point(|&(_, cost)| u128::from(cost) <= even);
            for slot in slots[above.saturating_sub(1)..].iter().take(2) {
                let after = self.after(from, to, slot.1);
                let least = best.as_ref().map_or(giver, |best| best.after);
                if compare(after, least) == Ordering::Less {
                    best = Some(Choice { to, slots: vec![*slot], after });
                }
            }
        }
        best
    }

    fn apply(&mut self, planned: &PlannedMove) {
        self.giving[planned.from] = true;
        let mut moved = 0;
        self.slots[planned.from].retain(|(slot, cost)| {
            let stays = planned.slots.binary_search(slot).is_err();
            moved += if stays { 0 } else { *cost };
            stays
        });
        self.loads[planned.from] -= moved;
        self.loads[planned.to] += moved;
    }
}

/// Returns a run of consecutive elements of `slots` whose total load is at most `amount`. Of the
/// runs whose load is within about 1 % of the highest that is possible, the shortest is returned.
fn run(slots: &[(u16, u64)], amount: u64) -> &[(u16, u64)] {
    let mut runs = Vec::with_capacity(slots.len());
    let (mut first, mut load) = (0, 0);
    for (last, (_, cost)) in slots.iter().enumerate() {
        load += cost;
        while load > amount {
            load -= slots[first].1;
            first += 1;
        }
        runs.push((load, first..last + 1));
    }
    let most = runs.iter().map(|(load, _)| *load).max().unwrap_or(0);
    let near = runs.into_iter().filter(|(load, _)| most > 0 && *load >= most - most / 100);
    let fewest = near.min_by_key(|(load, run)| (run.len(), Reverse(*load)));
    fewest.map_or(&[], |(_, run)| &slots[run])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_with_a_pinned_slot_gets_no_more_under_the_looser_aim() {
        // Slot 0 exceeds every fair load; shard 1 has 30 more than its fair load, shards 2 and 3
        // have 15 less than theirs.
        let loads = [(0, 1000, 1), (1, 10, 24), (2, 15, 13), (3, 15, 13)];
        let slots = loads.map(|(shard, cost, count)| vec![(shard, cost); count]).concat();
        let (owners, costs): (Vec<usize>, Vec<u64>) = slots.into_iter().unzip();
        for aim in AIMS {
            let nothing = SlotSet::empty();
            let mut shards = Shards::new(&[1; 4], (&owners, &nothing), &costs, (aim, true));
            assert_eq!((shards.pinned[0], shards.lack(0)), (Some(0), 0));
            let steps = shards.settle();
            assert!(!steps.is_empty() && steps.iter().all(|step| step.to != 0), "{steps:?}");
        }
    }
}
