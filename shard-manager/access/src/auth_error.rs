//! Authentication errors: the reasons why credentials are refused, and the coarser outcome that a
//! client sees.
//!
//! **Invariant:** to a client, unknown, wrong, revoked and suspended credentials look alike;
//! "expired" is reported only if the secret of the API key, the HMAC of the session or the
//! signature of the token was correct. `Display` prints only what may be revealed to a client.
//! **Not here:** HTTP statuses and headers (the router).

use std::fmt;

/// Refusal of credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthError {
    /// Exact reason, for the program's own log. It must not be revealed to the client.
    pub reason: AuthReason,
    /// Index of the token's issuer, if none of its loaded keys has the `kid` of the token. Fetching
    /// the issuer's keys again may find that key. `None` for every other refusal.
    pub lacking_issuer: Option<usize>,
}

/// Part of a refusal that is revealed to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthOutcome {
    /// The credentials are not valid.
    Invalid,
    /// The credentials were valid and have expired.
    Expired,
    /// A limit on the verification of credentials was reached.
    Limited,
    /// The credentials cannot be verified now, because the issuer's keys are not available or the
    /// snapshot of keys and roles is too old.
    Unavailable,
}

/// Exact reason for a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthReason {
    /// The string is not an API key: its length, a character or the checksum is wrong.
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
    /// The string is not a session: a part is missing or malformed, or the request has several
    /// session cookies.
    SessionMalformed,
    /// The HMAC of the session was not computed with the session secret of the routers.
    SessionForged,
    /// The session belongs to another generation: all sessions of that generation were ended
    /// together.
    SessionEnded,
    /// The session has expired.
    SessionExpired,
    /// The token is longer than [`TOKEN_LEN_MAX`](crate::jwt::TOKEN_LEN_MAX).
    TokenTooLong,
    /// The string is not a JWT: header and claims must be JSON objects in base64url, followed by a
    /// signature.
    TokenMalformed,
    /// The named member of the header is missing, not permitted or of the wrong type.
    TokenHeader(&'static str),
    /// The algorithm is unknown or not configured for the issuer, or the key that the token names
    /// is for another algorithm.
    TokenAlgorithm,
    /// No issuer with the name in `iss` is configured.
    TokenIssuer,
    /// No key of the issuer has this `kid`.
    TokenKeyUnknown,
    /// Several keys of the issuer match the token's header.
    TokenKeyAmbiguous,
    /// The signature is wrong.
    TokenSignature,
    /// The named claim is missing or has the wrong type or value.
    TokenClaim(&'static str),
    /// The token is meant for another audience.
    TokenAudience,
    /// The token has expired.
    TokenExpired,
    /// The token is not valid yet.
    TokenNotYet,
    /// The lifetime of the token exceeds the maximum of its issuer.
    TokenLifetime,
    /// The token names no role, or a role that its issuer may not give.
    TokenRole,
    /// A denial applies to the token, to its subject, or to the tokens that its issuer issued
    /// before some time.
    TokenDenied,
    /// A tenant is malformed, or contains a separator character of the role's key rules.
    Tenant,
    /// A denial applies to a tenant of the caller.
    TenantDenied,
    /// The signature was not verified because a limit was reached: too many are being verified, or
    /// the client's address has failed too often.
    TooManyChecks,
    /// The issuer's keys were not loaded yet, or were loaded too long ago.
    KeySetUnavailable,
    /// The snapshot of keys and roles was last known to be current more than `access_stale_max_s`
    /// seconds ago.
    SnapshotStale,
}

impl AuthReason {
    /// Returns the part that is revealed to the client.
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
    /// Returns the part that is revealed to the client.
    pub fn outcome(self) -> AuthOutcome {
        self.reason.outcome()
    }

    /// Returns the number of seconds after which the same credentials may be accepted, for the
    /// header `Retry-After`; `None` if other credentials are needed.
    pub fn retry_after(self) -> Option<u64> {
        /// Number of seconds between two attempts to load the keys of an issuer.
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
