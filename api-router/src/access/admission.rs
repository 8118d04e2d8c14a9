//! Admission: the limits that apply to an admitted request, and the response headers that report
//! them.
//!
//! **Invariant:** a request counts as one of the concurrent requests of its caller until the last
//! byte of its response is sent, or its client has disconnected.
//! **Not here:** the counters (`shard_manager::access::limit`), the decision to admit (`gate`).

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::ServiceResponse;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::web::Bytes;
use shard_manager::access::limit::caller_limits::{CallerLimits, LimitStates};
use shard_manager::access::limit::headers;
use shard_manager::access::limit::in_flight::InFlight;

use super::clock::unix_now;
use crate::problem::Problem;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Limits that apply to an admitted request; empty if its caller has no limits.
#[derive(Debug, Default)]
pub struct Admission {
    /// Limits of the caller, and the start of the clock with which they are measured.
    limits: Option<(CallerLimits, Instant)>,
    /// Guard that counts the request as one of its caller's concurrent requests until it is
    /// dropped.
    place: Option<InFlight>,
}

impl Admission {
    /// Creates the admission of a request whose caller has limits.
    pub(super) fn new(limits: CallerLimits, began: Instant, place: Option<InFlight>) -> Self {
        Self { limits: Some((limits, began)), place }
    }

    /// Adds the headers that report how much of its limits the caller has left.
    pub fn show_limits(&self, response: &mut HeaderMap) {
        if let Some((limits, began)) = &self.limits {
            show(&limits.states(began.elapsed(), unix_now()), response);
        }
    }

    /// Counts the request as running until the last byte of the response is handed to the server,
    /// and no longer: a client that has received that byte may send its next request at once.
    pub fn hold(self, response: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
        match self.place {
            None => response,
            Some(place) => response.map_body(|_, body| {
                let left = match body.size() {
                    BodySize::None => Some(0),
                    BodySize::Sized(left) => Some(left),
                    BodySize::Stream => None,
                };
                let place = Some(place).filter(|_| left != Some(0));
                BoxBody::new(HeldBody { body, left, place })
            }),
        }
    }
}

/// Adds the rate limit headers to the problem of a request that exceeds a limit of its caller.
pub(super) fn with_limits(problem: Problem, states: &LimitStates) -> Problem {
    limit_headers(states).fold(problem, |problem, (name, text)| problem.header(name, text))
}

/// Adds the rate limit headers of a caller to a response.
fn show(states: &LimitStates, response: &mut HeaderMap) {
    for (name, text) in limit_headers(states) {
        if let Ok(value) = HeaderValue::from_str(&text) {
            response.insert(name, value);
        }
    }
}

/// Returns the rate limit headers of a caller; none if its only limit is the number of concurrent
/// requests.
fn limit_headers(states: &LimitStates) -> impl Iterator<Item = (HeaderName, String)> + use<> {
    let texts =
        [(RATE_LIMIT_POLICY, headers::policies(states)), (RATE_LIMIT, headers::states(states))];
    texts.into_iter().filter_map(|(name, text)| text.map(|text| (name, text)))
}

/// Body of a response whose request counts as running until the whole body is sent.
struct HeldBody {
    body: BoxBody,
    /// Number of bytes of the body that are not sent yet; `None` if the length is unknown.
    left: Option<u64>,
    place: Option<InFlight>,
}

impl MessageBody for HeldBody {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_next(context);
        let is_over = match &polled {
            Poll::Ready(Some(Ok(bytes))) => {
                self.left = self.left.map(|left| left.saturating_sub(bytes.len() as u64));
                self.left == Some(0)
            }
            Poll::Ready(Some(Err(_)) | None) => true,
            Poll::Pending => false,
        };
        if is_over {
            self.place = None;
        }
        polled
    }
}
