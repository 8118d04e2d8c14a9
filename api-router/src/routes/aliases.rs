//! `POST /write`, `GET /read`, `GET /stats`: keys and values through the API of a smaller sharding
//! proxy, so that clients and command lines written for that proxy work unchanged.
//!
//! **Invariant:** a pair is stored as the same row that `/api/kv/{key}` reads and writes.
//! **Not here:** operations on values (`kv`).

use std::time::{Duration, Instant};

use actix_web::web::{Bytes, Data, Payload};
use actix_web::{HttpRequest, HttpResponse, get, post};
use serde::Serialize;
use shard_manager::access::rights::Rights;
use shard_manager::keyspace::ShardKey;
use shard_manager::row_change::RowWrite;
use shard_manager::shard_map::KeyLocation;
use shard_manager::value::push_json_string;
use utoipa::ToSchema;

use super::kv::{agree, find, put, with_key_hint};
use super::row_write::{WriteContext, carry_out, run_blocking};
use crate::app::App;
use crate::body_reader::{self, Members};
use crate::caller_rights::CallerRights;
use crate::headers::{DataHeaders, check_content_encoding, time_limit};
use crate::problem::{Code, Problem, ProblemBody};
use crate::query::Parameters;
use crate::response_headers::{LookupRefusals, ReadRefusals, WriteRefusals};

/// Longest time for counting rows, which reads one small table of each shard.
const COUNTS_MAX: Duration = Duration::from_secs(2);

/// A key and its value.
#[derive(ToSchema)]
#[schema(example = json!({"key": "user_123", "value": "John Doe"}))]
pub struct PairRequest {
    /// The key, also the shard key: no control characters.
    #[schema(max_length = 256, min_length = 1)]
    #[expect(dead_code, reason = "describes the body; the members are read without building it")]
    key: String,
    /// Any JSON value of at most 1 MiB.
    #[expect(dead_code, reason = "as above")]
    value: serde_json::Value,
}

/// Response to a write, sent once the value is durable.
#[derive(Serialize, ToSchema)]
pub struct PairWritten<'a> {
    /// Always `Write successful`.
    message: &'static str,
    /// The shard that stored the value.
    shard: &'a str,
}

/// A value under its key.
#[derive(Serialize, ToSchema)]
pub struct PairAnswer {
    /// The key.
    key: String,
    /// The value.
    value: serde_json::Value,
    /// The shard that stores the value.
    shard: String,
}

/// Puts a value under a key.
///
/// Like PUT /api/kv/{key}, but 200 also for a new value. The body is parsed as JSON, whatever its
/// Content-Type is.
#[utoipa::path(
    tag = "aliases",
    params(
        ("x-shard-key" = Option<String>, Header, description = "Needless; another than the key is refused", max_length = 256),
        ("Prefer" = Option<String>, Header, description = "handling=strict refuses preferences that are unknown"),
        ("If-Match" = Option<String>, Header, description = "The versions, in quotes, of which the value must be one; * for any"),
        ("If-None-Match" = Option<String>, Header, description = "*: there must be no value under the key"),
    ),
    request_body = PairRequest,
    responses(
        (status = 200, description = "Made or changed", body = PairWritten),
        WriteRefusals,
    )
)]
#[post("/write")]
pub(crate) async fn write_pair(
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let (shard_key, context) = WriteContext::parse(&app, &request)?;
    check_content_encoding(request.headers())?;
    Parameters::parse(request.query_string())?.check_names(&[])?;
    let deadline = context.options.deadline;
    let (bytes, _share) =
        app.read_body(&request, payload, body_reader::WRITE_BYTES_MAX, deadline).await?;
    let change = parse_anywhere(&app, &context.rights, shard_key, bytes).await?;
    let done = carry_out(&app, &request, context, change).await;
    let mut done = done.map_err(with_key_hint)?;
    let shard = app.manager.shard_name(done.written.receipt.place.shard);
    Ok(done.response.json(PairWritten { message: "Write successful", shard }))
}

async fn parse_anywhere(
    app: &Data<App>,
    rights: &CallerRights,
    header: Option<ShardKey<'_>>,
    bytes: Bytes,
) -> Result<(KeyLocation, RowWrite), Problem> {
    if bytes.len() <= body_reader::INLINE_BYTES_MAX {
        return parse(app, rights, header, &bytes);
    }
    let (app, rights, header) =
        (app.clone(), rights.clone(), header.map(|key| key.as_str().to_owned()));
    let work = move || {
        let header = header.as_deref().and_then(|key| ShardKey::parse(key).ok());
        parse(&app, &rights, header, &bytes)
    };
    run_blocking(work).await
}

fn parse(
    app: &App,
    rights: &Rights,
    header: Option<ShardKey<'_>>,
    bytes: &[u8],
) -> Result<(KeyLocation, RowWrite), Problem> {
    let members = Members::of_body(bytes)?;
    members.check_names(&["key", "value"])?;
    let key = members.required_text("key")?;
    let key = ShardKey::parse(&key)
        .map_err(|error| Problem::new(Code::TSR101, format!("key: {error}")))?;
    let value = members.get("value");
    let value = value.ok_or_else(|| Problem::new(Code::TSR101, "value is missing"))?;
    if value.get().len() > body_reader::VALUE_BYTES_MAX {
        let detail = format!("value is larger than {} MiB", body_reader::VALUE_BYTES_MAX >> 20);
        return Err(Problem::new(Code::TSR108, detail).hint(body_reader::VALUE_HINT));
    }
    put(app, rights, agree(key, header)?, value)
}

/// Returns the value under a key.
#[utoipa::path(
    tag = "aliases",
    params(
        ("key" = String, Query, description = "The key", example = "user_123", min_length = 1, max_length = 256),
        ("x-shard-key" = Option<String>, Header, description = "Needless; another than the key is refused", max_length = 256),
        ("Prefer" = Option<String>, Header, description = "handling=strict refuses preferences that are unknown"),
        ("If-Match" = Option<String>, Header, description = "The versions, in quotes, of which the value must be one: else 412"),
        ("If-None-Match" = Option<String>, Header, description = "The ETag of the value that the client has: 304 if it is still that"),
    ),
    responses(
        (status = 200, description = "Key, value and shard", body = PairAnswer),
        (status = 304, description = "The value is still of the version in If-None-Match"),
        (status = 412, description = "The value is not of a version in If-Match", body = ProblemBody<'static>, content_type = "application/problem+json"),
        ReadRefusals,
    )
)]
#[get("/read")]
pub(crate) async fn read_pair(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let began = Instant::now();
    let mut headers = DataHeaders::parse(&app.manager, &request, began)?;
    let parameters = Parameters::parse(request.query_string())?;
    parameters.check_names(&["key"])?;
    let text = parameters.single("key")?;
    let text = text.ok_or_else(|| {
        Problem::new(Code::TSR100, "key is missing").hint("for example ?key=user_123")
    })?;
    let key = ShardKey::parse(text)
        .map_err(|error| Problem::new(Code::TSR100, format!("key: {error}")))?;
    let key = agree(key, headers.shard_key.take())?;
    let found = find(&app, &request, key, &headers, began).await?;
    let shard = found.shard(&app);
    found.answer(&app, request.headers(), |value| {
        let mut body = Vec::with_capacity(value.len() + text.len() + 64);
        body.extend_from_slice(b"{\"key\":");
        push_json_string(&mut body, text);
        body.extend_from_slice(b",\"value\":");
        body.extend_from_slice(value);
        body.extend_from_slice(b",\"shard\":");
        push_json_string(&mut body, shard);
        body.push(b'}');
        body
    })
}

/// Distribution of the rows.
#[derive(Serialize, ToSchema)]
pub struct StatsAnswer<'a> {
    /// The shards in their order.
    shards: Vec<ShardStats<'a>>,
    /// Rows of all shards; null if one of them did not answer.
    #[schema(required)]
    total_rows: Option<i64>,
}

/// Slots and rows of a shard.
#[derive(Serialize, ToSchema)]
pub struct ShardStats<'a> {
    /// Name of the shard.
    shard: &'a str,
    /// Number of its slots.
    slots: usize,
    /// Rows of all its tables, exact; null if the shard did not answer.
    #[schema(required)]
    rows: Option<i64>,
}

/// Returns the number of slots and rows of each shard.
#[utoipa::path(
    tag = "aliases",
    responses((status = 200, description = "Slots and rows of each shard", body = StatsAnswer), LookupRefusals)
)]
#[get("/stats")]
pub(crate) async fn stats(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    Parameters::parse(request.query_string())?.check_names(&[])?;
    let map = app.manager.map();
    let patience = time_limit(request.headers(), COUNTS_MAX)?;
    let counts = app.manager.status().count_rows(Instant::now() + patience).await;
    let shards = counts.into_iter().map(|(shard, rows)| ShardStats {
        shard: app.manager.shard_name(shard),
        slots: map.slots_of(shard).count(),
        rows,
    });
    let shards: Vec<_> = shards.collect();
    let total_rows = shards.iter().map(|shard| shard.rows).sum();
    Ok(HttpResponse::Ok().json(StatsAnswer { shards, total_rows }))
}
