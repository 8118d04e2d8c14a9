//! Known keys: authenticates API keys, returns their callers, and records the last day on which
//! each key was used.
//!
//! **Invariant:** a digest is compared even if the id of a key is unknown, so that neither the
//! response nor its time reveals which ids exist.
//! **Not here:** the callers' rights (`snapshot`), the record of one key's use (`key_use`).

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use siphasher::sip::SipHasher13;

use super::key_use::KeyUse;
use crate::auth_error::{AuthError, AuthReason};
use crate::caller::Caller;
use crate::key::{ApiKey, KeyId, SecretDigest};
use crate::key_record::KeyState;
use crate::session::BrowserSession;
use crate::unix_time::UnixTime;

/// Properties of a key that determine whether its requests are accepted, and the caller of these
/// requests.
#[derive(Debug)]
pub(super) struct KeyEntry {
    pub(super) digest: SecretDigest,
    pub(super) state: KeyState,
    pub(super) expires_at: Option<UnixTime>,
    pub(super) denied_until: Option<UnixTime>,
    pub(super) caller: Arc<Caller>,
    pub(super) last_use: Arc<KeyUse>,
}

impl KeyEntry {
    /// Returns the caller if the key is usable. The calling function must have verified the key's
    /// secret or a session of the key.
    fn usable_caller(&self, now: UnixTime) -> Result<&Arc<Caller>, AuthError> {
        match self.state {
            KeyState::Revoked => return Err(AuthReason::KeyRevoked.into()),
            KeyState::Suspended => return Err(AuthReason::KeySuspended.into()),
            KeyState::Usable | KeyState::Expired => {}
        }
        if self.denied_until.is_some_and(|until| now < until) {
            return Err(AuthReason::TenantDenied.into());
        }
        if self.expires_at.is_some_and(|expires_at| expires_at <= now) {
            return Err(AuthReason::KeyExpired.into());
        }
        self.last_use.mark(now.day());
        Ok(&self.caller)
    }
}

/// All keys of a snapshot, by id. Clients cannot choose the ids in this map, so they cannot make
/// ids collide, and its hash function needs no secret.
#[derive(Debug, Default)]
pub struct KnownKeys(HashMap<KeyId, KeyEntry, BuildHasherDefault<SipHasher13>>);

impl KnownKeys {
    /// Reserves memory for this many more keys.
    pub(super) fn reserve(&mut self, count: usize) {
        self.0.reserve(count);
    }

    /// Adds a key, or replaces the key with the same id.
    pub(super) fn insert(&mut self, id: KeyId, entry: KeyEntry) {
        self.0.insert(id, entry);
    }

    /// Returns true if there is a key with this id.
    pub fn contains(&self, id: KeyId) -> bool {
        self.0.contains_key(&id)
    }

    /// Returns the number of keys.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns the caller of a key.
    ///
    /// # Errors
    /// [`AuthError`] if the string is malformed or is not a usable key.
    pub fn authenticate(&self, text: &str, now: UnixTime) -> Result<&Arc<Caller>, AuthError> {
        let key = ApiKey::parse(text).ok_or(AuthReason::KeyMalformed)?;
        let entry = self.0.get(&key.id());
        let expected = entry.map_or(SecretDigest::DUMMY, |entry| entry.digest);
        // The digest is computed and compared, even for an unknown id, before any other check.
        let is_right = key.digest() == expected;
        let entry = entry.ok_or(AuthReason::KeyUnknown)?;
        if !is_right {
            return Err(AuthReason::KeyWrong.into());
        }
        entry.usable_caller(now)
    }

    /// Returns the caller of the key of a session. The session must have been verified.
    ///
    /// # Errors
    /// [`AuthError`] if the key does not exist or is no longer usable.
    pub fn authenticate_session(
        &self,
        session: &BrowserSession,
        now: UnixTime,
    ) -> Result<&Arc<Caller>, AuthError> {
        self.0.get(&session.key).ok_or(AuthReason::KeyUnknown)?.usable_caller(now)
    }

    /// Shares the records of last use with the keys of an earlier snapshot.
    pub(super) fn share_uses(&mut self, earlier: &Self) {
        for (id, entry) in &mut self.0 {
            if let Some(known) = earlier.0.get(id) {
                known.last_use.learn(&entry.last_use);
                entry.last_use = Arc::clone(&known.last_use);
            }
        }
    }

    /// Returns up to `most` keys whose last day of use is not stored yet, each with this day.
    pub fn unstored_uses(&self, most: usize) -> Vec<(KeyId, u32)> {
        let uses =
            self.0.iter().filter_map(|(id, entry)| entry.last_use.unstored().map(|day| (*id, day)));
        uses.take(most).collect()
    }

    /// Records that these days of last use are stored in the catalog.
    pub fn confirm_uses(&self, uses: &[(KeyId, u32)]) {
        for (id, day) in uses {
            if let Some(entry) = self.0.get(id) {
                entry.last_use.confirm(*day);
            }
        }
    }

    /// Returns the last day on which a key was used, as far as it is known to this process.
    pub fn used_on(&self, id: KeyId) -> Option<u32> {
        self.0.get(&id)?.last_use.used_on()
    }
}
