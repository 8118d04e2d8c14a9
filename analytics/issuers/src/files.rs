//! Files: reads the keys of issuers from the files that their settings name.
//!
//! **Invariant:** if one file is not valid, none of them is used. A file with a secret is refused
//! if other users may read it; a file with public keys is refused if other users may write it. No
//! error repeats the content of a file.
//! **Not here:** noticing that a file has changed (the programs do that), keys that are fetched
//! (`key_fetcher`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use access::jwt::TokenAlgorithm;
use access::jwt::issuer::{Issuer, IssuerError, LoadedKeys};
use access::jwt::key_set::KeySet;
use credential::private_file::{self, Protection, without_line_end};

use crate::config::{IssuerConfig, IssuerKeys};

/// Maximum size of a file with the keys of an issuer, in bytes.
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
    /// Content of each issuer's file; `None` if the issuer's keys are fetched.
    contents: Vec<Option<Vec<u8>>>,
}

impl IssuerFiles {
    /// Reads all files. Errors name the member of the configuration file; `section` is the name of
    /// the list of issuers there.
    ///
    /// # Errors
    /// Returns an [`IssuerFileError`], which names the first file that cannot be read or has too
    /// wide permissions.
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
    /// Returns an [`IssuerFileError`], which names the member that cannot be used.
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

/// Returns the keys of an issuer, `None` if they are fetched. Fails if the keys do not match the
/// issuer's settings.
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
