//! Attempt: sends one request. A change is repeated until its outcome is known or the maximum
//! number of attempts is reached.
//!
//! **Invariant:** only a write or delete is repeated, with the same idempotency key in every
//! attempt. After an attempt without a response, a later refusal does not prove that nothing was
//! stored.

use std::sync::Arc;
use std::time::{Duration, Instant};

use checker::history::{Kind, Level, Operation, Outcome};
use hyper::header::{HeaderName, HeaderValue};
use serde::Deserialize;

use super::session::{Session, consistency};
use crate::counters::{Operation as Counted, Sample, Source};
use crate::http_client::{Answer, HttpRequest, is_before_sending};
use crate::probe::Probe;
use crate::requests::{SESSION_TOKEN, id_header};
use crate::response_check::{self, Failure};
use crate::tables::USERS;

/// Maximum number of times that a write of unknown outcome is sent.
const ATTEMPTS_MAX: u8 = 6;
/// Pause before the second attempt. The pause doubles before each further attempt.
const BACK_OFF: Duration = Duration::from_millis(50);
/// Longest wait for a response. It is longer than the deadline that the request contains.
const PATIENCE: Duration = Duration::from_secs(4);
const DEADLINE_MS: HeaderValue = HeaderValue::from_static("3000");

const CONSISTENCY: HeaderName = HeaderName::from_static("x-consistency");
const MAX_STALENESS: HeaderName = HeaderName::from_static("x-max-staleness-ms");
const DEADLINE: HeaderName = HeaderName::from_static("x-deadline-ms");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Completed operation, which is reported to goose and to the counters.
pub(super) struct Done {
    pub(super) sample: Sample,
    pub(super) status: Option<u16>,
}

/// Result of a request.
pub(super) struct Attempted {
    pub(super) outcome: Outcome,
    /// True if an attempt with an unknown outcome may have reached the router, so that it may still
    /// take effect.
    pub(super) may_have_happened: bool,
    /// Response to the last attempt, if there was one.
    pub(super) answer: Option<Answer>,
    pub(super) done: Done,
}

/// Member of a problem document that contains the outcome of a write.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ProblemOutcome {
    outcome: Option<String>,
}

/// Sends a request with the level and the other options that `operation` names. Records the times,
/// the node, the number of attempts and the outcome in `operation`.
///
/// With `other` the request goes to another router than the session's own, if there is one. If the
/// rate of the run is limited, each attempt waits for its turn. The operation begins when its first
/// attempt is sent.
pub(super) async fn send(
    session: &mut Session,
    mut asked: HttpRequest,
    operation: &mut Operation,
    counted: Counted,
    other: bool,
) -> Attempted {
    let (host, pool) = session.router(other);
    head(session, &mut asked, operation);
    let line = session.client.client.line(&asked);
    session.turns.next_request().await;
    let began = Instant::now();
    operation.start = session.of.recorder.at(began);
    let mut may_have_happened = false;
    let (outcome, answer) = loop {
        let sent = pool.send(asked.clone(), PATIENCE).await;
        let outcome = outcome(operation, &sent);
        // A request that was not sent because there was no connection had no effect.
        let arrived = !sent.as_ref().is_err_and(is_before_sending);
        may_have_happened |= outcome == Outcome::Unknown && arrived;
        let again = outcome == Outcome::Unknown && operation.changes();
        if again && operation.attempts < ATTEMPTS_MAX {
            tokio::time::sleep(BACK_OFF * (1 << (operation.attempts - 1))).await;
            session.turns.next_request().await;
            operation.attempts += 1;
            continue;
        }
        break match outcome {
            Outcome::Ok | Outcome::Committed => (outcome, sent),
            Outcome::Rejected | Outcome::Unknown if may_have_happened => (Outcome::Unknown, sent),
            Outcome::Rejected | Outcome::Unknown => (Outcome::Rejected, sent),
        };
    };
    let ended = Instant::now();
    operation.end = session.of.recorder.at(ended);
    operation.outcome = outcome;
    let (answer, verdict, status) = match answer {
        Ok(answer) => {
            operation.node = session.node(&answer, host);
            if operation.token {
                session.saw(&answer);
            }
            let own = session.client.client.check(&line, &answer);
            let status = answer.status;
            let verdict = own.and_then(|()| check_response(counted, status, &answer.body));
            (Some(answer), verdict, Some(status))
        }
        Err(failure) => {
            let status = failure.status;
            (None, Err::<(), Failure>(failure), status)
        }
    };
    session.client.client.count(counted, &verdict);
    let source = answer.as_ref().map(Source::of);
    let sample =
        Sample { operation: counted, intended: began, sent: began, ended, source, verdict };
    Attempted { outcome, may_have_happened, answer, done: Done { sample, status } }
}

/// Sends a request for a register (a row with one value) of another tenant.
pub(super) async fn probe(session: &mut Session) -> Done {
    let clients = &session.of.clients;
    let others = clients.iter().filter(|client| !Arc::ptr_eq(client, &session.client));
    let others: Vec<_> = others.collect();
    let other = others[session.random.below(others.len() as u32) as usize];
    let rank = session.random.below(super::HOT_ROWS);
    let probe = Probe::draw(&mut session.random);
    let (_, pool) = session.router(false);
    session.turns.next_request().await;
    let client = &session.client.client;
    let began = Instant::now();
    let sent = match probe.request(USERS, &other.names.register(rank)) {
        Ok(asked) => {
            let line = client.line(&asked);
            pool.send(asked, PATIENCE).await.map(|answer| (line, answer))
        }
        Err(failure) => Err(failure),
    };
    let ended = Instant::now();
    let (status, source, verdict) = match sent {
        Ok((line, answer)) => {
            let verdict = client.check(&line, &answer).and_then(|()| probe.judge(&answer));
            (Some(answer.status), Some(Source::of(&answer)), verdict)
        }
        Err(failure) => (failure.status, None, Err(failure)),
    };
    client.count(Counted::Probe, &verdict);
    let operation = Counted::Probe;
    let sample = Sample { operation, intended: began, sent: began, ended, source, verdict };
    Done { sample, status }
}

/// Adds the headers that every request of the workload has.
fn head(session: &Session, asked: &mut HttpRequest, operation: &Operation) {
    let headers = asked.headers_mut();
    if let Some(token) = session.token.clone().filter(|_| operation.token) {
        headers.insert(SESSION_TOKEN, token);
    }
    if operation.level != Level::One {
        headers.insert(CONSISTENCY, consistency(operation.level));
    }
    if operation.bound_ms > 0 {
        headers.insert(MAX_STALENESS, HeaderValue::from(operation.bound_ms));
    }
    headers.insert(DEADLINE, DEADLINE_MS);
    if let Some(id) = id_header(&session.log.request_id(operation.request)) {
        headers.insert(REQUEST_ID, id);
    }
}

fn outcome(operation: &Operation, sent: &Result<Answer, Failure>) -> Outcome {
    let Ok(answer) = sent else { return Outcome::Unknown };
    match answer.status {
        200..=299 => Outcome::Ok,
        _ if operation.kind == Kind::Read => Outcome::Rejected,
        _ => match serde_json::from_slice::<ProblemOutcome>(&answer.body)
            .unwrap_or_default()
            .outcome
            .as_deref()
        {
            Some("rejected") => Outcome::Rejected,
            Some("committed") => Outcome::Committed,
            // A refusal that does not contain the outcome proves nothing.
            Some(_) | None => Outcome::Unknown,
        },
    }
}

/// Checks the status of a response of the verifying workload; the content is checked later with the
/// history. Writes have no condition, so only a delete may be refused because of the state of a
/// row, which may have been deleted already.
fn check_response(operation: Counted, status: u16, body: &[u8]) -> Result<(), Failure> {
    match operation {
        Counted::Write | Counted::Replay => response_check::of_write(status, body),
        Counted::Bulk => response_check::of_bulk(status, body),
        Counted::Delete if status == 404 => Ok(()),
        Counted::Delete => response_check::of_write(status, body),
        Counted::Read
        | Counted::Insert
        | Counted::Scan
        | Counted::Modify
        | Counted::KvPut
        | Counted::KvGet
        | Counted::Scatter
        | Counted::Transfer
        | Counted::Probe => response_check::of_any(status, body),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(verdict: Result<(), Failure>) -> String {
        verdict.err().map(|failure| failure.code).unwrap_or_default()
    }

    #[test]
    fn a_verified_write_that_is_refused_fails_and_a_delete_may_find_no_row() {
        let body = br#"{"code":"TSR304","detail":"not unique"}"#;
        for operation in [Counted::Write, Counted::Replay] {
            assert_eq!(check_response(operation, 201, b""), Ok(()));
            for status in [404, 409, 412] {
                assert_eq!(code(check_response(operation, status, body)), "TSR304");
            }
        }
        let none_stored = br#"{"failed":[{"index":0,"error":{"code":"TSR304"}}]}"#;
        assert_eq!(code(check_response(Counted::Bulk, 207, none_stored)), "TSR304");
        assert_eq!(code(check_response(Counted::Bulk, 409, body)), "TSR304");
        assert_eq!(check_response(Counted::Bulk, 201, b""), Ok(()));
        for status in [200, 404] {
            assert_eq!(check_response(Counted::Delete, status, b""), Ok(()));
        }
        assert_eq!(code(check_response(Counted::Delete, 409, body)), "TSR304");
        assert_eq!(check_response(Counted::Transfer, 412, b""), Ok(()));
    }
}
