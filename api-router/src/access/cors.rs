//! CORS: lets web pages of listed origins send requests.
//!
//! **Invariant:** an origin matches only if it is equal to a listed one. No response permits
//! credentials that a browser adds by itself, such as cookies.
//! **Not here:** the refusal of requests from pages of other origins (`analytics::cross_origin`).

use actix_web::HttpResponse;
use actix_web::http::Method;
use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    HeaderMap, HeaderValue, ORIGIN, VARY,
};

const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE");
const REQUEST_HEADERS: HeaderValue = HeaderValue::from_static(
    "authorization, content-encoding, content-type, idempotency-key, if-match, if-none-match, prefer, traceparent, \
     tracestate, x-consistency, x-deadline-ms, x-max-staleness-ms, x-request-id, x-session-token, x-shard-key",
);
const RESPONSE_HEADERS: HeaderValue = HeaderValue::from_static(
    "content-range, etag, idempotency-replayed, location, preference-applied, ratelimit, ratelimit-policy, \
     retry-after, server-timing, traceparent, www-authenticate, x-cache, x-epoch, x-request-id, x-served-by, \
     x-session-token, x-shard, x-shard-slot",
);
/// Number of seconds for which a browser may reuse the response to a preflight.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");
const VARY_ORIGIN: HeaderValue = HeaderValue::from_static("Origin");

/// Origins whose pages may send requests.
#[derive(Debug, Default)]
pub struct PermittedOrigins(Vec<String>);

impl PermittedOrigins {
    /// Creates the list from origins in the form in which browsers send them.
    pub fn new(origins: Vec<String>) -> Self {
        Self(origins)
    }

    /// Returns the origin of a request if it is listed; `None` for a request with two `Origin`
    /// headers.
    pub fn find(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        if self.0.is_empty() {
            return None;
        }
        let mut values = headers.get_all(ORIGIN);
        let value = values.next()?;
        let is_listed = self.0.iter().any(|origin| origin.as_bytes() == value.as_bytes());
        (is_listed && values.next().is_none()).then(|| value.clone())
    }

    /// Adds the headers with which a browser lets the page read the response.
    pub fn permit(&self, headers: &mut HeaderMap, origin: Option<HeaderValue>) {
        if self.0.is_empty() {
            return;
        }
        headers.append(VARY, VARY_ORIGIN);
        if let Some(origin) = origin {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, RESPONSE_HEADERS);
        }
    }
}

/// Returns true if a request is a preflight, by which a browser asks for permission before it sends
/// the actual request.
pub fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Returns the response to a preflight from a page of a listed origin.
pub fn preflight() -> HttpResponse {
    HttpResponse::NoContent()
        .insert_header((ACCESS_CONTROL_ALLOW_METHODS, METHODS))
        .insert_header((ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS))
        .insert_header((ACCESS_CONTROL_MAX_AGE, MAX_AGE))
        .finish()
}
