//! Inspection: reads the catalog while another process may be writing it.
//!
//! **Invariant:** nothing is migrated or changed; the error about an unreadable catalog states the
//! reason.
//! **Not here:** the files of the shards (`node_view`).

use std::path::Path;

use diesel::prelude::*;
use model::shard_map::ShardMap;

use super::super::OpenError;
use super::super::read_only::open_read_only;
use super::{ClusterRow, MIGRATIONS, dsl, map_tables};

/// Contents of a catalog.
pub(in super::super) struct InspectedCatalog {
    /// Id of the cluster.
    pub(in super::super) cluster_id: String,
    /// The current shard map.
    pub(in super::super) map: ShardMap,
    /// True if every shard's file has been created.
    pub(in super::super) ready: bool,
    /// Number of replicas of each shard.
    pub(in super::super) replicas: usize,
}

/// Reads a catalog.
///
/// # Errors
/// [`OpenError`] if the file is missing, cannot be read, or is not a catalog that this version of
/// the program can read.
pub(in super::super) fn inspect(path: &Path) -> Result<InspectedCatalog, OpenError> {
    let mut connection = open_read_only(path, &MIGRATIONS)?;
    let row: Option<ClusterRow> = dsl::tessera_cluster
        .first(&mut connection)
        .optional()
        .map_err(|error| OpenError::file(path, error))?;
    let row = row.ok_or_else(|| OpenError::foreign(path, "no cluster was created here yet"))?;
    let stored = map_tables::read(&mut connection, &row).map_err(|fault| fault.of_file(path))?;
    let map = stored.map;
    let (ready, replicas) = (row.ready == 1, row.replicas as usize);
    Ok(InspectedCatalog { cluster_id: row.cluster_id, map, ready, replicas })
}
