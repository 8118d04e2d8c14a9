//! Shard listing: the shards in a catalog on servers, for commands.
//!
//! **Not here:** opening the cluster (`open`).

use engine::catalog_rows::ShardRow;
use engine::open_error::OpenError;
use model::shard_map::ShardMap;

use super::catalog::{Catalog, StoredMap};
use super::discovery;
use super::node_address::{ClusterAddress, NodeAddress, ServerEngine, Timeouts};
use super::shard_database::has_rows;

/// Name of the catalog in errors.
const CATALOG: &str = "the catalog";

/// Reads the shard map, and the rows of the shards by number, from the primary among the hosts of a
/// catalog.
///
/// # Errors
/// [`OpenError`] if there is no primary, no cluster in its database, or an older schema.
pub async fn read(at: &NodeAddress) -> Result<(ShardMap, Vec<ShardRow>), OpenError> {
    let address = ClusterAddress {
        engine: ServerEngine::Postgres,
        shards: Vec::new(),
        replicas: Vec::new(),
        catalog: Some(at.clone()),
        timeouts: Timeouts::default(),
    };
    let (session, _) = discovery::connect_catalog(at, &address).await?;
    let failed = |error| OpenError::node(CATALOG, error);
    for (table, cause) in [
        (
            "tessera_cluster",
            "there is no cluster in this database: name the catalog of a cluster, or start a router, which creates it",
        ),
        (
            "tessera_shards",
            "its schema is older than this program: start a router of this version once, which migrates it",
        ),
    ] {
        if !has_rows(&session.connection, table).await.map_err(failed)? {
            return Err(OpenError::node(CATALOG, cause));
        }
    }
    let catalog = Catalog::on(session.connection);
    let StoredMap { map, shards } = catalog.map_tables().stored_map().await.map_err(failed)?;
    Ok((map, shards))
}
