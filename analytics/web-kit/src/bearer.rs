//! Bearer: reads API keys and tokens from requests, and defines the header `WWW-Authenticate` of
//! the response to a request without valid ones (RFC 6750).
//!
//! **Invariant:** credentials are accepted in one header only. Credentials in the query string are
//! recognised only to refuse the request, because URLs are kept in logs and browser histories.
//! **Not here:** the check of credentials, the bodies of responses.

use actix_web::http::header::HeaderValue;
use percent_encoding::percent_decode;

/// Value of `WWW-Authenticate` for a request without credentials.
pub const CHALLENGE: &str = "Bearer realm=\"tessera\"";
/// Value of `WWW-Authenticate` for credentials that are not valid.
pub const INVALID: &str = "Bearer realm=\"tessera\", error=\"invalid_token\"";
/// Value of `WWW-Authenticate` for credentials that have expired.
pub const EXPIRED: &str = "Bearer realm=\"tessera\", error=\"invalid_token\", \
                           error_description=\"the credentials have expired\"";
/// Query parameters in which clients of other APIs commonly send credentials.
const PARAMETERS: [&str; 2] = ["apikey", "access_token"];
const SCHEME: &str = "bearer";

/// Returns the credentials in a header `Authorization`; `None` if its scheme is not Bearer. The
/// case of the scheme does not matter.
pub fn parse(value: &HeaderValue) -> Option<&str> {
    // Header values contain no control characters except tabs, so it is enough to test for ASCII,
    // which is fast because many bytes are examined at a time.
    let value = value.as_bytes();
    let text = std::str::from_utf8(value).ok().filter(|_| value.is_ascii())?.trim_ascii();
    let (scheme, text) = text.split_at_checked(SCHEME.len())?;
    let text = text.strip_prefix(' ')?.trim_ascii_start();
    (scheme.eq_ignore_ascii_case(SCHEME) && !text.is_empty()).then_some(text)
}

/// Returns the name of the query parameter that contains credentials, if there is one.
pub fn parameter(query: &str) -> Option<&'static str> {
    let pairs = query.as_bytes().split(|byte| *byte == b'&');
    let names = pairs.map(|pair| pair.split(|byte| *byte == b'=').next().unwrap_or(pair));
    names.into_iter().find_map(|name| {
        // This shortcut is worthwhile because the function runs for every request, and hardly any
        // name is escaped.
        if !name.contains(&b'%') {
            return PARAMETERS.into_iter().find(|known| known.as_bytes() == name);
        }
        let decoded: Vec<u8> = percent_decode(name).collect();
        PARAMETERS.into_iter().find(|known| known.as_bytes() == decoded)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_follow_the_scheme_in_any_case_and_a_space() {
        let parsed = |text: &'static [u8]| {
            let value = HeaderValue::from_bytes(text).expect("a header");
            parse(&value).map(str::to_owned)
        };
        for good in ["Bearer abc", "bearer abc", " \tBEARER   abc \t"] {
            assert_eq!(parsed(good.as_bytes()).as_deref(), Some("abc"), "{good}");
        }
        assert_eq!(parsed(b"Bearer a b").as_deref(), Some("a b"));
        for bad in ["", "Bearer", "Bearer ", "Bearer\tabc", "Bearerabc", "Basic abc", "Bearer é"] {
            assert_eq!(parsed(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(parsed(b"Bearer \xff"), None);
        assert_eq!(parsed(b"Beare\xc3\xa9 a"), None);
    }

    #[test]
    fn credentials_in_a_query_are_found_in_any_spelling() {
        for found in ["apikey=x", "a=1&apikey", "%61pikey=x", "table=users&api%6Bey=x&b"] {
            assert_eq!(parameter(found), Some("apikey"), "{found}");
        }
        assert_eq!(parameter("access_token=x"), Some("access_token"));
        for other in ["", "table=apikey", "apikeys=x", "api=key", "apikey%00=x", "%=x", "x=%61"] {
            assert_eq!(parameter(other), None, "{other}");
        }
    }
}
