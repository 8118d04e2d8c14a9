//! Replace: restores a copy over the cluster from which it was made.
//!
//! The database of the catalog is emptied and marked first, and keeps its mark until all databases
//! are filled, so no router starts in between. Databases on several servers cannot be exchanged in
//! one step: an interrupted replacement must be repeated, and then gives the same result. Then the
//! rows are read back and compared with those of the copy.
//!
//! **Invariant:** nothing is changed before the whole copy has been verified, in databases of other
//! clusters, or while other clients are connected.
//! **Not here:** filling the databases (`restore`), checking them (`target`).

use std::path::Path;

use engine::progress_observer::ProgressObserver;
use engine::save_error::SaveError;
use engine::unfinished_folder::{Unfinished, check_room};

use super::manifest::ServerManifest;
use super::restore::{cause_of, fill};
use super::save;
use super::target::Occupancy;
use crate::node_address::ClusterAddress;

/// Suffix of the name of the folder with the rows that are read back.
const BESIDE: &str = "-read-back";

/// Replaces a cluster without running routers with a copy of it, and compares the rows.
///
/// # Errors
/// Those of [`super::restore::restore`], and [`SaveError::Databases`] if the rows differ.
pub async fn replace(
    from: &Path,
    address: &ClusterAddress,
    observer: &ProgressObserver<'_>,
) -> Result<ServerManifest, SaveError> {
    let mut beside = std::path::absolute(from).map_err(|error| SaveError::io(from, error))?;
    beside.as_mut_os_string().push(BESIDE);
    // Begun before the databases change, because the folder may be one that cannot be written.
    let bytes = ServerManifest::read(from)?.bytes();
    let beside = Unfinished::begin(&beside)?;
    check_room(beside.path(), bytes)?;
    let manifest = fill(from, address, (Occupancy::Cluster, observer)).await?;
    let found = save(address, &beside.path().join("copy"), observer).await;
    let found = found.map_err(|error| {
        let cause = cause_of(&error);
        SaveError::Databases(format!(
            "the databases are restored, but their rows were not compared with those of the copy ({cause}): restore it \
             again"
        ))
    })?;
    for (saved, found) in manifest.shards.iter().zip(&found.shards) {
        if !saved.table_files().eq(found.table_files()) {
            return Err(SaveError::Databases(format!(
                "{}: the restored rows differ from those of the copy: restore it again",
                saved.shard
            )));
        }
    }
    Ok(manifest)
}
