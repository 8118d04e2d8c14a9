//! Settings: finds the value of each setting in the first source that defines the setting, and
//! records the source.
//!
//! **Invariant:** every value that is read is shown with its source, without secrets. An unknown
//! name is an error, because otherwise a typo would silently leave the setting at its default.
//! **Not here:** the settings of a program and their meaning.

mod file;

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

pub use self::file::ConfigFile;

/// Maximum length of an unknown name that is compared with the known names. Longer ones are not
/// typos, and comparing them takes time.
const TYPO_MAX: usize = 64;
/// Maximum width of the column of values, in characters. Longer values do not widen the column.
const VALUE_USUAL: usize = 60;

/// Error for a configuration that cannot be used. The message states what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// Source of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A flag of the command line.
    Flag,
    /// An environment variable.
    Environment,
    /// The `.env` file.
    DotEnv,
    /// The configuration file.
    File(PathBuf),
    /// The default.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Environment => f.write_str("environment"),
            Self::DotEnv => f.write_str(".env"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// One source of settings: the kind of the source, and the names and values of the settings in it.
pub type Layer = (Origin, BTreeMap<String, String>);

/// Returns the given flags as a source: flags with values, and switches.
pub fn flags<'t>(
    texts: impl IntoIterator<Item = (&'static str, &'t Option<String>)>,
    switches: impl IntoIterator<Item = (&'static str, bool)>,
) -> Layer {
    let texts = texts.into_iter().filter_map(|(name, text)| Some((name, text.clone()?)));
    let switches = switches.into_iter().filter(|(_, given)| *given);
    let given = texts.chain(switches.map(|(name, _)| (name, "true".to_owned())));
    (Origin::Flag, given.map(|(name, text)| (name.to_owned(), text)).collect())
}

/// Returns the name of the setting that an environment variable sets. The variable must be in
/// capitals, and the setting must be known or be `config`. `what` is the description of the
/// variable in errors; `variable_of` returns the name of the variable of a setting.
///
/// # Errors
/// Fails with [`ConfigError`], which suggests similar variables, if there is no such setting.
pub fn of_variable(
    what: &str,
    name: &str,
    known: &[&str],
    variable_of: impl Fn(&str) -> String,
) -> Result<String, ConfigError> {
    let setting = name.to_ascii_lowercase();
    let is_known = setting == "config" || known.contains(&&*setting);
    if !is_known || name.bytes().any(|byte| byte.is_ascii_lowercase()) {
        let known = known.iter().copied().chain(["config"]);
        return Err(unknown_among(what, &setting, known, variable_of));
    }
    Ok(setting)
}

/// Returns the error for an unknown name.
pub fn unknown<'n>(what: &str, name: &str, known: impl Iterator<Item = &'n str>) -> ConfigError {
    unknown_among(what, name, known, str::to_owned)
}

/// Returns the error for an unknown name; `spell` returns a known name as the source spells it.
fn unknown_among<'n>(
    what: &str,
    name: &str,
    known: impl Iterator<Item = &'n str>,
    spell: impl Fn(&str) -> String,
) -> ConfigError {
    let known: Vec<&str> = known.collect();
    let near = known
        .iter()
        .filter(|_| name.len() <= TYPO_MAX)
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .filter(|(distance, known)| *distance <= 1 + known.len() / 4)
        .min();
    let hint = match near {
        Some((_, near)) => format!("did you mean {}?", spell(near)),
        None => {
            let known: Vec<String> = known.into_iter().map(spell).collect();
            format!("there are: {}", known.join(", "))
        }
    };
    ConfigError(format!("{what} is not a setting; {hint}"))
}

/// Parses a number within bounds.
///
/// # Errors
/// Fails with a message that names the allowed numbers.
pub fn within(text: &str, least: usize, most: usize) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("a number from {least} to {most}"))
}

/// Refuses to listen on an address that other machines can reach, unless that is explicitly
/// allowed.
///
/// # Errors
/// Returns a [`ConfigError`], which names the address and the flag.
pub fn check_exposure(bind: SocketAddr, insecure: bool) -> Result<(), ConfigError> {
    if insecure || bind.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    Err(ConfigError(format!(
        "{bind} can be reached from other machines, and requests need no key: bind to 127.0.0.1, or add \
         --insecure if a network that you trust is all that can reach it"
    )))
}

/// Settings of a program that are being read.
pub struct Settings<'l> {
    layers: &'l [Layer],
    servers_by: Option<&'static str>,
    shown: Vec<Shown>,
}

/// A setting as it is shown to the operator.
#[derive(Clone, Debug)]
pub struct Shown {
    name: String,
    value: String,
    origin: Origin,
}

impl<'l> Settings<'l> {
    /// Creates settings from these sources, the first of which has precedence.
    pub fn new(layers: &'l [Layer]) -> Self {
        Self { layers, servers_by: None, shown: Vec::new() }
    }

    /// Sets the name of the setting that takes URLs of servers. If another setting contains a URL
    /// by mistake, the error refers to this name.
    #[must_use]
    pub fn with_servers_by(self, name: &'static str) -> Self {
        Self { servers_by: Some(name), ..self }
    }

    /// Reads a value that is not a secret; `parse` checks it.
    ///
    /// # Errors
    /// Returns a [`ConfigError`], which names the setting, the source of its value and what is
    /// allowed.
    pub fn parse<T>(
        &mut self,
        name: &'static str,
        default: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        let (origin, text) = self.find(name).unwrap_or((Origin::Default, default.to_owned()));
        let parsed = parse(&text).map_err(|allowed| {
            // A URL that was given for the wrong setting is not repeated, because it may contain a
            // password.
            let what = match (text.contains("://"), self.servers_by) {
                (true, Some(servers)) => format!("is a URL; servers are named by {servers}"),
                (true, None) => format!("must be {allowed}"),
                (false, _) => format!("is `{text}`; it must be {allowed}"),
            };
            ConfigError(format!("{name} (from {origin}) {what}"))
        })?;
        self.show(name, text, origin);
        Ok(parsed)
    }

    /// Reads an optional value that is not a secret. `default` is shown if the value is missing.
    ///
    /// # Errors
    /// Fails like [`Settings::parse`].
    pub fn optional<T>(
        &mut self,
        name: &'static str,
        default: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        if self.find(name).is_none() {
            self.show(name, default.to_owned(), Origin::Default);
            return Ok(None);
        }
        self.parse(name, default, parse).map(Some)
    }

    /// Reads a value that may contain a secret. `parse` also returns a form of the value that may
    /// be shown.
    ///
    /// # Errors
    /// Fails with [`ConfigError`], which names the setting and its source and contains the error of
    /// `parse`.
    pub fn secret<T>(
        &mut self,
        name: &'static str,
        default: &str,
        parse: impl FnOnce(&str) -> Result<(T, String), String>,
    ) -> Result<T, ConfigError> {
        let (origin, text) = self.find(name).unwrap_or((Origin::Default, default.to_owned()));
        let refused = |cause| ConfigError(format!("{name} (from {origin}) {cause}"));
        let (parsed, shown) = parse(&text).map_err(refused)?;
        self.show(name, shown, origin);
        Ok(parsed)
    }

    /// Reads an address to listen on.
    ///
    /// # Errors
    /// Fails like [`Settings::parse`].
    pub fn address(
        &mut self,
        name: &'static str,
        default: &str,
    ) -> Result<SocketAddr, ConfigError> {
        self.parse(name, default, |text| {
            text.parse().map_err(|_| format!("an address and a port, such as {default}"))
        })
    }

    /// Reads the lowest severity of messages that are logged.
    ///
    /// # Errors
    /// Fails like [`Settings::parse`].
    pub fn level(&mut self, name: &'static str) -> Result<tracing::Level, ConfigError> {
        self.parse(name, "info", |text| {
            text.parse().map_err(|_| "error, warn, info, debug or trace".to_owned())
        })
    }

    /// Reads a boolean; the default is false.
    ///
    /// # Errors
    /// Fails like [`Settings::parse`].
    pub fn truth(&mut self, name: &'static str) -> Result<bool, ConfigError> {
        self.parse(name, "false", |text| text.parse().map_err(|_| "true or false".to_owned()))
    }

    /// Returns the value of the first source that has it, and the source.
    pub fn find(&self, name: &str) -> Option<(Origin, String)> {
        let mut layers = self.layers.iter();
        layers.find_map(|(origin, values)| Some((origin.clone(), values.get(name)?.clone())))
    }

    /// Adds a setting to the list of settings that is shown to the operator.
    pub fn show(&mut self, name: impl Into<String>, value: String, origin: Origin) {
        self.shown.push(Shown { name: name.into(), value, origin });
    }

    /// Returns the list of settings that is shown to the operator.
    pub fn shown(self) -> Vec<Shown> {
        self.shown
    }
}

/// Returns all settings as text, one per line, with their sources.
pub fn table(shown: &[Shown]) -> String {
    let names = shown.iter().map(|line| line.name.len()).max().unwrap_or(0);
    // Long values do not count, because one long list of addresses would move the column of sources
    // out of sight.
    let usual = shown.iter().map(|line| line.value.len()).filter(|length| *length <= VALUE_USUAL);
    let values = usual.max().unwrap_or(0);
    let mut table = String::new();
    for Shown { name, value, origin } in shown {
        let _ = writeln!(table, "{name:<names$} = {value:<values$}  # {origin}");
    }
    table
}
