//! Identity: finds the caller of a request by its credentials.
//!
//! The credentials are taken from the header `Authorization`, otherwise from the session cookie of
//! a browser, otherwise from the client certificate of the connection. A request with none of them
//! is anonymous.
//!
//! **Invariant:** a request with invalid credentials is not identified as anonymous: it is an
//! error.
//! **Not here:** the right that a route needs, and limits (`gate`); the beginning of a session
//! (`login`), the check of credentials (`credential_check`).

use std::sync::Arc;

use actix_web::HttpRequest;
use actix_web::dev::ServiceRequest;
use shard_manager::access::authenticator::Authenticator;
use shard_manager::access::caller::Caller;

use super::credential_check::CredentialCheck;
use super::{AccessGate, Refusal};
use crate::access::certificates::ClientCertificate;
use crate::access::clock::unix_now;
use crate::access::credentials::{self, Credentials};
use crate::access::scopes::RouteNeed;
use crate::access::{access_problems, sessions};

/// Search for the caller of a request.
pub(super) struct Identification<'r> {
    pub(super) gate: &'r AccessGate,
    pub(super) current: &'r Authenticator,
    pub(super) request: &'r ServiceRequest,
}

impl Identification<'_> {
    /// Returns the caller of the request; `None` if the request has no credentials and needs none.
    pub(super) fn caller(
        &self,
        need: RouteNeed,
        is_impersonal: bool,
    ) -> Result<Option<Arc<Caller>>, Refusal> {
        let Self { gate, current, request } = *self;
        let found = credentials::find(request.headers(), request.query_string());
        let mut found = found.map_err(|problem| Refusal { kind: "other", problem })?;
        if matches!(found, Credentials::Absent) {
            if is_impersonal {
                return Ok(None);
            }
            found = gate.sessions.find(request.headers());
        }
        let check = CredentialCheck { gate, current, address: || gate.address(request.request()) };
        let caller = match found {
            Credentials::Absent => return self.caller_of_connection(need),
            Credentials::Bearer(text) => check.bearer(text)?,
            Credentials::Session(_) if !sessions::permits(request.method()) => {
                return Err(Refusal { kind: "other", problem: access_problems::session_change() });
            }
            Credentials::Session(text) => check.session(text)?,
            Credentials::Unreadable => {
                let problem = check.count_failure(access_problems::unreadable);
                return Err(Refusal { kind: "other", problem });
            }
        };
        Ok(Some(caller))
    }

    /// Returns the caller that the connection's certificate identifies, otherwise the anonymous
    /// caller; `None` instead of the anonymous caller if the route needs no right.
    fn caller_of_connection(&self, need: RouteNeed) -> Result<Option<Arc<Caller>>, Refusal> {
        let Self { gate, current, request } = *self;
        let refused = |kind| move |problem| Refusal { kind, problem };
        if let Some(certificate) = gate.certificate(request.request()) {
            let caller = gate.certificates.caller(current, certificate, unix_now());
            return caller.map(Some).map_err(refused("certificate"));
        }
        if need == RouteNeed::Open {
            return Ok(None);
        }
        let caller = current.anonymous(unix_now()).map_err(access_problems::refused);
        caller.map(Some).map_err(refused("anonymous"))
    }
}

impl AccessGate {
    /// Returns the certificate that identifies the client of a request without other credentials.
    /// Returns `None` for a request from a page of another, permitted origin: a browser adds its
    /// certificate to such requests by itself, so it does not prove that the user sent them.
    pub fn certificate<'r>(&self, request: &'r HttpRequest) -> Option<&'r Arc<ClientCertificate>> {
        if self.certificates.is_empty() || self.origins.find(request.headers()).is_some() {
            return None;
        }
        request.conn_data::<Arc<ClientCertificate>>()
    }
}
