//! Address: host, login and TLS settings of a Redis server.
//!
//! The form is `redis://user:password@host:port/db`, or `rediss://` with TLS. With TLS, the
//! certificate authorities of the system are trusted, or instead those in the file that `?ca=`
//! names.
//!
//! **Invariant:** no `Debug`, `Display` or error shows a password.
//! **Not here:** connecting (`connections`).

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

/// Highest accepted number of a Redis database; the first database has number 0.
const DATABASE_MAX: u32 = 1_000;

/// Address of a Redis server.
#[derive(Clone)]
pub struct CacheAddress {
    info: ConnectionInfo,
    /// File of trusted certificate authorities; `None` for those of the system.
    roots: Option<PathBuf>,
    shown: String,
}

/// Reason why a string is not a cache address. It never repeats the string, which may contain a
/// password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The scheme is not `redis` or `rediss`.
    #[error("a cache address begins with redis:// or rediss://")]
    Scheme,
    /// The string cannot be parsed as a URL.
    #[error(
        "a cache address is redis://user:password@host:port/database; percent-encode special characters in user name and password: @ as %40, / as %2F, ? as %3F, # as %23, : as %3A"
    )]
    Form,
    /// The host is missing.
    #[error("a cache address must name a host, such as redis://127.0.0.1:6379")]
    NoHost,
    /// The database is not a number in range.
    #[error(
        "the database of a cache is a number from 0 to {DATABASE_MAX}, such as redis://127.0.0.1:6379/0"
    )]
    Database,
    /// There is a parameter other than a single `?ca=` with a value.
    #[error(
        "the only parameter of a cache address is ca, a file of trusted certificate authorities"
    )]
    Parameter,
    /// A file of certificate authorities is named, but the scheme does not use TLS.
    #[error("ca is a parameter of rediss:// addresses; redis:// ones are not encrypted")]
    RootsWithoutTls,
}

impl FromStr for CacheAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let text = text.trim();
        let is_secured = text.starts_with("rediss://");
        if !is_secured && !text.starts_with("redis://") {
            return Err(AddressError::Scheme);
        }
        let mut url = redis::parse_redis_url(text).ok_or(AddressError::Form)?;
        if url.host_str().is_none_or(str::is_empty) {
            return Err(AddressError::NoHost);
        }
        if url.fragment().is_some() {
            return Err(AddressError::Form);
        }
        let database = url.path().trim_matches('/');
        let is_database = database.parse().is_ok_and(|number: u32| number <= DATABASE_MAX);
        if !database.is_empty() && !is_database {
            return Err(AddressError::Database);
        }
        let mut roots = None;
        for (name, value) in url.query_pairs() {
            if name != "ca" || value.is_empty() || roots.is_some() {
                return Err(AddressError::Parameter);
            }
            roots = Some(PathBuf::from(&*value));
        }
        if roots.is_some() && !is_secured {
            return Err(AddressError::RootsWithoutTls);
        }
        let shown = {
            let mut shown = url.clone();
            // `set_password` fails only without a host, and the host was checked above.
            let hidden = url.password().is_none() || shown.set_password(Some("***")).is_ok();
            if hidden { shown.to_string() } else { "redis://***".to_owned() }
        };
        url.set_query(None);
        let info = url.into_connection_info().map_err(|_| AddressError::Form)?;
        // The client does not send the name of its library, which saves one command on each new
        // connection.
        let settings = info.redis_settings().clone().set_skip_set_lib_name();
        // With `TCP_NODELAY` a command is sent at once, without waiting for the acknowledgement of
        // earlier data.
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let info = info.set_redis_settings(settings).set_tcp_settings(tcp);
        Ok(Self { info, roots, shown })
    }
}

impl CacheAddress {
    /// Returns the address with `***` in place of the password.
    pub fn redacted(&self) -> &str {
        &self.shown
    }

    /// Returns true if connections use TLS.
    pub(super) fn is_secured(&self) -> bool {
        matches!(self.info.addr(), ConnectionAddr::TcpTls { .. })
    }

    /// Returns the connection parameters for the Redis client.
    pub(super) fn info(&self) -> &ConnectionInfo {
        &self.info
    }

    /// Returns the file of trusted certificate authorities; `None` for those of the system.
    pub(super) fn roots(&self) -> Option<&Path> {
        self.roots.as_deref()
    }
}

impl fmt::Display for CacheAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for CacheAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.shown, f)
    }
}

/// Two addresses are equal if their displayed forms, which hide the password, and their passwords
/// are equal.
impl PartialEq for CacheAddress {
    fn eq(&self, other: &Self) -> bool {
        let secret = |address: &Self| address.info.redis_settings().password().map(str::to_owned);
        self.shown == other.shown && secret(self) == secret(other)
    }
}

impl Eq for CacheAddress {}
