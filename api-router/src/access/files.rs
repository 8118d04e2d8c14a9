//! Files: reads API keys, roles and the keys of token issuers from the files that the settings
//! name.
//!
//! **Invariant:** the files are used only if all of them are valid. A file with a secret is refused
//! if other users may read it, and a list of keys or roles if other users may write it. No error
//! message repeats the content of a file with keys or secrets.
//! **Not here:** reading the files again after a change (`watcher`), the formats of keys and roles
//! (`shard_manager::access`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use issuers::files::{IssuerFileError, IssuerFiles};
use shard_manager::access::jwt::issuer::LoadedKeys;
use shard_manager::access::key_record::KeyRecord;
use shard_manager::access::keys_file;
use shard_manager::access::role::AccessRole;
use shard_manager::private_file::{self, Protection};

use crate::config::AccessConfig;

/// Maximum size in bytes of a file of keys or roles: enough for as many as a snapshot can hold.
const LIST_BYTES_MAX: u64 = 64 << 20;
/// Name of the section of issuers in the configuration file.
const ISSUERS: &str = "access.issuer";

/// Reason why a file cannot be used, with the setting that names it and its path.
#[derive(Debug, thiserror::Error)]
#[error("{setting} ({}): {cause}", path.display())]
pub struct AccessFileError {
    setting: String,
    path: PathBuf,
    cause: String,
}

impl From<IssuerFileError> for AccessFileError {
    fn from(IssuerFileError { setting, path, cause }: IssuerFileError) -> Self {
        Self { setting, path, cause }
    }
}

/// Content of all files.
#[derive(Default, PartialEq, Eq)]
pub struct AccessFiles {
    keys: Option<Vec<u8>>,
    roles: Option<Vec<u8>>,
    issuers: IssuerFiles,
}

/// Keys and roles that the files define.
#[derive(Clone, Debug, Default)]
pub struct FileRecords {
    /// The keys.
    pub keys: Vec<KeyRecord>,
    /// The roles.
    pub roles: Vec<AccessRole>,
}

impl AccessFiles {
    /// Reads all files.
    ///
    /// # Errors
    /// [`AccessFileError`] names the first file that cannot be read, or that other users may read
    /// or write.
    pub fn read(config: &AccessConfig) -> Result<Self, AccessFileError> {
        let list = |setting: &str, path: &Option<PathBuf>| {
            let path = path.as_ref();
            path.map(|path| read(setting, path, Protection::Writing, LIST_BYTES_MAX)).transpose()
        };
        Ok(Self {
            keys: list("access_keys_file", &config.keys_file)?,
            roles: list("access_roles_file", &config.roles_file)?,
            issuers: IssuerFiles::read(&config.issuers, ISSUERS)?,
        })
    }

    /// Parses the keys and roles.
    ///
    /// # Errors
    /// [`AccessFileError`] names the file, the line or member, and the rule that is broken.
    pub fn records(&self, config: &AccessConfig) -> Result<FileRecords, AccessFileError> {
        let error = |setting: &str, path: &Option<PathBuf>, cause: String| AccessFileError {
            setting: setting.to_owned(),
            path: path.clone().unwrap_or_default(),
            cause,
        };
        let keys = self.keys.as_deref().map_or(Ok(Vec::new()), parse_keys);
        let keys = keys.map_err(|cause| error("access_keys_file", &config.keys_file, cause))?;
        let roles = self.roles.as_deref().map_or(Ok(Vec::new()), parse_roles);
        let roles = roles.map_err(|cause| error("access_roles_file", &config.roles_file, cause))?;
        Ok(FileRecords { keys, roles })
    }

    /// Returns the keys of each issuer; `None` for an issuer whose keys are fetched over the
    /// network.
    ///
    /// # Errors
    /// [`AccessFileError`] names the member of a file that cannot be used.
    pub fn key_sets(
        &self,
        config: &AccessConfig,
    ) -> Result<Vec<Option<LoadedKeys>>, AccessFileError> {
        Ok(self.issuers.key_sets(&config.issuers, ISSUERS)?)
    }
}

fn parse_keys(bytes: &[u8]) -> Result<Vec<KeyRecord>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())?;
    keys_file::parse(text).map_err(|error| error.to_string())
}

fn parse_roles(bytes: &[u8]) -> Result<Vec<AccessRole>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())?;
    AccessRole::parse_file(text).map_err(|error| error.to_string())
}

impl FileRecords {
    /// Logs a warning for each role that keys of the files have and that does not exist, neither in
    /// the files nor among `of_catalog`. The files are used nevertheless, because a role may have
    /// been removed on purpose to take away its rights.
    pub fn warn_of_unknown_roles(&self, of_catalog: &[AccessRole]) {
        let built_in = AccessRole::built_in();
        let roles = self.roles.iter().chain(of_catalog).chain(&built_in);
        let known: BTreeSet<&str> = roles.map(AccessRole::name).collect();
        let unknown: BTreeSet<&str> =
            self.keys.iter().map(|key| &*key.role).filter(|role| !known.contains(role)).collect();
        for role in unknown {
            tracing::warn!(role, "there is no such role: keys that have it may do nothing");
        }
    }
}

fn read(
    setting: &str,
    path: &Path,
    protection: Protection,
    bytes_max: u64,
) -> Result<Vec<u8>, AccessFileError> {
    private_file::read(path, protection, bytes_max).map_err(|cause| AccessFileError {
        setting: setting.to_owned(),
        path: path.into(),
        cause: cause.to_string(),
    })
}
