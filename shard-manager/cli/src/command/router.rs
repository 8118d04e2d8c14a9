//! Router: sends HTTP requests of the commands to a running router.
//!
//! **Not here:** using the responses (the commands).

use std::time::Duration;

use serde_json::Value;
use ureq::http::Response;
use ureq::{Agent, Body};

use super::CommandError;
use super::http_agent::{self, Client, RouterAddress};

/// Time limit of a request.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Header of POST requests with their deadline in milliseconds, which is before the time limit of
/// the client.
const DEADLINE: (&str, &str) = ("x-deadline-ms", "25000");

/// Client of a router, for requests and responses in JSON.
pub(super) struct Router {
    client: Client,
}

impl Router {
    /// Creates a client of a router, without sending a request.
    ///
    /// # Errors
    /// Fails on an invalid address, missing trusted certificates, or a credential that cannot be
    /// used.
    pub(super) fn at(address: &RouterAddress) -> Result<Self, CommandError> {
        let patient = Agent::config_builder().timeout_global(Some(ANSWER_MAX));
        let client = Client::new(address, patient).map_err(CommandError::Refused)?;
        Ok(Self { client })
    }

    /// Returns the body of the response to a GET.
    pub(super) fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, CommandError> {
        let request = self.client.get(path);
        let request =
            query.iter().fold(request, |request, (name, value)| request.query(name, value));
        self.answer(request.call())
    }

    /// Returns the body of the response to a POST of a JSON document.
    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, CommandError> {
        self.answer(self.client.post(path).header(DEADLINE.0, DEADLINE.1).send_json(body))
    }

    /// Returns the body of the response to a POST of a JSON document with the header `If-Match`.
    pub(super) fn post_if(
        &self,
        path: &str,
        body: &Value,
        if_match: &str,
    ) -> Result<Value, CommandError> {
        let request = self.client.post(path).header(DEADLINE.0, DEADLINE.1);
        self.answer(request.header("if-match", if_match).send_json(body))
    }

    /// Returns the body of the response to a POST that only computes its effect and changes
    /// nothing.
    pub(super) fn plan(&self, path: &str, body: &Value) -> Result<Value, CommandError> {
        let request = self.client.post(path).header(DEADLINE.0, DEADLINE.1);
        self.answer(request.header("prefer", "tx=rollback").send_json(body))
    }

    /// Returns the body of the response to a PATCH with a JSON document.
    pub(super) fn patch(&self, path: &str, body: &Value) -> Result<Value, CommandError> {
        self.answer(self.client.patch(path).send_json(body))
    }

    /// Returns the body of the response to a DELETE.
    pub(super) fn delete(&self, path: &str) -> Result<Value, CommandError> {
        self.answer(self.client.delete(path).call())
    }

    fn answer(&self, response: Result<Response<Body>, ureq::Error>) -> Result<Value, CommandError> {
        let failed = |error: &dyn std::fmt::Display| {
            CommandError::Refused(format!("no router answers at {}: {error}", self.client.url()))
        };
        let mut response = response.map_err(|error| failed(&http_agent::description(&error)))?;
        let status = response.status();
        let (url, remedy) = (self.client.url(), self.client.remedy(status.as_u16()));
        if status.is_redirection() {
            return Err(CommandError::Refused(format!("{url} answers {status}{remedy}")));
        }
        let answer: Value = response.body_mut().read_json().map_err(|error| failed(&error))?;
        // A response that contains `shards` is a report about the cluster and no refusal, even with
        // status 503.
        if status.is_success() || answer.get("shards").is_some() {
            return Ok(answer);
        }
        let detail = answer["detail"].as_str().or(answer["title"].as_str());
        let detail = detail.map_or_else(|| status.to_string(), str::to_owned);
        let code = answer["code"].as_str().map(|code| format!(" ({code})")).unwrap_or_default();
        Err(CommandError::Refused(format!("the router at {url} refuses: {detail}{code}{remedy}")))
    }
}
