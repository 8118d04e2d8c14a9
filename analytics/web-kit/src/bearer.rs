//! Bearer: API keys and tokens in requests, and the challenges in the answers to requests without
//! good ones (RFC 6750).
//!
//! **Invariant:** credentials are read from one header only. In the query string they are
//! recognised, so that they can be refused: addresses are kept in logs and histories.
//! **Not here:** the check of credentials, the bodies of answers.

use actix_web::http::header::HeaderValue;
use percent_encoding::percent_decode_str;

/// Value of `WWW-Authenticate` for a request without credentials.
pub const CHALLENGE: &str = "Bearer realm=\"tessera\"";
/// Value of `WWW-Authenticate` for credentials that are not valid.
pub const INVALID: &str = "Bearer realm=\"tessera\", error=\"invalid_token\"";
/// Value of `WWW-Authenticate` for credentials that have expired.
pub const EXPIRED: &str = "Bearer realm=\"tessera\", error=\"invalid_token\", \
                           error_description=\"the credentials have expired\"";
/// Parameters by which other programs send credentials.
const PARAMETERS: [&str; 2] = ["apikey", "access_token"];
const SCHEME: &str = "bearer";

/// Returns the credentials of a header `Authorization`; `None` if it has something else. The scheme
/// may be in any case.
pub fn parse(value: &HeaderValue) -> Option<&str> {
    let (scheme, text) = value.to_str().ok()?.trim().split_once(' ')?;
    let text = text.trim_start();
    (scheme.eq_ignore_ascii_case(SCHEME) && !text.is_empty()).then_some(text)
}

/// Returns the parameter of a query string that has credentials, if there is one.
pub fn parameter(query: &str) -> Option<&'static str> {
    let names = query.split('&').map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name));
    names.into_iter().find_map(|name| {
        let decoded = percent_decode_str(name).decode_utf8_lossy();
        PARAMETERS.into_iter().find(|known| *known == decoded)
    })
}
