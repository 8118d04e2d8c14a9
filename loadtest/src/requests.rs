//! Requests: makes the HTTP requests of operations.
//!
//! **Invariant:** every request for one key names the key, because otherwise the router would send
//! it to all shards.
//! **Not here:** choosing the next operation (`mix`) and its key (`keys`).

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, IF_MATCH};
use hyper::{Method, Request, Uri};
use serde::Serialize;

use crate::http_client::HttpRequest;
use crate::keyspace::Names;
use crate::response_check::Failure;
use crate::tables::{PARTITION_KEY, USERS};

/// Number of rows of a bulk write.
pub(crate) const BULK_ROWS: u32 = 100;
/// Maximum number of rows of a read by key.
const READ_LIMIT: u32 = 10;
/// Maximum number of rows of a page of a scan.
const SCAN_LIMIT: u32 = 50;
/// Maximum number of rows of a scatter read.
const SCATTER_LIMIT: u32 = 100;
/// Values of the users' partition column, the same as in the sample data.
const PARTITIONS: [&str; 5] = ["A", "B", "C", "D", "E"];

const SHARD_KEY: HeaderName = HeaderName::from_static("x-shard-key");
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub(crate) const SESSION_TOKEN: HeaderName = HeaderName::from_static("x-session-token");

/// Session token from a router's response. A user sends it with later requests, so that it reads
/// its own writes.
pub(crate) type SessionToken = HeaderValue;

#[derive(Serialize)]
struct Write<'a> {
    table: &'a str,
    data: User<'a>,
}

#[derive(Serialize)]
struct Bulk<'a> {
    table: &'a str,
    records: Vec<User<'a>>,
}

#[derive(Serialize)]
struct User<'a> {
    user_id: &'a str,
    name: &'a str,
    email: String,
    partition_key: &'a str,
    run: &'a str,
}

/// Returns the value of the partition column for a user of a run with a mix.
fn partition<'n>(names: &'n Names, key: u32, id: &str) -> &'n str {
    names.partition(id).unwrap_or(PARTITIONS[key as usize % PARTITIONS.len()])
}

/// Returns the columns of a user. The partition is added if it determines the shard of the row.
pub(crate) fn placed(names: &Names, id: &str, mut columns: serde_json::Value) -> serde_json::Value {
    if let Some(partition) = names.partition(id) {
        columns[PARTITION_KEY] = partition.into();
    }
    columns
}

impl<'a> User<'a> {
    fn new(names: &'a Names, key: u32, id: &'a str, value: &'a str) -> Self {
        let partition_key = partition(names, key, id);
        let (email, run) = (format!("{id}@example.com"), names.run());
        Self { user_id: id, name: value, email, partition_key, run }
    }
}

/// Writes one user.
pub(crate) fn write(names: &Names, key: u32, value: &str) -> Result<HttpRequest, Failure> {
    let id = names.plain(key);
    let body = Write { table: USERS, data: User::new(names, key, &id, value) };
    keyed(json(Method::POST, "/api/write", &body)?, &id)
}

/// Writes one user if it still has this version.
pub(crate) fn write_if(
    names: &Names,
    key: u32,
    value: &str,
    version: u64,
) -> Result<HttpRequest, Failure> {
    let mut asked = write(names, key, value)?;
    asked.headers_mut().insert(IF_MATCH, header(&format!("\"{version}\""))?);
    Ok(asked)
}

/// Reads one user.
pub(crate) fn read(names: &Names, key: u32) -> Result<HttpRequest, Failure> {
    keyed(get(&format!("/api/read?table={USERS}&limit={READ_LIMIT}"))?, &names.plain(key))
}

/// Reads a page of users from all shards in the order of their ids, beginning at a key.
pub(crate) fn scan(names: &Names, key: u32) -> Result<HttpRequest, Failure> {
    let id = names.plain(key);
    get(&format!("/api/read?table={USERS}&user_id=gte.{id}&order=user_id&limit={SCAN_LIMIT}"))
}

/// Reads the users of a partition on all its shards, in descending order of their names.
pub(crate) fn scatter(names: &Names, key: u32) -> Result<HttpRequest, Failure> {
    let partition = partition(names, key, &names.plain(key));
    get(&format!(
        "/api/read?table={USERS}&partition_key=eq.{partition}&order=name.desc&limit={SCATTER_LIMIT}"
    ))
}

/// Writes many users at once.
pub(crate) fn bulk(names: &Names, keys: &[u32], value: &str) -> Result<HttpRequest, Failure> {
    let ids: Vec<_> = keys.iter().map(|&key| names.plain(key)).collect();
    let records =
        keys.iter().zip(&ids).map(|(&key, id)| User::new(names, key, id, value)).collect();
    json(Method::POST, "/api/bulk-write", &Bulk { table: USERS, records })
}

/// Stores a value under a key.
pub(crate) fn kv_put(names: &Names, key: u32, value: &str) -> Result<HttpRequest, Failure> {
    json(Method::PUT, &format!("/api/kv/{}", names.plain(key)), &value)
}

/// Reads the value of a key.
pub(crate) fn kv_get(names: &Names, key: u32) -> Result<HttpRequest, Failure> {
    get(&format!("/api/kv/{}", names.plain(key)))
}

/// Adds a session token to a request.
pub(crate) fn with_token(mut asked: HttpRequest, token: Option<&SessionToken>) -> HttpRequest {
    if let Some(token) = token {
        asked.headers_mut().insert(SESSION_TOKEN, token.clone());
    }
    asked
}

/// Returns a request with a JSON body, which may be empty, and with the shard key if one is given.
pub(crate) fn plain(
    method: Method,
    path: &'static str,
    body: Bytes,
    key: Option<&str>,
) -> HttpRequest {
    let mut asked = HttpRequest::new(Full::new(body));
    *asked.method_mut() = method;
    *asked.uri_mut() = Uri::from_static(path);
    let headers = asked.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(key) = key.and_then(id_header) {
        headers.insert(SHARD_KEY, key);
    }
    asked
}

/// Returns a GET request with a shard key.
pub(crate) fn keyed_get(path: &'static str, key: &str) -> HttpRequest {
    plain(Method::GET, path, Bytes::new(), Some(key))
}

/// Converts a string to the value of a header; `None` if it contains characters that a header
/// cannot contain. No name of the tester contains such characters.
pub(crate) fn id_header(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(text).ok()
}

/// Returns a GET request for a path that is not a constant.
pub(crate) fn get(path: &str) -> Result<HttpRequest, Failure> {
    Request::get(path).body(Full::default()).map_err(|error| unsendable(&error))
}

/// Returns a request with a JSON body to a path that is not a constant.
pub(crate) fn json(
    method: Method,
    path: &str,
    body: &impl Serialize,
) -> Result<HttpRequest, Failure> {
    let body = serde_json::to_vec(body).map_err(|error| unsendable(&error))?;
    Request::builder()
        .method(method)
        .uri(path)
        .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| unsendable(&error))
}

/// Adds the shard key to a request.
pub(crate) fn keyed(mut asked: HttpRequest, key: &str) -> Result<HttpRequest, Failure> {
    asked.headers_mut().insert(SHARD_KEY, header(key)?);
    Ok(asked)
}

fn header(text: &str) -> Result<HeaderValue, Failure> {
    HeaderValue::from_str(text).map_err(|error| unsendable(&error))
}

fn unsendable(error: &dyn std::error::Error) -> Failure {
    Failure::new(None, "not sent", &error.to_string())
}
