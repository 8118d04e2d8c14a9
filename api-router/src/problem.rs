//! Problems: the responses that are not a success, in a form for RFC 9457 clients and PostgREST
//! clients.
//!
//! **Invariant:** one table of codes, one exhaustive mapping; no SQL, path, address or secret is in
//! a body.
//! **Not here:** logging (`middleware`).

pub use self::codes::Code;

mod codes;
mod domain;

use std::fmt;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;
use shard_manager::consistency::Level;

/// Session token, in requests and in responses.
pub const X_SESSION_TOKEN: HeaderName = HeaderName::from_static("x-session-token");
/// Header of the repeated response of an earlier request.
pub const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// A response that is not a success.
#[derive(Clone, Debug)]
pub struct Problem {
    code: Code,
    status: StatusCode,
    detail: String,
    hint: Option<String>,
    shard: Option<String>,
    outcome: Option<&'static str>,
    rare: Option<Box<RareFields>>,
}

/// Fields that few problems have, boxed because problems are passed by value.
#[derive(Clone, Debug, Default)]
struct RareFields {
    /// Methods that the path has.
    allow: Option<String>,
    /// Requested level and reached level.
    levels: Option<(Level, Level)>,
    /// Session token of a request that failed after reading or writing.
    session: Option<String>,
    /// True if this is the repeated answer of an earlier request.
    replayed: bool,
    /// Progress of a streamed body.
    progress: Option<Progress>,
}

/// Progress of a streamed body that ended with a problem.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Rows that are stored at the requested level.
    pub stored: usize,
    /// All rows before this one were carried out, none from it on.
    pub next_index: usize,
    /// Rows before it that are not stored, or not known to be.
    pub failed_total: usize,
    /// The first of these, as in an answer that is no problem.
    pub failed: serde_json::Value,
}

/// The body, as clients see it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody<'p> {
    /// A page that explains the code.
    #[serde(rename = "type")]
    kind: String,
    /// A few words, the same for every occurrence of the code.
    title: &'p str,
    /// The HTTP status.
    status: u16,
    /// This occurrence: names the member, header or shard.
    detail: &'p str,
    /// `TSR101`.
    code: &'p str,
    /// Same text as `title`, for clients of PostgREST.
    message: &'p str,
    /// Same text as `detail`, for clients of PostgREST.
    details: &'p str,
    /// Remedy.
    hint: Option<&'p str>,
    /// Always false.
    success: bool,
    /// Same text as `title`, for older clients.
    error: &'p str,
    /// The shard that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    shard: Option<&'p str>,
    /// Outcome of a write: `rejected` (nothing was stored), `committed` (it is on the primary),
    /// `unknown`, or for a streamed body `partial` (rows before `next_index` were carried out).
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'p str>,
    /// Requested level of a write that was not confirmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    requested: Option<&'static str>,
    /// The level that it has reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    achieved: Option<&'static str>,
    /// Stored rows of a streamed body that was carried out in part.
    #[serde(skip_serializing_if = "Option::is_none")]
    stored: Option<usize>,
    /// Index of the next row, counted from 0: all rows before it were carried out, none from it on.
    /// Send the rest.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_index: Option<usize>,
    /// Rows before it that are not stored, or not known to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    failed_total: Option<usize>,
    /// The first 1 000 of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    failed: Option<&'p serde_json::Value>,
    /// True if the same request may succeed later.
    retryable: bool,
    /// Also in the header `x-request-id`, and in the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'p str>,
}

impl Problem {
    /// Creates a problem of this code; `detail` describes the occurrence.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let (status, detail) = (code.status(), detail.into());
        Self { code, status, detail, hint: None, shard: None, outcome: None, rare: None }
    }

    /// Sets the remedy.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Prefixes the detail with the member of the body that contains its own.
    #[must_use]
    pub fn within(mut self, member: &str) -> Self {
        self.detail = format!("{member}: {}", self.detail);
        self
    }

    /// Sets the shard.
    #[must_use]
    pub fn shard(mut self, shard: impl Into<String>) -> Self {
        self.shard = Some(shard.into());
        self
    }

    /// Sets the outcome of a write.
    #[must_use]
    pub fn outcome(mut self, outcome: &'static str) -> Self {
        self.outcome = Some(outcome);
        self
    }

    /// Sets the status for an unsupported media type of the body, instead of the response.
    #[must_use]
    pub fn unsupported_media_type(mut self) -> Self {
        self.status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        self
    }

    /// Lists the methods that the path has.
    #[must_use]
    pub fn allow(mut self, methods: String) -> Self {
        self.rare().allow = Some(methods);
        self
    }

    fn rare(&mut self) -> &mut RareFields {
        self.rare.get_or_insert_default()
    }

    /// Sets the value of `x-session-token` for a request that failed after reading or writing.
    #[must_use]
    pub fn session(mut self, token: String) -> Self {
        self.rare().session = Some(token);
        self
    }

    /// Sets the progress of a streamed body.
    #[must_use]
    pub fn partial(mut self, progress: Progress) -> Self {
        self.outcome = Some("partial");
        self.rare().progress = Some(progress);
        self
    }

    /// Returns the problem of a row that was refused only because it was in one transaction with
    /// the row at `row`.
    #[must_use]
    pub fn undone_with_row(mut self, row: usize) -> Self {
        self.detail = format!("undone with row {row} of the same transaction: {}", self.detail);
        self.hint(format!("correct row {row}, and send all rows of the transaction again"))
    }

    /// Returns the code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// Returns the status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns the description of this occurrence.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Returns the remedy, if there is one.
    pub fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Returns the shard that it is about.
    pub fn shard_name(&self) -> Option<&str> {
        self.shard.as_deref()
    }

    /// Returns the outcome of a write.
    pub fn outcome_name(&self) -> Option<&'static str> {
        self.outcome
    }

    /// Removes the outcome, which only a write has.
    pub fn clear_outcome(&mut self) {
        self.outcome = None;
    }

    /// Sets the outcome of a failed write that has none: a write that failed before it was parsed
    /// was rejected.
    pub fn ensure_outcome(&mut self) {
        self.outcome.get_or_insert("rejected");
    }

    /// Returns the body. Rows of a bulk write have no request ids of their own.
    pub fn body<'p>(&'p self, request_id: Option<&'p str>) -> ProblemBody<'p> {
        let title = self.code.title();
        let levels = self.rare.as_ref().and_then(|rare| rare.levels);
        let progress = self.rare.as_ref().and_then(|rare| rare.progress.as_ref());
        ProblemBody {
            kind: format!("/errors/{}", self.code.name()),
            title,
            status: self.status.as_u16(),
            detail: &self.detail,
            code: self.code.name(),
            message: title,
            details: &self.detail,
            hint: self.hint.as_deref(),
            success: false,
            error: title,
            shard: self.shard.as_deref(),
            outcome: self.outcome,
            requested: levels.map(|(requested, _)| requested.name()),
            achieved: levels.map(|(_, achieved)| achieved.name()),
            stored: progress.map(|progress| progress.stored),
            next_index: progress.map(|progress| progress.next_index),
            failed_total: progress.map(|progress| progress.failed_total),
            failed: progress.map(|progress| &progress.failed),
            retryable: self.code.is_retryable(),
            request_id,
        }
    }

    /// Returns the whole response.
    pub fn respond(&self, request_id: &str) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        response.content_type("application/problem+json");
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.insert_header((header::RETRY_AFTER, HeaderValue::from_static("1")));
        }
        if let Some(rare) = &self.rare {
            let value = |text: &Option<String>| HeaderValue::from_str(text.as_deref()?).ok();
            let replayed = rare.replayed.then(|| HeaderValue::from_static("true"));
            for (name, value) in [
                (header::ALLOW, value(&rare.allow)),
                (X_SESSION_TOKEN, value(&rare.session)),
                (IDEMPOTENCY_REPLAYED, replayed),
            ] {
                if let Some(value) = value {
                    response.insert_header((name, value));
                }
            }
        }
        response.json(self.body(Some(request_id)))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.code.name(), self.code.title(), self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    /// Returns a response without a body: the middleware renders the body with the request id.
    fn error_response(&self) -> HttpResponse {
        HttpResponse::new(self.status)
    }
}
