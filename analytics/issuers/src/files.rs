//! Files: reads the keys of issuers from the files that their settings name.
//!
//! **Invariant:** all files are good, or none of them is used. A secret is refused if others may
//! read its file, and public keys if others may write theirs. No error repeats the content of a
//! file.
//! **Not here:** reading again when a file has changed (the programs), keys that are fetched
//! (`key_fetcher`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use access::jwt::TokenAlgorithm;
use access::jwt::issuer::{Issuer, IssuerError, LoadedKeys};
use access::jwt::key_set::KeySet;
use credential::private_file::{self, Protection, without_line_end};

use crate::config::{IssuerConfig, IssuerKeys};

/// Longest file with the keys of an issuer.
const BYTES_MAX: u64 = 256 << 10;

/// Reason why a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{setting} ({}): {cause}", path.display())]
pub struct IssuerFileError {
    /// The setting that names the file.
    pub setting: String,
    /// The file.
    pub path: PathBuf,
    /// The reason.
    pub cause: String,
}

/// Content of the files of all issuers.
#[derive(Default, PartialEq, Eq)]
pub struct IssuerFiles {
    /// Content for each issuer; `None` if its keys are fetched.
    contents: Vec<Option<Vec<u8>>>,
}

impl IssuerFiles {
    /// Reads all files. Errors name the members of `section`.
    ///
    /// # Errors
    /// [`IssuerFileError`] names the first file that cannot be read, or whose permissions are too
    /// wide.
    pub fn read(issuers: &[IssuerConfig], section: &str) -> Result<Self, IssuerFileError> {
        let contents = (1..).zip(issuers).map(|(number, issuer)| {
            let (path, protection) = match &issuer.keys {
                IssuerKeys::Jwks(path) => (path, Protection::Writing),
                IssuerKeys::Secret(path) => (path, Protection::Reading),
                IssuerKeys::Url(_) => return Ok(None),
            };
            read(path, protection)
                .map(Some)
                .map_err(|cause| error(section, number, &issuer.keys, cause))
        });
        Ok(Self { contents: contents.collect::<Result<_, _>>()? })
    }

    /// Returns the keys of each issuer; `None` if they are fetched.
    ///
    /// # Errors
    /// [`IssuerFileError`] names the member that cannot be used.
    pub fn key_sets(
        &self,
        issuers: &[IssuerConfig],
        section: &str,
    ) -> Result<Vec<Option<LoadedKeys>>, IssuerFileError> {
        let issuers = (1..).zip(issuers).zip(&self.contents);
        let loaded = issuers.map(|((number, issuer), bytes)| {
            load(issuer, bytes.as_deref())
                .map_err(|cause| error(section, number, &issuer.keys, cause))
        });
        loaded.collect()
    }
}

fn error(section: &str, number: usize, keys: &IssuerKeys, cause: String) -> IssuerFileError {
    let (member, place) = keys.member();
    let setting = format!("{section}[{number}].{member}");
    IssuerFileError { setting, path: place.into(), cause }
}

fn read(path: &Path, protection: Protection) -> Result<Vec<u8>, String> {
    private_file::read(path, protection, BYTES_MAX).map_err(|cause| cause.to_string())
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
