//! Refusals: the reasons to refuse a change, each of which is a rule that the change breaks.
//!
//! **Invariant:** a message names the remedy, and contains no secret.
//! **Not here:** the check of the rules (`plan`).

use access::key::KeyId;
use access::key_record::KeyRecord;
use access::role::AccessRole;
use access::snapshot::Snapshot;
use access::tenant::TenantError;
use model::error::Error;

use super::plan::{DENIAL_TEXT_MAX, DENIALS_MAX};

/// Reason why a change was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// A rule forbids it; nothing was stored.
    #[error(transparent)]
    Refused(#[from] AccessRefusal),
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] Error),
}

/// Rule that a change breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessRefusal {
    /// There is no such key.
    #[error("there is no key {0}")]
    NoSuchKey(KeyId),
    /// The id belongs to another key.
    #[error("there is a key {0} already")]
    KeyExists(KeyId),
    /// The key is not in the state that the change needs.
    #[error("the key {id} {state}")]
    KeyState {
        /// The key.
        id: KeyId,
        /// State of the key, as the end of the sentence that begins with the key.
        state: &'static str,
    },
    /// The name of the key is empty, too long, or has control characters.
    #[error("must have 1 to {} bytes and no control characters", KeyRecord::NAME_LEN_MAX)]
    Name,
    /// There is no such role.
    #[error("there is no role `{role}`; there are {known}")]
    NoSuchRole {
        /// Name that was requested, shortened.
        role: String,
        /// Names of the roles that exist.
        known: String,
    },
    /// The role was written by a later version of this program.
    #[error("the role `{0}` cannot be read by this program: use the later one that wrote it")]
    UnreadableRole(String),
    /// The role is built in.
    #[error("`{0}` is a built-in role, which cannot be changed")]
    ReservedRole(String),
    /// Keys have the role that is to be removed.
    #[error("{keys} keys have the role `{role}`: revoke them first")]
    RoleInUse {
        /// The role.
        role: String,
        /// Number of keys that are not revoked.
        keys: u64,
    },
    /// The role does not accept the tenants.
    #[error(transparent)]
    Tenant(#[from] TenantError),
    /// The expiry has passed already.
    #[error("must be a time in the future")]
    Expired,
    /// There is no room for another key.
    #[error("there are {count} keys, and at most {} are possible", Snapshot::KEYS_MAX)]
    TooManyKeys {
        /// Number of keys.
        count: u64,
    },
    /// There is no room for the roles.
    #[error("there would be {count} roles, and at most {} are possible", Snapshot::ROLES_MAX)]
    TooManyRoles {
        /// Number of roles.
        count: usize,
    },
    /// There is no room for another denial.
    #[error("there are {DENIALS_MAX} denials, and no more are possible: remove old ones")]
    TooManyDenials,
    /// A string of the denial is too long, or has control characters.
    #[error("must have at most {DENIAL_TEXT_MAX} bytes and no control characters")]
    DenialText,
    /// There is no such denial.
    #[error("there is no such denial")]
    NoSuchDenial,
    /// No usable key of an administrator would be left.
    #[error(
        "no usable key of the role {} would be left: only the command line does that",
        AccessRole::ADMIN
    )]
    LastAdmin,
    /// Only the owner of the catalog may do this.
    #[error("only the command line does that")]
    CommandLineOnly,
}

impl AccessRefusal {
    /// Returns the member of a request that the refusal is about.
    pub fn member(&self) -> &'static str {
        match self {
            Self::NoSuchKey(_) | Self::KeyExists(_) | Self::KeyState { .. } | Self::LastAdmin => {
                "id"
            }
            Self::Name => "name",
            Self::NoSuchRole { .. }
            | Self::UnreadableRole(_)
            | Self::ReservedRole(_)
            | Self::RoleInUse { .. } => "role",
            Self::Tenant(_) => "tenants",
            Self::Expired => "expires_at",
            Self::TooManyKeys { .. } => "keys",
            Self::TooManyRoles { .. } => "roles",
            Self::TooManyDenials | Self::DenialText | Self::NoSuchDenial => "denials",
            Self::CommandLineOnly => "mode",
        }
    }
}
