//! HTTP: sends single requests to a router, without a client library.

use std::io::{Error, Read, Result, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

/// Longest wait for the response of a router that may end meanwhile.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Complete response of a router.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// JSON body; null if the body is not JSON.
    pub(crate) body: Value,
}

/// Sends a request with a JSON body to a router that may end meanwhile.
///
/// # Errors
/// Fails if there is no complete response.
pub(crate) fn try_send(
    host: &str,
    asked: (&str, &str),
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Answer> {
    try_send_within(PATIENCE, host, asked, headers, body)
}

/// Sends a request like [`try_send`], and waits at most `patience` for each part of the response.
///
/// # Errors
/// Fails if there is no complete response.
pub(crate) fn try_send_within(
    patience: Duration,
    host: &str,
    (method, path): (&str, &str),
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Answer> {
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(patience))?;
    let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let broken = || Error::other(format!("the response broke off: {answer}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(broken)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    if length.is_some_and(|length: usize| body.len() < length) {
        return Err(broken());
    }
    let body = serde_json::from_str(body).unwrap_or_default();
    Ok(Answer { status: status.ok_or_else(broken)?, body })
}

/// Sends a request with a JSON body; returns the complete response.
pub(crate) fn send(host: &str, method: &str, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(host).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
