//! File: a configuration file in TOML, and how its members are named.
//!
//! **Invariant:** no error repeats what stands there, because it may hold a secret.
//! **Not here:** which members there are.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{ConfigError, Origin, unknown};

/// A configuration file, to which refusals point.
#[derive(Clone, Debug, Default)]
pub struct ConfigFile {
    path: PathBuf,
}

impl ConfigFile {
    /// The file of this name in the working folder, if it is there.
    pub fn present(name: &str) -> Option<PathBuf> {
        Some(PathBuf::from(name)).filter(|path| path.exists())
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`ConfigError`] if it cannot be read or is no TOML: with the line.
    pub fn read(path: &Path) -> Result<(Self, Table), ConfigError> {
        let bad = |cause: &str| ConfigError(format!("{}: {cause}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| bad(&error.to_string()))?;
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            bad(&format!("line {line}: {}", error.message()))
        })?;
        Ok((Self { path: path.to_owned() }, table))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What its values came from.
    pub fn origin(&self) -> Origin {
        Origin::File(self.path.clone())
    }

    /// A member, and where it stands.
    pub fn named(&self, member: &str) -> String {
        format!("{member} (from {})", self.path.display())
    }

    /// The refusal of a member of another kind than what is allowed.
    pub fn wrong(&self, member: &str, allowed: &str) -> ConfigError {
        ConfigError(format!("{} must be {allowed}", self.named(member)))
    }

    /// The members of a section, all of them known.
    ///
    /// # Errors
    /// [`ConfigError`] names the section, or the member that nobody knows.
    pub fn members<'v>(
        &self,
        at: &str,
        value: &'v Value,
        known: &[&str],
    ) -> Result<&'v Table, ConfigError> {
        let table = value.as_table().ok_or_else(|| self.wrong(at, "a section"))?;
        if let Some(name) = table.keys().find(|name| !known.contains(&&***name)) {
            let what = self.named(&format!("{at}.{name}"));
            return Err(unknown(&what, name, known.iter().copied()));
        }
        Ok(table)
    }

    /// The value of a setting as the text that a flag would have.
    ///
    /// # Errors
    /// [`ConfigError`] if it has no such text.
    pub fn setting(&self, name: &str, value: &Value) -> Result<String, ConfigError> {
        plain(value).ok_or_else(|| self.wrong(name, "a plain value"))
    }
}

/// The text that a flag would have; a list becomes `a,b`.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Boolean(truth) => Some(truth.to_string()),
        Value::Array(items) => {
            let items: Option<Vec<String>> = items.iter().map(plain).collect();
            items.map(|items| items.join(","))
        }
        Value::Float(_) | Value::Datetime(_) | Value::Table(_) => None,
    }
}
