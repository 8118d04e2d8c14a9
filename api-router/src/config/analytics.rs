//! Analytics: the settings for recording requests, for the store of metrics, and for the collector
//! of traces.
//!
//! **Not here:** the recording, storing and sending itself.

use analytics::settings::{Origin, Settings};
use analytics::store::StoreAddress;

use super::sources::spelled;
use super::{ConfigError, Engine};

/// True if this build of the router can send traces.
const HAS_OTLP: bool = cfg!(feature = "otlp");
/// Name of the store in the folder of embedded shards.
const FILE: &str = "analytics.db";

/// Returns true if requests are recorded.
pub(super) fn is_on(settings: &mut Settings<'_>) -> Result<bool, ConfigError> {
    settings.parse("analytics", "on", |text| match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("on or off".to_owned()),
    })
}

/// Returns the store that keeps metrics over restarts. An address is shown without its user and
/// password. A store that is named although no requests are recorded is refused.
pub(super) fn store(
    settings: &mut Settings<'_>,
    engine: &Engine,
    is_on: bool,
) -> Result<Option<StoreAddress>, ConfigError> {
    const NAME: &str = "analytics_store";
    let (address, origin) = match settings.find(NAME) {
        Some((origin, text)) => {
            let what = format!("{} (from {origin})", spelled(NAME, &origin));
            let parsed = StoreAddress::parse(&text);
            let address = parsed.map_err(|error| ConfigError(format!("{what} {error}")))?;
            if address.is_some() && !is_on {
                return Err(ConfigError(format!(
                    "{what} is ignored while analytics is off: leave one of them out"
                )));
            }
            (address, origin)
        }
        None => match engine {
            Engine::Embedded { data_dir } => {
                (Some(StoreAddress::Sqlite(data_dir.join(FILE))), Origin::Default)
            }
            // With servers, the analytics service stores the metrics of all routers.
            Engine::Postgres(_) => (None, Origin::Default),
        },
    };
    let shown = address.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
    settings.show(NAME, shown, origin);
    Ok(address)
}

/// Returns the collector of traces. The part of the URL before an @ is never shown.
pub(super) fn otlp_endpoint(settings: &mut Settings<'_>) -> Result<Option<String>, ConfigError> {
    const NAME: &str = "otlp_endpoint";
    let Some((origin, text)) = settings.find(NAME) else {
        settings.show(NAME, "none".to_owned(), Origin::Default);
        return Ok(None);
    };
    let what = format!("{} (from {origin})", spelled(NAME, &origin));
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let host = rest.and_then(|rest| rest.split(['/', '?', '#']).next());
    let is_plain = |host: &&str| {
        let name = host.rsplit_once('@').map_or(*host, |(_, name)| name);
        !name.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control())
    };
    let Some(host) = host.filter(is_plain) else {
        return Err(ConfigError(format!("{what} must be a URL, such as http://127.0.0.1:4318")));
    };
    if !HAS_OTLP {
        return Err(ConfigError(format!(
            "{what} needs a router that sends traces: build it with --features otlp, or leave the setting out"
        )));
    }
    let shown = match host.rsplit_once('@') {
        Some((secret, _)) => text.replacen(secret, "***", 1),
        None => text.clone(),
    };
    settings.show(NAME, shown, origin);
    Ok(Some(text))
}
