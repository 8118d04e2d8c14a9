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

/// Change of keys, roles, denials, the mode or the session secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessChange {
    /// Creates a key.
    CreateKey(NewKey),
    /// Revokes a key.
    RevokeKey(KeyId),
    /// Replaces a key by a new key with the same role, tenants and name. If the old key has an
    /// expiry, the new key gets the same lifetime, counted from now.
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
    /// Makes a suspended key usable again.
    ResumeKey(KeyId),
    /// Suspends every key.
    SuspendAllKeys,
    /// Defines all of these roles, or none.
    PutRoles(Vec<AccessRole>),
    /// Removes a role that no key has.
    RemoveRole(Box<str>),
    /// Adds a denial, or changes the end of one.
    PutDenial(Denial),
    /// Removes a denial.
    RemoveDenial(DenialSubject),
    /// Sets the mode in the catalog, which determines if routers must check credentials.
    SetMode(AccessMode),
    /// Ends all browser sessions: later sessions are made with this new secret.
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
    /// Tenants for which the placeholder `$tenant` in the role stands.
    pub tenants: Tenants,
    /// Name that states the purpose of the key, for people.
    pub name: Box<str>,
    /// Time from which the key is refused.
    pub expires_at: Option<UnixTime>,
}

/// Author of a change, as it is recorded in the log and as the creator of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeAuthor {
    /// Owner of the data directory or of the catalog, who needs no API key.
    CommandLine,
    /// The program itself, for example at its start.
    Router,
    /// API client, by its public name.
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
