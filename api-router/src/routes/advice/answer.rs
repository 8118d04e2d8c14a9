//! Answer: the advice as `GET /api/advice` shows it, with shards by name.
//!
//! **Not here:** the requests that carry findings out (`action`), the effect of what has moved
//! (`effect`).

use std::time::Duration;

use serde::Serialize;
use shard_manager::advice::{
    self, AdviceFinding, BalanceBy, Help, HotSpot, Move, Remedy, ShardOutlook, ShardSize, Verdict,
};
use shard_manager::assembly::CITUS_MOVES;
use shard_manager::shard_map::ShardMap;
use shard_manager::topology::ShardNumber;
use utoipa::ToSchema;

use super::action::{ActionView, Actions};
use super::effect::EffectView;

/// The verdict where the map does not say where rows lie.
const LEFT_TO_CITUS: &str = "left_to_citus";
/// Reason why nothing can be carried out while the catalog is away.
const NO_CATALOG: &str = "the catalog of the cluster does not answer, so no move can begin: ask for the advice again when it does";

/// Advised moves, with the observations behind them.
#[derive(Serialize, ToSchema)]
pub(crate) struct AdviceAnswer {
    /// Always true.
    success: bool,
    /// Quantity to balance: `load` or `size`.
    by: &'static str,
    /// Group of tables that it is about; missing if all tables are one group.
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    /// `balanced`, `skewed`, `hot` (a slot outweighs any shard), `too_little_to_say` or, with the
    /// engine citus, `left_to_citus`.
    verdict: &'static str,
    /// Reason, as a sentence.
    because: String,
    /// Way to follow the advice, as a sentence.
    how: &'static str,
    /// The version of the shard map that it is about.
    epoch: u64,
    /// `requests` or `bytes`: what `total` and `carries` count.
    unit: &'static str,
    /// Total that was counted. Requests are those with a key.
    total: u64,
    /// Since how many seconds requests were counted; null by size.
    #[schema(required)]
    window_s: Option<f64>,
    /// Ratio of the fullest shard to its fair share: 1 is even, and up to 1.1 nothing is advised.
    skew: f64,
    /// Ratio after all moves, if the load stays the same.
    skew_after: f64,
    /// The shards, in their order.
    shards: Vec<ShardOutlookView>,
    /// Moves to make, in this order, at most 32: each by itself is an improvement.
    moves: Vec<MoveView>,
    /// Slots that outweigh what any shard should carry, the heaviest first: no move helps them.
    hot: Vec<HotSpotView>,
    /// Reasons to do something, hot keys and slots first, each with the request that carries its
    /// remedy out, or with the reason why there is none. Requests that are sent in this order are
    /// improvements one by one.
    findings: Vec<FindingView>,
    /// Effect of what has moved before.
    effect: EffectView,
}

/// Reason to do something. Either `action` or `no_action` is given.
#[derive(Serialize, ToSchema)]
#[schema(as = AdviceFinding)]
pub(crate) struct FindingView {
    /// `hot_key` (a slot carries far more than those beside it, mostly for one key), `hot_slot` or
    /// `uneven_shards`.
    kind: &'static str,
    /// The shard with the slot, or the fullest one.
    shard: String,
    /// The hot slot; null for `uneven_shards`.
    #[schema(required)]
    slot: Option<u16>,
    /// The key with more than half of the requests of the slot; null if there is none.
    #[schema(required)]
    key: Option<String>,
    /// Load of the slot or shard as a fraction of the total, 0 to 1.
    share: f64,
    /// Reason, as a sentence.
    because: String,
    /// The request that carries the remedy out; null if no move helps.
    #[schema(required)]
    action: Option<ActionView>,
    /// Skew after this action and those before it, if the load stays the same; null without one.
    #[schema(required)]
    skew_after: Option<f64>,
    /// Reason why there is no action; null if there is one.
    #[schema(required)]
    no_action: Option<NoActionView>,
}

/// Reason why nothing can be moved, and what helps instead.
#[derive(Serialize, ToSchema)]
#[schema(as = NoAction)]
pub(crate) struct NoActionView {
    /// Reason, as a sentence.
    reason: String,
    /// Other help, as sentences.
    helps: Vec<&'static str>,
}

/// Load of a shard, before and after all moves.
#[derive(Serialize, ToSchema)]
#[schema(as = ShardOutlook)]
pub(crate) struct ShardOutlookView {
    /// The shard.
    shard: String,
    /// Weight of the shard.
    weight: u32,
    /// Slots of the shard.
    slots: usize,
    /// Slots after all moves.
    slots_after: usize,
    /// Load of the shard: requests or bytes.
    carries: u64,
    /// Load as a fraction of the total, 0 to 1.
    share: f64,
    /// Fraction that its weight entitles it to.
    fair_share: f64,
    /// Fraction of the total after all moves.
    share_after: f64,
    /// About how many rows it holds; null if that is not known.
    #[schema(required)]
    rows: Option<u64>,
    /// About how many bytes; null if that is not known.
    #[schema(required)]
    bytes: Option<u64>,
}

/// Slots that should go to another shard.
#[derive(Serialize, ToSchema)]
#[schema(as = AdvisedMove)]
pub(crate) struct MoveView {
    /// Shard that has them.
    from: String,
    /// Shard that should have them.
    to: String,
    /// First and last slot of each range, both included.
    ranges: Vec<(u16, u16)>,
    /// Number of slots.
    slots: usize,
    /// About how many rows move; null if that is not known.
    #[schema(required)]
    rows: Option<u64>,
    /// About how many bytes move; null if that is not known.
    #[schema(required)]
    bytes: Option<u64>,
    /// Always true: rows and bytes of slots are those of their shard, dealt out alike.
    estimated: bool,
    /// The part of all requests, or bytes, that moves.
    share: f64,
    /// Fraction of the giver after this move and those before it.
    from_share_after: f64,
    /// Fraction of the taker after this move and those before it.
    to_share_after: f64,
}

/// A slot that outweighs what any shard should carry.
#[derive(Serialize, ToSchema)]
#[schema(as = HotSpot)]
pub(crate) struct HotSpotView {
    /// The slot.
    slot: u16,
    /// Shard that has it.
    shard: String,
    /// Fraction of all requests with a key.
    share: f64,
    /// The largest part that a shard should carry.
    fair_share: f64,
    /// The key that outweighs it alone; null, if several keys do so together.
    #[schema(required)]
    key: Option<String>,
    /// Fraction of all requests with a key that name this key.
    #[schema(required)]
    key_share: Option<f64>,
}

impl AdviceAnswer {
    pub(super) fn new(
        advice: advice::Advice,
        (map, sizes): (&ShardMap, &[ShardSize]),
        (window, follow): (Option<Duration>, &'static str),
        (actions, effect): (&Actions, EffectView),
    ) -> Self {
        let name = |shard: ShardNumber| map.topology().name(shard).to_owned();
        let unit = match advice.balance_by {
            BalanceBy::Load => "requests",
            BalanceBy::Size => "bytes",
        };
        let how = match advice.verdict {
            Verdict::Skewed | Verdict::Hot if !advice.moves.is_empty() => follow,
            Verdict::Skewed | Verdict::Hot => "no move helps: what is heavy here cannot be split",
            Verdict::Balanced | Verdict::TooLittleToSay => "nothing has to be done",
        };
        let size = |shard: ShardNumber| sizes.get(shard.index()).copied().unwrap_or_default();
        let shard = |outlook: &ShardOutlook| ShardOutlookView {
            shard: name(outlook.shard),
            weight: map.topology().shards()[outlook.shard.index()].weight,
            slots: outlook.slots,
            slots_after: outlook.slots_after,
            carries: outlook.carries,
            share: outlook.share,
            fair_share: outlook.fair_share,
            share_after: outlook.share_after,
            rows: size(outlook.shard).rows,
            bytes: size(outlook.shard).bytes,
        };
        let findings = advice.findings.iter().map(|found| finding(found, map, (&advice, actions)));
        let findings = findings.collect();
        Self {
            success: true,
            by: advice.balance_by.name(),
            group: None,
            verdict: advice.verdict.name(),
            because: advice.because,
            how,
            epoch: map.epoch(),
            unit,
            total: advice.total,
            window_s: window.map(|window| window.as_millis() as f64 / 1e3),
            skew: advice.skew,
            skew_after: advice.skew_after,
            shards: advice.shards.iter().map(shard).collect(),
            moves: advice.moves.into_iter().map(|step| moved(step, name)).collect(),
            hot: advice.hot.into_iter().map(|spot| hot(spot, name)).collect(),
            findings,
            effect,
        }
    }

    /// Names the group of tables that the advice is about.
    pub(super) fn of_group(self, group: Option<String>) -> Self {
        Self { group, ..self }
    }

    /// Replaces the remedies of all findings by the reason why nothing can be carried out now.
    pub(super) fn withhold_actions(&mut self) {
        for finding in self.findings.iter_mut().filter(|finding| finding.action.is_some()) {
            (finding.action, finding.skew_after) = (None, None);
            let reason = NO_CATALOG.to_owned();
            finding.no_action = Some(NoActionView { reason, helps: Vec::new() });
        }
    }

    /// Replaces the advice by a remark: Citus places rows itself, so there is one shard and nothing
    /// to plan.
    pub(super) fn leave_to_citus(&mut self) {
        self.verdict = LEFT_TO_CITUS;
        self.because = "Citus places the rows of this cluster, not the shard map".to_owned();
        self.how = CITUS_MOVES;
    }
}

fn moved(step: Move, name: impl Fn(ShardNumber) -> String) -> MoveView {
    MoveView {
        from: name(step.from),
        to: name(step.to),
        ranges: step.ranges,
        slots: step.slots,
        rows: step.rows,
        bytes: step.bytes,
        estimated: true,
        share: step.share,
        from_share_after: step.from_share_after,
        to_share_after: step.to_share_after,
    }
}

fn hot(spot: HotSpot, name: impl Fn(ShardNumber) -> String) -> HotSpotView {
    HotSpotView {
        slot: spot.slot.number(),
        shard: name(spot.shard),
        share: spot.share,
        fair_share: spot.fair_share,
        key: spot.key,
        key_share: spot.key_share,
    }
}

fn finding(
    found: &AdviceFinding,
    map: &ShardMap,
    (advice, actions): (&advice::Advice, &Actions),
) -> FindingView {
    let name = |shard: ShardNumber| map.topology().name(shard);
    let (action, no_action) = match &found.remedy {
        Remedy::Move { to } => {
            let slot = found.slot.map(|slot| slot.number());
            let action = slot.map(|slot| actions.move_slot(slot, name(found.shard), name(*to)));
            (action, None)
        }
        Remedy::Rebalance => (Some(actions.rebalance(advice.balance_by)), None),
        Remedy::None { reason, helps } => {
            let helps = helps.iter().map(|help| sentence(*help)).collect();
            (None, Some(NoActionView { reason: reason.clone(), helps }))
        }
    };
    FindingView {
        kind: found.kind.name(),
        shard: name(found.shard).to_owned(),
        slot: found.slot.map(|slot| slot.number()),
        key: found.key.clone(),
        share: found.share,
        because: found.because.clone(),
        action,
        skew_after: found.skew_after,
        no_action,
    }
}

fn sentence(help: Help) -> &'static str {
    match help {
        Help::Cache => {
            "a cache answers repeated reads without the shard: start the routers with --redis-url, \
             and read at level one"
        }
        Help::Batches => {
            "writes that are sent together cost less: use POST /api/bulk-write instead of many \
             single writes"
        }
        Help::SplitKey => {
            "split the key: rows under several shard keys, such as KEY:0 to KEY:7, lie in several \
             slots, and readers ask for each of them"
        }
        Help::RenameKeys => {
            "give some of its keys other names: a slot cannot be split, and the hash of a name \
             decides about its slot"
        }
    }
}
