//! `/api/kv/{key}`: reads, stores and removes a JSON value under a key, which is kept as a row of
//! the built-in table `kv`.
//!
//! **Invariant:** the key is the rest of the path, percent-decoded once. It may contain slashes,
//! and two paths name the same key only if they are equal after decoding. A value is returned byte
//! for byte as it is stored.
//! **Not here:** carrying out a write (`row_write`), the same operations through another API
//! (`aliases`).

use std::borrow::Cow;
use std::time::Instant;

use actix_web::http::StatusCode;
use actix_web::http::header::{ETAG, HeaderMap, IF_MATCH};
use actix_web::web::{Bytes, Data, Payload};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, delete, get, put};
use percent_encoding::percent_decode_str;
use serde_json::value::RawValue;
use shard_manager::access::operation::RowOperations;
use shard_manager::access::rights::Rights;
use shard_manager::error::Error;
use shard_manager::keyspace::ShardKey;
use shard_manager::manager::{self, ReadDone};
use shard_manager::query::{Output, ReadQuery};
use shard_manager::row_change::{Fields, Operation, RowWrite};
use shard_manager::shard_map::KeyLocation;
use shard_manager::table::Table;

use super::row_write::{WriteAnswer, WriteContext, carry_out, run_blocking};
use crate::access::audit::note_row;
use crate::app::App;
use crate::body_reader;
use crate::caller_rights::CallerRights;
use crate::data_route::KV_PREFIX;
use crate::filter::find_column;
use crate::headers::{DataHeaders, check_content_type, has_version, precondition};
use crate::prefer::Preference;
use crate::problem::{Code, Problem, ProblemBody};
use crate::query::Parameters;
use crate::request_record;
use crate::response_headers::{
    AnswerOrigin, PREFERENCE_APPLIED, ReadRefusals, Timing, WriteRefusals, etag, keyed_response,
    refusal,
};

/// Name of the table of the values, which are in its column [`VALUE`].
const TABLE: &str = "kv";
const VALUE: &str = "value";

/// Puts a value under a key.
///
/// The body is any JSON value, null included. The response is sent when it is durable on its
/// shard's primary (and on replicas, if x-consistency requires it): 201 for a new value, 200 for a
/// changed one.
#[utoipa::path(
    tag = "keys and values",
    params(
        ("key" = String, Path, description = "The key, also the shard key: the rest of the path, slashes included, decoded once; no control characters", example = "user_123", min_length = 1, max_length = 256),
        ("x-shard-key" = Option<String>, Header, description = "Needless; another than the key is refused", max_length = 256),
        ("Prefer" = Option<String>, Header, description = "return=representation puts the row into the answer"),
        ("If-Match" = Option<String>, Header, description = "The versions, in quotes, of which the value must be one; * for any"),
        ("If-None-Match" = Option<String>, Header, description = "*: there must be no value under the key"),
    ),
    request_body(content = serde_json::Value, content_type = "application/json", description = "Any JSON value of at most 1 MiB, nested at most 64 levels", example = json!({"name": "John Doe", "tags": [1, 2]})),
    responses(
        (status = 200, description = "Changed", body = WriteAnswer),
        (status = 201, description = "Made", body = WriteAnswer),
        WriteRefusals,
    )
)]
#[put("/api/kv/{key:.*}")]
pub(crate) async fn put_value(
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let (shard_key, mut context) = WriteContext::parse(&app, &request)?;
    check_content_type(request.headers())?;
    let text = key_in_path(&request)?;
    let key = path_key(&text, shard_key)?;
    let deadline = context.options.deadline;
    let (bytes, _share) =
        app.read_body(&request, payload, body_reader::VALUE_BYTES_MAX, deadline).await?;
    note_row(app.audit.as_ref(), &request, TABLE, Some(key.as_str()));
    let change = put_anywhere(&app, &context.rights, key, bytes).await?;
    context.wants_row = context.prefer.has(Preference::Representation);
    let done = carry_out(&app, &request, context, change).await;
    Ok(done.map_err(with_key_hint)?.answer(&app))
}

/// Removes the value under a key.
#[utoipa::path(
    tag = "keys and values",
    params(
        ("key" = String, Path, description = "The key, as in PUT", example = "user_123", min_length = 1, max_length = 256),
        ("x-shard-key" = Option<String>, Header, description = "Needless; another than the key is refused", max_length = 256),
        ("Prefer" = Option<String>, Header, description = "return=representation puts the row, as it was, into the answer"),
        ("If-Match" = Option<String>, Header, description = "The versions, in quotes, of which the value must be one; * for any"),
    ),
    responses(
        (status = 200, description = "Removed", body = WriteAnswer),
        WriteRefusals,
    )
)]
#[delete("/api/kv/{key:.*}")]
pub(crate) async fn delete_value(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let (shard_key, mut context) = WriteContext::parse(&app, &request)?;
    let text = key_in_path(&request)?;
    let key = path_key(&text, shard_key)?;
    note_row(app.audit.as_ref(), &request, TABLE, Some(key.as_str()));
    let change = change(&app, &context.rights, (Operation::Delete, key), &[])?;
    context.wants_row = context.prefer.has(Preference::Representation);
    Ok(carry_out(&app, &request, context, change).await?.answer(&app))
}

/// Returns the value under a key.
///
/// The body is the JSON value itself, as it was put but for white space.
#[utoipa::path(
    tag = "keys and values",
    params(
        ("key" = String, Path, description = "The key, as in PUT", example = "user_123", min_length = 1, max_length = 256),
        ("x-shard-key" = Option<String>, Header, description = "Needless; another than the key is refused", max_length = 256),
        ("Prefer" = Option<String>, Header, description = "handling=strict refuses preferences that are unknown"),
        ("If-Match" = Option<String>, Header, description = "The versions, in quotes, of which the value must be one: else 412"),
        ("If-None-Match" = Option<String>, Header, description = "The ETag of the value that the client has: 304 if it is still that"),
    ),
    responses(
        (status = 200, description = "The value", body = serde_json::Value),
        (status = 304, description = "The value is still of the version in If-None-Match"),
        (status = 412, description = "The value is not of a version in If-Match", body = ProblemBody<'static>, content_type = "application/problem+json"),
        ReadRefusals,
    )
)]
#[get("/api/kv/{key:.*}")]
pub(crate) async fn get_value(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let began = Instant::now();
    let mut headers = DataHeaders::parse(&app.manager, &request, began)?;
    let text = key_in_path(&request)?;
    let key = path_key(&text, headers.shard_key.take())?;
    let found = find(&app, &request, key, &headers, began).await?;
    found.answer(&app, request.headers(), <[u8]>::to_vec)
}

/// Returns the decoded key in the path of a request. The path that routing uses is already decoded
/// in part, so the key is taken from the path as the client sent it.
fn key_in_path(request: &HttpRequest) -> Result<Cow<'_, str>, Problem> {
    Parameters::parse(request.query_string())?.check_names(&[])?;
    // The key follows `/api/kv/`. The prefix is not compared, because a client may have escaped its
    // characters.
    let raw = request.uri().path().splitn(4, '/').nth(3).unwrap_or("");
    if raw.is_empty() {
        return Err(Problem::new(Code::TSR104, "the path names no key")
            .hint(format!("the key follows {KV_PREFIX}, for example {KV_PREFIX}user_123")));
    }
    let is_escape =
        |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|digit| digit.is_ascii_hexdigit());
    if !raw.split('%').skip(1).all(is_escape) {
        return Err(Problem::new(Code::TSR100, "key: % must begin an escape of two hex digits")
            .hint("a percent sign is spelled %25"));
    }
    percent_decode_str(raw)
        .decode_utf8()
        .map_err(|_| Problem::new(Code::TSR100, "key: the escapes do not spell UTF-8"))
}

fn path_key<'k>(text: &'k str, header: Option<ShardKey<'_>>) -> Result<ShardKey<'k>, Problem> {
    let key = ShardKey::parse(text)
        .map_err(|error| Problem::new(Code::TSR100, format!("key: {error}")))?;
    agree(key, header)
}

/// Returns the key, unless the header `x-shard-key` names a different one.
pub(super) fn agree<'k>(
    key: ShardKey<'k>,
    header: Option<ShardKey<'_>>,
) -> Result<ShardKey<'k>, Problem> {
    if header.is_some_and(|header| header != key) {
        return Err(Problem::new(Code::TSR103, "x-shard-key is another than the key")
            .hint("leave x-shard-key out: the key is the shard key"));
    }
    Ok(key)
}

async fn put_anywhere(
    app: &Data<App>,
    rights: &CallerRights,
    key: ShardKey<'_>,
    bytes: Bytes,
) -> Result<(KeyLocation, RowWrite), Problem> {
    if bytes.len() <= body_reader::INLINE_BYTES_MAX {
        return put(app, rights, key, body_reader::value(&bytes)?);
    }
    let (app, rights, key) = (app.clone(), rights.clone(), key.as_str().to_owned());
    run_blocking(move || {
        put(&app, &rights, ShardKey::parse(&key).map_err(Error::from)?, body_reader::value(&bytes)?)
    })
    .await
}

/// Returns the change that stores a value under a key, with its location.
pub(super) fn put(
    app: &App,
    rights: &Rights,
    key: ShardKey<'_>,
    value: &RawValue,
) -> Result<(KeyLocation, RowWrite), Problem> {
    change(app, rights, (Operation::Upsert, key), &[(Cow::Borrowed(VALUE), value)])
}

fn change(
    app: &App,
    rights: &Rights,
    (operation, key): (Operation, ShardKey<'_>),
    fields: &Fields<'_>,
) -> Result<(KeyLocation, RowWrite), Problem> {
    let table = app.manager.schema(rights).table(TABLE)?;
    let table = app.manager.schema(rights).usable_for(table, operation.into())?;
    let placed = manager::Data::prepare(&app.manager.map(), &table, operation, key, fields);
    Ok(placed.map_err(|error| {
        // The error may reveal what exists, so a caller without a right to the key gets another
        // one.
        let allowed = manager::check_key(app.manager.schema(rights), &table, operation.into(), key);
        allowed.err().unwrap_or(error)
    })?)
}

/// Replaces hints that speak of rows by hints that speak of keys and values.
pub(super) fn with_key_hint(problem: Problem) -> Problem {
    if problem.code() == Code::TSR301 {
        return problem.hint("send it without If-None-Match to change the value");
    }
    if problem.code() == Code::TSR302 {
        return problem.hint("PUT makes it");
    }
    problem
}

/// Value that was found, and its response, whose body is not set yet.
pub(super) struct Found {
    response: HttpResponseBuilder,
    read: ReadDone,
    version: i64,
}

/// Reads the value under a key.
///
/// # Errors
/// TSR302 if there is none, and the errors of the shard.
pub(super) async fn find(
    app: &App,
    request: &HttpRequest,
    key: ShardKey<'_>,
    headers: &DataHeaders<'_>,
    began: Instant,
) -> Result<Found, Problem> {
    note_row(app.audit.as_ref(), request, TABLE, Some(key.as_str()));
    let rights = app.rights(request);
    let table = app.manager.schema(&rights).table(TABLE)?;
    let table = app.manager.schema(&rights).usable_for(table, RowOperations::READ)?;
    let query = value_of_a_key(&table)?;
    request_record::update(request, |record| record.set_key(key.as_str()));
    let asked = Instant::now();
    let read = app.manager.data(&rights).read(query, Some(key), &headers.options).await;
    let refused = |failure| refusal(app, request, asked, failure, &headers.options.session);
    let read = read.map_err(refused)?;
    app.meter(request).charge_rows(1);
    let internal = || Problem::new(Code::TSR500, "an internal error");
    let place = read.place.ok_or_else(internal)?;
    let timing = Timing { route: asked - began, database: read.database, ..Timing::default() };
    let mut response = keyed_response(app, place, &AnswerOrigin::of_read(request, &read), &timing);
    if read.rows.is_empty() {
        return Err(Problem::new(Code::TSR302, "there is no value under this key")
            .hint("PUT makes it")
            .shard(app.manager.shard_name(place.shard))
            .session(app.manager.sessions().token(&read.session)));
    }
    let version = read.version().ok_or_else(internal)?;
    response.insert_header((ETAG, etag(version)));
    // The preference is always satisfied: a read of one key goes to a single shard.
    if let Some(applied) = headers.prefer.applied(&[Preference::DenyFanout]) {
        response.insert_header((PREFERENCE_APPLIED, applied));
    }
    Ok(Found { response, read, version })
}

fn value_of_a_key(table: &std::sync::Arc<Table>) -> Result<ReadQuery, Problem> {
    let outputs = vec![Output { column: find_column(table, VALUE)?, alias: None }];
    Ok(ReadQuery { outputs, limit: 1, ..ReadQuery::unselected(table) })
}

impl Found {
    /// Returns the JSON of the value, which is the only member of the only row.
    fn value(&self) -> &[u8] {
        let row = self.read.rows.row(0);
        &row[const { "{\"\":".len() + VALUE.len() }..row.len() - 1]
    }

    /// Returns the name of the shard that stores the value.
    pub(super) fn shard<'a>(&self, app: &'a App) -> &'a str {
        self.read.place.map_or("", |place| app.manager.shard_name(place.shard))
    }

    /// Returns the response with a body that `body` makes from the value, or 304 without a body if
    /// the client already has this version.
    ///
    /// # Errors
    /// TSR303 if `If-Match` names only other versions; TSR113 if a condition is malformed.
    pub(super) fn answer(
        mut self,
        app: &App,
        headers: &HeaderMap,
        body: impl FnOnce(&[u8]) -> Vec<u8>,
    ) -> Result<HttpResponse, Problem> {
        if headers.contains_key(IF_MATCH) {
            // The value exists and must have a version that the header names, like the row of an
            // update.
            let wanted = precondition(headers, Operation::Update)?;
            if wanted.is_some_and(|wanted| !wanted.holds(Some(self.version))) {
                return Err(Problem::from(Error::VersionDiffers)
                    .shard(self.shard(app))
                    .session(app.manager.sessions().token(&self.read.session)));
            }
        }
        if has_version(headers, self.version)? {
            return Ok(self.response.status(StatusCode::NOT_MODIFIED).finish());
        }
        let body = body(self.value());
        Ok(self.response.body(body))
    }
}
