//! Authenticator: verifies the credentials of a request and returns its caller.
//!
//! The secrets of API keys are verified in `snapshot::known_keys`.
//!
//! **Invariant:** a request with invalid credentials is refused and never treated as anonymous. A
//! cached token is accepted without verification only in the generation in which it was verified,
//! and each change of the snapshot, the issuers or their keys begins a new generation.
//! **Not here:** extracting credentials from a request (the router).

mod token_cache;

use std::sync::Arc;

use crate::auth_error::{AuthError, AuthReason};
use crate::caller::{Caller, Principal};
use crate::denial::TokenIdentity;
use crate::jwt::{Issuers, SKEW_SECONDS, TOKEN_LEN_MAX, VerifiedToken};
use crate::key::ApiKey;
use crate::limit::limit_cells::LimitCells;
use crate::session::{BrowserSession, SessionSecret};
use crate::snapshot::{CallerIdentity, LimitSource, Snapshot};
use crate::unix_time::UnixTime;
use token_cache::{CachedToken, TokenCache};

/// Settings of an authenticator.
#[derive(Clone, Copy, Debug)]
pub struct AuthSettings {
    /// Setting `access_stale_max_s`: maximum number of seconds since the snapshot was last known to
    /// be current; 0 for no maximum.
    pub stale_max: u64,
    /// Setting `limit_routers`: number of routers among which the rates of a role are divided.
    pub limit_routers: u64,
}

impl AuthSettings {
    /// Default of `stale_max`.
    pub const STALE_MAX_DEFAULT: u64 = 86_400;
}

/// State by which credentials are verified: one snapshot of keys, roles and denials, and the
/// issuers of tokens. It is replaced when one of these changes.
#[derive(Debug)]
pub struct Authenticator {
    snapshot: Arc<Snapshot>,
    issuers: Arc<Issuers>,
    settings: AuthSettings,
    generation: u64,
    tokens: Arc<TokenCache>,
    cells: Arc<LimitCells>,
}

impl Authenticator {
    /// Creates an authenticator. The secret must be random: it keeps clients from constructing two
    /// tokens with the same hash, which the token cache would confuse.
    pub fn new(
        snapshot: Snapshot,
        issuers: Issuers,
        settings: AuthSettings,
        cells: Arc<LimitCells>,
        secret: [u8; 16],
    ) -> Self {
        Self {
            snapshot: Arc::new(snapshot),
            issuers: Arc::new(issuers),
            settings,
            generation: 0,
            tokens: Arc::new(TokenCache::new(secret)),
            cells,
        }
    }

    /// Returns an authenticator with another snapshot.
    #[must_use]
    pub fn with_snapshot(&self, snapshot: Snapshot) -> Self {
        self.next(Arc::new(snapshot), Arc::clone(&self.issuers))
    }

    /// Returns an authenticator with other issuers, or with other keys of the same issuers.
    #[must_use]
    pub fn with_issuers(&self, issuers: Issuers) -> Self {
        self.next(Arc::clone(&self.snapshot), Arc::new(issuers))
    }

    /// Returns an authenticator with the same issuers and keys, where the keys may be used for
    /// longer. The generation stays the same, so cached tokens remain usable, each until the time
    /// at which its own entry expires: reloading unchanged keys does not cause all signatures to be
    /// verified again.
    #[must_use]
    pub fn with_prolonged_issuers(&self, issuers: Issuers) -> Self {
        let generation = self.generation;
        Self { generation, ..self.next(Arc::clone(&self.snapshot), Arc::new(issuers)) }
    }

    fn next(&self, snapshot: Arc<Snapshot>, issuers: Arc<Issuers>) -> Self {
        Self {
            snapshot,
            issuers,
            settings: self.settings,
            generation: self.tokens.next_generation(),
            tokens: Arc::clone(&self.tokens),
            cells: Arc::clone(&self.cells),
        }
    }

    /// Returns the keys, roles and denials.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Returns the counters and the number of routers from which the limits of callers are made.
    pub fn limits(&self) -> LimitSource<'_> {
        LimitSource { cells: &self.cells, routers: self.settings.limit_routers }
    }

    /// Returns the caller of a request without credentials.
    ///
    /// # Errors
    /// [`AuthReason::SnapshotStale`] if the snapshot was last known to be current too long ago.
    pub fn anonymous(&self, now: UnixTime) -> Result<Arc<Caller>, AuthError> {
        self.check_age(now)?;
        Ok(Arc::clone(self.snapshot.anonymous()))
    }

    /// Returns the caller that sent these credentials: an API key or a token. `may_check` is called
    /// only if a signature must be verified. If it returns false, because a limit on verifications
    /// is reached, the token is refused.
    ///
    /// # Errors
    /// [`AuthError`] with the exact reason for the refusal.
    pub fn authenticate(
        &self,
        credentials: &str,
        now: UnixTime,
        may_check: impl FnOnce() -> bool,
    ) -> Result<Arc<Caller>, AuthError> {
        self.check_age(now)?;
        if ApiKey::is_like(credentials) {
            return self.snapshot.keys().authenticate(credentials, now).map(Arc::clone);
        }
        // A client chooses the length of the string, so it is checked before the string is hashed
        // for the lookup in the cache.
        if credentials.len() > TOKEN_LEN_MAX {
            return Err(AuthReason::TokenTooLong.into());
        }
        let name = self.tokens.name(credentials);
        if let Some(caller) = self.tokens.get(name, self.generation, now) {
            return Ok(caller);
        }
        let token = self.issuers.verify(credentials, now, may_check)?;
        let usable_until = token.usable_until;
        let caller = Arc::new(self.token_caller(token, now)?);
        let cached =
            CachedToken { caller: Arc::clone(&caller), usable_until, generation: self.generation };
        self.tokens.insert(name, cached);
        Ok(caller)
    }

    /// Verifies `text`, the session in a browser's cookie, and returns the caller of its key and
    /// the session itself. The session may expire before the key does.
    ///
    /// # Errors
    /// [`AuthError`] if the session is not valid, or its key does not exist or is not usable.
    pub fn authenticate_session(
        &self,
        text: &str,
        secret: &SessionSecret,
        now: UnixTime,
    ) -> Result<(Arc<Caller>, BrowserSession), AuthError> {
        self.check_age(now)?;
        let session = secret.open(text, now)?;
        let caller = self.snapshot.keys().authenticate_session(&session, now)?;
        Ok((Arc::clone(caller), session))
    }

    /// Returns the caller of a client certificate. The certificate must have been verified and
    /// mapped to an identity before.
    ///
    /// # Errors
    /// [`AuthError`] if a tenant is denied or contains a separator of the role, or if the snapshot
    /// was last known to be current too long ago.
    pub fn authenticate_certificate(
        &self,
        identity: CallerIdentity,
        now: UnixTime,
    ) -> Result<Caller, AuthError> {
        self.check_age(now)?;
        if let Some(role) = self.snapshot.role(&identity.role) {
            let separators = role.role().separators();
            identity.tenants.check_separators(separators).map_err(|_| AuthReason::Tenant)?;
        }
        self.check_tenants(&identity, now)?;
        Ok(self.snapshot.caller(identity, &self.limits()))
    }

    /// Returns the generation: the number of this state of keys, roles, denials and issuers. A
    /// caller from an earlier generation may have lost its rights.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Checks that the snapshot was known to be current at most `stale_max` seconds ago.
    ///
    /// # Errors
    /// [`AuthReason::SnapshotStale`] if it was last known to be current longer ago.
    pub fn check_age(&self, now: UnixTime) -> Result<(), AuthError> {
        let most = self.settings.stale_max;
        if most > 0 && self.snapshot.age(now) > most {
            return Err(AuthReason::SnapshotStale.into());
        }
        Ok(())
    }

    fn check_tenants(&self, identity: &CallerIdentity, now: UnixTime) -> Result<(), AuthError> {
        let denied_until = self.snapshot.denials().tenants_denied_until(&identity.tenants);
        if denied_until.is_some_and(|until| now < until) {
            return Err(AuthReason::TenantDenied.into());
        }
        Ok(())
    }

    fn token_caller(&self, token: VerifiedToken, now: UnixTime) -> Result<Caller, AuthError> {
        let identity = TokenIdentity {
            issuer: token.issuer.name(),
            subject: token.subject.as_deref(),
            id: token.id.as_deref(),
            issued_at: token.issued_at,
        };
        if self.snapshot.denials().denies_token(&identity, now) {
            return Err(AuthReason::TokenDenied.into());
        }
        if let Some(role) = self.snapshot.role(&token.role) {
            if !token.issuer.may_give(role.role()) {
                return Err(AuthReason::TokenRole.into());
            }
            let separators = role.role().separators();
            token.tenants.check_separators(separators).map_err(|_| AuthReason::Tenant)?;
        }
        let identity = CallerIdentity {
            principal: Principal::Token {
                issuer: token.issuer.name().into(),
                subject: token.subject,
                id: token.id,
            },
            role: token.role,
            tenants: token.tenants,
            // The verification of the token permits the same clock difference, so new requests are
            // accepted until this time, too.
            expires_at: Some(token.expires_at.plus(SKEW_SECONDS)),
        };
        self.check_tenants(&identity, now)?;
        Ok(self.snapshot.caller(identity, &self.limits()))
    }
}
