//! Router list: the routers to collect from, each given by a URL, or as all addresses of a DNS
//! name.
//!
//! **Invariant:** no two routers have the same name or address, because requests would then be
//! counted twice.
//! **Not here:** resolving names (`discovery`).

use std::fmt;

use super::ConfigError;
use super::file::{File, Section};
use web_kit::http_client::Target;
use web_kit::settings::Settings;

/// Maximum number of routers in the list.
const ROUTERS_MAX: usize = 64;
/// Maximum length of a router's name.
const NAME_MAX: usize = 64;
const DEFAULT: &str = "http://127.0.0.1:3000";
const DNS: &str = "dns+";

/// Address of one router, or of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouterAddress {
    /// One router.
    One(Target),
    /// One router at each address to which the host name resolves.
    EachAddress(Target),
}

/// One entry of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterSource {
    /// Name of the router. It is not used for routers at the addresses of a host name, which are
    /// named after their addresses.
    pub name: String,
    /// Address of the router or routers.
    pub address: RouterAddress,
}

impl fmt::Display for RouterSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            RouterAddress::One(target) if self.name == target.label() => write!(f, "{target}"),
            RouterAddress::One(target) => write!(f, "{}={target}", self.name),
            RouterAddress::EachAddress(target) => write!(f, "{DNS}{target}"),
        }
    }
}

/// Reads the routers from the setting `routers`, or from the sections of the file.
pub(super) fn routers(
    settings: &mut Settings<'_>,
    file: &File,
) -> Result<Vec<RouterSource>, ConfigError> {
    let sections = file.sections("router");
    let in_file = |origin| origin == file.origin();
    let given = settings.find("routers");
    if let Some(section) = sections.first() {
        match &given {
            None => {
                let routers: Vec<_> = sections.iter().map(of_section).collect::<Result<_, _>>()?;
                check(&routers).map_err(|cause| section.refused("name", &cause))?;
                settings.show("routers", listed(&routers), file.origin());
                return Ok(routers);
            }
            Some((origin, _)) if in_file(origin.clone()) => {
                return Err(section.refused("url", "stands beside routers: give one of them"));
            }
            Some(_) => {} // Flags and environment win over the file.
        }
    }
    settings.secret("routers", DEFAULT, |text| {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        let routers: Vec<_> = items.map(parse).collect::<Result<_, _>>()?;
        check(&routers)?;
        let shown = listed(&routers);
        Ok((routers, shown))
    })
}

fn listed(routers: &[RouterSource]) -> String {
    let routers: Vec<String> = routers.iter().map(ToString::to_string).collect();
    routers.join(",")
}

fn of_section(section: &Section<'_>) -> Result<RouterSource, ConfigError> {
    let url = section.needed("url")?;
    let name = section.text("name")?;
    let source = source(name, url).map_err(|cause| section.refused("url", &cause))?;
    match name {
        Some(name) if !is_name(name) => Err(section.refused("name", &name_allowed())),
        Some(_) | None => Ok(source),
    }
}

/// Reads `URL` or `NAME=URL`.
fn parse(item: &str) -> Result<RouterSource, String> {
    match item.split_once('=') {
        Some((name, _)) if !is_name(name) => Err(format!("has a name that {}", name_allowed())),
        Some((name, url)) => source(Some(name), url),
        None => source(None, item),
    }
}

fn source(name: Option<&str>, url: &str) -> Result<RouterSource, String> {
    if let Some(url) = url.strip_prefix(DNS) {
        if name.is_some() {
            return Err("gives a name to all addresses of a host: leave the name out".to_owned());
        }
        let target: Target = url.parse()?;
        return Ok(RouterSource {
            name: target.label(),
            address: RouterAddress::EachAddress(target),
        });
    }
    let target: Target = url.parse()?;
    let name = name.map_or_else(|| target.label(), str::to_owned);
    Ok(RouterSource { name, address: RouterAddress::One(target) })
}

fn check(routers: &[RouterSource]) -> Result<(), String> {
    if routers.is_empty() || routers.len() > ROUTERS_MAX {
        return Err(format!("must name 1 to {ROUTERS_MAX} routers, such as {DEFAULT}"));
    }
    for (index, router) in routers.iter().enumerate() {
        let before = &routers[..index];
        if before.iter().any(|other| other.address == router.address) {
            return Err(format!("names {router} twice: its requests would count twice"));
        }
        if before.iter().any(|other| other.name == router.name) {
            return Err(format!("calls two routers {}", router.name));
        }
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(plain)
}

fn name_allowed() -> String {
    format!("must be 1 to {NAME_MAX} letters, digits, ., _ and -")
}
