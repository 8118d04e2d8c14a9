//! Files: reads keys, roles and the keys of issuers from the files that the settings name.
//!
//! **Invariant:** all files are good, or none of them is used. A secret is refused if others may
//! read its file, and a list of keys or roles if others may write it. No error repeats the content
//! of a file of keys or secrets.
//! **Not here:** reading again when a file has changed (`watcher`), the formats of keys and roles
//! (`shard_manager::access`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use shard_manager::access::jwt::TokenAlgorithm;
use shard_manager::access::jwt::issuer::{Issuer, IssuerError, LoadedKeys};
use shard_manager::access::jwt::key_set::KeySet;
use shard_manager::access::key_record::KeyRecord;
use shard_manager::access::keys_file;
use shard_manager::access::role::AccessRole;
use shard_manager::private_file::{self, Protection, without_line_end};

use crate::config::{AccessConfig, IssuerConfig, IssuerKeys};

/// Longest file of keys or roles: those of a full snapshot.
const LIST_BYTES_MAX: u64 = 64 << 20;
/// Longest file with the keys of an issuer.
const ISSUER_BYTES_MAX: u64 = 256 << 10;

/// Reason why the files cannot be used. It names the setting and the file.
#[derive(Debug, thiserror::Error)]
#[error("{setting} ({}): {cause}", path.display())]
pub struct AccessFileError {
    setting: String,
    path: PathBuf,
    cause: String,
}

/// Content of all files.
#[derive(Default, PartialEq, Eq)]
pub struct AccessFiles {
    keys: Option<Vec<u8>>,
    roles: Option<Vec<u8>>,
    /// Keys of each issuer; none if they are fetched.
    issuers: Vec<Option<Vec<u8>>>,
}

/// Keys and roles of the files.
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
    /// [`AccessFileError`] names the first file that cannot be read, or has too many readers.
    pub fn read(config: &AccessConfig) -> Result<Self, AccessFileError> {
        let list = |setting: &str, path: &Option<PathBuf>| {
            let path = path.as_ref();
            path.map(|path| read(setting, path, Protection::Writing, LIST_BYTES_MAX)).transpose()
        };
        let issuers = (1..).zip(&config.issuers).map(|(number, issuer)| {
            let (path, protection) = match &issuer.keys {
                IssuerKeys::Jwks(path) => (path, Protection::Writing),
                IssuerKeys::Secret(path) => (path, Protection::Reading),
                IssuerKeys::Url(_) => return Ok(None),
            };
            let setting = member_of(number, issuer.keys.member().0);
            read(&setting, path, protection, ISSUER_BYTES_MAX).map(Some)
        });
        Ok(Self {
            keys: list("access_keys_file", &config.keys_file)?,
            roles: list("access_roles_file", &config.roles_file)?,
            issuers: issuers.collect::<Result<_, _>>()?,
        })
    }

    /// Returns the keys and roles.
    ///
    /// # Errors
    /// [`AccessFileError`] names the file, the line or member, and the rule that it breaks.
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

    /// Returns the keys of each issuer; `None` if they are fetched.
    ///
    /// # Errors
    /// [`AccessFileError`] names the member that cannot be used.
    pub fn key_sets(
        &self,
        config: &AccessConfig,
    ) -> Result<Vec<Option<LoadedKeys>>, AccessFileError> {
        let issuers = (1..).zip(&config.issuers).zip(&self.issuers);
        let loaded = issuers.map(|((number, issuer), bytes)| {
            load(issuer, bytes.as_deref()).map_err(|cause| {
                let (member, place) = issuer.keys.member();
                AccessFileError { setting: member_of(number, member), path: place.into(), cause }
            })
        });
        loaded.collect()
    }
}

fn member_of(number: usize, member: &str) -> String {
    format!("access.issuer[{number}].{member}")
}

/// Returns the keys of an issuer, if its settings accept them.
fn load(issuer: &IssuerConfig, bytes: Option<&[u8]>) -> Result<Option<LoadedKeys>, String> {
    let set = match (&issuer.keys, bytes) {
        (IssuerKeys::Secret(_), Some(bytes)) => KeySet::from_secret(without_line_end(bytes)),
        (IssuerKeys::Jwks(_), Some(bytes)) => KeySet::from_jwks(bytes),
        (IssuerKeys::Url(_), _) | (_, None) => {
            if issuer.settings.algorithms.contains(&TokenAlgorithm::Hs256) {
                return Err(IssuerError::Source.to_string());
            }
            Issuer::new(issuer.settings.clone(), None).map_err(|error| error.to_string())?;
            return Ok(None);
        }
    };
    let set = Arc::new(set.map_err(|error| error.to_string())?);
    let keys = Some(LoadedKeys { set, usable_until: None });
    Issuer::new(issuer.settings.clone(), keys.clone()).map_err(|error| error.to_string())?;
    Ok(keys)
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
    /// Warns of keys without rights, given the roles of the catalog. Older keys are
    /// not kept for that, because a role may have been removed to take its rights away.
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
