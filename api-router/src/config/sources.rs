//! Sources: reads flags, environment variables and files into layers of settings.
//!
//! **Invariant:** an unknown name is an error in every source, and no error repeats a line or a
//! value of a source, which may contain a password.
//! **Not here:** the precedence of layers (`analytics::settings`), the sections of the
//! configuration file (`config/file`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use analytics::settings::{ConfigFile, Layer, Origin, Settings, of_variable};

use super::file::{self, Sections};
use super::{ConfigError, Flags};

/// Names of all settings, as at the top level of the configuration file.
pub(super) const NAMES: [&str; 45] = [
    "bind",
    "data_dir",
    "engine",
    "shards",
    "replicas",
    "weights",
    "placement",
    "keyspace",
    "workers",
    "log",
    "insecure",
    "lab",
    "operate",
    "backup_dir",
    "analytics",
    "analytics_store",
    "otlp_endpoint",
    "access",
    "access_keys_file",
    "access_roles_file",
    "access_stale_max_s",
    "limit_routers",
    "cors_origins",
    "audit_log",
    "audit",
    "audit_keys",
    "trusted_proxies",
    "redis_url",
    "cache_password_file",
    "cache_bound_ms",
    "cache_ttl_ms",
    "cache_patience_ms",
    "cache_entry_bytes_max",
    "cache_near_bytes",
    "cache_min_uses",
    "tls_cert",
    "tls_key",
    "tls_client_ca",
    "tls_client_crl",
    "tls_client_required",
    "behind_tls",
    "shard_urls",
    "replica_urls",
    "maindb_url",
    "shard_disk_bytes",
];

/// Settings whose environment variables have no prefix, because other programs use them too.
const PLAIN: [&str; 3] = ["shard_urls", "replica_urls", "maindb_url"];

/// Environment variable and setting with the address of Redis. Other programs use the variable too,
/// so it is accepted like `TESSERA_REDIS_URL`, but a similar name does not count as a typo of it.
const REDIS_URL: (&str, &str) = ("REDIS_URL", "redis_url");
const OWN_REDIS_URL: &str = "TESSERA_REDIS_URL";

/// Prefixes of the environment variables that are settings of the load tester, the command-line
/// tool and the analytics service. A router ignores them.
const FOREIGN_PREFIXES: [&str; 11] = [
    "TESSERA_LOADTEST_",
    "TESSERA_PG_",
    "TESSERA_ANALYTICS_ACCESS",
    "TESSERA_ANALYTICS_BEHIND_TLS",
    "TESSERA_ANALYTICS_BIND",
    "TESSERA_ANALYTICS_CONFIG",
    "TESSERA_ANALYTICS_INSECURE",
    "TESSERA_ANALYTICS_LOG",
    "TESSERA_ANALYTICS_ROUTERS",
    "TESSERA_ANALYTICS_ROUTER_KEY_FILE",
    "TESSERA_ANALYTICS_WORKERS",
];

/// Environment variable with the API key that clients of routers send. A router ignores it.
const CLIENT_KEY: &str = "TESSERA_KEY";

/// Configuration file that is read if no other file is named and it exists.
const FILE: &str = "tessera.toml";

/// Content of all sources.
pub(super) struct Sources {
    /// Layers of settings; earlier ones win.
    pub(super) layers: Vec<Layer>,
    /// Sections of the configuration file.
    pub(super) sections: Sections,
    dot_env: BTreeMap<String, String>,
}

impl Sources {
    pub(super) fn read(flags: &Flags) -> Result<Self, ConfigError> {
        let environment = variables(Origin::Environment, read_environment()?)?;
        let dot_env = read_dot_env(Path::new(".env"))?;
        let mut layers =
            vec![flags.layer(), environment, variables(Origin::DotEnv, dot_env.clone())?];
        let named = flags.config.clone().or_else(|| {
            layers.iter().find_map(|(_, values)| values.get("config").map(PathBuf::from))
        });
        let sections = match named.or_else(|| ConfigFile::present(FILE)) {
            Some(path) => {
                let (values, sections) = file::read(&path)?;
                layers.push((Origin::File(path), values));
                sections
            }
            None => Sections::default(),
        };
        Ok(Self { layers, sections, dot_env })
    }

    /// Returns the value of any variable, from the environment or else from `.env`.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        let found = std::env::var(name).ok().or_else(|| self.dot_env.get(name).cloned());
        found.filter(|value| !value.is_empty())
    }

    /// Returns the name under which a source sets the address of Redis, for messages.
    pub(super) fn redis_url_name(&self, origin: &Origin) -> &'static str {
        let has_own = match origin {
            Origin::Environment => std::env::var_os(OWN_REDIS_URL).is_some(),
            Origin::DotEnv => self.dot_env.contains_key(OWN_REDIS_URL),
            Origin::Flag | Origin::File(_) | Origin::Default => return REDIS_URL.1,
        };
        if has_own { OWN_REDIS_URL } else { REDIS_URL.0 }
    }
}

/// Returns the name of a setting for messages. If its value came from a variable without prefix,
/// this is the name of the variable.
pub(super) fn spelled(name: &str, origin: &Origin) -> String {
    match origin {
        Origin::Environment | Origin::DotEnv if PLAIN.contains(&name) => name.to_ascii_uppercase(),
        Origin::Environment | Origin::DotEnv | Origin::Flag | Origin::File(_) | Origin::Default => {
            name.to_owned()
        }
    }
}

/// Returns the name of a setting with its origin, for messages; `None` if no source sets it.
pub(super) fn name_with_origin(settings: &Settings<'_>, name: &str) -> Option<String> {
    let (origin, _) = settings.find(name)?;
    Some(format!("{} (from {origin})", spelled(name, &origin)))
}

/// Returns the variables that may be settings.
fn read_environment() -> Result<BTreeMap<String, String>, ConfigError> {
    let mut environment = BTreeMap::new();
    for (name, value) in std::env::vars_os() {
        let Some(name) = name.to_str().filter(|name| concerns_us(name)) else { continue };
        let text = value.into_string();
        let text =
            text.map_err(|_| ConfigError(format!("{name} (from environment) is not UTF-8")))?;
        environment.insert(name.to_owned(), text);
    }
    // These variables are not settings: the feature `sabotage`, which breaks guarantees on purpose,
    // reads them itself.
    #[cfg(feature = "sabotage")]
    {
        use shard_manager::sabotage::{HAND_OVERS, STOP_VARIABLE, VARIABLE};
        for name in [VARIABLE, HAND_OVERS, STOP_VARIABLE] {
            environment.remove(name);
        }
    }
    Ok(environment)
}

/// Returns true for a variable that may be a setting: its name has the prefix `TESSERA_`, is
/// `REDIS_URL`, or is at most one typo away from a variable without prefix.
fn concerns_us(name: &str) -> bool {
    let has_prefix = name.starts_with("TESSERA_") && name != CLIENT_KEY;
    has_prefix || name == REDIS_URL.0 || near_plain(name).is_some()
}

fn near_plain(name: &str) -> Option<String> {
    let mut plain = PLAIN.iter().map(|plain| plain.to_ascii_uppercase());
    plain.find(|plain| strsim::damerau_levenshtein(plain, name) <= 1)
}

/// Returns the settings among these variables: `TESSERA_BIND` is `bind`, and `SHARD_URLS` is
/// `shard_urls`.
fn variables(origin: Origin, variables: BTreeMap<String, String>) -> Result<Layer, ConfigError> {
    check_redis_urls(&origin, &variables)?;
    let mut values = BTreeMap::new();
    for (name, value) in variables {
        if FOREIGN_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || !concerns_us(&name) {
            continue;
        }
        if name == REDIS_URL.0 {
            // The map is sorted: `TESSERA_REDIS_URL` comes later, and its value then replaces this
            // one. It is the same address, or means no cache.
            values.insert(REDIS_URL.1.to_owned(), value);
            continue;
        }
        let what = format!("{name} (from {origin})");
        let plain = near_plain(&name);
        let setting = name.strip_prefix("TESSERA_").map(str::to_ascii_lowercase);
        if let Some(plain) = plain.or_else(|| setting.as_ref().and_then(|s| plain_of(s))) {
            if name != plain {
                return Err(ConfigError(format!("{what} is not a setting; did you mean {plain}?")));
            }
            values.insert(plain.to_ascii_lowercase(), value);
            continue;
        }
        let setting = name.strip_prefix("TESSERA_").unwrap_or_default();
        values.insert(of_variable(&what, setting, &NAMES, variable_of)?, value);
    }
    Ok((origin, values))
}

/// Refuses two different addresses of Redis in one source, because one of them would be ignored. If
/// `TESSERA_REDIS_URL` is `none`, the router has no cache, and the other address is for other
/// programs.
fn check_redis_urls(
    origin: &Origin,
    variables: &BTreeMap<String, String>,
) -> Result<(), ConfigError> {
    let (Some(shared), Some(own)) = (variables.get(REDIS_URL.0), variables.get(OWN_REDIS_URL))
    else {
        return Ok(());
    };
    if shared == own || shared.is_empty() || matches!(&**own, "" | "none") {
        return Ok(());
    }
    Err(ConfigError(format!(
        "{} and {OWN_REDIS_URL} (from {origin}) name different addresses: set only one of them, or \
         {OWN_REDIS_URL}=none for no cache",
        REDIS_URL.0
    )))
}

/// Returns the name of the environment variable of a setting.
fn variable_of(setting: &str) -> String {
    plain_of(setting).unwrap_or_else(|| format!("TESSERA_{}", setting.to_ascii_uppercase()))
}

/// Returns the name of the environment variable of a setting, if the variable has no prefix.
fn plain_of(setting: &str) -> Option<String> {
    PLAIN.contains(&setting).then(|| setting.to_ascii_uppercase())
}

fn read_dot_env(path: &Path) -> Result<BTreeMap<String, String>, ConfigError> {
    if !path.exists() {
        return Ok(BTreeMap::new());
    }
    let cause = |error: dotenvy::Error| match error {
        // The line itself is not shown, because it may contain a password.
        dotenvy::Error::LineParse(line, _) => format!("{}is not NAME=VALUE", place(path, &line)),
        dotenvy::Error::Io(error) => error.to_string(),
        dotenvy::Error::EnvVar(_) | _ => "a value cannot be read".to_owned(),
    };
    let bad = |error| ConfigError(format!(".env cannot be read: {}", cause(error)));
    dotenvy::from_path_iter(path).map_err(bad)?.collect::<Result<_, _>>().map_err(bad)
}

/// Returns a phrase for an error message, `line 3 ` for example, with the number of the line of a
/// file that contains the first line of `text`.
fn place(path: &Path, text: &str) -> String {
    let first = text.lines().next().unwrap_or_default();
    let file = std::fs::read_to_string(path).unwrap_or_default();
    let holds = |line: &str| !first.trim().is_empty() && line.contains(first.trim());
    let line = file.lines().position(holds);
    line.map_or_else(|| "a line ".to_owned(), |line| format!("line {} ", line + 1))
}
