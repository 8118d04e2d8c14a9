//! Credential: the API key or token that a program sends to routers.
//!
//! A program takes it from a file that the flag `--key-file` names, or else from the environment
//! variable [`Credential::VARIABLE`]. It is never the value of a flag, because other users of a
//! machine see the command lines of all programs.
//!
//! **Invariant:** `Debug` shows `***`; only [`Credential::bearer`] returns the credential. A file
//! that others may read is refused.
//! **Not here:** HTTP. A program calls [`Credential::check_url`] before it sends anything, and
//! follows no redirect with a credential.
#![forbid(unsafe_code)]

pub mod private_file;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use private_file::{FileFault, Protection};

/// Longest credential in bytes that routers accept.
const BYTES_MAX: u64 = 8 << 10;

/// An API key or a token, which is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential(String);

impl Credential {
    /// Environment variable with the credential of programs that send requests to routers.
    pub const VARIABLE: &str = "TESSERA_KEY";

    /// Returns the credential of a program: from the file, or else from the variable.
    ///
    /// # Errors
    /// [`CredentialError`] if the file cannot be used, or if it or the variable has no credential.
    pub fn find(key_file: Option<&Path>) -> Result<Option<Self>, CredentialError> {
        match key_file {
            Some(path) => Self::from_file(path).map(Some),
            None => Self::from_environment(),
        }
    }

    /// Reads the credential from a file that only its owner may read. A group may read it too if
    /// root owns the file: service managers provide secrets in this way.
    ///
    /// # Errors
    /// [`CredentialError`] names the file and the cause.
    pub fn from_file(path: &Path) -> Result<Self, CredentialError> {
        // White space around the longest credential fits, too.
        let read = private_file::read(path, Protection::Reading, 2 * BYTES_MAX);
        let bytes = read.map_err(|cause| CredentialError::File { path: path.to_owned(), cause })?;
        // Invalid UTF-8 is replaced by a character that no credential has.
        let parsed = Self::parse(&String::from_utf8_lossy(&bytes));
        parsed.map_err(|cause| CredentialError::FileText { path: path.to_owned(), cause })
    }

    fn from_environment() -> Result<Option<Self>, CredentialError> {
        let Some(text) = std::env::var_os(Self::VARIABLE) else { return Ok(None) };
        // Invalid UTF-8 is replaced by a character that no credential has.
        let parsed = Self::parse(&text.to_string_lossy());
        parsed.map(Some).map_err(CredentialError::Variable)
    }

    /// Parses a credential, without the white space around it.
    ///
    /// # Errors
    /// [`TextFault`] if the text is empty or too long, or cannot be sent in a header.
    pub fn parse(text: &str) -> Result<Self, TextFault> {
        let text = text.trim();
        if text.is_empty() {
            return Err(TextFault::Empty);
        }
        if text.len() as u64 > BYTES_MAX {
            return Err(TextFault::TooLong);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TextFault::Characters);
        }
        Ok(Self(text.to_owned()))
    }

    /// Returns the value of the header `Authorization`.
    pub fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// Checks that the credential may be sent to a URL: over TLS, or to this machine.
    ///
    /// # Errors
    /// [`UnprotectedUrl`] names the URL.
    pub fn check_url(url: &str) -> Result<(), UnprotectedUrl> {
        let is_protected = match url.split_once("://") {
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => true,
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => is_of_loopback(rest),
            Some(_) | None => false,
        };
        if is_protected { Ok(()) } else { Err(UnprotectedUrl { url: url.to_owned() }) }
    }
}

/// Returns true if the rest of a URL, after its scheme, names this machine. Programs read unusual
/// hosts in different ways, so only plain names and addresses are accepted.
fn is_of_loopback(rest: &str) -> bool {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (host, port) = match authority.strip_prefix('[').map(|inner| inner.split_once(']')) {
        Some(Some((host, behind))) => (host, behind),
        Some(None) => return false,
        None => match authority.find(':') {
            Some(colon) => authority.split_at(colon),
            None => (authority, ""),
        },
    };
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let is_local = host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
    is_local && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// URL to which no credential is sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{url}: a key is sent only by https or to this machine, because others could read it on its way: \
     use https, or leave --key-file and TESSERA_KEY out"
)]
pub struct UnprotectedUrl {
    url: String,
}

/// Reason why a text is not a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextFault {
    /// There is nothing but white space.
    #[error("has no key in it")]
    Empty,
    /// The text is longer than routers accept.
    #[error("is longer than {BYTES_MAX} bytes")]
    TooLong,
    /// The text has other characters than a key or a token.
    #[error("has more than one key in it, or characters that no key has")]
    Characters,
}

/// Reason why there is no credential, although one was named. No message repeats the content.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The file cannot be used.
    #[error("the key file {}: {cause}", path.display())]
    File {
        /// Path of the file.
        path: PathBuf,
        /// Reason.
        cause: FileFault,
    },
    /// The content of the file is not a credential.
    #[error("the key file {} {cause}", path.display())]
    FileText {
        /// Path of the file.
        path: PathBuf,
        /// Reason.
        cause: TextFault,
    },
    /// The variable cannot be used.
    #[error("the environment variable TESSERA_KEY {0}")]
    Variable(TextFault),
}

#[cfg(test)]
mod tests;
