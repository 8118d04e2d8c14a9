//! `GET /api/advice`: which slots should move so that shards carry their share, and what no move can change.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::web::{Data, block};
use actix_web::{HttpRequest, HttpResponse, get};
use analytics::{ClusterNow, MetricsQuery, Window, figures};
use serde::Serialize;
use shard_manager::advice::{
    self, BalanceBy, HotSpot, KeyLoad, Move, Observed, ShardOutlook, ShardSize, SlotLoad, Verdict,
};
use shard_manager::keyspace::Slot;
use shard_manager::shard_map::ShardMap;
use shard_manager::store::postgres::citus::MOVES;
use shard_manager::topology::ShardIndex;
use utoipa::ToSchema;

use crate::answer::LookupRefusals;
use crate::app::App;
use crate::figures::Figures;
use crate::problem::{Code, Problem};
use crate::query::Parameters;

/// Finished minutes whose requests count, beside the running one: all that are kept.
const MINUTES: u64 = 15;
/// How long shards may take to tell what they hold.
const SIZES_MAX: Duration = Duration::from_secs(5);
/// What whoever follows the advice can do with embedded shards.
const HOW: &str = "this is advice: nothing moves by itself, and slots of a running cluster cannot be moved yet. \
    A new cluster takes them as --placement manual:FIRST-LAST=SHARD,… and the rows by \
    `shard-manager export` and `shard-manager import`";
/// The same with servers, whose rows are theirs to export: the columns that are Tessera's own cannot be imported, and
/// only the key says where a row belongs whose table has no routing column.
const HOW_OF_SERVERS: &str = "this is advice: nothing moves by itself, and slots of a running cluster cannot be moved yet. \
    A new cluster takes them as --placement manual:FIRST-LAST=SHARD,… and the rows by COPY TABLE (shard_key, COLUMN, …) \
    TO STDOUT WITH (FORMAT csv, HEADER) of each shard, with the columns that the table was made with, without slot, version, \
    created_at and updated_at, and `shard-manager import` of that as CSV";
/// How the engine is called whose shards are files.
const EMBEDDED: &str = "sqlite";
/// The verdict where the map does not say where rows lie.
const LEFT_TO_CITUS: &str = "left_to_citus";

/// What should move.
#[derive(Serialize, ToSchema)]
pub struct AdviceAnswer {
    /// Always true.
    success: bool,
    /// What is to be even: `load` or `size`.
    by: &'static str,
    /// `balanced`, `skewed`, `hot` (a slot outweighs any shard), `too_little_to_say` or, with the engine citus,
    /// `left_to_citus`.
    verdict: &'static str,
    /// Why, as a sentence.
    because: String,
    /// What can be done with it, as a sentence.
    how: &'static str,
    /// The version of the shard map that it is about.
    epoch: u64,
    /// `requests` or `bytes`: what `total` and `carries` count.
    unit: &'static str,
    /// What was counted in all. Requests are those with a key.
    total: u64,
    /// Since how many seconds requests were counted; null by size.
    #[schema(required)]
    window_s: Option<f64>,
    /// What the fullest shard carries of its fair share: 1 is even, and up to 1.1 nothing is advised.
    skew: f64,
    /// The same after all moves, if what is asked for stays the same.
    skew_after: f64,
    /// The shards, in their order.
    shards: Vec<ShardOutlookView>,
    /// What should move, in this order, at most 32: each by itself makes it better.
    moves: Vec<MoveView>,
    /// Slots that outweigh what any shard should carry, the heaviest first: no move helps them.
    hot: Vec<HotSpotView>,
}

/// What a shard carries, and would carry after all moves.
#[derive(Serialize, ToSchema)]
#[schema(as = ShardOutlook)]
pub struct ShardOutlookView {
    /// The shard.
    shard: String,
    /// Its weight.
    weight: u32,
    /// Its slots.
    slots: usize,
    /// Its slots after all moves.
    slots_after: usize,
    /// What it carries: requests or bytes.
    carries: u64,
    /// The same as a part of all, 0 to 1.
    share: f64,
    /// The part that its weight demands.
    fair_share: f64,
    /// Its part after all moves.
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
    /// Who has them.
    from: String,
    /// Who should have them.
    to: String,
    /// First and last slot of each range, both included.
    ranges: Vec<(u16, u16)>,
    /// How many slots.
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
    /// The part of the giver after this move and those before it.
    from_share_after: f64,
    /// The part of the taker after this move and those before it.
    to_share_after: f64,
}

/// A slot that outweighs what any shard should carry.
#[derive(Serialize, ToSchema)]
#[schema(as = HotSpot)]
pub struct HotSpotView {
    /// The slot.
    slot: u16,
    /// Who has it.
    shard: String,
    /// Its part of all requests with a key.
    share: f64,
    /// The largest part that a shard should carry.
    fair_share: f64,
    /// The key that outweighs it alone; null, if several keys do so together.
    #[schema(required)]
    key: Option<String>,
    /// That key's part of all requests with a key.
    #[schema(required)]
    key_share: Option<f64>,
}

/// Tells which slots should move so that shards carry what their weights say.
///
/// By load it judges by the requests with a key that this router has answered in the last 15 minutes; a router knows of no
/// other router's. By size it judges by the bytes that shards hold. Nothing is said of fewer than 1000 requests, or 100 a
/// shard, or 16 MiB; nothing is advised up to a skew of 1.1, or where chance explains it. Nothing is moved.
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
    let heat = match balance_by {
        BalanceBy::Load => Heat::of(&app.analytics()?.figures).await?,
        BalanceBy::Size => Heat::default(),
    };
    let sizes = app.manager.size_estimates(Instant::now() + SIZES_MAX).await;
    let sizes: Vec<ShardSize> = sizes
        .into_iter()
        .map(|told| {
            told.map_or_else(ShardSize::default, |told| ShardSize {
                rows: told.rows,
                bytes: Some(told.bytes),
            })
        })
        .collect();
    let map = app.manager.map();
    let is_citus = app.manager.is_citus();
    let how = if app.backend == EMBEDDED { HOW } else { HOW_OF_SERVERS };
    let answer = block(move || {
        let observed = Observed { map: &map, load: &heat.load, sizes: &sizes, keys: &heat.keys };
        let advice = advice::advise(&observed, balance_by);
        let mut answer = AdviceAnswer::new(advice, &map, &sizes, (heat.window, how));
        if is_citus {
            answer.leave_to_citus();
        }
        answer
    });
    let answer = answer.await.map_err(|_| Problem::new(Code::TSR500, "an internal error"))?;
    Ok(HttpResponse::Ok().json(answer))
}

/// What was asked for in the last minutes.
#[derive(Default)]
struct Heat {
    load: Vec<SlotLoad>,
    keys: Vec<KeyLoad>,
    /// For how long it was counted.
    window: Option<Duration>,
}

impl Heat {
    /// Made where it may take some milliseconds.
    async fn of(figures: &Arc<Figures>) -> Result<Self, Problem> {
        let figures = Arc::clone(figures);
        let counted = block(move || Self::count(&figures)).await;
        counted.map_err(|_| Problem::new(Code::TSR500, "an internal error"))
    }

    fn count(counted: &Figures) -> Self {
        let recorder = &counted.recorder;
        let load = recorder.slot_load(MINUTES).into_iter();
        let load = load.map(|slot| SlotLoad { reads: slot.reads, writes: slot.writes }).collect();
        let window = Window::parse("15m").unwrap_or_default();
        let query = MetricsQuery { window, ..MetricsQuery::default() };
        let at_ms = recorder.at_ms();
        let metrics = figures(&[recorder.history()], &query, &ClusterNow::default(), at_ms);
        let keys = metrics.hot_keys.into_iter().filter_map(|hot| {
            // What may be the count of others is not held against a key.
            let requests = hot.requests.saturating_sub(hot.error);
            Some(KeyLoad { key: hot.key, slot: Slot::new(hot.slot?)?, requests })
        });
        let running = Duration::from_millis(at_ms % 60_000);
        let most = Duration::from_secs(60 * MINUTES) + running;
        let window = Some(recorder.started().elapsed().min(most));
        Self { load, keys: keys.collect(), window }
    }
}

impl AdviceAnswer {
    fn new(
        advice: advice::Advice,
        map: &ShardMap,
        sizes: &[ShardSize],
        (window, follow): (Option<Duration>, &'static str),
    ) -> Self {
        let name = |shard: ShardIndex| map.topology().name(shard).to_owned();
        let unit = match advice.balance_by {
            BalanceBy::Load => "requests",
            BalanceBy::Size => "bytes",
        };
        let how = match advice.verdict {
            Verdict::Skewed | Verdict::Hot if !advice.moves.is_empty() => follow,
            Verdict::Skewed | Verdict::Hot => "no move helps: what is heavy here cannot be split",
            Verdict::Balanced | Verdict::TooLittleToSay => "nothing has to be done",
        };
        let shard = |(outlook, size): (&ShardOutlook, &ShardSize)| ShardOutlookView {
            shard: name(outlook.shard),
            weight: map.topology().shards()[outlook.shard.index()].weight,
            slots: outlook.slots,
            slots_after: outlook.slots_after,
            carries: outlook.carries,
            share: outlook.share,
            fair_share: outlook.fair_share,
            share_after: outlook.share_after,
            rows: size.rows,
            bytes: size.bytes,
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
            shards: advice.shards.iter().zip(sizes).map(shard).collect(),
            moves: advice.moves.into_iter().map(|step| moved(step, name)).collect(),
            hot: advice.hot.into_iter().map(|spot| hot(spot, name)).collect(),
        }
    }

    /// Where Citus places rows, there is one shard and nothing to plan.
    fn leave_to_citus(&mut self) {
        self.verdict = LEFT_TO_CITUS;
        self.because = "Citus places the rows of this cluster, not the shard map".to_owned();
        self.how = MOVES;
    }
}

fn moved(step: Move, name: impl Fn(ShardIndex) -> String) -> MoveView {
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

fn hot(spot: HotSpot, name: impl Fn(ShardIndex) -> String) -> HotSpotView {
    HotSpotView {
        slot: spot.slot.number(),
        shard: name(spot.shard),
        share: spot.share,
        fair_share: spot.fair_share,
        key: spot.key,
        key_share: spot.key_share,
    }
}
