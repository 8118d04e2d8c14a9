//! `POST /api/bulk-write`: writes many rows, each with its own outcome.
//!
//! A JSON body is held in memory as a whole, and can be stored in one transaction per shard; NDJSON
//! and CSV are streamed.
//!
//! **Invariant:** with `tx=per-shard`, a shard stores either all of its rows of the request or none
//! of them.
//! **Not here:** streaming (`stream`, `row_reader`), parsing and routing of a row (`row_router`),
//! the body of the response (`outcome`).

mod outcome;
mod parser_thread;
mod row_reader;
mod row_router;
mod row_sample;
mod shard_queues;
pub mod stream;

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use actix_web::http::header::HeaderValue;
use actix_web::web::{Bytes, Data, Payload, block};
use actix_web::{HttpRequest, HttpResponse, post};
use shard_manager::access::rights::Rights;
use shard_manager::keyspace::ShardKey;
use shard_manager::manager::{BulkDone, BulkRow, RequestOptions};
use shard_manager::row_change::Operation;
use shard_manager::shard_map::KeyLocation;
use shard_manager::topology::ShardNumber;
use utoipa::ToSchema;

use self::outcome::{BulkAnswer, BulkOutcome, RefusedRow};
use self::row_reader::StreamOptions;
use self::row_router::{RowRejection, RowRouter};
use self::row_sample::RowSample;
use self::stream::write_stream;
use super::write::{OperationName, one_key, operation};
use crate::access::audit::note_row;
use crate::access::caller_recheck::CallerRecheck;
use crate::app::App;
use crate::body_decoding::ContentCoding;
use crate::body_reader::{self, Members};
use crate::caller_rights::CallerRights;
use crate::headers::{BulkFormat, DataHeaders, bulk_format, idempotency_key, refuse_conditions};
use crate::prefer::{Prefer, Preference};
use crate::problem::{Code, IDEMPOTENCY_REPLAYED, Problem};
use crate::query::Parameters;
use crate::request_record;
use crate::response_headers::{PREFERENCE_APPLIED, WriteRefusals};

/// Maximum number of rows of one JSON body.
const ROWS_MAX: usize = 10_000;

/// The body of a bulk write: `rows`, or `records` (also `data`) with bare rows.
#[derive(ToSchema)]
#[schema(example = json!({"table": "users", "rows": [
    {"shard_key": "user_1", "data": {"user_id": "user_1", "name": "Ada", "email": "ada@example.com"}}]}))]
pub struct BulkRequest {
    /// The table of all rows.
    #[expect(dead_code, reason = "describes the body; the members are read without building it")]
    table: String,
    /// Operation on each row; `upsert` when it is not given.
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
    /// Version that the row must have; not allowed for an insert.
    #[expect(dead_code, reason = "as above")]
    if_version: Option<i64>,
}

/// Writes many rows.
///
/// Each row is atomic and has its own outcome: 201 when all are stored, 207 when some are not. Rows
/// of one key are applied in the order given.
///
/// **JSON** (at most 10 000 rows and 16 MiB): the body has all parameters. Under `Prefer:
/// tx=per-shard` each shard's part is one transaction: if one of its rows is refused, all of them
/// are, with the code of that row. A row without a shard key, or with one that contradicts its
/// columns, could belong to any part: then nothing is stored at all. A part whose rows would be
/// more than 16 MiB in the log is refused (TSR108).
///
/// **NDJSON and CSV** are streamed, however long they are; `table` and `op` are parameters of the
/// query, the deadline is that of each chunk, and 30 s without a byte end the body. A line of
/// NDJSON has the columns of the row, or is `{"shard_key", "data", "if_version"}`: the latter if
/// `data` is an object and the table has no column of this name. The first line of CSV names the
/// columns, `shard_key` may be one of them; an empty field is null unless quoted, and so is `null`
/// in a json column that may be null. Rows are counted from 0; blank lines and the first line of
/// CSV do not count. A line that is not a row is a failed row; under `Prefer: handling=strict` the
/// first one ends the request. The response to a body that ends in this way, or is cut off, is a
/// problem whose `outcome` is `partial`: rows before `next_index` were carried out, the rest can be
/// sent again from there. A row of more than 2 MiB ends the body in the same way (TSR108).
///
/// All formats may be compressed with gzip.
#[utoipa::path(
    tag = "data",
    params(
        ("table" = Option<String>, Query, description = "The table, when the body is NDJSON or CSV; JSON says it itself"),
        ("op" = Option<String>, Query, pattern = "^(upsert|insert|update|delete)$", description = "What to do with each row of NDJSON or CSV; upsert when it is not given"),
        ("x-shard-key" = Option<String>, Header, description = "The shard key of rows that name none", max_length = 256),
        ("shardKey" = Option<String>, Query, description = "As x-shard-key", max_length = 256),
        ("Prefer" = Option<String>, Header, description = "JSON: tx=per-shard stores each shard's part as a whole or not at all. NDJSON and CSV: handling=strict ends at the first line that is not a row"),
        ("Content-Encoding" = Option<String>, Header, description = "gzip, if the body is"),
    ),
    request_body(
        description = "JSON, or rows line by line",
        content(
            (BulkRequest = "application/json"),
            (String = "application/x-ndjson", example = "{\"user_id\":\"user_1\",\"name\":\"Ada\",\"email\":\"ada@example.com\"}\n"),
            (String = "text/csv", example = "user_id,name,email\nuser_1,Ada,ada@example.com\n"),
        )
    ),
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
    let DataHeaders { shard_key, options, prefer } =
        DataHeaders::parse(&app.manager, &request, began)?;
    refuse_conditions(request.headers())?;
    let idempotency_key = idempotency_key(request.headers())?.map(str::to_owned);
    let (format, coding) = bulk_format(request.headers())?;
    let parameters = Parameters::parse(request.query_string())?;
    let rights = app.rights(&request);
    let head = Head { rights, shard_key, options, prefer, idempotency_key, format, coding, began };
    match format {
        BulkFormat::Json => write_json(&app, head, &request, &parameters, payload).await,
        BulkFormat::Ndjson | BulkFormat::Csv => {
            let stream_options = stream_options(&app, &head, &parameters)?;
            note_row(app.audit.as_ref(), &request, stream_options.table.name(), None);
            let caller = (&head.rights, &head.options);
            let mut response =
                write_stream(&app, &request, payload, stream_options, caller, began).await?;
            if let Some(applied) = head.prefer.applied(&[Preference::Strict]) {
                response.headers_mut().insert(PREFERENCE_APPLIED, applied);
            }
            Ok(response)
        }
    }
}

/// Parsed headers of a bulk write, with the rights of its caller and the start of the request.
struct Head<'r> {
    rights: CallerRights,
    shard_key: Option<ShardKey<'r>>,
    options: RequestOptions,
    prefer: Prefer,
    idempotency_key: Option<String>,
    format: BulkFormat,
    coding: ContentCoding,
    began: Instant,
}

/// Returns the options of a streamed body, which are parameters of the query instead of members of
/// a JSON body.
fn stream_options(
    app: &App,
    head: &Head<'_>,
    parameters: &Parameters<'_>,
) -> Result<StreamOptions, Problem> {
    parameters.check_names(&["table", "op", "shardKey"])?;
    let refuse = |detail| Err(Problem::new(Code::TSR113, detail).hint("or send a JSON body"));
    if head.prefer.has(Preference::PerShard) {
        return refuse("prefer must be without tx: rows of a stream are stored one by one");
    }
    if head.idempotency_key.is_some() {
        return refuse("idempotency-key must be left out: rows of a stream are not remembered");
    }
    let table = parameters.single("table")?.ok_or_else(|| {
        Problem::new(Code::TSR100, "table is missing").hint("/api/bulk-write?table=users&op=upsert")
    })?;
    let operation = match parameters.single("op")? {
        None => Operation::default(),
        Some(name) => Operation::find(name).ok_or_else(|| {
            Problem::new(Code::TSR100, "op must be upsert, insert, update or delete")
        })?,
    };
    let key = one_key(head.shard_key, parameters.single("shardKey")?, None)?;
    let schema = app.manager.schema(&head.rights);
    Ok(StreamOptions {
        rights: head.rights.clone(),
        table: schema.usable_for(schema.table(table)?, operation.into())?,
        operation,
        key: key.map(|key| key.as_str().to_owned()),
        format: head.format,
        coding: head.coding,
        strict: head.prefer.has(Preference::Strict),
    })
}

async fn write_json(
    app: &Data<App>,
    head: Head<'_>,
    request: &HttpRequest,
    parameters: &Parameters<'_>,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    parameters.check_names(&["shardKey"])?;
    let Head { rights, options, began, .. } = &head;
    let recheck = CallerRecheck::of(app.gate.as_ref(), request);
    let key = one_key(head.shard_key, parameters.single("shardKey")?, None)?;
    let zipped = head.coding == ContentCoding::Gzip;
    let (bytes, share) =
        app.read_body(request, payload, body_reader::BULK_BYTES_MAX, options.deadline).await?;
    let share = share.unwrap_or_else(|| app.open_share(request));
    if zipped {
        share.grow(body_reader::BULK_BYTES_MAX, options.deadline).await?;
    }
    let keys = (key, head.idempotency_key.as_deref());
    let Parsed { mut rows, refused } = parse_anywhere(app, rights, keys, (bytes, zipped)).await?;
    // The caller may have lost its rights while the body arrived.
    recheck.check()?;
    if let Some(key) = &head.idempotency_key {
        // A key that a client sends contains no space, so this key of a row never equals the key of
        // a single write.
        let numbered = rows.iter_mut().map(|row| (row.index, &mut row.row));
        numbered.for_each(|(index, row)| row.idempotency_key = Some(format!("{key} {index}")));
    }
    let route = began.elapsed();
    let mut outcome = BulkOutcome::new(options.session.clone());
    let whole = head.prefer.has(Preference::PerShard);
    if whole {
        rows = undo_with(app, rows, &refused, &mut outcome);
    }
    let asked: BTreeSet<ShardNumber> = rows.iter().map(|row| row.place.shard).collect();
    let sample = note_keys(app, request, &rows);
    let meter = app.meter(request);
    meter.charge_rows(rows.len());
    meter.charge_shards(asked.len());
    let lost = OnceCell::new();
    // Only the first problem is kept, which is the same for all rows that are not sent.
    let may_continue = || recheck.check().map_err(|problem| lost.set(problem)).is_ok();
    let BulkDone { rows: done, unsent, session, times } = match whole {
        true => app.manager.data(rights).write_bulk_atomic(rows, options).await,
        false => app.manager.data(rights).write_bulk_while(rows, options, may_continue).await,
    };
    outcome.session = session;
    let lost = lost.into_inner().into_iter();
    lost.for_each(|problem| outcome.refuse_all(&unsent, &problem));
    // Rows whose slots have moved were sent to other shards than planned.
    let asked: BTreeSet<ShardNumber> = done.iter().map(|row| row.place.shard).collect();
    asked.into_iter().for_each(|shard| outcome.add_times(shard, times));
    sample.list(app, &done);
    outcome.add(app, done);
    refused.into_iter().for_each(|(row, _)| outcome.refuse(row));
    let replayed = outcome.is_replayed();
    let (mut response, answer) = outcome.respond(app, request, *began, route);
    if replayed {
        response.insert_header((IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true")));
    }
    if let Some(applied) = head.prefer.applied(&[Preference::PerShard]) {
        response.insert_header((PREFERENCE_APPLIED, applied));
    }
    Ok(response.json(answer))
}

/// Returns the rows whose transaction has no refused row; each other row is refused with the
/// problem of the row that was refused. If a refused row could not be routed, it may belong to any
/// transaction, so all rows are refused.
fn undo_with(
    app: &App,
    rows: Vec<BulkRow>,
    refused: &[(RefusedRow, Option<KeyLocation>)],
    outcome: &mut BulkOutcome,
) -> Vec<BulkRow> {
    let mut culprits: BTreeMap<ShardNumber, &RefusedRow> = BTreeMap::new();
    let mut of_all = None;
    for (culprit, place) in refused {
        let Some(place) = place else {
            of_all = Some(culprit);
            break;
        };
        culprits.entry(place.shard).or_insert(culprit);
    }
    let mut left = Vec::with_capacity(rows.len());
    for row in rows {
        match culprits.get(&row.place.shard).copied().or(of_all) {
            None => left.push(row),
            Some(culprit) => {
                let shard = app.manager.shard_name(row.place.shard);
                let problem = culprit.problem.clone().undone_with_row(culprit.index).shard(shard);
                outcome.refuse(RefusedRow { index: row.index, problem });
            }
        }
    }
    left
}

/// Enters the shard key in the request record if all rows have the same one: the request is then
/// listed as a single write. Otherwise returns a sample of the keys for the list of recent writes.
fn note_keys(app: &App, request: &HttpRequest, rows: &[BulkRow]) -> RowSample {
    let Some(first) = rows.first() else { return RowSample::default() };
    note_row(app.audit.as_ref(), request, first.row.table.name(), None);
    if rows.iter().any(|row| row.row.key != first.row.key) {
        return RowSample::of(app, rows);
    }
    request_record::update(request, |record| {
        record.set_key(&first.row.key);
        record.slot = Some(first.place.slot);
    });
    note_row(app.audit.as_ref(), request, first.row.table.name(), Some(&first.row.key));
    RowSample::default()
}

/// Parsed rows of a JSON body.
struct Parsed {
    rows: Vec<BulkRow>,
    /// Rows that cannot be sent to a shard, each with its location if that is known.
    refused: Vec<(RefusedRow, Option<KeyLocation>)>,
}

/// Shard key for rows that do not name one, and the idempotency key.
type Keys<'k> = (Option<ShardKey<'k>>, Option<&'k str>);

async fn parse_anywhere(
    app: &Data<App>,
    rights: &CallerRights,
    (key, idempotency_key): Keys<'_>,
    (bytes, zipped): (Bytes, bool),
) -> Result<Parsed, Problem> {
    if bytes.len() <= body_reader::INLINE_BYTES_MAX && !zipped {
        return parse(app, rights, (key, idempotency_key), &bytes);
    }
    let idempotency_key = idempotency_key.map(str::to_owned);
    let (app, rights, key) = (app.clone(), rights.clone(), key.map(|key| key.as_str().to_owned()));
    let parsed = block(move || {
        let key = key.as_deref().and_then(|key| ShardKey::parse(key).ok());
        let bytes =
            if zipped { body_reader::gunzip(bytes, body_reader::BULK_BYTES_MAX)? } else { bytes };
        parse(&app, &rights, (key, idempotency_key.as_deref()), &bytes)
    });
    parsed.await.map_err(|_| Problem::new(Code::TSR500, "an internal error"))?
}

fn parse(
    app: &App,
    rights: &Rights,
    (key, idempotency_key): Keys<'_>,
    body: &[u8],
) -> Result<Parsed, Problem> {
    let members = Members::of_body(body)?;
    members.check_names(&["table", "op", "rows", "records", "data"])?;
    let table = app.manager.schema(rights).table(&members.required_text("table")?)?;
    let operation = operation(&members)?;
    let table = app.manager.schema(rights).usable_for(table, operation.into())?;
    let mut lists = ["rows", "records", "data"]
        .into_iter()
        .filter_map(|name| members.get(name).map(|json| (name, json)));
    let (Some((name, json)), None) = (lists.next(), lists.next()) else {
        let detail = "exactly one of rows, records and data must be given";
        return Err(Problem::new(Code::TSR101, detail));
    };
    let items = body_reader::items(name, json, ROWS_MAX)?;
    if items.is_empty() {
        return Err(Problem::new(Code::TSR101, format!("{name} is empty")));
    }
    let (map, schema) = (app.manager.map(), app.manager.schema(rights));
    let shared = RowRouter { map, schema, table, operation, key, idempotency_key };
    let wrapped = name == "rows";
    let mut parsed = Parsed { rows: Vec::with_capacity(items.len()), refused: Vec::new() };
    for (index, item) in items.into_iter().enumerate() {
        match shared.item(wrapped, (index, item)) {
            Ok((place, row)) => parsed.rows.push(BulkRow { index, place, row }),
            Err(RowRejection { problem, place }) => {
                parsed.refused.push((RefusedRow { index, problem: *problem }, place));
            }
        }
    }
    Ok(parsed)
}
