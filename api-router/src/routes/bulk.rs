//! `POST /api/bulk-write`: many rows, each with its own outcome.

use std::time::Instant;

use actix_web::http::StatusCode;
use actix_web::http::header::HeaderValue;
use actix_web::web::{Bytes, Data, Payload, block};
use actix_web::{HttpRequest, HttpResponse, post};
use serde::Serialize;
use serde_json::value::RawValue;
use shard_manager::error::Error;
use shard_manager::keyspace::ShardKey;
use shard_manager::manager::{BulkDone, BulkRow, BulkRowDone, Manager};
use shard_manager::row::{Operation, RowError};
use shard_manager::shard_map::ShardMap;
use shard_manager::table::Table;
use shard_manager::topology::{Role, ShardIndex};
use shard_manager::value::Misfit;
use utoipa::ToSchema;

use super::write::{OperationName, one_key, operation};
use crate::answer::{ServedBy, Source, Timing, WriteRefusals, data_response};
use crate::app::App;
use crate::body::{self, Members};
use crate::headers::{DataHeaders, check_content_type, idempotency_key, refuse_conditions};
use crate::prefer::Preference;
use crate::problem::{Code, IDEMPOTENCY_REPLAYED, Problem, ProblemBody};
use crate::query::Parameters;

/// Most rows of one JSON body.
const ROWS_MAX: usize = 10_000;
/// Failures that are told one by one; `failed_total` counts all.
const FAILED_MAX: usize = 1_000;

/// The body of a bulk write: `rows`, or `records` (also `data`) with bare rows.
#[derive(ToSchema)]
#[schema(example = json!({"table": "users", "rows": [
    {"shard_key": "user_1", "data": {"user_id": "user_1", "name": "Ada", "email": "ada@example.com"}}]}))]
pub struct BulkRequest {
    /// The table of all rows.
    #[expect(dead_code, reason = "describes the body; the members are read without building it")]
    table: String,
    /// What to do with each row; `upsert` when it is not given.
    #[schema(inline)]
    #[expect(dead_code, reason = "as above")]
    op: Option<OperationName>,
    /// Rows with their shard keys; at most 10 000.
    #[schema(max_items = 10000, min_items = 1)]
    #[expect(dead_code, reason = "as above")]
    rows: Option<Vec<BulkRequestRow>>,
    /// Bare rows, whose shard key is their routing column, else the header `x-shard-key`.
    #[schema(value_type = Option<Vec<Object>>, max_items = 10000, min_items = 1)]
    #[expect(dead_code, reason = "as above")]
    records: Option<Vec<serde_json::Value>>,
}

/// A row of a bulk write.
#[derive(ToSchema)]
pub struct BulkRequestRow {
    /// The row's shard key; when not given its routing column, else the header `x-shard-key`.
    #[expect(dead_code, reason = "as above")]
    shard_key: Option<String>,
    /// The row's columns.
    #[schema(value_type = Object)]
    #[expect(dead_code, reason = "as above")]
    data: serde_json::Value,
}

/// What became of the rows.
#[derive(Serialize, ToSchema)]
pub struct BulkAnswer<'a> {
    /// Whether every row is stored.
    success: bool,
    /// Rows in the request.
    accepted: usize,
    /// Rows that are durable on as many nodes as was asked for.
    stored: usize,
    /// Rows that are not, or not known to be.
    failed_total: usize,
    /// The first 1 000 of them, by index.
    failed: Vec<FailedRow<'a>>,
    /// Rows stored by each shard that stored any.
    shards: Vec<ShardRows<'a>>,
    /// How long it took, in milliseconds.
    elapsed_ms: u64,
}

/// A row that is not stored as was asked for.
#[derive(Serialize, ToSchema)]
pub struct FailedRow<'a> {
    /// Its place in the request, from 0.
    index: usize,
    /// Where it was sent, if it could be routed.
    shard: Option<&'a str>,
    /// `rejected`: it is not stored; `committed`: it is on the primary, but not confirmed by as many nodes as was
    /// asked for; `unknown`: it may be stored.
    outcome: &'a str,
    /// Whether the same row may succeed later.
    retryable: bool,
    /// Why.
    error: ProblemBody<'a>,
}

/// Rows that a shard stored.
#[derive(Serialize, ToSchema)]
pub struct ShardRows<'a> {
    /// The shard.
    shard: &'a str,
    /// Rows.
    rows: usize,
}

/// A row that could not even be sent.
struct Refused {
    index: usize,
    problem: Problem,
}

/// Writes many rows.
///
/// Each row is atomic and has its own outcome: 201 when all are stored, 207 when some are not. Rows of one
/// key are applied in the order given.
#[utoipa::path(
    tag = "data",
    params(
        ("x-shard-key" = Option<String>, Header, description = "The shard key of rows that name none", max_length = 256),
        ("shardKey" = Option<String>, Query, description = "As x-shard-key", max_length = 256),
        ("x-deadline-ms" = Option<u32>, Header, description = "Longest time for an answer; 5000 when not given", minimum = 100, maximum = 60000),
        ("x-consistency" = Option<String>, Header, description = "Where each row must be durable: one, quorum or all; one when not given"),
        ("x-session-token" = Option<String>, Header, description = "What the client has seen: the token of its last answer", max_length = 4096),
        ("Idempotency-Key" = Option<String>, Header, description = "The rows of the same request with the same key are stored once; each row is recognised by the key and its index", max_length = 128),
    ),
    request_body = BulkRequest,
    responses(
        (status = 201, description = "All rows are stored", body = BulkAnswer),
        (status = 207, description = "Some rows are not stored", body = BulkAnswer),
        WriteRefusals,
    )
)]
#[post("/api/bulk-write")]
pub(crate) async fn write_bulk(
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let began = Instant::now();
    let DataHeaders { shard_key, wish, prefer } =
        DataHeaders::parse(&app.manager, &request, began)?;
    if prefer.has(Preference::PerShard) {
        return Err(Problem::new(
            Code::TSR113,
            "prefer must be without tx: rows are stored one by one",
        ));
    }
    refuse_conditions(request.headers())?;
    let idempotency_key = idempotency_key(request.headers())?.map(str::to_owned);
    check_content_type(request.headers())?;
    let parameters = Parameters::parse(request.query_string())?;
    parameters.check_names(&["shardKey"])?;
    let key = one_key(shard_key, parameters.single("shardKey")?, None)?;
    let declared = body::declared_length(request.headers());
    let _room = app.make_room(declared.unwrap_or(body::BULK_BYTES_MAX))?;
    let bytes = body::read(payload, declared, body::BULK_BYTES_MAX, wish.deadline).await?;
    let (mut rows, mut refused) = parse_anywhere(&app, key, bytes).await?;
    if let Some(key) = idempotency_key {
        // No client's own key holds a space: the row of a bulk write is never taken for a single write.
        let numbered = rows.iter_mut().map(|row| (row.index, &mut row.row));
        numbered.for_each(|(index, row)| row.idempotency_key = Some(format!("{key} {index}")));
    }
    let accepted = rows.len() + refused.len();
    let route = began.elapsed();
    let met = only_shard(&rows);
    let BulkDone { rows: done, session } = app.manager.write_bulk(rows, &wish).await;
    let database = began.elapsed() - route;
    let replayed = !done.is_empty() && done.iter().all(is_replayed);
    let stored = sort_out(&app, done, &mut refused);
    let answer = answer(&app, accepted, &stored, &refused, began);
    let timing = Timing { route, database, ..Timing::default() };
    let status = if refused.is_empty() { StatusCode::CREATED } else { StatusCode::MULTI_STATUS };
    let epoch = app.manager.map().epoch();
    let source = Source { role: Role::Primary, session: &session, epoch };
    let mut response = data_response(&app, &source, &timing);
    if replayed {
        response.insert_header((IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true")));
    }
    if let Some(shard) = met {
        response.extensions_mut().insert(ServedBy(shard));
    }
    Ok(response.status(status).json(answer))
}

/// Whether a row's outcome is that of an earlier time.
fn is_replayed(row: &BulkRowDone) -> bool {
    match &row.outcome {
        Ok(done) => done.replayed,
        Err((error, _)) => matches!(error, Error::Remembered(_)),
    }
}

/// The one shard that all rows go to, if it is one: whose request this then counts as.
fn only_shard(rows: &[BulkRow]) -> Option<ShardIndex> {
    let first = rows.first()?.place.shard;
    rows.iter().all(|row| row.place.shard == first).then_some(first)
}

async fn parse_anywhere(
    app: &Data<App>,
    key: Option<ShardKey<'_>>,
    bytes: Bytes,
) -> Result<(Vec<BulkRow>, Vec<Refused>), Problem> {
    if bytes.len() <= body::INLINE_BYTES_MAX {
        return parse(app, key, &bytes);
    }
    let (app, key) = (app.clone(), key.map(|key| key.as_str().to_owned()));
    let parsed = block(move || {
        let key = key.as_deref().and_then(|key| ShardKey::parse(key).ok());
        parse(&app, key, &bytes)
    });
    parsed.await.map_err(|_| Problem::new(Code::TSR500, "an internal error"))?
}

fn parse(
    app: &App,
    key: Option<ShardKey<'_>>,
    body: &[u8],
) -> Result<(Vec<BulkRow>, Vec<Refused>), Problem> {
    let members = Members::of_body(body)?;
    members.check_names(&["table", "op", "rows", "records", "data"])?;
    let table = app.manager.table(&members.required_text("table")?)?;
    let operation = operation(&members)?;
    let mut lists = ["rows", "records", "data"]
        .into_iter()
        .filter_map(|name| members.get(name).map(|json| (name, json)));
    let (Some((name, json)), None) = (lists.next(), lists.next()) else {
        let detail = "exactly one of rows and records must be given";
        return Err(Problem::new(Code::TSR101, detail));
    };
    let items = body::items(name, json, ROWS_MAX)?;
    if items.is_empty() {
        return Err(Problem::new(Code::TSR101, format!("{name} is empty")));
    }
    let map = app.manager.map();
    let wrapped = name == "rows";
    let (mut rows, mut refused) = (Vec::with_capacity(items.len()), Vec::new());
    for (index, item) in items.into_iter().enumerate() {
        match parse_row(&map, &table, operation, key, (wrapped, item)) {
            Ok((place, row)) => rows.push(BulkRow { index, place, row }),
            Err(problem) => refused.push(Refused { index, problem }),
        }
    }
    Ok((rows, refused))
}

type Routed = (shard_manager::shard_map::Place, shard_manager::row::RowWrite);

/// A row's key is its `shard_key`, else its routing column, else the header.
fn parse_row(
    map: &ShardMap,
    table: &std::sync::Arc<Table>,
    operation: Operation,
    default_key: Option<ShardKey<'_>>,
    (wrapped, item): (bool, &RawValue),
) -> Result<Routed, Problem> {
    if item.get().len() > body::WRITE_BYTES_MAX {
        let detail = format!("a row is larger than {} MiB", body::WRITE_BYTES_MAX >> 20);
        return Err(Problem::new(Code::TSR108, detail));
    }
    let members = Members::of_member("a row", item)?;
    let (own_key, data) = if wrapped {
        members.check_names(&["shard_key", "data"])?;
        let data = members.get("data");
        let data = data.ok_or_else(|| Problem::new(Code::TSR101, "data is missing"))?;
        (members.text("shard_key")?, Members::of_member("data", data)?)
    } else {
        (None, members)
    };
    let routing = match (&own_key, table.routing()) {
        (None, Some(routing)) => routing_text(&data, &table.column(routing).name),
        (Some(_), _) | (None, None) => None,
    };
    let text = own_key.as_deref().or(routing.as_deref());
    let key = match text {
        Some(text) => Some(ShardKey::parse(text).map_err(|error| {
            Problem::new(Code::TSR101, format!("the row's shard key: {error}"))
        })?),
        None => default_key,
    };
    let key = key.ok_or_else(|| no_key(table, &data))?;
    let (place, mut row) = Manager::prepare(map, table, operation, key, &data.0)?;
    row.wants_row = false;
    Ok((place, row))
}

/// Why a row names no key: its routing column is there but cannot be one, or there is none.
fn no_key(table: &Table, data: &Members<'_>) -> Problem {
    let named = table.routing().map(|routing| table.column(routing));
    let given = named.and_then(|column| Some((column, data.get(&column.name)?)));
    match given {
        Some((column, json)) => {
            let misfit = column.kind.read_json(json).err().unwrap_or(Misfit::Null);
            Problem::from(&RowError::Misfit { column: column.name.clone(), misfit })
        }
        None => {
            Problem::new(Code::TSR104, "the row names no shard key").hint("give it a shard_key")
        }
    }
}

/// The routing column as it would spell the shard key; a value that is no scalar is refused later, with its
/// column's name.
fn routing_text(data: &Members<'_>, column: &str) -> Option<String> {
    let raw = data.get(column)?.get();
    serde_json::from_str(raw).ok().or_else(|| {
        let scalar = !raw.starts_with(['{', '[', '"', 'n']);
        scalar.then(|| raw.to_owned())
    })
}

/// Counts stored rows by shard; the others join those refused before, in the order of the request.
fn sort_out(app: &App, done: Vec<BulkRowDone>, refused: &mut Vec<Refused>) -> Vec<usize> {
    let mut stored = vec![0; app.manager.map().topology().len()];
    for row in done {
        match row.outcome {
            Ok(_) => stored[row.place.shard.index()] += 1,
            Err((error, outcome)) => {
                let shard = app.manager.shard_name(row.place.shard);
                let problem = Problem::from(error).shard(shard).outcome(outcome.name());
                refused.push(Refused { index: row.index, problem });
            }
        }
    }
    for row in refused.iter_mut() {
        row.problem.of_write();
    }
    refused.sort_by_key(|row| row.index);
    stored
}

fn answer<'a>(
    app: &'a App,
    accepted: usize,
    stored: &[usize],
    refused: &'a [Refused],
    began: Instant,
) -> BulkAnswer<'a> {
    let shards = app.manager.map().topology().indices().zip(stored).filter(|(_, rows)| **rows > 0);
    BulkAnswer {
        success: refused.is_empty(),
        accepted,
        stored: stored.iter().sum(),
        failed_total: refused.len(),
        failed: refused.iter().take(FAILED_MAX).map(failed_row).collect(),
        shards: shards
            .map(|(shard, rows)| ShardRows { shard: app.manager.shard_name(shard), rows: *rows })
            .collect(),
        elapsed_ms: began.elapsed().as_millis() as u64,
    }
}

fn failed_row(row: &Refused) -> FailedRow<'_> {
    FailedRow {
        index: row.index,
        shard: row.problem.shard_name(),
        outcome: row.problem.outcome_name().unwrap_or("rejected"),
        retryable: row.problem.code().is_retryable(),
        error: row.problem.body(None),
    }
}
