//! Static assets: the responses with the files of the dashboard, and its stream of events.
//!
//! **Not here:** the files (`dashboard`), the events (`event_stream`), access control.

use std::convert::Infallible;

use actix_web::HttpResponse;
use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, ETAG, HeaderMap, HeaderName, HeaderValue,
    IF_NONE_MATCH, REFERRER_POLICY,
};
use bytes::Bytes;
use futures_util::Stream;

use crate::dashboard::{self, File};

/// Content security policy of the page.
const POLICY: HeaderValue = HeaderValue::from_static(dashboard::CONTENT_SECURITY_POLICY);
/// Header that keeps proxies from buffering a stream.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Returns the response with a file of the dashboard, or 304 if the client has the current version.
/// Returns `None` if there is no such file.
pub fn file(name: &str, request_headers: &HeaderMap) -> Option<HttpResponse> {
    let File { content_type, body, etag } = dashboard::file(name)?;
    let known = request_headers.get_all(IF_NONE_MATCH).filter_map(|value| value.to_str().ok());
    let mut known = known.flat_map(|list| list.split(',').map(str::trim));
    let is_known = known.any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag);
    let mut response = if is_known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    response
        .insert_header((ETAG, etag))
        // Browsers check for a new version each time, mostly with a short 304 as the response, so
        // that after an upgrade of the program they use the new page at once.
        .insert_header((CACHE_CONTROL, HeaderValue::from_static("no-cache")))
        .insert_header((CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((REFERRER_POLICY, HeaderValue::from_static("no-referrer")));
    Some(if is_known { response.finish() } else { response.content_type(content_type).body(body) })
}

/// Returns a response with an endless stream of events.
pub fn events(events: impl Stream<Item = Result<Bytes, Infallible>> + 'static) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header((CACHE_CONTROL, HeaderValue::from_static("no-store")))
        .insert_header((X_ACCEL_BUFFERING, HeaderValue::from_static("no")))
        .streaming(events)
}
