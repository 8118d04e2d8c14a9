//! Cookies of sessions: the header values that set the cookie in a browser, and the search for it
//! in requests.
//!
//! **Invariant:** scripts cannot read the cookie, other sites do not cause it to be sent, and a
//! browser sends it to this origin only, over TLS. On plain loopback, which has no TLS, it has
//! another name, because a browser stores the prefix `__Host-` only over TLS.
//! **Not here:** HTTP; the contents of a session (`session`).

use super::BrowserSession;
use crate::auth_error::AuthReason;
use crate::unix_time::UnixTime;

/// Name of the cookie over TLS.
pub const NAME: &str = "__Host-tessera_session";
/// Name of the cookie on plain loopback.
pub const PLAIN_NAME: &str = "tessera_session";

/// Returns the value of `Set-Cookie` that gives a session to a browser, with the text that
/// [`SessionSecret::seal`](super::SessionSecret::seal) has made.
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

/// Finds the text of a session in the values of all `Cookie` headers of a request. Cookies of other
/// names may contain any bytes.
///
/// # Errors
/// [`AuthReason::SessionMalformed`] if there are several, because another site of the same domain
/// may have added one, or if the text is not UTF-8.
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
