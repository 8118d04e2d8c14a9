//! Problems: error responses, in the form and with the codes that routers use.
//!
//! **Invariant:** a response body contains no file path, network address or secret.
//! **Not here:** logging (`middleware`).

use std::fmt;

use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, HeaderName, HeaderValue, RETRY_AFTER};
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;

use recorder::FilterError;

web_kit::problem_codes! {
    /// Code of a problem; routers use the same codes with the same meanings.
    pub(crate) enum Code;

    TSR001 503 true  "Backend unreachable" "No router answered. /api/analytics/metrics lists the routers and why they are not reachable.";
    TSR005 503 true  "Overloaded" "The maximum number of event streams is open. Retry after Retry-After.";
    TSR006 503 true  "Rights unknown" "The service cannot know the rights of the caller now: keys and roles were last read too long ago. Retry after Retry-After.";
    TSR100 400 false "Bad query string" "A parameter of the query string is unknown, malformed or given twice. The detail names it.";
    TSR101 400 false "Bad body" "The body is not JSON, or a member is missing, unknown or of the wrong type. The detail names what is expected.";
    TSR107 415 false "Media type not supported" "The Content-Type of the body is not supported. Bodies are JSON.";
    TSR111 404 false "No such path" "There is nothing at this path, or of this name. / lists what there is.";
    TSR112 405 false "Method not allowed" "The path exists, but not for this method. The Allow header lists those it has.";
    TSR113 400 false "Bad header" "The value of a header cannot be used. The detail names the header and what is allowed.";
    TSR401 401 false "Credentials needed" "The request needs credentials and has none, or those that it has are not valid: send the header Authorization: Bearer with an API key or a token.";
    TSR403 403 false "Forbidden" "The role of the caller lacks a scope: the detail names it. Or the request comes from a web page of another origin, for a browser must not be a way into this service.";
    TSR429 429 true  "Too many requests" "Too many credentials from this address were not valid. Retry after Retry-After.";
    TSR500 500 true  "Internal error" "A defect of the service. It is logged under the request id.";
}

/// Returns true if a text has the form of a code: routers have more codes than this service.
pub(crate) fn is_code(text: &str) -> bool {
    let digits = text.strip_prefix("TSR").map(str::as_bytes);
    digits.is_some_and(|digits| digits.len() == 3 && digits.iter().all(u8::is_ascii_digit))
}

/// An error response.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    /// Code of the problem.
    pub code: Code,
    detail: String,
    hint: Option<String>,
    headers: Vec<(HeaderName, String)>,
}

// Routers have another type for the body, with more members. Both are in OpenAPI documents.
/// The body of the response.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody<'p> {
    /// Link to a page that explains the code.
    #[serde(rename = "type")]
    kind: String,
    /// Short title, the same for every occurrence of the code.
    title: &'p str,
    /// The HTTP status.
    status: u16,
    /// Description of this occurrence.
    detail: &'p str,
    /// Code of the problem: `TSR100`.
    code: &'p str,
    /// Copy of `title`, for clients of PostgREST.
    message: &'p str,
    /// Copy of `detail`, for clients of PostgREST.
    details: &'p str,
    /// Remedy.
    hint: Option<&'p str>,
    /// Always false.
    success: bool,
    /// Copy of `title`, for older clients.
    error: &'p str,
    /// True if the same request may succeed later.
    retryable: bool,
    /// Id of the request, as in the header `x-request-id` and in the log.
    request_id: &'p str,
}

impl Problem {
    /// Creates a problem with this code; `detail` describes the occurrence.
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), hint: None, headers: Vec::new() }
    }

    /// Creates the problem for an error in a parameter.
    pub(crate) fn parameter(error: impl fmt::Display) -> Self {
        Self::new(Code::TSR100, error.to_string())
    }

    /// Sets the hint, which names a remedy.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the header `Allow` with the methods that the path has.
    #[must_use]
    pub(crate) fn allow(self, methods: &'static str) -> Self {
        self.header(ALLOW, methods.to_owned())
    }

    /// Adds a header to the response. A value that is not allowed in a header is ignored.
    #[must_use]
    pub(crate) fn header(mut self, name: HeaderName, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Returns the whole response.
    pub(crate) fn respond(&self, request_id: &str) -> HttpResponse {
        let (code, title) = (self.code, self.code.title());
        let mut response = HttpResponse::build(self.status_code());
        response.content_type("application/problem+json");
        if code.status() == StatusCode::SERVICE_UNAVAILABLE {
            response.insert_header((RETRY_AFTER, "1"));
        }
        for (name, value) in &self.headers {
            if let Ok(value) = HeaderValue::from_str(value) {
                response.insert_header((name.clone(), value));
            }
        }
        response.json(ProblemBody {
            kind: format!("/errors/{}", code.name()),
            title,
            status: code.status().as_u16(),
            detail: &self.detail,
            code: code.name(),
            message: title,
            details: &self.detail,
            hint: self.hint.as_deref(),
            success: false,
            error: title,
            retryable: code.is_retryable(),
            request_id,
        })
    }
}

impl From<FilterError> for Problem {
    fn from(error: FilterError) -> Self {
        Self::parameter(error)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.code.name(), self.code.title(), self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.code.status()
    }

    /// Returns a response without a body. The middleware, which knows the request id, replaces it
    /// by the complete response.
    fn error_response(&self) -> HttpResponse {
        HttpResponse::new(self.status_code())
    }
}

/// Declares, for the OpenAPI document, the problems of a kind of operation.
macro_rules! refusals {
    ($(#[doc = $kind:literal] $name:ident { $($status:literal $variant:ident $about:literal;)* })*) => {
        $(
            #[doc = $kind]
            #[derive(utoipa::IntoResponses)]
            #[expect(dead_code, reason = "describes answers, which are problems")]
            pub(crate) enum $name {
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
    /// Problems of every path.
    GateRefusals {
        400 BadRequest "A parameter cannot be used: the detail names it.";
        403 Forbidden "The request comes from a foreign web page.";
        404 NotFound "There is nothing of this name.";
    }
    /// Problems of a login.
    LoginRefusals {
        400 BadRequest "The body or a parameter cannot be used: the detail names it.";
        401 Unauthenticated "The key is not in force.";
        403 Forbidden "The request comes from a foreign web page.";
        415 UnsupportedMediaType "The body is not JSON.";
        429 Limited "Too many credentials from this address were not valid; see Retry-After.";
        503 Unavailable "The rights of the caller cannot be known now; see Retry-After.";
    }
    /// Problems of paths with a limited number of clients.
    BusyRefusals {
        400 BadRequest "A parameter cannot be used: the detail names it.";
        403 Forbidden "The request comes from a foreign web page.";
        503 Unavailable "The maximum number of event streams is open, or no router answers; see Retry-After.";
    }
}
