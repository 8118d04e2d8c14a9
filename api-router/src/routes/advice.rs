//! `GET /api/advice`: slots that should move so that the load of each shard fits its weight, and
//! load that no move can distribute.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::web::{Data, block};
use actix_web::{HttpRequest, HttpResponse, get};
use serde::Serialize;
use shard_manager::advice::{
    self, BalanceBy, HotSpot, Move, Observed, ShardOutlook, ShardSize, Verdict,
};
use shard_manager::assembly::CITUS_MOVES;
use shard_manager::manager::ObservedLoad;
use shard_manager::shard_map::ShardMap;
use shard_manager::topology::ShardNumber;
use utoipa::ToSchema;

use crate::app::App;
use crate::headers::time_limit;
use crate::metrics_view::MetricsView;
use crate::observed_load;
use crate::problem::{Code, Problem};
use crate::query::Parameters;
use crate::response_headers::LookupRefusals;

/// Longest time for shards to report their sizes.
const SIZES_MAX: Duration = Duration::from_secs(5);
/// Instructions for embedded shards.
const NEXT_STEPS: &str = "this is advice: nothing moves by itself. POST /api/rebalance carries it out, with the same by; with \
    {\"dry_run\": true} it shows the moves. `shard-manager rebalance` does the same. \
    A new cluster takes the slots as --placement manual:FIRST-LAST=SHARD,… and the rows by \
    `shard-manager export` and `shard-manager import`";
/// Instructions for servers, whose rows are exported there: Tessera's own columns cannot be
/// imported, and only the key says where a row of a table without a routing column belongs.
const NEXT_STEPS_ON_SERVERS: &str = "this is advice: nothing moves by itself. POST /api/rebalance carries it out, with the same by; with \
    {\"dry_run\": true} it shows the moves. \
    A new cluster takes them as --placement manual:FIRST-LAST=SHARD,… and the rows by COPY TABLE (shard_key, COLUMN, …) \
    TO STDOUT WITH (FORMAT csv, HEADER) of each shard, with the columns that the table was made with, without slot, version, \
    created_at and updated_at, and `shard-manager import` of that as CSV";
/// Name of the engine whose shards are files.
const EMBEDDED: &str = "sqlite";
/// The verdict where the map does not say where rows lie.
const LEFT_TO_CITUS: &str = "left_to_citus";

/// Advised moves, with the observations behind them.
#[derive(Serialize, ToSchema)]
pub struct AdviceAnswer {
    /// Always true.
    success: bool,
    /// Quantity to balance: `load` or `size`.
    by: &'static str,
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
}

/// Load of a shard, before and after all moves.
#[derive(Serialize, ToSchema)]
#[schema(as = ShardOutlook)]
pub struct ShardOutlookView {
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
pub struct MoveView {
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
pub struct HotSpotView {
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

/// Returns the slots that should move so that shards carry the share of their weights.
///
/// By load it uses the requests with a key that this router has answered in the last 15 minutes; a
/// router knows no requests of other routers. By size it uses the bytes of the shards. There is no
/// verdict on fewer than 1000 requests, or 100 a shard, or 16 MiB; nothing is advised up to a skew
/// of 1.1, or where chance explains it. Nothing is moved.
#[utoipa::path(
    tag = "placement",
    params(("by" = Option<String>, Query, description = "What is to be even: load or size; load when not given", pattern = "^(load|size)$", example = "load")),
    responses((status = 200, description = "The advice", body = AdviceAnswer), LookupRefusals)
)]
#[get("/api/advice")]
pub(crate) async fn advise(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let parameters = Parameters::parse(request.query_string())?;
    parameters.check_names(&["by"])?;
    let by = parameters.single("by")?.unwrap_or(BalanceBy::Load.name());
    let balance_by = BalanceBy::find(by).ok_or_else(|| {
        Problem::new(Code::TSR100, "by must be load or size").hint("for example ?by=load")
    })?;
    let patience = time_limit(request.headers(), SIZES_MAX)?;
    let recorded = match balance_by {
        BalanceBy::Load => RecordedLoad::read(&app.analytics()?.metrics).await?,
        BalanceBy::Size => RecordedLoad::default(),
    };
    let sizes = app.manager.status().size_estimates(Instant::now() + patience).await;
    let map = app.manager.map();
    let mut by_number = vec![ShardSize::default(); map.topology().len()];
    for (number, size) in sizes {
        if let (Some(known), Some(size)) = (by_number.get_mut(number.index()), size) {
            *known = ShardSize { rows: size.rows, bytes: Some(size.bytes) };
        }
    }
    let sizes = by_number;
    let is_citus = app.manager.status().is_partitioned();
    let how = if app.backend == EMBEDDED { NEXT_STEPS } else { NEXT_STEPS_ON_SERVERS };
    let answer = block(move || {
        let observed = Observed {
            map: &map,
            load: &recorded.load.slots,
            sizes: &sizes,
            keys: &recorded.load.keys,
        };
        let advice = advice::advise(&observed, balance_by);
        let mut answer = AdviceAnswer::new(advice, &map, &sizes, (recorded.window, how));
        if is_citus {
            answer.leave_to_citus();
        }
        answer
    });
    let answer = answer.await.map_err(|_| Problem::new(Code::TSR500, "an internal error"))?;
    Ok(HttpResponse::Ok().json(answer))
}

/// Requests of the last minutes.
#[derive(Default)]
struct RecordedLoad {
    load: ObservedLoad,
    /// Length of the window in which they were counted.
    window: Option<Duration>,
}

impl RecordedLoad {
    /// Collects them on a thread that may block for some milliseconds.
    async fn read(metrics: &Arc<MetricsView>) -> Result<Self, Problem> {
        let metrics = Arc::clone(metrics);
        let counted = block(move || Self::count(&metrics)).await;
        counted.map_err(|_| Problem::new(Code::TSR500, "an internal error"))
    }

    fn count(metrics: &MetricsView) -> Self {
        let load = observed_load::count(metrics);
        Self { load, window: Some(observed_load::window(metrics)) }
    }
}

impl AdviceAnswer {
    fn new(
        advice: advice::Advice,
        map: &ShardMap,
        sizes: &[ShardSize],
        (window, follow): (Option<Duration>, &'static str),
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
        Self {
            success: true,
            by: advice.balance_by.name(),
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
        }
    }

    /// Replaces the advice by a remark: Citus places rows itself, so there is one shard and nothing
    /// to plan.
    fn leave_to_citus(&mut self) {
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
