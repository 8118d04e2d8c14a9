//! Lab: the page `/lab`, which shows the placement of keys, with its requests; and
//! `/api/lab/nodes`, by which nodes are paused, delayed or cut off.
//!
//! `/api/lab/nodes` is available only with `--lab`, for development and teaching. Faults show how a
//! lagging replica affects reads, and how failures affect guarantees.
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
use crate::body_reader::Members;
use crate::headers::check_content_type;
use crate::problem::{Code, Problem};
use crate::response_headers::LookupRefusals;

/// Longest time for the body to arrive.
const BODY_WAIT: Duration = Duration::from_secs(5);
/// Maximum number of bytes of a body, which contains a state and a delay.
const BODY_BYTES_MAX: usize = 1_024;

/// A node and its faults.
#[derive(Serialize, ToSchema)]
#[schema(as = HeldNode)]
pub struct NodeFaultView {
    /// Name of the node, such as `shard1-replica1`.
    node: String,
    /// `running`, `paused` (it can be reached, but does nothing) or `cut` (it cannot be reached).
    state: &'static str,
    /// Delay of each piece of the node's work, in milliseconds.
    delay_ms: u64,
}

/// All nodes.
#[derive(Serialize, ToSchema)]
#[schema(as = HeldNodes)]
pub struct NodeFaultList {
    /// Always true.
    success: bool,
    /// The nodes of all shards.
    nodes: Vec<NodeFaultView>,
}

/// One node, with its present faults.
#[derive(Serialize, ToSchema)]
#[schema(as = HeldNodeAnswer)]
pub struct NodeFaultAnswer {
    /// Always true.
    success: bool,
    /// The node.
    #[serde(flatten)]
    node: NodeFaultView,
}

/// Change of a node; members that are left out stay as they are.
#[derive(ToSchema)]
#[schema(as = HoldRequest, example = json!({"state": "paused"}))]
pub struct NodeFaultRequest {
    /// `running`, `paused` or `cut`.
    #[expect(dead_code, reason = "describes the body; the members are read without building it")]
    state: Option<String>,
    /// Delay of each piece of the node's work, in milliseconds: 0 to 60 000.
    #[schema(maximum = 60000)]
    #[expect(dead_code, reason = "as above")]
    delay_ms: Option<u32>,
}

fn fault_view(node: String, fault: NodeFault) -> NodeFaultView {
    NodeFaultView { node, state: fault.mode.name(), delay_ms: fault.delay.as_millis() as u64 }
}

/// Lists the faults of each node.
#[utoipa::path(
    tag = "lab",
    operation_id = "list_holds",
    responses((status = 200, description = "All nodes", body = NodeFaultList), LookupRefusals)
)]
#[get("/api/lab/nodes")]
pub(crate) async fn list_faults(app: Data<App>) -> HttpResponse {
    let nodes = app.manager.faults().all().into_iter().map(|(node, fault)| fault_view(node, fault));
    HttpResponse::Ok().json(NodeFaultList { success: true, nodes: nodes.collect() })
}

/// Pauses, delays or cuts off a node, or lets it continue. The response is sent when the change is
/// in force.
#[utoipa::path(
    tag = "lab",
    operation_id = "hold_node",
    params(("node" = String, Path, description = "The node", example = "shard1-replica1")),
    request_body = NodeFaultRequest,
    responses(
        (status = 200, description = "The node, as it is held now", body = NodeFaultAnswer),
        LookupRefusals,
    )
)]
#[put("/api/lab/nodes/{node}")]
pub(crate) async fn set_fault(
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
    // This blocks until the work that the node is doing has ended.
    let app_for_task = app.clone();
    let set = block(move || {
        app_for_task.manager.faults().node(&name).map(|injector| injector.set(fault))
    })
    .await;
    set.map_err(|_| Problem::new(Code::TSR500, "an internal error"))?.ok_or_else(unknown)?;
    Ok(HttpResponse::Ok().json(NodeFaultAnswer { success: true, node: fault_view(node, fault) }))
}

/// Returns the problem of a node that is unknown, or is a PostgreSQL replica. The router can delay
/// or stop its own writes to a primary, but not a replica, to which it does not write.
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
