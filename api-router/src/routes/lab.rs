//! Lab: the page `/lab`, which shows the placement of keys, and its requests; `/api/lab/nodes`,
//! with which nodes are paused, delayed or cut off.
//!
//! `/api/lab/nodes` is available with `--lab` only, for development and teaching: faults show the
//! effect of a lagging replica on reads, and the effect of failures on guarantees.
//!
//! **Not here:** the effect of a fault (`shard_manager::engine::fault_injector`).

pub(crate) mod levels;
pub(crate) mod page;
pub(crate) mod placements;
pub(crate) mod writes;

use std::time::{Duration, Instant};

use actix_web::web::{Data, Path, Payload, block};
use actix_web::{HttpRequest, HttpResponse, get, put};
use serde::Serialize;
use shard_manager::engine::fault_injector::{FaultInjector, NodeFault, NodeMode};
use utoipa::ToSchema;

use crate::app::App;
use crate::body::Members;
use crate::headers::check_content_type;
use crate::problem::{Code, Problem};
use crate::response_headers::LookupRefusals;

/// Longest time for the body to arrive.
const BODY_WAIT: Duration = Duration::from_secs(5);
/// Largest body: a state and a delay need no more.
const BODY_BYTES_MAX: usize = 1_024;

/// A node and its faults.
#[derive(Serialize, ToSchema)]
pub struct HeldNode {
    /// `shard1-replica1`.
    node: String,
    /// `running`, `paused` (it is there but does nothing) or `cut` (it cannot be reached).
    state: &'static str,
    /// Delay of each piece of the node's work, in milliseconds.
    delay_ms: u64,
}

/// All nodes.
#[derive(Serialize, ToSchema)]
pub struct HeldNodes {
    /// Always true.
    success: bool,
    /// The nodes of all shards.
    nodes: Vec<HeldNode>,
}

/// One node, as it is held now.
#[derive(Serialize, ToSchema)]
pub struct HeldNodeAnswer {
    /// Always true.
    success: bool,
    /// The node.
    #[serde(flatten)]
    node: HeldNode,
}

/// Change of a node; members that are left out stay as they are.
#[derive(ToSchema)]
#[schema(example = json!({"state": "paused"}))]
pub struct HoldRequest {
    /// `running`, `paused` or `cut`.
    #[expect(dead_code, reason = "describes the body; the members are read without building it")]
    state: Option<String>,
    /// 0 to 60 000.
    #[schema(maximum = 60000)]
    #[expect(dead_code, reason = "as above")]
    delay_ms: Option<u32>,
}

fn held(node: String, fault: NodeFault) -> HeldNode {
    HeldNode { node, state: fault.mode.name(), delay_ms: fault.delay.as_millis() as u64 }
}

/// Lists the faults of each node.
#[utoipa::path(
    tag = "lab",
    responses((status = 200, description = "All nodes", body = HeldNodes), LookupRefusals)
)]
#[get("/api/lab/nodes")]
pub(crate) async fn list_holds(app: Data<App>) -> HttpResponse {
    let nodes = app.manager.faults().all().into_iter().map(|(node, fault)| held(node, fault));
    HttpResponse::Ok().json(HeldNodes { success: true, nodes: nodes.collect() })
}

/// Pauses, delays or cuts a node, or lets it go on. The response is sent when it is in force.
#[utoipa::path(
    tag = "lab",
    params(("node" = String, Path, description = "The node", example = "shard1-replica1")),
    request_body = HoldRequest,
    responses(
        (status = 200, description = "The node, as it is held now", body = HeldNodeAnswer),
        LookupRefusals,
    )
)]
#[put("/api/lab/nodes/{node}")]
pub(crate) async fn hold_node(
    app: Data<App>,
    node: Path<String>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    check_content_type(request.headers())?;
    let deadline = Instant::now() + BODY_WAIT;
    let (bytes, _share) = app.read_body(&request, payload, BODY_BYTES_MAX, deadline).await?;
    let node = node.into_inner();
    let unknown = || no_such_node(&app, &node);
    let before = app.manager.faults().node(&node).ok_or_else(unknown)?.fault();
    let fault = requested(&bytes, before)?;
    let name = node.clone();
    // It waits until the node is at rest.
    let held_up = app.clone();
    let set =
        block(move || held_up.manager.faults().node(&name).map(|injector| injector.set(fault)))
            .await;
    set.map_err(|_| Problem::new(Code::TSR500, "an internal error"))?.ok_or_else(unknown)?;
    Ok(HttpResponse::Ok().json(HeldNodeAnswer { success: true, node: held(node, fault) }))
}

/// Returns the problem of a node that is unknown or cannot be paused: the router controls its own
/// writes to a server of PostgreSQL, not the server.
fn no_such_node(app: &App, node: &str) -> Problem {
    let map = app.manager.map();
    let is_replica =
        |shard| app.manager.status().nodes(shard).1.iter().any(|replica| replica == node);
    if !map.topology().numbers().any(is_replica) {
        return Problem::new(Code::TSR111, "there is no such node");
    }
    Problem::new(
        Code::TSR111,
        format!("{node} is a server of PostgreSQL, which the router cannot hold up"),
    )
    .hint("the primaries can be held up here; a replica stands still after pg_wal_replay_pause()")
}

fn requested(body: &[u8], before: NodeFault) -> Result<NodeFault, Problem> {
    let members = Members::of_body(body)?;
    members.check_names(&["state", "delay_ms"])?;
    let mut fault = before;
    if let Some(name) = members.text("state")? {
        let names = NodeMode::ALL.map(NodeMode::name).join(", ");
        fault.mode = NodeMode::find(&name)
            .ok_or_else(|| Problem::new(Code::TSR101, format!("state must be one of: {names}")))?;
    }
    if let Some(raw) = members.get("delay_ms") {
        let most = FaultInjector::DELAY_MAX.as_millis() as u64;
        let delay = raw.get().parse::<u64>().ok().filter(|ms| *ms <= most);
        fault.delay = delay.map(Duration::from_millis).ok_or_else(|| {
            Problem::new(Code::TSR101, format!("delay_ms must be a number from 0 to {most}"))
        })?;
    }
    Ok(fault)
}
