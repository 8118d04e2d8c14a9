//! Reasons why credentials are refused, and the coarser outcome that a client sees.
//!
//! **Invariant:** to a client, unknown, wrong, revoked and suspended credentials look alike;
//! "expired" is reported only if the secret, the code or the signature was right. `Display` prints
//! only what a client may learn.
//! **Not here:** HTTP statuses and headers (the router).

use std::fmt;

/// Refusal of credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthError {
    /// Exact reason, for counters and the audit log.
    pub reason: AuthReason,
    /// Index of the issuer, if its keys lack the one that the token names. Its newer keys may
    /// include it.
    pub lacking_issuer: Option<usize>,
}

/// Part of a refusal that a client learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthOutcome {
    /// The credentials are not valid.
    Invalid,
    /// The credentials were valid and have expired.
    Expired,
    /// Too many credentials are being verified.
    Limited,
    /// The credentials cannot be verified now, because the verification keys are not available.
    Unavailable,
}

/// Exact reason of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthReason {
    /// The text is not a key: a character is missing or wrong.
    KeyMalformed,
    /// No key has this id.
    KeyUnknown,
    /// The secret does not belong to this key id.
    KeyWrong,
    /// The key was revoked.
    KeyRevoked,
    /// The key was suspended, by an operator or by the restore of a backup, and not resumed since.
    KeySuspended,
    /// The key has expired.
    KeyExpired,
    /// The text is not a session: a part is missing or malformed, or there are two.
    SessionMalformed,
    /// The code of the session was not made with the secret.
    SessionForged,
    /// The session is of another generation: all sessions of that generation were ended.
    SessionEnded,
    /// The session has expired.
    SessionExpired,
    /// The token is longer than the limit.
    TokenTooLong,
    /// The text is not a JWT: header and claims must be JSON objects in base64url, followed by a
    /// signature.
    TokenMalformed,
    /// A member of the header is missing, refused or of a wrong type.
    TokenHeader(&'static str),
    /// The issuer does not use this algorithm, or the key is for another one.
    TokenAlgorithm,
    /// No issuer of this name is configured.
    TokenIssuer,
    /// No key of the issuer has this `kid`.
    TokenKeyUnknown,
    /// Several keys of the issuer match the token's header.
    TokenKeyAmbiguous,
    /// The signature is wrong.
    TokenSignature,
    /// A claim is missing or of a wrong type or value.
    TokenClaim(&'static str),
    /// The token is for another audience.
    TokenAudience,
    /// The token has expired.
    TokenExpired,
    /// The token is not valid yet.
    TokenNotYet,
    /// The lifetime of the token exceeds the maximum of its issuer.
    TokenLifetime,
    /// The token names no role, or one that its issuer may not give.
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
        /// Seconds between two attempts to load the keys of an issuer.
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
        Self { reason, lacking_issuer: None }
    }
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.outcome() {
            AuthOutcome::Invalid => "the credentials are not valid",
            AuthOutcome::Expired => "the credentials have expired",
            AuthOutcome::Limited => "too many credentials are being verified now; try again later",
            AuthOutcome::Unavailable => "credentials cannot be verified now",
        })
    }
}

impl std::error::Error for AuthError {}
