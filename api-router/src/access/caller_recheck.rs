//! Caller recheck: checks again that the caller of a long request still has its rights, while the
//! request's body is read or its response is streamed.
//!
//! **Invariant:** once this router knows that a caller has lost rights, its request continues for
//! one more chunk or one second at most.
//! **Not here:** the decision at the beginning of a request (`gate`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::HttpRequest;
use shard_manager::access::caller::Caller;
use shard_manager::access::rights::Excess;
use shard_manager::access::role::AccessRole;
use shard_manager::access::tenant::Tenants;

use super::certificates::ClientCertificate;
use super::credentials::KeptCredentials;
use super::gate::AccessGate;
use super::scopes::{self, ROWS, RouteNeed};
use crate::problem::{Code, Problem};

/// Arrival time from which the caller of a body is checked again even if keys, roles and issuers
/// have not changed: its credentials may have expired.
const RECHECK_AFTER: Duration = Duration::from_secs(1);

/// Caller of a long request, to be checked again; `None` without access control.
pub struct CallerRecheck(Option<Box<CheckedCaller>>);

struct CheckedCaller {
    gate: Arc<AccessGate>,
    credentials: KeptCredentials,
    certificate: Option<Arc<ClientCertificate>>,
    need: RouteNeed,
    /// Role and tenants at the beginning of the request.
    began_with: Option<(AccessRole, Tenants)>,
}

impl CallerRecheck {
    /// Returns the recheck for the caller of an admitted request.
    pub fn of(gate: Option<&Arc<AccessGate>>, request: &HttpRequest) -> Self {
        let Some(gate) = gate.filter(|gate| gate.is_enforced()) else { return Self(None) };
        let row = scopes::find(request.match_info().as_str(), request.method());
        let caller = gate.caller(request);
        let role = caller.rights.role().map(|role| role.role().clone());
        let tenants = Tenants::parse(caller.rights.tenants().iter().map(|tenant| &**tenant));
        Self(Some(Box::new(CheckedCaller {
            gate: Arc::clone(gate),
            credentials: gate.sessions.keep_credentials(request),
            certificate: gate.certificate(request).cloned(),
            need: row.map_or(RouteNeed::Open, |row| ROWS[row].need),
            began_with: role.zip(tenants.ok()),
        })))
    }

    /// Returns true if the caller need not be checked again.
    pub fn is_unbounded(&self) -> bool {
        self.0.is_none()
    }

    /// Checks that the caller still has the rights with which the request began.
    ///
    /// # Errors
    /// The problem with which the request ends if it does not.
    pub fn check(&self) -> Result<(), Problem> {
        let Some(checked) = &self.0 else { return Ok(()) };
        let caller = checked.gate.recheck(
            checked.credentials.borrow(),
            checked.certificate.as_deref(),
            checked.need,
        )?;
        checked.check_rights(&caller)
    }
}

/// Arrival of a whole body. Most bodies are small and arrive at once, so the caller is checked
/// again only if it may have lost rights during the arrival.
pub struct BodyArrival<'g>(Option<BegunArrival<'g>>);

struct BegunArrival<'g> {
    gate: &'g Arc<AccessGate>,
    /// Generation of the keys, roles and issuers when the arrival began.
    generation: u64,
    began: Instant,
}

impl<'g> BodyArrival<'g> {
    /// Begins the arrival of a body. Without access control, nothing is checked.
    pub fn begin(gate: Option<&'g Arc<AccessGate>>) -> Self {
        let gate = gate.filter(|gate| gate.is_enforced());
        Self(gate.map(|gate| {
            let generation = gate.authenticator.generation();
            BegunArrival { gate, generation, began: Instant::now() }
        }))
    }

    /// Ends the arrival. If it took long, or keys, roles or issuers have changed, checks that the
    /// caller still has the rights with which the request began.
    ///
    /// # Errors
    /// The problem with which the request ends.
    pub fn end(self, request: &HttpRequest) -> Result<(), Problem> {
        let Some(BegunArrival { gate, generation, began }) = self.0 else { return Ok(()) };
        let is_changed = gate.authenticator.generation() != generation;
        if !is_changed && began.elapsed() < RECHECK_AFTER {
            return Ok(());
        }
        let row = scopes::find(request.match_info().as_str(), request.method());
        // A login may come with an old session that has ended, so the callers of open routes are
        // not checked.
        if row.is_some_and(|row| ROWS[row].need == RouteNeed::Open) {
            return Ok(());
        }
        CallerRecheck::of(Some(gate), request).check()
    }
}

impl CheckedCaller {
    /// Refuses a caller whose grants or scopes were reduced, because the request was begun with the
    /// previous ones.
    fn check_rights(&self, caller: &Caller) -> Result<(), Problem> {
        let Some((role, tenants)) = &self.began_with else { return Ok(()) };
        match caller.rights.covers(role, Some(tenants)) {
            Err(Excess::Grant(_) | Excess::Scope(_)) => Err(Problem::new(
                Code::TSR403,
                "the rights of this caller were reduced while the request was carried out",
            )
            .hint("send the rest again, as far as GET /api/access/me permits")),
            Ok(()) | Err(Excess::RoleLimits | Excess::Weight) => Ok(()),
        }
    }
}
