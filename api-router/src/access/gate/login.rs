//! Login: exchanges an API key for a browser session.
//!
//! **Invariant:** a failed login counts as invalid credentials of the address.
//! **Not here:** cookies (`access::sessions`), later requests of the session (`credential_check`).

use std::net::IpAddr;
use std::sync::Arc;

use shard_manager::access::caller::{Caller, Principal};
use shard_manager::access::key::ApiKey;
use shard_manager::access::session::BrowserSession;

use super::credential_check::CredentialCheck;
use super::{AccessGate, outcome_of};
use crate::access::access_problems;
use crate::access::clock::unix_now;
use crate::problem::Problem;

impl AccessGate {
    /// Begins a session for the owner of an API key. Returns the session, the value of the header
    /// `Set-Cookie`, and the caller.
    ///
    /// # Errors
    /// TSR401 unless `key` is an API key in force; TSR429 after too many failed attempts.
    pub fn begin_session(
        &self,
        key: &str,
        address: IpAddr,
    ) -> Result<(BrowserSession, String, Arc<Caller>), Problem> {
        let count = |kind, problem: &Problem| self.counts.count(kind, outcome_of(problem));
        let (current, now) = (self.authenticator.load(), unix_now());
        let check = CredentialCheck { gate: self, current: &current, address: || address };
        if !ApiKey::is_like(key) {
            let problem = check.count_failure(access_problems::token_login);
            count("other", &problem);
            return Err(problem);
        }
        let caller = check.bearer(key).map_err(|refusal| {
            count(refusal.kind, &refusal.problem);
            refusal.problem
        })?;
        let Principal::Key(id) = caller.principal else {
            return Err(access_problems::token_login());
        };
        let session = BrowserSession::begin(id, caller.expires_at, now);
        let cookie = self.sessions.cookie(&session, now).map_err(access_problems::refused)?;
        Ok((session, cookie, caller))
    }
}
