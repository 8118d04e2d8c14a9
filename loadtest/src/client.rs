//! Client: how a user speaks to the router, in plain HTTP/1.1 as any other client would.
//!
//! One client, so one pool of kept-alive connections, is shared by all users.
//!
//! **Invariant:** a request is sent once: no retry, no redirect, no proxy. What the report counts is
//! what went over the wire.
//! **Not here:** whether an answer is right (`verdict`), and what to ask next (`scenarios`).

use std::error::Error;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use goose::goose::{GooseMethod, GooseRequest, GooseUser, TransactionError};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, RequestBuilder, Response, StatusCode, redirect, retry};
use serde::Serialize;

use crate::options::Target;
use crate::tally::Operation;
use crate::verdict::{Failure, printable};

/// A request without an answer by then has failed. Twice the router's own deadline of 5 s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A router that does not say by then that it is ready counts as absent.
const READY_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest answer read. A read asks for ten small rows; more than this is a fault.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Rows a read asks for.
const READ_LIMIT: u32 = 10;

const SHARD_KEY: HeaderName = HeaderName::from_static("x-shard-key");
const SHARD: HeaderName = HeaderName::from_static("x-shard");
const SESSION_TOKEN: HeaderName = HeaderName::from_static("x-session-token");

/// What has been seen so far, in the router's words: sent back, so that a user reads its own writes.
pub(crate) type SessionToken = HeaderValue;

/// A whole answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) shard: Option<String>,
    pub(crate) token: Option<SessionToken>,
    pub(crate) body: Vec<u8>,
}

#[derive(Serialize)]
struct Write<'a> {
    table: &'a str,
    data: User<'a>,
}

#[derive(Serialize)]
struct User<'a> {
    user_id: &'a str,
    name: String,
    email: String,
    partition_key: &'a str,
}

/// Builds the client all users share.
pub(crate) fn build() -> anyhow::Result<Client> {
    Client::builder()
        .user_agent(concat!("tessera-loadtest/", env!("CARGO_PKG_VERSION")))
        .timeout(REQUEST_TIMEOUT)
        .tcp_nodelay(true)
        .no_gzip()
        .no_proxy()
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .build()
        .context("the HTTP client cannot be built")
}

/// Asks whether a router is there and ready, and says what to do when it is not.
pub(crate) async fn check_ready(client: &Client, host: &Target) -> anyhow::Result<()> {
    let status = match client.get(host.at("/ready")).timeout(READY_TIMEOUT).send().await {
        Ok(response) => response.status(),
        Err(error) => bail!(
            "no router answers at {host} ({}): start one with `cargo run --release`",
            reason(&error)
        ),
    };
    match status {
        status if status.is_success() => Ok(()),
        StatusCode::SERVICE_UNAVAILABLE => {
            bail!("the router at {host} is not ready (503): it is starting or stopping; try again")
        }
        _ => bail!(
            "what answers at {host} is not a Tessera router (GET /ready gave {}): \
             start one with `cargo run --release`",
            status.as_u16()
        ),
    }
}

/// Sends one request and reads its whole answer; tells how long both took. The outer error is
/// goose's and ends the step, the inner one is a failure of the request.
pub(crate) async fn send(
    user: &mut GooseUser,
    operation: Operation,
    key: &str,
    token: Option<SessionToken>,
) -> Result<(Duration, Result<Answer, Failure>), Box<TransactionError>> {
    let mut request = match operation {
        Operation::Write => write(user, key)?,
        Operation::Read => read(user, key)?,
    }
    .header(SHARD_KEY, key);
    if let Some(token) = token {
        request = request.header(SESSION_TOKEN, token);
    }
    let request =
        GooseRequest::builder().name(operation.name()).set_request_builder(request).build();
    let sent = Instant::now();
    let answer = match user.request(request).await?.response {
        Ok(response) => receive(response).await,
        Err(error) => Err(unanswered(None, &error)),
    };
    Ok((sent.elapsed(), answer))
}

fn write(user: &GooseUser, key: &str) -> Result<RequestBuilder, Box<TransactionError>> {
    let body = Write {
        table: "users",
        data: User {
            user_id: key,
            name: format!("Name of {key}"),
            email: format!("{key}@example.com"),
            partition_key: "A",
        },
    };
    let body = serde_json::to_vec(&body).map_err(|error| error.to_string())?;
    let request = user.get_request_builder(&GooseMethod::Post, "/api/write")?;
    Ok(request.header(CONTENT_TYPE, "application/json").body(body))
}

fn read(user: &GooseUser, key: &str) -> Result<RequestBuilder, Box<TransactionError>> {
    debug_assert!(!key.is_empty(), "without a key this would read all shards");
    user.get_request_builder(
        &GooseMethod::Get,
        &format!("/api/read?table=users&limit={READ_LIMIT}"),
    )
}

async fn receive(mut response: Response) -> Result<Answer, Failure> {
    let status = response.status().as_u16();
    let shard = text(response.headers(), &SHARD);
    let token = response.headers().get(SESSION_TOKEN).cloned();
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() <= ANSWER_BYTES_MAX => {
                body.extend_from_slice(&chunk);
            }
            Ok(Some(_)) => {
                return Err(Failure::new(Some(status), "no answer", "longer than 1 MiB"));
            }
            Ok(None) => return Ok(Answer { status, shard, token, body }),
            Err(error) => return Err(unanswered(Some(status), &error)),
        }
    }
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(printable)
}

/// What became of a request that got no whole answer: never arrived, not in time, or cut off.
fn unanswered(status: Option<u16>, error: &reqwest::Error) -> Failure {
    let code = match error {
        error if error.is_connect() => "not connected",
        error if error.is_timeout() => "timed out",
        _ => "no answer",
    };
    Failure::new(status, code, &reason(error))
}

/// The innermost cause: "Connection refused" says more than "error sending request".
fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "timed out".to_owned();
    }
    let mut cause: &dyn Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
