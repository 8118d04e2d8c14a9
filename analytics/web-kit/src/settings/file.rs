//! File: a configuration file in TOML, and the names of its members.
//!
//! **Invariant:** no error repeats a value, because the value may be a secret.
//! **Not here:** the names of the known members.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{ConfigError, Origin, unknown};

/// A configuration file; errors contain its path.
#[derive(Clone, Debug, Default)]
pub struct ConfigFile {
    path: PathBuf,
}

impl ConfigFile {
    /// Returns the file of this name in the working folder, if it exists.
    pub fn present(name: &str) -> Option<PathBuf> {
        Some(PathBuf::from(name)).filter(|path| path.exists())
    }

    /// Reads a file.
    ///
    /// # Errors
    /// Fails with [`ConfigError`], which names the line, if the file cannot be read or is not TOML.
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

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the source of the file's values.
    pub fn origin(&self) -> Origin {
        Origin::File(self.path.clone())
    }

    /// Returns the name of a member together with the path of the file, for errors.
    pub fn named(&self, member: &str) -> String {
        format!("{member} (from {})", self.path.display())
    }

    /// Returns the error for a member of the wrong type.
    pub fn wrong(&self, member: &str, allowed: &str) -> ConfigError {
        ConfigError(format!("{} must be {allowed}", self.named(member)))
    }

    /// Returns the members of a section, if all of them are known.
    ///
    /// # Errors
    /// Fails with [`ConfigError`], which names the section, or the unknown member.
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

    /// Returns the value of a setting as the string that a flag would have.
    ///
    /// # Errors
    /// Fails with [`ConfigError`] if the value cannot be written as a flag.
    pub fn setting(&self, name: &str, value: &Value) -> Result<String, ConfigError> {
        plain(value).ok_or_else(|| self.wrong(name, "a plain value"))
    }
}

/// Converts a value to the string that a flag would have; a list becomes `a,b`.
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
