//! Configuration: reads the values of all settings, and records the source of each value.
//!
//! A value comes from the first source that has it: flag, environment variable, configuration file,
//! default. Reading the configuration creates no file, binds no port and contacts no server.
//!
//! **Invariant:** an unknown name is an error in every source, because otherwise a typo would
//! silently leave the setting at its default. Secrets are neither shown nor part of errors.
//! **Not here:** the use of the values.

mod access;
mod alerting;
mod file;
mod router_list;

pub use access::{AccessConfig, may_carry_key};
pub use alerting::{Authorization, Webhook};
pub use router_list::{RouterAddress, RouterSource};

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;

use crate::alerts::Rule;
use recorder::store::StoreAddress;
use web_kit::health_probe::HealthQuery;
use web_kit::settings::{self, ConfigFile, Layer, Origin, Settings, Shown, within};

pub use web_kit::settings::ConfigError;

/// Names of all settings, as they are spelled at the top of the configuration file.
const NAMES: [&str; 11] = [
    "bind",
    "routers",
    "store",
    "workers",
    "log",
    "behind_tls",
    "insecure",
    access::MODE,
    access::KEYS_FILE,
    access::ROLES_FILE,
    access::ROUTER_KEY_FILE,
];
/// Prefix of the environment variables.
const PREFIX: &str = "TESSERA_ANALYTICS_";
/// Configuration file that is read by default, if it exists.
const FILE: &str = "analytics.toml";
/// Maximum number of HTTP workers. Few people use the dashboard at the same time.
const WORKERS_MAX: usize = 64;
const WORKERS_DEFAULT: usize = 2;

/// The figures of any number of Tessera's routers, together.
///
/// Without flags: collects from the router on http://127.0.0.1:3000, keeps history in
/// ./analytics.db, and serves http://127.0.0.1:3001.
#[derive(Default, Parser)]
#[command(
    name = "analytics",
    version,
    after_help = "\
Each setting is also an environment variable (TESSERA_ANALYTICS_BIND, TESSERA_ANALYTICS_ROUTERS,
…) and a key of the configuration file (bind, routers, …), which alone has alerts,
webhooks and issuers of tokens.
Flags win over the environment, that over the file.

Examples:
  analytics                                      the router of this machine
  analytics --routers north=https://north.example.com,south=https://south.example.com
  analytics --routers dns+http://tessera-routers:3000
                                                 each address of that name is a router
  analytics --store postgres://figures@db/figures
  analytics --print-config                       what is in force, and why"
)]
pub struct Flags {
    /// Address and port to serve on [default: 127.0.0.1:3001]
    #[arg(long, value_name = "ADDR:PORT")]
    bind: Option<String>,
    /// Routers to collect from, separated by commas: URL or NAME=URL, such as
    /// http://127.0.0.1:3000; dns+http://NAME:PORT means each address of the name [default:
    /// http://127.0.0.1:3000]
    #[arg(long, value_name = "URL,URL,…")]
    routers: Option<String>,
    /// Where history is kept: a file, postgres://user@host:5432/database, or none. Other users of
    /// this machine can see flags: give passwords in TESSERA_ANALYTICS_STORE or by password_file=
    /// [default: ./analytics.db]
    #[arg(long, value_name = "FILE|URL|none")]
    store: Option<String>,
    /// HTTP worker threads, 1 to 64 [default: 2]
    #[arg(long, value_name = "N")]
    workers: Option<String>,
    /// Least severe messages to log: error, warn, info, debug, trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    log: Option<String>,
    /// TLS ends at a proxy in front of the service: pages of https://HOST count as the service's
    /// own, and on a loopback address the service also accepts requests that name the host of the
    /// proxy
    #[arg(long)]
    behind_tls: bool,
    /// Access control: off, or on (requests need an API key of the file) [default: off]
    #[arg(long, value_name = "off|on")]
    access: Option<String>,
    /// The file with the API keys, a key on each line: id, SHA-256, role, and if needed tenant and
    /// expiry; read again every ten seconds and on SIGHUP
    #[arg(long, value_name = "FILE")]
    access_keys_file: Option<String>,
    /// The file with the roles, as JSON: one role or a list of them; read again like the keys
    #[arg(long, value_name = "FILE")]
    access_roles_file: Option<String>,
    /// The file with the API key or token that is sent to routers, if they have access control; its
    /// role needs the scope frames. It is sent only by https or to this machine
    #[arg(long, value_name = "FILE")]
    router_key_file: Option<String>,
    /// Serve on an address that others can reach, without access control
    #[arg(long)]
    insecure: bool,
    /// A TOML file with any of these settings, alerts and webhooks [default: analytics.toml, if it
    /// exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print what is in force and where each value came from, and end
    #[arg(long)]
    pub print_config: bool,
    /// Check the service that runs with these settings on this machine, and end: exit code 0 if it
    /// is live, or ready
    #[arg(long, value_name = "live|ready")]
    pub probe: Option<HealthQuery>,
}

/// Values of all settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address on which the service listens.
    pub bind: SocketAddr,
    /// Routers to collect from.
    pub routers: Vec<RouterSource>,
    /// File or database that keeps history, if any.
    pub store: Option<StoreAddress>,
    /// Number of HTTP worker threads.
    pub workers: usize,
    /// Least severe messages to log.
    pub log: tracing::Level,
    /// True if a proxy in front of the service ends TLS.
    pub behind_tls: bool,
    /// True if other machines may reach the service without access control.
    pub insecure: bool,
    /// Settings of access control.
    pub access: AccessConfig,
    /// Rules for alerts.
    pub rules: Vec<Rule>,
    /// Webhooks that receive alerts.
    pub webhooks: Vec<Webhook>,
    shown: Vec<Shown>,
}

impl Config {
    /// Reads the flags, the environment variables, and the configuration file that these name or
    /// `analytics.toml`.
    ///
    /// # Errors
    /// Returns a [`ConfigError`], which names the setting, the source of its value and what is
    /// allowed.
    pub fn read(flags: &Flags) -> Result<Self, ConfigError> {
        let environment = environment()?;
        let named = flags.config.clone();
        let named = named.or_else(|| environment.1.get("config").map(PathBuf::from));
        let file = match named.or_else(|| ConfigFile::present(FILE)) {
            Some(path) => file::read(&path)?,
            None => file::File::default(),
        };
        let mut layers = vec![flags.layer(), environment];
        layers.extend(file.layer());
        let mut settings = Settings::new(&layers);
        let bind = settings.address("bind", "127.0.0.1:3001")?;
        let routers = router_list::routers(&mut settings, &file)?;
        let store = settings.secret("store", "./analytics.db", |text| {
            let store = StoreAddress::parse(text).map_err(|error| error.to_string())?;
            let shown = store.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
            Ok((store, shown))
        })?;
        let workers = settings
            .parse("workers", &WORKERS_DEFAULT.to_string(), |text| within(text, 1, WORKERS_MAX))?;
        let log = settings.level("log")?;
        let behind_tls = settings.truth("behind_tls")?;
        let insecure = settings.truth("insecure")?;
        let access = access::access(&mut settings, &file, &routers)?;
        let rules = alerting::rules(&mut settings, &file, &routers)?;
        let webhooks = alerting::webhooks(&mut settings, &file)?;
        let shown = settings.shown();
        Ok(Self {
            bind,
            routers,
            store,
            workers,
            log,
            behind_tls,
            insecure,
            access,
            rules,
            webhooks,
            shown,
        })
    }

    /// Refuses to listen on an address that other machines can reach. It is accepted if this is
    /// explicitly allowed, or if access control is on and TLS protects the keys.
    ///
    /// # Errors
    /// Returns a [`ConfigError`], which names the address and the flag.
    pub fn check_exposure(&self) -> Result<(), ConfigError> {
        if self.access.is_on {
            return access::check_transport(self.bind, self.behind_tls);
        }
        settings::check_exposure(self.bind, self.insecure)
    }

    /// Returns the values of all settings, one per line, with their sources.
    pub fn table(&self) -> String {
        settings::table(&self.shown)
    }
}

impl Flags {
    fn layer(&self) -> Layer {
        let texts = [
            ("bind", &self.bind),
            ("routers", &self.routers),
            ("store", &self.store),
            ("workers", &self.workers),
            ("log", &self.log),
            (access::MODE, &self.access),
            (access::KEYS_FILE, &self.access_keys_file),
            (access::ROLES_FILE, &self.access_roles_file),
            (access::ROUTER_KEY_FILE, &self.router_key_file),
        ];
        settings::flags(texts, [("behind_tls", self.behind_tls), ("insecure", self.insecure)])
    }
}

/// Returns the settings in the environment, where `TESSERA_ANALYTICS_BIND` stands for `bind`.
fn environment() -> Result<Layer, ConfigError> {
    let mut values = BTreeMap::new();
    for (name, value) in std::env::vars_os() {
        let Some(name) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else {
            continue;
        };
        let what = format!("{PREFIX}{name} (from environment)");
        let variable_of = |setting: &str| PREFIX.to_owned() + &setting.to_ascii_uppercase();
        let setting = settings::of_variable(&what, name, &NAMES, variable_of)?;
        let value = value.into_string().map_err(|_| ConfigError(format!("{what} is not UTF-8")))?;
        values.insert(setting, value);
    }
    Ok((Origin::Environment, values))
}
