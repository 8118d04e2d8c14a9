//! Catalog session: the connection of a command to the catalog of a cluster.
//!
//! **Invariant:** the catalog is that of a cluster, and has the tables that the command needs.
//! **Not here:** the contents of the catalog (`catalog`), the connections of a router
//! (`catalog_follower`).

use engine::open_error::OpenError;

use super::discovery;
use super::node_address::{ClusterAddress, NodeAddress};
use super::session::Session;
use super::shard_database::has_rows;

/// Name of the catalog in errors.
pub(super) const CATALOG: &str = "the catalog";

/// Connects to the primary among the hosts of a catalog, and checks that a table of this program's
/// schema has rows.
///
/// # Errors
/// [`OpenError`] if there is no primary, no cluster in its database, or an older schema.
pub(super) async fn open(at: &NodeAddress, newest_table: &str) -> Result<Session, OpenError> {
    let (session, _) = discovery::connect_catalog(at, &ClusterAddress::of_node(at)).await?;
    for (table, cause) in [
        (
            "tessera_cluster",
            "there is no cluster in this database: name the catalog of a cluster, or start a router, which creates it",
        ),
        (
            newest_table,
            "its schema is older than this program: start a router of this version once, which migrates it",
        ),
    ] {
        let has_rows = has_rows(&session.connection, table).await;
        if !has_rows.map_err(|error| OpenError::node(CATALOG, error))? {
            return Err(OpenError::node(CATALOG, cause));
        }
    }
    Ok(session)
}
