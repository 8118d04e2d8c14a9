//! File: the configuration file, its settings and its sections.
//!
//! **Invariant:** a name that nobody knows is an error, and a member of the wrong type is named with its path; no error
//! repeats what stands there, because it may hold a secret.
//! **Not here:** what sections mean (`config/router_list`, `config/alerting`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::ConfigError;
use super::settings::{Layer, NAMES, Origin, unknown};

/// The configuration file that is read without being named, if it is there.
const FILE: &str = "analytics.toml";
/// The lists of sections, and the members that each has.
const SECTIONS: [(&str, &[&str]); 3] = [
    ("router", &["name", "url"]),
    ("alert", &["name", "kind", "raise", "clear", "for", "clear_for", "window", "shard", "router"]),
    ("webhook", &["name", "url", "url_file", "authorization_file", "authorization_env"]),
];
/// Most sections of one kind.
const SECTIONS_MAX: usize = 100;

/// The file that is there without being named.
pub(super) fn present() -> Option<PathBuf> {
    Some(PathBuf::from(FILE)).filter(|path| path.exists())
}

/// What stands in the file.
#[derive(Default)]
pub(super) struct File {
    path: PathBuf,
    values: Option<BTreeMap<String, String>>,
    sections: BTreeMap<&'static str, Vec<Table>>,
}

/// One section of a list: `[[alert]]`.
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
        Origin::File(self.path.clone())
    }

    /// The sections of this kind, in their order.
    pub(super) fn sections(&self, kind: &'static str) -> Vec<Section<'_>> {
        let tables = self.sections.get(kind).map_or(&[][..], Vec::as_slice);
        let section = |(number, table)| Section { file: self, kind, number, table };
        (1..).zip(tables).map(section).collect()
    }

    fn named(&self, member: &str) -> String {
        format!("{member} (from {})", self.path.display())
    }

    fn section(&self, value: &Value, at: &str, known: &[&str]) -> Result<Table, ConfigError> {
        let table = value.as_table();
        let table =
            table.ok_or_else(|| ConfigError(format!("{} must be a section", self.named(at))))?;
        if let Some(name) = table.keys().find(|name| !known.contains(&&***name)) {
            let what = self.named(&format!("{at}.{name}"));
            return Err(unknown(&what, name, known.iter().copied()));
        }
        Ok(table.clone())
    }
}

impl Section<'_> {
    /// How the section is called: by its name, if it has one.
    pub(super) fn called(&self) -> String {
        match self.table.get("name").and_then(Value::as_str) {
            Some(name) => format!("{}[{name}]", self.kind),
            None => format!("{}[{}]", self.kind, self.number),
        }
    }

    /// The refusal of a member.
    pub(super) fn refused(&self, member: &str, allowed: &str) -> ConfigError {
        let member = self.file.named(&format!("{}.{member}", self.called()));
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

/// The settings and the sections of a file.
pub(super) fn read(path: &Path) -> Result<File, ConfigError> {
    let bad = |cause: &str| ConfigError(format!("{}: {cause}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| bad(&error.to_string()))?;
    let table: Table = text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        bad(&format!("line {line}: {}", error.message()))
    })?;
    let mut file = File { path: path.to_owned(), ..File::default() };
    let mut values = BTreeMap::new();
    for (name, value) in &table {
        if let Some((kind, members)) = SECTIONS.iter().find(|(kind, _)| kind == name) {
            let list = value.as_array().filter(|list| list.len() <= SECTIONS_MAX);
            let list = list.ok_or_else(|| {
                let wanted = format!("a list of at most {SECTIONS_MAX}: write [[{kind}]]");
                ConfigError(format!("{} must be {wanted}", file.named(kind)))
            })?;
            let section =
                |(number, value)| file.section(value, &format!("{kind}[{number}]"), members);
            let sections = (1..).zip(list).map(section).collect::<Result<_, _>>()?;
            file.sections.insert(kind, sections);
        } else if NAMES.contains(&&**name) {
            let text = plain(value).ok_or_else(|| {
                ConfigError(format!("{} must be a plain value", file.named(name)))
            })?;
            values.insert(name.clone(), text);
        } else {
            let known = NAMES.into_iter().chain(SECTIONS.iter().map(|(kind, _)| *kind));
            return Err(unknown(&file.named(name), name, known));
        }
    }
    file.values = Some(values);
    Ok(file)
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
