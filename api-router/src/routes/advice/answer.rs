//! Answer: the response of `GET /api/advice`, which names shards instead of numbering them.
//!
//! **Not here:** the requests that carry out findings (`action`), the effect of earlier moves
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

/// Verdict if Citus, not the shard map, determines the location of rows.
const LEFT_TO_CITUS: &str = "left_to_citus";
/// Reason that replaces the action of each finding while the catalog does not respond.
const NO_CATALOG: &str = "the catalog of the cluster does not answer, so no move can begin: request the advice again when it does";

/// Advised moves, with the observations behind them.
#[derive(Serialize, ToSchema)]
pub(crate) struct AdviceAnswer {
    /// Always true.
    success: bool,
    /// Quantity to balance: `load` or `size`.
    by: &'static str,
    /// Table group that the advice is for; missing if all tables are in one group.
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    /// `balanced`, `skewed`, `hot` (a slot exceeds the share of any shard), `too_little_to_say` or,
    /// with the engine citus, `left_to_citus`.
    verdict: &'static str,
    /// Reason, as a sentence.
    because: String,
    /// Instruction to follow the advice, as a sentence.
    how: &'static str,
    /// The version of the shard map on which the advice is based.
    epoch: u64,
    /// `requests` or `bytes`: what `total` and `carries` count.
    unit: &'static str,
    /// Total number of requests with a key, or of bytes.
    total: u64,
    /// Number of seconds for which requests were counted; null with `by=size`.
    #[schema(required)]
    window_s: Option<f64>,
    /// Load of the fullest shard as a multiple of its fair share: 1 is even, and up to 1.1 nothing
    /// is advised.
    skew: f64,
    /// Skew after all moves, if the load stays the same.
    skew_after: f64,
    /// The shards, in their order.
    shards: Vec<ShardOutlookView>,
    /// At most 32 moves to make, in this order: each one is an improvement.
    moves: Vec<MoveView>,
    /// Slots that exceed the fair share of any shard, the heaviest first: no move helps.
    hot: Vec<HotSpotView>,
    /// Findings, hot keys and slots first, each with the request that carries out its remedy, or
    /// with the reason why there is none. If the requests are sent in this order, each one is an
    /// improvement.
    findings: Vec<FindingView>,
    /// Effect of earlier moves.
    effect: EffectView,
}

/// Finding. Either `action` or `no_action` is given.
#[derive(Serialize, ToSchema)]
#[schema(as = AdviceFinding)]
pub(crate) struct FindingView {
    /// `hot_key` (a slot carries far more than others of its shard, mostly for one key), `hot_slot`
    /// or `uneven_shards`.
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
    /// The request that carries out the remedy; null if no move helps.
    #[schema(required)]
    action: Option<ActionView>,
    /// Skew after this action and those before it, if the load stays the same; null without an
    /// action.
    #[schema(required)]
    skew_after: Option<f64>,
    /// Reason why there is no action; null if there is one.
    #[schema(required)]
    no_action: Option<NoActionView>,
}

/// Reason why no move helps, and other remedies.
#[derive(Serialize, ToSchema)]
#[schema(as = NoAction)]
pub(crate) struct NoActionView {
    /// Reason, as a sentence.
    reason: String,
    /// Other remedies, as sentences.
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
    /// Fraction of the total according to the weight.
    fair_share: f64,
    /// Fraction of the total after all moves.
    share_after: f64,
    /// Estimated number of its rows; null if unknown.
    #[schema(required)]
    rows: Option<u64>,
    /// Estimated number of its bytes; null if unknown.
    #[schema(required)]
    bytes: Option<u64>,
}

/// Slots that should move to another shard.
#[derive(Serialize, ToSchema)]
#[schema(as = AdvisedMove)]
pub(crate) struct MoveView {
    /// Shard that owns the slots.
    from: String,
    /// Shard that should own the slots.
    to: String,
    /// First and last slot of each range, inclusive.
    ranges: Vec<(u16, u16)>,
    /// Number of slots.
    slots: usize,
    /// Estimated number of rows that move; null if unknown.
    #[schema(required)]
    rows: Option<u64>,
    /// Estimated number of bytes that move; null if unknown.
    #[schema(required)]
    bytes: Option<u64>,
    /// Always true: rows and bytes of a shard are assumed to be spread evenly over its slots.
    estimated: bool,
    /// Fraction of all requests, or bytes, that moves.
    share: f64,
    /// Fraction of the total on the shard `from` after this move and those before it.
    from_share_after: f64,
    /// Fraction of the total on the shard `to` after this move and those before it.
    to_share_after: f64,
}

/// A slot that exceeds the fair share of any shard.
#[derive(Serialize, ToSchema)]
#[schema(as = HotSpot)]
pub(crate) struct HotSpotView {
    /// The slot.
    slot: u16,
    /// Shard that owns it.
    shard: String,
    /// Fraction of all requests with a key.
    share: f64,
    /// The largest fair share of a shard.
    fair_share: f64,
    /// The key whose requests alone exceed this share; null if only several keys together do.
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
            Verdict::Skewed | Verdict::Hot => {
                "no move helps: the load is on slots that cannot be split"
            }
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

    /// Sets the name of the table group that the advice is for.
    pub(super) fn of_group(self, group: Option<String>) -> Self {
        Self { group, ..self }
    }

    /// Replaces the actions of all findings by the reason why no move can begin at present.
    pub(super) fn withhold_actions(&mut self) {
        for finding in self.findings.iter_mut().filter(|finding| finding.action.is_some()) {
            (finding.action, finding.skew_after) = (None, None);
            let reason = NO_CATALOG.to_owned();
            finding.no_action = Some(NoActionView { reason, helps: Vec::new() });
        }
    }

    /// Replaces the verdict by the remark that Citus places rows itself: such a cluster has one
    /// shard, so there is nothing to plan.
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
