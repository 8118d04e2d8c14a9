//! Shard listing: the shards in a catalog on servers, for commands.
//!
//! **Not here:** opening the cluster (`open`).

use engine::catalog_rows::ShardRow;
use engine::open_error::OpenError;
use model::shard_map::ShardMap;

use super::catalog::{Catalog, StoredMap};
use super::catalog_session::{self, CATALOG};
use super::node_address::NodeAddress;

/// Reads the shard map, and the rows of the shards by number, from the primary among the hosts of a
/// catalog.
///
/// # Errors
/// [`OpenError`] if there is no primary, no cluster in its database, or an older schema.
pub async fn read(at: &NodeAddress) -> Result<(ShardMap, Vec<ShardRow>), OpenError> {
    let session = catalog_session::open(at, "tessera_shards").await?;
    let catalog = Catalog::on(session.connection);
    let stored = catalog.map_tables().stored_map().await;
    let StoredMap { map, shards } = stored.map_err(|error| OpenError::node(CATALOG, error))?;
    Ok((map, shards))
}
