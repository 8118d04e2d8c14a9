//! `GET /metrics`: returns counts and states in the format of Prometheus and similar scrapers.

use std::sync::Arc;

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse, get};
use analytics::{AccessNow, BackupsNow, CONTENT_TYPE, MemoryNow};
use shard_manager::manager::Backups;

use crate::app::App;
use crate::problem::Problem;
use crate::query::Parameters;
use crate::response_headers::LookupRefusals;

/// Returns counts since the start, and the state of the cluster, for scrapers.
///
/// OpenMetrics 1.0. No key, id or client is in a label. Requests that came with a trace are
/// exemplars of their duration.
#[utoipa::path(
    tag = "analytics",
    responses((status = 200, description = "The metrics", body = String, content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8"), LookupRefusals)
)]
#[get("/metrics")]
pub(crate) async fn scrape(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    Parameters::parse(request.query_string())?.check_names(&[])?;
    let analytics = app.analytics()?;
    let audit = app.audit.as_ref().map(|audit| audit.now());
    let access = app.gate.as_ref().map(|gate| {
        let lanes = app.manager.status().stats().into_iter().map(|shard| shard.lane);
        AccessNow { audit, ..gate.now(lanes.map(|lane| lane.refused).sum()) }
    });
    let errors = Arc::clone(&analytics.errors);
    let backups = app.backups.as_deref().map(backups_now);
    let text = analytics.metrics.exposition(errors, memory_now(&app), access, backups).await?;
    Ok(HttpResponse::Ok().content_type(CONTENT_TYPE).body(text))
}

fn memory_now(app: &App) -> MemoryNow {
    MemoryNow {
        evicted_responses: app.response_budget.evicted(),
        refused_responses: app.response_budget.refused(),
        refused_rows: app.manager.status().refused_reads(),
    }
}

fn backups_now(backups: &Backups) -> BackupsNow {
    let totals = backups.totals();
    BackupsNow {
        is_running: totals.is_running,
        done: totals.done,
        failed: totals.failed,
        cancelled: totals.cancelled,
        last_success_s: totals.last_success_s,
    }
}
