//! Routes of metrics: `GET /api/analytics/metrics`, `/stream` and `/errors`, for all routers or for
//! one router.

use std::future::ready;
use std::sync::Arc;

use access::scope::AccessScope;
use actix_web::web::{Data, block};
use actix_web::{HttpRequest, HttpResponse, get};

use crate::app::App;
use crate::fleet_query::{self, ErrorsAnswer, FleetQuery, MetricsAnswer};
use crate::gate::{AccessGate, Credentials};
use crate::parameters::{Parameters, fleet_query};
use crate::problem::{BusyRefusals, Code, GateRefusals, Problem, is_code};
use futures_util::StreamExt;
use recorder::MetricsParameters;
use recorder::{ErrorsParameters, ErrorsQuery};
use web_kit::event_stream::VIEWERS_MAX;
use web_kit::static_assets;

fn parse_query(app: &App, request: &HttpRequest) -> Result<FleetQuery, Problem> {
    let query = fleet_query(request.query_string())?;
    app.known(query.router.as_deref()).map(|()| query)
}

/// Returns the number and the latency of data requests, by route and shard, of all routers
/// together.
///
/// Percentiles come from merged histograms. `routers` lists every router and its state; the metrics
/// include what was collected from a router before it became unreachable.
#[utoipa::path(
    tag = "analytics",
    params(MetricsParameters, ("router" = Option<String>, Query, description = "Only of this router", example = "127.0.0.1:3000")),
    responses((status = 200, description = "The figures", body = MetricsAnswer), GateRefusals)
)]
#[get("/api/analytics/metrics")]
pub(super) async fn read_metrics(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let query = parse_query(&app, &request)?;
    // Merging a week of histograms takes long, so it must not run on a thread that serves requests.
    let answer = block(move || fleet_query::answer(&app.fleet, &query)).await;
    let answer = answer.map_err(|_| Problem::new(Code::TSR500, "an internal error"))?;
    Ok(HttpResponse::Ok().json(answer))
}

/// Streams the metrics once a second.
///
/// The server-sent events have the name `metrics`, and the response of /api/analytics/metrics as
/// data. Streams with the same query share events; at most 32 streams can be open.
#[utoipa::path(
    tag = "analytics",
    params(MetricsParameters, ("router" = Option<String>, Query, description = "Only of this router", example = "127.0.0.1:3000")),
    responses((status = 200, description = "Events without end", body = String, content_type = "text/event-stream"), BusyRefusals)
)]
#[get("/api/analytics/stream")]
pub(super) async fn stream_metrics(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let query = parse_query(&app, &request)?;
    if app.is_draining() {
        return Err(Problem::new(Code::TSR005, "this service is about to end"));
    }
    let events = app.hub.watch(query).map_err(|_| {
        Problem::new(Code::TSR005, format!("{VIEWERS_MAX} streams are watched already"))
            .hint("close one of them, or ask /api/analytics/metrics now and then")
    })?;
    let credentials = app.gate.as_ref().and_then(|gate| gate.credentials(request.headers()));
    let standing = app.gate.clone().zip(credentials);
    let still_allowed = move || {
        let allows = |(gate, credentials): &(Arc<AccessGate>, Credentials)| {
            gate.still_allows(credentials, AccessScope::Analytics)
        };
        standing.as_ref().is_none_or(allows)
    };
    Ok(static_assets::events(events.take_while(move |_| ready(still_allowed()))))
}

/// Lists the newest errors of all routers, newest first; up to 10 000 of each router are kept.
#[utoipa::path(
    tag = "analytics",
    params(ErrorsParameters, ("router" = Option<String>, Query, description = "Only those of this router")),
    responses((status = 200, description = "The errors", body = ErrorsAnswer), GateRefusals)
)]
#[get("/api/analytics/errors")]
pub(super) async fn list_errors(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let names: Vec<&str> = ErrorsQuery::NAMES.into_iter().chain(["router"]).collect();
    let parameters = Parameters::parse(request.query_string(), &names)?;
    let router = parameters.get("router");
    app.known(router)?;
    let query = ErrorsQuery::read(|name| Ok::<_, Problem>(parameters.get(name)))?;
    app.knows_shard(query.filter.shard)?;
    if query.filter.code.is_some_and(|code| !is_code(code)) {
        return Err(Problem::parameter("code: there is no such error code")
            .hint("a code is TSR and three digits, such as TSR201"));
    }
    Ok(HttpResponse::Ok().json(fleet_query::errors(&app.fleet, router, &query)))
}
