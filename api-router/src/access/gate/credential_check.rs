//! Credential check: finds the caller to whom credentials belong, and counts invalid credentials.
//!
//! **Invariant:** invalid credentials count against the address that sent them. After too many of
//! them, the router verifies no signature for that address for a while.
//! **Not here:** the choice between several credentials of one request (`identity`), the limits
//! (`shard_manager::access::limit::failures`).

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;

use shard_manager::access::auth_error::{AuthError, AuthOutcome};
use shard_manager::access::authenticator::Authenticator;
use shard_manager::access::caller::Caller;
use shard_manager::access::key::ApiKey;
use shard_manager::access::limit::failures::SIGNATURE_CHECKS;

use super::{AccessGate, Refusal};
use crate::access::clock::unix_now;
use crate::access::{access_problems, counts};
use crate::problem::Problem;

/// Check of the credentials that an address has sent.
pub(super) struct CredentialCheck<'g, F> {
    pub(super) gate: &'g AccessGate,
    pub(super) current: &'g Authenticator,
    /// Function that returns the address of the client, called only when it is needed.
    pub(super) address: F,
}

impl<F: Fn() -> IpAddr> CredentialCheck<'_, F> {
    /// Returns the caller of an API key or a token.
    pub(super) fn bearer(&self, text: &str) -> Result<Arc<Caller>, Refusal> {
        let gate = self.gate;
        let kind = if ApiKey::is_like(text) { "key" } else { "token" };
        // Verifying a signature is costly, so it is refused to an address whose credentials failed
        // too often.
        let refused_by = Cell::new(None);
        let may_check = || {
            let (address, now) = ((self.address)(), gate.began.elapsed());
            let limit = if gate.failures.limited_for(address, now).is_some() {
                Some(counts::FAILURES)
            } else {
                let taken = gate.checks.take(SIGNATURE_CHECKS, 1, gate.began.elapsed());
                taken.is_err().then_some(counts::SIGNATURES)
            };
            refused_by.set(limit);
            limit.is_none()
        };
        let refused = |error: AuthError| {
            tracing::debug!(kind, reason = ?error.reason, "credentials were refused");
            if let Some(limit) = refused_by.get() {
                gate.counts.count_limited(limit);
            }
            if let Some(place) = error.lacking_issuer {
                gate.remote_keys.request_fetch(place);
            }
            let problem = match error.outcome() {
                AuthOutcome::Invalid | AuthOutcome::Expired => {
                    self.count_failure(|| access_problems::refused(error))
                }
                AuthOutcome::Limited | AuthOutcome::Unavailable => access_problems::refused(error),
            };
            Refusal { kind, problem }
        };
        self.current.authenticate(text, unix_now(), may_check).map_err(refused)
    }

    /// Returns the caller of a browser session.
    pub(super) fn session(&self, text: &str) -> Result<Arc<Caller>, Refusal> {
        let sessions = &self.gate.sessions;
        sessions.authenticate(self.current, text, unix_now()).map_err(|error| {
            tracing::debug!(reason = ?error.reason, "a session was refused");
            let problem = match error.outcome() {
                AuthOutcome::Invalid | AuthOutcome::Expired => {
                    self.count_failure(|| sessions.refused(error))
                }
                AuthOutcome::Limited | AuthOutcome::Unavailable => access_problems::refused(error),
            };
            Refusal { kind: "key", problem }
        })
    }

    /// Counts invalid credentials. Returns `answer()`, or TSR429 if the address has sent too many
    /// of them.
    pub(super) fn count_failure(&self, answer: impl FnOnce() -> Problem) -> Problem {
        match self.gate.failures.record((self.address)(), self.gate.began.elapsed()) {
            None => answer(),
            Some(wait) => {
                self.gate.counts.count_limited(counts::FAILURES);
                let detail = "too many credentials from this address were not valid";
                access_problems::limited(detail, wait)
            }
        }
    }
}
