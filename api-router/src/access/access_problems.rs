//! Access problems: the problems of requests that access control refuses.
//!
//! **Invariant:** unknown, wrong and revoked credentials get the same response. A response names
//! the missing right, but never an API key, a secret or a row.
//! **Not here:** the decision to refuse (`gate`).

use std::time::Duration;

use actix_web::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use analytics::bearer::{CHALLENGE, EXPIRED, INVALID};
use shard_manager::access::auth_error::{AuthError, AuthOutcome};
use shard_manager::access::limit::headers;
use shard_manager::access::rights::{Denied, Rights};

use crate::problem::{Code, Problem};

const HOW: &str = "send the header Authorization: Bearer with an API key or a token";

/// Returns the problem for a request that needs credentials and has none.
pub fn missing() -> Problem {
    challenge("this request needs credentials", CHALLENGE).hint(HOW)
}

/// Returns the problem for credentials that have the form of neither an API key nor a token.
pub fn unreadable() -> Problem {
    challenge("Authorization is not Bearer with a key or a token", INVALID).hint(HOW)
}

/// Returns the problem for a client certificate that identifies no caller.
pub fn certificate(detail: &str) -> Problem {
    challenge(detail, INVALID)
        .hint("connect with a certificate of a client, or without one and with a key")
}

/// Returns the problem for credentials that were refused.
pub fn refused(error: AuthError) -> Problem {
    let detail = error.to_string();
    match error.outcome() {
        AuthOutcome::Invalid => challenge(&detail, INVALID).hint("send a key that is in force"),
        AuthOutcome::Expired => challenge(&detail, EXPIRED).hint("get a new key or token"),
        AuthOutcome::Limited => limited(&detail, Duration::ZERO),
        AuthOutcome::Unavailable => {
            let wait = error.retry_after().unwrap_or(1);
            Problem::new(Code::TSR006, detail)
                .hint("send again after Retry-After")
                .header(RETRY_AFTER, wait.to_string())
        }
    }
}

/// Returns the problem for a browser session that was refused.
pub fn refused_session(error: AuthError) -> Problem {
    const AGAIN: &str = "log in again: POST /api/session";
    match error.outcome() {
        AuthOutcome::Invalid => challenge("the session is not valid", INVALID).hint(AGAIN),
        AuthOutcome::Expired => challenge("the session has expired", EXPIRED).hint(AGAIN),
        AuthOutcome::Limited | AuthOutcome::Unavailable => refused(error),
    }
}

/// Returns the problem for a login that sends a token instead of an API key.
pub fn token_login() -> Problem {
    challenge("a session begins with an API key, and this is none", INVALID)
        .hint("send a key (tsr_…); a token is sent with each request, in Authorization: Bearer")
}

/// Returns the problem for a change whose only credentials are a browser session.
pub fn session_change() -> Problem {
    Problem::new(Code::TSR403, "the session of a browser permits GET and HEAD only").hint(HOW)
}

/// Returns the problem for a request that exceeds a limit and may be sent again after `wait`.
pub fn limited(detail: &str, wait: Duration) -> Problem {
    Problem::new(Code::TSR429, detail)
        .hint("send again after Retry-After")
        .header(RETRY_AFTER, headers::retry_after(wait).to_string())
}

/// Returns the problem for a caller that lacks a right.
pub fn forbidden(denied: &Denied) -> Problem {
    Problem::new(Code::TSR403, denied.to_string())
        .hint("GET /api/access/me lists what this caller may do")
}

/// Refuses a caller that may reach only certain shard keys, on a route that shows those of all
/// callers.
///
/// # Errors
/// TSR403.
pub fn refuse_bound(rights: &Rights) -> Result<(), Problem> {
    if !rights.is_bound() {
        return Ok(());
    }
    let detail = "a caller that is bound to keys may not see the keys of others";
    Err(Problem::new(Code::TSR403, detail).hint("GET /api/access/me lists what this caller may do"))
}

/// Returns the problem for a caller whose role has no grant at all.
pub fn without_grants() -> Problem {
    Problem::new(Code::TSR403, "this caller's role has no grant on any table")
        .hint("GET /api/access/me lists what this caller may do")
}

fn challenge(detail: &str, challenge: &str) -> Problem {
    Problem::new(Code::TSR401, detail).header(WWW_AUTHENTICATE, challenge.to_owned())
}
