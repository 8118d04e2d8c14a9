//! Restore: proves that a copy is complete, and creates a data directory from it.
//!
//! Replicas are not part of a copy: the first start rebuilds them. That start also begins a new
//! timeline on each shard, so that a client that has seen later writes receives an error
//! (`position`).
//!
//! A key that was revoked after the backup must not become valid again, so every API key in the
//! restored catalog is suspended until the operator resumes it.
//!
//! **Invariant:** no file is restored that differs in one bit from the saved one, and no restored
//! key is usable.
//! **Not here:** the contents of a copy (`manifest`), creating it (`backup`), replacing a
//! cluster with it (`replace`).

use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::Path;

use engine::saved_file::{check_bits, check_length};
use engine::unfinished_folder::{Unfinished, check_room, free_place};

use super::manifest::{Manifest, read_and_hash};
use super::{ProgressObserver, SaveError, Step};
use crate::check;
use crate::copy::{CatalogFacts, ShardFacts, catalog_facts, shard_facts, suspend_keys};
use crate::data_dir::{is_folder_locked, noted_pid};
use crate::private_file;

/// Proves that a folder has a complete copy: every bit is as it was saved, and each file can be
/// read by SQLite and agrees with the manifest. Changes nothing. Blocks.
///
/// # Errors
/// [`SaveError::Unsuitable`] names the file and the difference; other errors if the copy could not
/// be read.
pub fn verify(folder: &Path, observer: &ProgressObserver<'_>) -> Result<Manifest, SaveError> {
    let manifest = Manifest::read(folder)?;
    let total = manifest.bytes();
    let mut done = 0;
    for file in manifest.files() {
        let path = folder.join(&file.file);
        check_length(&path, file.bytes)?;
        let found = read_and_hash(folder, &file.file, |piece| {
            done += piece.len() as u64;
            observer.report(&Step::Checking { bytes: done, of: total })
        })?;
        check_bits(&path, &found, file)?;
        if let Some(defect) = check::defect(&path)? {
            return Err(SaveError::unsuitable(&path, defect));
        }
    }
    check_facts(folder, &manifest)?;
    Ok(manifest)
}

/// Creates a data directory from a copy. Blocks.
///
/// # Errors
/// Errors of [`verify`], and an error if the directory is in use.
pub fn restore(
    from: &Path,
    data_dir: &Path,
    observer: &ProgressObserver<'_>,
) -> Result<Manifest, SaveError> {
    check_not_locked(data_dir)?;
    let place = free_place(data_dir)?;
    let manifest = verify(from, observer)?;
    check_room(&place, manifest.bytes())?;
    let unfinished = Unfinished::begin(&place)?;
    let total = manifest.bytes();
    let mut done = 0;
    for file in manifest.files() {
        let path = unfinished.path().join(&file.file);
        let failed = |error| SaveError::io(&path, error);
        let mut copy = private_file::create(&path).map_err(failed)?;
        let found = read_and_hash(from, &file.file, |piece| {
            done += piece.len() as u64;
            copy.write_all(piece).map_err(failed)?;
            observer.report(&Step::Writing { bytes: done, of: total })
        })?;
        copy.sync_all().map_err(failed)?;
        // The copy was checked before, but only this check covers the bytes that were written.
        check_bits(&from.join(&file.file), &found, file)?;
    }
    suspend_keys(&unfinished.path().join(&manifest.catalog.file))?;
    unfinished.finish()?;
    Ok(manifest)
}

fn check_facts(folder: &Path, manifest: &Manifest) -> Result<(), SaveError> {
    let path = folder.join(&manifest.catalog.file);
    let CatalogFacts { cluster_id, epoch, shards } = catalog_facts(&path)?;
    let named = manifest.shards.iter().map(|shard| &shard.shard);
    if cluster_id != manifest.cluster_id || epoch != manifest.epoch || !shards.iter().eq(named) {
        return Err(SaveError::unsuitable(&path, "it is the catalog of another cluster or epoch"));
    }
    for saved in &manifest.shards {
        let path = folder.join(&saved.file.file);
        let ShardFacts { cluster_id, shard, position, rows } = shard_facts(&path)?;
        if cluster_id != manifest.cluster_id || shard != saved.shard {
            return Err(SaveError::unsuitable(&path, "it is the file of another shard"));
        }
        if position != saved.position || rows != saved.rows {
            return Err(SaveError::unsuitable(&path, "its position is not that of the manifest"));
        }
    }
    Ok(())
}

/// Checks the lock, for a clearer error than "not empty".
pub(super) fn check_not_locked(data_dir: &Path) -> Result<(), SaveError> {
    let in_use = || {
        let (path, pid) = (data_dir.display().to_string(), noted_pid(data_dir));
        Err(SaveError::InUse { path, pid })
    };
    if is_folder_locked(data_dir) {
        return in_use();
    }
    let lock_path = data_dir.join("tessera.lock");
    let Ok(lock) = File::open(&lock_path) else { return Ok(()) };
    match lock.try_lock_shared() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => in_use(),
        Err(TryLockError::Error(error)) => Err(SaveError::io(&lock_path, error)),
    }
}
