//! Compression: gzip for large responses to clients that accept it.
//!
//! Most responses are small: for a small response this module only compares its length with a
//! limit.
//!
//! **Invariant:** only the body, `Content-Encoding` and `Vary` change: an `ETag` names the version
//! of a row, however the row is sent.
//! **Not here:** compressed bodies of requests (`body_decoding`).

use std::io::Write;

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::ServiceResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, VARY,
};
use actix_web::web::{Bytes, block};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::negotiation::{joined, prefers_gzip};

/// Minimum size of a body that is compressed, in bytes. A smaller body fits into a packet or two as
/// it is.
const WORTH_BYTES_MIN: u64 = 1 << 10;
/// Maximum size, in bytes, of a body that is compressed on the thread of its request. A larger body
/// is compressed on a thread that may block, so that other requests do not wait for it.
const INLINE_BYTES_MAX: usize = 64 << 10;

/// Returns the response, compressed if it is large enough and the client accepts it.
pub async fn compressed(mut answer: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
    if !is_worth_it(&answer) {
        if answer.status() == StatusCode::NOT_MODIFIED {
            // A 304 has the headers of the full response, which may be a compressed one.
            vary_by_encoding(answer.headers_mut());
        }
        return answer;
    }
    vary_by_encoding(answer.headers_mut());
    if !prefers_gzip(&joined(answer.request().headers(), &ACCEPT_ENCODING)) {
        return answer;
    }
    let (request, answer) = answer.into_parts();
    let (mut head, body) = answer.into_parts();
    let body = match body.try_into_bytes() {
        Ok(plain) => match compress(&plain).await {
            Some(small) => {
                head.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                BoxBody::new(small)
            }
            None => BoxBody::new(plain),
        },
        Err(streamed) => streamed,
    };
    ServiceResponse::new(request, head.set_body(body))
}

/// Returns true if a body is text, long enough, and not encoded yet.
fn is_worth_it(answer: &ServiceResponse<BoxBody>) -> bool {
    let BodySize::Sized(WORTH_BYTES_MIN..) = answer.response().body().size() else { return false };
    let headers = answer.headers();
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    let essence = kind.split(';').next().unwrap_or("").trim_end();
    let is_text = essence.starts_with("text/")
        || matches!(
            essence,
            "application/json"
                | "application/problem+json"
                | "application/javascript"
                | "application/openmetrics-text"
        );
    is_text && !headers.contains_key(CONTENT_ENCODING)
}

/// Adds `Vary`, for caches between router and client.
fn vary_by_encoding(headers: &mut HeaderMap) {
    headers.append(VARY, HeaderValue::from_static("accept-encoding"));
}

/// Compresses the bytes with gzip; `None` if the result is not smaller.
async fn compress(plain: &Bytes) -> Option<Vec<u8>> {
    let small = if plain.len() <= INLINE_BYTES_MAX {
        gzip(plain)
    } else {
        let plain = plain.clone();
        // If no thread is available, the body is sent uncompressed.
        block(move || gzip(&plain)).await.ok()?
    };
    (small.len() < plain.len()).then_some(small)
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 4), Compression::fast());
    let compress = encoder.write_all(plain).and_then(|()| encoder.finish());
    compress.expect("a Vec takes whatever is written to it")
}
