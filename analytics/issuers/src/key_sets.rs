//! Key sets: holds the keys of each issuer, read from files or fetched from URLs, and applies them
//! to the program's gate, which decides about requests.
//!
//! **Invariant:** the gate has the keys that were applied last for each issuer. Fetched keys are
//! used for at most [`SERVED_FOR`] after the last fetch that returned them.
//! **Not here:** reading files (`files`), fetching (`key_fetcher`), choosing the key of a token
//! (`access`).

use std::sync::{Arc, Mutex, PoisonError};

use access::jwt::Issuers;
use access::jwt::issuer::{Issuer, IssuerError, LoadedKeys};
use access::jwt::key_set::KeySet;
use access::unix_time::UnixTime;

use crate::config::{IssuerConfig, IssuerKeys};

/// Seconds for which fetched keys are used if they cannot be fetched again. A shorter outage of an
/// issuer does not lock out its users, and a key that the issuer withdraws during an outage is
/// accepted for at most this time.
pub const SERVED_FOR: u64 = 86_400;

/// Access control of a program: decides about requests, using the issuers and keys in force.
pub trait IssuerGate: Send + Sync {
    /// Replaces the issuers and their keys.
    fn apply_issuers(&self, issuers: Issuers);

    /// Replaces the issuers by the same issuers with the same keys and a later time until which the
    /// keys may be used.
    fn prolong_issuers(&self, issuers: Issuers);
}

/// Keys of all issuers of a gate.
pub struct IssuerKeySets {
    gate: Arc<dyn IssuerGate>,
    config: Vec<IssuerConfig>,
    /// Keys of each issuer; `None` while they are unknown.
    known: Mutex<Vec<Option<LoadedKeys>>>,
}

impl IssuerKeySets {
    /// Creates the key sets of a gate to which the keys in `known` are already applied.
    pub fn new(
        gate: Arc<dyn IssuerGate>,
        config: Vec<IssuerConfig>,
        known: Vec<Option<LoadedKeys>>,
    ) -> Self {
        Self { gate, config, known: Mutex::new(known) }
    }

    /// Applies the keys from files. Keys that were fetched are not changed.
    ///
    /// # Errors
    /// Fails with [`IssuerError`]; then nothing has changed.
    pub fn apply_files(&self, sets: Vec<Option<LoadedKeys>>) -> Result<(), IssuerError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let fetched = |(set, old): (Option<LoadedKeys>, &Option<LoadedKeys>)| set.or(old.clone());
        let next: Vec<_> = sets.into_iter().zip(&*known).map(fetched).collect();
        self.gate.apply_issuers(issuers(&self.config, &next)?);
        *known = next;
        Ok(())
    }

    /// Applies keys that were fetched at `now`. `None` means that the keys have not changed: then
    /// only the time until which they may be used is extended.
    ///
    /// # Errors
    /// Fails with [`IssuerError`]; then nothing has changed.
    pub fn apply_fetched(
        &self,
        place: usize,
        set: Option<Arc<KeySet>>,
        now: UnixTime,
    ) -> Result<(), IssuerError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = known.clone();
        let Some(keys) = next.get_mut(place) else { return Ok(()) };
        let is_new = set.is_some();
        let set = set.or_else(|| keys.as_ref().map(|keys| Arc::clone(&keys.set)));
        let until = Some(now.plus(SERVED_FOR));
        *keys = set.map(|set| LoadedKeys { set, usable_until: until });
        let issuers = issuers(&self.config, &next)?;
        if is_new {
            self.gate.apply_issuers(issuers);
        } else {
            self.gate.prolong_issuers(issuers);
        }
        *known = next;
        Ok(())
    }

    /// Returns the index, the settings and the URL of each issuer whose keys are fetched.
    pub fn remote(&self) -> impl Iterator<Item = (usize, &IssuerConfig, &str)> {
        self.config.iter().enumerate().filter_map(|(place, issuer)| match &issuer.keys {
            IssuerKeys::Url(url) => Some((place, issuer, &**url)),
            IssuerKeys::Jwks(_) | IssuerKeys::Secret(_) => None,
        })
    }
}

/// Returns issuers with their keys.
///
/// # Errors
/// Returns an [`IssuerError`], which names the setting that cannot be used.
pub fn issuers(
    config: &[IssuerConfig],
    keys: &[Option<LoadedKeys>],
) -> Result<Issuers, IssuerError> {
    let built = config.iter().zip(keys);
    let built = built.map(|(issuer, keys)| Issuer::new(issuer.settings.clone(), keys.clone()));
    Issuers::new(built.collect::<Result<_, _>>()?)
}
