//! Configuration: what is in force, and where each value came from.
//!
//! A value is looked for in this order: flag, environment variable, `.env` file, configuration file,
//! default. Reading configuration does nothing else: no file is made, no port is bound.
//!
//! **Invariant:** a name that nobody knows is an error wherever it stands, so a typo cannot silently mean
//! the default.
//! **Not here:** what the values do (`app`, `main`).

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Parser;
use shard_manager::keyspace::Keyspace;
use shard_manager::placement::Placement;
use shard_manager::store::sqlite::catalog::{REPLICAS_DEFAULT, SHARDS_DEFAULT, Wanted};
use shard_manager::topology::Topology;

/// Most HTTP workers: each is a thread with a runtime of its own.
const WORKERS_MAX: usize = 256;

/// One REST API in front of many databases.
///
/// Without flags: three embedded SQLite shards in ./data, served on http://127.0.0.1:3000.
#[derive(Debug, Default, Parser)]
#[command(
    name = "api-router",
    version,
    after_help = "\
Each setting is also an environment variable (TESSERA_BIND, TESSERA_DATA_DIR, …), a line of a .env file, and
a key of the configuration file (bind, data_dir, …). Flags win over the environment, that over .env, that
over the file.

Examples:
  api-router                                     three shards in ./data
  api-router --shards 5 --data-dir /var/lib/tessera
  api-router --weights 50,25,25                  shard1 carries half
  api-router --keyspace list:A=30,B=20 --placement 'partitions:A=30>shard1,B=20>shard2' --shards 2
                                                 keys A:… on shard1, keys B:… on shard2
  api-router --print-config                      what is in force, and why"
)]
pub struct Flags {
    /// Address and port to serve on [default: 127.0.0.1:3000]
    #[arg(long, value_name = "ADDR:PORT")]
    bind: Option<String>,
    /// Folder of the embedded shards; made if it is not there [default: ./data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Number of shards of a new cluster, 1 to 256 [default: 3; an existing data directory keeps its own]
    #[arg(long, value_name = "N")]
    shards: Option<String>,
    /// Weights of the shards of a new cluster, such as 50,25,25; means --placement weighted, if not ring or rendezvous
    #[arg(long, value_name = "W,W,…")]
    weights: Option<String>,
    /// Replicas of each shard, 0 to 5 [default: 1; an existing data directory keeps its own until told otherwise]
    #[arg(long, value_name = "N")]
    replicas: Option<String>,
    /// How slots are dealt out in a new cluster: even, weighted, modulo, ring (also ring:VNODES), rendezvous, jump,
    /// partitions:NAME=WEIGHT>SHARD,… or manual:FIRST-LAST=SHARD,… [default: even]
    #[arg(long, value_name = "NAME[:…]")]
    placement: Option<String>,
    /// How keys become slots in a new cluster: hash, modulo, range:10,20,…, range-text:g,n,…, list:NAME=WEIGHT,…,
    /// matrix:id or matrix:server [default: hash]
    #[arg(long, value_name = "NAME[:…]")]
    keyspace: Option<String>,
    /// HTTP worker threads, 1 to 256 [default: as many as there are cores]
    #[arg(long, value_name = "N")]
    workers: Option<String>,
    /// Least severe messages to log: error, warn, info, debug, trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    log: Option<String>,
    /// Serve on an address that others can reach, without authentication
    #[arg(long)]
    insecure: bool,
    /// Serve /api/lab, by which anybody can pause, delay and cut nodes: for development and teaching
    #[arg(long)]
    lab: bool,
    /// A TOML file with any of these settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print what is in force and where each value came from, and end
    #[arg(long)]
    pub print_config: bool,
}

/// The names of all settings, as in the configuration file.
const NAMES: [&str; 11] = [
    "bind",
    "data_dir",
    "shards",
    "replicas",
    "weights",
    "placement",
    "keyspace",
    "workers",
    "log",
    "insecure",
    "lab",
];

/// Variables of this prefix belong to the load tester, which reads them itself.
const FOREIGN_PREFIX: &str = "TESSERA_LOADTEST_";

/// Where a value came from.
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
    /// Nobody said anything.
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

/// One source of settings: names and texts.
pub type Layer = (Origin, BTreeMap<String, String>);

/// What is in force.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to serve.
    pub bind: SocketAddr,
    /// Where the embedded shards are.
    pub data_dir: PathBuf,
    /// What a new cluster is made of, and what an existing one must be.
    pub wanted: Wanted,
    /// HTTP worker threads.
    pub workers: usize,
    /// Least severe messages to log.
    pub log: tracing::Level,
    /// Whether others may reach the router though it knows no authentication.
    pub insecure: bool,
    /// Whether nodes can be paused, delayed and cut through the API.
    pub lab: bool,
    shown: Vec<(&'static str, String, Origin)>,
}

/// A configuration that cannot be used; the sentence says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl Config {
    /// Reads flags, environment, `.env` of the working folder, and the file that they name.
    ///
    /// # Errors
    /// [`ConfigError`] names the setting, where it came from and what is allowed.
    pub fn read(flags: &Flags) -> Result<Self, ConfigError> {
        let mut environment = Vec::new();
        for (name, value) in std::env::vars_os() {
            let Some(name) = name.to_str().filter(|name| name.starts_with("TESSERA_")) else {
                continue;
            };
            let text = value.into_string();
            let text =
                text.map_err(|_| ConfigError(format!("{name} (from environment) is no text")))?;
            environment.push((name.to_owned(), text));
        }
        // No setting, and read where promises are broken.
        #[cfg(feature = "sabotage")]
        environment.retain(|(name, _)| name != shard_manager::sabotage::VARIABLE);
        let environment = variables(Origin::Environment, environment.into_iter())?;
        let dot_env = read_dot_env(Path::new(".env"))?;
        Self::from_sources(flags, environment, dot_env)
    }

    fn from_sources(
        flags: &Flags,
        environment: Layer,
        dot_env: Layer,
    ) -> Result<Self, ConfigError> {
        let mut layers = vec![flags.layer(), environment, dot_env];
        let named = flags.config.clone().or_else(|| {
            layers.iter().find_map(|(_, values)| values.get("config").map(PathBuf::from))
        });
        if let Some(path) = named {
            layers.push(read_file(&path)?);
        }
        Self::from_layers(&layers)
    }

    /// Puts layers together; earlier ones win.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn from_layers(layers: &[Layer]) -> Result<Self, ConfigError> {
        let mut settings = Settings { layers, shown: Vec::new() };
        let bind: SocketAddr = settings.parse("bind", "127.0.0.1:3000", |text| {
            text.parse().map_err(|_| "an address and a port, such as 127.0.0.1:3000".to_owned())
        })?;
        let data_dir = settings.parse("data_dir", "./data", |text| Ok(PathBuf::from(text)))?;
        let in_catalog = "what the data directory has, else";
        let shards =
            settings.optional("shards", &format!("{in_catalog} {SHARDS_DEFAULT}"), |t| {
                within(t, 1, Topology::SHARDS_MAX)
            })?;
        let replicas =
            settings.optional("replicas", &format!("{in_catalog} {REPLICAS_DEFAULT}"), |t| {
                within(t, 0, Topology::REPLICAS_MAX)
            })?;
        let weights =
            settings.optional("weights", &format!("{in_catalog} all 1"), parse_weights)?;
        let placement = settings.optional("placement", &format!("{in_catalog} even"), |text| {
            text.parse::<Placement>().map_err(|error| format!("{} ({error})", Placement::FORMS))
        })?;
        let keyspace = settings.optional("keyspace", &format!("{in_catalog} hash"), |text| {
            text.parse::<Keyspace>().map_err(|error| format!("{} ({error})", Keyspace::FORMS))
        })?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers =
            settings.parse("workers", &cores.to_string(), |text| within(text, 1, WORKERS_MAX))?;
        let log = settings.parse("log", "info", |text| {
            text.parse().map_err(|_| "error, warn, info, debug or trace".to_owned())
        })?;
        let truth = |text: &str| text.parse().map_err(|_| "true or false".to_owned());
        let insecure = settings.parse("insecure", "false", truth)?;
        let lab = settings.parse("lab", "false", truth)?;
        let placement = check_weights(placement, weights.as_deref(), shards)?;
        let wanted = Wanted { keyspace, placement, shards, weights, replicas };
        let shown = settings.shown;
        Ok(Self { bind, data_dir, wanted, workers, log, insecure, lab, shown })
    }

    /// Refuses to be reachable for others without being told so.
    ///
    /// # Errors
    /// [`ConfigError`] names the address and the flag.
    pub fn check_exposure(&self) -> Result<(), ConfigError> {
        if self.insecure || is_loopback(self.bind.ip()) {
            return Ok(());
        }
        Err(ConfigError(format!(
            "{} can be reached from other machines, and there is no authentication: bind to 127.0.0.1, or \
             add --insecure if a network that you trust is all that can reach it",
            self.bind
        )))
    }

    /// What is in force, one setting a line, with its origin.
    pub fn table(&self) -> String {
        let width = self.shown.iter().map(|(_, value, _)| value.len()).max().unwrap_or(0);
        let mut table = String::new();
        for (name, value, origin) in &self.shown {
            let _ = writeln!(table, "{name:<10} = {value:<width$}  # {origin}");
        }
        table
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// A weighted placement is what weights mean when no other is asked for; weights beside a placement that ignores them
/// are refused.
fn check_weights(
    placement: Option<Placement>,
    weights: Option<&[u32]>,
    shards: Option<usize>,
) -> Result<Option<Placement>, ConfigError> {
    let Some(weights) = weights else { return Ok(placement) };
    if let Some(unweighted) = placement.as_ref().filter(|placement| !placement.is_weighted()) {
        let name = unweighted.name();
        return Err(ConfigError(format!(
            "placement {name} ignores weights: leave one of them out"
        )));
    }
    match shards {
        Some(shards) if shards != weights.len() => Err(ConfigError(format!(
            "weights names {} shards, shards says {shards}: leave one of them out",
            weights.len()
        ))),
        Some(_) | None => Ok(Some(placement.unwrap_or(Placement::Weighted))),
    }
}

fn parse_weights(text: &str) -> Result<Vec<u32>, String> {
    let weights: Result<Vec<u32>, _> =
        text.split(',').map(|weight| weight.trim().parse()).collect();
    let ok = |weights: &Vec<u32>| {
        weights.len() <= Topology::SHARDS_MAX
            && weights.iter().all(|weight| (1..=Topology::WEIGHT_MAX).contains(weight))
    };
    weights.ok().filter(ok).ok_or_else(|| {
        format!("1 to {} numbers from 1 to {}", Topology::SHARDS_MAX, Topology::WEIGHT_MAX)
    })
}

fn within(text: &str, least: usize, most: usize) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("a number from {least} to {most}"))
}

struct Settings<'l> {
    layers: &'l [Layer],
    shown: Vec<(&'static str, String, Origin)>,
}

impl Settings<'_> {
    fn parse<T>(
        &mut self,
        name: &'static str,
        default: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        let (origin, text) = self.find(name).unwrap_or((Origin::Default, default.to_owned()));
        let parsed = parse(&text).map_err(|allowed| {
            ConfigError(format!("{name} (from {origin}) is `{text}`; it must be {allowed}"))
        })?;
        self.shown.push((name, text, origin));
        Ok(parsed)
    }

    fn optional<T>(
        &mut self,
        name: &'static str,
        default: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        if self.find(name).is_none() {
            self.shown.push((name, default.to_owned(), Origin::Default));
            return Ok(None);
        }
        self.parse(name, default, parse).map(Some)
    }

    fn find(&self, name: &str) -> Option<(Origin, String)> {
        let mut layers = self.layers.iter();
        layers.find_map(|(origin, values)| Some((origin.clone(), values.get(name)?.clone())))
    }
}

impl Flags {
    fn layer(&self) -> Layer {
        let texts = [
            ("bind", &self.bind),
            ("data_dir", &self.data_dir),
            ("shards", &self.shards),
            ("replicas", &self.replicas),
            ("weights", &self.weights),
            ("placement", &self.placement),
            ("keyspace", &self.keyspace),
            ("workers", &self.workers),
            ("log", &self.log),
        ];
        let given = texts.into_iter().filter_map(|(name, text)| Some((name, text.clone()?)));
        let mut values: BTreeMap<String, String> =
            given.map(|(name, text)| (name.to_owned(), text)).collect();
        for (name, given) in [("insecure", self.insecure), ("lab", self.lab)] {
            if given {
                values.insert(name.to_owned(), "true".to_owned());
            }
        }
        (Origin::Flag, values)
    }
}

/// The settings among these variables: `TESSERA_BIND` is `bind`.
fn variables(
    origin: Origin,
    variables: impl Iterator<Item = (String, String)>,
) -> Result<Layer, ConfigError> {
    let mut values = BTreeMap::new();
    for (name, value) in variables.filter(|(name, _)| !name.starts_with(FOREIGN_PREFIX)) {
        let Some(setting) = name.strip_prefix("TESSERA_") else { continue };
        let setting = setting.to_ascii_lowercase();
        let known = setting == "config" || NAMES.contains(&&*setting);
        if !known || name.bytes().any(|byte| byte.is_ascii_lowercase()) {
            return Err(unknown(&format!("{name} (from {origin})"), &setting));
        }
        values.insert(setting, value);
    }
    Ok((origin, values))
}

fn unknown(what: &str, setting: &str) -> ConfigError {
    let near = shard_manager::table::closest(setting, NAMES.into_iter());
    let hint = near.map_or_else(
        || format!("there are: {}, config", NAMES.join(", ")),
        |near| format!("did you mean {near}?"),
    );
    ConfigError(format!("{what} is no setting; {hint}"))
}

fn read_dot_env(path: &Path) -> Result<Layer, ConfigError> {
    if !path.exists() {
        return Ok((Origin::DotEnv, BTreeMap::new()));
    }
    let bad = |error: dotenvy::Error| ConfigError(format!(".env cannot be read: {error}"));
    let pairs: Result<Vec<_>, _> = dotenvy::from_path_iter(path).map_err(bad)?.collect();
    variables(Origin::DotEnv, pairs.map_err(bad)?.into_iter())
}

fn read_file(path: &Path) -> Result<Layer, ConfigError> {
    let origin = Origin::File(path.to_owned());
    let bad = |cause: &dyn fmt::Display| ConfigError(format!("{}: {cause}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| bad(&error))?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| bad(&error))?;
    let mut values = BTreeMap::new();
    for (name, value) in table {
        if !NAMES.contains(&&*name) {
            return Err(unknown(&format!("{name} (from {origin})"), &name));
        }
        let text = plain(&value).ok_or_else(|| bad(&format!("{name} must be a plain value")))?;
        values.insert(name, text);
    }
    Ok((origin, values))
}

/// The text that a flag would have; a list of numbers becomes `50,25,25`.
fn plain(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(truth) => Some(truth.to_string()),
        toml::Value::Array(items) => {
            let items: Option<Vec<String>> = items.iter().map(plain).collect();
            items.map(|items| items.join(","))
        }
        toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}
