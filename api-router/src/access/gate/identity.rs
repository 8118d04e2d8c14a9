//! Identity: finds the caller of a request by its credentials.
//!
//! The header comes first, then the session of a browser, then the certificate of the connection. A
//! request with none of them is anonymous.
//!
//! **Invariant:** a request whose credentials are not valid is refused, and is never anonymous.
//! **Not here:** the right that a route needs, and limits (`gate`); the beginning of a session
//! (`login`).

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;

use actix_web::HttpRequest;
use actix_web::dev::ServiceRequest;
use shard_manager::access::auth_error::{AuthError, AuthOutcome};
use shard_manager::access::authenticator::Authenticator;
use shard_manager::access::caller::Caller;
use shard_manager::access::key::ApiKey;
use shard_manager::access::limit::failures::SIGNATURE_CHECKS;

use super::{AccessGate, Refusal};
use crate::access::certificates::ClientCertificate;
use crate::access::clock::unix_now;
use crate::access::credentials::{self, Credentials};
use crate::access::scopes::RouteNeed;
use crate::access::{answers, counts, sessions};
use crate::problem::Problem;

impl AccessGate {
    /// Returns the caller of a request. Nothing needs to be known about a request without
    /// credentials that everyone may send.
    pub(super) fn identify(
        &self,
        current: &Authenticator,
        request: &ServiceRequest,
        need: RouteNeed,
        is_impersonal: bool,
    ) -> Result<Option<Arc<Caller>>, Refusal> {
        let found = credentials::find(request.headers(), request.query_string());
        let mut found = found.map_err(|problem| Refusal { kind: "other", problem })?;
        if matches!(found, Credentials::Absent) {
            if is_impersonal {
                return Ok(None);
            }
            found = self.sessions.find(request.headers());
        }
        let address = || self.address(request.request());
        let caller = match found {
            Credentials::Absent => {
                return self.identify_connection(current, request.request(), need);
            }
            Credentials::Bearer(text) => self.authenticate(current, text, &address)?,
            Credentials::Session(_) if !sessions::permits(request.method()) => {
                return Err(Refusal { kind: "other", problem: answers::session_change() });
            }
            Credentials::Session(text) => self.authenticate_session(current, text, &address)?,
            Credentials::Unreadable => {
                let problem = self.count_failure(address(), answers::unreadable);
                return Err(Refusal { kind: "other", problem });
            }
        };
        Ok(Some(caller))
    }

    /// Returns the caller whose certificate the connection has, else the one without credentials.
    fn identify_connection(
        &self,
        current: &Authenticator,
        request: &HttpRequest,
        need: RouteNeed,
    ) -> Result<Option<Arc<Caller>>, Refusal> {
        let refused = |kind| move |problem| Refusal { kind, problem };
        if let Some(certificate) = self.certificate(request) {
            let caller = self.certificates.caller(current, certificate, unix_now());
            return caller.map(Some).map_err(refused("certificate"));
        }
        if need == RouteNeed::Open {
            return Ok(None);
        }
        let caller = current.anonymous(unix_now()).map_err(answers::refused);
        caller.map(Some).map_err(refused("anonymous"))
    }

    /// Returns the certificate that identifies the client of a request without other credentials. A
    /// browser adds its certificate also to requests of pages of other origins, so it says nothing
    /// about those.
    pub fn certificate<'r>(&self, request: &'r HttpRequest) -> Option<&'r Arc<ClientCertificate>> {
        if self.certificates.is_empty() || self.origins.find(request.headers()).is_some() {
            return None;
        }
        request.conn_data::<Arc<ClientCertificate>>()
    }

    pub(super) fn authenticate(
        &self,
        current: &Authenticator,
        text: &str,
        address: &dyn Fn() -> IpAddr,
    ) -> Result<Arc<Caller>, Refusal> {
        let kind = if ApiKey::is_like(text) { "key" } else { "token" };
        // An address whose credentials failed too often cannot make the router verify signatures.
        let refused_by = Cell::new(None);
        let may_check = || {
            let limit = if self.failures.limited_for(address(), self.began.elapsed()).is_some() {
                Some(counts::FAILURES)
            } else {
                let taken = self.checks.take(SIGNATURE_CHECKS, 1, self.began.elapsed());
                taken.is_err().then_some(counts::SIGNATURES)
            };
            refused_by.set(limit);
            limit.is_none()
        };
        let refused = |error: AuthError| {
            tracing::debug!(kind, reason = ?error.reason, "credentials were refused");
            if let Some(limit) = refused_by.get() {
                self.counts.count_limited(limit);
            }
            if let Some(place) = error.lacking_issuer {
                self.remote_keys.ask(place);
            }
            let problem = match error.outcome() {
                AuthOutcome::Invalid | AuthOutcome::Expired => {
                    self.count_failure(address(), || answers::refused(error))
                }
                AuthOutcome::Limited | AuthOutcome::Unavailable => answers::refused(error),
            };
            Refusal { kind, problem }
        };
        current.authenticate(text, unix_now(), may_check).map_err(refused)
    }

    /// Counts failed credentials of an address. Returns the answer, unless there were too many.
    pub(super) fn count_failure(
        &self,
        address: IpAddr,
        answer: impl FnOnce() -> Problem,
    ) -> Problem {
        match self.failures.record(address, self.began.elapsed()) {
            None => answer(),
            Some(wait) => {
                self.counts.count_limited(counts::FAILURES);
                answers::limited("too many credentials from this address were not valid", wait)
            }
        }
    }
}
