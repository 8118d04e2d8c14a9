//! Snapshot: all keys, roles and denials at one moment, and the caller of each key.
//!
//! A request reads one snapshot without a lock, and a change replaces the whole snapshot. There is
//! no cache of accepted keys that a revocation would have to invalidate: each request compares the
//! digest of its key with the snapshot.
//!
//! **Invariant:** a key whose role does not exist has no rights.
//! **Not here:** reading the catalog, the comparison of keys (`known_keys`), tokens
//! (`authenticator`).

mod key_use;
mod known_keys;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::caller::{Caller, Principal};
use crate::denial::{Denial, Denials};
use crate::key_record::{KeyRecord, KeyState};
use crate::limit::caller_limits::CallerLimits;
use crate::limit::limit_cells::{LimitCells, LimitSubject};
use crate::rights::{CompiledRole, Rights};
use crate::role::AccessRole;
use crate::tenant::Tenants;
use crate::unix_time::UnixTime;
use key_use::KeyUse;
use known_keys::KeyEntry;
pub use known_keys::KnownKeys;

/// Keys, roles and denials as they are stored.
#[derive(Debug, Default)]
pub struct SnapshotContents {
    /// The keys.
    pub keys: Vec<KeyRecord>,
    /// The roles, without those that are built in.
    pub roles: Vec<AccessRole>,
    /// The denials.
    pub denials: Vec<Denial>,
    /// Number that the catalog raises with each change of keys, roles or denials.
    pub generation: u64,
    /// Time at which these contents were known to be current.
    pub read_at: UnixTime,
}

/// Counters and settings from which the limits of callers are made.
#[derive(Clone, Copy, Debug)]
pub struct LimitSource<'c> {
    /// The counters of all callers.
    pub cells: &'c LimitCells,
    /// Number of routers among which rates are divided.
    pub routers: u64,
}

/// Keys, roles and denials at one moment.
#[derive(Debug)]
pub struct Snapshot {
    keys: KnownKeys,
    roles: HashMap<Box<str>, Arc<CompiledRole>>,
    denials: Denials,
    anonymous: Arc<Caller>,
    generation: u64,
    /// Time at which this snapshot was last known to be current, in seconds since 1970.
    current_at: AtomicU64,
}

impl Snapshot {
    /// Maximum number of keys.
    pub const KEYS_MAX: usize = 100_000;
    /// Maximum number of defined roles, without the built-in roles.
    pub const ROLES_MAX: usize = 1_000;

    /// Builds a snapshot.
    ///
    /// # Errors
    /// [`SnapshotError`] if there are too many keys or roles.
    pub fn build(
        contents: SnapshotContents,
        limits: &LimitSource<'_>,
    ) -> Result<Self, SnapshotError> {
        if contents.keys.len() > Self::KEYS_MAX {
            return Err(SnapshotError::TooManyKeys { count: contents.keys.len() });
        }
        if contents.roles.len() > Self::ROLES_MAX {
            return Err(SnapshotError::TooManyRoles { count: contents.roles.len() });
        }
        // The only built-in role that a stored one may replace is `anonymous`.
        let stored =
            contents.roles.into_iter().filter(|role| !AccessRole::is_reserved(role.name()));
        let roles = AccessRole::built_in().into_iter().chain(stored);
        let roles = roles.map(|role| (role.name().into(), Arc::new(CompiledRole::new(role))));
        let mut snapshot = Self {
            keys: KnownKeys::default(),
            roles: roles.collect(),
            denials: Denials::new(contents.denials),
            anonymous: Arc::new(anonymous(Rights::none())),
            generation: contents.generation,
            current_at: AtomicU64::new(contents.read_at.seconds()),
        };
        if let Some(role) = snapshot.roles.get(AccessRole::ANONYMOUS) {
            let number = limits.cells.number(&subject(&Principal::Anonymous, "", &Tenants::none()));
            let rights = Rights::of(Arc::clone(role), Tenants::none()).with_number(number);
            let weight = role.role().weight();
            snapshot.anonymous = Arc::new(Caller { weight, ..anonymous(rights) });
        }
        snapshot.keys.reserve(contents.keys.len());
        for record in contents.keys {
            let id = record.id;
            // An id may have several records, for example one from a file and one from the catalog.
            // A record that is neither revoked nor suspended never replaces another record, so that
            // a revocation or suspension in one of them takes effect.
            let is_refused = record.state(UnixTime::default()) != KeyState::Usable;
            if is_refused || !snapshot.keys.contains(id) {
                let entry = snapshot.entry(record, limits);
                snapshot.keys.insert(id, entry);
            }
        }
        Ok(snapshot)
    }

    fn entry(&self, record: KeyRecord, limits: &LimitSource<'_>) -> KeyEntry {
        let state = record.state(UnixTime::default());
        let denied_until = self.denials.tenants_denied_until(&record.tenants);
        let last_use = Arc::new(KeyUse::new(record.used_on));
        let identity = CallerIdentity {
            principal: Principal::Key(record.id),
            role: record.role,
            tenants: record.tenants,
            expires_at: record.expires_at,
        };
        KeyEntry {
            digest: record.digest,
            state,
            expires_at: record.expires_at,
            denied_until,
            caller: Arc::new(self.caller(identity, limits)),
            last_use,
        }
    }

    /// Returns the keys.
    #[inline]
    pub fn keys(&self) -> &KnownKeys {
        &self.keys
    }

    /// Shares the days of last use of the keys with an earlier snapshot, which may still serve
    /// requests.
    pub fn share_uses(&mut self, earlier: &Self) {
        self.keys.share_uses(&earlier.keys);
    }

    /// Creates the caller that has this identity. If its role does not exist, the caller has no
    /// rights.
    pub fn caller(&self, identity: CallerIdentity, limits: &LimitSource<'_>) -> Caller {
        let CallerIdentity { principal, role, tenants, expires_at } = identity;
        let compiled = self.roles.get(&role);
        let numbers = compiled.map(|role| *role.role().limits()).unwrap_or_default();
        let counted = subject(&principal, &role, &tenants);
        let number = limits.cells.number(&counted);
        let counters = || match numbers.rows_per_day {
            Some(_) => limits.cells.state_with_quota(&counted),
            None => limits.cells.state(&counted),
        };
        let caller_limits = (!numbers.is_none())
            .then(|| CallerLimits::new(numbers.shared_by(limits.routers), counters()));
        let weight = compiled.map_or(1, |role| role.role().weight());
        let rights = compiled.map(|role| Rights::of(Arc::clone(role), tenants));
        let rights = rights.unwrap_or_else(Rights::none).with_number(number);
        Caller { principal, role, rights, weight, limits: caller_limits, expires_at }
    }

    /// Returns the caller of requests without credentials.
    #[inline]
    pub fn anonymous(&self) -> &Arc<Caller> {
        &self.anonymous
    }

    /// Returns the limits of requests without credentials from this address; `None` if the role
    /// `anonymous` has no limits.
    pub fn anonymous_limits(
        &self,
        address: IpAddr,
        limits: &LimitSource<'_>,
    ) -> Option<CallerLimits> {
        let role = self.roles.get(AccessRole::ANONYMOUS)?.role();
        let counters = || limits.cells.state(&LimitSubject::Address(address));
        let numbers = role.limits();
        (!numbers.is_none())
            .then(|| CallerLimits::new(numbers.shared_by(limits.routers), counters()))
    }

    /// Returns a role, if it exists.
    pub fn role(&self, name: &str) -> Option<&Arc<CompiledRole>> {
        self.roles.get(name)
    }

    /// Returns the denials.
    pub fn denials(&self) -> &Denials {
        &self.denials
    }

    /// Returns the generation of the catalog from which this snapshot was built.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns the number of seconds since this snapshot was last known to be current.
    pub fn age(&self, now: UnixTime) -> u64 {
        now.since(UnixTime::from_seconds(self.current_at.load(Ordering::Relaxed)))
    }

    /// Records that at the time `now` the catalog had no later change than this snapshot. An
    /// earlier time than the stored one means that the clock was set back; it replaces the stored
    /// time, because otherwise the age would be 0 until the clock reaches the stored time again.
    pub fn confirm(&self, now: UnixTime) {
        self.current_at.store(now.seconds(), Ordering::Relaxed);
    }
}

/// Identity that valid credentials prove.
#[derive(Clone, Debug)]
pub struct CallerIdentity {
    /// The identity.
    pub principal: Principal,
    /// Name of the role.
    pub role: Box<str>,
    /// Tenants of the caller.
    pub tenants: Tenants,
    /// Time from which the credentials are refused.
    pub expires_at: Option<UnixTime>,
}

fn subject<'s>(principal: &'s Principal, role: &'s str, tenants: &'s Tenants) -> LimitSubject<'s> {
    if !tenants.is_empty() {
        return LimitSubject::Tenants { role, tenants };
    }
    match principal {
        Principal::Key(id) => LimitSubject::Key(*id),
        Principal::Token { issuer, subject, .. } => {
            LimitSubject::Subject { issuer, subject: subject.as_deref().unwrap_or_default() }
        }
        Principal::Certificate { name } => LimitSubject::Subject { issuer: "", subject: name },
        Principal::Anonymous => LimitSubject::Subject { issuer: "", subject: "" },
    }
}

fn anonymous(rights: Rights) -> Caller {
    Caller {
        principal: Principal::Anonymous,
        role: AccessRole::ANONYMOUS.into(),
        rights,
        weight: 1,
        limits: None,
        expires_at: None,
    }
}

/// Reason why a snapshot cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// There are more keys than [`Snapshot::KEYS_MAX`].
    #[error(
        "there are {count} keys, and at most {} are possible: remove revoked ones",
        Snapshot::KEYS_MAX
    )]
    TooManyKeys {
        /// Number of keys.
        count: usize,
    },
    /// There are more roles than [`Snapshot::ROLES_MAX`].
    #[error("there are {count} roles, and at most {} are possible", Snapshot::ROLES_MAX)]
    TooManyRoles {
        /// Number of roles.
        count: usize,
    },
}
