//! Gate: decides whether a request is served. It compares the rights of the request's API key,
//! token or browser session with the scope that the path needs.
//!
//! A service without access control has no gate.
//!
//! **Invariant:** a path that is not listed as open needs a scope. A request with invalid
//! credentials is always refused, also on an open path. The exception is the cookie of a browser
//! session: open paths ignore it, because a browser adds it to every request.
//! **Not here:** the files of keys and roles (`key_files`), the login (`routes::session`).

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use access::auth_error::{AuthError, AuthOutcome};
use access::authenticator::{AuthSettings, Authenticator};
use access::caller::{Caller, Principal};
use access::jwt::Issuers;
use access::key::ApiKey;
use access::limit::RateCell;
use access::limit::failures::{FailureLimiter, SIGNATURE_CHECKS};
use access::limit::headers::retry_after;
use access::limit::limit_cells::LimitCells;
use access::scope::AccessScope;
use access::session::{BrowserSession, SessionSecret, cookie};
use access::snapshot::{LimitSource, Snapshot, SnapshotContents, SnapshotError};
use access::unix_time::UnixTime;
use actix_web::http::header::{
    AUTHORIZATION, COOKIE, HeaderMap, HeaderValue, RETRY_AFTER, SET_COOKIE, WWW_AUTHENTICATE,
};
use arc_swap::ArcSwap;
use issuers::key_sets::IssuerGate;
use issuers::remote_keys::RemoteKeys;
use web_kit::bearer::{self, CHALLENGE, EXPIRED, INVALID};

use crate::problem::{Code, Problem};

/// Number of random bytes that are needed to create a gate.
pub(crate) const RANDOM_LEN: usize = 80;
/// Path of the login.
pub(crate) const LOGIN: &str = "/api/session";
const HOW: &str = "send the header Authorization: Bearer with an API key or a token";
const AGAIN: &str = "log in again: POST /api/session";

/// Access control of the service.
pub(crate) struct AccessGate {
    current: ArcSwap<Authenticator>,
    /// Secret that protects browser sessions. It exists only in memory, so sessions end with the
    /// process.
    sessions: SessionSecret,
    failures: FailureLimiter,
    /// Rate limit for verifying the signatures of tokens.
    checks: RateCell,
    /// State of the fetched keys of issuers.
    remote_keys: RemoteKeys,
    /// Lock that is held while keys, roles or issuers are replaced.
    replacing: Mutex<()>,
    /// True if browsers reach the service over TLS.
    is_tls: bool,
    began: Instant,
}

/// Credentials of a request.
#[derive(Clone)]
pub(crate) enum Credentials {
    /// API key or token.
    Bearer(Box<str>),
    /// Session of a browser.
    Session(Box<str>),
}

impl AccessGate {
    /// Creates a gate with these keys and roles. The random bytes must come from the system's
    /// source of randomness.
    ///
    /// # Errors
    /// Returns a [`SnapshotError`] if there are too many keys or roles.
    pub(crate) fn new(
        contents: SnapshotContents,
        (issuers, remote_keys): (Issuers, RemoteKeys),
        is_tls: bool,
        random: &[u8; RANDOM_LEN],
    ) -> Result<Self, SnapshotError> {
        let short = |at: usize| {
            let mut secret = [0; 16];
            secret.copy_from_slice(&random[at..at + 16]);
            secret
        };
        let mut sessions = [0; SessionSecret::LEN];
        sessions.copy_from_slice(&random[48..]);
        let cells = Arc::new(LimitCells::new(short(0)));
        let settings =
            AuthSettings { stale_max: AuthSettings::STALE_MAX_DEFAULT, limit_routers: 1 };
        let snapshot = Snapshot::build(contents, &LimitSource { cells: &cells, routers: 1 })?;
        let current = Authenticator::new(snapshot, issuers, settings, cells, short(16));
        Ok(Self {
            current: ArcSwap::from_pointee(current),
            sessions: SessionSecret::new(&sessions, 1),
            failures: FailureLimiter::new(short(32)),
            checks: RateCell::default(),
            remote_keys,
            replacing: Mutex::default(),
            is_tls,
            began: Instant::now(),
        })
    }

    /// Replaces all keys and roles.
    ///
    /// # Errors
    /// Returns a [`SnapshotError`] if there are too many keys or roles; then nothing has changed.
    pub(crate) fn apply(&self, contents: SnapshotContents) -> Result<(), SnapshotError> {
        let _guard = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.current.load();
        let snapshot = Snapshot::build(contents, &current.limits())?;
        self.current.store(Arc::new(current.with_snapshot(snapshot)));
        Ok(())
    }

    /// Returns the state of the fetched keys of issuers.
    pub(crate) fn remote_keys(&self) -> &RemoteKeys {
        &self.remote_keys
    }

    /// Records that the files of keys and roles were unchanged at `now`.
    pub(crate) fn confirm(&self, now: UnixTime) {
        self.current.load().snapshot().confirm(now);
    }

    /// Decides whether a request is served. `path` is percent-decoded in the same way as for
    /// routing.
    ///
    /// # Errors
    /// Fails with the problem that becomes the response.
    pub(crate) fn admit(
        &self,
        path: &str,
        (headers, query): (&HeaderMap, &str),
        address: IpAddr,
    ) -> Result<(), Problem> {
        let mut values = headers.get_all(AUTHORIZATION);
        let header = values.next();
        if values.next().is_some() {
            return Err(
                Problem::new(Code::TSR113, "Authorization is given twice").hint("send one of them")
            );
        }
        if let Some(known) = bearer::parameter(query) {
            let detail = format!("{known} stands in the query string, which is kept in logs");
            return Err(Problem::parameter(detail).hint(HOW));
        }
        let need = scope_of(path);
        let credentials = match header {
            Some(value) => match bearer::parse(value) {
                Some(text) => Credentials::Bearer(text.into()),
                None => {
                    let detail = "Authorization is not Bearer with a key or a token";
                    return Err(self.failed(address, || challenge(detail, INVALID).hint(HOW)));
                }
            },
            None if need.is_none() => return Ok(()),
            None => self.session(headers).ok_or_else(missing)?,
        };
        match self.caller(&credentials, Some(address)) {
            Ok(caller) => need.map_or(Ok(()), |scope| check(&caller, scope)),
            Err(error) => Err(self.refused(&credentials, error, address)),
        }
    }

    /// Returns the credentials of a request that was admitted, so that they can be checked again
    /// while its response is streamed.
    pub(crate) fn credentials(&self, headers: &HeaderMap) -> Option<Credentials> {
        match headers.get(AUTHORIZATION) {
            Some(value) => bearer::parse(value).map(|text| Credentials::Bearer(text.into())),
            None => self.session(headers),
        }
    }

    /// Returns true if these credentials still have the scope.
    pub(crate) fn still_allows(&self, credentials: &Credentials, scope: AccessScope) -> bool {
        self.caller(credentials, None).is_ok_and(|caller| caller.rights.allow_scope(scope).is_ok())
    }

    /// Begins a browser session for the owner of an API key. Returns the session, the value of the
    /// header `Set-Cookie`, and the owner.
    ///
    /// # Errors
    /// Fails with TSR401 if the key is not valid, with TSR429 after too many failures, and with
    /// TSR006 while the rights are unknown.
    pub(crate) fn begin_session(
        &self,
        key: &str,
        address: IpAddr,
    ) -> Result<(BrowserSession, String, Arc<Caller>), Problem> {
        let credentials = Credentials::Bearer(key.into());
        let caller = self.caller(&credentials, Some(address));
        let caller = caller.map_err(|error| self.refused(&credentials, error, address))?;
        let Principal::Key(id) = caller.principal else { return Err(missing()) };
        let now = unix_now();
        let session = BrowserSession::begin(id, caller.expires_at, now);
        let cookie = cookie::set(&session, &self.sessions.seal(&session), now, self.is_tls);
        Ok((session, cookie, caller))
    }

    /// Returns the value of `Set-Cookie` that removes the session from a browser.
    pub(crate) fn removal(&self) -> String {
        cookie::remove(self.is_tls)
    }

    fn session(&self, headers: &HeaderMap) -> Option<Credentials> {
        let values = headers.get_all(COOKIE).map(HeaderValue::as_bytes);
        match cookie::find(values, self.is_tls) {
            Ok(text) => text.map(|text| Credentials::Session(text.into())),
            // An empty string is never a valid session, so a request with several session cookies
            // is refused like a request with a forged cookie.
            Err(_) => Some(Credentials::Session("".into())),
        }
    }

    /// Returns the owner of the credentials, with the rights. For a client address with too many
    /// failures, no signatures are verified. To check admitted credentials again, the function is
    /// called without an address; then this limit does not apply.
    fn caller(
        &self,
        credentials: &Credentials,
        address: Option<IpAddr>,
    ) -> Result<Arc<Caller>, AuthError> {
        let (current, now) = (self.current.load(), unix_now());
        let may_check = || {
            let Some(address) = address else { return true };
            let since = self.began.elapsed();
            self.failures.limited_for(address, since).is_none()
                && self.checks.take(SIGNATURE_CHECKS, 1, since).is_ok()
        };
        match credentials {
            Credentials::Bearer(text) => current.authenticate(text, now, may_check),
            Credentials::Session(text) => {
                current.authenticate_session(text, &self.sessions, now).map(|(caller, _)| caller)
            }
        }
    }

    fn refused(&self, credentials: &Credentials, error: AuthError, address: IpAddr) -> Problem {
        if let Some(place) = error.lacking_issuer {
            self.remote_keys.request_fetch(place);
        }
        let (is_session, hint) = match credentials {
            Credentials::Bearer(text) if !ApiKey::is_like(text) => {
                (false, "send an API key (tsr_…), or a token of an issuer of this service")
            }
            Credentials::Bearer(_) => (false, "send a key that is in force"),
            Credentials::Session(_) => (true, AGAIN),
        };
        let answer = |value: &str| {
            let problem = challenge(&error.to_string(), value).hint(hint);
            if is_session { problem.header(SET_COOKIE, self.removal()) } else { problem }
        };
        match error.outcome() {
            AuthOutcome::Invalid => self.failed(address, || answer(INVALID)),
            AuthOutcome::Expired => self.failed(address, || answer(EXPIRED)),
            AuthOutcome::Limited => limited(&error.to_string(), Duration::ZERO),
            AuthOutcome::Unavailable => {
                let wait = error.retry_after().unwrap_or(1);
                Problem::new(Code::TSR006, error.to_string())
                    .hint("send again after Retry-After")
                    .header(RETRY_AFTER, wait.to_string())
            }
        }
    }

    /// Counts a failed authentication of a client address. Returns the problem that `answer` makes,
    /// or TSR429 if the address has had too many failures.
    fn failed(&self, address: IpAddr, answer: impl FnOnce() -> Problem) -> Problem {
        match self.failures.record(address, self.began.elapsed()) {
            None => answer(),
            Some(wait) => limited("too many credentials from this address were not valid", wait),
        }
    }
}

impl IssuerGate for AccessGate {
    fn apply_issuers(&self, issuers: Issuers) {
        let _guard = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        self.current.store(Arc::new(self.current.load().with_issuers(issuers)));
    }

    fn prolong_issuers(&self, issuers: Issuers) {
        let _guard = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        self.current.store(Arc::new(self.current.load().with_prolonged_issuers(issuers)));
    }
}

/// Returns the scope that a path needs; `None` for pages and probes, which contain no metrics.
fn scope_of(path: &str) -> Option<AccessScope> {
    match path {
        "/" | "/live" | "/ready" | "/dashboard" | "/api-docs/openapi.json" | LOGIN => None,
        path if path.starts_with("/dashboard/") || path.starts_with("/errors/") => None,
        "/metrics" => Some(AccessScope::Metrics),
        "/api/shards" | "/api/shard-map" | "/api/groups" | "/api/moves" | "/api/rebalance" => {
            Some(AccessScope::Operate)
        }
        path if path.starts_with("/api/moves/") || path.starts_with("/api/rebalance/") => {
            Some(AccessScope::Operate)
        }
        _ => Some(AccessScope::Analytics),
    }
}

fn check(caller: &Caller, scope: AccessScope) -> Result<(), Problem> {
    caller.rights.allow_scope(scope).map_err(|denied| {
        Problem::new(Code::TSR403, denied.to_string()).hint("the role of the key needs this scope")
    })
}

fn limited(detail: &str, wait: Duration) -> Problem {
    Problem::new(Code::TSR429, detail)
        .hint("send again after Retry-After")
        .header(RETRY_AFTER, retry_after(wait).to_string())
}

fn missing() -> Problem {
    challenge("this request needs credentials", CHALLENGE).hint(HOW)
}

fn challenge(detail: &str, value: &str) -> Problem {
    Problem::new(Code::TSR401, detail).header(WWW_AUTHENTICATE, value.to_owned())
}

/// Returns the time of the system's clock.
pub(crate) fn unix_now() -> UnixTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    UnixTime::from_seconds(since.unwrap_or(Duration::ZERO).as_secs())
}
