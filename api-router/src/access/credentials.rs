//! Credentials: finds the API key, token or session in a request.
//!
//! **Invariant:** an API key or a token is read from the header `Authorization` only, and a session
//! from a cookie only if that header is absent. Credentials in the query string are refused,
//! because URLs are kept in logs and browser histories. No error message repeats credentials.
//! **Not here:** the check of the credentials (`gate`).

use actix_web::http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use analytics::bearer;

use crate::problem::{Code, Problem};

const HINT: &str = "send it in the header Authorization: Bearer …";

/// Credentials of a request.
#[derive(Clone, Copy)]
pub enum Credentials<'r> {
    /// The request has no credentials.
    Absent,
    /// API key or token.
    Bearer(&'r str),
    /// Session of a browser.
    Session(&'r str),
    /// The header `Authorization` does not contain bearer credentials.
    Unreadable,
}

impl std::fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Absent => "Absent",
            Self::Bearer(_) => "Bearer(***)",
            Self::Session(_) => "Session(***)",
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

/// Copy of the credentials of a request, kept while it is served.
pub enum KeptCredentials {
    /// The request has no credentials.
    Absent,
    /// Value of the header `Authorization`.
    Header(HeaderValue),
    /// Session of a browser.
    Session(Box<str>),
}

impl KeptCredentials {
    /// Returns the credentials in the form in which they are checked.
    pub fn borrow(&self) -> Credentials<'_> {
        match self {
            Self::Absent => Credentials::Absent,
            Self::Header(value) => bearer_of(value),
            Self::Session(text) => Credentials::Session(text),
        }
    }
}

/// Returns the credentials in a value of the header `Authorization`.
pub fn bearer_of(value: &HeaderValue) -> Credentials<'_> {
    bearer::parse(value).map_or(Credentials::Unreadable, Credentials::Bearer)
}

/// Refuses credentials in the query string.
fn check_query(query: &str) -> Result<(), Problem> {
    let Some(known) = bearer::parameter(query) else { return Ok(()) };
    let detail = format!("{known} stands in the query string, which is kept in logs");
    Err(Problem::new(Code::TSR100, detail).hint(HINT))
}
