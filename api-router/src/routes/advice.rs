//! `GET /api/advice`: recommends moves of slots after which the load of each shard fits its weight.
//! Reports load that no move can distribute, and the requests that carry out the advice.
//!
//! **Not here:** the analysis (`shard_manager::advice`), the form of the response (`answer`).

mod action;
mod answer;
mod effect;

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::web::{Data, block};
use actix_web::{HttpRequest, HttpResponse, get};
use shard_manager::advice::{self, Advice, BalanceBy, Observed, ShardSize};
use shard_manager::manager::{ObservedLoad, PlannedSlots, RebalancesError};
use shard_manager::shard_map::ShardMap;
use shard_manager::slot_plan::by_group::GroupScene;
use shard_manager::table_group::GroupNumber;

use self::action::Actions;
use self::answer::AdviceAnswer;
use self::effect::{EffectView, KnownMoves};
use crate::app::App;
use crate::headers::time_limit;
use crate::metrics_view::MetricsView;
use crate::observed_load;
use crate::problem::{Code, Problem};
use crate::query::Parameters;
use crate::response_headers::LookupRefusals;
use crate::routes::groups;

/// Longest time to wait for the shards to report their sizes.
const SIZES_MAX: Duration = Duration::from_secs(5);
/// Instructions if the shards are SQLite files.
const NEXT_STEPS: &str = "this is advice: nothing moves by itself. POST /api/rebalance carries it out, with the same by; with \
    {\"dry_run\": true} it shows the moves. `shard-manager rebalance` does the same. \
    A new cluster takes the slots as --placement manual:FIRST-LAST=SHARD,… and the rows by \
    `shard-manager export` and `shard-manager import`";
/// Instructions if the shards are database servers. Their rows are exported with COPY: without
/// Tessera's system columns, which cannot be imported, but with the shard key, because in a table
/// without a routing column nothing else determines the location of a row.
const NEXT_STEPS_ON_SERVERS: &str = "this is advice: nothing moves by itself. POST /api/rebalance carries it out, with the same by; with \
    {\"dry_run\": true} it shows the moves. \
    A new cluster takes them as --placement manual:FIRST-LAST=SHARD,… and the rows by COPY TABLE (shard_key, COLUMN, …) \
    TO STDOUT WITH (FORMAT csv, HEADER) of each shard, with the columns that the table was made with, without slot, version, \
    created_at and updated_at, and `shard-manager import` of that as CSV";
/// Name of the engine whose shards are files.
const EMBEDDED: &str = "sqlite";
/// Returns the slots that should move so that shards carry the share of their weights.
///
/// By load it uses the requests with a key that this router has answered in the last 15 minutes; a
/// router knows no requests of other routers. By size it uses the bytes of the shards. There is no
/// verdict on fewer than 1000 requests, or 100 a shard, or 16 MiB; nothing is advised up to a skew
/// of 1.1, or where chance explains it. Slots that are already being moved are left alone. Nothing
/// is moved here: each finding contains the request that carries it out. In a cluster with several
/// table groups the advice is for one of them, and so are the requests.
#[utoipa::path(
    tag = "placement",
    params(
        ("by" = Option<String>, Query, description = "Quantity to balance: load (the default) or size", pattern = "^(load|size)$", example = "load"),
        ("group" = Option<String>, Query, description = "The table group to advise on; main by default", example = "main"),
    ),
    responses((status = 200, description = "The advice", body = AdviceAnswer), LookupRefusals)
)]
#[get("/api/advice")]
pub(crate) async fn advise(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let parameters = Parameters::parse(request.query_string())?;
    parameters.check_names(&["by", "group"])?;
    let by = parameters.single("by")?.unwrap_or(BalanceBy::Load.name());
    let balance_by = BalanceBy::find(by).ok_or_else(|| {
        Problem::new(Code::TSR100, "by must be load or size").hint("for example ?by=load")
    })?;
    let patience = time_limit(request.headers(), SIZES_MAX)?;
    let recorded = match balance_by {
        BalanceBy::Load => RecordedLoad::read(&app.analytics()?.metrics).await?,
        BalanceBy::Size => RecordedLoad::default(),
    };
    let map = app.manager.map();
    let group = parameters.single("group")?.map(|name| groups::find(&map, name)).transpose()?;
    let group = group.unwrap_or(GroupNumber::MAIN);
    let deadline = Instant::now() + patience;
    let sizes = sizes(&app, &map, deadline).await;
    let known = KnownMoves::read(&app, &map, deadline).await;
    let is_citus = app.manager.status().is_partitioned();
    let how = if app.backend == EMBEDDED { NEXT_STEPS } else { NEXT_STEPS_ON_SERVERS };
    let named = (map.groups().count() > 1).then(|| map.groups().name_of(group).to_owned());
    let actions = Actions::of(&app, &request, named.clone());
    let answer = block(move || {
        let (advice, effect) = if map.groups().are_several() {
            advise_group(balance_by, (&map, group), &recorded, (&sizes, known.as_ref()))?
        } else {
            let observed = Observed {
                map: &map,
                load: &recorded.load.slots,
                sizes: &sizes,
                keys: &recorded.load.keys,
                open: known.as_ref().and_then(KnownMoves::open),
                first_slot: 0,
            };
            let advice = advice::advise(&observed, balance_by);
            let effect = EffectView::of(known.as_ref(), &advice, (&observed, recorded.window));
            (advice, effect)
        };
        let follow = (recorded.window, how);
        let advised = AdviceAnswer::new(advice, (&map, &sizes), follow, (&actions, effect));
        let mut answer = advised.of_group(named);
        if is_citus {
            answer.leave_to_citus();
        } else if known.is_none() {
            answer.withhold_actions();
        }
        Ok::<_, Problem>(answer)
    });
    let answer = answer.await.map_err(|_| Problem::new(Code::TSR500, "an internal error"))??;
    Ok(HttpResponse::Ok().json(answer))
}

/// Returns the advice for one of several table groups, and the effect of earlier moves of its
/// slots.
fn advise_group(
    balance_by: BalanceBy,
    (map, group): (&ShardMap, GroupNumber),
    recorded: &RecordedLoad,
    (sizes, known): (&[ShardSize], Option<&KnownMoves>),
) -> Result<(Advice, EffectView), Problem> {
    let settled = PlannedSlots::of(map, &[]);
    let slots = known.map_or(&settled, KnownMoves::planned);
    let own = GroupScene::of(map, &slots.scene(map, sizes), group);
    let own = own.map_err(|fault| Problem::from(RebalancesError::from(fault)))?;
    let (load, keys) = (own.load(&recorded.load.slots), own.keys(&recorded.load.keys));
    let observed = own.observed(load, &keys);
    let advice = advice::advise(&observed, balance_by);
    let effect = EffectView::of(known, &advice, (&observed, recorded.window));
    Ok((own.with_own_numbers(advice), effect))
}

/// Returns the sizes of the shards, indexed by shard number. Those that do not respond before the
/// deadline are unknown.
async fn sizes(app: &App, map: &ShardMap, deadline: Instant) -> Vec<ShardSize> {
    let mut sizes = vec![ShardSize::default(); map.topology().len()];
    for (number, size) in app.manager.status().size_estimates(deadline).await {
        if let (Some(known), Some(size)) = (sizes.get_mut(number.index()), size) {
            *known = ShardSize { rows: size.rows, bytes: Some(size.bytes) };
        }
    }
    sizes
}

/// Load that this router has recorded in the last minutes.
#[derive(Default)]
struct RecordedLoad {
    load: ObservedLoad,
    /// Length of the window in which the requests were counted.
    window: Option<Duration>,
}

impl RecordedLoad {
    /// Counts the recorded requests on a separate thread, because that may block for some
    /// milliseconds.
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
