//! Cluster place: the location of the cluster whose rows a command reads: a data directory, or
//! PostgreSQL servers.
//!
//! **Invariant:** no address with a password is taken from a flag, and none is shown.
//! **Not here:** the location for commands that only need the catalog (`access::catalog_place`).

use std::path::PathBuf;

use clap::Args;
use postgres::node_address::{ClusterAddress, ServerEngine, ShardAddress, Timeouts};

use super::CommandError;
use super::access::catalog_place::{
    CATALOG_VARIABLE, DIR_DEFAULT, DIR_VARIABLE, SHARDS_VARIABLE, addresses, variable,
};

/// Environment variable with the addresses of replicas, any of which may have become the primary by
/// a failover.
const REPLICAS_VARIABLE: &str = "REPLICA_URLS";

/// Place of the cluster, on the command line.
#[derive(Args, Clone, Debug)]
pub(crate) struct ClusterArgs {
    /// Data directory of the embedded shards [env: TESSERA_DATA_DIR] [default: the servers of
    /// SHARD_URLS, else ./data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Cluster that a command reads.
#[derive(Debug)]
pub(crate) enum ClusterPlace {
    /// In a data directory.
    Files(PathBuf),
    /// On servers.
    Servers(Box<ClusterAddress>),
}

impl ClusterArgs {
    /// Returns the cluster that the flag names, or else the environment variables, or else the
    /// default.
    pub(crate) fn place(&self) -> Result<ClusterPlace, CommandError> {
        if let Some(data_dir) = &self.data_dir {
            return Ok(ClusterPlace::Files(data_dir.clone()));
        }
        let dir = std::env::var_os(DIR_VARIABLE).filter(|dir| !dir.is_empty());
        match (variable(SHARDS_VARIABLE)?, dir) {
            (Some(_), Some(_)) => Err(CommandError::Refused(format!(
                "{DIR_VARIABLE} is a folder of embedded shards, {SHARDS_VARIABLE} names servers of PostgreSQL: leave \
                 one of them out, or give --data-dir"
            ))),
            (Some(urls), None) => Ok(ClusterPlace::Servers(Box::new(servers(&urls)?))),
            (None, dir) => {
                Ok(ClusterPlace::Files(dir.map_or_else(|| DIR_DEFAULT.into(), PathBuf::from)))
            }
        }
    }
}

/// Returns the addresses of the cluster's servers. `urls` is the value of `SHARD_URLS`; replicas
/// and the catalog are read from their own environment variables.
pub(super) fn servers(urls: &str) -> Result<ClusterAddress, CommandError> {
    let listed = |name: &'static str| match variable(name)? {
        Some(urls) => addresses(name, &urls),
        None => Ok(Vec::new()),
    };
    let shards = addresses(SHARDS_VARIABLE, urls)?.into_iter();
    let shard = |primary| ShardAddress { name: None, weight: None, primary, replicas: Vec::new() };
    let mut catalogs = listed(CATALOG_VARIABLE)?.into_iter();
    let catalog = catalogs.next();
    if catalogs.next().is_some() {
        let line =
            format!("{CATALOG_VARIABLE}: a cluster has one catalog; name its hosts in one address");
        return Err(CommandError::Refused(line));
    }
    Ok(ClusterAddress {
        engine: ServerEngine::Postgres,
        shards: shards.map(shard).collect(),
        replicas: listed(REPLICAS_VARIABLE)?,
        catalog,
        timeouts: Timeouts::default(),
        disk_bytes: None,
    })
}
