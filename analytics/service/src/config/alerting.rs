//! Alerting: the rules and webhooks of the configuration file.
//!
//! **Invariant:** when the service starts, it refuses a rule that could never fire or never be
//! resolved, and a webhook whose secret cannot be read.
//! **Not here:** evaluating rules (`alerts`), sending messages (`webhook`).

use std::fmt;
use std::io::Read;
use std::path::Path;

use hyper::header::HeaderValue;

use super::ConfigError;
use super::file::{File, Section};
use super::router_list::{RouterAddress, RouterSource};
use crate::alerts::{Kind, Limits, Rule};
use recorder::Window;
use web_kit::http_client::{Target, parse_url};
use web_kit::settings::Settings;

/// Maximum length of the name of a rule, a webhook or a shard.
const NAME_MAX: usize = 64;
/// Largest value of `for` and `clear_for` of a rule, in s: a day.
const WAIT_S_MAX: u64 = 86_400;
/// Default of `for` and `clear_for`, in s.
const FOR_S: u64 = 30;
/// Default of `for` and `clear_for` for kinds whose value is 0 or 1, in s.
const DOWN_FOR_S: u64 = 10;
/// Windows that a rule may have. Longer windows are not allowed, because adding up their frames
/// once a second would take too long.
const WINDOWS: [&str; 4] = ["1m", "5m", "15m", "1h"];
/// Maximum number of bytes that are read from a file with a secret.
const SECRET_BYTES_MAX: u64 = 8 << 10;

/// A receiver of alerts.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Name of the webhook.
    pub name: String,
    /// Server of the webhook.
    pub target: Target,
    /// Path of the webhook, which may be a secret.
    pub path: String,
    /// Value of the header `Authorization`, if any.
    pub authorization: Option<Authorization>,
}

/// A secret that authenticates the service.
#[derive(Clone, PartialEq, Eq)]
pub struct Authorization(pub HeaderValue);

impl fmt::Display for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path == "/" { "" } else { "/***" };
        let authorization = if self.authorization.is_some() { ", authorization ***" } else { "" };
        write!(f, "{}{path}{authorization}", self.target)
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={self}", self.name)
    }
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Reads the rules of the file.
pub(super) fn rules(
    settings: &mut Settings<'_>,
    file: &File,
    routers: &[RouterSource],
) -> Result<Vec<Rule>, ConfigError> {
    let mut rules: Vec<Rule> = Vec::new();
    for section in file.sections("alert") {
        let rule = rule(&section, routers)?;
        if rules.iter().any(|other| other.name == rule.name) {
            return Err(section.refused("name", "is that of another rule"));
        }
        settings.show(section.called(), described(&rule), file.origin());
        rules.push(rule);
    }
    Ok(rules)
}

fn rule(section: &Section<'_>, routers: &[RouterSource]) -> Result<Rule, ConfigError> {
    let name = name(section)?;
    let kind = section.needed("kind")?;
    let kind = Kind::ALL.into_iter().find(|known| known.name() == kind).ok_or_else(|| {
        let names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        section.refused("kind", &format!("must be one of {}", names.join(", ")))
    })?;
    let window = match (kind.has_window(), section.text("window")?) {
        (true, Some(text)) => {
            WINDOWS.contains(&text).then(|| Window::parse(text).ok()).flatten().ok_or_else(
                || section.refused("window", &format!("must be one of {}", WINDOWS.join(", "))),
            )?
        }
        (true, None) => Window::parse("1m").unwrap_or_default(),
        (false, None) => Window::default(),
        (false, Some(_)) => {
            let cause = format!("has no meaning for {kind}, which is not measured over time");
            return Err(section.refused("window", &cause));
        }
    };
    let shard = section.text("shard")?;
    let has_shards = match kind {
        Kind::Skew | Kind::RouterDown | Kind::MoveStalled | Kind::RebalanceFailed => false,
        Kind::P99 | Kind::ErrorRate | Kind::Lag | Kind::ShardDown => true,
    };
    if shard.is_some() && !has_shards {
        return Err(section.refused("shard", &format!("has no meaning for {kind}: leave it out")));
    }
    if shard.is_some_and(|shard| shard.is_empty() || shard.len() > NAME_MAX) {
        return Err(section.refused("shard", "must be the name of a shard"));
    }
    let router = section.text("router")?;
    let is_known = |name: &str| {
        let by_name = |router: &RouterSource| match router.address {
            RouterAddress::One(_) => router.name == name,
            RouterAddress::EachAddress(_) => true,
        };
        routers.iter().any(by_name)
    };
    if router.is_some_and(|router| !is_known(router)) {
        return Err(section.refused("router", "must be the name of a router of this configuration"));
    }
    let (shard, router) = (shard.map(str::to_owned), router.map(str::to_owned));
    Ok(Rule { name, kind, limits: limits(section, kind)?, window, shard, router })
}

fn limits(section: &Section<'_>, kind: Kind) -> Result<Limits, ConfigError> {
    let wait = if kind.is_binary() { DOWN_FOR_S } else { FOR_S };
    let for_s = seconds(section, "for", wait)?;
    let clear_for_s = seconds(section, "clear_for", wait)?;
    if kind.is_binary() {
        for member in ["raise", "clear"] {
            if section.number(member)?.is_some() {
                let cause =
                    format!("has no meaning for {kind}: it is {} or it is not", kind.unit());
                return Err(section.refused(member, &cause));
            }
        }
        return Ok(Limits { raise: 1.0, clear: 0.0, for_s, clear_for_s });
    }
    let range = kind.range();
    let allowed =
        format!("must be a number from {} to {} ({})", range.start(), range.end(), kind.unit());
    let raise = section.number("raise")?;
    let raise =
        raise.ok_or_else(|| section.refused("raise", &format!("is missing: it {allowed}")))?;
    if !range.contains(&raise) {
        return Err(section.refused("raise", &allowed));
    }
    let clear = section.number("clear")?.unwrap_or(raise);
    if !(0.0..=raise).contains(&clear) {
        return Err(
            section.refused("clear", "must be from 0 to raise: it ends where it is well again")
        );
    }
    if kind == Kind::Skew && clear < 1.0 {
        return Err(
            section.refused("clear", "must be at least 1, which is even: it would never end")
        );
    }
    Ok(Limits { raise, clear, for_s, clear_for_s })
}

/// Reads a time such as `30s`, `5m` or `1h`.
fn seconds(section: &Section<'_>, member: &str, default: u64) -> Result<u64, ConfigError> {
    let Some(text) = section.text(member)? else { return Ok(default) };
    let parsed = ["s", "m", "h"].into_iter().zip([1, 60, 3_600]).find_map(|(unit, length)| {
        let digits = text.strip_suffix(unit)?;
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| digits.parse::<u64>().ok()?.checked_mul(length)).flatten()
    });
    let within = parsed.filter(|seconds| *seconds <= WAIT_S_MAX);
    within.ok_or_else(|| {
        section.refused(member, "must be a time such as 30s, 5m or 1h, at most a day")
    })
}

fn name(section: &Section<'_>) -> Result<String, ConfigError> {
    let name = section.needed("name")?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(plain) {
        return Ok(name.to_owned());
    }
    Err(section.refused("name", &format!("must be 1 to {NAME_MAX} letters, digits, ., _ and -")))
}

fn described(rule: &Rule) -> String {
    let Rule { kind, limits, window, shard, router, .. } = rule;
    let unit = kind.unit();
    let values = match kind.is_binary() {
        true => String::new(),
        false => format!(" from {} {unit} on, over at {} {unit}", limits.raise, limits.clear),
    };
    let window = match kind.has_window() {
        true => format!(", window {} s", window.length().as_secs()),
        false => String::new(),
    };
    let of = |what: &str, name: &Option<String>| {
        name.as_ref().map_or_else(String::new, |name| format!(", {what} {name}"))
    };
    format!(
        "{kind}{values}, for {} s, clear for {} s{window}{}{}",
        limits.for_s,
        limits.clear_for_s,
        of("shard", shard),
        of("router", router)
    )
}

/// Reads the webhooks of the file.
pub(super) fn webhooks(
    settings: &mut Settings<'_>,
    file: &File,
) -> Result<Vec<Webhook>, ConfigError> {
    let mut webhooks: Vec<Webhook> = Vec::new();
    for section in file.sections("webhook") {
        let webhook = webhook(&section)?;
        if webhooks.iter().any(|other| other.name == webhook.name) {
            return Err(section.refused("name", "is that of another webhook"));
        }
        settings.show(section.called(), webhook.to_string(), file.origin());
        webhooks.push(webhook);
    }
    Ok(webhooks)
}

fn webhook(section: &Section<'_>) -> Result<Webhook, ConfigError> {
    let name = name(section)?;
    let url = match (section.text("url")?, section.text("url_file")?) {
        (Some(url), None) => url.to_owned(),
        (None, Some(path)) => secret_of_file(section, "url_file", path)?,
        (Some(_), Some(_)) => {
            return Err(section.refused("url", "stands beside url_file: give one of them"));
        }
        (None, None) => return Err(section.refused("url", "is missing, and so is url_file")),
    };
    let (target, path) = parse_url(&url).map_err(|cause| section.refused("url", &cause))?;
    let secret = match (section.text("authorization_file")?, section.text("authorization_env")?) {
        (Some(path), None) => {
            Some(("authorization_file", secret_of_file(section, "authorization_file", path)?))
        }
        (None, Some(variable)) => {
            let value = std::env::var(variable).ok().filter(|value| !value.is_empty());
            let missing =
                || section.refused("authorization_env", "names a variable that is not set");
            Some(("authorization_env", value.ok_or_else(missing)?))
        }
        (Some(_), Some(_)) => {
            let cause = "stands beside authorization_file: give one of them";
            return Err(section.refused("authorization_env", cause));
        }
        (None, None) => None,
    };
    let authorization = secret.map(|(member, secret)| {
        let mut value = HeaderValue::from_str(&secret)
            .map_err(|_| section.refused(member, "gives what cannot stand in a header"))?;
        value.set_sensitive(true);
        Ok(Authorization(value))
    });
    Ok(Webhook { name, target, path, authorization: authorization.transpose()? })
}

/// Reads the first line of a file.
fn secret_of_file(section: &Section<'_>, member: &str, path: &str) -> Result<String, ConfigError> {
    let refused = |cause: &str| section.refused(member, &format!("names {path}: {cause}"));
    let mut text = String::new();
    let file = std::fs::File::open(Path::new(path)).map_err(|error| refused(&error.to_string()))?;
    let read = file.take(SECRET_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|error| refused(&error.to_string()))?;
    match text.lines().next().map(str::trim) {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        Some(_) | None => Err(refused("its first line is empty")),
    }
}
