//! Served: the HTTP answers that carry the files of the dashboard, and the stream that it watches.
//!
//! **Not here:** the files (`dashboard`), the events (`event_stream`), who may have them.

use std::convert::Infallible;

use actix_web::HttpResponse;
use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, ETAG, HeaderMap, HeaderName, HeaderValue,
    IF_NONE_MATCH, REFERRER_POLICY,
};
use bytes::Bytes;
use futures_util::Stream;

use crate::dashboard::{self, File};

/// What a browser lets the page do.
const POLICY: HeaderValue = HeaderValue::from_static(dashboard::CONTENT_SECURITY_POLICY);
/// Proxies that gather what they hand on must not gather a stream.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// A file of the dashboard, or that it is the one that the client has; `None`: there is no such file.
pub fn file(name: &str, asked: &HeaderMap) -> Option<HttpResponse> {
    let File { content_type, body, etag } = dashboard::file(name)?;
    let known = asked.get_all(IF_NONE_MATCH).filter_map(|value| value.to_str().ok());
    let mut known = known.flat_map(|list| list.split(',').map(str::trim));
    let is_known = known.any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag);
    let mut response = if is_known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    response
        .insert_header((ETAG, etag))
        // Asked for again each time, and mostly answered in a line: a new program has a new page.
        .insert_header((CACHE_CONTROL, HeaderValue::from_static("no-cache")))
        .insert_header((CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((REFERRER_POLICY, HeaderValue::from_static("no-referrer")));
    Some(if is_known { response.finish() } else { response.content_type(content_type).body(body) })
}

/// Events without end.
pub fn events(events: impl Stream<Item = Result<Bytes, Infallible>> + 'static) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header((CACHE_CONTROL, HeaderValue::from_static("no-store")))
        .insert_header((X_ACCEL_BUFFERING, HeaderValue::from_static("no")))
        .streaming(events)
}
