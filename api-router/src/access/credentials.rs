//! Credentials: the place of an API key or a token in a request.
//!
//! **Invariant:** credentials are read from one header only. They are refused in the query string,
//! because addresses are kept in logs and histories. No error repeats them.
//! **Not here:** the check of the credentials (`gate`).

use actix_web::http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use percent_encoding::percent_decode_str;

use crate::problem::{Code, Problem};

/// Parameters by which other programs send credentials.
const PARAMETERS: [&str; 2] = ["apikey", "access_token"];
const SCHEME: &str = "bearer";
const HINT: &str = "send it in the header Authorization: Bearer …";

/// Credentials of a request.
#[derive(Clone, Copy)]
pub enum Credentials<'r> {
    /// The request has none.
    Absent,
    /// API key or token.
    Bearer(&'r str),
    /// The header has something else.
    Unreadable,
}

impl std::fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Absent => "Absent",
            Self::Bearer(_) => "Bearer(***)",
            Self::Unreadable => "Unreadable",
        })
    }
}

/// Finds the credentials of a request.
///
/// # Errors
/// TSR113 if there are two headers, TSR100 if the query string has credentials.
pub fn find<'r>(headers: &'r HeaderMap, query: &str) -> Result<Credentials<'r>, Problem> {
    let mut values = headers.get_all(AUTHORIZATION);
    let value = values.next();
    if values.next().is_some() {
        let detail = "Authorization is given twice";
        return Err(Problem::new(Code::TSR113, detail).hint("send one of them"));
    }
    check_query(query)?;
    let Some(value) = value else { return Ok(Credentials::Absent) };
    Ok(bearer_of(value))
}

/// Returns the credentials of a header.
pub fn bearer_of(value: &HeaderValue) -> Credentials<'_> {
    let bearer = value.to_str().ok().and_then(bearer);
    bearer.map_or(Credentials::Unreadable, Credentials::Bearer)
}

/// Refuses credentials in the query string.
fn check_query(query: &str) -> Result<(), Problem> {
    let names = query.split('&').map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name));
    for name in names {
        let decoded = percent_decode_str(name).decode_utf8_lossy();
        if let Some(known) = PARAMETERS.into_iter().find(|known| *known == decoded) {
            let detail = format!("{known} stands in the query string, which is kept in logs");
            return Err(Problem::new(Code::TSR100, detail).hint(HINT));
        }
    }
    Ok(())
}

/// Returns the text after the scheme, which may be in any case.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, text) = value.trim().split_once(' ')?;
    let text = text.trim_start();
    (scheme.eq_ignore_ascii_case(SCHEME) && !text.is_empty()).then_some(text)
}
