//! Router: HTTP requests of the commands to a running router.
//!
//! **Not here:** the use of the answers (the commands).

use std::time::Duration;

use serde_json::Value;
use ureq::Agent;

use super::CommandError;
use super::http_agent::{self, agent};

/// Time limit of a request.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Client of a router.
pub(super) struct Router {
    agent: Agent,
    url: String,
}

impl Router {
    /// Creates a client of the router at a URL, without a request.
    ///
    /// # Errors
    /// An invalid address, or missing trusted certificates.
    pub(super) fn at(url: &str) -> Result<Self, CommandError> {
        let patient = Agent::config_builder().timeout_global(Some(ANSWER_MAX));
        let agent = agent(url, patient).map_err(CommandError::Refused)?;
        Ok(Self { agent, url: url.trim_end_matches('/').to_owned() })
    }

    /// Returns the body of the answer to a GET.
    pub(super) fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, CommandError> {
        let failed = |error: &dyn std::fmt::Display| {
            CommandError::Refused(format!("no router answers at {}: {error}", self.url))
        };
        let request = self.agent.get(format!("{}{path}", self.url));
        let request =
            query.iter().fold(request, |request, (name, value)| request.query(name, value));
        let mut response =
            request.call().map_err(|error| failed(&http_agent::description(&error)))?;
        let status = response.status();
        let answer: Value = response.body_mut().read_json().map_err(|error| failed(&error))?;
        // Status 503 with a report of the cluster is a valid answer; a refusal is not.
        if status.is_success() || answer.get("shards").is_some() {
            return Ok(answer);
        }
        let detail = answer["detail"].as_str().or(answer["title"].as_str());
        let detail = detail.map_or_else(|| status.to_string(), str::to_owned);
        Err(CommandError::Refused(format!("the router at {} refuses: {detail}", self.url)))
    }
}
