//! Response: renders a problem as a body and as a whole response.
//!
//! **Invariant:** bodies have the members of RFC 9457 and those that PostgREST clients read.
//! **Not here:** the codes and their texts (`problem`).

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use serde::Serialize;

use super::{IDEMPOTENCY_REPLAYED, Problem};

/// Body of a response that is not a success.
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
    /// Description of this occurrence: names the member, header or shard.
    detail: &'p str,
    /// Code of the problem, such as `TSR101`.
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
    /// Level that the write has reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    achieved: Option<&'static str>,
    /// Stored rows of a streamed body that was carried out in part.
    #[serde(skip_serializing_if = "Option::is_none")]
    stored: Option<usize>,
    /// Index of the next row, counted from 0: all rows before it were carried out, none from it on.
    /// Send the rest.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_index: Option<usize>,
    /// Number of rows before `next_index` that are not stored, or not known to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    failed_total: Option<usize>,
    /// The first 1 000 of these rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    failed: Option<&'p serde_json::Value>,
    /// True if the same request may succeed later.
    retryable: bool,
    /// Id of the request, also in the header `x-request-id` and in the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'p str>,
}

impl<'p> ProblemBody<'p> {
    /// Returns the body of a problem. `request_id` is `None` for a row of a bulk write, which has
    /// no request id of its own.
    pub fn of(problem: &'p Problem, request_id: Option<&'p str>) -> Self {
        let title = problem.code.title();
        let levels = problem.rare.as_ref().and_then(|rare| rare.levels);
        let progress = problem.rare.as_ref().and_then(|rare| rare.progress.as_ref());
        Self {
            kind: format!("/errors/{}", problem.code.name()),
            title,
            status: problem.status.as_u16(),
            detail: &problem.detail,
            code: problem.code.name(),
            message: title,
            details: &problem.detail,
            hint: problem.hint.as_deref(),
            success: false,
            error: title,
            shard: problem.shard.as_deref(),
            outcome: problem.outcome,
            requested: levels.map(|(requested, _)| requested.name()),
            achieved: levels.map(|(_, achieved)| achieved.name()),
            stored: progress.map(|progress| progress.stored),
            next_index: progress.map(|progress| progress.next_index),
            failed_total: progress.map(|progress| progress.failed_total),
            failed: progress.map(|progress| &progress.failed),
            retryable: problem.code.is_retryable(),
            request_id,
        }
    }
}

/// Returns the whole response to a request that ended with a problem.
pub fn respond(problem: &Problem, request_id: &str) -> HttpResponse {
    let mut response = HttpResponse::build(problem.status);
    response.content_type("application/problem+json");
    if problem.status == StatusCode::SERVICE_UNAVAILABLE {
        response.insert_header((header::RETRY_AFTER, HeaderValue::from_static("1")));
    }
    if let Some(rare) = &problem.rare {
        for (name, value) in &rare.headers {
            if let Ok(value) = HeaderValue::from_str(value) {
                response.insert_header((name.clone(), value));
            }
        }
        if rare.replayed {
            response.insert_header((IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true")));
        }
    }
    response.json(ProblemBody::of(problem, Some(request_id)))
}
