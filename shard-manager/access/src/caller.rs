//! Callers: the identity behind a request, with its rights and limits.
//!
//! **Invariant:** a caller never changes after it was created from valid credentials; a change of
//! its key, role or tenants creates another caller.
//! **Not here:** the verification of credentials (`authenticator`).

use crate::key::KeyId;
use crate::limit::caller_limits::CallerLimits;
use crate::rights::Rights;
use crate::unix_time::UnixTime;

/// Identity of a caller.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Principal {
    /// Request without credentials.
    Anonymous,
    /// Owner of an API key.
    Key(KeyId),
    /// Subject of a JSON Web Token.
    Token {
        /// Claim `iss`: issuer of the token.
        issuer: Box<str>,
        /// Claim `sub`: subject of the token.
        subject: Option<Box<str>>,
        /// Claim `jti`: id of the token.
        id: Option<Box<str>>,
    },
    /// Owner of a client certificate.
    Certificate {
        /// Subject alternative name that identifies the certificate.
        name: Box<str>,
    },
}

impl Principal {
    /// Returns the kind of identity, as named in counters and in the audit log.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Key(_) => "key",
            Self::Token { .. } => "token",
            Self::Certificate { .. } => "certificate",
        }
    }
}

/// Identity, rights and limits of a request.
#[derive(Debug)]
pub struct Caller {
    /// The identity.
    pub principal: Principal,
    /// Name of the role. If no role with this name exists, the caller has no rights.
    pub role: Box<str>,
    /// The rights of the role for the caller's tenants.
    pub rights: Rights,
    /// Weight of the caller's operations relative to those of other callers, while operations of
    /// several callers wait in the write lane (write queue) of a shard.
    pub weight: u32,
    /// The rate, quota and concurrency limits; `None` if the role has none. For anonymous callers
    /// it is always `None`: their limits apply to each client address instead.
    pub limits: Option<CallerLimits>,
    /// Time at which the credentials expire. From then on the caller is refused, even in the middle
    /// of a long response.
    pub expires_at: Option<UnixTime>,
}
