//! Key records: the data that the catalog or a file of keys stores about an API key.
//!
//! **Invariant:** a record contains the digest of the key's secret, never the secret.
//! **Not here:** the tables in which records are stored.

use crate::key::{KeyId, SecretDigest};
use crate::role::AccessRole;
use crate::tenant::Tenants;
use crate::unix_time::UnixTime;

/// API key as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// Public id of the key.
    pub id: KeyId,
    /// Digest of the secret.
    pub digest: SecretDigest,
    /// Name of the role. A role that does not exist gives no rights.
    pub role: Box<str>,
    /// Tenants for which `$tenant` in the role stands.
    pub tenants: Tenants,
    /// Name that states the purpose of the key to people.
    pub name: Box<str>,
    /// Creator of the key: a caller, the command line or a file of keys.
    pub made_by: Box<str>,
    /// Time at which the key was created.
    pub made_at: UnixTime,
    /// Time from which the key is refused because it has expired.
    pub expires_at: Option<UnixTime>,
    /// Time at which the key was revoked.
    pub revoked_at: Option<UnixTime>,
    /// True if the key is suspended until an operator resumes it. Restoring a backup suspends all
    /// keys: otherwise a key that was revoked after the backup would become usable again.
    pub is_suspended: bool,
    /// Last day on which the key was used, in days since 1970-01-01.
    pub used_on: Option<u32>,
}

impl KeyRecord {
    /// Maximum length of a name in bytes.
    pub const NAME_LEN_MAX: usize = 200;

    /// Returns true if a key may have this name: 1 to [`KeyRecord::NAME_LEN_MAX`] bytes without
    /// control characters.
    pub fn is_name(name: &str) -> bool {
        let len = 1..=Self::NAME_LEN_MAX;
        len.contains(&name.len()) && !name.chars().any(char::is_control)
    }

    /// Returns the state of the key at the time `now`.
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
    /// The key itself is usable. A denial of one of its tenants may still refuse it.
    Usable,
    /// The expiry time of the key has passed.
    Expired,
    /// The key was revoked, which cannot be undone.
    Revoked,
    /// The key was suspended, by an operator or by the restore of a backup, and not resumed since.
    Suspended,
}

/// Returns true if a key is the only usable key with the role `admin`. Only the command line may
/// remove such a key: without it, no administrator could create keys over HTTP.
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
