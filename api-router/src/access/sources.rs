//! Sources: merges the keys, roles and denials of the files and of the catalog for the gate.
//!
//! The keys of the files are added to the keys of the catalog. If a key id occurs in both, the key
//! is refused as soon as one of the two entries is revoked or suspended. A role of a file replaces
//! the role of the same name in the catalog, because a deployment fixes its roles in files.
//!
//! **Invariant:** the gate has the contents that were last read from each source, and never returns
//! to an older state of the catalog. Its contents are as old as the least recently confirmed
//! source.
//! **Not here:** reading the files (`files`), the times at which the sources are read (`watcher`).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use shard_manager::access::role::AccessRole;
use shard_manager::access::snapshot::{Snapshot, SnapshotContents, SnapshotError};
use shard_manager::access::unix_time::UnixTime;
use shard_manager::engine::access_store::AccessState;
use tokio::sync::watch;

use super::files::FileRecords;
use super::gate::AccessGate;

/// Sources of the keys, roles and denials of a gate.
pub struct AccessSources {
    gate: Arc<AccessGate>,
    known: Mutex<Known>,
    /// States that the catalog publishes; unset until the catalog is open.
    states: OnceLock<watch::Receiver<Arc<AccessState>>>,
}

/// Contents that were last read from the sources.
struct Known {
    files: Arc<FileRecords>,
    catalog: Arc<AccessState>,
    /// Time at which the files were last known to be unchanged; [`UnixTime::MAX`] without files.
    files_at: UnixTime,
    /// Time at which the catalog was last known to be in this state.
    catalog_at: UnixTime,
    /// Generation of the merged contents, which grows with each change of a source.
    generation: u64,
}

impl Known {
    /// Returns the latest time at which all sources were known to be current.
    fn confirmed_at(&self, now: UnixTime) -> UnixTime {
        self.files_at.min(self.catalog_at).min(now)
    }

    fn contents(&self, now: UnixTime) -> SnapshotContents {
        let mut contents = merge(&self.files, &self.catalog);
        (contents.generation, contents.read_at) = (self.generation, self.confirmed_at(now));
        contents
    }
}

impl AccessSources {
    /// Creates the sources of a gate that was built from `files`. The catalog is not known yet.
    pub fn new(gate: Arc<AccessGate>, files: FileRecords, files_at: UnixTime) -> Self {
        let known = Known {
            files: Arc::new(files),
            catalog: Arc::default(),
            files_at,
            catalog_at: UnixTime::MAX,
            generation: gate.authenticator.get().snapshot().generation(),
        };
        Self { gate, known: Mutex::new(known), states: OnceLock::new() }
    }

    /// Returns the gate.
    pub fn gate(&self) -> &Arc<AccessGate> {
        &self.gate
    }

    /// Returns the records of the files and the state of the catalog that are in force.
    pub fn current(&self) -> (Arc<FileRecords>, Arc<AccessState>) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        (Arc::clone(&known.files), Arc::clone(&known.catalog))
    }

    /// Sets the receiver of the catalog's states. Only the first call has an effect.
    pub fn attach(&self, states: watch::Receiver<Arc<AccessState>>) {
        let _ = self.states.set(states);
    }

    /// Brings the state that the catalog has last published into force. Blocks while the keys are
    /// prepared.
    ///
    /// # Errors
    /// [`SnapshotError`]; then keys, roles and denials have not changed, but the session secret may
    /// have.
    pub fn apply_catalog(&self, now: UnixTime) -> Result<(), SnapshotError> {
        let Some(states) = self.states.get() else { return Ok(()) };
        let state = Arc::clone(&states.borrow());
        self.replace(now, |known| {
            if state.generation <= known.catalog.generation {
                return false;
            }
            (known.catalog, known.catalog_at) = (state, now);
            true
        })
    }

    /// Brings the keys and roles of the files, which were read at `now`, into force.
    ///
    /// # Errors
    /// [`SnapshotError`]; then nothing has changed.
    pub fn apply_files(&self, files: FileRecords, now: UnixTime) -> Result<(), SnapshotError> {
        self.replace(now, |known| {
            (known.files, known.files_at) = (Arc::new(files), now);
            true
        })
    }

    /// Records that the files are unchanged at this time.
    pub fn confirm_files(&self, now: UnixTime) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.files_at = now;
        self.gate.authenticator.confirm(known.confirmed_at(now));
    }

    /// Records that the state of the catalog was the current one at `seen_at`.
    pub fn confirm_catalog(&self, seen_at: UnixTime, now: UnixTime) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.catalog_at = seen_at;
        self.gate.authenticator.confirm(known.confirmed_at(now));
    }

    /// Applies `change` to the sources and brings the result into force, or does nothing if
    /// `change` returns false.
    fn replace(
        &self,
        now: UnixTime,
        change: impl FnOnce(&mut Known) -> bool,
    ) -> Result<(), SnapshotError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = Known {
            files: Arc::clone(&known.files),
            catalog: Arc::clone(&known.catalog),
            ..*known
        };
        if !change(&mut next) {
            return Ok(());
        }
        next.generation += 1;
        self.gate.authenticator.apply(next.contents(now))?;
        self.gate.sessions.set_secret(next.catalog.sessions);
        *known = next;
        Ok(())
    }
}

/// Merges the sources. The catalog limits the number of its own keys and roles. If catalog and
/// files together have more than a snapshot can hold, the excess is left out and gives no rights:
/// refusing to merge them would also delay revocations.
fn merge(files: &FileRecords, catalog: &AccessState) -> SnapshotContents {
    let in_file: BTreeSet<&str> = files.roles.iter().map(AccessRole::name).collect();
    let of_catalog = catalog.roles.iter().filter(|role| !in_file.contains(role.name()));
    let mut roles: Vec<AccessRole> = files.roles.iter().chain(of_catalog).cloned().collect();
    let mut keys = [catalog.keys.as_slice(), files.keys.as_slice()].concat();
    let room =
        (Snapshot::KEYS_MAX.max(files.keys.len()), Snapshot::ROLES_MAX.max(files.roles.len()));
    if keys.len() > room.0 || roles.len() > room.1 {
        tracing::error!(
            keys = keys.len(),
            roles = roles.len(),
            "there are more keys or roles in the catalog and in the files together than a router holds: some give no rights"
        );
        keys.truncate(room.0);
        roles.truncate(room.1);
    }
    SnapshotContents {
        keys,
        roles,
        denials: catalog.denials.clone(),
        ..SnapshotContents::default()
    }
}
