//! Cache: the settings of the cache for reads.
//!
//! **Invariant:** no cache is used unless the configuration names one, and the password of the
//! cache is never shown.
//! **Not here:** the content of the cache, and its use (`cache` of the shard manager).

use std::path::Path;
use std::time::Duration;

use analytics::settings::{Origin, Settings, within};
use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use shard_manager::cache::{AddressError, CacheAddress, CacheSettings};
use shard_manager::node_address::Password;

use super::ConfigError;
use super::sources::{Sources, name_with_origin};

const URL: &str = "redis_url";
const PASSWORD_FILE: &str = "cache_password_file";
/// Value that means no cache, even if a source with a lower precedence names one.
const NONE: &str = "none";

/// Flags of the cache.
#[derive(Default, Args)]
pub(super) struct CacheFlags {
    /// A Redis or Valkey that reads may be answered from: redis://HOST:PORT/NUMBER, rediss:// for TLS, or none. Other
    /// users of this machine can see flags: give a password in REDIS_URL or a file [default: none]
    #[arg(long, value_name = "URL|none")]
    redis_url: Option<String>,
    /// The file with the password of the cache, in its first line
    #[arg(long, value_name = "FILE")]
    cache_password_file: Option<String>,
    /// Largest age of an answer of the cache, for clients that set none, 1 to 30000 ms [default:
    /// 1000]
    #[arg(long, value_name = "MS")]
    cache_bound_ms: Option<String>,
    /// Time for which the cache keeps an answer, 1 to 30000 ms [default: 30000]
    #[arg(long, value_name = "MS")]
    cache_ttl_ms: Option<String>,
    /// Longest wait of a read for the cache before it goes to the shard, 1 to 1000 ms [default: 20]
    #[arg(long, value_name = "MS")]
    cache_patience_ms: Option<String>,
    /// Larger answers are not kept: 1024 to 1048576 bytes [default: 65536]
    #[arg(long, value_name = "BYTES")]
    cache_entry_bytes_max: Option<String>,
    /// Bytes of answers that the router keeps in its own memory too, 0 (none) to 1073741824
    /// [default: 0]
    #[arg(long, value_name = "BYTES")]
    cache_near_bytes: Option<String>,
    /// Expected uses of an answer below which it is not kept in the cache, 1 (every answer is kept)
    /// to 1000 [default: 2]
    #[arg(long, value_name = "NUMBER")]
    cache_min_uses: Option<String>,
}

impl CacheFlags {
    /// Returns the values of the flags, each with the name of its setting.
    pub(super) fn texts(&self) -> [(&'static str, &Option<String>); 8] {
        [
            (URL, &self.redis_url),
            (PASSWORD_FILE, &self.cache_password_file),
            ("cache_bound_ms", &self.cache_bound_ms),
            ("cache_ttl_ms", &self.cache_ttl_ms),
            ("cache_patience_ms", &self.cache_patience_ms),
            ("cache_entry_bytes_max", &self.cache_entry_bytes_max),
            ("cache_near_bytes", &self.cache_near_bytes),
            ("cache_min_uses", &self.cache_min_uses),
        ]
    }
}

/// Returns the settings of the cache, if one is named.
pub(super) fn cache(
    settings: &mut Settings<'_>,
    sources: &Sources,
) -> Result<Option<CacheSettings>, ConfigError> {
    let address = address(settings, sources)?;
    let bound = milliseconds(
        settings,
        "cache_bound_ms",
        CacheSettings::BOUND_DEFAULT,
        1..=whole_ms(CacheSettings::BOUND_MAX),
    )?;
    let ttl = milliseconds(
        settings,
        "cache_ttl_ms",
        CacheSettings::TTL_DEFAULT,
        1..=whole_ms(CacheSettings::TTL_MAX),
    )?;
    let patience = milliseconds(
        settings,
        "cache_patience_ms",
        CacheSettings::PATIENCE_DEFAULT,
        whole_ms(CacheSettings::PATIENCE_MIN)..=whole_ms(CacheSettings::PATIENCE_MAX),
    )?;
    let entry_bytes_max = number(
        settings,
        "cache_entry_bytes_max",
        CacheSettings::ENTRY_BYTES_DEFAULT,
        CacheSettings::ENTRY_BYTES_LEAST..=CacheSettings::ENTRY_BYTES_MOST,
    )?;
    let near_bytes = number(settings, "cache_near_bytes", 0, 0..=CacheSettings::NEAR_BYTES_MAX)?;
    let min_uses = number(
        settings,
        "cache_min_uses",
        CacheSettings::MIN_USES_DEFAULT,
        CacheSettings::MIN_USES_LEAST..=CacheSettings::MIN_USES_MOST,
    )?;
    if settings.find(URL).is_none() {
        refuse_without_address(settings)?;
    }
    Ok(address.map(|address| CacheSettings {
        address,
        bound,
        ttl,
        patience,
        entry_bytes_max,
        near_bytes,
        min_uses,
    }))
}

/// Refuses other settings about the cache if no address of a cache is set.
fn refuse_without_address(settings: &Settings<'_>) -> Result<(), ConfigError> {
    let flags = CacheFlags::default();
    let mut names = flags.texts().into_iter().map(|(name, _)| name).filter(|name| *name != URL);
    match names.find_map(|name| name_with_origin(settings, name)) {
        Some(given) => Err(ConfigError(format!(
            "{given} is about a cache, but none is named: set REDIS_URL, or url in [cache] of the file"
        ))),
        None => Ok(()),
    }
}

/// Returns the address of the cache; the password may be in a file of its own.
fn address(
    settings: &mut Settings<'_>,
    sources: &Sources,
) -> Result<Option<CacheAddress>, ConfigError> {
    let named = settings.find(URL).filter(|(_, text)| !matches!(&**text, "" | NONE));
    let given = named.as_ref().map_or_else(String::new, |(origin, _)| {
        format!("{} (from {origin})", sources.redis_url_name(origin))
    });
    let parse = |url: &str| -> Result<CacheAddress, ConfigError> {
        url.parse().map_err(|error: AddressError| ConfigError(format!("{given}: {error}")))
    };
    let address = match named {
        Some((origin, url)) => {
            let mut address = parse(&url)?;
            if let Some(password) = password(settings)? {
                address = parse(&with_password(&url, &password, &given)?)?;
            }
            settings.show(URL, address.redacted().to_owned(), origin);
            Some(address)
        }
        None => {
            let origin = settings.find(URL).map_or(Origin::Default, |(origin, _)| origin);
            settings.show(URL, NONE.to_owned(), origin);
            None
        }
    };
    match settings.find(PASSWORD_FILE) {
        Some((origin, path)) => settings.show(PASSWORD_FILE, path, origin),
        None => settings.show(PASSWORD_FILE, NONE.to_owned(), Origin::Default),
    }
    Ok(address)
}

fn password(settings: &Settings<'_>) -> Result<Option<Password>, ConfigError> {
    let Some((_, path)) = settings.find(PASSWORD_FILE) else { return Ok(None) };
    let given = name_with_origin(settings, PASSWORD_FILE).unwrap_or_default();
    if path.contains("://") {
        return Err(ConfigError(format!("{given} is a URL; it must be a file")));
    }
    let read = Password::from_file(Path::new(&path));
    read.map(Some).map_err(|error| ConfigError(format!("{given}: {error}")))
}

/// Returns the address with the password inserted.
fn with_password(url: &str, password: &Password, given: &str) -> Result<String, ConfigError> {
    let (scheme, rest) = url.split_once("://").unwrap_or((url, ""));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, behind) = rest.split_at(end);
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if user.contains(':') {
        return Err(ConfigError(format!(
            "{given} has a password, and {PASSWORD_FILE} names another: leave one of them out"
        )));
    }
    let password = utf8_percent_encode(password.secret(), NON_ALPHANUMERIC);
    Ok(format!("{scheme}://{user}:{password}@{host}{behind}"))
}

fn milliseconds(
    settings: &mut Settings<'_>,
    name: &'static str,
    default: Duration,
    allowed: std::ops::RangeInclusive<usize>,
) -> Result<Duration, ConfigError> {
    let number = number(settings, name, whole_ms(default), allowed)?;
    Ok(Duration::from_millis(number as u64))
}

fn number(
    settings: &mut Settings<'_>,
    name: &'static str,
    default: usize,
    allowed: std::ops::RangeInclusive<usize>,
) -> Result<usize, ConfigError> {
    let parse = |text: &str| within(text, *allowed.start(), *allowed.end());
    settings.parse(name, &default.to_string(), parse)
}

fn whole_ms(time: Duration) -> usize {
    usize::try_from(time.as_millis()).unwrap_or(usize::MAX)
}
