//! Key files: reads keys and roles from the files that the settings name, and reads them again when
//! they change.
//!
//! **Invariant:** both files are good, or neither is used: the last good content stays in force,
//! and the log states the reason, once for each reason.
//! **Not here:** the formats (`access`), the decision about requests (`gate`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use access::keys_file;
use access::role::AccessRole;
use access::snapshot::SnapshotContents;
use credential::private_file::{self, Protection};
use rustls::crypto::ring;

use crate::config::AccessConfig;
use crate::gate::{AccessGate, RANDOM_LEN, unix_now};

/// Interval between two checks of the files.
const CHECK_EVERY: Duration = Duration::from_secs(10);
/// Longest file: that of a full list.
const BYTES_MAX: u64 = 64 << 20;

/// Files of a gate, with the content that is in force.
pub(crate) struct KeyFiles {
    gate: Arc<AccessGate>,
    keys: Option<PathBuf>,
    roles: Option<PathBuf>,
    known: [Vec<u8>; 2],
    generation: u64,
}

impl KeyFiles {
    /// Reads the files and opens a gate; `None` if access control is off.
    ///
    /// # Errors
    /// The file that cannot be used, and the reason.
    pub(crate) fn open(config: &AccessConfig, is_tls: bool) -> Result<Option<Self>, String> {
        if !config.is_on {
            return Ok(None);
        }
        let mut random = [0; RANDOM_LEN];
        let filled = ring::default_provider().secure_random.fill(&mut random);
        filled.map_err(|_| "the system provides no random bytes".to_owned())?;
        let (keys, roles) = (config.keys_file.clone(), config.roles_file.clone());
        let known = read(keys.as_deref(), roles.as_deref())?;
        let contents = parse(&known, 1)?;
        let gate = AccessGate::new(contents, is_tls, &random).map_err(|error| error.to_string())?;
        Ok(Some(Self { gate: Arc::new(gate), keys, roles, known, generation: 1 }))
    }

    /// Returns the gate.
    pub(crate) fn gate(&self) -> Arc<AccessGate> {
        Arc::clone(&self.gate)
    }

    /// Checks the files for ever.
    pub(crate) async fn follow(mut self) {
        let mut reported = String::new();
        loop {
            tokio::time::sleep(CHECK_EVERY).await;
            let checked = tokio::task::spawn_blocking(move || {
                let refreshed = self.refresh();
                (self, refreshed)
            });
            let Ok((same, refreshed)) = checked.await else {
                tracing::error!("keys and roles are no longer read again: a check has failed");
                return;
            };
            self = same;
            match refreshed {
                Ok(is_new) => {
                    reported.clear();
                    if is_new {
                        tracing::info!("keys and roles were read again and are in force");
                    }
                }
                Err(cause) => {
                    if cause != reported {
                        tracing::warn!(
                            "keys and roles were not read again, the old ones stay: {cause}"
                        );
                    }
                    reported = cause;
                }
            }
        }
    }

    /// Reads the files again; returns true if their content has changed and is now in force.
    fn refresh(&mut self) -> Result<bool, String> {
        let found = read(self.keys.as_deref(), self.roles.as_deref())?;
        if found == self.known {
            self.gate.confirm(unix_now());
            return Ok(false);
        }
        let contents = parse(&found, self.generation + 1)?;
        self.gate.apply(contents).map_err(|error| error.to_string())?;
        self.generation += 1;
        self.known = found;
        Ok(true)
    }
}

fn read(keys: Option<&Path>, roles: Option<&Path>) -> Result<[Vec<u8>; 2], String> {
    let content = |setting: &str, path: Option<&Path>| {
        let Some(path) = path else { return Ok(Vec::new()) };
        private_file::read(path, Protection::Writing, BYTES_MAX)
            .map_err(|cause| format!("{setting} ({}): {cause}", path.display()))
    };
    Ok([content("access_keys_file", keys)?, content("access_roles_file", roles)?])
}

fn parse([keys, roles]: &[Vec<u8>; 2], generation: u64) -> Result<SnapshotContents, String> {
    let text = |setting: &str, bytes| {
        std::str::from_utf8(bytes).map_err(|_| format!("{setting}: is not UTF-8"))
    };
    let keys = keys_file::parse(text("access_keys_file", keys)?);
    let keys = keys.map_err(|error| format!("access_keys_file: {error}"))?;
    let roles = match text("access_roles_file", roles)? {
        "" => Vec::new(),
        text => {
            AccessRole::parse_file(text).map_err(|error| format!("access_roles_file: {error}"))?
        }
    };
    let (denials, read_at) = (Vec::new(), unix_now());
    Ok(SnapshotContents { keys, roles, denials, generation, read_at })
}
