//! Watcher: opens the gate with the content of the files, follows the catalog, and reads the files
//! again when they change.
//!
//! Keys can be revoked, and secrets renewed, while routers run. The files are checked every
//! [`CHECK_EVERY`], and at once on SIGHUP. The catalog notifies the watcher of its changes.
//!
//! **Invariant:** if a file cannot be used, the last valid content of all files stays in force, and
//! the log states the reason when it first occurs or changes, and on each SIGHUP. A file that
//! cannot be used does not delay changes of the catalog.
//! **Not here:** the content of the files (`files`), its merging with the catalog (`sources`), the
//! decision about requests (`gate`).

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use issuers::key_fetcher;
use issuers::key_sets::{self, IssuerKeySets};
use rustls::crypto::ring;
use shard_manager::access::jwt::issuer::IssuerError;
use shard_manager::access::snapshot::{SnapshotContents, SnapshotError};
use shard_manager::access::unix_time::UnixTime;
use shard_manager::engine::access_store::{
    self, AccessChange, AccessError, AccessState, ChangeAuthor,
};
use shard_manager::error::Error;
use shard_manager::manager::Manager;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::clock::unix_now;
use super::files::{AccessFileError, AccessFiles};
use super::gate::{AccessGate, RANDOM_LEN};
use super::sources::AccessSources;
use crate::config::{AccessConfig, AccessMode};

/// Interval between two checks of the files.
pub const CHECK_EVERY: Duration = Duration::from_secs(10);
/// Interval at which the time of the last contact with the catalog is updated.
const CONFIRM_EVERY: Duration = Duration::from_secs(1);

/// Reason why access control cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AccessStartError {
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] AccessFileError),
    /// There are too many keys or roles.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The settings of two token issuers contradict each other.
    #[error("access.issuer: {0}")]
    Issuers(#[from] IssuerError),
    /// A certificate entry of the settings has a role that does not exist.
    #[error(
        "access.certificate[{number}].role: there is no role `{role}`, neither in access_roles_file nor in the catalog"
    )]
    CertificateRole {
        /// Number of the section `access.certificate`, from 1.
        number: usize,
        /// The role.
        role: String,
    },
    /// The keys and roles of the catalog cannot be read.
    #[error("the keys and roles of the catalog cannot be read: {0}")]
    Catalog(#[from] Error),
    /// The system provides no random bytes, or cannot deliver SIGHUP.
    #[error("access control cannot start: {0}")]
    System(String),
}

/// Watcher of the files of a gate, with the content that is in force.
pub struct AccessWatcher {
    sources: Arc<AccessSources>,
    config: AccessConfig,
    known: AccessFiles,
    issuer_keys: Arc<IssuerKeySets>,
}

impl AccessWatcher {
    /// Reads the files and opens a gate; returns `None` if access control is off.
    ///
    /// # Errors
    /// [`AccessStartError`] names the setting or file that cannot be used.
    pub fn open(config: &AccessConfig) -> Result<Option<Self>, AccessStartError> {
        if config.mode == AccessMode::Off {
            return Ok(None);
        }
        let mut random = [0; RANDOM_LEN];
        let filled = ring::default_provider().secure_random.fill(&mut random);
        filled.map_err(|_| AccessStartError::System("there are no random bytes".to_owned()))?;
        let known = AccessFiles::read(config)?;
        let (records, now) = (known.records(config)?, unix_now());
        let contents = SnapshotContents {
            keys: records.keys.clone(),
            roles: records.roles.clone(),
            denials: Vec::new(),
            generation: 1,
            read_at: now,
        };
        let sets = known.key_sets(config)?;
        let issuers = key_sets::issuers(&config.issuers, &sets)?;
        let gate = Arc::new(AccessGate::new(config, contents, issuers, &random)?);
        let issuer_keys = IssuerKeySets::new(gate.clone(), config.issuers.clone(), sets);
        let has_files =
            config.keys_file.is_some() || config.roles_file.is_some() || !config.issuers.is_empty();
        let files_at = if has_files { now } else { UnixTime::MAX };
        let sources = Arc::new(AccessSources::new(gate, records, files_at));
        let issuer_keys = Arc::new(issuer_keys);
        Ok(Some(Self { sources, config: config.clone(), known, issuer_keys }))
    }

    /// Returns the gate.
    pub fn gate(&self) -> Arc<AccessGate> {
        Arc::clone(self.sources.gate())
    }

    /// Reads the files again; returns true if their content has changed and is now in force.
    ///
    /// # Errors
    /// [`AccessStartError`]; then nothing has changed. Issuers whose settings contradict each other
    /// were refused when the watcher was opened.
    pub fn refresh(&mut self) -> Result<bool, AccessStartError> {
        let found = AccessFiles::read(&self.config)?;
        if found == self.known {
            if found != AccessFiles::default() {
                self.sources.confirm_files(unix_now());
            }
            return Ok(false);
        }
        let records = found.records(&self.config)?;
        let sets = found.key_sets(&self.config)?;
        records.warn_of_unknown_roles(&self.sources.current().1.roles);
        self.sources.apply_files(records, unix_now())?;
        self.issuer_keys.apply_files(sets)?;
        self.known = found;
        Ok(true)
    }

    /// Applies the keys of the catalog, and then follows the catalog and checks the files in the
    /// background. From now on SIGHUP triggers a check and no longer ends the process. Returns the
    /// sources. `data_dir` is the data directory of the cluster, if it consists of files.
    ///
    /// # Errors
    /// [`AccessStartError`] if signals cannot be received, the catalog does not respond, or its
    /// keys and roles cannot be used.
    pub async fn start(
        self,
        manager: &Arc<Manager>,
        data_dir: Option<&Path>,
    ) -> Result<Arc<AccessSources>, AccessStartError> {
        let hangup_signal = signal(SignalKind::hangup());
        let hangup_signal =
            hangup_signal.map_err(|error| AccessStartError::System(error.to_string()))?;
        let sources = Arc::clone(&self.sources);
        let states = manager.access().subscribe().await?;
        if states.borrow().sessions.is_none() {
            make_session_secret(manager).await?;
        }
        sources.attach(states.clone());
        sources.apply_catalog(unix_now())?;
        let started = key_fetcher::start(&self.issuer_keys, &self.gate().remote_keys);
        started.map_err(|error| AccessStartError::System(error.to_string()))?;
        let (files, catalog) = sources.current();
        files.warn_of_unknown_roles(&catalog.roles);
        self.check_certificate_roles()?;
        if self.gate().authenticator.get().snapshot().keys().count() == 0
            && self.config.issuers.is_empty()
        {
            let command = first_key_command(data_dir);
            tracing::warn!(
                "access control has no key and no issuer of tokens: make one with `{command}`"
            );
        }
        actix_web::rt::spawn(follow(Arc::clone(&sources), Arc::clone(manager), states));
        actix_web::rt::spawn(run(self, hangup_signal));
        Ok(sources)
    }
}

/// Returns the command that creates the first API key.
fn first_key_command(data_dir: Option<&Path>) -> String {
    let command = "shard-manager key create --role admin";
    match data_dir {
        // The operator may run the command in another folder than the router.
        Some(data_dir) => {
            let whole = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
            format!("{command} --data-dir {}", whole.display())
        }
        None => command.to_owned(),
    }
}

/// Creates the secret of sessions and stores it in the catalog. If several routers start at the
/// same time and each stores one, all of them use the one that was stored last.
async fn make_session_secret(manager: &Manager) -> Result<(), AccessStartError> {
    let change = AccessChange::ReplaceSessionSecret(access_store::make_session_secret()?);
    match manager.access().change(&change, &ChangeAuthor::Router, unix_now()).await {
        Ok(_) => Ok(()),
        Err(AccessError::Catalog(error)) => Err(error.into()),
        Err(AccessError::Refused(refusal)) => Err(AccessStartError::System(refusal.to_string())),
    }
}

impl AccessWatcher {
    /// Refuses to start with a certificate entry whose role does not exist, which may be a typo. If
    /// a role is removed later, certificates with this role lose their rights.
    fn check_certificate_roles(&self) -> Result<(), AccessStartError> {
        let gate = self.gate();
        let (current, clients) = (gate.authenticator.get(), (1..).zip(&self.config.certificates));
        for (number, client) in clients {
            if current.snapshot().role(&client.role).is_none() {
                let role = client.role.clone();
                return Err(AccessStartError::CertificateRole { number, role });
            }
        }
        Ok(())
    }
}

/// Brings each new state of the catalog into force, and records the time at which the catalog last
/// responded.
async fn follow(
    sources: Arc<AccessSources>,
    manager: Arc<Manager>,
    mut states: watch::Receiver<Arc<AccessState>>,
) {
    let mut ticks = tokio::time::interval(CONFIRM_EVERY);
    loop {
        tokio::select! {
            changed = states.changed() => {
                if changed.is_err() {
                    return;
                }
                states.mark_unchanged();
                apply_catalog(&sources).await;
            }
            _ = ticks.tick() => {
                let now = unix_now();
                if let Some(seen_at) = manager.access().confirmed_at(now) {
                    sources.confirm_catalog(seen_at, now);
                }
            }
        }
    }
}

/// Brings the state that the catalog has last published into force, on a thread that may block.
pub async fn apply_catalog(sources: &Arc<AccessSources>) {
    let applied = Arc::clone(sources);
    let applied = tokio::task::spawn_blocking(move || applied.apply_catalog(unix_now()));
    match applied.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "a change of keys and roles is not in force"),
        Err(_) => tracing::error!("a change of keys and roles is not in force: it failed"),
    }
}

async fn run(watcher: AccessWatcher, mut hangup_signal: Signal) {
    let watcher = Arc::new(Mutex::new(watcher));
    let mut reported = String::new();
    loop {
        let was_requested = tokio::select! {
            () = tokio::time::sleep(CHECK_EVERY) => false,
            _ = hangup_signal.recv() => true,
        };
        let checked = Arc::clone(&watcher);
        let checked = tokio::task::spawn_blocking(move || {
            // After a panic the next check begins with the content that is in force.
            let mut watcher = checked.lock().unwrap_or_else(PoisonError::into_inner);
            let is_new = watcher.refresh()?;
            Ok(is_new.then(|| watcher.gate().authenticator.get().snapshot().keys().count()))
        });
        let refreshed: Result<_, AccessStartError> = match checked.await {
            Ok(refreshed) => refreshed,
            Err(_) => Err(AccessStartError::System("a check of the files failed".to_owned())),
        };
        match refreshed {
            Ok(keys) => {
                reported.clear();
                if let Some(keys) = keys {
                    tracing::info!(keys, "keys and roles were read again and are in force");
                } else if was_requested {
                    tracing::info!("keys and roles were checked: they are the same");
                }
            }
            Err(error) => {
                let cause = error.to_string();
                if was_requested || cause != reported {
                    tracing::warn!(
                        "keys and roles were not read again, the old ones stay: {cause}"
                    );
                }
                reported = cause;
            }
        }
    }
}
