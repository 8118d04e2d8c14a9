//! Upload: sends rows to a running router.
//!
//! **Invariant:** rows that may have been stored are sent again only as upserts; waits and retries
//! are bounded.
//! **Not here:** the rows (`generate`, `import`).

use std::io::{ErrorKind, Read};
use std::time::Duration;

use ::import::FailedRow;
use model::keyspace::Keyspace;
use serde::Deserialize;
use serde_json::value::RawValue;
use ureq::http::Response;
use ureq::{Agent, AsSendBody, Body, SendBody, Timeout};

use super::http_agent::{Client, RouterAddress, description};
use super::interrupt;

/// Maximum number of attempts of one request.
const TRIES_MAX: u32 = 10;
/// Longest wait before a retry, even if a router requests a longer one.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Time limit of a connection attempt.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Time limit for the response after all rows are sent. The router may still have to store the last
/// chunk.
const ANSWER_MAX: Duration = Duration::from_secs(120);
/// Deadline in milliseconds for each chunk of rows at the router. It is long, because bulk work may
/// wait.
const DEADLINE_MS: &str = "60000";
/// Maximum size of a response in bytes. A response lists at most a thousand failed rows.
const BODY_MAX: u64 = 16 << 20;

/// Response to a bulk write, with the members that are used here.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Answer {
    #[serde(default)]
    failed_total: u64,
    #[serde(default)]
    failed: Vec<Failed>,
    #[serde(default)]
    pub(super) shards: Vec<ShardRows>,
}

/// Response with the table groups of a cluster, `main` first.
#[derive(Debug, Deserialize)]
struct Groups {
    groups: Vec<KeyMap>,
}

/// Members of a table group that describe its keyspace.
#[derive(Debug, Deserialize)]
struct KeyMap {
    keyspace: String,
    /// Parameters of the keyspace as the router sent them, in JSON.
    parameters: Box<RawValue>,
    #[serde(default)]
    tables: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ShardRows {
    pub(super) shard: String,
    pub(super) rows: u64,
}

#[derive(Debug, Deserialize)]
struct Failed {
    index: usize,
    retryable: bool,
    error: Problem,
}

#[derive(Debug, Default, Deserialize)]
struct Problem {
    #[serde(default)]
    code: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    detail: String,
    /// Number, from 0, of the first row that was not processed; all rows before it were.
    next_index: Option<u64>,
}

/// Reason why rows were not stored, or may not have been stored.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    /// The router refused the request.
    #[error("{0}")]
    Refused(String),
    /// The router stopped after a part of the rows.
    #[error(
        "{cause}; rows before row {next_index} (from 0, blank lines not counted) were carried out, the rest were not"
    )]
    Partial {
        /// Reason.
        cause: String,
        /// Number, from 0, of the first row that was not processed.
        next_index: u64,
    },
    /// The router does not respond.
    #[error("the router does not answer: {0}")]
    NoAnswer(String),
    /// The operator cancelled the command.
    #[error("cancelled; what was acknowledged is kept")]
    Cancelled,
}

/// Next action, after a response or an error.
enum Next {
    Done(Answer),
    /// Nothing was stored: retry after this time at the earliest.
    Wait(Duration, String),
    /// No connection was made in time, so nothing was sent.
    Unsent(String),
    /// Rows may have been stored.
    Unknown(String),
}

/// Client of a router, for bulk writes.
pub(super) struct Router {
    client: Client,
}

impl Router {
    /// Creates a client of a router, without sending a request.
    pub(super) fn at(address: &RouterAddress) -> Result<Self, UploadError> {
        let patient = Agent::config_builder()
            .timeout_connect(Some(CONNECT_MAX))
            .timeout_recv_response(Some(ANSWER_MAX));
        let client = Client::new(address, patient).map_err(UploadError::Refused)?;
        Ok(Self { client })
    }

    /// Returns the keyspace of a table: that of its group, or of the group `main` if no group lists
    /// the table.
    pub(super) fn keyspace_of(&self, table: &str) -> Result<Keyspace, UploadError> {
        let no_answer = |error: ureq::Error| {
            UploadError::NoAnswer(format!("{}: {}", self.client.url(), description(&error)))
        };
        let no_groups = |error: &dyn std::fmt::Display| {
            UploadError::Refused(format!("the router's table groups cannot be read: {error}"))
        };
        let sent = self.client.get("/api/groups").call();
        let mut response = sent.map_err(no_answer)?;
        let body = response.body_mut().with_config().limit(BODY_MAX).read_to_vec();
        let body = body.map_err(no_answer)?;
        let status = response.status().as_u16();
        if status != 200 {
            let cause = Problem::cause(status, &body) + self.client.remedy(status);
            return Err(UploadError::Refused(cause));
        }
        let Groups { groups } = serde_json::from_slice(&body).map_err(|error| no_groups(&error))?;
        let named = groups.iter().find(|group| group.tables.iter().any(|name| name == table));
        let group = named.or(groups.first()).ok_or_else(|| no_groups(&"there is none"))?;
        Keyspace::restore(&group.keyspace, group.parameters.get())
            .map_err(|error| no_groups(&error))
    }

    /// Sends lines of JSON as upserts, in up to `TRIES_MAX` attempts.
    pub(super) fn upsert(&self, table: &str, lines: &[u8]) -> Result<Answer, UploadError> {
        let mut wait = Duration::from_millis(100);
        let mut text = String::new();
        for _ in 0..TRIES_MAX {
            if interrupt::is_interrupted() {
                return Err(UploadError::Cancelled);
            }
            let sent = self.post((table, "upsert"), "application/x-ndjson", lines);
            match self.next(sent).map_err(|error| self.named(error))? {
                Next::Done(answer) if answer.is_worth_another_try() => text = answer.first(),
                Next::Done(answer) => return Ok(answer),
                Next::Wait(retry_after, cause) => {
                    wait = retry_after.max(wait);
                    text = cause;
                }
                Next::Unsent(cause) | Next::Unknown(cause) => text = cause,
            }
            std::thread::sleep(wait);
            wait = (wait * 2).min(WAIT_MAX);
        }
        Err(self.named(UploadError::NoAnswer(text)))
    }

    /// Sends an input as a stream, without retries.
    pub(super) fn stream(
        &self,
        (table, op): (&str, &str),
        content_type: &str,
        mut input: impl Read,
    ) -> Result<Answer, UploadError> {
        let sent = self.post((table, op), content_type, SendBody::from_reader(&mut input));
        match self.next(sent).map_err(|error| self.named(error))? {
            Next::Done(answer) => Ok(answer),
            Next::Wait(_, cause) => Err(UploadError::Refused(cause)),
            Next::Unsent(cause) => Err(self.named(UploadError::NoAnswer(cause))),
            Next::Unknown(_) if interrupt::is_interrupted() => Err(UploadError::Cancelled),
            Next::Unknown(cause) => {
                let reported = "all, some or none of the rows may be stored; sent again as \
                                upserts, none is stored twice";
                Err(self.named(UploadError::NoAnswer(format!("{cause}; {reported}"))))
            }
        }
    }

    /// Adds the address of the router to an error that says that the router does not respond.
    fn named(&self, error: UploadError) -> UploadError {
        match error {
            UploadError::NoAnswer(cause) => {
                UploadError::NoAnswer(format!("{}: {cause}", self.client.url()))
            }
            error @ (UploadError::Refused(_)
            | UploadError::Partial { .. }
            | UploadError::Cancelled) => error,
        }
    }

    fn post(
        &self,
        (table, op): (&str, &str),
        content_type: &str,
        body: impl AsSendBody,
    ) -> Result<Response<Body>, ureq::Error> {
        self.client
            .post("/api/bulk-write")
            .query("table", table)
            .query("op", op)
            .header("content-type", content_type)
            .header("x-deadline-ms", DEADLINE_MS)
            .send(body)
    }

    fn next(&self, sent: Result<Response<Body>, ureq::Error>) -> Result<Next, UploadError> {
        let mut response = match sent {
            Ok(response) => response,
            Err(ureq::Error::BadUri(cause)) => return Err(UploadError::Refused(cause)),
            Err(error @ ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect)) => {
                return Ok(Next::Unsent(description(&error)));
            }
            Err(error) if is_unreachable(&error) => {
                return Err(UploadError::NoAnswer(description(&error)));
            }
            Err(error) => return Ok(Next::Unknown(description(&error))),
        };
        let status = response.status().as_u16();
        let wait = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
        let wait = wait.and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
        let body = match response.body_mut().with_config().limit(BODY_MAX).read_to_vec() {
            Ok(body) => body,
            Err(error) => return Ok(Next::Unknown(error.to_string())),
        };
        if matches!(status, 201 | 207) {
            let answer = serde_json::from_slice(&body);
            return answer
                .map(Next::Done)
                .map_err(|error| UploadError::NoAnswer(format!("no answer of a router: {error}")));
        }
        let cause = Problem::cause(status, &body);
        let problem: Problem = serde_json::from_slice(&body).unwrap_or_default();
        if let Some(next_index) = problem.next_index.filter(|next_index| *next_index > 0) {
            return Err(UploadError::Partial { cause, next_index });
        }
        match status {
            429 | 503 => Ok(Next::Wait(wait.unwrap_or_default().min(WAIT_MAX), cause)),
            502 | 504 => Ok(Next::Unknown(cause)),
            _ => Err(UploadError::Refused(cause + self.client.remedy(status))),
        }
    }
}

/// Returns true if an error shows that no connection was made, so that nothing was sent.
fn is_unreachable(error: &ureq::Error) -> bool {
    if let ureq::Error::Io(cause) = error {
        // The router's certificate is checked before the request is sent.
        let tls = cause.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let is_distrusted = matches!(tls, Some(rustls::Error::InvalidCertificate(_)));
        return is_distrusted || cause.kind() == ErrorKind::ConnectionRefused;
    }
    matches!(
        error,
        ureq::Error::HostNotFound
            | ureq::Error::ConnectionFailed
            | ureq::Error::Tls(_)
            | ureq::Error::Rustls(_)
    )
}

impl Answer {
    /// Returns true if rows failed and all listed failures are temporary.
    fn is_worth_another_try(&self) -> bool {
        self.failed_total > 0 && self.failed.iter().all(|row| row.retryable)
    }

    fn first(&self) -> String {
        self.failed.first().map(|row| row.error.sentence()).unwrap_or_default()
    }

    /// Returns the number of failed rows, and up to ten of those that the response lists.
    pub(super) fn failures(&self) -> (u64, Vec<FailedRow>) {
        let reported = self.failed.iter().map(|row| {
            let (index, cause) = (row.index, row.error.sentence());
            FailedRow { index, cause }
        });
        (self.failed_total, reported.take(10).collect())
    }
}

impl Problem {
    fn cause(status: u16, body: &[u8]) -> String {
        let problem: Self = serde_json::from_slice(body).unwrap_or_default();
        match problem.code.is_empty() {
            true => format!("the answer is {status}, and not one of a router"),
            false => problem.sentence(),
        }
    }

    fn sentence(&self) -> String {
        let text = if self.detail.is_empty() { &self.title } else { &self.detail };
        format!("{text} ({})", self.code)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use rustls::CertificateError;

    use super::*;

    #[test]
    fn only_an_error_without_a_connection_proves_that_nothing_was_sent() {
        let tls =
            |cause: rustls::Error| ureq::Error::from(io::Error::new(ErrorKind::InvalidData, cause));
        let unreachable: [ureq::Error; 4] = [
            ureq::Error::HostNotFound,
            ureq::Error::ConnectionFailed,
            io::Error::from(ErrorKind::ConnectionRefused).into(),
            tls(rustls::Error::InvalidCertificate(CertificateError::Expired)),
        ];
        for error in unreachable {
            assert!(is_unreachable(&error), "{error}");
        }
        let later: [ureq::Error; 4] = [
            ureq::Error::Timeout(Timeout::SendBody),
            ureq::Error::Timeout(Timeout::RecvResponse),
            io::Error::from(ErrorKind::ConnectionReset).into(),
            tls(rustls::Error::DecryptError),
        ];
        for error in later {
            assert!(!is_unreachable(&error), "{error}");
        }
    }
}
