//! `GET /api/read`: the rows of one key, or of all shards.

use std::time::Instant;

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse, get};
use shard_manager::manager::ReadDone;
use shard_manager::value::push_json_number;
use utoipa::ToSchema;

use super::write::one_key;
use crate::answer::{ReadRefusals, Timing, data_response, keyed_response, refusal};
use crate::app::App;
use crate::headers::DataHeaders;
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
    ),
    responses((status = 200, description = "The rows", body = ReadAnswer, headers(
                ("x-shard" = Option<String>, description = "The shard of the key, if one was given"),
                ("x-shard-slot" = Option<u16>, description = "The slot of the key, if one was given"),
                ("x-epoch" = u64, description = "The version of the shard map"),
                ("x-served-by" = String, description = "Which kind of node answered"),
                ("x-request-id" = String, description = "The id under which the request is logged"),
                ("Server-Timing" = String, description = "route, queue, db, merge, in milliseconds"),
            )), ReadRefusals)
)]
#[get("/api/read")]
pub(crate) async fn read_rows(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let began = Instant::now();
    let headers = DataHeaders::parse(&request, began)?;
    let parameters = Parameters::parse(request.query_string())?;
    let key = one_key(headers.shard_key, parameters.single("shardKey")?, None)?;
    if key.is_none() && headers.prefer.deny_fanout {
        let detail = "without a shard key this reads all shards, which Prefer: fanout=deny refuses";
        return Err(Problem::new(Code::TSR104, detail).hint("send x-shard-key"));
    }
    let table = parameters.single("table")?;
    let table = table.ok_or_else(|| {
        Problem::new(Code::TSR100, "table is missing").hint("for example ?table=users")
    })?;
    let query = read_query(&app.manager.table(table)?, &parameters)?;
    let route = began.elapsed();
    let read = app.manager.read(query, key, headers.deadline).await;
    let read = read.map_err(|failure| refusal(&app, failure))?;
    let timing = Timing { route, database: read.database, merge: read.merge, ..Timing::default() };
    let mut response = match read.place {
        Some(place) => keyed_response(&app, place, &timing, None),
        None => data_response(&timing, read.epoch),
    };
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
    body.extend_from_slice(b"],\"served_by\":\"primary\",\"cached\":false}");
    body
}
