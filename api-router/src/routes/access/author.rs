//! Author: the caller that reads or changes keys, roles and denials, and the limits of the rights
//! that it may give.
//!
//! **Invariant:** a caller cannot give a right that it does not have. This also holds in the mode
//! `observe`, because a key that is created then will be in force later. A change is in force in
//! this router before its response is sent.
//! **Not here:** storage and the rules of changes (`shard_manager::engine::access_store`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::HttpRequest;
use actix_web::web::{Bytes, Payload};
use shard_manager::access::caller::{Caller, Principal};
use shard_manager::access::key_record::KeyRecord;
use shard_manager::access::rights::Excess;
use shard_manager::access::role::AccessRole;
use shard_manager::access::scope::AccessScope;
use shard_manager::access::tenant::Tenants;
use shard_manager::engine::access_store::{
    AccessChange, AccessError, AccessRefusal, AccessState, ChangeAuthor,
};

use crate::access::access_problems;
use crate::access::clock::unix_now;
use crate::access::files::FileRecords;
use crate::access::gate::AccessGate;
use crate::access::scopes::RouteNeed;
use crate::access::sources::AccessSources;
use crate::access::watcher::apply_catalog;
use crate::app::App;
use crate::headers::{check_content_type, deadline};
use crate::problem::{Code, Problem};
use crate::query::Parameters;

/// Maximum number of bytes of a body; the largest one defines a role.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Longest time to wait for the catalog's latest state when keys are listed.
const LATEST_MAX: Duration = Duration::from_secs(2);
/// Value of the member `outcome` if a request fails after its change was stored.
pub(super) const COMMITTED: &str = "committed";
/// Maximum number of characters of an author's name.
const NAME_LEN_MAX: usize = 200;

/// Caller of a request about keys, roles or denials.
pub(super) struct Author<'a> {
    app: &'a App,
    gate: &'a AccessGate,
    sources: &'a Arc<AccessSources>,
    caller: Arc<Caller>,
}

impl<'a> Author<'a> {
    /// Checks the parameters of a request, and that its caller has the scope `keys`; returns the
    /// caller.
    ///
    /// # Errors
    /// TSR100 for other parameters, TSR403 without the scope, TSR401 without credentials, TSR111 if
    /// access control is off.
    pub(super) fn of(
        app: &'a App,
        request: &HttpRequest,
        parameters: &[&str],
    ) -> Result<Self, Problem> {
        Parameters::parse(request.query_string())?.check_names(parameters)?;
        let (Some(gate), Some(sources)) = (app.gate.as_deref(), &app.access_sources) else {
            return Err(Problem::new(Code::TSR111, "access control is off"));
        };
        let caller = caller(gate, request)?;
        if let Err(denied) = caller.rights.allow_scope(AccessScope::Keys) {
            let is_anonymous = caller.principal == Principal::Anonymous;
            return Err(if is_anonymous {
                access_problems::missing()
            } else {
                access_problems::forbidden(&denied)
            });
        }
        Ok(Self { app, gate, sources, caller })
    }

    /// Reads the JSON body of a request, before the deadline of the request. Because the body may
    /// have arrived slowly, the caller is then authenticated again and has its present rights.
    ///
    /// # Errors
    /// The problem of a body that cannot be read, or of a caller that may no longer change keys.
    pub(super) async fn read_body(
        &mut self,
        request: &HttpRequest,
        payload: Payload,
    ) -> Result<Bytes, Problem> {
        check_content_type(request.headers())?;
        let deadline = Instant::now() + deadline(request.headers())?;
        let (bytes, _share) =
            self.app.read_body(request, payload, BODY_BYTES_MAX, deadline).await?;
        let need = RouteNeed::Scope(AccessScope::Keys);
        self.caller = present_caller(self.gate, request, need)?;
        Ok(bytes)
    }

    /// Returns the records of the files and the state of the catalog that are in force.
    pub(super) fn known(&self) -> (Arc<FileRecords>, Arc<AccessState>) {
        self.sources.current()
    }

    /// Returns the records of the files, and the latest state of the catalog, which includes the
    /// uses of keys through all routers. If the catalog does not respond in time, its state in
    /// force is returned.
    pub(super) async fn latest(&self) -> (Arc<FileRecords>, Arc<AccessState>) {
        let (files, known) = self.known();
        let load = self.app.manager.access().load();
        match tokio::time::timeout(LATEST_MAX, load).await {
            Ok(Ok(state)) => (files, Arc::new(state)),
            Ok(Err(_)) | Err(_) => (files, known),
        }
    }

    /// Returns the last day on which a key was used: the later of the day known to this router and
    /// the day in the key's record.
    pub(super) fn used_on(&self, key: &KeyRecord) -> Option<u32> {
        self.gate.authenticator.get().snapshot().keys().used_on(key.id).max(key.used_on)
    }

    /// Checks that the author has all rights of a role, if given to callers with these tenants.
    /// Both its definition in force here and the one in the catalog are checked, because the latter
    /// may be in force in another router.
    ///
    /// # Errors
    /// TSR403 names the right that the author lacks; TSR101 if the role does not exist.
    pub(super) fn check_may_give(&self, role: &str, tenants: &Tenants) -> Result<(), Problem> {
        let current = self.gate.authenticator.get();
        let (_, catalog) = self.known();
        let compiled = current.snapshot().role(role);
        let in_force = compiled.map(|compiled| compiled.role());
        let of_catalog = catalog.roles.iter().find(|known| known.name() == role);
        if in_force.is_none() && of_catalog.is_none() {
            return Err(Problem::new(Code::TSR101, "role: there is no role of this name")
                .hint("GET /api/access/roles lists them"));
        }
        let is_built_in = || AccessRole::built_in().iter().any(|known| known.name() == role);
        if of_catalog.is_none() && !is_built_in() {
            return Err(Problem::new(
                Code::TSR101,
                format!(
                    "role: `{role}` stands only in access_roles_file, and a key of the catalog is one of all routers, \
                     also of those without the file"
                ),
            )
            .hint("define it in the catalog by shard-manager role apply, or put the key into access_keys_file"));
        }
        let definitions = in_force.into_iter().chain(of_catalog);
        definitions.into_iter().try_for_each(|role| self.check_covers(role, Some(tenants)))
    }

    /// Checks that the author has all rights of a role: for these tenants, or for every tenant if
    /// `None`.
    ///
    /// # Errors
    /// TSR403 names the right that the author lacks.
    pub(super) fn check_covers(
        &self,
        role: &AccessRole,
        tenants: Option<&Tenants>,
    ) -> Result<(), Problem> {
        self.caller.rights.covers(role, tenants).map_err(|excess: Excess| {
            beyond(format!("the role {} exceeds your rights: {excess}", role.name()))
        })
    }

    /// Checks that the author has every right, which is needed to end a denial, or to make it end
    /// earlier.
    ///
    /// # Errors
    /// TSR403 if it does not.
    pub(super) fn check_all_powerful(&self) -> Result<(), Problem> {
        let [admin, ..] = AccessRole::built_in();
        self.caller.rights.covers(&admin, None).map_err(|_: Excess| {
            let role = AccessRole::ADMIN;
            beyond(format!(
                "only a caller with every right, such as one with the role {role}, may end a denial \
                 or make it end earlier"
            ))
        })
    }

    /// Stores a change in the catalog, and brings it into force in this router.
    ///
    /// # Errors
    /// The problem of a change that a rule forbids, or that may not have been stored.
    pub(super) async fn change(&self, change: &AccessChange) -> Result<(), Problem> {
        let author = ChangeAuthor::Caller(name(&self.caller.principal));
        let changed = self.app.manager.access().change(change, &author, unix_now()).await;
        changed.map_err(refused)?;
        apply_catalog(self.sources).await;
        Ok(())
    }
}

/// Returns the caller of a request. In the mode `observe` a request may have been admitted with
/// invalid credentials, so they are checked here.
fn caller(gate: &AccessGate, request: &HttpRequest) -> Result<Arc<Caller>, Problem> {
    if gate.is_enforced() {
        return Ok(gate.caller(request));
    }
    present_caller(gate, request, RouteNeed::Open)
}

/// Authenticates the caller of a request again, and returns it with its present rights.
fn present_caller(
    gate: &AccessGate,
    request: &HttpRequest,
    need: RouteNeed,
) -> Result<Arc<Caller>, Problem> {
    let credentials = gate.sessions.keep_credentials(request);
    let certificate = gate.certificate(request).map(Arc::as_ref);
    gate.recheck(credentials.borrow(), certificate, need)
}

/// Returns the problem of an author that lacks a right.
fn beyond(detail: String) -> Problem {
    Problem::new(Code::TSR403, detail).hint("GET /api/access/me lists what this caller may do")
}

/// Returns the name with which an author is recorded; it contains no secret.
fn name(principal: &Principal) -> Box<str> {
    let name = match principal {
        Principal::Anonymous => "anonymous".to_owned(),
        Principal::Key(id) => format!("key {id}"),
        Principal::Token { issuer, subject, .. } => {
            format!("token {} of {issuer}", subject.as_deref().unwrap_or("without sub"))
        }
        Principal::Certificate { name } => format!("certificate {name}"),
    };
    name.chars().filter(|c| !c.is_control()).take(NAME_LEN_MAX).collect()
}

/// Returns the problem of a change that a rule forbids, or during which the catalog failed.
fn refused(error: AccessError) -> Problem {
    let refusal = match error {
        // The catalog may have stored the change before it failed.
        AccessError::Catalog(error) => return Problem::from(error).outcome("unknown"),
        AccessError::Refused(refusal) => refusal,
    };
    let code = match &refusal {
        AccessRefusal::NoSuchKey(_) | AccessRefusal::NoSuchDenial => Code::TSR111,
        AccessRefusal::Name
        | AccessRefusal::NoSuchRole { .. }
        | AccessRefusal::ReservedRole(_)
        | AccessRefusal::Tenant(_)
        | AccessRefusal::Expired
        | AccessRefusal::DenialText => Code::TSR101,
        AccessRefusal::LastAdmin | AccessRefusal::CommandLineOnly => Code::TSR403,
        AccessRefusal::KeyExists(_)
        | AccessRefusal::KeyState { .. }
        | AccessRefusal::UnreadableRole(_)
        | AccessRefusal::RoleInUse { .. }
        | AccessRefusal::TooManyKeys { .. }
        | AccessRefusal::TooManyRoles { .. }
        | AccessRefusal::TooManyDenials => Code::TSR409,
    };
    Problem::new(code, format!("{}: {refusal}", refusal.member()))
}
