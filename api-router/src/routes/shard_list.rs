//! `GET /api/shards`, `/api/shards/{name}`: return the shards with their nodes, slots and tables.
//!
//! **Not here:** changes of shards (`shard_changes`), the shard of a key (`placement`).

use std::time::{Duration, Instant};

use actix_web::http::header::ETAG;
use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse, get};
use serde::Serialize;
use shard_manager::assembly::CITUS_MOVES;
use shard_manager::engine::WorkerNode;
use shard_manager::engine::node_distributor::MemberState;
use shard_manager::manager::ShardReport;
use shard_manager::shard_map::ShardMap;
use shard_manager::topology::{ShardNumber, ShardState};
use utoipa::ToSchema;

use super::health::{Node, nodes};
use crate::app::App;
use crate::headers::time_limit;
use crate::problem::{Code, Problem};
use crate::query::Parameters;
use crate::response_headers::LookupRefusals;

/// Longest time to wait for sizes: to determine them, a shard reads every page of its file.
const SIZES_MAX: Duration = Duration::from_secs(10);

/// All shards.
#[derive(Serialize, ToSchema)]
pub struct ShardsAnswer {
    /// Always true.
    success: bool,
    /// The version of the shard map.
    epoch: u64,
    /// Meaning of `bytes` of a table.
    bytes_are: &'static str,
    /// The shards in their order.
    shards: Vec<ShardView>,
}

/// Explanation of the sizes of tables.
const BYTES_ARE: &str = "pages in use by the table and its indexes on the primary; a file on the disk is larger: it holds \
                         free pages, the change log and the write-ahead log as well";

/// A shard, with its nodes, slots and tables.
#[derive(Serialize, ToSchema)]
pub struct ShardView {
    /// Name of the shard.
    shard: String,
    /// Number of the shard, which is never given to another one.
    number: u16,
    /// `joining`, `serving` or `draining`. A shard that has joined through another router is
    /// `joining` until this router has opened it.
    state: &'static str,
    /// Weight of the shard.
    weight: u32,
    /// Number of its slots.
    slots: usize,
    /// Ranges of slots: first and last slot, both included.
    ranges: Vec<(u16, u16)>,
    /// Nodes of the shard; empty until this router has opened it.
    nodes: Vec<Node>,
    /// Content of each table; null if the shard did not answer.
    #[schema(required)]
    tables: Option<Vec<TableView>>,
    /// Only with the engine citus: the nodes of the Citus cluster, as its coordinator knows them.
    #[serde(skip_serializing_if = "Option::is_none")]
    citus: Option<CitusView>,
}

/// The nodes of a Citus cluster, which places rows itself.
#[derive(Serialize, ToSchema)]
#[schema(as = Citus)]
pub struct CitusView {
    /// All nodes, the coordinator first.
    nodes: Vec<CitusNodeView>,
    /// Method of moving rows.
    moves: &'static str,
}

/// One node of a Citus cluster.
#[derive(Serialize, ToSchema)]
#[schema(as = CitusNode)]
pub struct CitusNodeView {
    /// `coordinator`, or `worker` and its group, by which the coordinator knows its address.
    node: String,
    /// The group of nodes that it belongs to; 0 is the coordinator's.
    group: i64,
    /// `primary`, `secondary` or `unavailable`.
    role: String,
    /// True if Citus sends queries there.
    active: bool,
    /// `serving`; `draining` if it gets no rows; `coordinating` for a coordinator without rows.
    state: &'static str,
    /// Number of Citus' own shards on the node, for all tables.
    shards: i64,
    /// Bytes of these shards.
    bytes: i64,
}

/// Number of the node group of the coordinator.
const COORDINATOR: i64 = 0;

fn state_of(node: &WorkerNode) -> &'static str {
    match (node.gets_rows, node.group, node.shards) {
        (true, _, _) => MemberState::Serving.name(),
        (false, COORDINATOR, 0) => "coordinating",
        (false, _, _) => MemberState::Draining.name(),
    }
}

fn citus(nodes: &[WorkerNode]) -> Option<CitusView> {
    let view = |node: &WorkerNode| CitusNodeView {
        node: node.node.clone(),
        group: node.group,
        role: node.role.clone(),
        active: node.active,
        state: state_of(node),
        shards: node.shards,
        bytes: node.bytes,
    };
    let nodes: Vec<CitusNodeView> = nodes.iter().map(view).collect();
    (!nodes.is_empty()).then_some(CitusView { nodes, moves: CITUS_MOVES })
}

/// A table on a shard.
#[derive(Serialize, ToSchema)]
pub struct TableView {
    /// Name of the table.
    table: String,
    /// Number of rows.
    rows: i64,
    /// Bytes of the pages in use by the table and its indexes.
    bytes: i64,
}

/// Lists the shards: nodes, health, slots, weight, rows and bytes.
#[utoipa::path(
    tag = "placement",
    responses((status = 200, description = "The shards", body = ShardsAnswer), LookupRefusals)
)]
#[get("/api/shards")]
pub(crate) async fn list_shards(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Parameters::parse(request.query_string())?.check_names(&[])?;
    // The map in force lacks shards that this router has not opened yet, although it has the epoch
    // of the newest map, which clients send as If-Match.
    let map = app.manager.shards().newest_map();
    let all: Vec<ShardNumber> = map.topology().numbers().collect();
    let patience = time_limit(request.headers(), SIZES_MAX)?;
    let reports = app.manager.status().report(&all, Instant::now() + patience).await;
    let shards = all.iter().map(|number| view(&map, *number, &reports)).collect();
    let (epoch, bytes_are) = (map.epoch(), BYTES_ARE);
    let answer = ShardsAnswer { success: true, epoch, bytes_are, shards };
    Ok(HttpResponse::Ok().insert_header((ETAG, format!("\"{epoch}\""))).json(answer))
}

/// Shows one shard.
#[utoipa::path(
    tag = "placement",
    params(("name" = String, Path, description = "The shard's name", example = "shard1")),
    responses((status = 200, description = "The shard", body = ShardView), LookupRefusals)
)]
#[get("/api/shards/{name}")]
pub(crate) async fn find_shard(
    app: Data<App>,
    name: Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Parameters::parse(request.query_string())?.check_names(&[])?;
    let map = app.manager.shards().newest_map();
    let unknown = || {
        Problem::new(Code::TSR111, "there is no shard of this name")
            .hint("/api/shards lists the shards")
    };
    let number = map.topology().find(&name).ok_or_else(unknown)?;
    let patience = time_limit(request.headers(), SIZES_MAX)?;
    let reports = app.manager.status().report(&[number], Instant::now() + patience).await;
    Ok(HttpResponse::Ok().json(view(&map, number, &reports)))
}

/// Returns a member of the map, with its report if this router has opened the shard.
fn view(map: &ShardMap, number: ShardNumber, reports: &[ShardReport]) -> ShardView {
    let spec = &map.topology().shards()[number.index()];
    let report = reports.iter().find(|report| report.shard == number);
    let slots = map.slots_of(number).count();
    // Clients wait until a new shard serves before they use it through this router.
    let is_opened = report.is_some() || slots > 0;
    let is_joining = spec.state == ShardState::Serving && !is_opened;
    let state = if is_joining { ShardState::Joining } else { spec.state };
    let ranges = map.ranges().into_iter().filter(|range| range.shard == number);
    let tables = report.and_then(|report| report.tables.as_ref()).map(|tables| {
        let tables = tables.iter().map(|size| TableView {
            table: size.table.clone(),
            rows: size.rows,
            bytes: size.bytes,
        });
        tables.collect()
    });
    ShardView {
        shard: spec.name.clone(),
        number: number.0,
        state: state.name(),
        weight: spec.weight,
        slots,
        ranges: ranges.map(|range| (range.first, range.last)).collect(),
        nodes: report.map(nodes).unwrap_or_default(),
        tables,
        citus: report.and_then(|report| citus(&report.workers)),
    }
}
