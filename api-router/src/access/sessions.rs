//! Sessions: the cookies that identify browsers after a login with an API key.
//!
//! All routers share the secret with which sessions are signed, which the catalog stores. So a
//! browser stays logged in when another router serves it.
//!
//! **Invariant:** a session authorises GET and HEAD only. A browser adds cookies to requests by
//! itself, so a page of another origin could otherwise change rows with them.
//! **Not here:** the text of a session (`shard_manager::access::session`), the decision about
//! requests (`gate`), the login (`routes::access::session`).

use std::sync::Arc;

use actix_web::HttpRequest;
use actix_web::http::Method;
use actix_web::http::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderValue, SET_COOKIE};
use arc_swap::ArcSwapOption;
use shard_manager::access::auth_error::{AuthError, AuthReason};
use shard_manager::access::authenticator::Authenticator;
use shard_manager::access::caller::Caller;
use shard_manager::access::session::{BrowserSession, SessionSecret, SessionSeed, cookie};
use shard_manager::access::unix_time::UnixTime;

use super::access_problems;
use super::credentials::{Credentials, KeptCredentials};
use crate::problem::Problem;

/// Browser sessions of a router.
#[derive(Debug, Default)]
pub struct Sessions {
    /// True if browsers reach the router over TLS, so that the cookie never travels in the clear.
    is_tls: bool,
    /// The secret; `None` until it was read from the catalog.
    secret: ArcSwapOption<KnownSecret>,
}

#[derive(Debug)]
struct KnownSecret {
    seed: SessionSeed,
    secret: SessionSecret,
}

impl Sessions {
    /// Creates the sessions of a router that browsers reach over TLS, or unencrypted on this
    /// machine.
    pub fn new(is_tls: bool) -> Self {
        Self { is_tls, secret: ArcSwapOption::empty() }
    }

    /// Replaces the secret by the one that the catalog has now.
    pub fn set_secret(&self, seed: Option<SessionSeed>) {
        let known = self.secret.load();
        if known.as_ref().map(|known| known.seed) != seed {
            let secret = |seed| KnownSecret { seed, secret: SessionSecret::of_seed(&seed) };
            self.secret.store(seed.map(secret).map(Arc::new));
        }
    }

    /// Finds the session cookie of a request that has no other credentials.
    pub fn find<'r>(&self, headers: &'r HeaderMap) -> Credentials<'r> {
        let values = headers.get_all(COOKIE).map(HeaderValue::as_bytes);
        match cookie::find(values, self.is_tls) {
            Ok(None) => Credentials::Absent,
            Ok(Some(text)) => Credentials::Session(text),
            // An empty session is never valid, so a request with several session cookies is refused
            // like one with a forged cookie.
            Err(_) => Credentials::Session(""),
        }
    }

    /// Copies the credentials of a request, so that they can be checked again while it is served:
    /// the header `Authorization`, otherwise the session if the method permits one.
    pub fn keep_credentials(&self, request: &HttpRequest) -> KeptCredentials {
        if let Some(value) = request.headers().get(AUTHORIZATION) {
            return KeptCredentials::Header(value.clone());
        }
        match self.find(request.headers()) {
            Credentials::Session(text) if permits(request.method()) => {
                KeptCredentials::Session(text.into())
            }
            Credentials::Session(_)
            | Credentials::Absent
            | Credentials::Bearer(_)
            | Credentials::Unreadable => KeptCredentials::Absent,
        }
    }

    /// Returns the caller of a session.
    ///
    /// # Errors
    /// [`AuthError`] if the session or its API key cannot be used.
    pub fn authenticate(
        &self,
        current: &Authenticator,
        text: &str,
        now: UnixTime,
    ) -> Result<Arc<Caller>, AuthError> {
        let known = self.secret.load();
        let known = known.as_ref().ok_or(AuthReason::SnapshotStale)?;
        current.authenticate_session(text, &known.secret, now).map(|(caller, _)| caller)
    }

    /// Returns the value of `Set-Cookie` that gives a browser a session.
    ///
    /// # Errors
    /// [`AuthReason::SnapshotStale`] if the secret is not known yet.
    pub fn cookie(&self, session: &BrowserSession, now: UnixTime) -> Result<String, AuthError> {
        let known = self.secret.load();
        let known = known.as_ref().ok_or(AuthReason::SnapshotStale)?;
        Ok(cookie::set(session, &known.secret.seal(session), now, self.is_tls))
    }

    /// Returns the value of `Set-Cookie` that removes the session from a browser.
    pub fn removal(&self) -> String {
        cookie::remove(self.is_tls)
    }

    /// Returns the problem for a session that was refused. Its response removes the cookie, which
    /// the browser would otherwise send with every request until it expires.
    pub fn refused(&self, error: AuthError) -> Problem {
        access_problems::refused_session(error).header(SET_COOKIE, self.removal())
    }
}

/// Returns true if a session may authorise a request with this method.
pub fn permits(method: &Method) -> bool {
    BrowserSession::permits(method.as_str())
}
