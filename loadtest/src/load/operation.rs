//! Operation: sends one request and checks the response.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::plan::{ProbeStep, Step};
use crate::clients::Client;
use crate::counters::{Operation, Sample, Source};
use crate::http_client::{Answer, HttpRequest, Pool};
use crate::requests::{self, SESSION_TOKEN, SessionToken};
use crate::response_check::{self, Failure};

/// Knowledge of a user before a request. The response is checked against it.
#[derive(Clone)]
pub(super) struct Known {
    /// Keys and credential of the user.
    pub(super) client: Arc<Client>,
    pub(super) token: Option<SessionToken>,
    /// True if the row must exist, because a write of it was acknowledged.
    pub(super) acknowledged: bool,
    /// Longest wait for a response.
    pub(super) patience: Duration,
}

/// Result of an operation.
pub(super) struct OperationResult {
    pub(super) sample: Sample,
    pub(super) status: Option<u16>,
    pub(super) token: Option<SessionToken>,
}

/// Performs one step that was due at `intended`.
pub(super) async fn perform(
    pool: &Pool,
    step: &Step,
    known: &Known,
    intended: Instant,
) -> OperationResult {
    let sent = Instant::now();
    let answer = ask(pool, step, known).await;
    let ended = Instant::now();
    let (status, source, token, verdict) = match answer {
        Ok(answer) => {
            let verdict = judge(step, known, &answer);
            let token = answer.headers.get(SESSION_TOKEN).cloned();
            (Some(answer.status), Some(Source::of(&answer)), token, verdict)
        }
        Err(failure) => (failure.status, None, None, Err(failure)),
    };
    known.client.count(step.operation, &verdict);
    let sample = Sample { operation: step.operation, intended, sent, ended, source, verdict };
    OperationResult { sample, status, token }
}

async fn ask(pool: &Pool, step: &Step, known: &Known) -> Result<Answer, Failure> {
    let names = known.client.names();
    let asked = match step.operation {
        Operation::Write | Operation::Insert => requests::write(names, step.key, &step.value),
        Operation::Read => requests::read(names, step.key),
        Operation::Scan => requests::scan(names, step.key),
        Operation::Modify => return modify(pool, step, known).await,
        Operation::Bulk => {
            let keys: Vec<u32> = step.more.iter().copied().chain([step.key]).collect();
            requests::bulk(names, &keys, &step.value)
        }
        // The value contains the key, so that a tenant's response with the value of another tenant
        // can be recognised.
        Operation::KvPut if known.client.is_tenant() => {
            let value = format!("{} {}", names.plain(step.key), step.value);
            requests::kv_put(names, step.key, &value)
        }
        Operation::KvPut => requests::kv_put(names, step.key, &step.value),
        Operation::KvGet => requests::kv_get(names, step.key),
        Operation::Scatter => requests::scatter(names, step.key),
        Operation::Probe => {
            let unsent = || Failure::new(None, "not sent", "no probe was chosen");
            let ProbeStep { probe, table, other } = step.probe.as_ref().ok_or_else(unsent)?;
            probe.request(table, other)
        }
        // Only the verifying workload has these operations.
        Operation::Delete | Operation::Replay | Operation::Transfer => {
            return Err(Failure::new(None, "not sent", "no mix has it"));
        }
    };
    send(pool, asked?, known).await
}

/// Reads a row, and writes it on the condition that it has not changed meanwhile. A row that does
/// not exist is written without a condition.
async fn modify(pool: &Pool, step: &Step, known: &Known) -> Result<Answer, Failure> {
    let names = known.client.names();
    let read = send(pool, requests::read(names, step.key)?, known).await?;
    response_check::of_read(read.status, &read.body, &names.plain(step.key), known.acknowledged)?;
    let asked = match response_check::version_of(&read.body) {
        Some(version) => requests::write_if(names, step.key, &step.value, version)?,
        None => requests::write(names, step.key, &step.value)?,
    };
    send(pool, asked, known).await
}

async fn send(pool: &Pool, asked: HttpRequest, known: &Known) -> Result<Answer, Failure> {
    let line = known.client.line(&asked);
    let asked = requests::with_token(asked, known.token.as_ref());
    let answer = pool.send(asked, known.patience).await?;
    known.client.check(&line, &answer)?;
    Ok(answer)
}

fn judge(step: &Step, known: &Known, answer: &Answer) -> Result<(), Failure> {
    let (status, body) = (answer.status, &answer.body[..]);
    match step.operation {
        Operation::Write | Operation::Insert => response_check::of_write(status, body),
        Operation::Modify => response_check::of_conditional_write(status, body),
        Operation::Read => response_check::of_read(
            status,
            body,
            &known.client.names().plain(step.key),
            known.acknowledged,
        ),
        Operation::Bulk => response_check::of_bulk(status, body),
        Operation::Scan | Operation::Scatter => response_check::of_page(status, body),
        Operation::Delete | Operation::Replay | Operation::Transfer => {
            response_check::of_any(status, body)
        }
        Operation::Probe => match &step.probe {
            Some(step) => step.probe.judge(answer),
            None => Ok(()),
        },
        Operation::KvPut => match status {
            204 => Ok(()),
            _ => response_check::of_write(status, body),
        },
        Operation::KvGet => response_check::of_value(status, body, known.acknowledged),
    }
}
