//! Response check: compares a response with the documented behaviour of the router. The result
//! depends only on the status and the body of the response, and on arguments such as the requested
//! key.
//!
//! **Invariant:** no response causes a panic, and the strings of a [`Failure`] are short and safe
//! to print.
//! **Not here:** making the request, state that is kept between requests (`load`, `verify`).

use serde::Deserialize;

/// Maximum number of characters of a server's message that are kept. A report prints one message on
/// one line for each group of failures.
const TEXT_CHARS_MAX: usize = 120;

/// Reason why a request counts as failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The HTTP status, if there was a response.
    pub(crate) status: Option<u16>,
    /// Code by which failures are grouped: the router's error code, or a string of the tester.
    pub(crate) code: String,
    /// Message of one example of the failure.
    pub(crate) detail: String,
}

impl Failure {
    /// Creates a failure, and makes its strings safe to print.
    pub(crate) fn new(status: Option<u16>, code: &str, detail: &str) -> Self {
        Self { status, code: printable(code), detail: printable(detail) }
    }
}

/// Members of a problem document (RFC 9457, with the additional member `code`) that reports show.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    code: String,
    title: String,
    detail: String,
}

/// Members of the response to a read that are checked.
#[derive(Deserialize)]
struct Rows {
    data: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    user_id: String,
    version: Option<u64>,
}

/// Members of the response to a bulk write that reports show.
#[derive(Default, Deserialize)]
#[serde(default)]
struct PartlyStored {
    failed: Vec<FailedRow>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct FailedRow {
    error: Problem,
}

/// Checks a write: 200 (changed) or 201 (created).
pub(crate) fn of_write(status: u16, body: &[u8]) -> Result<(), Failure> {
    match status {
        200 | 201 => Ok(()),
        _ => Err(refused(status, body)),
    }
}

/// Checks a conditional write. A refusal because the row has changed (412) counts as success.
pub(crate) fn of_conditional_write(status: u16, body: &[u8]) -> Result<(), Failure> {
    if status == 412 { Ok(()) } else { of_write(status, body) }
}

/// Checks a bulk write: 200 or 201 if all rows are stored. If some rows are not stored (207), the
/// failure of the first such row is returned.
pub(crate) fn of_bulk(status: u16, body: &[u8]) -> Result<(), Failure> {
    if status != 207 {
        return of_write(status, body);
    }
    let parsed: PartlyStored = serde_json::from_slice(body).unwrap_or_default();
    let first = parsed.failed.into_iter().next().map(|row| row.error).unwrap_or_default();
    Err(first.failure(status))
}

/// Checks a response whose content is checked later. A refusal because of the state of a row counts
/// as success.
pub(crate) fn of_any(status: u16, body: &[u8]) -> Result<(), Failure> {
    match status {
        200..=299 | 404 | 409 | 412 => Ok(()),
        _ => Err(refused(status, body)),
    }
}

/// Checks a read of many rows: 200 with rows.
pub(crate) fn of_page(status: u16, body: &[u8]) -> Result<(), Failure> {
    if status != 200 {
        return Err(refused(status, body));
    }
    rows(status, body).map(drop)
}

/// Checks a read of a value: 200, or 404 unless a write of the value was acknowledged.
pub(crate) fn of_value(status: u16, body: &[u8], acknowledged: bool) -> Result<(), Failure> {
    match status {
        200 => Ok(()),
        404 if acknowledged => {
            Err(Failure::new(Some(status), "lost row", "a value was acknowledged, then not found"))
        }
        404 => Ok(()),
        _ => Err(refused(status, body)),
    }
}

/// Returns the version of the first row of a response.
pub(crate) fn version_of(body: &[u8]) -> Option<u64> {
    let rows: Rows = serde_json::from_slice(body).ok()?;
    rows.data.first()?.version
}

/// Checks a read by key: 200 with rows of that key only. If `acknowledged` is true, a write of the
/// key was acknowledged before, so there must be a row.
pub(crate) fn of_read(
    status: u16,
    body: &[u8],
    key: &str,
    acknowledged: bool,
) -> Result<(), Failure> {
    if status != 200 {
        return Err(refused(status, body));
    }
    let rows = rows(status, body)?;
    if let Some(row) = rows.data.iter().find(|row| row.user_id != key) {
        let detail = format!("asked for {key}, got {}", row.user_id);
        return Err(Failure::new(Some(status), "wrong row", &detail));
    }
    if acknowledged && rows.data.is_empty() {
        let detail = format!("{key} was acknowledged, then not found");
        return Err(Failure::new(Some(status), "lost row", &detail));
    }
    Ok(())
}

fn rows(status: u16, body: &[u8]) -> Result<Rows, Failure> {
    serde_json::from_slice(body).map_err(|error| {
        Failure::new(Some(status), "unreadable answer", &format!("no rows with a user_id: {error}"))
    })
}

/// Returns the failure for a refused request. If the body is a problem document, the failure
/// contains its code and message.
fn refused(status: u16, body: &[u8]) -> Failure {
    let problem: Problem = serde_json::from_slice(body).unwrap_or_default();
    problem.failure(status)
}

impl Problem {
    fn failure(&self, status: u16) -> Failure {
        let code = if self.code.is_empty() { "without a code" } else { &self.code };
        let detail = if self.detail.is_empty() { &self.title } else { &self.detail };
        Failure::new(Some(status), code, detail)
    }
}

/// Shortens a string from another program to one line without control characters, so that it is
/// safe to print on a terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(TEXT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: &[u8] = br#"{"success":true,"data":[{"user_id":"user_7","name":"x"}],"count":1}"#;
    const NO_ROW: &[u8] = br#"{"success":true,"data":[],"count":0}"#;

    fn code(verdict: Result<(), Failure>) -> String {
        verdict.err().map(|failure| failure.code).unwrap_or_default()
    }

    #[test]
    fn correct_responses_pass() {
        assert_eq!(of_write(200, b""), Ok(()));
        assert_eq!(of_write(201, b""), Ok(()));
        assert_eq!(of_read(200, ROW, "user_7", true), Ok(()));
        assert_eq!(of_read(200, NO_ROW, "user_7", false), Ok(()));
    }

    #[test]
    fn another_users_row_and_a_lost_row_fail() {
        let wrong = of_read(200, ROW, "user_8", false).unwrap_err();
        assert_eq!(wrong.code, "wrong row");
        assert_eq!(wrong.detail, "asked for user_8, got user_7");
        assert_eq!(code(of_read(200, NO_ROW, "user_7", true)), "lost row");
    }

    #[test]
    fn a_bulk_write_that_stored_less_fails_with_the_first_row_that_failed() {
        let body = br#"{"failed":[{"index":3,"error":{"code":"TSR304","detail":"no name"}}]}"#;
        let failure = of_bulk(207, body).unwrap_err();
        assert_eq!((failure.code.as_str(), failure.detail.as_str()), ("TSR304", "no name"));
        assert_eq!(code(of_bulk(207, b"{}")), "without a code");
        assert_eq!(of_bulk(201, b""), Ok(()));
    }

    #[test]
    fn a_value_may_be_missing_only_if_none_was_stored() {
        assert_eq!(of_value(404, b"", false), Ok(()));
        assert_eq!(code(of_value(404, b"", true)), "lost row");
        assert_eq!(of_conditional_write(412, b""), Ok(()));
        assert_eq!(version_of(br#"{"data":[{"user_id":"a","version":7}]}"#), Some(7));
        assert_eq!(version_of(br#"{"data":[]}"#), None);
    }

    #[test]
    fn a_problem_is_named_by_its_code() {
        let body = br#"{"code":"TSR201","title":"Shard unavailable","detail":"primary of shard3"}"#;
        let failure = of_write(503, body).unwrap_err();
        assert_eq!((failure.status, failure.code.as_str()), (Some(503), "TSR201"));
        assert_eq!(failure.detail, "primary of shard3");
        assert_eq!(of_read(503, body, "user_7", false).unwrap_err(), failure);
    }

    #[test]
    fn no_body_is_too_strange_for_a_verdict() {
        for body in [&b""[..], b"<html>", b"[]", b"null", b"\xff\xfe", br#"{"data":null}"#] {
            assert_eq!(code(of_read(200, body, "user_7", false)), "unreadable answer");
            assert_eq!(code(of_write(502, body)), "without a code");
        }
        for status in [202, 204, 206, 301] {
            assert_eq!(of_write(status, b"").unwrap_err().status, Some(status));
        }
        let row_without_key = br#"{"data":[{"name":"x"}]}"#;
        assert_eq!(code(of_read(200, row_without_key, "user_7", false)), "unreadable answer");
    }

    #[test]
    fn a_foreign_text_cannot_draw_on_the_terminal() {
        assert_eq!(printable("a\x1b[31mb\nc"), "a[31mbc");
        assert_eq!(printable(&"x".repeat(1_000)).len(), TEXT_CHARS_MAX);
    }
}
