//! Key records: all that a catalog or a file keeps of an API key.
//!
//! **Invariant:** a record has no secret, only its digest.
//! **Not here:** the tables in which records are stored.

use crate::key::{KeyId, SecretDigest};
use crate::role::AccessRole;
use crate::tenant::Tenants;
use crate::unix_time::UnixTime;

/// API key as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// Public part of the key.
    pub id: KeyId,
    /// Digest of the secret part.
    pub digest: SecretDigest,
    /// Name of the role. A role that does not exist gives no rights.
    pub role: Box<str>,
    /// Tenants that the role's `$tenant` stands for.
    pub tenants: Tenants,
    /// Purpose of the key, for people.
    pub name: Box<str>,
    /// Creator of the key: a caller, the command line or a file.
    pub made_by: Box<str>,
    /// Time at which it was created.
    pub made_at: UnixTime,
    /// Time from which it is refused.
    pub expires_at: Option<UnixTime>,
    /// Time at which it was revoked.
    pub revoked_at: Option<UnixTime>,
    /// True if the key is suspended until an operator resumes it. A restore suspends all keys,
    /// because a key that was revoked after the backup must not become usable again.
    pub is_suspended: bool,
    /// Last day on which it was used, counted from 1970.
    pub used_on: Option<u32>,
}

impl KeyRecord {
    /// Longest name in bytes.
    pub const NAME_LEN_MAX: usize = 200;

    /// Returns true if a key may have this name: not empty, and without control characters.
    pub fn is_name(name: &str) -> bool {
        let len = 1..=Self::NAME_LEN_MAX;
        len.contains(&name.len()) && !name.chars().any(char::is_control)
    }

    /// Returns the state of the key at a time.
    #[inline]
    pub fn state(&self, now: UnixTime) -> KeyState {
        match self {
            Self { revoked_at: Some(_), .. } => KeyState::Revoked,
            Self { is_suspended: true, .. } => KeyState::Suspended,
            Self { expires_at: Some(expires_at), .. } if *expires_at <= now => KeyState::Expired,
            _ => KeyState::Usable,
        }
    }
}

/// State of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// Requests with it are examined further.
    Usable,
    /// The time of the key is over.
    Expired,
    /// The key was revoked, which cannot be undone.
    Revoked,
    /// The key was suspended, by an operator or by the restore of a backup, and not resumed since.
    Suspended,
}

/// Returns true if a key is the only usable key with the role `admin`. Only the command line
/// removes such a key, so that an administrator can still create keys over HTTP.
pub fn is_last_admin<'r>(
    records: impl IntoIterator<Item = &'r KeyRecord>,
    id: KeyId,
    now: UnixTime,
) -> bool {
    let is_admin = |record: &&KeyRecord| {
        *record.role == *AccessRole::ADMIN && record.state(now) == KeyState::Usable
    };
    let mut found = false;
    for record in records.into_iter().filter(is_admin) {
        if record.id != id {
            return false;
        }
        found = true;
    }
    found
}
