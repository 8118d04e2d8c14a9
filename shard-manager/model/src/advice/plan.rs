//! Plan: which slots go where, so that the fullest shards become less full.
//!
//! Each step takes from the fullest shard that can still give, as balancers of ranges do
//! (CockroachDB's store rebalancer, the Redis Cluster rebalance), and gives to the one that lacks
//! most: as much as the one has too much or the other lacks, whichever is less. Which slots is a
//! packing: heavy ones first, because they bring most for the rows that must move (longest
//! processing time first, Graham 1969), the rest as one run of neighbours, so that ranges stay few.
//!
//! Why it ends well: a step leaves both shards less full than the giver was. So the loads, sorted
//! with the fullest first, fall in the order of dictionaries with each step: the maximum never
//! rises, and a plan that is cut off anywhere is better than none. A slot moves at most once, and
//! there are at most [`MOVES_MAX`] moves. Where no slot is too heavy to fit, a move settles the
//! giver or the taker, so that as many moves as there are shards are enough.
//!
//! **Invariant:** no move makes the fullest shard fuller, or another as full as its giver was.
//! **Not here:** whether anything should move (`advice`).

use std::cmp::{Ordering, Reverse};

/// Most moves of a plan: more than somebody can look through is no advice.
pub const MOVES_MAX: usize = 32;
/// Percentage of its share above which a shard gives slots away, as [`super::SKEW_TOLERATED`].
const TOLERATED: u64 = 110;
/// A slot that weighs more than this part of what is to move is moved by itself; there are at most
/// as many of these.
const HEAVY_PARTS: u64 = 16;
/// Percentages of its share that a shard keeps and is filled up to, at most. The first aim is as
/// even as possible; the second is less even, where the first takes too many moves because all
/// other shards are nearly full.
const AIMS: [Aim; 2] = [Aim { leave: 102, fill: 100 }, Aim { leave: 105, fill: 105 }];

#[derive(Clone, Copy)]
struct Aim {
    leave: u64,
    fill: u64,
}

/// Slots that move from one shard to another; shards are numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PlannedMove {
    pub(super) from: usize,
    pub(super) to: usize,
    /// In order.
    pub(super) slots: Vec<u16>,
}

/// Plans the moves that leave each shard as full as its weight says, as far as whole slots allow.
/// `owners` and `costs` hold the owner and the load of each slot.
pub(super) fn plan(weights: &[u64], owners: &[usize], costs: &[u64]) -> Vec<PlannedMove> {
    let plans = AIMS.map(|aim| {
        let mut shards = Shards::new(weights, owners, costs, aim);
        let moves = shards.settle();
        (shards.fullest(), moves)
    });
    let [(even, first), (loose, second)] = plans;
    if compare(loose, even) == Ordering::Less { second } else { first }
}

/// Load of a shard in proportion to its weight: a fraction.
type Fullness = (u64, u64);

fn compare((load, weight): Fullness, (other_load, other_weight): Fullness) -> Ordering {
    let this = u128::from(load) * u128::from(other_weight);
    this.cmp(&(u128::from(other_load) * u128::from(weight)))
}

/// A step that may be made.
struct Choice {
    to: usize,
    slots: Vec<(u16, u64)>,
    /// The fuller of both after it.
    after: Fullness,
}

/// Shards while a plan is made.
struct Shards {
    weights: Vec<u64>,
    loads: Vec<u64>,
    /// The slots that each may still give, in order, with their costs; what costs nothing stays
    /// where it is.
    slots: Vec<Vec<(u16, u64)>>,
    /// Load that each shard should have.
    targets: Vec<u64>,
    /// The slot of each that outweighs what any should carry: it stays, because it would be too
    /// much anywhere.
    pinned: Vec<Option<u16>>,
    /// Those that have given: they go on until they are as even as they can be.
    giving: Vec<bool>,
    /// Those that nothing can be taken from any more, though they are too full.
    stuck: Vec<bool>,
    aim: Aim,
}

impl Shards {
    fn new(weights: &[u64], owners: &[usize], costs: &[u64], aim: Aim) -> Self {
        let mut loads = vec![0; weights.len()];
        let mut slots = vec![Vec::new(); weights.len()];
        for ((slot, &owner), &cost) in (0..).zip(owners).zip(costs) {
            loads[owner] += cost;
            if cost > 0 {
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
        };
        shards.aim_anew();
        shards
    }

    /// Everybody's part of what can be shared out. A slot that outweighs the part of its shard is
    /// the shard's part: the others share what is left, and would wait in vain for a slot that
    /// nobody can split.
    fn aim_anew(&mut self) {
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
            // On a larger shard it would weigh less: then it may move.
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

    /// The heaviest slot that a shard may give, or that is pinned to it; the first of several.
    fn heaviest(&self, shard: usize) -> Option<(u16, u64)> {
        self.slots[shard].iter().copied().max_by_key(|&(slot, cost)| (cost, Reverse(slot)))
    }

    fn fullness(&self, shard: usize) -> Fullness {
        (self.loads[shard], self.weights[shard])
    }

    fn fullest(&self) -> Fullness {
        let all = (0..self.loads.len()).map(|shard| self.fullness(shard));
        all.max_by(|a, b| compare(*a, *b)).unwrap_or((0, 1))
    }

    /// Moves until nobody is too full any more, or nothing helps.
    fn settle(&mut self) -> Vec<PlannedMove> {
        let mut moves: Vec<PlannedMove> = Vec::new();
        while let Some(giver) = self.giver() {
            let Some(planned) = self.next_move(giver) else {
                self.stuck[giver] = true;
                self.aim_anew();
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

    /// The fullest of those that are too full and can give; the first of several.
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
        let others = || (0..self.loads.len()).filter(|&shard| shard != from && !self.stuck[shard]);
        let to = others().max_by_key(|&shard| (self.lack(shard), Reverse(shard)))?;
        let amount = self.lack(to).min(self.loads[from] - self.targets[from]);
        let slots = self.pack(from, amount);
        let load: u64 = slots.iter().map(|(_, cost)| cost).sum();
        let packed = (load > 0).then(|| Choice { to, slots, after: self.after(from, to, load) });
        let is_enough = packed.is_some() && load >= amount / 2;
        // What fits may be too little: then a heavier slot may help more.
        let single = if is_enough { None } else { self.single(from, others()) };
        let is_better = |single: &Choice| {
            packed.as_ref().is_none_or(|it| compare(single.after, it.after) == Ordering::Less)
        };
        let chosen = single.filter(is_better).or(packed)?;
        let mut slots: Vec<u16> = chosen.slots.into_iter().map(|(slot, _)| slot).collect();
        slots.sort_unstable();
        Some(PlannedMove { from, to: chosen.to, slots })
    }

    /// Load that a shard may still receive.
    fn lack(&self, shard: usize) -> u64 {
        // A shard with a pinned slot carries more than its part already: it gets no slack.
        let fill = if self.pinned[shard].is_some() { 100 } else { self.aim.fill };
        let most = u128::from(self.targets[shard]) * u128::from(fill) / 100;
        (most as u64).saturating_sub(self.loads[shard])
    }

    /// The fuller of both after so much has moved.
    fn after(&self, from: usize, to: usize, load: u64) -> Fullness {
        let giver = (self.loads[from] - load, self.weights[from]);
        let taker = (self.loads[to] + load, self.weights[to]);
        if compare(giver, taker) == Ordering::Less { taker } else { giver }
    }

    /// Slots of a shard that together weigh at most so much, and nearly so much if there are such:
    /// heavy ones, and one run of neighbours.
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

    /// The one slot, and its taker, that leaves the fuller of both least full; none, if it would
    /// not be less full than the giver is.
    fn single(&self, from: usize, takers: impl Iterator<Item = usize>) -> Option<Choice> {
        let mut slots = self.slots[from].clone();
        slots.retain(|(slot, _)| self.pinned[from] != Some(*slot));
        slots.sort_unstable_by_key(|&(slot, cost)| (cost, Reverse(slot)));
        let mut best: Option<Choice> = None;
        for to in takers {
            // Where both would be equally full.
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

/// Neighbours that together weigh at most so much: of those that come near to the most that can be
/// had, the fewest.
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
        // Slot 0 outweighs every part; shard 1 has 30 more than its part, shards 2 and 3 15 less.
        let loads = [(0, 1000, 1), (1, 10, 24), (2, 15, 13), (3, 15, 13)];
        let slots = loads.map(|(shard, cost, count)| vec![(shard, cost); count]).concat();
        let (owners, costs): (Vec<usize>, Vec<u64>) = slots.into_iter().unzip();
        for aim in AIMS {
            let mut shards = Shards::new(&[1; 4], &owners, &costs, aim);
            assert_eq!((shards.pinned[0], shards.lack(0)), (Some(0), 0));
            let steps = shards.settle();
            assert!(!steps.is_empty() && steps.iter().all(|step| step.to != 0), "{steps:?}");
        }
    }
}
