//! Replace: restores a copy over the data directory of a stopped cluster.
//!
//! ```text
//!   data                      the cluster as it is, locked
//!   data-replaced-unfinished  a folder of this process, removed at the end
//!     └ data                  the copy is restored here, compared with the copy, and then
//!                             exchanged with the data directory in one step of the file system
//! ```
//!
//! Files that do not belong to the cluster are kept in the data directory (`foreign_files`).
//!
//! A process that is killed before the exchange leaves the old cluster, and one that is killed
//! after it leaves the new one. The next replacement removes the unfinished folder.
//!
//! **Invariant:** the data directory contains the whole old cluster or the whole new one at any
//! time; a directory that a process uses, or that belongs to another cluster, is not changed.
//! Versions that the old cluster has assigned are not assigned again.
//! **Not here:** verifying and restoring a copy (`restore`).

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use engine::unfinished_folder::Unfinished;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::manifest::Manifest;
use super::restore::{check_not_locked, restore};
use super::{ProgressObserver, SaveError, foreign_files};
use crate::copy::{continue_above, last_version};
use crate::data_dir::{DataDir, primary_file};
use crate::digest::{Digest, digest_copy};
use crate::offline_view::DirView;

/// Suffix that the name of the folder beside the data directory has.
const BESIDE: &str = "-replaced";

/// Result of a replacement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// Manifest of the copy.
    pub manifest: Manifest,
    /// Name of each shard, with the digests of its rows, which equal those of the copy.
    pub digests: Vec<(String, Digest)>,
}

/// Replaces the data directory of a stopped cluster with a copy of that cluster. Blocks.
///
/// # Errors
/// [`SaveError`]; the data directory is then unchanged, unless its new name cannot be synced.
pub fn replace(
    from: &Path,
    data_dir: &Path,
    observer: &ProgressObserver<'_>,
) -> Result<Replacement, SaveError> {
    let (place, old) = check_view(from, data_dir)?;
    let held = DataDir::open(&place)?;
    let replaced = replace_held(from, (&place, &old), observer);
    // After the exchange, the lock file is among the removed files.
    held.close();
    replaced
}

/// Checks that a data directory contains the cluster of a copy and that no process uses it, and
/// returns its path. Changes nothing.
///
/// # Errors
/// [`SaveError`] with the reason.
pub fn check(from: &Path, data_dir: &Path) -> Result<PathBuf, SaveError> {
    check_view(from, data_dir).map(|(place, _)| place)
}

/// Checks a data directory like [`check`], and also returns the view of its cluster.
fn check_view(from: &Path, data_dir: &Path) -> Result<(PathBuf, DirView), SaveError> {
    let manifest = Manifest::read(from)?;
    let view = DirView::open(data_dir)?;
    let place = data_dir.canonicalize().map_err(|error| SaveError::io(data_dir, error))?;
    check_not_locked(&place)?;
    if from.canonicalize().is_ok_and(|from| from.starts_with(&place)) {
        let cause =
            "the copy is inside the data directory that it would replace; move it elsewhere";
        return Err(SaveError::target(from, cause));
    }
    if view.cluster_id() != manifest.cluster_id {
        let cause = "this is the data directory of a different cluster than that of the copy";
        return Err(SaveError::target(data_dir, cause));
    }
    Ok((place, view))
}

/// Returns the digests of the rows of each shard in a copy, without changing it. Blocks.
///
/// # Errors
/// [`SaveError`] if the copy cannot be read.
pub fn digests(folder: &Path, manifest: &Manifest) -> Result<Vec<(String, Digest)>, SaveError> {
    let digests = manifest.shards.iter().map(|saved| {
        let digest = digest_copy(&folder.join(&saved.file.file))?;
        Ok((saved.shard.clone(), digest))
    });
    digests.collect()
}

fn replace_held(
    from: &Path,
    (place, old): (&Path, &DirView),
    observer: &ProgressObserver<'_>,
) -> Result<Replacement, SaveError> {
    let mut beside = place.as_os_str().to_owned();
    beside.push(BESIDE);
    let beside = Unfinished::begin(Path::new(&beside))?;
    let new = beside.path().join("data");
    let manifest = restore(from, &new, observer)?;
    continue_versions(place, &new, &manifest)?;
    let digests = digests(&new, &manifest)?;
    if digests != self::digests(from, &manifest)? {
        return Err(SaveError::unsuitable(from, "the restored rows differ from its own"));
    }
    observer.check()?;
    // The file of a retired shard would prevent that another shard with the same name joins later,
    // and the restored catalog may not list the retired shard.
    let known = old.map.topology().shards().iter().map(|shard| &*shard.name);
    let shards: Vec<&str> =
        known.chain(manifest.shards.iter().map(|saved| &*saved.shard)).collect();
    foreign_files::link_foreign_files(place, &new, &shards)?;
    let mode = fs::metadata(place).map_err(|error| SaveError::io(place, error))?.permissions();
    fs::set_permissions(&new, mode).map_err(|error| SaveError::io(&new, error))?;
    exchange(&new, place)?;
    // Removes the old files.
    drop(beside);
    Ok(Replacement { manifest, digests })
}

/// Ensures that the restored cluster assigns only row versions above those of the old cluster.
/// Without this, versions could be repeated, because the old cluster may itself have begun with the
/// same copy.
fn continue_versions(place: &Path, new: &Path, manifest: &Manifest) -> Result<(), SaveError> {
    for saved in &manifest.shards {
        // A file that cannot be read is ignored, because a damaged file is one more reason to
        // replace the cluster.
        if let Ok(version) = last_version(&primary_file(place, &saved.shard)) {
            continue_above(&new.join(&saved.file.file), version)?;
        }
    }
    Ok(())
}

/// Exchanges two folders in one step, and makes that durable.
fn exchange(new: &Path, place: &Path) -> Result<(), SaveError> {
    renameat_with(CWD, new, CWD, place, RenameFlags::EXCHANGE).map_err(|error| match error {
        Errno::INVAL | Errno::NOSYS => SaveError::target(
            place,
            "this file system cannot exchange two folders in one step: restore into a new folder with `restore`",
        ),
        Errno::BUSY | Errno::XDEV => SaveError::target(
            place,
            "this is a mount point, which cannot be replaced: restore into a new folder with `restore`",
        ),
        error => SaveError::io(place, error.into()),
    })?;
    for folder in [new.parent(), place.parent()].into_iter().flatten() {
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|error| SaveError::io(folder, error))?;
    }
    Ok(())
}
