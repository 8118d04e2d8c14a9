//! Catalog place: the location of the catalog whose keys and roles a command reads or changes.
//!
//! If a process holds the data directory, usually a router, the command sends the change to its
//! control socket, and that process makes the change. Otherwise the command locks the directory and
//! makes the change itself. The catalog of a cluster of PostgreSQL servers is changed directly.
//!
//! **Invariant:** no address with a password is taken from a flag, and none is shown.
//! **Not here:** the rules of changes (`engine::access_store`).

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use access::audit::chain::AuditHead;
use clap::Args;
use engine::access_store::{AccessChange, AccessError, AccessState, ChangeAuthor, now};
use postgres::access_session::AccessSession;
use postgres::node_address::{NodeAddress, NodeDefaults, Password};
use sqlite::access_store::{change_stopped, read_audit_heads, read_state};
use sqlite::control::client::{ControlError, change_access};

use super::super::CommandError;

/// Environment variable with the address of the catalog of a cluster of servers. If it is not set,
/// the catalog is in the database of the first shard.
pub(in super::super) const CATALOG_VARIABLE: &str = "MAINDB_URL";
pub(in super::super) const SHARDS_VARIABLE: &str = "SHARD_URLS";
pub(in super::super) const DIR_VARIABLE: &str = "TESSERA_DATA_DIR";
/// Environment variable of libpq with the password for addresses that contain none.
const PASSWORD_VARIABLE: &str = "PGPASSWORD";
pub(in super::super) const DIR_DEFAULT: &str = "./data";

/// Place of the catalog, on the command line.
#[derive(Args, Clone, Debug)]
pub(crate) struct CatalogArgs {
    /// Data directory of the embedded shards [env: TESSERA_DATA_DIR] [default: the servers of
    /// MAINDB_URL or SHARD_URLS, else ./data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Catalog of a cluster.
pub(crate) enum CatalogPlace {
    /// In a data directory.
    Files(PathBuf),
    /// On a server.
    Server(Box<NodeAddress>),
}

impl CatalogArgs {
    /// Returns the catalog that the flag names, or else the environment variables, or else the
    /// default.
    pub(crate) fn place(&self) -> Result<CatalogPlace, CommandError> {
        if let Some(data_dir) = &self.data_dir {
            return Ok(CatalogPlace::Files(data_dir.clone()));
        }
        let named = [CATALOG_VARIABLE, SHARDS_VARIABLE];
        let named = named.into_iter().find_map(|name| Some((name, variable(name).transpose()?)));
        let dir = std::env::var_os(DIR_VARIABLE).filter(|dir| !dir.is_empty());
        match (named, dir) {
            (Some((name, _)), Some(_)) => Err(CommandError::Refused(format!(
                "{DIR_VARIABLE} is a folder of embedded shards, {name} names servers of PostgreSQL: leave one of \
                 them out, or give --data-dir"
            ))),
            (Some((name, urls)), None) => {
                let address = address(first_url(&urls?));
                let address =
                    address.map_err(|error| CommandError::Refused(format!("{name}: {error}")))?;
                Ok(CatalogPlace::Server(Box::new(address)))
            }
            (None, dir) => {
                Ok(CatalogPlace::Files(dir.map_or_else(|| DIR_DEFAULT.into(), PathBuf::from)))
            }
        }
    }
}

impl CatalogArgs {
    /// Returns the catalog that the flag or an environment variable names; `None` if neither does.
    pub(super) fn named(&self) -> Result<Option<CatalogPlace>, CommandError> {
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let names = [CATALOG_VARIABLE, SHARDS_VARIABLE, DIR_VARIABLE];
        if self.data_dir.is_none() && !names.into_iter().any(is_set) {
            return Ok(None);
        }
        self.place().map(Some)
    }
}

/// Returns the value of an environment variable; `None` if it is not set, or empty.
pub(in super::super) fn variable(name: &str) -> Result<Option<String>, CommandError> {
    match std::env::var_os(name).filter(|value| !value.is_empty()) {
        Some(value) => match value.into_string() {
            Ok(text) => Ok(Some(text)),
            // The message does not repeat the value, because it may contain a password.
            Err(_) => Err(CommandError::Refused(format!("{name} is not UTF-8"))),
        },
        None => Ok(None),
    }
}

/// Returns the first of the addresses in a list.
fn first_url(urls: &str) -> &str {
    split_urls(urls).0
}

/// Parses the list of addresses in `urls`, which is the value of the environment variable
/// `variable`.
pub(in super::super) fn addresses(
    variable: &str,
    urls: &str,
) -> Result<Vec<NodeAddress>, CommandError> {
    let (mut addresses, mut left) = (Vec::new(), urls);
    while !left.trim().is_empty() {
        let (first, rest) = split_urls(left);
        let named = |error| CommandError::Refused(format!("{variable}: {error}"));
        addresses.push(address(first).map_err(named)?);
        left = rest;
    }
    Ok(addresses)
}

/// Returns the first of the addresses in a list, and the rest. The list is split only at a comma
/// before `postgres://` or `postgresql://`, because commas also separate the hosts of one address.
fn split_urls(urls: &str) -> (&str, &str) {
    let begins = |rest: &str| rest.starts_with("postgres://") || rest.starts_with("postgresql://");
    let is_end = |comma: &usize| begins(urls[comma + 1..].trim_start());
    let end = urls.match_indices(',').map(|(comma, _)| comma).find(is_end).unwrap_or(urls.len());
    let (first, rest) = urls.split_at(end);
    (first.trim().trim_end_matches(','), rest.trim_start_matches([',', ' ']))
}

/// Parses the address of a node. If it contains no password, that of the environment is used.
fn address(url: &str) -> Result<NodeAddress, String> {
    let password = std::env::var(PASSWORD_VARIABLE).ok().map(Password::new);
    let defaults = NodeDefaults { password, ..NodeDefaults::default() };
    NodeAddress::parse(url, &defaults).map_err(|error| error.to_string())
}

impl CatalogPlace {
    /// Reads all keys and roles, also while a router serves the cluster.
    pub(super) fn load(&self) -> Result<AccessState, CommandError> {
        match self {
            Self::Files(data_dir) => Ok(read_state(data_dir)?),
            Self::Server(address) => {
                with_runtime(async { Ok(AccessSession::open(address).await?.load().await?) })
            }
        }
    }

    /// Reads the last line of each audit log that the catalog stores, also while a router serves
    /// the cluster.
    pub(super) fn audit_heads(&self) -> Result<Vec<AuditHead>, CommandError> {
        match self {
            Self::Files(data_dir) => Ok(read_audit_heads(data_dir)?),
            Self::Server(address) => {
                with_runtime(async { Ok(AccessSession::open(address).await?.audit_heads().await?) })
            }
        }
    }

    /// Makes a change. If it is refused because of one of its members, `flag` returns the
    /// command-line flag or argument for that member, which the message then names.
    pub(super) fn change(
        &self,
        change: &AccessChange,
        flag: impl Fn(&str) -> &'static str,
    ) -> Result<(), CommandError> {
        let refused = |member: &str, reason: &str| {
            let flag = flag(member);
            let colon = if flag.is_empty() { "" } else { ": " };
            CommandError::Refused(format!("{flag}{colon}{reason}"))
        };
        let changed = match self {
            Self::Files(data_dir) => match change_access(data_dir, change) {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) => return Err(refused(&error.member, &error.reason)),
                Err(ControlError::NoListener) => {
                    change_stopped(data_dir, change, &ChangeAuthor::CommandLine, now())?
                }
                Err(error) => return Err(unreachable(data_dir, error)),
            },
            Self::Server(address) => with_runtime(async {
                let session = AccessSession::open(address).await?;
                Ok(session.change(change, &ChangeAuthor::CommandLine, now()).await)
            })?,
        };
        match changed {
            Ok(_) => Ok(()),
            Err(AccessError::Refused(refusal)) => {
                Err(refused(refusal.member(), &refusal.to_string()))
            }
            Err(AccessError::Catalog(error)) => Err(CommandError::Refused(error.to_string())),
        }
    }
}

fn unreachable(data_dir: &Path, error: ControlError) -> CommandError {
    let line = match error {
        ControlError::Unreachable(error) if error.kind() == ErrorKind::PermissionDenied => {
            let dir = data_dir.display();
            format!(
                "{dir} belongs to another user: only the user of the router may change keys ({error})"
            )
        }
        ControlError::NoListener
        | ControlError::Unreachable(_)
        | ControlError::Refused(_)
        | ControlError::Broken(_) => error.to_string(),
    };
    CommandError::Refused(line)
}

/// Runs a future to its end on a new single-threaded runtime.
pub(crate) fn with_runtime<T>(
    work: impl Future<Output = Result<T, CommandError>>,
) -> Result<T, CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| CommandError::Refused(error.to_string()))?;
    runtime.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::first_url;

    #[test]
    fn the_first_address_of_a_list_keeps_all_its_hosts() {
        let first = "postgres://a@h1:1,h2:2/s1";
        for urls in [
            first.to_owned(),
            format!("{first},"),
            format!(" {first} , postgresql://a@h3/s2"),
            format!("{first},postgres://a@h3/s2,postgres://a@h4/s3"),
        ] {
            assert_eq!(first_url(&urls).trim(), first, "{urls}");
        }
    }
}
