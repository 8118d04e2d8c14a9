//! `GET /api/read`: reads the rows of one shard key, of the keys that filters name, or of all
//! shards.

use std::time::Instant;

use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_RANGE, ETAG};
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse, get};
use shard_manager::access::operation::RowOperations;
use shard_manager::access::rights::Rights;
use shard_manager::cache::ServedBy;
use shard_manager::cursor::CursorError;
use shard_manager::keyspace::ShardKey;
use shard_manager::manager::{ReadDone, ResumeError};
use shard_manager::query::ReadQuery;
use shard_manager::shard_map::partitions::{keyspace_of, partition_column};
use shard_manager::table::Table;
use shard_manager::topology::ShardNumber;
use shard_manager::value::push_json_number;
use utoipa::ToSchema;

use super::write::one_key;
use crate::access::audit::note_row;
use crate::access::meter::CallerMeter;
use crate::app::App;
use crate::filter::shown;
use crate::headers::{DataHeaders, has_version};
use crate::prefer::Preference;
use crate::problem::{Code, Problem};
use crate::query::{Parameters, read_query};
use crate::request_record;
use crate::response_headers::{
    AnswerOrigin, PREFERENCE_APPLIED, ReadRefusals, Timing, data_response, etag, keyed_response,
    refusal,
};

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
    /// With `Prefer: count=exact`: number of rows that meet the filters; with status 206, of those
    /// on the shards that answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
    /// The shards that answered.
    shards: Vec<String>,
    /// With status 206: the shards that could not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<Vec<String>>,
    /// Node or cache that answered: primary, replica or cache.
    served_by: String,
    /// True if a cache answered.
    cached: bool,
    /// Start of the next page, as the parameter `cursor` of the same request; null after the last
    /// row.
    next_cursor: Option<String>,
}

/// Preferences that a read honours.
const HONOURED: [Preference; 3] =
    [Preference::DenyFanout, Preference::AllowPartial, Preference::CountExact];

/// Reads rows.
///
/// With a shard key, returns the rows of that key; without one, those of all shards, merged. `eq`
/// or `in` on the table's routing column names the shard key as well: such a read goes to the
/// shards of these keys only. Any other parameter is a filter on a column: `name=eq.John`,
/// `user_id=in.(a,b)`, `amount=gte.100`, `note=not.is.null`, `name=ilike.jo*`.
/// `or=(status.eq.open,and(amount.gt.100,note.is.null))` joins them. Without `order`, rows are
/// returned in the order in which they are stored: by slot, shard key and id.
///
/// A page that is not the last one has a `next_cursor`: the same request with it as `cursor`
/// returns the next page. Rows that exist throughout are returned exactly once, whatever is written
/// meanwhile.
#[utoipa::path(
    tag = "data",
    params(
        ("x-shard-key" = Option<String>, Header, description = "Whose rows; all shards when not given", example = "user_123", max_length = 256),
        ("shardKey" = Option<String>, Query, description = "The shard key, when it is not visible ASCII", max_length = 256),
        ("table" = String, Query, description = "The table", example = "users"),
        ("select" = Option<String>, Query, description = "Columns, also renamed: user_id,mail:email", example = "user_id,name"),
        ("order" = Option<String>, Query, description = "Columns to sort by; null is last ascending, first descending", example = "name.desc,user_id"),
        ("orderBy" = Option<String>, Query, description = "As order"),
        ("limit" = Option<u32>, Query, description = "Maximum number of rows; default 100", maximum = 1000),
        ("offset" = Option<u32>, Query, description = "Rows to pass over; a cursor is better", maximum = 10000),
        ("cursor" = Option<String>, Query, description = "next_cursor of the page before"),
        ("or" = Option<String>, Query, description = "Conditions of which one must hold, such as (name.eq.Ada,partition_key.is.null); also not.or"),
        ("and" = Option<String>, Query, description = "Conditions that must all hold, such as (name.gte.A,name.lt.B); also not.and"),
        ("Prefer" = Option<String>, Header, description = "fanout=deny refuses to read all shards; partial=allow answers without those that cannot; count=exact adds total, and Content-Range for HEAD; handling=strict refuses unknown preferences"),
        ("If-None-Match" = Option<String>, Header, description = "The ETag of the row that the client has: 304 if it is still that"),
    ),
    responses((status = 200, description = "The rows", body = ReadAnswer),
        (status = 206, description = "With partial=allow: the rows of those shards that can answer; missing names the others", body = ReadAnswer),
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
    let table = parameters.single("table")?;
    let table = table.ok_or_else(|| {
        Problem::new(Code::TSR100, "table is missing").hint("for example ?table=users")
    })?;
    note_row(app.audit.as_ref(), &request, table, key.map(|key| key.as_str()));
    let rights = app.rights(&request);
    let table = app.manager.schema(&rights).table(table)?;
    let table = app.manager.schema(&rights).usable_for(table, RowOperations::READ)?;
    let mut query = read_query(&table, &parameters)?;
    let named = query.keys_named();
    if let Some(key) = key {
        check_agrees(&query, named.as_deref(), key)?;
    }
    if headers.prefer.has(Preference::DenyFanout) {
        refuse_fanout(&app, &rights, (&query, key))?;
    }
    query.counts = headers.prefer.has(Preference::CountExact);
    if let Some(cursor) = parameters.single("cursor")? {
        query.after =
            Some(app.manager.data(&rights).resume(&query, key, cursor).map_err(bad_cursor)?);
    }
    let is_first_page = query.after.is_none() && query.offset == 0;
    // The number of the first row is unknown after a cursor, which does not contain it.
    let first = query.after.is_none().then_some(query.offset);
    if let Some(key) = key.or_else(|| only(&app, &query.table, named.as_deref())) {
        request_record::update(&request, |record| record.set_key(key.as_str()));
        note_row(app.audit.as_ref(), &request, query.table.name(), Some(key.as_str()));
    }
    let meter = app.meter(&request);
    let charged = charge_shards(&app, &meter, &rights, (&query, key));
    let asked = Instant::now();
    let route = asked - began;
    let read = app.manager.data(&rights).read(query, key, &headers.options).await;
    let refused = |failure| refusal(&app, &request, asked, failure, &headers.options.session);
    let read = read.map_err(refused)?;
    charge(&meter, charged, &read);
    let timing = Timing { route, database: read.database, merge: read.merge, ..Timing::default() };
    let origin = AnswerOrigin::of_read(&request, &read);
    let mut response = match read.place {
        Some(place) => keyed_response(&app, place, &origin, &timing),
        None => {
            let asked = read.shards.len() + read.missing.len();
            request_record::update(&request, |record| {
                record.fanout = request_record::fanout(asked)
            });
            data_response(&app, &origin, &timing)
        }
    };
    if let Some(applied) = headers.prefer.applied(&HONOURED) {
        response.insert_header((PREFERENCE_APPLIED, applied));
    }
    if let (Some(first), Some(total)) = (first, read.rows.total) {
        response.insert_header((CONTENT_RANGE, content_range(first, read.rows.len(), total)));
    }
    if !read.missing.is_empty() {
        response.status(StatusCode::PARTIAL_CONTENT);
    }
    if let Some(version) = read.version().filter(|_| is_first_page) {
        response.insert_header((ETAG, etag(version)));
        if has_version(request.headers(), version)? {
            return Ok(response.status(StatusCode::NOT_MODIFIED).finish());
        }
    }
    Ok(response.body(answer(&app, &read)))
}

/// Charges the caller for a completed read: the rows of the response, at least one, and with an
/// exact count one more row per shard. If only one shard was charged before the read (`charged` is
/// 1), also charges the others.
fn charge(meter: &CallerMeter, charged: usize, read: &ReadDone) {
    let asked = (read.shards.len() + read.missing.len()).max(1);
    let counted = read.rows.total.map_or(0, |_| asked);
    meter.charge_rows(read.rows.len().max(1) + counted);
    if charged == 1 {
        meter.charge_shards(asked);
    }
}

/// Charges the caller for a read of all shards before it begins, and returns their number. For any
/// other read, returns 1 and charges nothing: if filters name several keys, their shards are known
/// only after the read.
fn charge_shards(
    app: &App,
    meter: &CallerMeter,
    rights: &Rights,
    (query, key): (&ReadQuery, Option<ShardKey<'_>>),
) -> usize {
    if meter.is_none() || !app.manager.data(rights).is_scatter_read(query, key) {
        return 1;
    }
    let shards = app.manager.map().topology().numbers().count();
    meter.charge_shards(shards);
    shards
}

/// Refuses a shard key that contradicts the filters, because they name other shard keys.
fn check_agrees(
    query: &ReadQuery,
    named: Option<&[String]>,
    key: ShardKey<'_>,
) -> Result<(), Problem> {
    let Some([first, rest @ ..]) = named else { return Ok(()) };
    if first == key.as_str() || rest.iter().any(|other| other == key.as_str()) {
        return Ok(());
    }
    let column = query.table.routing().map_or("", |column| &query.table.column(column).name);
    let detail = format!("the filter on {column} names another shard key than the request");
    Err(Problem::new(Code::TSR103, detail).hint(if rest.is_empty() {
        format!("send `{}` as the shard key, as {column} is stored, or leave it out", shown(first))
    } else {
        "leave the shard key out: the filter says whose rows are read".to_owned()
    }))
}

fn refuse_fanout(
    app: &App,
    rights: &Rights,
    (query, key): (&ReadQuery, Option<ShardKey<'_>>),
) -> Result<(), Problem> {
    if !app.manager.data(rights).is_scatter_read(query, key) {
        return Ok(());
    }
    if key.is_some() {
        let table = &query.table;
        let column = partition_column(&app.manager.map(), table);
        let column = column.filter(|column| table.visible().has(*column));
        let detail =
            "without a partition this read goes to all shards, which Prefer: fanout=deny forbids";
        return Err(Problem::new(Code::TSR104, detail).hint(match column {
            Some(column) => format!("filter by {}=eq.value", table.column(column).name),
            None => "send the request without fanout=deny".to_owned(),
        }));
    }
    let detail = "without a shard key this reads all shards, which Prefer: fanout=deny refuses";
    let routing = query.table.routing().filter(|column| query.table.visible().has(*column));
    let routing = routing.map(|column| &query.table.column(column).name);
    Err(Problem::new(Code::TSR104, detail).hint(match routing {
        Some(column) => format!("send x-shard-key, or filter by {column}=eq.value"),
        None => "send x-shard-key".to_owned(),
    }))
}

/// Returns the shard key that the filters name, if they name exactly one and it belongs to the
/// keyspace.
fn only<'k>(app: &App, table: &Table, named: Option<&'k [String]>) -> Option<ShardKey<'k>> {
    let Some([key]) = named else { return None };
    let key = ShardKey::parse(key).ok()?;
    let map = app.manager.map();
    let by_column = keyspace_of(&map, table).is_some_and(|keyspace| keyspace.column().is_some());
    (by_column || map.locate(table, key, None).is_ok()).then_some(key)
}

/// Formats the header `Content-Range`, in the form that PostgREST uses: the positions of the page's
/// rows among all rows, and the total. A response to HEAD has it as well. A page that begins with a
/// cursor has no such header, because its first position is unknown, and a range without positions
/// stands for a page without rows.
fn content_range(first: u32, rows: usize, total: impl std::fmt::Display) -> String {
    match rows {
        0 => format!("*/{total}"),
        rows => format!("{first}-{}/{total}", first as usize + rows - 1),
    }
}

fn bad_cursor(error: ResumeError) -> Problem {
    let error = match error {
        ResumeError::Cursor(error) => error,
        ResumeError::Refused(error) => return error.into(),
    };
    Problem::new(Code::TSR106, format!("cursor: {error}")).hint(match error {
        CursorError::Foreign => "send next_cursor as it came, or none to begin again",
        CursorError::OtherQuery => {
            "table, shard key, filters and order must be those of the page before; select and limit may change"
        }
    })
}

fn answer(app: &App, read: &ReadDone) -> Vec<u8> {
    let mut body = Vec::with_capacity(read.rows.json().len() + 256);
    body.extend_from_slice(b"{\"success\":true,\"data\":[");
    body.extend_from_slice(read.rows.json());
    body.extend_from_slice(b"],\"count\":");
    push_json_number(&mut body, read.rows.len());
    if let Some(total) = read.rows.total {
        body.extend_from_slice(b",\"total\":");
        push_json_number(&mut body, total);
    }
    body.extend_from_slice(b",\"shards\":");
    push_names(&mut body, app, &read.shards);
    if !read.missing.is_empty() {
        body.extend_from_slice(b",\"missing\":");
        push_names(&mut body, app, &read.missing);
    }
    body.extend_from_slice(b",\"served_by\":\"");
    body.extend_from_slice(read.served_by.name().as_bytes());
    let is_cached = read.served_by == ServedBy::Cache;
    body.extend_from_slice(if is_cached { b"\",\"cached\":true" } else { b"\",\"cached\":false" });
    body.extend_from_slice(b",\"next_cursor\":");
    match &read.next_cursor {
        // The cursor needs no escaping: it consists of letters, digits, `-` and `_`.
        Some(cursor) => {
            body.push(b'"');
            body.extend_from_slice(cursor.as_bytes());
            body.push(b'"');
        }
        None => body.extend_from_slice(b"null"),
    }
    body.push(b'}');
    body
}

fn push_names(body: &mut Vec<u8>, app: &App, shards: &[ShardNumber]) {
    body.push(b'[');
    for (index, shard) in shards.iter().enumerate() {
        body.extend_from_slice(if index == 0 { b"\"" } else { b",\"" });
        body.extend_from_slice(app.manager.shard_name(*shard).as_bytes());
        body.push(b'"');
    }
    body.push(b']');
}
