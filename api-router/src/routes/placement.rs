//! `GET /api/route`, `/api/shards`, `/api/shard-map`: return the shard of a key and the steps by
//! which it is determined, the shards, and the owners of slots.

use std::time::{Duration, Instant};

use actix_web::http::header::{ETAG, IF_NONE_MATCH};
use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse, get};
use serde::Serialize;
use serde_json::value::RawValue;
use shard_manager::assembly::CITUS_MOVES;
use shard_manager::engine::WorkerNode;
use shard_manager::engine::node_distributor::MemberState;
use shard_manager::error::Error;
use shard_manager::keyspace::partition_column::PartitionError;
use shard_manager::keyspace::routing_step::RoutingStep;
use shard_manager::keyspace::{KeyError, Keyspace, SLOT_COUNT, ShardKey};
use shard_manager::manager::{ShardReport, partition_columns};
use shard_manager::shard_map::ShardMap;
use shard_manager::shard_map::partitions::{explain, location, partition_column};
use shard_manager::table::Table;
use shard_manager::table_group::GroupNumber;
use shard_manager::topology::ShardNumber;
use utoipa::ToSchema;

use super::groups::GroupView;
use super::health::{Node, nodes};
use crate::app::App;
use crate::headers::time_limit;
use crate::problem::{Code, Problem};
use crate::query::Parameters;
use crate::response_headers::LookupRefusals;

/// Longest time to wait for sizes: to determine them, a shard reads every page of its file.
const SIZES_MAX: Duration = Duration::from_secs(10);

/// Location of a key.
#[derive(Serialize, ToSchema)]
pub struct RouteAnswer<'a> {
    /// The requested key.
    key: &'a str,
    /// The table's group; missing if no table is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'a str>,
    /// Keyspace by a column: the column whose value names the partition or range of a row, if the
    /// caller may know it.
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<&'a str>,
    /// Name of the mapping from keys to slots.
    keyspace: &'static str,
    /// Result of keyspace `modulo`: the digits at the end of the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    integer: Option<&'a str>,
    /// Result of keyspace `range`: the range of the key, or of the value of the column.
    #[serde(skip_serializing_if = "Option::is_none")]
    range: Option<KeyRange>,
    /// Result of keyspace `list`: the partition that the key or the column names.
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<PartitionView>,
    /// Result of keyspace `matrix:server`: the part of the key that is hashed.
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<&'a str>,
    /// XXH3-64 of the hashed text. Modulo the number of slots, or of the partition's slots, it is
    /// the slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
    /// The key's slot.
    slot: u16,
    /// The slot's owner.
    shard: &'a str,
    /// The node that takes its writes.
    primary: &'a str,
    /// The nodes that may answer its reads.
    replicas: &'a [String],
    /// The version of the shard map.
    epoch: u64,
    /// True if the slot is part of a move in progress, as known at most about a second ago.
    moving: bool,
    /// Identity of that move.
    #[serde(rename = "move", skip_serializing_if = "Option::is_none")]
    moved_by: Option<String>,
}

/// Keys from one split point to the next.
#[derive(Serialize, ToSchema)]
pub struct KeyRange {
    /// The least key of the range; null if it has no lower end.
    #[schema(required)]
    from: Option<String>,
    /// The least key of the next range; null if it has no upper end.
    #[schema(required)]
    below: Option<String>,
}

/// A named block of slots.
#[derive(Serialize, ToSchema)]
#[schema(as = Partition)]
pub struct PartitionView {
    /// Name of the partition.
    name: String,
    /// First and last slot, inclusive.
    slots: (u16, u16),
}

impl<'a> RouteAnswer<'a> {
    /// Adds the intermediate results by which the keyspace has determined the slot.
    fn explain(&mut self, steps: Vec<RoutingStep<'a>>) {
        for step in steps {
            match step {
                RoutingStep::Integer(digits) => self.integer = Some(digits),
                RoutingStep::Range { from, below } => self.range = Some(KeyRange { from, below }),
                RoutingStep::Partition { name, first, last } => {
                    let slots = (first.number(), last.number());
                    self.partition = Some(PartitionView { name, slots });
                }
                RoutingStep::Server(part) => self.server = Some(part),
                RoutingStep::Hash(hash) => self.hash = Some(format!("{hash:#018x}")),
            }
        }
    }
}

/// Returns the location of a key.
#[utoipa::path(
    tag = "placement",
    params(
        ("key" = String, Query, description = "The shard key", example = "user_123", min_length = 1, max_length = 256),
        ("partition" = Option<String>, Query, description = "Keyspace by a column: the value of the column in the row; the column's own name is accepted as well", example = "A"),
        ("table" = Option<String>, Query, description = "The table of the row, whose group is used, main by default; a table without the column needs no partition", example = "users"),
    ),
    responses((status = 200, description = "Slot, shard and nodes of the key", body = RouteAnswer), LookupRefusals)
)]
#[get("/api/route")]
pub(crate) async fn route_key(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let parameters = Parameters::parse(request.query_string())?;
    let rights = app.rights(&request);
    let schema = app.manager.schema(&rights);
    let table = parameters.single("table")?.map(|name| schema.table(name)).transpose()?;
    let map = app.manager.map();
    let group = table.as_ref().map_or(GroupNumber::MAIN, |table| table.group());
    let keyspace = map.groups().get(group).map(|group| &group.keyspace);
    let column = keyspace.and_then(Keyspace::column);
    let knows = |column: &&str| match &table {
        // The column must be visible in this table: one of the same name may be visible in another
        // table.
        Some(table) if !rights.is_all() => {
            partition_column(&map, table).is_some_and(|own| table.visible().has(own))
        }
        Some(_) | None => partition_columns(schema, &map).contains(*column),
    };
    let shown = column.filter(knows);
    let in_no_table = column.is_some() && shown.is_none();
    let is_hidden = table.as_deref().map_or(in_no_table, |table| hides_partition(&map, table));
    let mut known = vec!["key", "table"];
    known.extend(column.map(|_| "partition").into_iter().chain(shown));
    parameters.check_names(&known)?;
    let text = parameters.single("key")?;
    let text = text.ok_or_else(|| {
        Problem::new(Code::TSR100, "key is missing").hint("for example ?key=user_123")
    })?;
    let bad = |error: KeyError| bad_key(error, is_hidden);
    let key = ShardKey::parse(text).map_err(bad)?;
    if !rights.reach().has_key(key) {
        let detail = "this caller may not locate a shard key that is not one of its own";
        return Err(Problem::new(Code::TSR403, detail));
    }
    let is_in_key = || table.as_deref().is_some_and(|table| is_partition_in_key(&map, table));
    let (name, partition) = match (shown, parameters.single("partition")?) {
        (Some(column), None) => (column, parameters.single(column)?),
        // The location would confirm a guessed partition, and so reveal the partition of an
        // existing row.
        (None, given) if is_hidden && (given.is_some() || is_in_key()) => {
            return Err(bad(PartitionError::Hidden.into()));
        }
        (_, given) => ("partition", given),
    };
    let has_none = |table: &Table| partition_column(&map, table).is_none();
    if partition.is_some() && table.as_deref().is_some_and(has_none) {
        let detail = format!("{name}: the slot of this key depends on no column, so leave it out");
        return Err(Problem::new(Code::TSR100, detail));
    }
    let explanation = explain(&map, table.as_deref(), key, partition).map_err(bad)?;
    let place = location(&map, explanation.slot);
    let shard = map.topology().name(place.shard);
    let (primary, replicas) = app.manager.status().nodes(place.shard);
    let moved_by = app.moving_slots.move_of(&app.manager, place.slot).await;
    let mut answer = RouteAnswer {
        key: text,
        group: table.as_ref().map(|_| map.groups().name_of(group)),
        column: shown,
        keyspace: keyspace.map_or("", Keyspace::name),
        integer: None,
        range: None,
        partition: None,
        server: None,
        hash: None,
        slot: place.slot.number(),
        shard,
        primary: &primary,
        replicas: &replicas,
        epoch: place.epoch,
        moving: moved_by.is_some(),
        moved_by,
    };
    answer.explain(explanation.steps);
    Ok(HttpResponse::Ok().json(answer))
}

/// Returns true if the partition column of a table is hidden in this view of it.
fn hides_partition(map: &ShardMap, table: &Table) -> bool {
    partition_column(map, table).is_some_and(|column| !table.visible().has(column))
}

/// Returns true if the partition column of a table is also its routing column, so that the shard
/// key names the partition.
fn is_partition_in_key(map: &ShardMap, table: &Table) -> bool {
    let column = partition_column(map, table);
    column.is_some() && column == table.routing()
}

/// Returns the problem of a key without a slot. If the partition column is hidden from the caller,
/// the problem names neither the column nor its values.
fn bad_key(error: KeyError, is_hidden: bool) -> Problem {
    let is_of_partition = matches!(error, KeyError::Partition(_));
    if is_of_partition && is_hidden {
        return Problem::from(Error::from(KeyError::from(PartitionError::Hidden)));
    }
    if is_of_partition || matches!(error, KeyError::UnknownGroup) {
        return Problem::from(Error::from(error));
    }
    Problem::new(Code::TSR100, format!("key: {error}"))
}

/// Every slot and its owner.
#[derive(Serialize, ToSchema)]
pub struct ShardMapAnswer {
    /// The version of the map, also its ETag.
    epoch: u64,
    /// Number of slots of a table group.
    slots: u16,
    /// The hash function from key to slot; missing if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<&'static str>,
    /// Name of the mapping from keys to slots.
    keyspace: &'static str,
    /// Parameters of the keyspace: split points, partitions.
    #[schema(value_type = Object)]
    parameters: Box<RawValue>,
    /// Name of the distribution of slots.
    placement: &'static str,
    /// Parameters of the placement: virtual nodes, owners of partitions.
    #[schema(value_type = Object)]
    placement_parameters: Box<RawValue>,
    /// Every slot of the group `main` once, in order.
    ranges: Vec<RangeView>,
    /// The table groups, each with its slots; missing if all tables are in one group.
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<Vec<GroupView>>,
}

/// First and last slot, inclusive, and the shard that owns them.
#[derive(Serialize, ToSchema)]
#[schema(as = Range)]
pub struct RangeView((u16, u16, String));

impl RangeView {
    /// Returns the ranges of slots of a table group, with their owners.
    pub(super) fn of_group(map: &ShardMap, group: GroupNumber) -> Vec<Self> {
        let ranges =
            map.groups().ranges(group).into_iter().map(|range| {
                (range.first, range.last, map.topology().name(range.shard).to_owned())
            });
        ranges.map(Self).collect()
    }
}

/// Returns the whole shard map.
#[utoipa::path(
    tag = "placement",
    params(("If-None-Match" = Option<String>, Header, description = "The ETag of the map that is known", example = "\"1\"")),
    responses(
        (status = 200, description = "The map", body = ShardMapAnswer),
        (status = 304, description = "The map is the one that is known"),
        LookupRefusals,
    )
)]
#[get("/api/shard-map")]
pub(crate) async fn shard_map(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Parameters::parse(request.query_string())?.check_names(&[])?;
    let map = app.manager.map();
    let etag = format!("\"{}\"", map.epoch());
    let known = request.headers().get_all(IF_NONE_MATCH).filter_map(|value| value.to_str().ok());
    let mut known = known.flat_map(|list| list.split(',').map(str::trim));
    if known.any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag) {
        return Ok(HttpResponse::NotModified().insert_header((ETAG, etag)).finish());
    }
    Ok(HttpResponse::Ok().insert_header((ETAG, etag)).json(ShardMapAnswer {
        epoch: map.epoch(),
        slots: SLOT_COUNT,
        hash: map.keyspace().algorithm(),
        keyspace: map.keyspace().name(),
        parameters: json(map.keyspace().parameters()),
        placement: map.placement().name(),
        placement_parameters: json(map.placement().parameters()),
        ranges: RangeView::of_group(&map, GroupNumber::MAIN),
        groups: GroupView::with_ranges(&map),
    }))
}

pub(super) fn json(parameters: String) -> Box<RawValue> {
    RawValue::from_string(parameters).expect("the domain writes its parameters as JSON")
}

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
    /// `joining`, `serving` or `draining`.
    state: &'static str,
    /// Weight of the shard.
    weight: u32,
    /// Number of its slots.
    slots: usize,
    /// Ranges of slots: first and last slot, both included.
    ranges: Vec<(u16, u16)>,
    /// Nodes of the shard.
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
    let map = app.manager.map();
    let all: Vec<ShardNumber> = map.topology().numbers().collect();
    let patience = time_limit(request.headers(), SIZES_MAX)?;
    let reports = app.manager.status().report(&all, Instant::now() + patience).await;
    let shards = reports.iter().map(|report| view(&map, report)).collect();
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
    let map = app.manager.map();
    let unknown = || {
        Problem::new(Code::TSR111, "there is no shard of this name")
            .hint("/api/shards lists the shards")
    };
    let number = map.topology().find(&name).ok_or_else(unknown)?;
    let patience = time_limit(request.headers(), SIZES_MAX)?;
    let reports = app.manager.status().report(&[number], Instant::now() + patience).await;
    let report = reports.first().ok_or_else(unknown)?;
    Ok(HttpResponse::Ok().json(view(&map, report)))
}

fn view(map: &ShardMap, report: &ShardReport) -> ShardView {
    let spec = &map.topology().shards()[report.shard.index()];
    let ranges = map.ranges().into_iter().filter(|range| range.shard == report.shard);
    let tables = report.tables.as_ref().map(|tables| {
        let tables = tables.iter().map(|size| TableView {
            table: size.table.clone(),
            rows: size.rows,
            bytes: size.bytes,
        });
        tables.collect()
    });
    ShardView {
        shard: spec.name.clone(),
        number: report.shard.0,
        state: spec.state.name(),
        weight: spec.weight,
        slots: map.slots_of(report.shard).count(),
        ranges: ranges.map(|range| (range.first, range.last)).collect(),
        nodes: nodes(report),
        tables,
        citus: citus(&report.workers),
    }
}
