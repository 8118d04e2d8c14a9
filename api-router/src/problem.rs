//! Problems: the error responses, in a form that clients of RFC 9457 and clients of PostgREST
//! understand.
//!
//! **Invariant:** there is one table of codes, and the mapping of errors to codes is exhaustive; no
//! body contains SQL, a path, a secret, or an address that the request does not name.
//! **Not here:** the form of a problem (`response`), logging (`middleware`).

pub use self::backups::no_backup_dir;
pub use self::changes::refused;
pub use self::codes::Code;
pub(crate) use self::domain::LESS_AT_ONCE;

mod backups;
mod changes;
mod codes;
mod domain;
mod indexes;
mod response;

use std::fmt;

use actix_web::http::StatusCode;
use actix_web::http::header::HeaderName;
use actix_web::{HttpResponse, ResponseError};
use shard_manager::consistency::Level;

pub use response::{ProblemBody, respond};

/// Header with the session token, in requests and in responses.
pub const X_SESSION_TOKEN: HeaderName = HeaderName::from_static("x-session-token");
/// Header that marks a response as the repetition of an earlier one.
pub const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Error response, before its body is rendered.
#[derive(Clone, Debug)]
pub struct Problem {
    code: Code,
    status: StatusCode,
    detail: String,
    /// Remedy.
    pub(crate) hint: Option<String>,
    /// Shard that the problem is about.
    pub(crate) shard: Option<String>,
    /// Outcome of a write; `None` for any other request.
    pub(crate) outcome: Option<&'static str>,
    rare: Option<Box<RareFields>>,
}

/// Fields that few problems have, boxed because problems are passed by value.
#[derive(Clone, Debug, Default)]
struct RareFields {
    /// Additional headers of the response: the methods that the path supports, how to send
    /// credentials, when to send the request again, or the session token after a request that
    /// failed after reading or writing.
    headers: Vec<(HeaderName, String)>,
    /// Requested and reached consistency level of a write that was not confirmed.
    levels: Option<(Level, Level)>,
    /// True if this repeats the response to an earlier request.
    replayed: bool,
    /// Progress of a streamed body.
    progress: Option<Progress>,
}

/// Progress of a streamed body that ended with a problem.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Number of rows that are stored at the requested level.
    pub stored: usize,
    /// Index of the first row that was not carried out; all rows before it were.
    pub next_index: usize,
    /// Number of rows before `next_index` that are not stored, or not known to be.
    pub failed_total: usize,
    /// The first of these rows, in the form that a successful response has.
    pub failed: serde_json::Value,
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

    /// Prefixes the detail with the member of the body that it is about.
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

    /// Sets the status to 415 (the media type of the request body is not supported) instead of 406
    /// (that of the response).
    #[must_use]
    pub fn unsupported_media_type(mut self) -> Self {
        self.status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        self
    }

    /// Adds a header to the response. A value that is not valid in a header is left out.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: String) -> Self {
        self.rare().headers.push((name, value));
        self
    }

    fn rare(&mut self) -> &mut RareFields {
        self.rare.get_or_insert_default()
    }

    /// Sets the value of `x-session-token` for a request that failed after reading or writing.
    #[must_use]
    pub fn session(self, token: String) -> Self {
        self.header(X_SESSION_TOKEN, token)
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

    /// Sets the outcome of a failed write to `rejected` if it has none, because such a write failed
    /// before it was parsed.
    pub fn ensure_outcome(&mut self) {
        self.outcome.get_or_insert("rejected");
    }
}

/// Returns true if the request of this problem has stored rows, or may have.
pub fn may_have_stored(problem: &Problem) -> bool {
    problem.outcome.is_some_and(|outcome| outcome != "rejected")
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
