//! Look: the catalog as it is, beside whoever writes it.
//!
//! **Invariant:** nothing is migrated, nothing is changed; a catalog that this program cannot read says why.
//! **Not here:** the files of the shards (`node_view`).

use std::path::Path;

use diesel::prelude::*;

use super::super::OpenError;
use super::super::offline_view::open_to_look;
use super::{ClusterRow, MIGRATIONS, PLACE, dsl};
use crate::shard_map::ShardMap;

/// What a catalog says.
pub(in super::super) struct Looked {
    /// Who the cluster is.
    pub(in super::super) cluster_id: String,
    /// The map in force.
    pub(in super::super) map: ShardMap,
    /// Whether every shard's file has been made.
    pub(in super::super) ready: bool,
    /// How many replicas each shard has.
    pub(in super::super) replicas: usize,
}

/// Reads a catalog.
///
/// # Errors
/// [`OpenError`] if the file is missing, is none of this program's, or cannot be read.
pub(in super::super) fn look(path: &Path) -> Result<Looked, OpenError> {
    let mut connection = open_to_look(path, &MIGRATIONS)?;
    let row: Option<ClusterRow> = dsl::tessera_cluster
        .first(&mut connection)
        .optional()
        .map_err(|error| OpenError::file(path, error))?;
    let row = row.ok_or_else(|| OpenError::foreign(path, "no cluster was made here yet"))?;
    row.check_hash(PLACE)?;
    let map = row.map().map_err(|cause| OpenError::foreign(path, cause))?;
    let (ready, replicas) = (row.ready == 1, row.replicas as usize);
    Ok(Looked { cluster_id: row.cluster_id, map, ready, replicas })
}
