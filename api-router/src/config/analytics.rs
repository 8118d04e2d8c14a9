//! Analytics: the settings for recording requests, for the store of metrics, and for the collector
//! of traces.
//!
//! **Not here:** the recording, storing and sending itself.

use std::path::Path;

use analytics::settings::{Origin, Settings};
use analytics::store::StoreAddress;

use super::sources::spelled;
use super::{Config, ConfigError, Engine};

/// True if this build of the router can send traces.
const HAS_OTLP: bool = cfg!(feature = "otlp");
/// File name of the default store, which is in the folder of embedded shards.
const FILE: &str = "analytics.db";

impl Config {
    /// Source name of the history in the default store of embedded shards. Earlier versions used
    /// this name in every store.
    pub const ONLY_SOURCE: &str = "router";

    /// Returns the source name under which a store keeps the history of this router's metrics. The
    /// file in the folder of embedded shards keeps the history of only one router. Any other store
    /// may be shared by several routers, so the name then contains the router's host and port,
    /// which stay the same across restarts. The analytics service uses no such names for its
    /// routers, so that it may share the store.
    pub fn history_source(&self, store: &StoreAddress, host: &str) -> String {
        source(store, &self.engine, (host, self.bind.port()))
    }
}

fn source(store: &StoreAddress, engine: &Engine, (host, port): (&str, u16)) -> String {
    match engine {
        Engine::Embedded { data_dir } if *store == own_file(data_dir) => {
            Config::ONLY_SOURCE.to_owned()
        }
        // The analytics service also names routers after their hosts and ports, but without a
        // slash.
        Engine::Embedded { .. } | Engine::Postgres(_) => {
            format!("{}/{host}:{port}", Config::ONLY_SOURCE)
        }
    }
}

fn own_file(data_dir: &Path) -> StoreAddress {
    StoreAddress::Sqlite(data_dir.join(FILE))
}

/// Returns true if requests are recorded.
pub(super) fn is_on(settings: &mut Settings<'_>) -> Result<bool, ConfigError> {
    settings.parse("analytics", "on", |text| match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("on or off".to_owned()),
    })
}

/// Returns the store that keeps metrics across restarts. Its address is shown without user and
/// password. A store that is set although recording is off is refused.
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
            Engine::Embedded { data_dir } => (Some(own_file(data_dir)), Origin::Default),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routers_that_share_a_store_have_sources_of_their_own_that_stay_over_restarts() {
        let engine = Engine::Embedded { data_dir: "/srv/data".into() };
        let named = |store: &str, place| {
            let store = StoreAddress::parse(store).expect("an address").expect("a store");
            source(&store, &engine, place)
        };
        for shared in ["postgres://me@10.0.0.1/figures", "/srv/figures.db"] {
            assert_eq!(named(shared, ("north", 3000)), "router/north:3000");
            assert_eq!(named(shared, ("north", 3001)), "router/north:3001");
            assert_eq!(named(shared, ("south", 3000)), "router/south:3000");
        }
        // This file moves with its folder, whatever host and port the router has then.
        assert_eq!(named("/srv/data/analytics.db", ("north", 3000)), "router");
        assert_eq!(named("/srv/data/analytics.db", ("south", 3001)), "router");
    }

    #[test]
    fn no_router_has_the_source_of_a_router_of_the_analytics_service_in_a_shared_store() {
        let engine = Engine::Embedded { data_dir: "/srv/data".into() };
        let store = StoreAddress::parse("postgres://me@10.0.0.1/figures").expect("an address");
        let store = store.expect("a store");
        // The names in the service's configuration have no slash, and neither do hosts and ports.
        for host in ["north", "north.example.com", "127.0.0.1"] {
            let own = source(&store, &engine, (host, 3000));
            assert!(own.contains('/'), "{own}");
            assert!(!own.ends_with("/counted"), "measured intervals have such a source: {own}");
        }
    }
}
