//! `GET /api/health`, `/live`, `/ready`: report whether the nodes of the cluster fulfil their
//! roles, whether the process runs, and whether the router accepts requests.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use actix_web::http::StatusCode;
use actix_web::http::header::RETRY_AFTER;
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse, get};
use analytics::readiness::{self, StateAnswer};
use serde::Serialize;
use shard_manager::access::scope::AccessScope;
use shard_manager::cache::{BreakerState, CacheStats};
use shard_manager::consistency::Level;
use shard_manager::engine::ReplicaIsolation;
use shard_manager::manager::ShardReport;
use shard_manager::reason::Reason;
#[cfg(feature = "sabotage")]
use shard_manager::sabotage::{self, Mutation};
use shard_manager::shard::NodeHealth;
use shard_manager::topology::Role;
use utoipa::ToSchema;

use crate::app::App;
use crate::headers::time_limit;
use crate::problem::Problem;
use crate::query::Parameters;
use crate::response_headers::CommonRefusals;

/// Longest time to wait for a node's response to a probe.
const PROBE_MAX: Duration = Duration::from_secs(2);

/// Health of the cluster.
#[derive(Serialize, ToSchema)]
pub struct HealthAnswer {
    /// True if a primary takes writes.
    success: bool,
    /// `ok`, `degraded` (some nodes do not fulfil their roles) or `down` (no primary takes writes).
    status: &'static str,
    /// For each shard, whether its primary and a replica are up (null: it has no replica).
    health: BTreeMap<String, ShardHealth>,
    /// Reasons for a status other than `ok`: a sentence for each node and its reason, for each
    /// table that is not written to because it is UNLOGGED, with the statement that corrects it,
    /// and for an audit log that cannot be written.
    degraded: Vec<String>,
    /// The nodes of each shard.
    shards: Vec<ShardNodes>,
    /// The version of the shard map.
    epoch: u64,
    /// State of the cache: `off` (there is none), `ok` or `down` (it does not answer, and is
    /// bypassed until it does). Reads then go to the shards, so this changes no status.
    cache: &'static str,
    /// Rows of writes that wait until a shard accepts their slots, which are fenced or move.
    parked_rows: usize,
    /// The version of the router.
    version: &'static str,
    /// Seconds since the router started.
    uptime_s: u64,
    /// Meaning of the consistency levels for this cluster.
    levels: String,
    /// The promises that this router breaks on purpose.
    #[cfg(feature = "sabotage")]
    sabotage: Vec<&'static str>,
}

/// Health of the cluster, as a caller without the scope `analytics` sees it.
#[derive(Serialize, ToSchema)]
pub struct HealthStatus {
    /// True if a primary takes writes.
    success: bool,
    /// `ok`, `degraded` or `down`.
    status: &'static str,
}

/// State of a shard's primary and replicas.
#[derive(Serialize, ToSchema)]
pub struct ShardHealth {
    /// True if the primary takes writes.
    primary: bool,
    /// True if a replica answers reads; null if the shard has none.
    #[schema(required)]
    replica: Option<bool>,
}

/// The nodes of a shard.
#[derive(Serialize, ToSchema)]
pub struct ShardNodes {
    /// The shard.
    shard: String,
    /// Nodes of the shard.
    nodes: Vec<Node>,
}

/// A node of a shard: one database.
#[derive(Serialize, ToSchema)]
pub struct Node {
    /// Name of the node, such as `shard1-primary`.
    node: String,
    /// `primary` or `replica`.
    role: &'static str,
    /// True if it fulfils its role: a primary takes writes, a replica is read.
    up: bool,
    /// Reasons why it does not fulfil its role; empty if it does.
    reasons: Vec<NodeReason>,
    /// Time that a probe took, in milliseconds.
    latency_ms: f64,
    /// Time since the node last had all changes of the primary, in milliseconds: 0 if it has them
    /// now, null if it has not had them since the router started.
    #[schema(required)]
    lag: Option<f64>,
}

/// A reason why a node does not fulfil its role.
#[derive(Serialize, ToSchema)]
pub struct NodeReason {
    /// Name of the reason, for programs: `writes_stalled`.
    name: &'static str,
    /// A sentence, for people.
    detail: &'static str,
}

/// Returns a sentence about the meaning of the consistency levels in this cluster.
fn levels(isolation: ReplicaIsolation, replicas: usize) -> String {
    match isolation {
        ReplicaIsolation::SameMachine => levels_of_files(replicas),
        ReplicaIsolation::OwnServers => levels_of_servers(replicas),
    }
}

fn levels_of_servers(replicas: usize) -> String {
    let meaning = match replicas {
        0 => "there are no replicas, so one, quorum and all mean the same: on the disk of the primary's server".to_owned(),
        1 => "one is on the disk of the primary's server; quorum and all, which are the same with one replica, on that of \
              the replica's too"
            .to_owned(),
        replicas => format!(
            "one is on the disk of the primary's server, quorum on those of {} of {} nodes, all on those of all",
            Level::Quorum.replicas_needed(replicas) + 1,
            replicas + 1
        ),
    };
    format!(
        "PostgreSQL: {meaning}. Replicas survive the loss of a machine if their servers are on machines of their own"
    )
}

/// Returns the meaning of the levels for SQLite files. It says that primary and replicas share a
/// disk, which users of the levels must know.
fn levels_of_files(replicas: usize) -> String {
    let meaning = match replicas {
        0 => "there are no replicas, so one, quorum and all mean the same: stored in the primary's file".to_owned(),
        1 => "one is stored in the primary's file; quorum and all, which are the same with one replica, in the \
              replica's too"
            .to_owned(),
        replicas => format!(
            "one is stored in the primary's file, quorum in those of {} of {} nodes, all in those of all",
            Level::Quorum.replicas_needed(replicas) + 1,
            replicas + 1
        ),
    };
    format!(
        "embedded SQLite: {meaning}. All files are on this machine and its disk: replicas survive the loss of a \
         file, not that of the disk"
    )
}

/// Returns the nodes of a shard as a response shows them.
pub(super) fn nodes(report: &ShardReport) -> Vec<Node> {
    let nodes = report.nodes.iter().map(|node| Node {
        node: node.node.clone(),
        role: node.role.name(),
        up: node.up,
        reasons: reasons(node),
        latency_ms: milliseconds(node.latency),
        lag: node.lag.map(milliseconds),
    });
    nodes.collect()
}

fn reasons(node: &NodeHealth) -> Vec<NodeReason> {
    let view = |reason: Reason| NodeReason { name: reason.name(), detail: reason.sentence() };
    node.reasons.iter().map(view).collect()
}

/// Returns a sentence for each reason why a node does not fulfil its role.
fn degraded(reports: &[ShardReport]) -> impl Iterator<Item = String> {
    let nodes = reports.iter().flat_map(|report| &report.nodes);
    nodes.flat_map(|node| {
        node.reasons.iter().map(move |reason| format!("{}: {}", node.node, reason.sentence()))
    })
}

/// Returns the sentence about an audit log that cannot be written.
fn unwritten(cause: String) -> String {
    format!("the audit log cannot be written, and its events are lost: {cause}")
}

/// Returns a duration in milliseconds, with three decimals.
fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}

/// Returns the state of every node.
///
/// 503 when no primary is up.
#[utoipa::path(
    tag = "operations",
    responses(
        (status = 200, description = "ok or degraded", body = HealthAnswer),
        (status = 503, description = "down", body = HealthAnswer),
        CommonRefusals,
    )
)]
#[get("/api/health")]
pub(crate) async fn health(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    respond(&app, &request).await
}

/// Returns the response about the state of every node, which several paths serve.
///
/// # Errors
/// TSR100 if there is any parameter, TSR113 if the deadline is invalid.
pub(super) async fn respond(app: &App, request: &HttpRequest) -> Result<HttpResponse, Problem> {
    Parameters::parse(request.query_string())?.check_names(&[])?;
    let patience = time_limit(request.headers(), PROBE_MAX)?;
    let reports = app.manager.status().health(Instant::now() + patience).await;
    let map = app.manager.map();
    let is_up = |report: &ShardReport, role| {
        let mut nodes = report.nodes.iter().filter(|node| node.role == role).peekable();
        nodes.peek()?;
        Some(nodes.any(|node| node.up))
    };
    // A primary that has only missed the deadline, which may be early, may still take writes.
    let may_write = |report: &ShardReport| {
        let mut primaries = report.nodes.iter().filter(|node| node.role == Role::Primary);
        primaries.any(|node| node.up || node.reasons.iter().eq([Reason::NoAnswerInTime]))
    };
    let primaries = reports.iter().filter(|report| may_write(report));
    let unlogged = app.manager.status().unlogged();
    let audit = app.audit.as_ref().and_then(|audit| audit.fault());
    let whole =
        reports.iter().all(|report| report.nodes.iter().all(|node| node.reasons.is_empty()));
    let (status, code) = match primaries.count() {
        0 => ("down", StatusCode::SERVICE_UNAVAILABLE),
        _ if whole && unlogged.is_empty() && audit.is_none() => ("ok", StatusCode::OK),
        _ => ("degraded", StatusCode::OK),
    };
    let named = reports.iter().map(|report| {
        let primary = is_up(report, Role::Primary) == Some(true);
        let replica = is_up(report, Role::Replica);
        (app.manager.shard_name(report.shard).to_owned(), ShardHealth { primary, replica })
    });
    let mut response = HttpResponse::build(code);
    if code == StatusCode::SERVICE_UNAVAILABLE {
        response.insert_header((RETRY_AFTER, "1"));
    }
    let success = code == StatusCode::OK;
    if !app.allows(request, AccessScope::Analytics) {
        return Ok(response.json(HealthStatus { success, status }));
    }
    let answer = HealthAnswer {
        success,
        status,
        health: named.collect(),
        degraded: degraded(&reports).chain(unlogged).chain(audit.map(unwritten)).collect(),
        shards: reports
            .iter()
            .map(|report| ShardNodes {
                shard: app.manager.shard_name(report.shard).to_owned(),
                nodes: nodes(report),
            })
            .collect(),
        epoch: map.epoch(),
        cache: cache(app.manager.status().cache_stats()),
        parked_rows: app.manager.status().parked_writes().rows,
        version: env!("CARGO_PKG_VERSION"),
        uptime_s: app.started.elapsed().as_secs(),
        levels: levels(app.manager.status().isolation(), app.manager.status().replicas()),
        #[cfg(feature = "sabotage")]
        sabotage: broken_promises(),
    };
    Ok(response.json(answer))
}

/// Returns the state of the cache. A cache that is being probed after a failure counts as down.
fn cache(stats: Option<CacheStats>) -> &'static str {
    match stats.map(|stats| stats.breaker) {
        None => "off",
        Some(BreakerState::Closed) => "ok",
        Some(BreakerState::HalfOpen | BreakerState::Open) => "down",
    }
}

#[cfg(feature = "sabotage")]
fn broken_promises() -> Vec<&'static str> {
    // The list of names is valid here, because an unknown one would have ended the process at its
    // start.
    sabotage::active_mutations().unwrap_or_default().into_iter().map(Mutation::name).collect()
}

/// Reports that the process runs.
#[utoipa::path(
    tag = "operations",
    responses((status = 200, description = "The process runs", body = StateAnswer), CommonRefusals)
)]
#[get("/live")]
pub(crate) async fn live(request: HttpRequest) -> Result<HttpResponse, Problem> {
    Parameters::parse(request.query_string())?.check_names(&[])?;
    Ok(readiness::live())
}

/// Reports whether the router accepts requests.
#[utoipa::path(
    tag = "operations",
    responses(
        (status = 200, description = "Send requests", body = StateAnswer),
        (status = 503, description = "About to end: send requests elsewhere", body = StateAnswer),
        CommonRefusals,
    )
)]
#[get("/ready")]
pub(crate) async fn ready(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    Parameters::parse(request.query_string())?.check_names(&[])?;
    Ok(readiness::ready(app.is_draining()))
}
