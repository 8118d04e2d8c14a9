//! Access: the settings of access control, and the key that is sent to routers.
//!
//! **Invariant:** no secret is read here, so none can be shown. A key for routers is refused if it
//! would be sent to a router unencrypted over a network.
//! **Not here:** the files that these settings name (`key_files`, `router_key`), the section of an
//! issuer (`issuers`).

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use issuers::config::IssuerConfig;

use super::file::File;
use super::{ConfigError, RouterAddress, RouterSource};
use web_kit::http_client::Target;
use web_kit::settings::Settings;

pub(super) const MODE: &str = "access";
pub(super) const KEYS_FILE: &str = "access_keys_file";
pub(super) const ROLES_FILE: &str = "access_roles_file";
pub(super) const ROUTER_KEY_FILE: &str = "router_key_file";

/// Settings of access control.
#[derive(Clone, Debug)]
pub struct AccessConfig {
    /// True if requests need credentials.
    pub is_on: bool,
    /// File with the keys, if there is one.
    pub keys_file: Option<PathBuf>,
    /// File with the roles, if there is one.
    pub roles_file: Option<PathBuf>,
    /// Token issuers whose tokens are accepted.
    pub issuers: Vec<IssuerConfig>,
    /// File with the key that is sent to routers, if there is one.
    pub router_key_file: Option<PathBuf>,
}

/// Returns the settings of access control.
pub(super) fn access(
    settings: &mut Settings<'_>,
    file: &File,
    routers: &[RouterSource],
) -> Result<AccessConfig, ConfigError> {
    let is_on = settings.parse(MODE, "off", |text| match text {
        "off" => Ok(false),
        "on" => Ok(true),
        _ => Err("off or on".to_owned()),
    })?;
    let mut path = |name: &'static str| {
        settings.optional(name, "none", |text| match text {
            "" => Err("a file".to_owned()),
            _ => Ok(PathBuf::from(text)),
        })
    };
    let (keys_file, roles_file) = (path(KEYS_FILE)?, path(ROLES_FILE)?);
    let router_key_file = path(ROUTER_KEY_FILE)?;
    let issuers = issuers(settings, file)?;
    if is_on && keys_file.is_none() && issuers.is_empty() {
        let cause = "access is on, and without access_keys_file and [[issuer]] there are no keys and no tokens: \
                     `shard-manager key create --offline` prints a key and its line for such a file";
        return Err(ConfigError(cause.to_owned()));
    }
    if !is_on {
        refuse_ignored(settings, file)?;
    }
    if router_key_file.is_some() {
        routers.iter().try_for_each(check_router)?;
    }
    Ok(AccessConfig { is_on, keys_file, roles_file, issuers, router_key_file })
}

/// Refuses a setting that has no effect because access control is off: it would seem to be in
/// force.
fn refuse_ignored(settings: &Settings<'_>, file: &File) -> Result<(), ConfigError> {
    let set = [KEYS_FILE, ROLES_FILE].into_iter().find_map(|name| {
        let (origin, _) = settings.find(name)?;
        Some(format!("{name} (from {origin})"))
    });
    let section = || {
        let has_issuer = !file.sections("issuer").is_empty();
        has_issuer.then(|| format!("issuer[1] (from {})", file.origin()))
    };
    match set.or_else(section) {
        Some(given) => Err(ConfigError(format!(
            "{given} is ignored while access is off: set access = on, or remove the setting"
        ))),
        None => Ok(()),
    }
}

/// Returns the issuers of the configuration file, and adds each of their members to the settings
/// that are shown.
fn issuers(settings: &mut Settings<'_>, file: &File) -> Result<Vec<IssuerConfig>, ConfigError> {
    let mut issuers = Vec::new();
    for (number, section) in (1..).zip(file.sections("issuer")) {
        let issuer = section.issuer()?;
        for (member, value) in issuer.lines() {
            settings.show(format!("issuer[{number}].{member}"), value, file.origin());
        }
        issuers.push(issuer);
    }
    Ok(issuers)
}

/// Refuses a router to which the key would be sent unencrypted over a network.
fn check_router(router: &RouterSource) -> Result<(), ConfigError> {
    let (RouterAddress::One(target) | RouterAddress::EachAddress(target)) = &router.address;
    if may_carry_key(target) {
        return Ok(());
    }
    Err(ConfigError(format!(
        "{ROUTER_KEY_FILE} is given, and {router} is not on this machine and not https: the key would travel in the clear"
    )))
}

/// Returns true if a key may be sent to this server: the connection uses TLS or stays on this
/// machine.
pub fn may_carry_key(target: &Target) -> bool {
    let is_loopback = |address: IpAddr| address.to_canonical().is_loopback();
    let is_here = match target.address {
        Some(address) => is_loopback(address),
        None => target.host.parse().map_or(target.host == "localhost", is_loopback),
    };
    target.is_secure || is_here
}

/// Refuses to listen on an address that other machines can reach if clients would send their keys
/// unencrypted.
pub(super) fn check_transport(bind: SocketAddr, behind_tls: bool) -> Result<(), ConfigError> {
    if behind_tls || bind.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    Err(ConfigError(format!(
        "access is on, and {bind} can be reached from other machines without TLS: keys would travel in the clear. Add \
         behind_tls if a proxy in front of the service ends TLS, or bind to 127.0.0.1"
    )))
}
