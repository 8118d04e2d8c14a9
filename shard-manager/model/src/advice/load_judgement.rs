//! Load judgement: computes the load of slots and shards, and judges whether it is uneven.
//!
//! **Not here:** fair shares (`fair_shares`), the choice of slots that move (`plan`), the remedies
//! (`findings`).

use std::cmp::Reverse;

use super::fair_shares::{CHANCE, FairShares};
use super::load_plan::PlannedMove;
use super::{
    Advice, BYTES_MIN, BalanceBy, HOT_MAX, HotSpot, Move, Observed, REQUESTS_MIN,
    REQUESTS_OF_SHARD_MIN, SKEW_TOLERATED, ShardOutlook, ShardSize, SlotLoad, Verdict, load_plan,
};
use crate::keyspace::{SLOT_COUNT, Slot};
use crate::slot_set::SlotSet;
use crate::topology::ShardNumber;

/// Reasons, as sentences, why nothing has to move.
const ONE_SHARD: &str = "there is one shard";
const ONE_SHARE: &str = "one shard is to carry everything, and does";

/// Owner and load of each slot, and load of each shard; all vectors are indexed by number.
pub(super) struct LoadJudgement {
    pub(super) shares: FairShares,
    pub(super) owners: Vec<usize>,
    pub(super) costs: Vec<u64>,
    pub(super) loads: Vec<u64>,
    /// Owners after the moves in progress.
    pub(super) planned_owners: Vec<usize>,
    /// Load of each shard after the moves in progress.
    pub(super) planned_loads: Vec<u64>,
    /// Slots that are already being moved.
    pub(super) moving: SlotSet,
}

impl LoadJudgement {
    pub(super) fn new(observed: &Observed<'_>, balance_by: BalanceBy) -> Self {
        let topology = observed.map.topology();
        let slots = (0..SLOT_COUNT).filter_map(Slot::new);
        let owners: Vec<usize> = slots.map(|slot| observed.map.owner(slot).index()).collect();
        let costs = match balance_by {
            BalanceBy::Load => requests(observed.load),
            BalanceBy::Size => mean_bytes(&owners, observed.sizes),
        };
        let planned_owners: Vec<usize> = match &observed.open {
            Some(open) => open.owners.iter().map(|owner| owner.index()).collect(),
            None => owners.clone(),
        };
        let moving = observed.open.map_or_else(SlotSet::empty, |open| open.moving.clone());
        let loads = loads(&owners, &costs, topology.len());
        let planned_loads = self::loads(&planned_owners, &costs, topology.len());
        let weights = topology.share_weights().into_iter().map(u64::from).collect();
        let shares = FairShares::new(weights, loads.iter().sum());
        Self { shares, owners, costs, loads, planned_owners, planned_loads, moving }
    }

    pub(super) fn skew_of_owners(&self, owners: &[ShardNumber]) -> f64 {
        let owners: Vec<usize> = owners.iter().map(|owner| owner.index()).collect();
        self.shares.skew(&loads(&owners, &self.costs, self.loads.len()))
    }

    pub(super) fn slots_of(&self, shard: usize) -> usize {
        self.owners.iter().filter(|owner| **owner == shard).count()
    }

    /// Returns an advice without moves, which describes the present state.
    pub(super) fn outlook(&self, balance_by: BalanceBy) -> Advice {
        let shards = (0..).map(ShardNumber).zip(&self.loads).map(|(shard, &carries)| {
            let slots = self.slots_of(shard.index());
            let (share, fair_share) =
                (self.shares.share(carries), self.shares.fair_share(shard.index()));
            ShardOutlook {
                shard,
                slots,
                carries,
                share,
                fair_share,
                slots_after: slots,
                share_after: share,
            }
        });
        let skew = self.shares.skew(&self.loads);
        Advice {
            balance_by,
            verdict: Verdict::Balanced,
            because: String::new(),
            total: self.shares.total(),
            skew,
            skew_after: skew,
            shards: shards.collect(),
            moves: Vec::new(),
            hot: Vec::new(),
            findings: Vec::new(),
        }
    }

    /// Returns the reason why there are too few observations for a judgement; `None` if there are
    /// enough.
    pub(super) fn too_little(
        &self,
        observed: &Observed<'_>,
        balance_by: BalanceBy,
    ) -> Option<String> {
        let shards = self.shares.sharing();
        match balance_by {
            BalanceBy::Load => {
                let least = REQUESTS_MIN.max(REQUESTS_OF_SHARD_MIN * shards as u64);
                (self.shares.total() < least).then(|| {
                    format!(
                        "{} requests with a key were observed: at least {least} are needed",
                        self.shares.total()
                    )
                })
            }
            BalanceBy::Size => {
                let bytes = |shard: usize| observed.sizes.get(shard).and_then(|size| size.bytes);
                let members = observed.map.topology().members();
                let unknown = members.filter(|(shard, _)| bytes(shard.index()).is_none());
                let unknown: Vec<&str> = unknown.map(|(_, spec)| &*spec.name).collect();
                if !unknown.is_empty() {
                    return Some(format!("how much {} holds is not known", unknown.join(", ")));
                }
                (self.shares.total() < BYTES_MIN).then(|| {
                    format!(
                        "the shards hold {} bytes: at least {BYTES_MIN} are needed",
                        self.shares.total()
                    )
                })
            }
        }
    }

    /// Returns the slots that each carry more than the largest fair share, and for each of them the
    /// key that alone does so, if there is one.
    pub(super) fn hot(&self, observed: &Observed<'_>) -> Vec<HotSpot> {
        let fair_share = self.shares.largest_fair_share();
        let fair = fair_share * self.shares.total() as f64;
        let outweighs = |requests: u64| requests as f64 > fair + CHANCE * fair.sqrt();
        let slots = (0..SLOT_COUNT).filter_map(Slot::new);
        let mut hot: Vec<(u64, Slot)> =
            slots.map(|slot| (self.costs[slot.index()], slot)).collect();
        hot.retain(|(requests, _)| outweighs(*requests));
        hot.sort_unstable_by_key(|(requests, slot)| (Reverse(*requests), slot.number()));
        let spots = hot.into_iter().take(HOT_MAX).map(|(requests, slot)| {
            let own = observed.keys.iter().filter(|key| key.slot == slot);
            // The counts of keys come from an approximate sketch, which may report more requests
            // for a key than its slot received.
            let own = own.map(|key| (key.requests.min(requests), &key.key));
            let key = own.max_by_key(|(requests, _)| *requests).filter(|key| outweighs(key.0));
            HotSpot {
                slot,
                shard: observed.map.owner(slot),
                share: self.shares.share(requests),
                fair_share,
                key: key.map(|(_, key)| key.clone()),
                key_share: key.map(|(requests, _)| self.shares.share(requests)),
            }
        });
        spots.collect()
    }

    /// Adds the planned moves to the advice, and the loads that remain after both these moves and
    /// the moves in progress. Returns the planned moves.
    pub(super) fn plan(&self, advice: &mut Advice, observed: &Observed<'_>) -> Vec<PlannedMove> {
        let mut loads = self.planned_loads.clone();
        let steps = self.steps(advice.balance_by);
        for (shard, outlook) in advice.shards.iter_mut().enumerate() {
            let owners = self.planned_owners.iter();
            outlook.slots_after = owners.filter(|owner| **owner == shard).count();
        }
        for step in &steps {
            let load: u64 = step.slots.iter().map(|slot| self.costs[usize::from(*slot)]).sum();
            loads[step.from] -= load;
            loads[step.to] += load;
            // No step contains a slot that is already being moved, so the shard that gives the
            // slots of a step owns all of them now.
            let (slots, all) = (step.slots.len(), advice.shards[step.from].slots);
            let size = observed.sizes.get(step.from).copied().unwrap_or_default();
            let part = |whole: u64| (u128::from(whole) * slots as u128 / all as u128) as u64;
            advice.shards[step.from].slots_after -= slots;
            advice.shards[step.to].slots_after += slots;
            advice.moves.push(Move {
                from: ShardNumber(step.from as u16),
                to: ShardNumber(step.to as u16),
                ranges: ranges(&step.slots),
                slots,
                rows: size.rows.map(part),
                bytes: size.bytes.map(part),
                share: self.shares.share(load),
                from_share_after: self.shares.share(loads[step.from]),
                to_share_after: self.shares.share(loads[step.to]),
            });
        }
        for (shard, load) in advice.shards.iter_mut().zip(&loads) {
            shard.share_after = self.shares.share(*load);
        }
        advice.skew_after = self.shares.skew(&loads);
        steps
    }

    /// Returns the moves that are needed in addition to those in progress; empty if those in
    /// progress are sufficient.
    fn steps(&self, balance_by: BalanceBy) -> Vec<PlannedMove> {
        let is_enough = balance_by == BalanceBy::Load
            && !self.moving.is_empty()
            && self.shares.fullest_without_share(&self.planned_loads).is_none()
            && !self.shares.is_beyond_chance(&self.planned_loads);
        if is_enough {
            return Vec::new();
        }
        load_plan::plan(self.shares.weights(), (&self.planned_owners, &self.moving), &self.costs)
    }

    /// Returns the reason why no slot has to move, if there is one.
    pub(super) fn even_enough(&self, skew: f64, balance_by: BalanceBy) -> Option<String> {
        let fullest = format!("the fullest shard carries {skew:.2} of its fair share");
        let shares = self.shares.sharing();
        if self.shares.fullest_without_share(&self.loads).is_some() {
            None
        } else if shares == 1 {
            Some(if self.loads.len() == 1 { ONE_SHARD } else { ONE_SHARE }.to_owned())
        } else if skew <= SKEW_TOLERATED {
            Some(format!("{fullest}: up to {SKEW_TOLERATED} is even enough"))
        } else if balance_by == BalanceBy::Load && !self.shares.is_beyond_chance(&self.loads) {
            Some(format!(
                "{fullest}, which may be chance: {} requests were observed",
                self.shares.total()
            ))
        } else {
            None
        }
    }

    pub(super) fn skewed(&self, advice: &Advice, observed: &Observed<'_>) -> String {
        let name = |shard: usize| observed.map.topology().name(ShardNumber(shard as u16));
        let mut text = if let Some(shard) = self.shares.fullest_without_share(&self.loads) {
            let part = 100.0 * self.shares.share(self.loads[shard]);
            format!("{} should carry nothing but carries {part:.2} % of the total", name(shard))
        } else {
            let multiples = (0..self.loads.len())
                .filter_map(|shard| Some((shard, self.shares.multiple(&self.loads, shard)?)));
            let fullest = multiples.max_by(|(_, a), (_, b)| a.total_cmp(b));
            let name = fullest.map_or("", |(shard, _)| name(shard));
            format!("{name} carries {:.2} of its fair share", advice.skew)
        };
        match advice.hot.first() {
            Some(HotSpot { key: Some(_), .. }) => text.push_str(
                "; a single key exceeds the fair share of any shard, which no move can change",
            ),
            Some(_) => text.push_str(
                "; a single slot exceeds the fair share of any shard, and cannot be split",
            ),
            None => {}
        }
        let (moves, after, moving) = (advice.moves.len(), advice.skew_after, self.moving.len());
        let plural = if moves == 1 { "" } else { "s" };
        let slots_are = if moving == 1 { "slot is" } else { "slots are" };
        match (moves, moving) {
            (0, 0) => text.push_str("; no move helps"),
            (0, _) => text.push_str(&format!(
                "; {moving} {slots_are} being moved already, after which it would be {after:.2}"
            )),
            (_, 0) => {
                text.push_str(&format!("; after {moves} move{plural} it would be {after:.2}"))
            }
            (..) => text.push_str(&format!(
                "; slots move already, {moving} of them, and after {moves} more move{plural} it \
                 would be {after:.2}"
            )),
        }
        text
    }
}

/// Returns the load of each shard.
fn loads(owners: &[usize], costs: &[u64], shards: usize) -> Vec<u64> {
    let mut loads = vec![0; shards];
    owners.iter().zip(costs).for_each(|(owner, cost)| loads[*owner] += cost);
    loads
}

fn requests(load: &[SlotLoad]) -> Vec<u64> {
    let slots = load.iter().map(|slot| slot.reads + slot.writes);
    slots.chain(std::iter::repeat(0)).take(usize::from(SLOT_COUNT)).collect()
}

/// Returns the estimated number of bytes of each slot: an equal part of the bytes of its shard,
/// because shards do not count rows by slot.
fn mean_bytes(owners: &[usize], sizes: &[ShardSize]) -> Vec<u64> {
    let shards = owners.iter().max().map_or(0, |most| most + 1);
    let mut slots = vec![0_u64; shards];
    owners.iter().for_each(|owner| slots[*owner] += 1);
    let mut passed = vec![0_u64; shards];
    let costs = owners.iter().map(|&owner| {
        let bytes = sizes.get(owner).and_then(|size| size.bytes).unwrap_or(0);
        // Each part is the difference of two rounded running sums, so that the parts of a shard add
        // up exactly to its bytes.
        let until = |passed: u64| u128::from(bytes) * u128::from(passed) / u128::from(slots[owner]);
        passed[owner] += 1;
        (until(passed[owner]) - until(passed[owner] - 1)) as u64
    });
    costs.collect()
}

/// Groups ascending slots into ranges of consecutive slots, each given as its first and last slot.
fn ranges(slots: &[u16]) -> Vec<(u16, u16)> {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for &slot in slots {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == slot => *last = slot,
            Some(_) | None => ranges.push((slot, slot)),
        }
    }
    ranges
}
