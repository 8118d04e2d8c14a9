//! `GET /api/route`, `/api/shard-map`: return the shard of a key and the steps by which it is
//! determined, and the owners of slots.
//!
//! **Not here:** the shards with their nodes and sizes (`shard_list`).

use actix_web::http::header::{ETAG, IF_NONE_MATCH};
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse, get};
use serde::Serialize;
use serde_json::value::RawValue;
use shard_manager::error::Error;
use shard_manager::keyspace::partition_column::PartitionError;
use shard_manager::keyspace::routing_step::RoutingStep;
use shard_manager::keyspace::{KeyError, Keyspace, SLOT_COUNT, ShardKey};
use shard_manager::manager::partition_columns;
use shard_manager::shard_map::ShardMap;
use shard_manager::shard_map::partitions::{explain, location, partition_column};
use shard_manager::table::Table;
use shard_manager::table_group::GroupNumber;
use utoipa::ToSchema;

use super::groups::GroupView;
use crate::app::App;
use crate::problem::{Code, Problem};
use crate::query::Parameters;
use crate::response_headers::LookupRefusals;

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
    if !rights.reach().has_key(key, table.as_deref().map(Table::name)) {
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
/// the problem names neither the column nor its values. The hint for a missing partition is about
/// the parameters of this route.
fn bad_key(error: KeyError, is_hidden: bool) -> Problem {
    let is_of_partition = matches!(error, KeyError::Partition(_));
    if is_of_partition && is_hidden {
        return Problem::from(Error::from(KeyError::from(PartitionError::Hidden)));
    }
    if is_of_partition || matches!(error, KeyError::UnknownGroup) {
        let problem = Problem::from(Error::from(error));
        let hint = "add &partition=VALUE, or name a table without this column: &table=TABLE";
        return if problem.code() == Code::TSR355 { problem.hint(hint) } else { problem };
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
