//! `GET /api/route`, `/api/shards`, `/api/shard-map`: where keys live, and why.

use std::time::{Duration, Instant};

use actix_web::http::header::{ETAG, IF_NONE_MATCH};
use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse, get};
use serde::Serialize;
use shard_manager::error::Error;
use shard_manager::keyspace::{SLOT_COUNT, ShardKey};
use shard_manager::manager::ShardReport;
use shard_manager::shard_map::ShardMap;
use shard_manager::topology::ShardIndex;
use utoipa::ToSchema;

use super::health::{Node, nodes};
use crate::answer::LookupRefusals;
use crate::app::App;
use crate::problem::{Code, Problem};
use crate::query::Parameters;

/// How long sizes may take: they visit every page of a shard's file.
const SIZES_MAX: Duration = Duration::from_secs(10);

/// Where a key lives.
#[derive(Serialize, ToSchema)]
pub struct RouteAnswer<'a> {
    /// The key asked for.
    key: &'a str,
    /// How keys become slots.
    keyspace: &'static str,
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
    /// Whether the slot is on its way to another shard.
    moving: bool,
}

/// Tells where a key lives.
#[utoipa::path(
    tag = "placement",
    params(("key" = String, Query, description = "The shard key", example = "user_123", min_length = 1, max_length = 256)),
    responses((status = 200, description = "Its slot, shard and nodes", body = RouteAnswer), LookupRefusals)
)]
#[get("/api/route")]
pub(crate) async fn route_key(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let parameters = Parameters::parse(request.query_string())?;
    parameters.check_names(&["key"])?;
    let text = parameters.single("key")?;
    let text = text.ok_or_else(|| {
        Problem::new(Code::TSR100, "key is missing").hint("for example ?key=user_123")
    })?;
    let key = ShardKey::parse(text)
        .map_err(|error| Problem::new(Code::TSR100, format!("key: {error}")))?;
    let map = app.manager.map();
    let place = map.place(key).map_err(Error::from)?;
    let shard = map.topology().name(place.shard);
    let (primary, replicas) = app.manager.nodes(place.shard);
    Ok(HttpResponse::Ok().json(RouteAnswer {
        key: text,
        keyspace: map.keyspace().name(),
        slot: place.slot.number(),
        shard,
        primary,
        replicas,
        epoch: place.epoch,
        moving: false,
    }))
}

/// Every slot and its owner.
#[derive(Serialize, ToSchema)]
pub struct ShardMapAnswer {
    /// The version of the map, also its ETag.
    epoch: u64,
    /// Number of slots.
    slots: u16,
    /// The algorithm from key to slot.
    hash: &'static str,
    /// How keys become slots.
    keyspace: &'static str,
    /// How slots were dealt out.
    placement: &'static str,
    /// Every slot once, in order.
    ranges: Vec<RangeView>,
}

/// First slot, last slot, shard; both ends belong to it.
#[derive(Serialize, ToSchema)]
#[schema(as = Range)]
pub struct RangeView((u16, u16, String));

/// Tells the whole shard map.
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
    let ranges = map
        .ranges()
        .into_iter()
        .map(|range| (range.first, range.last, map.topology().name(range.shard).to_owned()))
        .map(RangeView);
    Ok(HttpResponse::Ok().insert_header((ETAG, etag)).json(ShardMapAnswer {
        epoch: map.epoch(),
        slots: SLOT_COUNT,
        hash: map.keyspace().algorithm(),
        keyspace: map.keyspace().name(),
        placement: map.placement().name(),
        ranges: ranges.collect(),
    }))
}

/// All shards.
#[derive(Serialize, ToSchema)]
pub struct ShardsAnswer {
    /// Always true.
    success: bool,
    /// The version of the shard map.
    epoch: u64,
    /// The shards in their order.
    shards: Vec<ShardView>,
}

/// A shard, its nodes and what it holds.
#[derive(Serialize, ToSchema)]
pub struct ShardView {
    /// Its name.
    shard: String,
    /// Its weight.
    weight: u32,
    /// How many slots it owns.
    slots: usize,
    /// Which slots: first and last, both included.
    ranges: Vec<(u16, u16)>,
    /// Its nodes.
    nodes: Vec<Node>,
    /// What each table holds; null if the shard could not be asked.
    #[schema(required)]
    tables: Option<Vec<TableView>>,
}

/// A table on a shard.
#[derive(Serialize, ToSchema)]
pub struct TableView {
    /// Its name.
    table: String,
    /// Rows.
    rows: i64,
    /// Bytes of the pages in use.
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
    let all: Vec<ShardIndex> = map.topology().indices().collect();
    let reports = app.manager.report(&all, Instant::now() + SIZES_MAX).await;
    let shards = reports.iter().map(|report| view(&map, report)).collect();
    Ok(HttpResponse::Ok().json(ShardsAnswer { success: true, epoch: map.epoch(), shards }))
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
    let Some(index) = map.topology().find(&name) else {
        return Err(Problem::new(Code::TSR111, "there is no shard of this name")
            .hint("/api/shards lists the shards"));
    };
    let reports = app.manager.report(&[index], Instant::now() + SIZES_MAX).await;
    let view = reports.first().map(|report| view(&map, report));
    Ok(HttpResponse::Ok().json(view))
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
        weight: spec.weight,
        slots: map.slots_of(report.shard).count(),
        ranges: ranges.map(|range| (range.first, range.last)).collect(),
        nodes: nodes(report),
        tables,
    }
}
