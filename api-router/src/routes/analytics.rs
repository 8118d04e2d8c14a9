//! `GET /api/analytics/metrics`, `/stream`, `/errors`, `/frames`: return the counts of requests,
//! and the errors, that this router has recorded.

mod frames;

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse, get};
use analytics::event_stream::VIEWERS_MAX;
use analytics::{
    ErrorEvent, ErrorGroup, ErrorsParameters, ErrorsQuery, FilterError, MetricsParameters,
    MetricsQuery, Operation, Window, static_assets,
};
use futures_util::StreamExt;
use futures_util::future::ready;
use serde::Serialize;
use utoipa::ToSchema;

use crate::access::caller_recheck::CallerRecheck;
use crate::app::App;
use crate::data_route::ROUTES;
use crate::metrics_view::MetricsAnswer;
use crate::problem::{Code, Problem};
use crate::query::Parameters;
use crate::response_headers::{LookupRefusals, StreamRefusals};

pub(crate) use self::frames::list_frames;

/// Returns the number of data requests and their times, by route and by shard.
///
/// The response also has the current state of the cluster. Rows and bytes of shards are looked up
/// in the background, at most every ten seconds: they are null until they are known.
#[utoipa::path(
    tag = "analytics",
    params(MetricsParameters),
    responses((status = 200, description = "The figures", body = MetricsAnswer), LookupRefusals)
)]
#[get("/api/analytics/metrics")]
pub(crate) async fn read_metrics(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let query = metrics_query(&app, &request)?;
    let answer = app.analytics()?.metrics.answer(query).await?;
    Ok(HttpResponse::Ok().content_type("application/json").body(answer))
}

/// Sends the metrics every second.
///
/// Server-sent events: the name is `metrics`, the data is the response of /api/analytics/metrics.
/// All viewers of the same query share one event; at most 32 may watch at once. The stream ends
/// when the caller loses the right to it.
#[utoipa::path(
    tag = "analytics",
    params(MetricsParameters),
    responses((status = 200, description = "Events without end", body = String, content_type = "text/event-stream"), StreamRefusals)
)]
#[get("/api/analytics/stream")]
pub(crate) async fn stream_metrics(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let query = metrics_query(&app, &request)?;
    let hub = &app.analytics()?.hub;
    if app.is_draining() {
        return Err(Problem::new(Code::TSR005, "this router is shutting down")
            .hint("watch another router, or this one when it is back"));
    }
    let events = hub.watch(query).map_err(|_| {
        Problem::new(Code::TSR005, format!("{VIEWERS_MAX} streams are watched already"))
            .hint("close one of them, or request /api/analytics/metrics now and then")
    })?;
    let recheck = CallerRecheck::of(app.gate.as_ref(), &request);
    Ok(static_assets::events(events.take_while(move |_| ready(recheck.check().is_ok()))))
}

/// Parses the query string of a request for metrics.
fn metrics_query(app: &App, request: &HttpRequest) -> Result<MetricsQuery, Problem> {
    let parameters = Parameters::parse(request.query_string())?;
    parameters.check_names(&["window", "timeRange", "shard", "route", "operation"])?;
    let bad = |error: &dyn std::fmt::Display| Problem::new(Code::TSR100, error.to_string());
    let window = (parameters.single("window")?, parameters.single("timeRange")?);
    let window = Window::from_query(window.0, window.1).map_err(|error| bad(&error))?;
    let shard = parameters.single("shard")?;
    check_shard(app, shard)?;
    let route = parameters.single("route")?;
    if route.is_some_and(|route| !ROUTES.contains(&route)) {
        return Err(bad(&format!("route must be one of {}", ROUTES.join(", "))));
    }
    let operation = parameters.single("operation")?.map(Operation::parse).transpose();
    Ok(MetricsQuery {
        window,
        shard: shard.map(str::to_owned),
        route: route.map(str::to_owned),
        operation: operation.map_err(|error| bad(&error))?,
    })
}

/// Refuses the name of a shard that has never existed. A retired shard is accepted, because its
/// requests and errors stay in the history.
fn check_shard(app: &App, shard: Option<&str>) -> Result<(), Problem> {
    let Some(name) = shard else { return Ok(()) };
    if app.manager.shards().numbers().any(|number| app.manager.shard_name(number) == name) {
        return Ok(());
    }
    let detail = "shard: there is no shard of this name";
    Err(Problem::new(Code::TSR100, detail).hint("/api/shards lists them"))
}

/// Refuses a value that is not the code of a problem.
fn check_code(code: Option<&str>) -> Result<(), Problem> {
    if code.is_none_or(|code| Code::ALL.iter().any(|known| known.name() == code)) {
        return Ok(());
    }
    let detail = "code: there is no such error code";
    Err(Problem::new(Code::TSR100, detail).hint("/errors lists the codes"))
}

/// The last errors, newest first.
#[derive(Serialize, ToSchema)]
pub struct ErrorsAnswer {
    /// Always true.
    success: bool,
    /// Errors since the start, also those no longer kept.
    total: u64,
    /// The errors; under `grouped=true` the groups.
    errors: Vec<ErrorEntry>,
}

/// An error, or several that are alike.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum ErrorEntry {
    /// A single error.
    Single(ErrorEvent),
    /// With `grouped=true`: the errors with one code, shard and route.
    Grouped(ErrorGroup),
}

/// Lists the last errors, newest first; the last 10 000 are kept.
#[utoipa::path(
    tag = "analytics",
    params(ErrorsParameters),
    responses((status = 200, description = "The errors", body = ErrorsAnswer), LookupRefusals)
)]
#[get("/api/analytics/errors")]
pub(crate) async fn list_errors(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let log = &app.analytics()?.errors;
    let parameters = Parameters::parse(request.query_string())?;
    parameters.check_names(&ErrorsQuery::NAMES)?;
    let ErrorsQuery { filter, grouped } = ErrorsQuery::read(|name| parameters.single(name))?;
    check_shard(&app, filter.shard)?;
    check_code(filter.code)?;
    let errors = if grouped {
        log.grouped(&filter).into_iter().map(ErrorEntry::Grouped).collect()
    } else {
        log.query(&filter).into_iter().map(ErrorEntry::Single).collect()
    };
    let total = log.total();
    Ok(HttpResponse::Ok().json(ErrorsAnswer { success: true, total, errors }))
}

impl From<FilterError> for Problem {
    fn from(error: FilterError) -> Self {
        Self::new(Code::TSR100, error.to_string())
    }
}
