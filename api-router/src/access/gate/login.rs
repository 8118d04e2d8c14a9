//! Login: begins the session of a browser, and finds its caller in later requests.
//!
//! **Invariant:** a login and a session that are not valid count as failed credentials of the
//! address.
//! **Not here:** cookies (`access::sessions`).

use std::net::IpAddr;
use std::sync::Arc;

use shard_manager::access::auth_error::AuthOutcome;
use shard_manager::access::authenticator::Authenticator;
use shard_manager::access::caller::{Caller, Principal};
use shard_manager::access::key::ApiKey;
use shard_manager::access::session::BrowserSession;

use super::{AccessGate, Refusal, outcome_of};
use crate::access::answers;
use crate::access::clock::unix_now;
use crate::problem::Problem;

impl AccessGate {
    /// Begins a session of the owner of a key. Returns it with the value of `Set-Cookie`, and the
    /// caller.
    ///
    /// # Errors
    /// TSR401 unless the text is a key that is in force, TSR429 after too many failures.
    pub fn begin_session(
        &self,
        key: &str,
        address: IpAddr,
    ) -> Result<(BrowserSession, String, Arc<Caller>), Problem> {
        let count = |kind, problem: &Problem| self.counts.count(kind, outcome_of(problem));
        if !ApiKey::is_like(key) {
            let problem = self.count_failure(address, answers::token_login);
            count("other", &problem);
            return Err(problem);
        }
        let (current, now) = (self.current.load(), unix_now());
        let caller = self.authenticate(&current, key, &|| address).map_err(|refusal| {
            count(refusal.kind, &refusal.problem);
            refusal.problem
        })?;
        let Principal::Key(id) = caller.principal else { return Err(answers::token_login()) };
        let session = BrowserSession::begin(id, caller.expires_at, now);
        let cookie = self.sessions.cookie(&session, now).map_err(answers::refused)?;
        Ok((session, cookie, caller))
    }

    /// Returns the caller of the session of a browser.
    pub(super) fn authenticate_session(
        &self,
        current: &Authenticator,
        text: &str,
        address: &dyn Fn() -> IpAddr,
    ) -> Result<Arc<Caller>, Refusal> {
        self.sessions.authenticate(current, text, unix_now()).map_err(|error| {
            tracing::debug!(reason = ?error.reason, "a session was refused");
            let problem = match error.outcome() {
                AuthOutcome::Invalid | AuthOutcome::Expired => {
                    self.count_failure(address(), || self.sessions.refused(error))
                }
                AuthOutcome::Limited | AuthOutcome::Unavailable => answers::refused(error),
            };
            Refusal { kind: "key", problem }
        })
    }
}
