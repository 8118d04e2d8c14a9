//! Request headers: parses the headers of a request once, into types that hold only valid values.
//!
//! **Invariant:** a header that a route does not honour is refused, never ignored, if ignoring it
//! could lose data or break a promise (`If-Match` on many rows).
//! **Not here:** the body (`body_reader`), the query string (`query`).

use std::time::{Duration, Instant};

use actix_web::HttpRequest;
use actix_web::http::header::{
    ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, IF_MATCH,
    IF_NONE_MATCH,
};
use shard_manager::consistency::Level;
use shard_manager::keyspace::ShardKey;
use shard_manager::manager::{Manager, RequestOptions};
use shard_manager::row_change::{Operation, Precondition};
use shard_manager::token::SessionToken;

use crate::body_decoding::ContentCoding;
use crate::prefer::{Prefer, Preference};
use crate::problem::{Code, Problem, X_SESSION_TOKEN};

/// Default deadline of a request, in milliseconds.
const DEADLINE_DEFAULT_MS: u64 = 5_000;
/// Range of the deadline that a request may set, in milliseconds.
const DEADLINE_MS: std::ops::RangeInclusive<u64> = 100..=60_000;
/// Maximum length of an idempotency key, in bytes.
const IDEMPOTENCY_KEY_LEN_MAX: usize = 128;
/// Default limit of the staleness of a read: none, so that any replica in rotation may serve it.
const STALENESS_DEFAULT: Duration = Duration::MAX;

// Header names are constants, because looking up a header by a string parses the string each time.
/// Header with the shard key of a request.
pub const X_SHARD_KEY: HeaderName = HeaderName::from_static("x-shard-key");
/// Header with the consistency level: one, quorum or all.
pub const X_CONSISTENCY: HeaderName = HeaderName::from_static("x-consistency");
/// Header with the maximum staleness of a read, in milliseconds.
pub const X_MAX_STALENESS_MS: HeaderName = HeaderName::from_static("x-max-staleness-ms");
/// Header with the time that a request may take, in milliseconds.
pub const X_DEADLINE_MS: HeaderName = HeaderName::from_static("x-deadline-ms");
/// Header with the id under which a request is logged.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Header with the key by which a repeated write is recognised.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Parsed headers of a data request.
#[derive(Debug)]
pub struct DataHeaders<'r> {
    /// Shard key from `x-shard-key`.
    pub shard_key: Option<ShardKey<'r>>,
    /// Consistency level, session, maximum staleness and deadline, and whether partial results are
    /// allowed.
    pub options: RequestOptions,
    /// Preferences from `Prefer`.
    pub prefer: Prefer,
}

impl<'r> DataHeaders<'r> {
    /// Reads the headers of a request that began at `began`.
    ///
    /// # Errors
    /// A problem that names the header and its permitted values.
    pub fn parse(
        manager: &Manager,
        request: &'r HttpRequest,
        began: Instant,
    ) -> Result<Self, Problem> {
        let headers = request.headers();
        check_accept(headers)?;
        let level = level(headers)?;
        let session = session(manager, headers)?;
        let staleness = staleness(headers)?;
        let shard_key = shard_key(headers)?;
        let deadline = began + deadline(headers)?;
        let prefer = Prefer::parse(headers)?;
        let partial = prefer.has(Preference::AllowPartial);
        let options = RequestOptions { level, session, staleness, partial, deadline };
        Ok(Self { shard_key, options, prefer })
    }
}

/// Returns the condition that the row must meet before the write, from `If-Match` or
/// `If-None-Match`.
///
/// # Errors
/// TSR113 if a header is malformed, both are given, or no such operation could meet the condition.
pub fn precondition(
    headers: &HeaderMap,
    operation: Operation,
) -> Result<Option<Precondition>, Problem> {
    let if_match = list(headers, &IF_MATCH)?;
    let if_none_match = list(headers, &IF_NONE_MATCH)?;
    match (if_match.as_deref(), if_none_match.as_deref()) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(bad(&IF_NONE_MATCH, "left out beside If-Match")),
        (Some(_), None) if operation == Operation::Insert => {
            // An upsert whose id is generated from its idempotency key is carried out as an insert.
            let allowed = "left out of an insert, and of an upsert with Idempotency-Key whose id is generated: both \
                           make a row that is not there";
            Err(bad(&IF_MATCH, allowed))
        }
        (Some("*"), None) => Ok(Some(Precondition::Present)),
        (Some(list), None) => versions(list).map(Precondition::Versions).map(Some),
        (None, Some(_)) if matches!(operation, Operation::Update | Operation::Delete) => {
            Err(bad(&IF_NONE_MATCH, "left out of an update or delete, which need a row"))
        }
        (None, Some("*")) => Ok(Some(Precondition::Absent)),
        (None, Some(_)) => Err(bad(&IF_NONE_MATCH, "* on a write")),
    }
}

/// Refuses `If-Match` and `If-None-Match` on a request about many rows.
///
/// # Errors
/// TSR113 names the header.
pub fn refuse_conditions(headers: &HeaderMap) -> Result<(), Problem> {
    for name in [IF_MATCH, IF_NONE_MATCH] {
        if headers.contains_key(&name) {
            let detail = format!("{name} is about one row, and this request is about many");
            return Err(Problem::new(Code::TSR113, detail).hint("send the request without it"));
        }
    }
    Ok(())
}

/// Returns the epoch that the shard map must have, from `If-Match`.
///
/// # Errors
/// TSR113 if the header is not one epoch in quotes.
pub fn expected_epoch(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(tag) = list(headers, &IF_MATCH)? else { return Ok(None) };
    let digits = tag.trim().strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
    let digits = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let epoch = digits.and_then(|digits| digits.parse().ok());
    epoch.map(Some).ok_or_else(|| bad(&IF_MATCH, "an epoch in quotes, such as \"1\""))
}

/// Refuses headers that have an effect only on reads and writes of rows.
///
/// # Errors
/// TSR113 names the header.
pub fn refuse_row_headers(headers: &HeaderMap) -> Result<(), Problem> {
    let why = "this path neither reads nor writes rows";
    for name in [X_CONSISTENCY, X_SESSION_TOKEN] {
        refuse(headers, &name, why, "send the request without it")?;
    }
    Ok(())
}

/// Returns true if the client already has this version of the row, according to `If-None-Match`.
///
/// # Errors
/// TSR113 if the header is malformed.
pub fn has_version(headers: &HeaderMap, version: i64) -> Result<bool, Problem> {
    let Some(list) = list(headers, &IF_NONE_MATCH)? else { return Ok(false) };
    let tags = list.split(',').map(|tag| tag.trim().trim_start_matches("W/"));
    let own = format!("\"{version}\"");
    Ok(list == "*" || tags.into_iter().any(|tag| tag == own))
}

/// Returns the value of `Idempotency-Key`, if the request has one.
///
/// # Errors
/// TSR113 if the key is empty, too long or not visible ASCII.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let key = single(headers, &IDEMPOTENCY_KEY)?;
    let allowed = |key: &str| (1..=IDEMPOTENCY_KEY_LEN_MAX).contains(&key.len());
    match key {
        Some(key) if !allowed(key) => Err(bad(
            &IDEMPOTENCY_KEY,
            &format!("1 to {IDEMPOTENCY_KEY_LEN_MAX} visible ASCII characters"),
        )),
        key => Ok(key),
    }
}

/// Refuses a body that is not declared as JSON. A body without a content type counts as JSON, as in
/// PostgREST.
///
/// # Errors
/// A problem with status 415 that lists the accepted types; TSR113 if there are two content types.
pub fn check_content_type(headers: &HeaderMap) -> Result<(), Problem> {
    check_content_encoding(headers)?;
    let Some(value) = once(headers, &CONTENT_TYPE)? else { return Ok(()) };
    let essence = value.to_str().unwrap_or("").split(';').next().unwrap_or("").trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::new(Code::TSR107, "Content-Type must be application/json")
        .hint("with curl: -H 'Content-Type: application/json'")
        .unsupported_media_type())
}

/// Refuses a body that is compressed.
///
/// # Errors
/// A problem with status 415.
pub fn check_content_encoding(headers: &HeaderMap) -> Result<(), Problem> {
    let is_identity = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"identity");
    if !headers.get_all(&CONTENT_ENCODING).all(is_identity) {
        let detail = "a body with this Content-Encoding cannot be read";
        return Err(Problem::new(Code::TSR107, detail)
            .hint("send the body without Content-Encoding; /api/bulk-write takes gzip")
            .unsupported_media_type());
    }
    Ok(())
}

/// Format of the body of a bulk write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BulkFormat {
    /// One JSON object. A body without a content type has this format, as in PostgREST.
    Json,
    /// One JSON object per line.
    Ndjson,
    /// One row per line, below a line with the names of the columns.
    Csv,
}

/// Returns the format and the content coding of the body of a bulk write, from `Content-Type` and
/// `Content-Encoding`.
///
/// # Errors
/// A problem with status 415 that lists the accepted types; TSR113 if there are two content types.
pub fn bulk_format(headers: &HeaderMap) -> Result<(BulkFormat, ContentCoding), Problem> {
    let coding = match once(headers, &CONTENT_ENCODING)?.map(HeaderValue::as_bytes) {
        None => ContentCoding::Identity,
        Some(name) if name.eq_ignore_ascii_case(b"identity") => ContentCoding::Identity,
        Some(name) if name.eq_ignore_ascii_case(b"gzip") => ContentCoding::Gzip,
        Some(_) => {
            let detail = "Content-Encoding must be gzip, or left out";
            return Err(Problem::new(Code::TSR107, detail).unsupported_media_type());
        }
    };
    let Some(value) = once(headers, &CONTENT_TYPE)? else {
        return Ok((BulkFormat::Json, coding));
    };
    let essence = value.to_str().unwrap_or("").split(';').next().unwrap_or("").trim();
    let known = [
        ("application/json", BulkFormat::Json),
        ("application/x-ndjson", BulkFormat::Ndjson),
        ("application/ndjson", BulkFormat::Ndjson),
        ("application/jsonl", BulkFormat::Ndjson),
        ("text/csv", BulkFormat::Csv),
    ];
    let format = known.into_iter().find(|(name, _)| essence.eq_ignore_ascii_case(name));
    format.map(|(_, format)| (format, coding)).ok_or_else(|| {
        let detail = "Content-Type must be application/json, application/x-ndjson or text/csv";
        Problem::new(Code::TSR107, detail)
            .hint("with curl: -H 'Content-Type: application/x-ndjson'")
            .unsupported_media_type()
    })
}

/// Refuses a request whose `Accept` header rules JSON out (RFC 9110, 12.5.1; a weight of zero rules
/// a type out).
fn check_accept(headers: &HeaderMap) -> Result<(), Problem> {
    const JSON: [&str; 5] =
        ["*/*", "application/*", "application/json", "application/problem+json", ""];
    let takes_json = |range: &str| {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or("");
        let refused = parts.any(|part| {
            let weight = part.strip_prefix("q=").and_then(|weight| weight.parse::<f32>().ok());
            weight == Some(0.0)
        });
        !refused && JSON.iter().any(|json| name.eq_ignore_ascii_case(json))
    };
    let mut ranges = headers.get_all(&ACCEPT).peekable();
    if ranges.peek().is_none()
        || ranges.any(|value| value.to_str().unwrap_or("").split(',').any(takes_json))
    {
        return Ok(());
    }
    let detail = "Accept rules out application/json, and there is nothing else";
    let wants_csv = |value: &HeaderValue| value.to_str().is_ok_and(|text| text.contains("csv"));
    Err(if headers.get_all(ACCEPT).any(wants_csv) {
        let detail = format!("answers in CSV are not supported: {detail}");
        Problem::new(Code::TSR107, detail).hint(
            "send Accept: application/json; the command shard-manager export writes a table as CSV",
        )
    } else {
        Problem::new(Code::TSR107, detail).hint("send Accept: application/json, or none")
    })
}

fn shard_key(headers: &HeaderMap) -> Result<Option<ShardKey<'_>>, Problem> {
    let Some(text) = single(headers, &X_SHARD_KEY)? else { return Ok(None) };
    ShardKey::parse(text)
        .map(Some)
        .map_err(|error| Problem::new(Code::TSR113, format!("x-shard-key: {error}")))
}

fn level(headers: &HeaderMap) -> Result<Level, Problem> {
    let Some(name) = single(headers, &X_CONSISTENCY)? else { return Ok(Level::default()) };
    Level::find(name).ok_or_else(|| bad(&X_CONSISTENCY, "one, quorum or all"))
}

/// Merges all session tokens of the request into one.
fn session(manager: &Manager, headers: &HeaderMap) -> Result<SessionToken, Problem> {
    let mut values = headers.get_all(&X_SESSION_TOKEN).peekable();
    if values.peek().is_none() {
        return Ok(SessionToken::empty());
    }
    let length: usize = headers.get_all(&X_SESSION_TOKEN).map(HeaderValue::len).sum();
    if length > SessionToken::LEN_MAX {
        return Err(bad(&X_SESSION_TOKEN, &format!("at most {} bytes", SessionToken::LEN_MAX)));
    }
    let texts: Result<Vec<&str>, _> = values.map(HeaderValue::to_str).collect();
    let texts = texts.map_err(|_| bad(&X_SESSION_TOKEN, "visible ASCII"))?;
    let tokens = texts.iter().flat_map(|text| text.split(',')).map(str::trim);
    manager.sessions().merge(tokens).map_err(|error| {
        Problem::new(Code::TSR113, format!("x-session-token: {error}"))
            .hint("send the token of an earlier answer as it came, or none to begin again")
    })
}

fn staleness(headers: &HeaderMap) -> Result<Duration, Problem> {
    let Some(text) = single(headers, &X_MAX_STALENESS_MS)? else { return Ok(STALENESS_DEFAULT) };
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let ms = text.parse().ok().filter(|_| digits);
    ms.map(Duration::from_millis)
        .ok_or_else(|| bad(&X_MAX_STALENESS_MS, "a number of milliseconds"))
}

/// Joins all lines of a header whose value is a comma-separated list (RFC 9110, 5.3).
fn list(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, Problem> {
    let lines: Result<Vec<&str>, _> = headers.get_all(name).map(HeaderValue::to_str).collect();
    let lines = lines.map_err(|_| bad(name, "visible ASCII"))?;
    Ok((!lines.is_empty()).then(|| lines.join(",")))
}

/// Parses strong entity tags that contain versions, such as `"7312", "7313"`. A weak tag can never
/// match in `If-Match`, so it is refused as a mistake.
fn versions(list: &str) -> Result<Vec<i64>, Problem> {
    let most = Precondition::VERSIONS_MAX;
    let allowed = format!("* or 1 to {most} versions in quotes, such as \"7312\"");
    let version = |tag: &str| {
        let digits = tag.trim().strip_prefix('"')?.strip_suffix('"')?;
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse().ok().filter(|_| plain)
    };
    let versions: Option<Vec<i64>> = list.split(',').map(version).collect();
    versions.filter(|found| found.len() <= most).ok_or_else(|| bad(&IF_MATCH, &allowed))
}

/// Returns the time that a request may take: `x-deadline-ms`, or the default.
///
/// # Errors
/// TSR113 if the header is not a number, or the number is out of bounds.
pub fn deadline(headers: &HeaderMap) -> Result<Duration, Problem> {
    let Some(text) = single(headers, &X_DEADLINE_MS)? else {
        return Ok(Duration::from_millis(DEADLINE_DEFAULT_MS));
    };
    let ms = text.parse().ok().filter(|ms| DEADLINE_MS.contains(ms));
    let (least, most) = (DEADLINE_MS.start(), DEADLINE_MS.end());
    ms.map(Duration::from_millis)
        .ok_or_else(|| bad(&X_DEADLINE_MS, &format!("a number of milliseconds, {least} to {most}")))
}

/// Returns the time that a check of the cluster may take: `most`, or the deadline of the client if
/// that is shorter.
///
/// # Errors
/// Errors of [`deadline`].
pub fn time_limit(headers: &HeaderMap, most: Duration) -> Result<Duration, Problem> {
    Ok(if headers.contains_key(&X_DEADLINE_MS) { deadline(headers)?.min(most) } else { most })
}

/// Returns the one value of a header that must not be repeated, whatever its bytes are.
fn once<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h HeaderValue>, Problem> {
    let mut values = headers.get_all(name);
    let first = values.next();
    if values.next().is_some() {
        return Err(bad(name, "given once"));
    }
    Ok(first)
}

/// Returns the one value of a header that must not be repeated, as visible ASCII.
fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, Problem> {
    let Some(first) = once(headers, name)? else { return Ok(None) };
    let visible = first.as_bytes().iter().all(u8::is_ascii_graphic);
    first.to_str().ok().filter(|_| visible).map(Some).ok_or_else(|| bad(name, "visible ASCII"))
}

/// Refuses a request that has this header, because its route does not honour it.
///
/// # Errors
/// TSR113 names the header and the remedy.
pub fn refuse(
    headers: &HeaderMap,
    name: &HeaderName,
    why: &str,
    hint: &str,
) -> Result<(), Problem> {
    if !headers.contains_key(name) {
        return Ok(());
    }
    Err(Problem::new(Code::TSR113, format!("{name} must be left out: {why}")).hint(hint.to_owned()))
}

fn bad(name: &HeaderName, allowed: &str) -> Problem {
    Problem::new(Code::TSR113, format!("{name} must be {allowed}"))
}

/// Returns the id that the client has chosen for its request, if it has chosen one. The request is
/// logged under this id.
///
/// # Errors
/// TSR113 if the header is repeated, or is not 1 to 128 visible ASCII characters.
pub fn request_id(headers: &HeaderMap) -> Result<Option<HeaderValue>, Problem> {
    let Some(value) = once(headers, &X_REQUEST_ID)? else { return Ok(None) };
    let visible = value.as_bytes().iter().all(u8::is_ascii_graphic);
    if visible && (1..=128).contains(&value.len()) {
        return Ok(Some(value.clone()));
    }
    Err(bad(&X_REQUEST_ID, "1 to 128 visible ASCII characters"))
}
