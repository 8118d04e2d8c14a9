//! Settings: one value each, from the first source that has it.
//!
//! **Invariant:** every value that is asked for is shown, with where it came from, and no secret with it.
//! **Not here:** which settings there are (`config`), what stands in the file (`config/file`).

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::path::PathBuf;

use super::ConfigError;

/// The names of all settings, as at the top of the configuration file.
pub(super) const NAMES: [&str; 6] = ["bind", "routers", "store", "workers", "log", "insecure"];
const PREFIX: &str = "TESSERA_ANALYTICS_";
/// A name so far from one that is known is no slip of the pen.
const SLIP_MAX: usize = 2;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Flag,
    Environment,
    File(PathBuf),
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Environment => f.write_str("environment"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// One source of settings: names and texts.
pub(super) type Layer = (Origin, BTreeMap<String, String>);

/// The settings among the variables of the environment: `TESSERA_ANALYTICS_BIND` is `bind`.
pub(super) fn environment() -> Result<Layer, ConfigError> {
    let mut values = BTreeMap::new();
    for (name, value) in std::env::vars_os() {
        let Some(setting) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else {
            continue;
        };
        let what = format!("{PREFIX}{setting} (from environment)");
        let lower = setting.to_ascii_lowercase();
        let known = NAMES.contains(&&*lower) || lower == "config";
        if !known || setting.bytes().any(|byte| byte.is_ascii_lowercase()) {
            return Err(unknown(&what, &lower, NAMES.into_iter().chain(["config"])));
        }
        let value = value.into_string().map_err(|_| ConfigError(format!("{what} is no text")))?;
        values.insert(lower, value);
    }
    Ok((Origin::Environment, values))
}

/// The refusal of a name that nobody knows.
pub(super) fn unknown<'n>(
    what: &str,
    name: &str,
    known: impl Iterator<Item = &'n str>,
) -> ConfigError {
    let known: Vec<&str> = known.collect();
    let distance = |other: &str| strsim::damerau_levenshtein(name, other);
    let near = known.iter().copied().min_by_key(|other| distance(other));
    let hint = match near.filter(|near| distance(near) <= SLIP_MAX) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("there are: {}", known.join(", ")),
    };
    ConfigError(format!("{what} is no setting; {hint}"))
}

pub(super) struct Settings<'l> {
    layers: &'l [Layer],
    shown: Vec<Shown>,
}

/// A line of what is in force.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    name: String,
    value: String,
    origin: Origin,
}

impl<'l> Settings<'l> {
    pub(super) fn new(layers: &'l [Layer]) -> Self {
        Self { layers, shown: Vec::new() }
    }

    /// The value of a setting that may be shown; `parse` says what it must be.
    pub(super) fn parse<T>(
        &mut self,
        name: &'static str,
        default: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        let (origin, text) = self.find(name).unwrap_or((Origin::Default, default.to_owned()));
        let parsed = parse(&text).map_err(|allowed| {
            // A URL in the wrong place may have a password.
            let given =
                if text.contains("://") { String::new() } else { format!(" is `{text}`; it") };
            ConfigError(format!("{name} (from {origin}){given} {allowed}"))
        })?;
        self.show(name, text, origin);
        Ok(parsed)
    }

    /// The value of a setting that may hold a secret, which `parse` gives as it may be shown too.
    pub(super) fn secret<T>(
        &mut self,
        name: &'static str,
        default: &str,
        parse: impl FnOnce(&str) -> Result<(T, String), String>,
    ) -> Result<T, ConfigError> {
        let (origin, text) = self.find(name).unwrap_or((Origin::Default, default.to_owned()));
        let refused = |allowed| ConfigError(format!("{name} (from {origin}) {allowed}"));
        let (parsed, shown) = parse(&text).map_err(refused)?;
        self.show(name, shown, origin);
        Ok(parsed)
    }

    pub(super) fn find(&self, name: &str) -> Option<(Origin, String)> {
        let mut layers = self.layers.iter();
        layers.find_map(|(origin, values)| Some((origin.clone(), values.get(name)?.clone())))
    }

    pub(super) fn show(&mut self, name: impl Into<String>, value: String, origin: Origin) {
        self.shown.push(Shown { name: name.into(), value, origin });
    }

    pub(super) fn shown(self) -> Vec<Shown> {
        self.shown
    }
}

/// Longer values are not lined up with.
const VALUE_USUAL: usize = 60;

/// One line each.
pub(super) fn table(shown: &[Shown]) -> String {
    let names = shown.iter().map(|line| line.name.len()).max().unwrap_or(0);
    let usual = shown.iter().map(|line| line.value.len()).filter(|length| *length <= VALUE_USUAL);
    let values = usual.max().unwrap_or(0);
    let mut table = String::new();
    for Shown { name, value, origin } in shown {
        let _ = writeln!(table, "{name:<names$} = {value:<values$}  # {origin}");
    }
    table
}
