//! Access: reads the API keys, the roles and the last line of each audit log from the catalog of a
//! cluster, so that the doctor can check them.

use std::path::Path;

use access::audit::chain::AuditHead;
use engine::access_store::AccessState;
use engine::open_error::OpenError;
use postgres::access_session::AccessSession;
use postgres::node_address::ClusterAddress;
use sqlite::access_store::{read_audit_heads, read_state};

/// Returns the API keys and roles of the cluster in a data directory, or `None` if the directory
/// holds no cluster yet.
///
/// # Errors
/// Fails if the catalog cannot be read, or has the schema of another version.
pub fn access_of_files(data_dir: &Path) -> Result<Option<AccessState>, OpenError> {
    if !data_dir.join("catalog.db").exists() {
        return Ok(None);
    }
    read_state(data_dir).map(Some)
}

/// Returns the API keys and roles of a cluster of PostgreSQL servers.
///
/// # Errors
/// Fails if no host of the catalog is a primary, or if its database holds no cluster yet.
pub async fn access_of_servers(address: &ClusterAddress) -> Result<AccessState, OpenError> {
    let first = address.shards.first().map(|shard| &shard.primary);
    let Some(at) = address.catalog.as_ref().or(first) else { return Ok(AccessState::default()) };
    AccessSession::open(at).await?.load().await
}

/// Returns the last line of each audit log, as the catalog in a data directory stores it. The
/// result is empty if the directory holds no cluster yet.
///
/// # Errors
/// Fails if the catalog cannot be read, or has the schema of another version.
pub fn audit_heads_of_files(data_dir: &Path) -> Result<Vec<AuditHead>, OpenError> {
    if !data_dir.join("catalog.db").exists() {
        return Ok(Vec::new());
    }
    read_audit_heads(data_dir)
}

/// Returns the last line of each audit log, as the catalog of a cluster of PostgreSQL servers
/// stores it.
///
/// # Errors
/// Fails if no host of the catalog is a primary, or if its database holds no cluster yet.
pub async fn audit_heads_of_servers(address: &ClusterAddress) -> Result<Vec<AuditHead>, OpenError> {
    let first = address.shards.first().map(|shard| &shard.primary);
    let Some(at) = address.catalog.as_ref().or(first) else { return Ok(Vec::new()) };
    AccessSession::open(at).await?.audit_heads().await
}
