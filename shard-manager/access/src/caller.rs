//! Callers: the identity behind a request, with its rights and limits.
//!
//! **Invariant:** a caller is created once, from good credentials, and never changes; a change of
//! its key, role or tenants creates a new one.
//! **Not here:** the check of credentials (`authenticator`).

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
    /// Subject of a token.
    Token {
        /// `iss`.
        issuer: Box<str>,
        /// `sub`.
        subject: Option<Box<str>>,
        /// `jti`.
        id: Option<Box<str>>,
    },
    /// Owner of a client certificate.
    Certificate {
        /// Subject alternative name by which it is known.
        name: Box<str>,
    },
}

impl Principal {
    /// Returns the kind, for counters and the audit log.
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
    /// Name of the role. If there is no such role, the caller has no rights.
    pub role: Box<str>,
    /// The rights, with the tenants.
    pub rights: Rights,
    /// Share in a busy write lane, relative to other callers.
    pub weight: u32,
    /// The limits; `None` if there are none. Anonymous callers are limited by address instead.
    pub limits: Option<CallerLimits>,
    /// Time from which the credentials are refused, even in the middle of a long response.
    pub expires_at: Option<UnixTime>,
}
