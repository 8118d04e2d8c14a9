//! Gate: decides about each request from its credentials and the right that its route needs.
//!
//! **Invariant:** in the mode `observe`, the gate refuses nothing.
//! **Not here:** the origin of keys, roles and issuers (`files`, `sources`), their replacement
//! (`current_authenticator`), the form of a refusal (`access_problems`).

mod credential_check;
mod current_authenticator;
mod identity;
mod login;
mod refusal_log;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use actix_web::dev::ServiceRequest;
use actix_web::http::header::{HeaderMap, HeaderValue};
use actix_web::{HttpMessage, HttpRequest};
use analytics::AccessNow;
use issuers::key_sets::IssuerGate;
use issuers::remote_keys::RemoteKeys;
use shard_manager::access::authenticator::{AuthSettings, Authenticator};
use shard_manager::access::caller::{Caller, Principal};
use shard_manager::access::jwt::Issuers;
use shard_manager::access::limit::RateCell;
use shard_manager::access::limit::caller_limits::Limited;
use shard_manager::access::limit::failures::FailureLimiter;
use shard_manager::access::limit::limit_cells::LimitCells;
use shard_manager::access::scope::AccessScope;
use shard_manager::access::snapshot::{LimitSource, Snapshot, SnapshotContents, SnapshotError};

use super::access_problems;
use super::admission::{self, Admission};
use super::audit::{self, AuditDraft};
use super::certificates::{CertificateClients, ClientCertificate};
use super::client_address::client_address;
use super::clock::unix_now;
use super::cors::PermittedOrigins;
use super::counts::{AccessCounts, AccessOutcome};
use super::credentials::Credentials;
use super::meter::Metered;
use super::scopes::{self, ROWS, RouteNeed};
use super::sessions::Sessions;
use crate::config::{AccessConfig, AccessMode, TrustedProxies};
use crate::headers::X_CONSISTENCY;
use crate::problem::{Code, Problem, may_have_stored};
pub use current_authenticator::CurrentAuthenticator;
use identity::Identification;
use refusal_log::RefusalLog;

/// Number of random bytes from which a gate makes its secrets.
pub const RANDOM_LEN: usize = 48;

/// Access control of a router.
pub struct AccessGate {
    mode: AccessMode,
    /// Origins whose pages may send requests.
    pub origins: PermittedOrigins,
    /// Sessions of browsers that have logged in.
    pub sessions: Sessions,
    /// Keys, roles and issuers in force.
    pub authenticator: CurrentAuthenticator,
    /// Keys of token issuers that are fetched over the network.
    pub remote_keys: RemoteKeys,
    trusted_proxies: TrustedProxies,
    certificates: CertificateClients,
    failures: FailureLimiter,
    checks: RateCell,
    counts: AccessCounts,
    /// True if there is an audit log.
    is_audited: bool,
    began: Instant,
    refusals: RefusalLog,
}

/// Caller of a request in the mode `observe`. Its own type keeps the caller's rights from being
/// applied.
struct Observed(Arc<Caller>);

/// Refusal of a request.
struct Refusal {
    kind: &'static str,
    problem: Problem,
}

impl AccessGate {
    /// Creates a gate with these keys, roles and issuers. `random` must come from the operating
    /// system's source of randomness.
    ///
    /// # Errors
    /// [`SnapshotError`] if there are too many keys or roles.
    pub fn new(
        config: &AccessConfig,
        contents: SnapshotContents,
        issuers: Issuers,
        random: &[u8; RANDOM_LEN],
    ) -> Result<Self, SnapshotError> {
        let secret = |at: usize| {
            let mut secret = [0; 16];
            secret.copy_from_slice(&random[at..at + 16]);
            secret
        };
        let settings: AuthSettings = config.limits;
        let cells = Arc::new(LimitCells::new(secret(0)));
        let source = LimitSource { cells: &cells, routers: settings.limit_routers };
        let snapshot = Snapshot::build(contents, &source)?;
        let current = Authenticator::new(snapshot, issuers, settings, cells, secret(16));
        let began = Instant::now();
        Ok(Self {
            mode: config.mode,
            origins: PermittedOrigins::new(config.cors_origins.clone()),
            sessions: Sessions::new(config.is_tls),
            remote_keys: RemoteKeys::new(&config.issuers),
            trusted_proxies: config.trusted_proxies.clone(),
            certificates: CertificateClients::new(config.certificates.clone()),
            authenticator: CurrentAuthenticator::new(current),
            failures: FailureLimiter::new(secret(32)),
            checks: RateCell::default(),
            counts: AccessCounts::default(),
            is_audited: config.audit.is_on(),
            began,
            refusals: RefusalLog::new(config.mode, began),
        })
    }

    /// Returns the mode, which is not `off`.
    pub fn mode(&self) -> AccessMode {
        self.mode
    }

    /// Returns true if the mode is `on`, in which requests may be refused.
    pub fn is_enforced(&self) -> bool {
        self.mode == AccessMode::On
    }

    /// Returns the caller of a request: the one that was attached when it was admitted, otherwise
    /// the anonymous caller.
    pub fn caller(&self, request: &impl HttpMessage) -> Arc<Caller> {
        let extensions = request.extensions();
        let observed = || extensions.get::<Observed>().map(|Observed(caller)| caller);
        let known = extensions.get::<Arc<Caller>>().or_else(observed);
        known
            .map(Arc::clone)
            .unwrap_or_else(|| Arc::clone(self.authenticator.load().snapshot().anonymous()))
    }

    /// Returns the problem for a caller that has exceeded a limit, and counts the refusal.
    pub fn limit_problem(&self, limited: Limited) -> Problem {
        self.counts.count_limited(limited.limit.name());
        access_problems::limited(&limited.to_string(), limited.retry_after)
    }

    /// Returns the counts of decisions, together with the number of writes that the shards' write
    /// queues (lanes) refused.
    pub fn now(&self, refused_by_lanes: u64) -> AccessNow {
        let now = unix_now();
        let age = self.authenticator.load().snapshot().age(now);
        let issuers = self.remote_keys.now(now);
        AccessNow { issuers, ..self.counts.now(age, refused_by_lanes) }
    }

    /// Decides about a request, and attaches its caller to it if it is admitted.
    ///
    /// # Errors
    /// The problem of a refused request; never in the mode `observe`.
    pub fn admit(&self, request: &ServiceRequest) -> Result<Admission, Problem> {
        let row = scopes::find(request.match_info().as_str(), request.method());
        match self.decide(request, row) {
            Ok((caller, admission)) => {
                self.counts.count(caller.principal.kind(), AccessOutcome::Allowed);
                if self.is_enforced() {
                    request.extensions_mut().insert(caller);
                } else {
                    request.extensions_mut().insert(Observed(caller));
                }
                Ok(admission)
            }
            Err(Refusal { kind, problem }) => {
                self.counts.count(kind, outcome_of(&problem));
                let address = || self.address(request.request());
                self.refusals.log(row, (kind, &problem), address);
                if self.is_audited {
                    let (is_observed, address) = (!self.is_enforced(), address());
                    AuditDraft::refuse(request, address, problem.code(), is_observed);
                }
                match self.mode {
                    AccessMode::On => Err(problem),
                    AccessMode::Observe | AccessMode::Off => Ok(Admission::default()),
                }
            }
        }
    }

    /// Returns the problem to send for a request that its route has refused. An anonymous request
    /// that lacks a right gets TSR401 instead of TSR403, because credentials may help. A request
    /// that has or may have stored rows keeps its problem, which reports those rows.
    pub fn challenge(&self, request: &HttpRequest, problem: Problem) -> Problem {
        let is_anonymous = || {
            let extensions = request.extensions();
            let caller = extensions.get::<Arc<Caller>>();
            caller.is_some_and(|caller| caller.principal == Principal::Anonymous)
        };
        let may_help = problem.code() == Code::TSR403 && !may_have_stored(&problem);
        if may_help && self.is_enforced() && is_anonymous() {
            return access_problems::missing();
        }
        problem
    }

    /// Authenticates again the caller of a request that was admitted before, and returns it with
    /// its present rights. Changes no counter.
    ///
    /// # Errors
    /// The problem with which the request of the caller ends.
    pub fn recheck(
        &self,
        credentials: Credentials<'_>,
        certificate: Option<&ClientCertificate>,
        need: RouteNeed,
    ) -> Result<Arc<Caller>, Problem> {
        let current = self.authenticator.load();
        let caller = match credentials {
            Credentials::Absent => match certificate {
                Some(certificate) => {
                    Ok(self.certificates.caller(&current, certificate, unix_now())?)
                }
                None => current.anonymous(unix_now()),
            },
            // The signature was verified when the request began.
            Credentials::Bearer(text) => current.authenticate(text, unix_now(), || true),
            Credentials::Session(text) => {
                let caller = self.sessions.authenticate(&current, text, unix_now());
                let caller = caller.map_err(|error| self.sessions.refused(error))?;
                check_need(&caller, need)?;
                return Ok(caller);
            }
            Credentials::Unreadable => return Err(access_problems::unreadable()),
        };
        let caller = caller.map_err(access_problems::refused)?;
        check_need(&caller, need)?;
        Ok(caller)
    }

    fn decide(
        &self,
        request: &ServiceRequest,
        row: Option<usize>,
    ) -> Result<(Arc<Caller>, Admission), Refusal> {
        let need = row.map_or_else(|| need_without_row(request), |row| ROWS[row].need);
        let is_impersonal = row.map_or(need == RouteNeed::Open, |row| ROWS[row].is_impersonal());
        let current = self.authenticator.load();
        let identification = Identification { gate: self, current: &current, request };
        let Some(caller) = identification.caller(need, is_impersonal)? else {
            let caller = Arc::clone(current.snapshot().anonymous());
            return Ok((caller, Admission::default()));
        };
        if self.is_audited {
            audit::identify(request, self.address(request.request()), &caller);
        }
        let refused = |problem| Refusal { kind: caller.principal.kind(), problem };
        match check_need(&caller, need) {
            Ok(()) if need == RouteNeed::Open => Ok((caller, Admission::default())),
            Ok(()) => {
                let admission = self.limit(&current, &caller, request).map_err(refused)?;
                Ok((caller, admission))
            }
            Err(_) if caller.principal == Principal::Anonymous => {
                Err(refused(access_problems::missing()))
            }
            Err(problem) => Err(refused(problem)),
        }
    }

    /// Charges a request to the limits of its caller. Anonymous callers have limits for each
    /// address.
    fn limit(
        &self,
        current: &Authenticator,
        caller: &Caller,
        request: &ServiceRequest,
    ) -> Result<Admission, Problem> {
        let of_address = match caller.principal {
            Principal::Anonymous => {
                let address = self.address(request.request());
                current.snapshot().anonymous_limits(address, &current.limits())
            }
            Principal::Key(_) | Principal::Token { .. } | Principal::Certificate { .. } => None,
        };
        let Some(limits) = of_address.or_else(|| caller.limits.clone()) else {
            return Ok(Admission::default());
        };
        let (cost, began) = (request_cost(request.headers()), self.began);
        let (now, date) = (began.elapsed(), unix_now());
        let refused = |limited: Limited| {
            admission::with_limits(self.limit_problem(limited), &limits.states(now, date))
        };
        let place = limits.enter().map_err(refused)?;
        limits.admit(cost, now, date).map_err(refused)?;
        let metered = Metered { limits: limits.clone(), began, cost };
        request.extensions_mut().insert(metered);
        Ok(Admission::new(limits, began, place))
    }

    /// Returns the address of the client; behind a trusted proxy, the one that the proxy has named.
    pub fn address(&self, request: &HttpRequest) -> IpAddr {
        client_address(&self.trusted_proxies, request.peer_addr(), request.headers())
    }
}

impl IssuerGate for AccessGate {
    fn apply_issuers(&self, issuers: Issuers) {
        self.authenticator.apply_issuers(issuers);
    }

    fn prolong_issuers(&self, issuers: Issuers) {
        self.authenticator.prolong_issuers(issuers);
    }
}

impl std::fmt::Debug for AccessGate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessGate").field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// Returns the right that a request without an entry in [`ROWS`] needs. Normally no route matches
/// such a request, and it gets 404 or 405. If a route matches it nevertheless, it needs the scope
/// `operate`.
fn need_without_row(request: &ServiceRequest) -> RouteNeed {
    let path = request.match_info().as_str();
    let has_route = request.resource_map().has_resource(path) && !scopes::has_path(path);
    if has_route { RouteNeed::Scope(AccessScope::Operate) } else { RouteNeed::Open }
}

/// Checks that the caller has the right that a route needs. For routes about rows, the shard
/// manager later compares the request with the caller's grants.
fn check_need(caller: &Caller, need: RouteNeed) -> Result<(), Problem> {
    let has_grants = || caller.rights.role().is_none_or(|role| !role.role().grants().is_empty());
    match need {
        RouteNeed::Open => Ok(()),
        RouteNeed::Rows if has_grants() => Ok(()),
        RouteNeed::Rows => Err(access_problems::without_grants()),
        RouteNeed::Scope(scope) => {
            caller.rights.allow_scope(scope).map_err(|denied| access_problems::forbidden(&denied))
        }
    }
}

fn outcome_of(problem: &Problem) -> AccessOutcome {
    let outcomes = [
        (Code::TSR401, AccessOutcome::Unauthenticated),
        (Code::TSR403, AccessOutcome::Forbidden),
        (Code::TSR429, AccessOutcome::Limited),
        (Code::TSR006, AccessOutcome::Unavailable),
    ];
    let found = outcomes.into_iter().find(|(code, _)| *code == problem.code());
    found.map_or(AccessOutcome::Misplaced, |(_, outcome)| outcome)
}

/// Returns the cost of a request to one shard, as a number of requests: 2 if it names another
/// consistency level than `one`, because such a request keeps several nodes busy.
fn request_cost(headers: &HeaderMap) -> u64 {
    let level = headers.get(X_CONSISTENCY).map(HeaderValue::as_bytes);
    if matches!(level, None | Some(b"one")) { 1 } else { 2 }
}
