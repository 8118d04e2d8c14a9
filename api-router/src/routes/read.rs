//! `GET /api/read`: the rows of one key, or of all shards.

use std::time::Instant;

use actix_web::http::StatusCode;
use actix_web::http::header::ETAG;
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse, get};
use shard_manager::manager::ReadDone;
use shard_manager::value::push_json_number;
use utoipa::ToSchema;

use super::write::one_key;
use crate::answer::{ReadRefusals, Source, Timing, data_response, etag, keyed_response, refusal};
use crate::app::App;
use crate::headers::{DataHeaders, has_version};
use crate::prefer::Preference;
use crate::problem::{Code, Problem};
use crate::query::{Parameters, read_query};

/// The rows of a read.
#[derive(serde::Serialize, ToSchema)]
pub struct ReadAnswer {
    /// Always true.
    success: bool,
    /// The rows, in order.
    #[schema(value_type = Vec<Object>)]
    data: Vec<serde_json::Value>,
    /// Number of rows.
    count: usize,
    /// The shards that were asked.
    shards: Vec<String>,
    /// Which kind of node answered.
    served_by: String,
    /// Whether a cache answered.
    cached: bool,
}

/// Reads rows.
///
/// With a shard key the rows of that key, without one those of all shards, merged. Any other parameter is a
/// filter on a column: `name=eq.John`, `user_id=in.(a,b)`. Without `order`, rows come in the order in which
/// they are kept: by slot, shard key and id.
#[utoipa::path(
    tag = "data",
    params(
        ("x-shard-key" = Option<String>, Header, description = "Whose rows; all shards when not given", example = "user_123", max_length = 256),
        ("shardKey" = Option<String>, Query, description = "The shard key, when it is not visible ASCII", max_length = 256),
        ("table" = String, Query, description = "The table", example = "users"),
        ("select" = Option<String>, Query, description = "Columns, also renamed: user_id,mail:email", example = "user_id,name"),
        ("order" = Option<String>, Query, description = "Columns to sort by; null is last ascending, first descending", example = "name.desc,user_id"),
        ("orderBy" = Option<String>, Query, description = "As order"),
        ("limit" = Option<u32>, Query, description = "Most rows; 100 when not given", maximum = 1000),
        ("x-deadline-ms" = Option<u32>, Header, description = "Longest time for an answer; 5000 when not given", minimum = 100, maximum = 60000),
        ("Prefer" = Option<String>, Header, description = "fanout=deny refuses to read all shards"),
        ("x-consistency" = Option<String>, Header, description = "one: a replica, not older than the token; quorum: a node that has all that was acknowledged before; all: the primary; one when not given"),
        ("x-session-token" = Option<String>, Header, description = "What the client has seen, and so must see again: the token of its last answer", max_length = 4096),
        ("x-max-staleness-ms" = Option<u64>, Header, description = "At level one: how long ago the node may have been current"),
        ("If-None-Match" = Option<String>, Header, description = "The ETag of the row that the client has: 304 if it is still that"),
    ),
    responses((status = 200, description = "The rows", body = ReadAnswer, headers(
                ("x-shard" = Option<String>, description = "The shard of the key, if one was given"),
                ("x-shard-slot" = Option<u16>, description = "The slot of the key, if one was given"),
                ("ETag" = Option<String>, description = "The row's version, in quotes, if one row of one key was read"),
                ("x-session-token" = String, description = "What the client has seen, this read included"),
                ("x-epoch" = u64, description = "The version of the shard map"),
                ("x-served-by" = String, description = "Which kind of node answered"),
                ("x-request-id" = String, description = "The id under which the request is logged"),
                ("Server-Timing" = String, description = "route, queue, db, merge, in milliseconds"),
            )),
        (status = 304, description = "The row is still of the version in If-None-Match"),
        ReadRefusals)
)]
#[get("/api/read")]
pub(crate) async fn read_rows(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let began = Instant::now();
    let headers = DataHeaders::parse(&app.manager, &request, began)?;
    let parameters = Parameters::parse(request.query_string())?;
    let key = one_key(headers.shard_key, parameters.single("shardKey")?, None)?;
    if key.is_none() && headers.prefer.has(Preference::DenyFanout) {
        let detail = "without a shard key this reads all shards, which Prefer: fanout=deny refuses";
        return Err(Problem::new(Code::TSR104, detail).hint("send x-shard-key"));
    }
    let table = parameters.single("table")?;
    let table = table.ok_or_else(|| {
        Problem::new(Code::TSR100, "table is missing").hint("for example ?table=users")
    })?;
    let query = read_query(&app.manager.table(table)?, &parameters)?;
    let route = began.elapsed();
    let read = app.manager.read(query, key, &headers.wish).await;
    let read = read.map_err(|failure| refusal(&app, failure, &headers.wish.session))?;
    let timing = Timing { route, database: read.database, merge: read.merge, ..Timing::default() };
    let source = Source { role: read.served_by, session: &read.session, epoch: read.epoch };
    let mut response = match read.place {
        Some(place) => keyed_response(&app, place, &source, &timing),
        None => data_response(&app, &source, &timing),
    };
    if let Some(version) = read.version() {
        response.insert_header((ETAG, etag(version)));
        if has_version(request.headers(), version)? {
            return Ok(response.status(StatusCode::NOT_MODIFIED).finish());
        }
    }
    Ok(response.body(answer(&app, &read)))
}

fn answer(app: &App, read: &ReadDone) -> Vec<u8> {
    let mut body = Vec::with_capacity(read.rows.json().len() + 160);
    body.extend_from_slice(b"{\"success\":true,\"data\":[");
    body.extend_from_slice(read.rows.json());
    body.extend_from_slice(b"],\"count\":");
    push_json_number(&mut body, read.rows.len());
    body.extend_from_slice(b",\"shards\":[");
    for (index, shard) in read.shards.iter().enumerate() {
        body.extend_from_slice(if index == 0 { b"\"" } else { b",\"" });
        body.extend_from_slice(app.manager.shard_name(*shard).as_bytes());
        body.push(b'"');
    }
    body.extend_from_slice(b"],\"served_by\":\"");
    body.extend_from_slice(read.served_by.name().as_bytes());
    body.extend_from_slice(b"\",\"cached\":false}");
    body
}
