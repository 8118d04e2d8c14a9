//! `GET /api/health`, `/live`, `/ready`: how the cluster, the process and the router are.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use actix_web::http::StatusCode;
use actix_web::http::header::RETRY_AFTER;
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse, get};
use serde::Serialize;
use shard_manager::manager::ShardReport;
use shard_manager::topology::Role;
use utoipa::ToSchema;

use crate::answer::GateRefusals;
use crate::app::App;
use crate::problem::Problem;
use crate::query::Parameters;

/// How long a node may take to answer a probe.
const PROBE_MAX: Duration = Duration::from_secs(2);

/// How the cluster is.
#[derive(Serialize, ToSchema)]
pub struct HealthAnswer {
    /// Whether anything works.
    success: bool,
    /// `ok`, `degraded` (some shards are down) or `down`.
    status: &'static str,
    /// For each shard whether its primary is up, and its replica (null: it has none).
    health: BTreeMap<String, ShardHealth>,
    /// The nodes of each shard.
    shards: Vec<ShardNodes>,
    /// The version of the shard map.
    epoch: u64,
    /// `off`: there is no cache.
    cache: &'static str,
    /// The version of the router.
    version: &'static str,
    /// Seconds since the router started.
    uptime_s: u64,
    /// What the consistency levels mean here.
    levels: &'static str,
}

/// Whether a shard's nodes are up.
#[derive(Serialize, ToSchema)]
pub struct ShardHealth {
    /// Whether the primary takes writes.
    primary: bool,
    /// Whether a replica answers; null if the shard has none.
    #[schema(required)]
    replica: Option<bool>,
}

/// The nodes of a shard.
#[derive(Serialize, ToSchema)]
pub struct ShardNodes {
    /// The shard.
    shard: String,
    /// Its nodes.
    nodes: Vec<Node>,
}

/// A database.
#[derive(Serialize, ToSchema)]
pub struct Node {
    /// `shard1-primary`.
    node: String,
    /// `primary`.
    role: &'static str,
    /// Whether it does what its role demands.
    up: bool,
    /// How long a probe took, in milliseconds.
    latency_ms: f64,
}

/// Without replicas every level is the primary, and it shares its disk with all other shards.
const LEVELS: &str = "embedded SQLite without replicas: one, quorum and all mean the same, durable on the \
                      shard's primary; all shards share this machine and its disk";

/// The nodes of a report, for an answer.
pub(super) fn nodes(report: &ShardReport) -> Vec<Node> {
    let nodes = report.nodes.iter().map(|node| Node {
        node: node.node.clone(),
        role: Role::Primary.name(),
        up: node.up,
        latency_ms: (node.latency_ms * 1e3).round() / 1e3,
    });
    nodes.collect()
}

/// Tells how every node is.
///
/// 503 when no shard is up.
#[utoipa::path(
    tag = "operations",
    responses(
        (status = 200, description = "ok or degraded", body = HealthAnswer),
        (status = 503, description = "down", body = HealthAnswer),
        GateRefusals,
    )
)]
#[get("/api/health")]
pub(crate) async fn health(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    Parameters::parse(request.query_string())?.check_names(&[])?;
    let reports = app.manager.health(Instant::now() + PROBE_MAX).await;
    let map = app.manager.map();
    let up = reports.iter().filter(|report| report.nodes.iter().all(|node| node.up)).count();
    let (status, code) = match up {
        0 => ("down", StatusCode::SERVICE_UNAVAILABLE),
        up if up < reports.len() => ("degraded", StatusCode::OK),
        _ => ("ok", StatusCode::OK),
    };
    let named = reports.iter().map(|report| {
        let primary = report.nodes.iter().any(|node| node.up);
        (map.topology().name(report.shard).to_owned(), ShardHealth { primary, replica: None })
    });
    let answer = HealthAnswer {
        success: code == StatusCode::OK,
        status,
        health: named.collect(),
        shards: reports
            .iter()
            .map(|report| ShardNodes {
                shard: map.topology().name(report.shard).to_owned(),
                nodes: nodes(report),
            })
            .collect(),
        epoch: map.epoch(),
        cache: "off",
        version: env!("CARGO_PKG_VERSION"),
        uptime_s: app.started.elapsed().as_secs(),
        levels: LEVELS,
    };
    let mut response = HttpResponse::build(code);
    if code == StatusCode::SERVICE_UNAVAILABLE {
        response.insert_header((RETRY_AFTER, "1"));
    }
    Ok(response.json(answer))
}

/// Whether a process or router is well.
#[derive(Serialize, ToSchema)]
pub struct StateAnswer {
    /// Whether it is.
    success: bool,
    /// `live`, `ready` or `draining`.
    status: &'static str,
}

/// Tells that the process runs.
#[utoipa::path(
    tag = "operations",
    responses((status = 200, description = "The process runs", body = StateAnswer), GateRefusals)
)]
#[get("/live")]
pub(crate) async fn live() -> HttpResponse {
    HttpResponse::Ok().json(StateAnswer { success: true, status: "live" })
}

/// Tells whether to send requests here.
#[utoipa::path(
    tag = "operations",
    responses(
        (status = 200, description = "Send requests", body = StateAnswer),
        (status = 503, description = "About to end: send requests elsewhere", body = StateAnswer),
        GateRefusals,
    )
)]
#[get("/ready")]
pub(crate) async fn ready(app: Data<App>) -> HttpResponse {
    if app.is_draining() {
        let state = StateAnswer { success: false, status: "draining" };
        return HttpResponse::ServiceUnavailable().insert_header((RETRY_AFTER, "1")).json(state);
    }
    HttpResponse::Ok().json(StateAnswer { success: true, status: "ready" })
}
