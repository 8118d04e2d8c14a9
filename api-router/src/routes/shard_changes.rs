//! `POST /api/shards`, `PATCH` and `DELETE /api/shards/{name}`: adds a shard, changes its weight
//! and retires it. Available to callers with the scope `operate`; without access control, only if
//! the router was started with `--operate`.
//!
//! With the engine citus, `POST` and `DELETE` apply to the nodes of Citus.
//!
//! **Not here:** the steps of a change (`shard_manager::manager`), the list of shards
//! (`placement`).

use std::time::Instant;

use actix_web::http::header::{ETAG, LOCATION};
use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, delete, patch, post};
use serde::Serialize;
use shard_manager::engine::catalog_rows::MapChangeError;
use shard_manager::engine::new_shard::{NewShard, NewShardRefusal};
use shard_manager::engine::node_distributor::NodeChanged;
use shard_manager::engine::refusal_code::RefusalCode;
use shard_manager::error::Error;
use shard_manager::manager::{Nodes, ShardChangeError, ShardChanged};
use shard_manager::shard_map::ShardMap;
use shard_manager::topology::{ShardNumber, ShardState, Topology};
use utoipa::ToSchema;

use crate::app::App;
use crate::body_reader::Members;
use crate::cluster_change::ClusterChange;
use crate::problem::{Code, Problem, refused};
use crate::response_headers::ShardRefusals;

/// Maximum number of bytes of a body, which contains a name, a URL and a weight.
const BODY_BYTES_MAX: usize = 16 << 10;
/// Weight of a new shard whose request names none.
const WEIGHT_DEFAULT: u32 = 1;

/// A shard that is to join.
#[derive(ToSchema)]
#[schema(example = json!({"name": "shard4", "url": "postgres://db4:5432/app", "weight": 1}))]
pub struct NewShardRequest {
    /// Name of the shard: a letter, then letters, digits, `-` and `_`.
    #[schema(max_length = 63, pattern = "^[A-Za-z][A-Za-z0-9_-]{0,62}$")]
    #[expect(dead_code, reason = "describes the body; the members are read without building it")]
    name: String,
    /// URL of an empty database of a PostgreSQL server, without a password: the settings of the
    /// router have user and password for this host and port. Left out if the shards are files.
    #[expect(dead_code, reason = "as above")]
    url: Option<String>,
    /// Relative share of the slots; 1 when not given.
    #[schema(maximum = 1_000_000)]
    #[expect(dead_code, reason = "as above")]
    weight: Option<u32>,
}

/// New weight of a shard.
#[derive(ToSchema)]
#[schema(example = json!({"weight": 2}))]
pub struct WeightRequest {
    /// Relative share of the slots.
    #[schema(maximum = 1_000_000)]
    #[expect(dead_code, reason = "describes the body; the members are read without building it")]
    weight: u32,
}

/// A shard after a change.
#[derive(Serialize, ToSchema)]
pub struct ShardChangeAnswer {
    /// Always true.
    success: bool,
    /// The version of the shard map, also the ETag. With the engine citus it never changes, and
    /// there is no ETag.
    epoch: u64,
    /// Name of the shard.
    shard: String,
    /// Number of the shard, which is never given to another one; with the engine citus, the group
    /// of the node.
    number: u32,
    /// `joining`, `serving`, `draining` or `retired`.
    state: &'static str,
    /// Relative share of the slots.
    weight: u32,
    /// Number of its slots; with the engine citus, of its Citus shards.
    slots: usize,
}

/// Lets a shard join, without slots.
///
/// 201 when it serves; 200 when a shard of this name, weight and URL serves already; 202 when the
/// deadline passed while it was joining, which continues: `/api/shards/{name}` shows its state.
///
/// With the engine citus it adds a node to Citus: `name` is `worker` and its number, `url` is the
/// address at which the coordinator reaches its server, and weight and If-Match are refused.
#[utoipa::path(
    tag = "placement",
    params(
        ("If-Match" = Option<String>, Header, description = "The epoch that the shard map must have", example = "\"1\""),
        ("x-deadline-ms" = Option<u32>, Header, description = "Longest time for an answer; 5000 when not given", minimum = 100, maximum = 60000),
    ),
    request_body = NewShardRequest,
    responses(
        (status = 200, description = "The shard serves already", body = ShardChangeAnswer),
        (status = 201, description = "The shard serves", body = ShardChangeAnswer),
        (status = 202, description = "The shard is joining", body = ShardChangeAnswer),
        ShardRefusals,
    )
)]
#[post("/api/shards")]
pub(crate) async fn add_shard(
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let change = ClusterChange::from_request(&request)?;
    let shard = new_shard(&change.read_body(&app, &request, payload, BODY_BYTES_MAX).await?)?;
    if let Some(nodes) = Nodes::of(&app.manager) {
        let changed = nodes.add(&shard, change.epoch, change.deadline).await?;
        let mut response =
            if changed.is_new { HttpResponse::Created() } else { HttpResponse::Ok() };
        return Ok(node_answer(&mut response, &app, changed));
    }
    let name = shard.name.clone();
    let serves = |map: &ShardMap, number: ShardNumber| {
        map.topology().shards()[number.index()].state == ShardState::Serving
    };
    let known = app.manager.map();
    let is_known = known.topology().find(&name).is_some_and(|number| serves(&known, number));
    let joined = app.manager.shards().join(shard, change.epoch, change.deadline).await;
    match joined {
        Ok(changed) => {
            let mut response = if is_known { HttpResponse::Ok() } else { HttpResponse::Created() };
            Ok(answer(&mut response, &changed))
        }
        Err(
            ShardChangeError::Failed(Error::DeadlinePassed)
            | ShardChangeError::NewShard(NewShardRefusal::Failed(Error::DeadlinePassed)),
        ) => joining(&app, &name),
        Err(error) => Err(error.into()),
    }
}

/// Gives a shard another weight. Its slots stay where they are.
#[utoipa::path(
    tag = "placement",
    params(
        ("name" = String, Path, description = "The shard's name", example = "shard1"),
        ("If-Match" = Option<String>, Header, description = "The epoch that the shard map must have", example = "\"1\""),
        ("x-deadline-ms" = Option<u32>, Header, description = "Longest time for an answer; 5000 when not given", minimum = 100, maximum = 60000),
    ),
    request_body = WeightRequest,
    responses(
        (status = 200, description = "The shard", body = ShardChangeAnswer),
        ShardRefusals,
    )
)]
#[patch("/api/shards/{name}")]
pub(crate) async fn change_shard(
    app: Data<App>,
    name: Path<String>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let change = ClusterChange::from_request(&request)?;
    let body = change.read_body(&app, &request, payload, BODY_BYTES_MAX).await?;
    let members = Members::of_body(&body)?;
    members.check_names(&["weight"])?;
    let missing = || Problem::new(Code::TSR101, "weight is missing");
    let weight = weight(&members)?.ok_or_else(missing)?;
    let changed = app.manager.shards().set_weight(&name, weight, change.epoch);
    let changed = in_time(change.deadline, changed).await?;
    Ok(answer(&mut HttpResponse::Ok(), &changed))
}

/// Retires a shard that owns no slots. Its database, or its files, stay as they are.
///
/// With the engine citus it removes a node of Citus that has no Citus shards.
#[utoipa::path(
    tag = "placement",
    params(
        ("name" = String, Path, description = "The shard's name", example = "shard4"),
        ("If-Match" = Option<String>, Header, description = "The epoch that the shard map must have", example = "\"1\""),
        ("x-deadline-ms" = Option<u32>, Header, description = "Longest time for an answer; 5000 when not given", minimum = 100, maximum = 60000),
    ),
    responses(
        (status = 200, description = "The shard, which has retired", body = ShardChangeAnswer),
        ShardRefusals,
    )
)]
#[delete("/api/shards/{name}")]
pub(crate) async fn remove_shard(
    app: Data<App>,
    name: Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let change = ClusterChange::from_request(&request)?;
    if let Some(nodes) = Nodes::of(&app.manager) {
        let changed = nodes.remove(&name, change.epoch, change.deadline).await?;
        return Ok(node_answer(&mut HttpResponse::Ok(), &app, changed));
    }
    let changed =
        in_time(change.deadline, app.manager.shards().remove(&name, change.epoch)).await?;
    Ok(answer(&mut HttpResponse::Ok(), &changed))
}

/// Waits until a change of the shard map is complete. If the deadline passes first, the outcome of
/// the change is unknown.
async fn in_time(
    deadline: Instant,
    change: impl Future<Output = Result<ShardChanged, ShardChangeError>>,
) -> Result<ShardChanged, ShardChangeError> {
    let late = MapChangeError::Unknown(Error::DeadlinePassed);
    tokio::time::timeout_at(deadline.into(), change).await.unwrap_or_else(|_| Err(late.into()))
}

fn new_shard(body: &[u8]) -> Result<NewShard, Problem> {
    let members = Members::of_body(body)?;
    members.check_names(&["name", "url", "weight"])?;
    let name = members.required_text("name")?;
    let url = match members.get("url").map(|json| json.get()) {
        None | Some("null") => None,
        Some(_) => members.text("url")?,
    };
    let weight = weight(&members)?.unwrap_or(WEIGHT_DEFAULT);
    Ok(NewShard { name, weight, url })
}

fn weight(members: &Members<'_>) -> Result<Option<u32>, Problem> {
    let Some(json) = members.get("weight") else { return Ok(None) };
    let weight = json.get().parse::<u32>().ok().filter(|weight| *weight <= Topology::WEIGHT_MAX);
    weight.map(Some).ok_or_else(|| {
        let most = Topology::WEIGHT_MAX;
        let detail = format!("weight must be a whole number from 0 to {most}");
        refused(RefusalCode::BadShard, detail)
    })
}

/// Returns the response to a request to add a shard whose deadline passed while the shard was
/// joining.
fn joining(app: &App, name: &str) -> Result<HttpResponse, Problem> {
    let map = app.manager.shards().newest_map();
    let late = || {
        Problem::new(Code::TSR004, "the deadline passed before the shard was joining")
            .hint("send the same request again, with a larger x-deadline-ms")
            .outcome("unknown")
    };
    let shard = map.topology().find(name).ok_or_else(late)?;
    let mut response = HttpResponse::Accepted();
    response.insert_header((LOCATION, format!("/api/shards/{name}")));
    Ok(answer(&mut response, &ShardChanged { shard, map }))
}

fn answer(response: &mut HttpResponseBuilder, changed: &ShardChanged) -> HttpResponse {
    let ShardChanged { shard, map } = changed;
    let spec = &map.topology().shards()[shard.index()];
    response.insert_header((ETAG, format!("\"{}\"", map.epoch()))).json(ShardChangeAnswer {
        success: true,
        epoch: map.epoch(),
        shard: spec.name.clone(),
        number: shard.0.into(),
        state: spec.state.name(),
        weight: spec.weight,
        slots: map.slots_of(*shard).count(),
    })
}

/// Returns the response about a node of Citus. Its change leaves the shard map as it is, because
/// the engine itself distributes rows over its nodes.
fn node_answer(
    response: &mut HttpResponseBuilder,
    app: &App,
    changed: NodeChanged,
) -> HttpResponse {
    response.json(ShardChangeAnswer {
        success: true,
        epoch: app.manager.map().epoch(),
        shard: changed.name,
        number: changed.number,
        state: changed.state.name(),
        weight: WEIGHT_DEFAULT,
        slots: changed.parts,
    })
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn a_change_that_ends_at_its_deadline_has_an_unknown_outcome() {
        let passed = Instant::now();
        let late = in_time(passed, pending()).await.map(drop).expect_err("it never ends");
        let problem = Problem::from(late);
        assert_eq!((problem.code().name(), problem.outcome), ("TSR004", Some("unknown")));
        let refusal = || ShardChangeError::NoShard { name: "shard9".to_owned() };
        let refused = in_time(passed, ready(Err(refusal()))).await.map(drop);
        assert_eq!(refused, Err(refusal()), "an available result is returned");
    }
}
