//! Request headers: parsed once at the edge into values that cannot be wrong.
//!
//! **Invariant:** a header that this router does not honour is refused if ignoring it could lose data or
//! break a promise (`If-Match`, `Idempotency-Key`), never dropped in silence.
//! **Not here:** the body (`body`), the query string (`query`).

use std::time::{Duration, Instant};

use actix_web::HttpRequest;
use actix_web::http::header::{
    ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, IF_MATCH,
    IF_NONE_MATCH,
};
use shard_manager::keyspace::ShardKey;

use crate::problem::{Code, Problem};

/// How long a request may take when it does not say.
const DEADLINE_DEFAULT_MS: u64 = 5_000;
/// What it may ask for.
const DEADLINE_MS: std::ops::RangeInclusive<u64> = 100..=60_000;
/// Longest session token, in bytes.
const TOKEN_LEN_MAX: usize = 4_096;

// Names made once: looking a header up by text parses the text each time.
const X_SHARD_KEY: HeaderName = HeaderName::from_static("x-shard-key");
const X_CONSISTENCY: HeaderName = HeaderName::from_static("x-consistency");
const X_SESSION_TOKEN: HeaderName = HeaderName::from_static("x-session-token");
const X_MAX_STALENESS_MS: HeaderName = HeaderName::from_static("x-max-staleness-ms");
const X_DEADLINE_MS: HeaderName = HeaderName::from_static("x-deadline-ms");
/// Under which every request is logged.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const PREFER: HeaderName = HeaderName::from_static("prefer");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What the headers of a data request say.
#[derive(Debug)]
pub struct DataHeaders<'r> {
    /// `x-shard-key`.
    pub shard_key: Option<ShardKey<'r>>,
    /// When the answer is no longer worth anything.
    pub deadline: Instant,
    /// `Prefer`.
    pub prefer: Prefer,
}

/// What the client would like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefer {
    /// `return=minimal`: leave the row out of the answer.
    pub minimal: bool,
    /// `fanout=deny`: refuse to read all shards.
    pub deny_fanout: bool,
}

impl Prefer {
    /// The value of `Preference-Applied` for an answer to a write.
    pub fn applied(self) -> Option<HeaderValue> {
        self.minimal.then(|| HeaderValue::from_static("return=minimal"))
    }
}

impl<'r> DataHeaders<'r> {
    /// Reads the headers of a request that began at `began`.
    ///
    /// # Errors
    /// A problem that names the header and what is allowed.
    pub fn parse(request: &'r HttpRequest, began: Instant) -> Result<Self, Problem> {
        let headers = request.headers();
        check_accept(headers)?;
        check_consistency(headers)?;
        check_token(headers)?;
        if let Some(age) = single(headers, &X_MAX_STALENESS_MS)? {
            // Every read comes from the primary, which is never stale: any bound holds.
            let number = age.parse::<u64>();
            number.map_err(|_| bad(&X_MAX_STALENESS_MS, "a number of milliseconds"))?;
        }
        Ok(Self {
            shard_key: shard_key(headers)?,
            deadline: began + deadline(headers)?,
            prefer: prefer(headers)?,
        })
    }
}

/// Refuses the conditions of a write that this router cannot keep yet.
///
/// # Errors
/// A problem that names the header.
pub fn refuse_conditions(headers: &HeaderMap) -> Result<(), Problem> {
    for name in [IF_MATCH, IF_NONE_MATCH, IDEMPOTENCY_KEY] {
        if headers.contains_key(&name) {
            let detail = format!("{name} is not supported: the write would ignore it");
            return Err(Problem::new(Code::TSR113, detail).hint("send the request without it"));
        }
    }
    Ok(())
}

/// Refuses a body that does not claim to be JSON. None at all is taken for JSON, as in PostgREST.
///
/// # Errors
/// A 415 that says what is accepted.
pub fn check_content_type(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.get(&CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        let detail = "a body with this Content-Encoding cannot be read";
        return Err(Problem::new(Code::TSR107, detail).unsupported_media_type());
    }
    let Some(value) = headers.get(&CONTENT_TYPE) else { return Ok(()) };
    let essence = value.to_str().unwrap_or("").split(';').next().unwrap_or("").trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::new(Code::TSR107, "Content-Type must be application/json")
        .hint("with curl: -H 'Content-Type: application/json'")
        .unsupported_media_type())
}

/// Refuses a client that does not take JSON (RFC 9110, 12.5.1; a weight of zero rules a type out).
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
    Err(Problem::new(Code::TSR107, "Accept rules out application/json, and there is nothing else"))
}

fn shard_key(headers: &HeaderMap) -> Result<Option<ShardKey<'_>>, Problem> {
    let Some(text) = single(headers, &X_SHARD_KEY)? else { return Ok(None) };
    ShardKey::parse(text)
        .map(Some)
        .map_err(|error| Problem::new(Code::TSR113, format!("x-shard-key: {error}")))
}

/// With a primary and no replica, a majority of the nodes and all of them are the primary: every level
/// means the same, and each is kept.
fn check_consistency(headers: &HeaderMap) -> Result<(), Problem> {
    match single(headers, &X_CONSISTENCY)? {
        None | Some("one" | "quorum" | "all") => Ok(()),
        Some(_) => Err(bad(&X_CONSISTENCY, "one, quorum or all")),
    }
}

/// Every read comes from the primary, which has all that any token of this cluster can have seen.
fn check_token(headers: &HeaderMap) -> Result<(), Problem> {
    let length: usize = headers.get_all(&X_SESSION_TOKEN).map(HeaderValue::len).sum();
    if length <= TOKEN_LEN_MAX {
        return Ok(());
    }
    Err(bad(&X_SESSION_TOKEN, &format!("at most {TOKEN_LEN_MAX} bytes")))
}

fn deadline(headers: &HeaderMap) -> Result<Duration, Problem> {
    let Some(text) = single(headers, &X_DEADLINE_MS)? else {
        return Ok(Duration::from_millis(DEADLINE_DEFAULT_MS));
    };
    let ms = text.parse().ok().filter(|ms| DEADLINE_MS.contains(ms));
    let (least, most) = (DEADLINE_MS.start(), DEADLINE_MS.end());
    ms.map(Duration::from_millis)
        .ok_or_else(|| bad(&X_DEADLINE_MS, &format!("a number of milliseconds, {least} to {most}")))
}

/// Reads `Prefer` (RFC 7240): of a preference given twice the first counts, parameters are ignored.
fn prefer(headers: &HeaderMap) -> Result<Prefer, Problem> {
    let mut prefer = Prefer::default();
    let (mut unknown, mut strict) = (None, false);
    let mut seen: Vec<String> = Vec::new();
    for value in headers.get_all(&PREFER) {
        let text = value.to_str().map_err(|_| bad(&PREFER, "visible ASCII"))?;
        for wish in text.split(',').filter_map(|wish| wish.split(';').next()) {
            let (name, value) = wish.split_once('=').unwrap_or((wish, ""));
            let name = name.trim().to_ascii_lowercase();
            let value = value.trim().trim_matches('"').to_ascii_lowercase();
            if name.is_empty() || seen.contains(&name) {
                continue;
            }
            match (&*name, &*value) {
                ("return", "minimal") => prefer.minimal = true,
                ("return", "representation") | ("handling", "lenient") => {}
                ("fanout", "deny") => prefer.deny_fanout = true,
                ("handling", "strict") => strict = true,
                // All or nothing was asked for: to ignore that would store a part.
                ("tx", _) => return Err(bad(&PREFER, "without tx: rows are stored one by one")),
                _ => unknown = Some(wish.trim().chars().take(80).collect::<String>()),
            }
            seen.push(name);
        }
    }
    match unknown.filter(|_| strict) {
        Some(wish) => Err(Problem::new(Code::TSR105, format!("`{wish}` is no known preference"))
            .hint("known: return=minimal, return=representation, fanout=deny, handling=lenient")),
        None => Ok(prefer),
    }
}

/// The one value of a header that must not be repeated.
fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, Problem> {
    let mut values = headers.get_all(name);
    let Some(first) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(bad(name, "given once"));
    }
    let visible = first.as_bytes().iter().all(u8::is_ascii_graphic);
    first.to_str().ok().filter(|_| visible).map(Some).ok_or_else(|| bad(name, "visible ASCII"))
}

fn bad(name: &HeaderName, allowed: &str) -> Problem {
    Problem::new(Code::TSR113, format!("{name} must be {allowed}"))
}

/// The id under which a request is logged: the client's own, if it is 1 to 128 visible characters.
///
/// # Errors
/// A problem that names the header.
pub fn request_id(headers: &HeaderMap) -> Result<Option<HeaderValue>, Problem> {
    let Some(value) = headers.get(&X_REQUEST_ID) else { return Ok(None) };
    let visible = value.as_bytes().iter().all(u8::is_ascii_graphic);
    if visible && (1..=128).contains(&value.len()) {
        return Ok(Some(value.clone()));
    }
    Err(bad(&X_REQUEST_ID, "1 to 128 visible ASCII characters"))
}
