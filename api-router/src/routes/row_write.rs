//! Row write: carries out a parsed change of one row, and makes the response, which has the same
//! form for every route.
//!
//! **Invariant:** a response reports success only when the row is as durable as the client
//! requested.
//! **Not here:** parsing of the request (the routes).

use std::time::Instant;

use actix_web::http::StatusCode;
use actix_web::http::header::{ETAG, HeaderValue};
use actix_web::web::block;
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use shard_manager::keyspace::ShardKey;
use shard_manager::manager::{RequestOptions, WriteReceipt};
use shard_manager::row_change::{Change, Operation, RowWrite};
use shard_manager::shard_map::KeyLocation;
use shard_manager::value::push_json_number;
use utoipa::ToSchema;

use crate::access::audit::note_row;
use crate::app::App;
use crate::caller_rights::CallerRights;
use crate::headers::{DataHeaders, idempotency_key, precondition};
use crate::prefer::{Prefer, Preference};
use crate::problem::{Code, IDEMPOTENCY_REPLAYED, Problem};
use crate::request_hints::NOTHING_TO_REMOVE;
use crate::request_record;
use crate::response_headers::{
    AnswerOrigin, PREFERENCE_APPLIED, Timing, etag, keyed_response, refusal,
};

/// Preferences that are satisfied if the response contains the row. `tx=per-shard` always is,
/// because a write of a single row is one transaction.
const HONOURED: [Preference; 3] =
    [Preference::Minimal, Preference::Representation, Preference::PerShard];

/// Preferences that are satisfied if the response does not contain the row.
const HONOURED_WITHOUT_ROW: [Preference; 2] = [Preference::Minimal, Preference::PerShard];

/// Response to a write, sent once the row is durable.
#[derive(serde::Serialize, ToSchema)]
pub struct WriteAnswer {
    /// Always true.
    success: bool,
    /// The row as it is now (after a delete: as it was). Absent under `Prefer: return=minimal`.
    #[schema(value_type = Object, required = false)]
    data: Option<serde_json::Value>,
    /// The shard that stored the row.
    shard: String,
    /// The slot of the shard key.
    slot: u16,
    /// The version of the shard map.
    epoch: u64,
    /// The shard's counter at this change: only grows for one row, also over a delete and a new
    /// insert.
    version: i64,
}

/// Headers and rights of a request that changes one row.
pub(super) struct WriteContext<'r> {
    /// Start of the request.
    pub(super) began: Instant,
    /// Rights of the caller.
    pub(super) rights: CallerRights,
    /// Consistency level, session and deadline.
    pub(super) options: RequestOptions,
    /// Value of the header `Prefer`.
    pub(super) prefer: Prefer,
    /// Value of the header `Idempotency-Key`.
    pub(super) idempotency_key: Option<&'r str>,
    /// True if the response is to contain the row; the responses of some routes have no member for
    /// it.
    pub(super) wants_row: bool,
}

impl<'r> WriteContext<'r> {
    /// Parses the headers of a request. Also returns its `x-shard-key`. The response will not
    /// contain the row unless the route sets `wants_row`.
    ///
    /// # Errors
    /// A problem that names the header and its permitted values.
    pub(super) fn parse(
        app: &App,
        request: &'r HttpRequest,
    ) -> Result<(Option<ShardKey<'r>>, Self), Problem> {
        let began = Instant::now();
        let DataHeaders { shard_key, options, prefer } =
            DataHeaders::parse(&app.manager, request, began)?;
        let idempotency_key = idempotency_key(request.headers())?;
        let rights = app.rights(request);
        Ok((shard_key, Self { began, rights, options, prefer, idempotency_key, wants_row: false }))
    }
}

/// A write that was carried out, and its response, whose body is not set yet.
pub(super) struct CompletedWrite {
    pub(super) response: HttpResponseBuilder,
    /// Receipt of the shard that stored the row. It may be another shard than expected, if the slot
    /// has moved.
    pub(super) written: WriteReceipt,
    wants_row: bool,
}

/// Carries out a parsed change of a row, under the conditions in the headers (`If-Match` and
/// others).
///
/// # Errors
/// TSR113 if a condition is malformed, and the errors of the shard.
pub(super) async fn carry_out(
    app: &App,
    request: &HttpRequest,
    context: WriteContext<'_>,
    (place, mut row): (KeyLocation, RowWrite),
) -> Result<CompletedWrite, Problem> {
    let WriteContext { began, rights, options, prefer, idempotency_key, wants_row } = context;
    row.wants_row = wants_row;
    row.precondition = precondition(request.headers(), row.operation)?;
    row.idempotency_key = idempotency_key.map(str::to_owned);
    request_record::update(request, |record| record.set_key(&row.key));
    note_row(app.audit.as_ref(), request, row.table.name(), Some(&row.key));
    let operation = row.operation;
    app.meter(request).charge_rows(1);
    let asked = Instant::now();
    let written = app.manager.data(&rights).write(place, row, &options).await;
    let refused = |failure| {
        let problem = refusal(app, request, asked, failure, &options.session);
        let in_vain = operation == Operation::Delete && problem.code() == Code::TSR302;
        if in_vain { problem.hint(NOTHING_TO_REMOVE) } else { problem }
    };
    let written = written.map_err(refused)?;
    let (mut session, place) = (options.session, written.receipt.place);
    app.manager.sessions().extend(&mut session, place.shard, written.receipt.position);
    let origin = AnswerOrigin::of_write(request, &session, place.epoch);
    let timing = Timing::of_write(began, written.receipt.times);
    let mut response = keyed_response(app, place, &origin, &timing);
    response.insert_header((ETAG, etag(written.row.version)));
    // A caller that may not read the row gets an empty one.
    let has_row = wants_row && !written.row.json.is_empty();
    if written.row.replayed {
        response.insert_header((IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true")));
    }
    let honoured: &[_] = if has_row { &HONOURED } else { &HONOURED_WITHOUT_ROW };
    if let Some(applied) = prefer.applied(honoured) {
        response.insert_header((PREFERENCE_APPLIED, applied));
    }
    Ok(CompletedWrite { response, written, wants_row: has_row })
}

impl CompletedWrite {
    /// Returns the response: 201 if the row was created, 200 if it was changed or removed.
    pub(super) fn answer(mut self, app: &App) -> HttpResponse {
        let body = body(app, &self.written, self.wants_row);
        self.response.status(status(&self.written)).body(body)
    }
}

fn status(written: &WriteReceipt) -> StatusCode {
    match written.row.change {
        Change::Created => StatusCode::CREATED,
        Change::Changed | Change::Removed => StatusCode::OK,
    }
}

fn body(app: &App, written: &WriteReceipt, with_row: bool) -> Vec<u8> {
    let place = written.receipt.place;
    let mut body = Vec::with_capacity(written.row.json.len() + 128);
    body.extend_from_slice(b"{\"success\":true");
    if with_row {
        body.extend_from_slice(b",\"data\":");
        body.extend_from_slice(&written.row.json);
    }
    body.extend_from_slice(b",\"shard\":\"");
    body.extend_from_slice(app.manager.shard_name(place.shard).as_bytes());
    body.extend_from_slice(b"\",\"slot\":");
    push_json_number(&mut body, place.slot.number());
    body.extend_from_slice(b",\"epoch\":");
    push_json_number(&mut body, place.epoch);
    body.extend_from_slice(b",\"version\":");
    push_json_number(&mut body, written.row.version);
    body.push(b'}');
    body
}

/// Parses a large body on a thread that may block, so that other requests do not wait for it.
pub(super) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    block(work).await.map_err(|_| Problem::new(Code::TSR500, "an internal error"))?
}
