//! Gate: decides about each request from its credentials and the right that its route needs.
//!
//! **Invariant:** while the gate observes, it refuses nothing. Keys and roles are replaced as a
//! whole, and never by older ones.
//! **Not here:** where keys, roles and issuers come from (`files`), the form of a refusal
//! (`answers`).

mod identity;
mod login;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use actix_web::dev::ServiceRequest;
use actix_web::http::header::{HeaderMap, HeaderValue};
use actix_web::{HttpMessage, HttpRequest};
use analytics::AccessNow;
use arc_swap::ArcSwap;
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
use shard_manager::access::unix_time::UnixTime;

use super::admission::{self, Admission};
use super::answers;
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
use crate::problem::{Code, Problem};

/// Random bytes that a gate needs.
pub const RANDOM_LEN: usize = 48;

/// Access control of a router.
pub struct AccessGate {
    mode: AccessMode,
    /// Origins whose pages may send requests.
    pub origins: PermittedOrigins,
    /// Sessions of browsers.
    pub sessions: Sessions,
    /// Keys of issuers that are fetched.
    pub remote_keys: RemoteKeys,
    trusted_proxies: TrustedProxies,
    certificates: CertificateClients,
    current: ArcSwap<Authenticator>,
    /// Held while keys, roles or issuers are replaced.
    replacing: Mutex<()>,
    failures: FailureLimiter,
    checks: RateCell,
    counts: AccessCounts,
    /// True if there is an audit log.
    is_audited: bool,
    began: Instant,
    /// Second of the last logged refusal of each route, counted from the start.
    logged: [AtomicU64; ROWS.len() + 1],
}

/// Caller of a request that is only observed, so that its rights bound nothing.
struct Observed(Arc<Caller>);

/// Refusal of a request.
struct Refusal {
    kind: &'static str,
    problem: Problem,
}

impl AccessGate {
    /// Creates a gate that knows these keys and roles. The random bytes must come from the system's
    /// source of randomness.
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
        Ok(Self {
            mode: config.mode,
            origins: PermittedOrigins::new(config.cors_origins.clone()),
            sessions: Sessions::new(config.is_tls),
            remote_keys: RemoteKeys::new(&config.issuers),
            trusted_proxies: config.trusted_proxies.clone(),
            certificates: CertificateClients::new(config.certificates.clone()),
            current: ArcSwap::from_pointee(current),
            replacing: Mutex::default(),
            failures: FailureLimiter::new(secret(32)),
            checks: RateCell::default(),
            counts: AccessCounts::default(),
            is_audited: config.audit.is_on(),
            began: Instant::now(),
            logged: std::array::from_fn(|_| AtomicU64::new(u64::MAX)),
        })
    }

    /// Replaces all keys, roles and denials, unless the known ones are newer. If they are of the
    /// same generation, they are only confirmed.
    ///
    /// # Errors
    /// [`SnapshotError`] if there are too many keys or roles; then nothing has changed.
    pub fn apply(&self, contents: SnapshotContents) -> Result<(), SnapshotError> {
        let _guard = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.current.load();
        let known = current.snapshot().generation();
        if contents.generation < known {
            return Ok(());
        }
        if contents.generation == known {
            current.snapshot().confirm(contents.read_at);
            return Ok(());
        }
        let mut snapshot = Snapshot::build(contents, &current.limits())?;
        snapshot.share_uses(current.snapshot());
        self.current.store(Arc::new(current.with_snapshot(snapshot)));
        Ok(())
    }

    /// Records that keys and roles were read at this time and have not changed.
    pub fn confirm(&self, now: UnixTime) {
        self.current.load().snapshot().confirm(now);
    }

    /// Returns the keys, roles and issuers in force.
    pub fn current(&self) -> Arc<Authenticator> {
        self.current.load_full()
    }

    /// Returns the mode, which is not `off`.
    pub fn mode(&self) -> AccessMode {
        self.mode
    }

    /// Returns true if requests are refused, and not only observed.
    pub fn is_enforced(&self) -> bool {
        self.mode == AccessMode::On
    }

    /// Returns the caller of a request: the one that was attached when it was admitted, else one
    /// without credentials.
    pub fn caller(&self, request: &impl HttpMessage) -> Arc<Caller> {
        let extensions = request.extensions();
        let observed = || extensions.get::<Observed>().map(|Observed(caller)| caller);
        let known = extensions.get::<Arc<Caller>>().or_else(observed);
        known
            .map(Arc::clone)
            .unwrap_or_else(|| Arc::clone(self.current.load().snapshot().anonymous()))
    }

    /// Adds the headers that tell the caller of an admitted request what its limits leave.
    pub fn show_limits(&self, admission: &Admission, response: &mut HeaderMap) {
        if let Some(limits) = &admission.limits {
            admission::show(&limits.states(self.began.elapsed(), unix_now()), response);
        }
    }

    /// Returns the answer to a caller who has reached a limit, and counts it.
    pub fn over(&self, limited: Limited) -> Problem {
        self.counts.count_limited(limited.limit.name());
        answers::limited(&limited.to_string(), limited.retry_after)
    }

    /// Returns the counts of decisions, among them the writes that lanes refused.
    pub fn now(&self, refused_by_lanes: u64) -> AccessNow {
        let now = unix_now();
        let age = self.current.load().snapshot().age(now);
        let issuers = self.remote_keys.now(now);
        AccessNow { issuers, ..self.counts.now(age, refused_by_lanes) }
    }

    /// Decides about a request. The caller of an admitted request is attached to it.
    ///
    /// # Errors
    /// The problem to answer with. Never while the gate only observes.
    pub fn admit(&self, request: &ServiceRequest) -> Result<Admission, Problem> {
        let row = scopes::find(request.match_info().as_str(), request.method());
        match self.judge(request, row) {
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
                self.log(request, row, kind, &problem);
                if self.is_audited {
                    let is_observed = !self.is_enforced();
                    let address = self.address(request.request());
                    AuditDraft::refuse(request, address, problem.code(), is_observed);
                }
                match self.mode {
                    AccessMode::On => Err(problem),
                    AccessMode::Observe | AccessMode::Off => Ok(Admission::default()),
                }
            }
        }
    }

    /// Returns the answer to a request that its route refused. If a right was missing and the
    /// request had no credentials, credentials may help.
    pub fn challenge(&self, request: &HttpRequest, problem: Problem) -> Problem {
        let is_anonymous = || {
            let extensions = request.extensions();
            let caller = extensions.get::<Arc<Caller>>();
            caller.is_some_and(|caller| caller.principal == Principal::Anonymous)
        };
        if problem.code() == Code::TSR403 && self.is_enforced() && is_anonymous() {
            return answers::missing();
        }
        problem
    }

    /// Returns the caller of credentials that were admitted before, as it is now. Counts nothing.
    ///
    /// # Errors
    /// The problem with which its request ends.
    pub fn recheck(
        &self,
        credentials: Credentials<'_>,
        certificate: Option<&ClientCertificate>,
        need: RouteNeed,
    ) -> Result<Arc<Caller>, Problem> {
        let current = self.current.load();
        let caller = match credentials {
            Credentials::Absent => match certificate {
                Some(certificate) => {
                    Ok(self.certificates.caller(&current, certificate, unix_now())?)
                }
                None => current.anonymous(unix_now()),
            },
            // The signature was good when the request began.
            Credentials::Bearer(text) => current.authenticate(text, unix_now(), || true),
            Credentials::Session(text) => {
                let caller = self.sessions.authenticate(&current, text, unix_now());
                let caller = caller.map_err(|error| self.sessions.refused(error))?;
                check_need(&caller, need)?;
                return Ok(caller);
            }
            Credentials::Unreadable => return Err(answers::unreadable()),
        };
        let caller = caller.map_err(answers::refused)?;
        check_need(&caller, need)?;
        Ok(caller)
    }

    fn judge(
        &self,
        request: &ServiceRequest,
        row: Option<usize>,
    ) -> Result<(Arc<Caller>, Admission), Refusal> {
        let need = row.map_or_else(|| need_without_row(request), |row| ROWS[row].need);
        let is_impersonal = row.map_or(need == RouteNeed::Open, |row| ROWS[row].is_impersonal());
        let current = self.current.load();
        let Some(caller) = self.identify(&current, request, need, is_impersonal)? else {
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
            Err(_) if caller.principal == Principal::Anonymous => Err(refused(answers::missing())),
            Err(problem) => Err(refused(problem)),
        }
    }

    /// Counts a request against the limits of its caller. One without credentials has those of its
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
        let place = limits.enter().map_err(|limited| self.over(limited))?;
        let (cost, began) = (request_cost(request.headers()), self.began);
        let admitted = limits.admit(cost, began.elapsed(), unix_now());
        admitted.map_err(|limited| self.over(limited))?;
        let metered = Metered { limits: limits.clone(), began, cost };
        request.extensions_mut().insert(metered);
        Ok(Admission { limits: Some(limits), place })
    }

    /// Returns the address of the client, which a trusted proxy may have named.
    pub fn address(&self, request: &HttpRequest) -> IpAddr {
        client_address(&self.trusted_proxies, request.peer_addr(), request.headers())
    }

    /// Logs a refusal, of each route at most one in a second.
    fn log(&self, request: &ServiceRequest, row: Option<usize>, kind: &str, problem: &Problem) {
        let (mode, code) = (self.mode.name(), problem.code().name());
        let route = row.map_or("no route", |row| ROWS[row].path);
        let detail = problem.detail();
        if self.mode == AccessMode::On {
            let address = self.address(request.request());
            tracing::debug!(mode, kind, route, code, %address, "access was refused: {detail}");
            return;
        }
        let second = self.began.elapsed().as_secs();
        let last = &self.logged[row.unwrap_or(ROWS.len())];
        if last.swap(second, Ordering::Relaxed) != second {
            let address = self.address(request.request());
            tracing::warn!(mode, kind, route, code, %address, "access would be refused: {detail}");
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

impl std::fmt::Debug for AccessGate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessGate").field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// Returns the right that a request without a row needs. It has no route and is answered with 404
/// or 405. Should a route match it all the same, it needs the right that only operators have.
fn need_without_row(request: &ServiceRequest) -> RouteNeed {
    let path = request.match_info().as_str();
    let has_route = request.resource_map().has_resource(path) && !scopes::has_path(path);
    if has_route { RouteNeed::Scope(AccessScope::Operate) } else { RouteNeed::Open }
}

/// Checks the right that a route needs. Rows are compared with the grants by the shard manager.
fn check_need(caller: &Caller, need: RouteNeed) -> Result<(), Problem> {
    let has_grants = || caller.rights.role().is_none_or(|role| !role.role().grants().is_empty());
    match need {
        RouteNeed::Open => Ok(()),
        RouteNeed::Rows if has_grants() => Ok(()),
        RouteNeed::Rows => Err(answers::without_grants()),
        RouteNeed::Scope(scope) => {
            caller.rights.allow_scope(scope).map_err(|denied| answers::forbidden(&denied))
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

/// Returns the number of requests that a request to one shard counts as: a write that replicas
/// confirm, and a read that must not miss it, keep several nodes busy.
fn request_cost(headers: &HeaderMap) -> u64 {
    let level = headers.get(X_CONSISTENCY).map(HeaderValue::as_bytes);
    if matches!(level, None | Some(b"one")) { 1 } else { 2 }
}
