//! `GET /api/analytics/metrics`, `/api/analytics/errors`: what happened and how fast.

use actix_web::web::{Data, block};
use actix_web::{HttpRequest, HttpResponse, get};
use analytics::{ErrorEvent, ErrorFilter, ErrorGroup, Metrics, Window};
use serde::Serialize;
use utoipa::ToSchema;

use crate::answer::LookupRefusals;
use crate::app::App;
use crate::problem::{Code, Problem};
use crate::query::Parameters;

/// The figures of a window.
#[derive(Serialize, ToSchema)]
pub struct MetricsAnswer {
    /// Always true.
    success: bool,
    /// The figures.
    metrics: Metrics,
}

/// Tells how many data requests were answered, how fast, and by which shards.
#[utoipa::path(
    tag = "analytics",
    params(
        ("window" = Option<String>, Query, description = "1m, 5m, 15m or 1h; 5m when not given", example = "5m"),
        ("timeRange" = Option<u32>, Query, description = "The window in milliseconds instead", minimum = 1, maximum = 3600000),
    ),
    responses((status = 200, description = "The figures", body = MetricsAnswer), LookupRefusals)
)]
#[get("/api/analytics/metrics")]
pub(crate) async fn read_metrics(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let parameters = Parameters::parse(request.query_string())?;
    parameters.check_names(&["window", "timeRange"])?;
    let window = (parameters.single("window")?, parameters.single("timeRange")?);
    let window = Window::from_query(window.0, window.1)
        .map_err(|error| Problem::new(Code::TSR100, error.to_string()))?;
    // Merging an hour of histograms takes milliseconds: not on a thread that serves requests.
    let metrics = block(move || app.recorder.snapshot(window)).await;
    let metrics = metrics.map_err(|_| Problem::new(Code::TSR500, "an internal error"))?;
    Ok(HttpResponse::Ok().json(MetricsAnswer { success: true, metrics }))
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

/// Tells the last errors, newest first; the last 1 000 are kept.
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
        app.errors.grouped(&filter).into_iter().map(ErrorEntry::Grouped).collect()
    } else {
        app.errors.query(&filter).into_iter().map(ErrorEntry::Single).collect()
    };
    let total = app.errors.total();
    Ok(HttpResponse::Ok().json(ErrorsAnswer { success: true, total, errors }))
}
