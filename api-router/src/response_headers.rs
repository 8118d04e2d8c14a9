//! Response headers: builds the headers of responses about rows, and declares the problems (error
//! responses) that each kind of route may return.
//!
//! **Not here:** bodies (each route writes its own), bodies of problems (`problem`).

use std::time::{Duration, Instant};

use actix_web::http::header::{CACHE_CONTROL, HeaderName, HeaderValue};
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use shard_manager::cache::{CacheUse, ServedBy};
use shard_manager::error::Failure;
use shard_manager::lane::LaneTimes;
use shard_manager::manager::ReadDone;
use shard_manager::shard_map::KeyLocation;
use shard_manager::token::SessionToken;
use shard_manager::value::push_json_number;

use crate::app::App;
use crate::problem::{Problem, ProblemBody, X_SESSION_TOKEN};
use crate::request_record;

const X_SHARD: HeaderName = HeaderName::from_static("x-shard");
const X_SHARD_SLOT: HeaderName = HeaderName::from_static("x-shard-slot");
const X_EPOCH: HeaderName = HeaderName::from_static("x-epoch");
const X_SERVED_BY: HeaderName = HeaderName::from_static("x-served-by");
const X_CACHE: HeaderName = HeaderName::from_static("x-cache");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// Header that lists the preferences that were honoured.
pub const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// Durations of the phases of a request, which the header `Server-Timing` reports.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    /// Time for reading, checking and routing the request.
    pub route: Duration,
    /// Time that the request waited in the queue of the shard.
    pub queue: Duration,
    /// Time in the database.
    pub database: Duration,
    /// Time for merging the results of several shards.
    pub merge: Duration,
}

impl Timing {
    /// Returns the durations of a write that began at `began` and ends now.
    pub fn of_write(began: Instant, times: LaneTimes) -> Self {
        let route = began.elapsed().saturating_sub(times.queue + times.database);
        Self { route, queue: times.queue, database: times.database, merge: Duration::ZERO }
    }

    /// Formats the value of the header, with durations in milliseconds: `route;dur=0.021,
    /// queue;dur=0.050, db;dur=0.412, merge;dur=0.000`.
    fn header(&self) -> HeaderValue {
        let mut text = Vec::with_capacity(80);
        let parts = [
            (&b"route;dur="[..], self.route),
            (b", queue;dur=", self.queue),
            (b", db;dur=", self.database),
            (b", merge;dur=", self.merge),
        ];
        for (name, time) in parts {
            text.extend_from_slice(name);
            push_milliseconds(&mut text, time);
        }
        HeaderValue::from_maybe_shared(Bytes::from(text))
            .expect("digits and letters are a header value")
    }
}

/// Appends a duration in milliseconds, with three decimals. `format!` would cost more than all
/// other headers of a response.
fn push_milliseconds(out: &mut Vec<u8>, time: Duration) {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    push_json_number(out, micros / 1_000);
    let fraction = micros % 1_000;
    out.push(b'.');
    for divisor in [100, 10, 1] {
        out.push(b'0' + (fraction / divisor % 10) as u8);
    }
}

/// Facts about a response about rows that its headers report.
#[derive(Clone, Copy, Debug)]
pub struct AnswerOrigin<'s> {
    /// The request.
    pub request: &'s HttpRequest,
    /// Node or cache that served the request.
    pub served_by: ServedBy,
    /// Result of the cache lookup, such as hit or miss; `None` if no cache took part.
    pub cache: Option<CacheUse>,
    /// Positions in the history of each shard that the client has seen once it has this response.
    pub session: &'s SessionToken,
    /// Epoch of the shard map.
    pub epoch: u64,
}

impl<'s> AnswerOrigin<'s> {
    /// Returns the facts about the response to a write, which never comes from a cache.
    pub fn of_write(request: &'s HttpRequest, session: &'s SessionToken, epoch: u64) -> Self {
        Self { request, served_by: ServedBy::Primary, cache: None, session, epoch }
    }

    /// Returns the facts about the response to a read.
    pub fn of_read(request: &'s HttpRequest, read: &'s ReadDone) -> Self {
        let (served_by, cache, epoch) = (read.served_by, read.cache, read.epoch);
        Self { request, served_by, cache, session: &read.session, epoch }
    }
}

/// Starts a response about rows, ready for its body.
pub fn data_response(app: &App, origin: &AnswerOrigin<'_>, timing: &Timing) -> HttpResponseBuilder {
    request_record::update(origin.request, |record| {
        record.served_by = Some(origin.served_by);
        (record.route, record.queue, record.database) =
            (timing.route, timing.queue, timing.database);
    });
    let mut response = HttpResponse::Ok();
    let token =
        HeaderValue::from_maybe_shared(Bytes::from(app.manager.sessions().token(origin.session)))
            .expect("a token is visible ASCII");
    response
        .content_type("application/json")
        // The response depends on request headers, and is soon out of date.
        .insert_header((CACHE_CONTROL, HeaderValue::from_static("no-store")))
        .insert_header((X_EPOCH, HeaderValue::from(origin.epoch)))
        .insert_header((X_SERVED_BY, HeaderValue::from_static(origin.served_by.name())))
        .insert_header((X_SESSION_TOKEN, token))
        .insert_header((SERVER_TIMING, timing.header()));
    if let Some(cache) = origin.cache {
        response.insert_header((X_CACHE, HeaderValue::from_static(cache.name())));
    }
    response
}

/// Starts a response about the rows of one key.
pub fn keyed_response(
    app: &App,
    place: KeyLocation,
    origin: &AnswerOrigin<'_>,
    timing: &Timing,
) -> HttpResponseBuilder {
    request_record::update(origin.request, |record| record.set_location(place));
    let mut response = data_response(app, origin, timing);
    response
        .insert_header((X_SHARD, app.shard_header(place.shard)))
        .insert_header((X_SHARD_SLOT, HeaderValue::from(place.slot.number())));
    response
}

/// Returns the `ETag` of a row of this version.
pub fn etag(version: i64) -> HeaderValue {
    let mut text = Vec::with_capacity(16);
    text.push(b'"');
    push_json_number(&mut text, version);
    text.push(b'"');
    HeaderValue::from_maybe_shared(Bytes::from(text)).expect("digits in quotes are a header value")
}

/// Converts the failure of a request that was sent to the shards at the time `asked` into a
/// problem. The problem names the shard and carries a session token, if these are known.
pub fn refusal(
    app: &App,
    request: &HttpRequest,
    asked: Instant,
    failure: Failure,
    session: &SessionToken,
) -> Problem {
    let all = || app.manager.map().topology().numbers().count();
    request_record::update(request, |record| record.set_failure(&failure, asked.elapsed(), all()));
    let shard = failure.place.map(|place| app.manager.shard_name(place.shard).to_owned());
    let seen = failure.place.zip(failure.seen).map(|(place, position)| {
        let mut session = session.clone();
        app.manager.sessions().extend(&mut session, place.shard, position);
        app.manager.sessions().token(&session)
    });
    let problem = Problem::from(failure);
    let problem = match seen {
        Some(token) => problem.session(token),
        None => problem,
    };
    match shard {
        Some(shard) => problem.shard(shard),
        None => problem,
    }
}

/// Declares the problems that each kind of operation may return, for the OpenAPI document.
macro_rules! refusals {
    ($(#[doc = $kind:literal] $name:ident { $($status:literal $variant:ident $about:literal;)* })*) => {
        $(
            #[doc = $kind]
            #[derive(utoipa::IntoResponses)]
            pub enum $name {
                $(
                    #[doc = $about]
                    #[response(status = $status, content_type = "application/problem+json")]
                    $variant(#[to_schema] ProblemBody<'static>),
                )*
            }
        )*
    };
}

refusals! {
    /// The problems that every path may answer with.
    CommonRefusals {
        400 BadRequest "A header or a parameter cannot be used: the detail names it.";
        403 Forbidden "The request comes from a foreign web page.";
    }
    /// The problems that a check of access may answer with.
    CheckRefusals {
        400 BadRequest "A member cannot be used: the detail names it.";
        403 Forbidden "The request comes from a foreign web page.";
        413 TooLarge "The body is too large.";
        415 UnsupportedMediaType "The body is not JSON.";
        504 DeadlinePassed "The body did not arrive in time.";
    }
    /// The problems that a change of keys, roles and denials may answer with.
    ChangeRefusals {
        400 BadRequest "A member or a parameter cannot be used: the detail names it.";
        403 Forbidden "The request comes from a foreign web page.";
        404 NotFound "There is nothing of this name.";
        409 Conflict "The key, the role or the denial is not in a state that permits the change.";
        413 TooLarge "The body is too large.";
        415 UnsupportedMediaType "The body is not JSON.";
        503 Unavailable "The catalog does not answer.";
        504 DeadlinePassed "The body did not arrive in time.";
    }
    /// The problems that a request for the state of the cluster may answer with.
    LookupRefusals {
        400 BadRequest "A header or a parameter cannot be used: the detail names it.";
        403 Forbidden "The request comes from a foreign web page.";
        404 NotFound "There is nothing of this name.";
    }
    /// The problems that a stream may answer with.
    StreamRefusals {
        400 BadRequest "A header or a parameter cannot be used: the detail names it.";
        403 Forbidden "The request comes from a foreign web page.";
        404 NotFound "Nothing is counted here.";
        503 Unavailable "The maximum number of event streams is open, or the router is shutting down; see Retry-After.";
    }
    /// The problems that a read may answer with.
    ReadRefusals {
        400 BadRequest "Something in the request is malformed or unknown: the detail names it.";
        403 Forbidden "The request comes from a foreign web page.";
        404 NotFound "No such table.";
        406 NotAcceptable "The Accept header rules JSON out.";
        409 Conflict "The session has seen changes that the shard no longer has.";
        413 TooLarge "The rows are more than one answer carries.";
        503 Unavailable "The shard does not answer, or has no connection free; see Retry-After.";
        504 DeadlinePassed "The deadline passed.";
    }
    /// The problems that making a table may answer with, with its `outcome`.
    TableRefusals {
        400 BadRequest "Something in the request is malformed, unknown or reserved: the detail names it.";
        403 Forbidden "The request comes from a foreign web page.";
        406 NotAcceptable "The Accept header rules JSON out.";
        409 Conflict "A table of this name exists with a different definition.";
        413 TooLarge "A limit is exceeded: the detail names it.";
        415 UnsupportedMediaType "The body is not JSON.";
        503 Unavailable "A shard is full, overloaded, or does not answer; see Retry-After.";
        504 DeadlinePassed "The deadline passed: outcome says whether the table may have been created.";
    }
    /// The problems that a change of indexes may answer with, with its `outcome`.
    IndexRefusals {
        400 BadRequest "Something in the request is malformed, unknown or reserved: the detail names it.";
        403 Forbidden "The request comes from a foreign web page.";
        404 NotFound "No such table or index.";
        409 Conflict "The index exists with another definition or is being dropped, or writes would wait too long.";
        413 TooLarge "A limit is exceeded: the detail names it.";
        415 UnsupportedMediaType "The body is not JSON.";
        503 Unavailable "The catalog or a shard does not answer; see Retry-After.";
        504 DeadlinePassed "The deadline passed: outcome says whether the index may be listed.";
    }
    /// The problems that a change of shards or slots may answer with, with its `outcome`.
    ShardRefusals {
        400 BadRequest "A header or a member cannot be used: the detail names it.";
        403 Forbidden "The request comes from a foreign web page.";
        404 NotFound "The cluster has no shard of this name.";
        409 Conflict "The shard or its database is not in a state that permits the change: the detail says why.";
        412 PreconditionFailed "The shard map is not of the epoch that If-Match names.";
        413 TooLarge "The body is too large.";
        415 UnsupportedMediaType "The body is not JSON.";
        503 Unavailable "The catalog or a shard does not answer; see Retry-After.";
        504 DeadlinePassed "The deadline passed: outcome says whether the change may have been made.";
    }
    /// The problems that a request for moves may answer with.
    MoveLookupRefusals {
        400 BadRequest "A header or a parameter cannot be used: the detail names it.";
        403 Forbidden "The request comes from a foreign web page.";
        404 NotFound "There is no such move.";
        409 Conflict "The engine distributes rows by itself.";
        503 Unavailable "The catalog does not answer; see Retry-After.";
    }
    /// The problems that a change of moves may answer with, with its `outcome`.
    MoveRefusals {
        400 BadRequest "A header or a member cannot be used: the detail names it.";
        403 Forbidden "The request comes from a foreign web page.";
        404 NotFound "There is no such move, or the cluster has no shard of this name.";
        409 Conflict "A shard, the slots or the move are not in a state that permits the change: the detail says why.";
        412 PreconditionFailed "The shard map is not of the epoch that If-Match names.";
        413 TooLarge "The body is too large.";
        415 UnsupportedMediaType "The body is not JSON.";
        503 Unavailable "The catalog does not answer; see Retry-After.";
        504 DeadlinePassed "The deadline passed: outcome says whether the change may have been made.";
    }
    /// The problems that a rebalance may answer with, with its `outcome`.
    RebalanceRefusals {
        400 BadRequest "A header or a member cannot be used: the detail names it.";
        403 Forbidden "The request comes from a foreign web page.";
        404 NotFound "There is no such rebalance, or the cluster has no shard of this name.";
        409 Conflict "Another rebalance goes on, or a shard or the rebalance is not in a state that permits it: the detail says why.";
        412 PreconditionFailed "The shard map is not of the epoch that If-Match names.";
        413 TooLarge "The body is too large.";
        415 UnsupportedMediaType "The body is not JSON.";
        503 Unavailable "The catalog does not answer; see Retry-After.";
        504 DeadlinePassed "The deadline passed: outcome says whether the change may have been made.";
    }
    /// The problems that a request for backups may answer with.
    BackupLookupRefusals {
        400 BadRequest "A header or a parameter cannot be used: the detail names it.";
        403 Forbidden "The request comes from a foreign web page.";
        404 NotFound "There is no backup with this id.";
        409 Conflict "This router makes no backups.";
    }
    /// The problems that a request to begin or cancel a backup may answer with, with its `outcome`.
    BackupRefusals {
        400 BadRequest "A header or a member cannot be used: the detail names it.";
        403 Forbidden "The request comes from a foreign web page.";
        404 NotFound "There is no backup with this id.";
        409 Conflict "Another backup is in progress, this one has ended, or this router makes no backups: the detail says which.";
        413 TooLarge "The body is too large.";
        415 UnsupportedMediaType "The body is not JSON.";
        504 DeadlinePassed "The body did not arrive in time.";
    }
    /// The problems that a lab experiment may answer with.
    ExperimentRefusals {
        400 BadRequest "A header or a member cannot be used: the detail names it.";
        403 Forbidden "The request comes from a foreign web page.";
        404 NotFound "This router runs no experiments: it was started without --lab.";
        409 Conflict "Another experiment is running.";
        413 TooLarge "The body is too large.";
        415 UnsupportedMediaType "The body is not JSON.";
        503 Unavailable "The experiment failed or took too long: the detail says which.";
        504 DeadlinePassed "The body did not arrive in time.";
    }
    /// The problems that a write may answer with, with its `outcome`.
    WriteRefusals {
        400 BadRequest "Something in the request is malformed or unknown: the detail names it.";
        403 Forbidden "The request comes from a foreign web page.";
        404 NotFound "No such table or row.";
        406 NotAcceptable "The Accept header rules JSON out.";
        409 Conflict "The row exists, violates a constraint, or was discarded by the database.";
        412 PreconditionFailed "The row is not of the version that If-Match names.";
        413 TooLarge "A limit is exceeded: the detail names it.";
        415 UnsupportedMediaType "The Content-Type or Content-Encoding of the body is not supported.";
        422 KeyReused "The Idempotency-Key was used before for a different request.";
        503 Unavailable "Overloaded, full, too few replicas, or the shard does not answer; see Retry-After.";
        504 DeadlinePassed "The deadline passed: outcome says whether the row may have been stored.";
    }
}
