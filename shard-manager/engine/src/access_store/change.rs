//! Changes of keys, roles and denials, and their authors.
//!
//! **Not here:** the rules of changes (`plan`).

use std::fmt;

use access::denial::{Denial, DenialSubject};
use access::key::{KeyId, SecretDigest};
use access::role::AccessRole;
use access::session::SessionSeed;
use access::tenant::Tenants;
use access::unix_time::UnixTime;

use super::mode::AccessMode;

/// Change of keys, roles, denials, the mode or the secret of sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessChange {
    /// Creates a key.
    CreateKey(NewKey),
    /// Revokes a key.
    RevokeKey(KeyId),
    /// Replaces a key by one with the same role, tenants and name. If the old key expires, the new
    /// one lives as long as the old one was meant to.
    RotateKey {
        /// The old key.
        id: KeyId,
        /// Id of the new key.
        successor: KeyId,
        /// Digest of the new key.
        digest: SecretDigest,
        /// Seconds for which the old key remains usable.
        overlap_s: u64,
    },
    /// Makes a suspended key usable.
    ResumeKey(KeyId),
    /// Suspends every key.
    SuspendAllKeys,
    /// Defines roles, all or none of them.
    PutRoles(Vec<AccessRole>),
    /// Removes a role that no key has.
    RemoveRole(Box<str>),
    /// Adds a denial, or changes the end of one.
    PutDenial(Denial),
    /// Removes a denial.
    RemoveDenial(DenialSubject),
    /// Sets the mode that routers must have.
    SetMode(AccessMode),
    /// Ends all sessions of browsers: later ones are made with this secret.
    ReplaceSessionSecret(SessionSeed),
}

/// Key to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// Public part of the key.
    pub id: KeyId,
    /// Digest of the secret part.
    pub digest: SecretDigest,
    /// Name of the role, which must exist.
    pub role: Box<str>,
    /// Tenants that the role's `$tenant` stands for.
    pub tenants: Tenants,
    /// Purpose of the key, for people.
    pub name: Box<str>,
    /// Time from which the key is refused.
    pub expires_at: Option<UnixTime>,
}

/// Author of a change, as recorded in the log, and as the creator of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeAuthor {
    /// Owner of the data directory or of the catalog, who needs no key.
    CommandLine,
    /// The program itself, such as at its start.
    Router,
    /// Caller of the API, by its public name.
    Caller(Box<str>),
}

impl fmt::Display for ChangeAuthor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine => f.write_str("command line"),
            Self::Router => f.write_str("router"),
            Self::Caller(name) => f.write_str(name),
        }
    }
}
