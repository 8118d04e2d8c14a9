//! `GET /api/analytics/metrics`, `/stream`, `/errors`, `/frames`: what happened and how fast.

mod frames;

use actix_web::http::header::{CACHE_CONTROL, HeaderName, HeaderValue};
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse, get};
use analytics::live::VIEWERS_MAX;
use analytics::{ErrorEvent, ErrorFilter, ErrorGroup, MetricsQuery, Operation, Window};
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use crate::answer::{LookupRefusals, StreamRefusals};
use crate::app::App;
use crate::data_route::ROUTES;
use crate::figures::MetricsAnswer;
use crate::problem::{Code, Problem};
use crate::query::Parameters;

pub(crate) use self::frames::list_frames;

/// Proxies that gather what they hand on must not gather a stream.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Which requests the figures are of; all of the last five minutes when nothing is said.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the query string, which is read without building it")]
pub(crate) struct MetricsParameters {
    /// How far back; 5m when not given.
    #[param(inline, pattern = "^(1m|5m|15m|1h|6h|24h|7d)$", example = "5m")]
    window: Option<String>,
    /// The window in milliseconds instead.
    #[param(rename = "timeRange", minimum = 1, maximum = 3600000)]
    time_range: Option<u32>,
    /// Only requests that this shard alone was asked for.
    #[param(example = "shard1")]
    shard: Option<String>,
    /// Only requests for this path, as it is declared.
    #[param(example = "/api/read")]
    route: Option<String>,
    /// Only reads, or only writes.
    #[param(inline, pattern = "^(read|write)$")]
    operation: Option<String>,
}

/// Tells how many data requests were answered, how fast, and by which shards.
///
/// Also how the cluster is now. Rows and bytes of shards are looked up beside the requests, at most every ten seconds: they
/// are null until they are known.
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
    let answer = app.analytics()?.figures.answer(query).await?;
    Ok(HttpResponse::Ok().content_type("application/json").body(answer))
}

/// The figures again each second.
///
/// Server-sent events: the name is `metrics`, the data what /api/analytics/metrics would answer. All who ask the same share
/// one event; at most 32 watch at once.
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
        return Err(Problem::new(Code::TSR005, "this router is about to end")
            .hint("watch another router, or this one when it is back"));
    }
    let events = hub.watch(query).map_err(|_| {
        Problem::new(Code::TSR005, format!("{VIEWERS_MAX} streams are watched already"))
            .hint("close one of them, or ask /api/analytics/metrics now and then")
    })?;
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header((CACHE_CONTROL, HeaderValue::from_static("no-store")))
        .insert_header((X_ACCEL_BUFFERING, HeaderValue::from_static("no")))
        .streaming(events))
}

/// What the query string asks for.
fn metrics_query(app: &App, request: &HttpRequest) -> Result<MetricsQuery, Problem> {
    let parameters = Parameters::parse(request.query_string())?;
    parameters.check_names(&["window", "timeRange", "shard", "route", "operation"])?;
    let bad = |error: &dyn std::fmt::Display| Problem::new(Code::TSR100, error.to_string());
    let window = (parameters.single("window")?, parameters.single("timeRange")?);
    let window = Window::from_query(window.0, window.1).map_err(|error| bad(&error))?;
    let shard = parameters.single("shard")?;
    if shard.is_some_and(|shard| app.manager.map().topology().find(shard).is_none()) {
        return Err(bad(&"shard: there is no shard of this name").hint("/api/shards lists them"));
    }
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
    /// One by one.
    Single(ErrorEvent),
    /// `grouped=true`: by code, shard and route.
    Grouped(ErrorGroup),
}

/// Tells the last errors, newest first; the last 10 000 are kept.
#[utoipa::path(
    tag = "analytics",
    params(
        ("limit" = Option<u32>, Query, description = "Most errors; 50 when not given", minimum = 1, maximum = 1000),
        ("count" = Option<u32>, Query, description = "As limit", minimum = 1, maximum = 1000),
        ("since" = Option<String>, Query, description = "Only later ones: RFC 3339, or milliseconds since 1970"),
        ("shard" = Option<String>, Query, description = "Only those of this shard"),
        ("code" = Option<String>, Query, description = "Only those of this code", example = "TSR201"),
        ("grouped" = Option<bool>, Query, description = "Counted by code, shard and route"),
    ),
    responses((status = 200, description = "The errors", body = ErrorsAnswer), LookupRefusals)
)]
#[get("/api/analytics/errors")]
pub(crate) async fn list_errors(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let log = &app.analytics()?.errors;
    let parameters = Parameters::parse(request.query_string())?;
    parameters.check_names(&["limit", "count", "since", "shard", "code", "grouped"])?;
    let bad = |error: &dyn std::fmt::Display| Problem::new(Code::TSR100, error.to_string());
    let mut filter = ErrorFilter::default();
    let limit = (parameters.single("limit")?, parameters.single("count")?);
    if let (Some(_), Some(_)) = limit {
        return Err(bad(&"limit and count are the same; give one"));
    }
    if let Some(limit) = limit.0.or(limit.1) {
        filter.limit = ErrorFilter::parse_limit(limit).map_err(|error| bad(&error))?;
    }
    if let Some(since) = parameters.single("since")? {
        filter.since_ms = Some(ErrorFilter::parse_since(since).map_err(|error| bad(&error))?);
    }
    filter.shard = parameters.single("shard")?;
    filter.code = parameters.single("code")?;
    let grouped = match parameters.single("grouped")? {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(bad(&"grouped must be true or false")),
    };
    let errors = if grouped {
        log.grouped(&filter).into_iter().map(ErrorEntry::Grouped).collect()
    } else {
        log.query(&filter).into_iter().map(ErrorEntry::Single).collect()
    };
    let total = log.total();
    Ok(HttpResponse::Ok().json(ErrorsAnswer { success: true, total, errors }))
}
