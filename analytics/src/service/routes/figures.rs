//! `GET /api/analytics/metrics`, `/stream`, `/errors`: what happened and how fast, of all routers or of one.

use actix_web::http::header::{CACHE_CONTROL, HeaderName};
use actix_web::web::{Data, block};
use actix_web::{HttpRequest, HttpResponse, get};
use utoipa::IntoParams;

use crate::errors::ErrorFilter;
use crate::live::VIEWERS_MAX;
use crate::service::app::App;
use crate::service::parameters::{Parameters, question};
use crate::service::problem::{BusyRefusals, Code, GateRefusals, Problem};
use crate::service::question::{self, ErrorsAnswer, MetricsAnswer, Question};

/// Proxies that gather what they hand on must not gather a stream.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Which requests the figures are of; all of the last five minutes, of all routers, when nothing is said.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the query string, which is read without building it")]
struct MetricsParameters {
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
    /// Only of this router.
    #[param(example = "127.0.0.1:3000")]
    router: Option<String>,
}

fn asked(app: &App, request: &HttpRequest) -> Result<Question, Problem> {
    let question = question(request.query_string())?;
    app.known(question.router.as_deref()).map(|()| question)
}

/// Tells how many data requests were answered, how fast, and by which shards: by all routers together.
///
/// Percentiles come from merged histograms. `routers` tells of each router whether it answers; one that is away counts with
/// what was collected from it before.
#[utoipa::path(
    tag = "analytics",
    params(MetricsParameters),
    responses((status = 200, description = "The figures", body = MetricsAnswer), GateRefusals)
)]
#[get("/api/analytics/metrics")]
pub(super) async fn read_metrics(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let question = asked(&app, &request)?;
    // Merging a week of histograms takes a while: not on a thread that serves requests.
    let answer = block(move || question::answer(&app.fleet, &question)).await;
    let answer = answer.map_err(|_| Problem::new(Code::TSR500, "an internal error"))?;
    Ok(HttpResponse::Ok().json(answer))
}

/// The figures again each second.
///
/// Server-sent events: the name is `metrics`, the data what /api/analytics/metrics would answer. All who ask the same share
/// one event; at most 32 watch at once.
#[utoipa::path(
    tag = "analytics",
    params(MetricsParameters),
    responses((status = 200, description = "Events without end", body = String, content_type = "text/event-stream"), BusyRefusals)
)]
#[get("/api/analytics/stream")]
pub(super) async fn stream_metrics(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let question = asked(&app, &request)?;
    if app.is_draining() {
        return Err(Problem::new(Code::TSR005, "this service is about to end"));
    }
    let events = app.hub.watch(question).map_err(|_| {
        Problem::new(Code::TSR005, format!("{VIEWERS_MAX} streams are watched already"))
            .hint("close one of them, or ask /api/analytics/metrics now and then")
    })?;
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((X_ACCEL_BUFFERING, "no"))
        .streaming(events))
}

/// Tells the last errors of all routers, newest first; the last 10 000 of each are kept.
#[utoipa::path(
    tag = "analytics",
    params(
        ("limit" = Option<u32>, Query, description = "Most errors; 50 when not given", minimum = 1, maximum = 1000),
        ("count" = Option<u32>, Query, description = "As limit", minimum = 1, maximum = 1000),
        ("since" = Option<String>, Query, description = "Only later ones: RFC 3339, or milliseconds since 1970"),
        ("shard" = Option<String>, Query, description = "Only those of this shard"),
        ("code" = Option<String>, Query, description = "Only those of this code", example = "TSR201"),
        ("grouped" = Option<bool>, Query, description = "Counted by code, shard and route"),
        ("router" = Option<String>, Query, description = "Only those of this router"),
    ),
    responses((status = 200, description = "The errors", body = ErrorsAnswer), GateRefusals)
)]
#[get("/api/analytics/errors")]
pub(super) async fn list_errors(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let names = ["limit", "count", "since", "shard", "code", "grouped", "router"];
    let parameters = Parameters::parse(request.query_string(), &names)?;
    let router = parameters.get("router");
    app.known(router)?;
    let mut filter = ErrorFilter::default();
    let limit = match (parameters.get("limit"), parameters.get("count")) {
        (Some(_), Some(_)) => {
            return Err(Problem::parameter("limit and count are the same; give one"));
        }
        (limit, count) => limit.or(count),
    };
    if let Some(limit) = limit {
        filter.limit = ErrorFilter::parse_limit(limit).map_err(Problem::parameter)?;
    }
    if let Some(since) = parameters.get("since") {
        filter.since_ms = Some(ErrorFilter::parse_since(since).map_err(Problem::parameter)?);
    }
    filter.shard = parameters.get("shard");
    filter.code = parameters.get("code");
    let grouped = match parameters.get("grouped") {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(Problem::parameter("grouped must be true or false")),
    };
    Ok(HttpResponse::Ok().json(question::errors(&app.fleet, router, &filter, grouped)))
}
