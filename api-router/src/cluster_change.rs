//! Requests that change the cluster: their headers, and their body.
//!
//! **Not here:** the members of a body and the change itself (`routes`).

use std::time::Instant;

use actix_web::HttpRequest;
use actix_web::web::{Bytes, Payload};

use crate::app::App;
use crate::headers::{check_content_type, deadline, expected_epoch, refuse_row_headers};
use crate::problem::Problem;
use crate::query::Parameters;

/// Headers of a request that changes shards, or moves slots between them.
#[derive(Clone, Copy, Debug)]
pub struct ClusterChange {
    /// Epoch that the shard map must have, if the request names one.
    pub epoch: Option<u64>,
    /// Time until which the request may wait.
    pub deadline: Instant,
}

impl ClusterChange {
    /// Reads the headers of a request.
    ///
    /// # Errors
    /// A problem with status 4xx if the request has a parameter, a header that only requests about
    /// rows may have, or an invalid header.
    pub fn from_request(request: &HttpRequest) -> Result<Self, Problem> {
        let headers = request.headers();
        Parameters::parse(request.query_string())?.check_names(&[])?;
        refuse_row_headers(headers)?;
        let epoch = expected_epoch(headers)?;
        Ok(Self { epoch, deadline: Instant::now() + deadline(headers)? })
    }

    /// Reads a body of JSON of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// A problem with status 4xx if the body has another media type or is longer, and the other
    /// errors of `App::read_body`, such as TSR004 if the body does not arrive before the deadline.
    pub async fn read_body(
        self,
        app: &App,
        request: &HttpRequest,
        payload: Payload,
        bytes_max: usize,
    ) -> Result<Bytes, Problem> {
        check_content_type(request.headers())?;
        let read = app.read_body(request, payload, bytes_max, self.deadline).await;
        read.map(|(bytes, _share)| bytes)
    }
}
