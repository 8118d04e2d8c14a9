//! Watcher: opens the gate with the content of its files, and reads them again when they change.
//!
//! Keys are revoked, and secrets renewed, while routers run. The files are checked every
//! [`CHECK_EVERY`], and at once on SIGHUP.
//!
//! **Invariant:** if a file cannot be used, the last good content of all files stays in force, and
//! the log states the reason, once for each reason.
//! **Not here:** the content of the files (`files`), the decision about requests (`gate`).

use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring;
use shard_manager::access::snapshot::SnapshotError;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::files::{AccessFileError, AccessFiles};
use super::gate::{AccessGate, RANDOM_LEN, unix_now};
use crate::config::{AccessConfig, AccessMode};

/// Interval between two checks of the files.
pub const CHECK_EVERY: Duration = Duration::from_secs(10);

/// Command that makes a first key.
const FIRST_KEY: &str = "make one with `shard-manager key create --role admin --offline`, and add the line that it \
     prints to access_keys_file";

/// Reason why access control cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AccessStartError {
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] AccessFileError),
    /// There are too many keys or roles.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The system has no random bytes, or cannot deliver SIGHUP.
    #[error("access control cannot start: {0}")]
    System(String),
}

/// Files of a gate, with the content that is in force.
pub struct AccessWatcher {
    gate: Arc<AccessGate>,
    config: AccessConfig,
    known: AccessFiles,
    generation: u64,
}

impl AccessWatcher {
    /// Reads the files and opens a gate; `None` if access control is off.
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
        let generation = 1;
        let contents = known.contents(config, generation, unix_now())?;
        let gate = Arc::new(AccessGate::new(config, contents, known.issuers(config)?, &random)?);
        if gate.current().snapshot().key_count() == 0 && config.issuers.is_empty() {
            tracing::warn!("access control has no key and no issuer of tokens: {FIRST_KEY}");
        }
        Ok(Some(Self { gate, config: config.clone(), known, generation }))
    }

    /// Returns the gate.
    pub fn gate(&self) -> Arc<AccessGate> {
        Arc::clone(&self.gate)
    }

    /// Reads the files again; returns true if their content has changed and is now in force.
    ///
    /// # Errors
    /// [`AccessStartError`], and then nothing has changed.
    pub fn refresh(&mut self) -> Result<bool, AccessStartError> {
        let found = AccessFiles::read(&self.config)?;
        if found == self.known {
            self.gate.confirm(unix_now());
            return Ok(false);
        }
        let contents = found.contents(&self.config, self.generation + 1, unix_now())?;
        let issuers = found.issuers(&self.config)?;
        self.gate.apply(contents)?;
        self.gate.apply_issuers(issuers);
        self.generation += 1;
        self.known = found;
        Ok(true)
    }

    /// Takes over SIGHUP, which no longer ends the process, and checks the files for ever.
    ///
    /// # Errors
    /// [`AccessStartError::System`] where signals cannot be received.
    pub fn start(self) -> Result<(), AccessStartError> {
        let asked = signal(SignalKind::hangup());
        let asked = asked.map_err(|error| AccessStartError::System(error.to_string()))?;
        actix_web::rt::spawn(run(self, asked));
        Ok(())
    }
}

async fn run(mut watcher: AccessWatcher, mut asked: Signal) {
    let mut reported = String::new();
    loop {
        let by_hand = tokio::select! {
            () = tokio::time::sleep(CHECK_EVERY) => false,
            _ = asked.recv() => true,
        };
        let checked = tokio::task::spawn_blocking(move || {
            let refreshed = watcher.refresh();
            (watcher, refreshed)
        });
        let Ok((same, refreshed)) = checked.await else {
            tracing::error!("keys and roles are no longer read again: a check of the files failed");
            return;
        };
        watcher = same;
        match refreshed {
            Ok(is_new) => {
                reported.clear();
                if is_new {
                    let keys = watcher.gate.current().snapshot().key_count();
                    tracing::info!(keys, "keys and roles were read again and are in force");
                } else if by_hand {
                    tracing::info!("keys and roles were checked: they are the same");
                }
            }
            Err(error) => {
                let cause = error.to_string();
                if by_hand || cause != reported {
                    tracing::warn!(
                        "keys and roles were not read again, the old ones stay: {cause}"
                    );
                }
                reported = cause;
            }
        }
    }
}
