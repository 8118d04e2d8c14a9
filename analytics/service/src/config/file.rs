//! File: reads the settings and the sections of the configuration file.
//!
//! **Invariant:** an unknown name is an error. An error about a member of the wrong type names the
//! member and its section. No error repeats a value, because the value may be a secret.
//! **Not here:** the meaning of sections (`config/router_list`, `config/alerting`, `issuers`).

use std::collections::BTreeMap;
use std::path::Path;

use issuers::config::IssuerConfig;
use toml::{Table, Value};

use super::{ConfigError, NAMES};
use web_kit::settings::{ConfigFile, Layer, Origin, unknown};

/// Names of the lists of sections (such as `[[alert]]`), and of the members that each section may
/// have.
const SECTIONS: [(&str, &[&str]); 4] = [
    ("router", &["name", "url"]),
    ("issuer", &issuers::config::MEMBERS),
    ("alert", &["name", "kind", "raise", "clear", "for", "clear_for", "window", "shard", "router"]),
    ("webhook", &["name", "url", "url_file", "authorization_file", "authorization_env"]),
];
/// Maximum number of sections of one kind.
const SECTIONS_MAX: usize = 100;

/// Contents of the file.
#[derive(Default)]
pub(super) struct File {
    file: ConfigFile,
    values: Option<BTreeMap<String, String>>,
    sections: BTreeMap<&'static str, Vec<Table>>,
}

/// One section of a list, such as `[[alert]]`.
pub(super) struct Section<'f> {
    file: &'f File,
    kind: &'static str,
    number: usize,
    table: &'f Table,
}

impl File {
    pub(super) fn layer(&self) -> Option<Layer> {
        Some((self.origin(), self.values.clone()?))
    }

    pub(super) fn origin(&self) -> Origin {
        self.file.origin()
    }

    /// Returns the sections of this kind, in order.
    pub(super) fn sections(&self, kind: &'static str) -> Vec<Section<'_>> {
        let tables = self.sections.get(kind).map_or(&[][..], Vec::as_slice);
        let section = |(number, table)| Section { file: self, kind, number, table };
        (1..).zip(tables).map(section).collect()
    }
}

impl Section<'_> {
    /// Returns the issuer that the section describes.
    pub(super) fn issuer(&self) -> Result<IssuerConfig, ConfigError> {
        IssuerConfig::read(&self.file.file, &self.called(), self.table)
    }

    /// Returns the title of the section for messages, which contains the section's name if it has
    /// one.
    pub(super) fn called(&self) -> String {
        match self.table.get("name").and_then(Value::as_str) {
            Some(name) => format!("{}[{name}]", self.kind),
            None => format!("{}[{}]", self.kind, self.number),
        }
    }

    /// Returns the error for a member whose value is refused.
    pub(super) fn refused(&self, member: &str, allowed: &str) -> ConfigError {
        let member = self.file.file.named(&format!("{}.{member}", self.called()));
        ConfigError(format!("{member} {allowed}"))
    }

    pub(super) fn text(&self, member: &str) -> Result<Option<&str>, ConfigError> {
        match self.table.get(member) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.refused(member, "must be a text")),
        }
    }

    pub(super) fn needed(&self, member: &str) -> Result<&str, ConfigError> {
        self.text(member)?.ok_or_else(|| self.refused(member, "is missing"))
    }

    pub(super) fn number(&self, member: &str) -> Result<Option<f64>, ConfigError> {
        match self.table.get(member) {
            None => Ok(None),
            Some(Value::Integer(number)) => Ok(Some(*number as f64)),
            Some(Value::Float(number)) => Ok(Some(*number)),
            Some(_) => Err(self.refused(member, "must be a number")),
        }
    }
}

/// Reads the settings and the sections of a file.
pub(super) fn read(path: &Path) -> Result<File, ConfigError> {
    let (file, table) = ConfigFile::read(path)?;
    let mut sections = BTreeMap::new();
    let mut values = BTreeMap::new();
    for (name, value) in &table {
        if let Some((kind, members)) = SECTIONS.iter().find(|(kind, _)| kind == name) {
            let list = value.as_array().filter(|list| list.len() <= SECTIONS_MAX);
            let wanted = || format!("a list of at most {SECTIONS_MAX}: write [[{kind}]]");
            let list = list.ok_or_else(|| file.wrong(kind, &wanted()))?;
            let section = |(number, value)| {
                file.members(&format!("{kind}[{number}]"), value, members).cloned()
            };
            sections.insert(*kind, (1..).zip(list).map(section).collect::<Result<_, _>>()?);
        } else if NAMES.contains(&&**name) {
            values.insert(name.clone(), file.setting(name, value)?);
        } else {
            let known = NAMES.into_iter().chain(SECTIONS.iter().map(|(kind, _)| *kind));
            return Err(unknown(&file.named(name), name, known));
        }
    }
    Ok(File { file, values: Some(values), sections })
}
