//! Issuers: the systems whose tokens are accepted, with their keys and the roles that they may
//! give.
//!
//! **Invariant:** an issuer has at least one audience and one algorithm. An issuer has either a
//! secret, for HS256, or public keys, for the other algorithms, never both.
//! **Not here:** reading settings, files and URLs.

use std::collections::HashSet;
use std::sync::Arc;

use jsonwebtoken::{DecodingKey, Validation};

use super::TokenAlgorithm;
use super::key_set::{KeySet, VerifyingKey};
use super::provider;
use crate::auth_error::AuthReason;
use crate::role::AccessRole;
use crate::unix_time::UnixTime;

/// Settings of an issuer.
#[derive(Clone, Debug)]
pub struct IssuerSettings {
    /// Setting `issuer`: the value of `iss`.
    pub issuer: String,
    /// Setting `audience`: values of `aud`. A token must have at least one of them.
    pub audiences: Vec<String>,
    /// Setting `algorithms`: the signature algorithms that the issuer may use.
    pub algorithms: Vec<TokenAlgorithm>,
    /// Setting `role_claim`: JSON Pointer to the claim that names the role.
    pub role_claim: String,
    /// Setting `tenant_claim`: JSON Pointer to the claim that is a tenant or a list of tenants.
    pub tenant_claim: Option<String>,
    /// Setting `roles`: names of the roles that the issuer may give. If it is `None`, the issuer
    /// may give every role that has no scopes.
    pub roles: Option<Vec<String>>,
    /// Setting `lifetime_max_s`: maximum lifetime of a token in seconds.
    pub lifetime_max: u64,
}

impl IssuerSettings {
    /// Default of `lifetime_max`.
    pub const LIFETIME_MAX_DEFAULT: u64 = 86_400;
}

/// Keys of an issuer, and the time until which they may be used.
#[derive(Clone, Debug)]
pub struct LoadedKeys {
    /// The keys.
    pub set: Arc<KeySet>,
    /// Time from which the keys may not be used, unless they have been fetched again; `None` if
    /// they may be used without a limit.
    pub usable_until: Option<UnixTime>,
}

/// System whose tokens are accepted.
#[derive(Debug)]
pub struct Issuer {
    settings: IssuerSettings,
    validations: Vec<(TokenAlgorithm, Validation)>,
    keys: Option<LoadedKeys>,
}

impl Issuer {
    /// Creates an issuer after checking its settings. If `keys` is `None`, its tokens are refused,
    /// because they cannot be verified yet.
    ///
    /// # Errors
    /// [`IssuerError`] names the faulty setting and states how to correct it.
    pub fn new(settings: IssuerSettings, keys: Option<LoadedKeys>) -> Result<Self, IssuerError> {
        check(&settings)?;
        if !provider::install() {
            return Err(IssuerError::OtherCryptography);
        }
        let has_secret = settings.algorithms.contains(&TokenAlgorithm::Hs256);
        if keys.as_ref().is_some_and(|keys| keys.set.is_secret != has_secret) {
            return Err(IssuerError::Source);
        }
        let algorithms = settings.algorithms.iter();
        let validations = algorithms.map(|one| (*one, validation(&settings, *one))).collect();
        Ok(Self { settings, validations, keys })
    }

    /// Returns the value of `iss`.
    #[inline]
    pub fn name(&self) -> &str {
        &self.settings.issuer
    }

    /// Returns the time from which the loaded keys may not be used to verify tokens. A token that
    /// they have verified may be accepted from the cache only until this time.
    pub(super) fn keys_usable_until(&self) -> UnixTime {
        let until = self.keys.as_ref().and_then(|keys| keys.usable_until);
        until.unwrap_or(UnixTime::MAX)
    }

    pub(super) fn audiences(&self) -> &[String] {
        &self.settings.audiences
    }

    pub(super) fn lifetime_max(&self) -> u64 {
        self.settings.lifetime_max
    }

    pub(super) fn role_claim(&self) -> &str {
        &self.settings.role_claim
    }

    pub(super) fn tenant_claim(&self) -> Option<&str> {
        self.settings.tenant_claim.as_deref()
    }

    /// Returns true if a token of this issuer may name this role. The scopes of the role are not
    /// checked here: see [`Issuer::may_give`].
    pub(super) fn may_name(&self, role: &str) -> bool {
        let listed = self.settings.roles.as_ref();
        AccessRole::is_name(role) && listed.is_none_or(|roles| roles.iter().any(|one| one == role))
    }

    /// Returns true if the issuer may give this role: either the settings list the role, or they
    /// list no roles and the role has no scopes.
    pub fn may_give(&self, role: &AccessRole) -> bool {
        match &self.settings.roles {
            Some(roles) => roles.iter().any(|one| one == role.name()),
            None => role.scopes().is_empty(),
        }
    }

    pub(super) fn validation(&self, algorithm: TokenAlgorithm) -> Option<&Validation> {
        let found = self.validations.iter().find(|(known, _)| *known == algorithm);
        found.map(|(_, validation)| validation)
    }

    /// Returns the key that must have signed a token with this algorithm and `kid`. A key is used
    /// only for its own algorithm.
    pub(super) fn key(
        &self,
        algorithm: TokenAlgorithm,
        id: Option<&str>,
        now: UnixTime,
    ) -> Result<&DecodingKey, AuthReason> {
        if !self.settings.algorithms.contains(&algorithm) {
            return Err(AuthReason::TokenAlgorithm);
        }
        let is_usable = |keys: &&LoadedKeys| keys.usable_until.is_none_or(|until| now < until);
        let keys = self.keys.as_ref().filter(is_usable).ok_or(AuthReason::KeySetUnavailable)?;
        let all = &keys.set.keys;
        let has_id = |key: &&VerifyingKey| match id {
            Some(id) if !keys.set.is_secret => key.id.as_deref() == Some(id),
            Some(_) | None => true,
        };
        if !all.iter().any(|key| has_id(&key)) {
            return Err(AuthReason::TokenKeyUnknown);
        }
        let mut fitting = all.iter().filter(has_id).filter(|key| key.algorithm == algorithm);
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Ok(&key.key),
            (Some(_), Some(_)) => Err(AuthReason::TokenKeyAmbiguous),
            (None, _) => Err(AuthReason::TokenAlgorithm),
        }
    }
}

/// Returns the settings of the checks that the library makes. It does not check the times, because
/// it would read the clock itself.
fn validation(settings: &IssuerSettings, algorithm: TokenAlgorithm) -> Validation {
    let mut validation = Validation::new(algorithm.in_library());
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.set_issuer(&[&settings.issuer]);
    validation.set_audience(&settings.audiences);
    validation.required_spec_claims =
        ["exp", "iss", "aud"].map(str::to_owned).into_iter().collect::<HashSet<_>>();
    validation
}

fn check(settings: &IssuerSettings) -> Result<(), IssuerError> {
    if settings.issuer.is_empty() {
        return Err(IssuerError::NoName);
    }
    if settings.audiences.is_empty() || settings.audiences.iter().any(String::is_empty) {
        return Err(IssuerError::NoAudience);
    }
    let has_secret = settings.algorithms.contains(&TokenAlgorithm::Hs256);
    if settings.algorithms.is_empty() {
        return Err(IssuerError::NoAlgorithm);
    }
    if has_secret && settings.algorithms.len() > 1 {
        return Err(IssuerError::MixedAlgorithms);
    }
    if !is_pointer(&settings.role_claim) {
        return Err(IssuerError::Pointer { member: "role_claim" });
    }
    if settings.tenant_claim.as_deref().is_some_and(|pointer| !is_pointer(pointer)) {
        return Err(IssuerError::Pointer { member: "tenant_claim" });
    }
    if settings.lifetime_max == 0 {
        return Err(IssuerError::Lifetime);
    }
    let mut roles = settings.roles.iter().flatten();
    if roles.any(|role| !AccessRole::is_name(role)) {
        return Err(IssuerError::Role);
    }
    Ok(())
}

/// Returns true if the string is a JSON Pointer (RFC 6901) to a value inside the claims.
fn is_pointer(text: &str) -> bool {
    text.len() > 1 && text.starts_with('/')
}

/// Reason why the settings of an issuer are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssuerError {
    /// The name of the issuer is empty.
    #[error("issuer is empty: give the value of `iss`")]
    NoName,
    /// The list of audiences is empty or contains an empty string.
    #[error("audience is missing: give the value of `aud` that is meant for this cluster")]
    NoAudience,
    /// The list of algorithms is empty.
    #[error("algorithms is empty: use some of RS256, ES256, EdDSA, or HS256 alone")]
    NoAlgorithm,
    /// HS256 is combined with other algorithms.
    #[error("algorithms has HS256 beside others: a public key would be taken as a secret")]
    MixedAlgorithms,
    /// A secret is given for other algorithms, or public keys for HS256.
    #[error("HS256 needs secret_file, and the other algorithms need jwks_file or jwks_url")]
    Source,
    /// The value of a setting is not a JSON Pointer.
    #[error("{member} is not a JSON Pointer: write it as in /realm/role")]
    Pointer {
        /// Name of the setting.
        member: &'static str,
    },
    /// The maximum lifetime is 0.
    #[error("lifetime_max_s must be at least 1")]
    Lifetime,
    /// A name of a role is malformed.
    #[error("roles must be names of roles")]
    Role,
    /// Two issuers have the same name.
    #[error("two issuers have the same name")]
    Twice,
    /// Another cryptography provider was installed in `jsonwebtoken` before.
    #[error("other cryptography for tokens was installed in this process before")]
    OtherCryptography,
}
