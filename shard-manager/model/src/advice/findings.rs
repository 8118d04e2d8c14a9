//! Findings: causes of an uneven load, each with its remedy.
//!
//! A hot slot, which receives far more requests than the other slots of its shard, is moved to
//! another shard if that helps; otherwise the cooler slots of its shard are moved away. If a slot
//! alone carries more than the fair share of any shard, no move helps.
//!
//! **Invariant:** if the remedies are carried out in their order, each one is an improvement, and
//! none moves a slot that is already being moved.
//! **Not here:** the plan (`plan`), the requests that carry out remedies (`api-router`).

use std::cmp::Reverse;

use super::load_judgement::LoadJudgement;
use super::load_plan::{PlannedMove, is_hot};
use super::{Advice, BalanceBy, HOT_MAX, HotSpot, Observed};
use crate::keyspace::Slot;
use crate::topology::ShardNumber;

/// Minimum load of a hot slot, as a multiple of the mean load of the slots of its shard.
const HOT_MULTIPLE: u64 = 4;

/// One cause of an uneven load, with its remedy.
#[derive(Clone, Debug, PartialEq)]
pub struct AdviceFinding {
    /// Kind of the finding.
    pub kind: ImbalanceKind,
    /// Shard that owns the slot, or the fullest shard if the finding concerns the shards as a
    /// whole.
    pub shard: ShardNumber,
    /// The hot slot; `None` if the finding concerns the shards as a whole.
    pub slot: Option<Slot>,
    /// Key that receives more than half of the requests to the slot, if there is one.
    pub key: Option<String>,
    /// Load of the slot or shard as a fraction of the total, 0 to 1.
    pub share: f64,
    /// The reason as a sentence.
    pub because: String,
    /// Remedy for the cause.
    pub remedy: Remedy,
    /// Skew after this remedy and all those before it; `None` if no move helps.
    pub skew_after: Option<f64>,
}

/// Kind of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImbalanceKind {
    /// A slot carries far more than the other slots of its shard, and most of that load is for one
    /// key.
    HotKey,
    /// A slot carries far more than the other slots of its shard, and no single key accounts for
    /// most of it.
    HotSlot,
    /// A shard carries more than its fair share.
    UnevenShards,
}

impl ImbalanceKind {
    /// Returns the name in responses.
    pub fn name(self) -> &'static str {
        match self {
            Self::HotKey => "hot_key",
            Self::HotSlot => "hot_slot",
            Self::UnevenShards => "uneven_shards",
        }
    }
}

/// Remedy of a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// The slot of the finding is moved to another shard.
    Move {
        /// The other shard.
        to: ShardNumber,
    },
    /// The moves of the advice are carried out.
    Rebalance,
    /// No move helps.
    None {
        /// Reason, as a sentence.
        reason: String,
        /// Other remedies.
        helps: Vec<Help>,
    },
}

/// Change to an application or its keys that helps where no move can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Help {
    /// Answer the reads from a cache.
    Cache,
    /// Send several writes in one request.
    Batches,
    /// Divide the rows of the key among several keys.
    SplitKey,
    /// Rename keys of the slot, so that they hash to other slots.
    RenameKeys,
}

/// Returns the findings of an advice whose moves are these steps.
pub(super) fn find(
    judgement: &LoadJudgement,
    advice: &Advice,
    (observed, steps): (&Observed<'_>, &[PlannedMove]),
) -> Vec<AdviceFinding> {
    let finder = Finder { judgement, advice, observed };
    let hot = finder.hot_slots();
    let (mut findings, left) = finder.moves(&hot, steps);
    findings.extend(left.into_iter().map(|slot| finder.unmoved(slot)));
    findings.extend(finder.uneven());
    findings
}

/// Search for findings.
struct Finder<'f> {
    judgement: &'f LoadJudgement,
    advice: &'f Advice,
    observed: &'f Observed<'f>,
}

impl Finder<'_> {
    /// Returns the hot slots of overloaded shards, and all slots that exceed the fair share of any
    /// shard, the heaviest first.
    fn hot_slots(&self) -> Vec<Slot> {
        let Self { judgement, advice, .. } = self;
        if advice.balance_by != BalanceBy::Load {
            return Vec::new();
        }
        let fair = (judgement.shares.largest_fair_share() * advice.total as f64) as u64;
        let shards = judgement.loads.len();
        let means: Vec<u64> = (0..shards)
            .map(|shard| judgement.loads[shard] / judgement.slots_of(shard).max(1) as u64)
            .collect();
        let is_too_full: Vec<bool> = (0..shards)
            .map(|shard| judgement.shares.is_overloaded(&judgement.loads, shard))
            .collect();
        let is_sought = |slot: &Slot| {
            let (owner, cost) = (judgement.owners[slot.index()], judgement.costs[slot.index()]);
            let stands_out = cost >= means[owner].saturating_mul(HOT_MULTIPLE);
            let outweighs = advice.hot.iter().any(|spot| spot.slot == *slot);
            outweighs || is_too_full[owner] && is_hot(cost, fair) && stands_out
        };
        let slots = (0..judgement.costs.len() as u16).filter_map(Slot::new);
        let mut hot: Vec<Slot> = slots.filter(is_sought).collect();
        hot.sort_by_key(|slot| Reverse(judgement.costs[slot.index()]));
        hot.truncate(HOT_MAX);
        hot
    }

    /// Returns the findings for the hot slots whose own move improves the load, and the remaining
    /// hot slots. A hot slot that a step moves, but whose move would not help without the other
    /// slots of that step, is among the remaining ones.
    fn moves(&self, hot: &[Slot], steps: &[PlannedMove]) -> (Vec<AdviceFinding>, Vec<Slot>) {
        let (judgement, mut findings) = (self.judgement, Vec::new());
        let (mut loads, mut left) = (judgement.planned_loads.clone(), hot.to_vec());
        for step in steps {
            for &slot in hot.iter().filter(|slot| step.slots.contains(&slot.number())) {
                let mut after = loads.clone();
                after[step.from] -= judgement.costs[slot.index()];
                after[step.to] += judgement.costs[slot.index()];
                let is_better = judgement.shares.is_fuller((&loads, step.from), (&after, step.to))
                    && judgement.shares.is_overloaded(&loads, step.from);
                if !is_better {
                    continue;
                }
                let to = ShardNumber(step.to as u16);
                let effect = format!(
                    "{}; with the slot on {} {}, and {}",
                    self.load_clause(&loads, step.from),
                    self.name(step.to),
                    self.load_after_clause(&after, step.from),
                    self.load_after_clause(&after, step.to),
                );
                let skew = judgement.shares.skew(&after);
                findings.push(self.hot_finding(slot, &effect, (Remedy::Move { to }, Some(skew))));
                left.retain(|other| *other != slot);
                loads = after;
            }
        }
        (findings, left)
    }

    /// Returns the finding for a hot slot that is not moved.
    fn unmoved(&self, slot: Slot) -> AdviceFinding {
        let none = |reason: &str, helps| (Remedy::None { reason: reason.to_owned(), helps }, None);
        if self.judgement.moving.contains(slot) {
            let remedy =
                none("it is being moved already: the effect is visible after the move", Vec::new());
            return self.hot_finding(slot, "", remedy);
        }
        if let Some(spot) = self.advice.hot.iter().find(|spot| spot.slot == slot) {
            return self.outweighing(spot);
        }
        let effect = self.load_clause(&self.judgement.loads, self.judgement.owners[slot.index()]);
        if self.advice.moves.is_empty() {
            let reason = "it would weigh as much on any other shard: no move helps";
            return self.hot_finding(slot, &effect, none(reason, self.helps(slot, true)));
        }
        let effect = format!("{effect}; the cooler slots of its shard are moved instead");
        self.hot_finding(slot, &effect, (Remedy::Rebalance, Some(self.advice.skew_after)))
    }

    /// Returns the finding for a slot that exceeds the fair share of any shard.
    fn outweighing(&self, spot: &HotSpot) -> AdviceFinding {
        let what = if spot.key.is_some() { "the key" } else { "the slot" };
        let reason = format!(
            "wherever its slot lies, {what} alone is more than the {:.1} % that a shard should \
             carry: no move helps",
            100.0 * spot.fair_share
        );
        let helps = self.helps(spot.slot, spot.key.is_some());
        let remedy = (Remedy::None { reason, helps }, None);
        let effect = self.load_clause(&self.judgement.loads, spot.shard.index());
        self.hot_finding(spot.slot, &effect, remedy)
    }

    fn hot_finding(
        &self,
        slot: Slot,
        effect: &str,
        (remedy, skew_after): (Remedy, Option<f64>),
    ) -> AdviceFinding {
        let cost = self.judgement.costs[slot.index()];
        let (key, share) = (self.key_of(slot), self.judgement.shares.share(cost));
        let shard = self.observed.map.owner(slot);
        let kind = if key.is_some() { ImbalanceKind::HotKey } else { ImbalanceKind::HotSlot };
        let number = self.observed.first_slot + slot.number();
        let name = self.name(shard.index());
        let subject = match &key {
            Some((key, requests)) => {
                let percent = 100.0 * self.judgement.shares.share(*requests);
                format!("key {key}, in slot {number} on {name}, has {percent:.1} %")
            }
            None => format!("slot {number} on {name} has {:.1} %", 100.0 * share),
        };
        let comma = if effect.is_empty() { "" } else { "; " };
        AdviceFinding {
            kind,
            shard,
            slot: Some(slot),
            key: key.map(|(key, _)| key),
            share,
            because: format!("{subject} of all requests with a key{comma}{effect}"),
            remedy,
            skew_after,
        }
    }

    /// Returns the key that receives more than half of the requests to a slot, if there is one, and
    /// the number of requests for that key.
    fn key_of(&self, slot: Slot) -> Option<(String, u64)> {
        let cost = self.judgement.costs[slot.index()];
        let own = self.observed.keys.iter().filter(|key| key.slot == slot);
        // The counts of keys come from an approximate sketch, which may report more requests for a
        // key than its slot received.
        let own = own.map(|key| (key.requests.min(cost), Reverse(&key.key)));
        let (requests, Reverse(key)) = own.max()?;
        (requests > cost / 2).then(|| (key.clone(), requests))
    }

    /// Returns the remedies for a slot whose load no move can reduce.
    fn helps(&self, slot: Slot, is_key: bool) -> Vec<Help> {
        let load = self.observed.load.get(slot.index()).copied().unwrap_or_default();
        let split = if is_key { Help::SplitKey } else { Help::RenameKeys };
        let by_kind = if load.reads >= load.writes { Help::Cache } else { Help::Batches };
        vec![by_kind, split]
    }

    /// Returns the finding for the shards as a whole.
    fn uneven(&self) -> Option<AdviceFinding> {
        let (judgement, advice) = (self.judgement, self.advice);
        let shards = 0..judgement.loads.len();
        let fullest = shards.reduce(|most, one| {
            let is_fuller =
                judgement.shares.is_fuller((&judgement.loads, one), (&judgement.loads, most));
            if is_fuller { one } else { most }
        })?;
        let remedy = if !advice.moves.is_empty() {
            Remedy::Rebalance
        } else {
            let reason = if judgement.moving.is_empty() {
                "the load is on slots that cannot be split: no move helps"
            } else {
                "slots are being moved already: the effect is visible after the moves"
            };
            Remedy::None { reason: reason.to_owned(), helps: Vec::new() }
        };
        let skew_after = (remedy == Remedy::Rebalance).then_some(advice.skew_after);
        Some(AdviceFinding {
            kind: ImbalanceKind::UnevenShards,
            shard: ShardNumber(fullest as u16),
            slot: None,
            key: None,
            share: judgement.shares.share(judgement.loads[fullest]),
            because: advice.because.clone(),
            remedy,
            skew_after,
        })
    }

    fn name(&self, shard: usize) -> &str {
        self.observed.map.topology().name(ShardNumber(shard as u16))
    }

    /// Returns a clause that states the load of a shard.
    fn load_clause(&self, loads: &[u64], shard: usize) -> String {
        let name = self.name(shard);
        match self.judgement.shares.multiple(loads, shard) {
            Some(multiple) => format!("{name} carries {multiple:.2} of its fair share"),
            None => {
                let percent = 100.0 * self.judgement.shares.share(loads[shard]);
                format!("{name} should carry nothing but carries {percent:.2} % of the total")
            }
        }
    }

    /// Returns a clause that states the load that a shard would have after a move.
    fn load_after_clause(&self, loads: &[u64], shard: usize) -> String {
        let name = self.name(shard);
        match self.judgement.shares.multiple(loads, shard) {
            Some(multiple) => format!("{name} would carry {multiple:.2}"),
            None => {
                let percent = 100.0 * self.judgement.shares.share(loads[shard]);
                format!("{name} would carry {percent:.2} % of the total")
            }
        }
    }
}
