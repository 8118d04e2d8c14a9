//! Reasons why credentials are refused, and the few of them that a client learns.
//!
//! **Invariant:** to a client, unknown, wrong, revoked and suspended credentials look alike;
//! "expired" is said only if the secret, the code or the signature was right. `Display` prints only
//! what a client may learn.
//! **Not here:** HTTP statuses and headers (the router).

use std::fmt;

/// Refusal of credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthError {
    /// Exact reason, for counters and the audit log.
    pub reason: AuthReason,
}

/// Part of a refusal that a client learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthOutcome {
    /// The credentials are no good.
    Invalid,
    /// The credentials were good and are too old.
    Expired,
    /// Too many credentials are being examined.
    Limited,
    /// Credentials cannot be judged now, because keys are not known.
    Unavailable,
}

/// Exact reason of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthReason {
    /// The text is no key: a character is missing or wrong.
    KeyMalformed,
    /// No key has this id.
    KeyUnknown,
    /// The secret is another one's.
    KeyWrong,
    /// The key was revoked.
    KeyRevoked,
    /// The key came from a backup and was not resumed.
    KeySuspended,
    /// The key has expired.
    KeyExpired,
    /// The text is no session: a part is missing or malformed, or there are two.
    SessionMalformed,
    /// The code of the session was not made with the secret.
    SessionForged,
    /// All sessions of its time were ended.
    SessionEnded,
    /// The session has expired.
    SessionExpired,
    /// The token is longer than is examined.
    TokenTooLong,
    /// The text is no token of three parts of JSON.
    TokenMalformed,
    /// This member of the header is missing, refused or of a wrong type.
    TokenHeader(&'static str),
    /// The algorithm is none that the issuer uses, or not the key's.
    TokenAlgorithm,
    /// No issuer of this name is configured.
    TokenIssuer,
    /// No key of the issuer has this `kid`.
    TokenKeyUnknown,
    /// Several keys of the issuer fit.
    TokenKeyAmbiguous,
    /// The signature is wrong.
    TokenSignature,
    /// This claim is missing or of a wrong type or value.
    TokenClaim(&'static str),
    /// The token is for another audience.
    TokenAudience,
    /// The token has expired.
    TokenExpired,
    /// The token is not valid yet.
    TokenNotYet,
    /// The token is valid for longer than the issuer may permit.
    TokenLifetime,
    /// The issuer may not give the role.
    TokenRole,
    /// The token, its subject or its issuer was denied.
    TokenDenied,
    /// A tenant is malformed, or contains a separator of the role.
    Tenant,
    /// A tenant was denied.
    TenantDenied,
    /// Too many signatures are being verified.
    TooManyChecks,
    /// The issuer's keys are not known yet, or too old.
    KeySetUnavailable,
    /// The list of keys and roles was read too long ago.
    SnapshotStale,
}

impl AuthReason {
    /// Returns the part that a client learns.
    pub fn outcome(self) -> AuthOutcome {
        match self {
            Self::KeyExpired | Self::SessionExpired | Self::TokenExpired => AuthOutcome::Expired,
            Self::TooManyChecks => AuthOutcome::Limited,
            Self::KeySetUnavailable | Self::SnapshotStale => AuthOutcome::Unavailable,
            Self::KeyMalformed
            | Self::KeyUnknown
            | Self::KeyWrong
            | Self::KeyRevoked
            | Self::KeySuspended
            | Self::SessionMalformed
            | Self::SessionForged
            | Self::SessionEnded
            | Self::TokenTooLong
            | Self::TokenMalformed
            | Self::TokenHeader(_)
            | Self::TokenAlgorithm
            | Self::TokenIssuer
            | Self::TokenKeyUnknown
            | Self::TokenKeyAmbiguous
            | Self::TokenSignature
            | Self::TokenClaim(_)
            | Self::TokenAudience
            | Self::TokenNotYet
            | Self::TokenLifetime
            | Self::TokenRole
            | Self::TokenDenied
            | Self::Tenant
            | Self::TenantDenied => AuthOutcome::Invalid,
        }
    }
}

impl AuthError {
    /// Returns the part that a client learns.
    pub fn outcome(self) -> AuthOutcome {
        self.reason.outcome()
    }

    /// Returns the seconds after which the same credentials may be accepted, for `Retry-After`;
    /// `None` if they have to be replaced.
    pub fn retry_after(self) -> Option<u64> {
        /// Keys of issuers are looked for again this often.
        const KEY_SET_INTERVAL: u64 = 10;
        match self.outcome() {
            AuthOutcome::Invalid | AuthOutcome::Expired => None,
            AuthOutcome::Limited => Some(1),
            AuthOutcome::Unavailable if self.reason == AuthReason::KeySetUnavailable => {
                Some(KEY_SET_INTERVAL)
            }
            AuthOutcome::Unavailable => Some(1),
        }
    }
}

impl From<AuthReason> for AuthError {
    fn from(reason: AuthReason) -> Self {
        Self { reason }
    }
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.outcome() {
            AuthOutcome::Invalid => "the credentials are not valid",
            AuthOutcome::Expired => "the credentials have expired",
            AuthOutcome::Limited => "too many credentials are being examined",
            AuthOutcome::Unavailable => "credentials cannot be examined now",
        })
    }
}

impl std::error::Error for AuthError {}
