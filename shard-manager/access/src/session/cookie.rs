//! Session cookie: writes the header values that set or remove the cookie in a browser, and finds
//! the cookie in requests.
//!
//! **Invariant:** scripts cannot read the cookie, a browser does not send it with requests that
//! other sites cause, and sends it only over TLS and only to this host. On the loopback interface
//! without TLS, the cookie has another name, because browsers accept a name with the prefix
//! `__Host-` only over TLS.
//! **Not here:** HTTP; the contents of a session (`session`).

use super::BrowserSession;
use crate::auth_error::AuthReason;
use crate::unix_time::UnixTime;

/// Name of the cookie over TLS.
pub const NAME: &str = "__Host-tessera_session";
/// Name of the cookie on the loopback interface without TLS.
pub const PLAIN_NAME: &str = "tessera_session";

/// Returns the value of `Set-Cookie` that stores a session in a browser. `text` is the result of
/// [`SessionSecret::seal`](super::SessionSecret::seal).
pub fn set(session: &BrowserSession, text: &str, now: UnixTime, is_tls: bool) -> String {
    attributes(text, session.expires_at.since(now), is_tls)
}

/// Returns the value of `Set-Cookie` that removes the session from a browser.
pub fn remove(is_tls: bool) -> String {
    attributes("", 0, is_tls)
}

fn attributes(text: &str, max_age: u64, is_tls: bool) -> String {
    let secure = if is_tls { "; Secure" } else { "" };
    let name = name(is_tls);
    format!("{name}={text}; Path=/; Max-Age={max_age}; HttpOnly; SameSite=Strict{secure}")
}

/// Finds the text of a session in the values of all `Cookie` headers of a request; `None` if there
/// is no session cookie. Other cookies may contain any bytes.
///
/// # Errors
/// [`AuthReason::SessionMalformed`] if there are several session cookies, because another site of
/// the same domain may have added one, or if the text is not UTF-8.
pub fn find<'h, H: AsRef<[u8]> + ?Sized + 'h>(
    headers: impl IntoIterator<Item = &'h H>,
    is_tls: bool,
) -> Result<Option<&'h str>, AuthReason> {
    let name = name(is_tls).as_bytes();
    let pairs = headers.into_iter().flat_map(|header| header.as_ref().split(|byte| *byte == b';'));
    let mut values =
        pairs.filter_map(|pair| pair.trim_ascii().strip_prefix(name)?.strip_prefix(b"="));
    match (values.next(), values.next()) {
        (None, None) => Ok(None),
        (Some(text), None) => {
            std::str::from_utf8(text).map(Some).map_err(|_| AuthReason::SessionMalformed)
        }
        (_, Some(_)) => Err(AuthReason::SessionMalformed),
    }
}

fn name(is_tls: bool) -> &'static str {
    if is_tls { NAME } else { PLAIN_NAME }
}
