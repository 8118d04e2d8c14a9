//! CORS: permission for web pages of listed origins to send requests.
//!
//! **Invariant:** an origin is listed exactly or not at all, and no response permits credentials
//! that a browser adds by itself, such as cookies.
//! **Not here:** the refusal of pages of other origins (`analytics::cross_origin`).

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
/// Seconds for which a browser may keep the response to a preflight.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");
const VARY_ORIGIN: HeaderValue = HeaderValue::from_static("Origin");

/// Origins whose pages may send requests.
#[derive(Debug, Default)]
pub struct PermittedOrigins(Vec<String>);

impl PermittedOrigins {
    /// Creates a list of origins as browsers send them.
    pub fn new(origins: Vec<String>) -> Self {
        Self(origins)
    }

    /// Returns the origin of a request if it is listed. A request with two `Origin` headers has
    /// none.
    pub fn find(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        if self.0.is_empty() {
            return None;
        }
        let mut values = headers.get_all(ORIGIN);
        let value = values.next()?;
        let is_listed = self.0.iter().any(|origin| origin.as_bytes() == value.as_bytes());
        (is_listed && values.next().is_none()).then(|| value.clone())
    }

    /// Adds the headers by which a browser shows the response to the page.
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

/// Returns true if a request is a preflight: before a request itself, a browser checks that it may
/// send it.
pub fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Returns the response to the preflight of a page of a listed origin.
pub fn preflight() -> HttpResponse {
    HttpResponse::NoContent()
        .insert_header((ACCESS_CONTROL_ALLOW_METHODS, METHODS))
        .insert_header((ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS))
        .insert_header((ACCESS_CONTROL_MAX_AGE, MAX_AGE))
        .finish()
}
