//! Access: the settings of access control.
//!
//! **Invariant:** access control is off unless a source turns it on. No secret is read here, so
//! none can be shown.
//! **Not here:** the files that these settings name (`access`), the section of the configuration
//! file (`config/file`).

use std::net::SocketAddr;
use std::path::PathBuf;

use analytics::settings::{Origin, Settings, within};
use clap::Args;
use issuers::config::IssuerConfig;
use shard_manager::access::authenticator::AuthSettings;

use super::ConfigError;
use super::audit::{AuditConfig, AuditFlags, KEYS as AUDIT_KEYS, LEVEL as AUDIT_LEVEL, audit};
use super::certificate::CertificateConfig;
use super::sources::{Sources, name_with_origin};
use super::trusted_proxies::TrustedProxies;

const MODE: &str = "access";
const KEYS_FILE: &str = "access_keys_file";
const ROLES_FILE: &str = "access_roles_file";
const STALE_MAX: &str = "access_stale_max_s";
const ROUTERS: &str = "limit_routers";
const CORS: &str = "cors_origins";
const PROXIES: &str = "trusted_proxies";

/// Range of the setting for the maximum age of keys and roles, in seconds. The minimum exceeds the
/// interval between two checks of their files; the maximum is a year.
const STALE_MAX_S: std::ops::RangeInclusive<usize> = 15..=31_536_000;
/// Maximum number of routers among which the rate limits of roles are divided.
const ROUTERS_MAX: usize = 1_000;
const ROUTERS_DEFAULT: usize = 1;
/// Maximum number of origins: the origin of each request from a web page is compared with all of
/// them.
const ORIGINS_MAX: usize = 64;

/// Degree to which access control is in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessMode {
    /// Every request is served, and credentials are ignored.
    #[default]
    Off,
    /// Every request is served; those that would be refused are counted and logged.
    Observe,
    /// Only permitted requests are served.
    On,
}

impl AccessMode {
    /// Returns the name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Observe => "observe",
            Self::On => "on",
        }
    }
}

/// Settings of access control.
#[derive(Clone, Debug)]
pub struct AccessConfig {
    /// Degree to which access control is in force.
    pub mode: AccessMode,
    /// File with the keys, if there is one.
    pub keys_file: Option<PathBuf>,
    /// File with the roles, if there is one.
    pub roles_file: Option<PathBuf>,
    /// Maximum age of keys and roles, and number of routers that share the rate limits.
    pub limits: AuthSettings,
    /// Origins whose web pages may send requests, as browsers spell them.
    pub cors_origins: Vec<String>,
    /// The audit log.
    pub audit: AuditConfig,
    /// Proxies whose headers about the address of a client are trusted.
    pub trusted_proxies: TrustedProxies,
    /// Issuers whose tokens are accepted.
    pub issuers: Vec<IssuerConfig>,
    /// True if clients reach the router over TLS.
    pub is_tls: bool,
    /// Clients that are identified by TLS certificates.
    pub certificates: Vec<CertificateConfig>,
}

/// Flags of access control.
#[derive(Default, Args)]
pub(super) struct AccessFlags {
    /// Access control: off, observe (everything is served, what would be refused is counted and
    /// logged) or on [default: off]
    #[arg(long, value_name = "off|observe|on")]
    access: Option<String>,
    /// The file with the API keys, a key on each line: id, SHA-256, role, and if needed tenant and
    /// expiry; read again every ten seconds and on SIGHUP
    #[arg(long, value_name = "FILE")]
    access_keys_file: Option<String>,
    /// The file with the roles, as JSON: one role or a list of them; read again like the keys
    #[arg(long, value_name = "FILE")]
    access_roles_file: Option<String>,
    /// Longest time in seconds for which keys and roles stay in use if they cannot be read again; 0
    /// means for ever [default: 86400]
    #[arg(long, value_name = "SECONDS")]
    access_stale_max_s: Option<String>,
    /// Number of routers among which the rates of roles are divided, 1 to 1000 [default: 1]
    #[arg(long, value_name = "N")]
    limit_routers: Option<String>,
    /// Origins whose web pages may send requests, separated by commas, such as
    /// `https://app.example.com`
    #[arg(long, value_name = "ORIGIN,ORIGIN,…")]
    cors_origins: Option<String>,
    #[command(flatten)]
    audit: AuditFlags,
    /// Addresses and networks of proxies, separated by commas, such as 10.0.0.0/8: the address of a
    /// client is taken from the headers X-Forwarded-For and Forwarded of their requests
    #[arg(long, value_name = "ADDR,NET/BITS,…")]
    trusted_proxies: Option<String>,
}

impl AccessFlags {
    /// Returns the values of the flags, each with the name of its setting.
    pub(super) fn texts(&self) -> [(&'static str, &Option<String>); 10] {
        let [log, level, keys] = self.audit.texts();
        [
            (MODE, &self.access),
            (KEYS_FILE, &self.access_keys_file),
            (ROLES_FILE, &self.access_roles_file),
            (STALE_MAX, &self.access_stale_max_s),
            (ROUTERS, &self.limit_routers),
            (CORS, &self.cors_origins),
            log,
            level,
            keys,
            (PROXIES, &self.trusted_proxies),
        ]
    }
}

/// Returns the settings of access control.
pub(super) fn access(
    settings: &mut Settings<'_>,
    sources: &Sources,
) -> Result<AccessConfig, ConfigError> {
    let mode = settings.parse(MODE, AccessMode::Off.name(), |text| {
        let modes = [AccessMode::Off, AccessMode::Observe, AccessMode::On];
        let found = modes.into_iter().find(|mode| mode.name() == text);
        found.ok_or_else(|| "off, observe or on".to_owned())
    })?;
    let mut file = |name: &'static str| {
        settings.optional(name, "none", |text| match text {
            "" => Err("a file".to_owned()),
            _ => Ok(PathBuf::from(text)),
        })
    };
    let (keys_file, roles_file) = (file(KEYS_FILE)?, file(ROLES_FILE)?);
    let stale_default = AuthSettings::STALE_MAX_DEFAULT.to_string();
    let stale_max = settings.parse(STALE_MAX, &stale_default, |text| {
        let known = within(text, *STALE_MAX_S.start(), *STALE_MAX_S.end());
        if text == "0" { Ok(0) } else { known.map_err(|allowed| format!("0 or {allowed}")) }
    })?;
    let routers = settings
        .parse(ROUTERS, &ROUTERS_DEFAULT.to_string(), |text| within(text, 1, ROUTERS_MAX))?;
    let cors_origins = settings.secret(CORS, "none", parse_origins)?;
    if mode != AccessMode::On && !cors_origins.is_empty() {
        let given = name_with_origin(settings, CORS).unwrap_or_default();
        return Err(ConfigError(format!(
            "{given} needs access to be on: otherwise a page of these origins could do everything without a key"
        )));
    }
    let audit = audit(settings, mode)?;
    let trusted_proxies = settings.secret(PROXIES, "none", TrustedProxies::parse)?;
    let issuers = issuers(settings, sources);
    let certificates = certificates(settings, sources);
    let limits = AuthSettings { stale_max: stale_max as u64, limit_routers: routers as u64 };
    let config = AccessConfig {
        mode,
        keys_file,
        roles_file,
        limits,
        cors_origins,
        audit,
        trusted_proxies,
        issuers,
        is_tls: false,
        certificates,
    };
    if mode == AccessMode::Off {
        refuse_ignored(&config, settings, sources)?;
    }
    Ok(config)
}

/// Refuses a setting that has no effect because access control is off: it would seem to be in
/// force. A setting that has its default value is not refused.
fn refuse_ignored(
    config: &AccessConfig,
    settings: &Settings<'_>,
    sources: &Sources,
) -> Result<(), ConfigError> {
    let audit = AuditConfig::default();
    let used = [
        (KEYS_FILE, config.keys_file.is_some()),
        (ROLES_FILE, config.roles_file.is_some()),
        (STALE_MAX, config.limits.stale_max != AuthSettings::STALE_MAX_DEFAULT),
        (ROUTERS, config.limits.limit_routers != ROUTERS_DEFAULT as u64),
        (AUDIT_LEVEL, config.audit.level != audit.level),
        (AUDIT_KEYS, config.audit.keys != audit.keys),
        (PROXIES, config.trusted_proxies != TrustedProxies::default()),
    ];
    let at = sources.sections.path.display();
    let given = match used.into_iter().find(|(_, is_used)| *is_used) {
        Some((name, _)) => name_with_origin(settings, name).unwrap_or_default(),
        None if !config.issuers.is_empty() => format!("access.issuer[1] (from {at})"),
        None if !config.certificates.is_empty() => format!("access.certificate[1] (from {at})"),
        None => return Ok(()),
    };
    Err(ConfigError(format!(
        "{given} is ignored while access is off: set access = on, or remove the setting"
    )))
}

/// Parses origins, which must be spelled exactly as browsers send them, because they are compared
/// byte by byte.
fn parse_origins(text: &str) -> Result<(Vec<String>, String), String> {
    if matches!(text, "" | "none") {
        return Ok((Vec::new(), "none".to_owned()));
    }
    let origins: Vec<String> = text.split(',').map(|origin| origin.trim().to_owned()).collect();
    if origins.len() > ORIGINS_MAX {
        return Err(format!("names {} origins; there may be {ORIGINS_MAX}", origins.len()));
    }
    if origins.iter().any(|origin| origin == "*" || origin == "null") {
        return Err("must not contain * or null: name each origin".to_owned());
    }
    if !origins.iter().all(|origin| is_origin(origin)) {
        return Err(
            "must be origins as browsers send them, such as https://app.example.com: in lower case, without a path and \
             without the scheme's own port"
                .to_owned(),
        );
    }
    let shown = origins.join(",");
    Ok((origins, shown))
}

fn is_origin(text: &str) -> bool {
    let split = text.split_once("://");
    let Some((scheme, authority)) = split else { return false };
    let default_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return false,
    };
    let is_inner =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_:[]".contains(&byte);
    !authority.is_empty()
        && authority.bytes().all(is_inner)
        && !authority.ends_with(':')
        && !authority.ends_with(default_port)
}

/// Returns the token issuers from the configuration file, and adds their members to the settings
/// that are shown.
fn issuers(settings: &mut Settings<'_>, sources: &Sources) -> Vec<IssuerConfig> {
    let origin = Origin::File(sources.sections.path.clone());
    for (number, issuer) in (1..).zip(&sources.sections.issuers) {
        let at = format!("access.issuer[{number}]");
        for (member, value) in issuer.lines() {
            settings.show(format!("{at}.{member}"), value, origin.clone());
        }
    }
    sources.sections.issuers.clone()
}

/// Returns the clients with certificates from the configuration file, and adds their members to the
/// settings that are shown.
fn certificates(settings: &mut Settings<'_>, sources: &Sources) -> Vec<CertificateConfig> {
    let origin = Origin::File(sources.sections.path.clone());
    for (number, client) in (1..).zip(&sources.sections.certificates) {
        let at = format!("access.certificate[{number}]");
        for (member, value) in client.lines() {
            settings.show(format!("{at}.{member}"), value, origin.clone());
        }
    }
    sources.sections.certificates.clone()
}

/// Refuses an address that other machines can reach without TLS: their keys would be sent
/// unencrypted.
pub(super) fn check_transport(bind: SocketAddr, has_tls: bool) -> Result<(), ConfigError> {
    if has_tls || bind.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    Err(ConfigError(format!(
        "access is on, and {bind} can be reached from other machines without TLS: keys would travel in the clear. Add \
         tls_cert and tls_key, or behind_tls if a proxy in front of the router ends TLS, or bind to 127.0.0.1"
    )))
}
