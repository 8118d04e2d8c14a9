//! Key files: reads API keys, roles and the keys of issuers from the files that the settings name,
//! and applies them again when the files change.
//!
//! **Invariant:** new content is used only if all files are valid. Otherwise the last valid content
//! stays in force, and the reason is logged once, and on each SIGHUP.
//! **Not here:** the formats (`access`), the decision about requests (`gate`), keys of issuers that
//! are fetched (`issuers`).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use access::jwt::issuer::LoadedKeys;
use access::keys_file;
use access::role::AccessRole;
use access::snapshot::SnapshotContents;
use credential::private_file::{self, Protection};
use issuers::files::IssuerFiles;
use issuers::key_fetcher;
use issuers::key_sets::{self, IssuerKeySets};
use issuers::remote_keys::RemoteKeys;
use rustls::crypto::ring;
use web_kit::hangup_signals::HangupSignals;

use crate::config::AccessConfig;
use crate::gate::{AccessGate, RANDOM_LEN, unix_now};

/// Interval between two checks of the files.
const CHECK_EVERY: Duration = Duration::from_secs(10);
/// Maximum number of bytes of a file, which is enough for the longest list of keys.
const BYTES_MAX: u64 = 64 << 20;

/// Name of the list of issuers in the configuration file.
const ISSUERS: &str = "issuer";

/// Files from which a gate gets its keys and roles, with the content that is in force.
pub(crate) struct KeyFiles {
    gate: Arc<AccessGate>,
    config: AccessConfig,
    known: FileContents,
    issuer_keys: Arc<IssuerKeySets>,
    generation: u64,
}

/// Content of all files.
#[derive(PartialEq, Eq)]
struct FileContents {
    /// Contents of the file of keys and of the file of roles.
    lists: [Vec<u8>; 2],
    issuers: IssuerFiles,
}

impl KeyFiles {
    /// Reads the files and creates a gate. Returns `None` if access control is off.
    ///
    /// # Errors
    /// Fails with a message that names the file that cannot be used, and the reason.
    pub(crate) fn open(config: &AccessConfig, is_tls: bool) -> Result<Option<Self>, String> {
        if !config.is_on {
            return Ok(None);
        }
        let mut random = [0; RANDOM_LEN];
        let filled = ring::default_provider().secure_random.fill(&mut random);
        filled.map_err(|_| "the system provides no random bytes".to_owned())?;
        let known = FileContents::read(config)?;
        let contents = parse(&known.lists, 1)?;
        let sets = known.key_sets(config)?;
        let issuers = key_sets::issuers(&config.issuers, &sets);
        let issuers = issuers.map_err(|error| format!("{ISSUERS}: {error}"))?;
        let remote_keys = RemoteKeys::new(&config.issuers);
        let gate = AccessGate::new(contents, (issuers, remote_keys), is_tls, &random);
        let gate = Arc::new(gate.map_err(|error| error.to_string())?);
        let issuer_keys = IssuerKeySets::new(gate.clone(), config.issuers.clone(), sets);
        let issuer_keys = Arc::new(issuer_keys);
        Ok(Some(Self { gate, config: config.clone(), known, issuer_keys, generation: 1 }))
    }

    /// Starts to fetch the keys of the issuers that have a URL.
    ///
    /// # Errors
    /// Fails if the system cannot create a thread.
    pub(crate) fn start_fetching(&self) -> std::io::Result<()> {
        key_fetcher::start(&self.issuer_keys, self.gate.remote_keys())
    }

    /// Returns the gate.
    pub(crate) fn gate(&self) -> Arc<AccessGate> {
        Arc::clone(&self.gate)
    }

    /// Checks the files every [`CHECK_EVERY`], and at once on SIGHUP, until the service ends.
    pub(crate) async fn follow(mut self, mut hangup_signals: HangupSignals) {
        let mut reported = String::new();
        loop {
            let was_requested = tokio::select! {
                () = tokio::time::sleep(CHECK_EVERY) => false,
                () = hangup_signals.next() => true,
            };
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
                    } else if was_requested {
                        tracing::info!("keys and roles were checked: they are the same");
                    }
                }
                Err(cause) => {
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

    /// Reads the files again; returns true if their content has changed and is now in force.
    fn refresh(&mut self) -> Result<bool, String> {
        let found = FileContents::read(&self.config)?;
        if found == self.known {
            self.gate.confirm(unix_now());
            return Ok(false);
        }
        let contents = parse(&found.lists, self.generation + 1)?;
        let sets = found.key_sets(&self.config)?;
        self.gate.apply(contents).map_err(|error| error.to_string())?;
        self.issuer_keys.apply_files(sets).map_err(|error| format!("{ISSUERS}: {error}"))?;
        self.generation += 1;
        self.known = found;
        Ok(true)
    }
}

impl FileContents {
    fn read(config: &AccessConfig) -> Result<Self, String> {
        let content = |setting: &str, path: Option<&Path>| {
            let Some(path) = path else { return Ok(Vec::new()) };
            private_file::read(path, Protection::Writing, BYTES_MAX)
                .map_err(|cause| format!("{setting} ({}): {cause}", path.display()))
        };
        let lists = [
            content("access_keys_file", config.keys_file.as_deref())?,
            content("access_roles_file", config.roles_file.as_deref())?,
        ];
        let issuers = IssuerFiles::read(&config.issuers, ISSUERS);
        Ok(Self { lists, issuers: issuers.map_err(|error| error.to_string())? })
    }

    fn key_sets(&self, config: &AccessConfig) -> Result<Vec<Option<LoadedKeys>>, String> {
        let sets = self.issuers.key_sets(&config.issuers, ISSUERS);
        sets.map_err(|error| error.to_string())
    }
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
