//! `/api/rebalance` and `POST /api/shards/{name}/drain`: moves slots between shards until each
//! shard has its share, or until one shard has none. Available to callers with the scope `operate`;
//! without access control, rebalances can be planned, begun and commanded only if the router was
//! started with `--operate`.
//!
//! With the engine citus, these requests apply to the nodes of Citus instead of shards.
//!
//! **Not here:** the plan and its moves (`shard_manager::manager`), the body of a request
//! (`request`), the form of responses (`schema`).

mod request;
pub(super) mod schema;

use std::time::Instant;

use actix_web::http::header::LOCATION;
use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse, get, post};
use serde::Serialize;
use shard_manager::engine::rebalance_catalog::RebalanceListError;
use shard_manager::engine::rebalance_record::RebalanceOrder;
use shard_manager::engine::rebalance_view::{RebalanceBegun, RebalanceView};
use shard_manager::error::Error;
use shard_manager::manager::{Rebalances, RebalancesError};
use utoipa::ToSchema;

use self::request::{DrainRequest, RebalanceRequest, drain_request, rebalance_request};
use self::schema::{RebalanceAnswer, RebalancePlanAnswer};
use crate::app::App;
use crate::cluster_change::ClusterChange;
use crate::headers::{deadline, refuse_conditions, refuse_row_headers};
use crate::problem::{Code, Problem};
use crate::query::Parameters;
use crate::response_headers::{MoveLookupRefusals, RebalanceRefusals};
use crate::router_address::router_address;

/// Maximum number of bytes of a body. A placement may name an owner for each range of slots.
const BODY_BYTES_MAX: usize = 1 << 20;

/// Rebalances of a cluster.
#[derive(Serialize, ToSchema)]
pub struct RebalancesAnswer {
    /// Always true.
    success: bool,
    /// The address at which the router was reached: commands go to
    /// `url/api/rebalance/{id}/{command}`.
    url: String,
    /// The rebalances without their moves, the latest first: the one in progress, and the last 20
    /// that have ended.
    #[schema(value_type = Vec<RebalanceAnswer>)]
    rebalances: Vec<RebalanceView>,
}

/// Plans a rebalance, or begins one. If this router ends, another one continues the rebalance.
///
/// With `"dry_run": true` nothing begins, and the response is the plan. A rebalance may be
/// cancelled after any of its moves: by `slots` each of them is an improvement by itself; by `size`
/// and `load` the fullest shard is not fuller after any of them, in the order of the plan. The
/// moves of a `placement` only bring slots to their places. If nothing has to move, none begins.
/// By `size` and `load` the plan is made again from the present sizes and requests when the
/// rebalance begins.
///
/// With the engine citus, Citus plans and carries it out between its nodes: `by` is `slots` or
/// `size`, and `placement`, `rate`, `keep` and If-Match are refused.
#[utoipa::path(
    tag = "placement",
    params(
        ("If-Match" = Option<String>, Header, description = "The epoch that the shard map must have, such as that of a plan", example = "\"1\""),
        ("x-deadline-ms" = Option<u32>, Header, description = "Longest time for an answer; 5000 when not given", minimum = 100, maximum = 60000),
    ),
    request_body = RebalanceRequest,
    responses(
        (status = 200, description = "The plan, with dry_run; otherwise nothing has to move", body = RebalancePlanAnswer),
        (status = 202, description = "The rebalance has begun; Location is its path", body = RebalanceAnswer),
        RebalanceRefusals,
    )
)]
#[post("/api/rebalance")]
pub(crate) async fn begin_rebalance(
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let change = ClusterChange::from_request(&request)?;
    let body = change.read_body(&app, &request, payload, BODY_BYTES_MAX).await?;
    let (draft, dry_run) = rebalance_request(&body)?;
    let rebalances = Rebalances::of(&app.manager);
    if dry_run {
        let plan = rebalances.plan(&draft, change.epoch, change.deadline).await?;
        return Ok(HttpResponse::Ok().json(plan));
    }
    Ok(begun(rebalances.begin(&draft, change.epoch, change.deadline).await?))
}

/// Empties a shard: it gets no more slots, its slots move to the other shards, and it retires once
/// no move needs it. With `"dry_run": true` nothing begins, and the response is the plan.
///
/// With the engine citus the name is that of a node, such as `worker4`, which stays a member until
/// it is removed; `rate`, `keep` and If-Match are refused.
#[utoipa::path(
    tag = "placement",
    params(
        ("name" = String, Path, description = "The shard's name", example = "shard4"),
        ("If-Match" = Option<String>, Header, description = "The epoch that the shard map must have, such as that of a plan", example = "\"1\""),
        ("x-deadline-ms" = Option<u32>, Header, description = "Longest time for an answer; 5000 when not given", minimum = 100, maximum = 60000),
    ),
    request_body(content = Option<DrainRequest>, description = "May be left out"),
    responses(
        (status = 200, description = "The plan, with dry_run", body = RebalancePlanAnswer),
        (status = 202, description = "The shard is being emptied; Location is the path of the rebalance", body = RebalanceAnswer),
        RebalanceRefusals,
    )
)]
#[post("/api/shards/{name}/drain")]
pub(crate) async fn drain_shard(
    app: Data<App>,
    name: Path<String>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let change = ClusterChange::from_request(&request)?;
    let body = change.read_body(&app, &request, payload, BODY_BYTES_MAX).await?;
    let (draft, dry_run) = drain_request(name.into_inner(), &body)?;
    let rebalances = Rebalances::of(&app.manager);
    if dry_run {
        let plan = rebalances.plan(&draft, change.epoch, change.deadline).await?;
        return Ok(HttpResponse::Ok().json(plan));
    }
    Ok(begun(rebalances.begin(&draft, change.epoch, change.deadline).await?))
}

/// Lists the rebalance in progress, and the last ones that have ended.
#[utoipa::path(
    tag = "placement",
    responses((status = 200, description = "The rebalances", body = RebalancesAnswer), MoveLookupRefusals)
)]
#[get("/api/rebalance")]
pub(crate) async fn list_rebalances(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Parameters::parse(request.query_string())?.check_names(&[])?;
    let rebalances = Rebalances::of(&app.manager).list().await?;
    let url = router_address(&app, &request);
    Ok(HttpResponse::Ok().json(RebalancesAnswer { success: true, url, rebalances }))
}

/// Shows a rebalance with its moves.
#[utoipa::path(
    tag = "placement",
    params(("id" = String, Path, description = "The rebalance", example = "9b3e6c0a-52d4-4c5e-8f53-6d1b0c8f2a71")),
    responses((status = 200, description = "The rebalance", body = RebalanceAnswer), MoveLookupRefusals)
)]
#[get("/api/rebalance/{id}")]
pub(crate) async fn find_rebalance(
    app: Data<App>,
    id: Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Parameters::parse(request.query_string())?.check_names(&[])?;
    Ok(HttpResponse::Ok().json(Rebalances::of(&app.manager).get(&id).await?))
}

/// Sends a command to a rebalance and its moves.
///
/// `pause`: the rebalance stops, and nothing is undone. `resume`: it continues. `cancel`: no
/// further move begins, and moves whose target does not own the slots yet are cancelled. Slots that
/// have moved stay where they are.
#[utoipa::path(
    tag = "placement",
    params(
        ("id" = String, Path, description = "The rebalance", example = "9b3e6c0a-52d4-4c5e-8f53-6d1b0c8f2a71"),
        ("order" = String, Path, description = "pause, resume or cancel", example = "pause"),
        ("x-deadline-ms" = Option<u32>, Header, description = "Longest time for an answer; 5000 when not given", minimum = 100, maximum = 60000),
    ),
    responses(
        (status = 200, description = "The rebalance after the order", body = RebalanceAnswer),
        RebalanceRefusals,
    )
)]
#[post("/api/rebalance/{id}/{order}")]
pub(crate) async fn order_rebalance(
    app: Data<App>,
    path: Path<(String, String)>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let headers = request.headers();
    Parameters::parse(request.query_string())?.check_names(&[])?;
    refuse_row_headers(headers)?;
    refuse_conditions(headers)?;
    let deadline = Instant::now() + deadline(headers)?;
    let (id, order) = path.into_inner();
    let order = RebalanceOrder::parse(&order).ok_or_else(no_such_order)?;
    let ordered = Rebalances::of(&app.manager).order(&id, order);
    let ordered = tokio::time::timeout_at(deadline.into(), ordered).await;
    let late = |_elapsed| RebalancesError::from(RebalanceListError::Failed(Error::DeadlinePassed));
    Ok(HttpResponse::Ok().json(ordered.map_err(late)??))
}

fn no_such_order() -> Problem {
    let orders = RebalanceOrder::ALL.map(RebalanceOrder::name).join(", ");
    Problem::new(Code::TSR111, "there is no such order for a rebalance")
        .hint(format!("a rebalance takes these orders: {orders}"))
}

fn begun(begun: RebalanceBegun) -> HttpResponse {
    match begun {
        RebalanceBegun::Settled(plan) => HttpResponse::Ok().json(plan),
        RebalanceBegun::Begun(view) => {
            let location = (LOCATION, format!("/api/rebalance/{}", view.id));
            HttpResponse::Accepted().insert_header(location).json(view)
        }
    }
}
