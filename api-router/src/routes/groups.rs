//! `GET /api/groups`: lists the table groups (tables that share slots), each with its keyspace, its
//! placement and its slots.
//!
//! **Not here:** the owners of the slots (`placement`), the tables themselves (`tables`).

use actix_web::http::header::ETAG;
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse, get};
use serde::Serialize;
use serde_json::value::RawValue;
use shard_manager::shard_map::ShardMap;
use shard_manager::table::{Registry, closest};
use shard_manager::table_group::{GroupNumber, TableGroup};
use utoipa::ToSchema;

use super::placement::{RangeView, json};
use crate::app::App;
use crate::problem::{Code, Problem};
use crate::query::Parameters;
use crate::response_headers::LookupRefusals;

/// All table groups.
#[derive(Serialize, ToSchema)]
pub struct GroupsAnswer {
    /// Always true.
    success: bool,
    /// The version of the shard map.
    epoch: u64,
    /// The groups, `main` first.
    groups: Vec<GroupView>,
}

/// Table group: tables that share slots.
#[derive(Serialize, ToSchema)]
#[schema(as = Group)]
pub struct GroupView {
    /// Name of the group.
    name: String,
    /// Name of the mapping from keys to slots.
    keyspace: &'static str,
    /// The hash function from key to slot; missing if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<&'static str>,
    /// Parameters of the keyspace.
    #[schema(value_type = Object)]
    parameters: Box<RawValue>,
    /// Name of the distribution of slots.
    placement: &'static str,
    /// Parameters of the placement.
    #[schema(value_type = Object)]
    placement_parameters: Box<RawValue>,
    /// Shards that may own slots of the group.
    shards: Vec<String>,
    /// First and last slot, inclusive.
    slots: (u16, u16),
    /// Tables of the group that are visible to the caller, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    tables: Option<Vec<String>>,
    /// Every slot of the group once, in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    ranges: Option<Vec<RangeView>>,
}

impl GroupView {
    fn of(map: &ShardMap, number: GroupNumber, group: &TableGroup) -> Self {
        let shards = group.members(map.topology());
        let slots = number.slots();
        Self {
            name: group.name.clone(),
            keyspace: group.keyspace.name(),
            hash: group.keyspace.algorithm(),
            parameters: json(group.keyspace.parameters()),
            placement: group.placement.name(),
            placement_parameters: json(group.placement.parameters()),
            shards: shards.map(|(_, shard)| shard.name.clone()).collect(),
            slots: (*slots.start(), *slots.end()),
            tables: None,
            ranges: None,
        }
    }

    /// Returns all groups with the owners of their slots, for the shard map; `None` if there is
    /// only one group.
    pub(super) fn with_ranges(map: &ShardMap) -> Option<Vec<Self>> {
        let view = |(number, group)| Self {
            ranges: Some(RangeView::of_group(map, number)),
            ..Self::of(map, number, group)
        };
        (map.groups().count() > 1).then(|| map.groups().iter().map(view).collect())
    }

    fn with_tables(
        map: &ShardMap,
        number: GroupNumber,
        group: &TableGroup,
        all: &Registry,
    ) -> Self {
        let own = all.tables().filter(|table| table.group() == number);
        let tables = own.map(|table| table.name().to_owned()).collect();
        Self { tables: Some(tables), ..Self::of(map, number, group) }
    }
}

/// Lists the table groups.
///
/// Tables of one group share slots, so all rows of a key are on the same shard. A cluster without
/// further groups has only `main`.
#[utoipa::path(
    tag = "placement",
    responses((status = 200, description = "The groups", body = GroupsAnswer), LookupRefusals)
)]
#[get("/api/groups")]
pub(crate) async fn list_groups(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Parameters::parse(request.query_string())?.check_names(&[])?;
    let map = app.manager.map();
    let tables = app.manager.schema(&app.rights(&request)).tables();
    let groups = map.groups().iter();
    let groups = groups.map(|(number, group)| GroupView::with_tables(&map, number, group, &tables));
    let (epoch, groups) = (map.epoch(), groups.collect());
    let answer = GroupsAnswer { success: true, epoch, groups };
    Ok(HttpResponse::Ok().insert_header((ETAG, format!("\"{epoch}\""))).json(answer))
}

/// Returns the group of this name.
///
/// # Errors
/// TSR350 if there is none.
pub(super) fn find(map: &ShardMap, name: &str) -> Result<GroupNumber, Problem> {
    map.groups().find(name).ok_or_else(|| unknown(map, name))
}

fn unknown(map: &ShardMap, name: &str) -> Problem {
    let names = || map.groups().iter().map(|(_, group)| group.name.as_str());
    let given: String = name.chars().take(80).collect();
    let problem = Problem::new(Code::TSR350, format!("there is no table group `{given}`"));
    match closest(name, names()) {
        Some(near) => problem.hint(format!("did you mean `{near}`?")),
        None => problem.hint(format!("there are: {}", names().collect::<Vec<_>>().join(", "))),
    }
}
