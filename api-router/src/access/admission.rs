//! Admission: the limits that an admitted request counts against, and what its response says of
//! them.
//!
//! **Invariant:** a request keeps its place among those of its caller until its last byte is sent,
//! or its client has gone.
//! **Not here:** the counters (`shard_manager::access::limit`), the decision (`gate`).

use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::ServiceResponse;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::web::Bytes;
use shard_manager::access::limit::in_flight::InFlight;
use shard_manager::access::limit::{RateState, headers};

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Limits of an admitted request. A caller without limits has none.
#[derive(Debug, Default)]
pub struct Admission {
    /// State of the rate of the caller.
    pub(super) rate: Option<RateState>,
    /// Place among the requests that the caller may send at the same time.
    pub(super) place: Option<InFlight>,
}

impl Admission {
    /// Adds the headers that tell the caller how many requests it has left.
    pub fn show(&self, response: &mut HeaderMap) {
        let Some(state) = &self.rate else { return };
        let texts =
            [(RATE_LIMIT_POLICY, headers::policy(state.rate)), (RATE_LIMIT, headers::state(state))];
        for (name, text) in texts {
            if let Ok(value) = HeaderValue::from_str(&text) {
                response.insert(name, value);
            }
        }
    }

    /// Keeps the place until the response is sent.
    pub fn hold(self, response: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
        match self.place {
            None => response,
            Some(place) => {
                response.map_body(|_, body| BoxBody::new(HeldBody { body, _place: place }))
            }
        }
    }
}

/// Body of a response whose request has a place.
struct HeldBody {
    body: BoxBody,
    _place: InFlight,
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
        Pin::new(&mut self.body).poll_next(context)
    }
}
