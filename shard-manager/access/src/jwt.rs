//! JSON Web Tokens: verifies tokens that other systems (issuers) have signed.
//!
//! The rules are those of RFC 8725: the algorithm is a property of the key, and the header of the
//! token must name the same one; keys come from the issuer's settings and never from the token;
//! before the signature is verified, the token is used only to select the issuer and the key.
//!
//! **Invariant:** a verified token was signed by a key of a configured issuer for one of its
//! audiences, is valid at the given time, and names a role that the issuer's settings do not
//! exclude.
//! **Not here:** denials, and the check that the issuer may give the scopes of the role
//! (`authenticator`); rights (`rights`); fetching keys.

mod claims;
mod compact;
pub mod issuer;
pub mod key_set;
mod provider;
mod unique_json;

use std::sync::Arc;

use jsonwebtoken::decode;
use serde::de::IgnoredAny;

use crate::auth_error::{AuthError, AuthReason};
use crate::tenant::Tenants;
use crate::unix_time::UnixTime;
use compact::CompactToken;
use issuer::{Issuer, IssuerError};

/// Maximum permitted difference between the clocks of an issuer and a router, in seconds.
pub const SKEW_SECONDS: u64 = 30;
/// Maximum length of a token in bytes.
pub const TOKEN_LEN_MAX: usize = 8_192;

/// Signature algorithm that an issuer may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenAlgorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA over P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
    /// HMAC with SHA-256.
    Hs256,
}

impl TokenAlgorithm {
    /// All algorithms.
    pub const ALL: [Self; 4] = [Self::Rs256, Self::Es256, Self::EdDsa, Self::Hs256];

    /// Returns the name used in the header of a token and in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
            Self::Hs256 => "HS256",
        }
    }

    /// Returns the algorithm with this name. Names are case-sensitive.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    fn in_library(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::Rs256 => jsonwebtoken::Algorithm::RS256,
            Self::Es256 => jsonwebtoken::Algorithm::ES256,
            Self::EdDsa => jsonwebtoken::Algorithm::EdDSA,
            Self::Hs256 => jsonwebtoken::Algorithm::HS256,
        }
    }
}

/// Claims of a token whose signature and claims were verified.
#[derive(Clone, Debug)]
pub struct VerifiedToken {
    /// Issuer of the token.
    pub issuer: Arc<Issuer>,
    /// Claim `sub`: subject of the token.
    pub subject: Option<Box<str>>,
    /// Claim `jti`: id of the token.
    pub id: Option<Box<str>>,
    /// Claim `iat`: time at which the token was issued.
    pub issued_at: Option<UnixTime>,
    /// Claim `exp`: time at which the token expires.
    pub expires_at: UnixTime,
    /// Time until which the token may be accepted without being verified again: `exp` plus
    /// [`SKEW_SECONDS`], or the time from which the issuer's keys may not be used, if that is
    /// earlier.
    pub usable_until: UnixTime,
    /// Name of the role that the token names.
    pub role: Box<str>,
    /// Tenants that the token names.
    pub tenants: Tenants,
}

/// All issuers whose tokens are accepted.
#[derive(Debug, Default)]
pub struct Issuers(Vec<Arc<Issuer>>);

impl Issuers {
    /// Creates the set of these issuers.
    ///
    /// # Errors
    /// [`IssuerError::Twice`] if two issuers have the same name.
    pub fn new(issuers: Vec<Issuer>) -> Result<Self, IssuerError> {
        for (index, issuer) in issuers.iter().enumerate() {
            if issuers[..index].iter().any(|other| other.name() == issuer.name()) {
                return Err(IssuerError::Twice);
            }
        }
        Ok(Self(issuers.into_iter().map(Arc::new).collect()))
    }

    /// Verifies a token. `may_check` is called at most once, just before the signature would be
    /// verified. If it returns false, because a limit on verifications is reached, the token is
    /// refused.
    ///
    /// # Errors
    /// [`AuthError`] with the exact reason for the refusal.
    pub fn verify(
        &self,
        text: &str,
        now: UnixTime,
        may_check: impl FnOnce() -> bool,
    ) -> Result<VerifiedToken, AuthError> {
        let token = CompactToken::parse(text)?;
        let name = token.issuer()?;
        let place = self.0.iter().position(|issuer| issuer.name() == name);
        let place = place.ok_or(AuthReason::TokenIssuer)?;
        let issuer = &self.0[place];
        let key = issuer.key(token.algorithm, token.key_id.as_deref(), now);
        let key = key.map_err(|reason| AuthError {
            reason,
            lacking_issuer: (reason == AuthReason::TokenKeyUnknown).then_some(place),
        })?;
        if !may_check() {
            return Err(AuthReason::TooManyChecks.into());
        }
        let validation = issuer.validation(token.algorithm).ok_or(AuthReason::TokenAlgorithm)?;
        // The library verifies the signature and checks the algorithm, issuer and audience. It
        // would compare the times with a clock of its own, so `claims::check` compares them with
        // `now`.
        if let Err(error) = decode::<IgnoredAny>(text, key, validation) {
            return Err(refusal(&error).into());
        }
        claims::check(&token.claims, issuer, now)
    }
}

fn refusal(error: &jsonwebtoken::errors::Error) -> AuthReason {
    use jsonwebtoken::errors::ErrorKind;
    let kind = error.kind();
    if let ErrorKind::MissingRequiredClaim(claim) = kind {
        let known = ["exp", "iss", "aud"].into_iter().find(|known| known == claim);
        return AuthReason::TokenClaim(known.unwrap_or("aud"));
    }
    if matches!(kind, ErrorKind::InvalidSignature) {
        AuthReason::TokenSignature
    } else if matches!(kind, ErrorKind::InvalidAudience) {
        AuthReason::TokenAudience
    } else if matches!(kind, ErrorKind::InvalidIssuer) {
        AuthReason::TokenIssuer
    } else if matches!(kind, ErrorKind::InvalidAlgorithm) {
        AuthReason::TokenAlgorithm
    } else {
        AuthReason::TokenMalformed
    }
}
