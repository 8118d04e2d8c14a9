//! Stopped: copies a cluster without a router.
//!
//! The files are copied as they are, whatever their schema. An older cluster can therefore be saved
//! before it is migrated, and the first start after a restore migrates the copy. No timeline
//! begins, and if the last stop was unclean, the next start still recognises that.
//!
//! **Invariant:** the contents of the files do not change.
//! **Not here:** a copy while a router runs (`backup`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::Utc;
use model::value::format_timestamp;

use engine::unfinished_folder::Unfinished;

use super::manifest::Manifest;
use super::originals::{Original, Originals};
use super::{ProgressObserver, SaveError, SnapshotPoint};
use crate::data_dir::DataDir;
use crate::{copy, migrate};

/// Copies a cluster into a folder that is missing or empty, and prevents routers from starting
/// meanwhile. Blocks.
///
/// # Errors
/// [`SaveError`]; the folder is empty or missing then.
pub fn save(
    data_dir: &Path,
    to: &Path,
    observer: &ProgressObserver<'_>,
) -> Result<Manifest, SaveError> {
    // This is checked before locking, because locking would create the folder.
    if !data_dir.join("catalog.db").exists() {
        let cause = "this is not a data directory: there is no catalog.db";
        return Err(SaveError::target(data_dir, cause));
    }
    let held = DataDir::open(data_dir)?;
    let saved = copy_files(&held, to, observer);
    held.close();
    saved
}

fn copy_files(
    held: &DataDir,
    to: &Path,
    observer: &ProgressObserver<'_>,
) -> Result<Manifest, SaveError> {
    let primaries = migrate::primaries(held.path())?.into_iter();
    let primaries: Vec<Original> =
        primaries.map(|found| Original { shard: found.shard, primary: found.path }).collect();
    let catalog: PathBuf = held.catalog();
    let originals =
        Originals { data_dir: held.path(), catalog: &catalog, shards: primaries.iter().collect() };
    let unfinished = Unfinished::begin(&originals.place(to)?)?;
    let folder = unfinished.path();
    let positions = originals.copy(folder, observer, |index, path| {
        copy::copy_at_rest(&primaries[index].primary, path)?;
        copy::shard_facts(path).map(|facts| facts.position)
    })?;
    let mut catalog_copy = copy::CatalogCopy::open(&catalog)?;
    catalog_copy.take()?;
    catalog_copy.write(&originals.catalog_in(folder))?;
    let point = SnapshotPoint { positions, at: format_timestamp(Utc::now()), held: Duration::ZERO };
    let manifest = originals.seal(point, folder, observer)?;
    manifest.write(folder)?;
    observer.check()?;
    unfinished.finish()?;
    Ok(manifest)
}
