//! Backup: copies a whole cluster as of one moment, while clients write to it.
//!
//! 1. Each shard's primary is copied as a snapshot, and the copies then replay the change logs of
//!    the primaries.
//! 2. The write lanes of all shards, which are the queues of their writers, are held between two
//!    batches. This is the moment of the copy: the position of each shard is recorded, and the
//!    catalog is copied into memory. All writes acknowledged before this moment are at or below
//!    these positions; all later writes are above them.
//! 3. The copies replay the change logs exactly up to these positions, and are synced. Then the
//!    folder is renamed to its final name.
//!
//! Therefore a copy contains no effect without its cause: if a client writes to one shard and,
//! after the response, to another, the copy contains the second write only with the first. (This is
//! a consistent cut: Chandy and Lamport, "Distributed Snapshots", 1985. It is the easy case,
//! because one process can stop all channels.)
//!
//! The lanes are held until the running batches are stored: a few milliseconds under light load,
//! more than a hundred under a full load of bulk writes. If a batch has not ended after half a
//! second, all lanes are released, and the backup tries again. The backup writes nothing to a disk
//! while the lanes are held.
//!
//! A copy contains the shards that the catalog listed at this moment, except those that were
//! joining. Joining shards have no rows, and the first start after a restore creates their files.
//! If shards join or retire while the cluster is copied, the backup begins again.
//!
//! **Invariant:** the folder with the final name contains a complete copy or nothing; while the
//! lanes are held, nothing waits for the disk of the copy.
//! **Not here:** a cluster without a router (`stopped`), restoring a copy (`restore`, `replace`),
//! requests for a backup (`control`, the command line).

mod foreign_files;
pub mod manifest;
mod originals;
pub mod replace;
pub mod restore;
pub mod stopped;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, TryLockError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use chrono::Utc;
use engine::backup_maker::BackupMaker;
use engine::pause_barrier::{Closed, PauseBarrier};
use engine::replication::ReplicationState;
use model::value::format_timestamp;

use crate::OpenError;
use crate::applier::ApplyError;
use crate::copy::{CatalogCopy, ShardCopy, catalog_facts};
use crate::open_file_check::OpenFileCheck;
use engine::unfinished_folder::Unfinished;
use manifest::Manifest;
use originals::Originals;

pub use engine::progress_observer::{ProgressObserver, Step};
pub use engine::save_error::SaveError;
pub use originals::Original;

/// Maximum number of attempts to copy the cluster, each of which fails if shards join or retire
/// meanwhile.
const ATTEMPTS_MAX: usize = 8;
/// Number of shards that are copied at the same time. Disks are faster with two than with one, but
/// not with more.
const AT_A_TIME: usize = 2;
/// Interval between reports of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// Longest time for which writes are held while the running batches end.
const HELD_MAX: Duration = Duration::from_millis(500);
/// Maximum number of attempts to hold all lanes.
const HOLDS_MAX: usize = 20;
/// Number of batches by which a copy may be behind when writes are held, so that little is left to
/// replay.
const NEAR: u64 = 64;
/// Maximum number of rounds in which the copies replay the logs before writes are held. It is
/// limited because writes may arrive faster than they are replayed.
const ROUNDS_MAX: usize = 16;

/// Cluster that a backup copies.
pub struct BackupSource {
    /// The data directory.
    pub data_dir: PathBuf,
    /// File of the catalog.
    pub catalog: PathBuf,
    /// Shards, in the order of the cluster; shards that join are added.
    shards: ArcSwap<Vec<Arc<SavedShard>>>,
    turn: Mutex<()>,
}

/// Shards of one backup, as they were when it began.
struct SavedCluster<'s> {
    data_dir: &'s Path,
    catalog: &'s Path,
    shards: Vec<Arc<SavedShard>>,
}

/// Shard that a backup copies.
pub struct SavedShard {
    /// Name and file of the shard.
    pub original: Original,
    /// Check that the path still leads to the file that the writer has open; `None` if there is no
    /// such check.
    pub file_check: Option<Arc<OpenFileCheck>>,
    /// Barrier that all writes of the shard pass.
    pub pause_barrier: Arc<PauseBarrier>,
    /// Positions of the shard's nodes.
    pub replication: Arc<ReplicationState>,
}

/// Point in time that a copy shows: the position of each shard, and the time.
struct SnapshotPoint {
    positions: Vec<u64>,
    at: String,
    held: Duration,
}

impl BackupSource {
    /// Creates a source without shards.
    pub fn new(data_dir: &Path, catalog: PathBuf) -> Self {
        let (shards, turn) = (ArcSwap::default(), Mutex::new(()));
        Self { data_dir: data_dir.to_owned(), catalog, shards, turn }
    }

    /// Returns the shards, in the cluster's order.
    pub fn shards(&self) -> Arc<Vec<Arc<SavedShard>>> {
        self.shards.load_full()
    }

    /// Adds a shard. A backup that runs already does not contain it.
    pub fn add_shard(&self, shard: SavedShard) {
        let shard = Arc::new(shard);
        self.shards.rcu(|shards| {
            let mut shards = Vec::clone(shards);
            shards.push(Arc::clone(&shard));
            shards
        });
    }

    /// Removes the shard with this check of its file. A backup that runs already still contains it.
    pub(super) fn remove_shard(&self, file_check: &Arc<OpenFileCheck>) {
        let is_other = |shard: &Arc<SavedShard>| {
            !shard.file_check.as_ref().is_some_and(|known| Arc::ptr_eq(known, file_check))
        };
        self.shards.rcu(|shards| {
            shards.iter().filter(|shard| is_other(shard)).map(Arc::clone).collect::<Vec<_>>()
        });
    }

    /// Copies the cluster into a folder that is missing or empty. Blocks.
    ///
    /// # Errors
    /// [`SaveError`]; the folder is empty or missing then.
    pub fn save(&self, to: &Path, observer: &ProgressObserver<'_>) -> Result<Manifest, SaveError> {
        let _turn = match self.turn.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(SaveError::Busy),
        };
        for _ in 1..ATTEMPTS_MAX {
            match self.save_shards(to, observer) {
                Err(SaveError::ShardsChanged) => {
                    tracing::info!("a backup begins again, because the shards have changed");
                    std::thread::sleep(PROGRESS_INTERVAL);
                }
                saved => return saved,
            }
        }
        self.save_shards(to, observer)
    }

    /// Copies the shards that the catalog lists now.
    fn save_shards(
        &self,
        to: &Path,
        observer: &ProgressObserver<'_>,
    ) -> Result<Manifest, SaveError> {
        let (data_dir, catalog) = (&*self.data_dir, &*self.catalog);
        let mut catalog_copy = CatalogCopy::open(catalog)?;
        let names = catalog_copy.shards()?;
        let open = self.shards();
        let find = |name: &String| {
            // The last shard with this name is used, because a retired shard may have had the same
            // name.
            let found = open.iter().rev().find(|shard| shard.original.shard == *name);
            found.map(Arc::clone).ok_or(SaveError::ShardsChanged)
        };
        let shards = names.iter().map(find).collect::<Result<_, _>>()?;
        SavedCluster { data_dir, catalog, shards }.save(catalog_copy, to, observer)
    }
}

impl BackupMaker for BackupSource {
    fn make(&self, to: &Path, observer: &ProgressObserver<'_>) -> Result<(), SaveError> {
        self.save(to, observer).map(drop).map_err(|error| named_if_full(error, to))
    }
}

/// Converts an error of SQLite about a full disk to one that names the disk, whichever file was
/// being written.
fn named_if_full(error: SaveError, to: &Path) -> SaveError {
    let SaveError::File(error) = error else { return error };
    SaveError::File(error.or_no_space(to, || false))
}

/// Returns the error for a copy of a shard that cannot replay the log.
fn follow_failed(shard: &SavedShard, copy: &ShardCopy, error: &ApplyError) -> SaveError {
    let cause = error.to_string();
    if matches!(error, ApplyError::Full(_)) {
        return SaveError::File(OpenError::NoSpace { dir: copy.folder(), cause });
    }
    SaveError::Follow { shard: shard.original.shard.clone(), cause }
}

impl SavedCluster<'_> {
    fn save(
        &self,
        mut catalog: CatalogCopy,
        to: &Path,
        observer: &ProgressObserver<'_>,
    ) -> Result<Manifest, SaveError> {
        // The files are opened by their paths, which must therefore still lead to the files of the
        // shards.
        let file_checks = self.shards.iter().filter_map(|shard| shard.file_check.as_ref());
        for file_check in file_checks {
            file_check.check()?;
        }
        let originals = self.originals();
        let unfinished = Unfinished::begin(&originals.place(to)?)?;
        let folder = unfinished.path();
        let _kept: Vec<_> =
            self.shards.iter().map(|shard| shard.replication.retain_log("backup", None)).collect();
        let mut copies = originals.copy(folder, observer, |index, path| {
            let timeline = self.shards[index].replication.timeline().history().current();
            ShardCopy::make(&self.shards[index].original.primary, path, timeline)
        })?;
        self.bring_near(&mut copies, observer)?;
        let point = self.hold(&mut copies, &mut catalog, observer)?;
        observer.report(&Step::Held { micros: point.held.as_micros() as u64 })?;
        catalog.write(&originals.catalog_in(folder))?;
        let copied = self.shards.iter().map(|shard| &shard.original.shard);
        if !catalog_facts(&originals.catalog_in(folder))?.shards.iter().eq(copied) {
            return Err(SaveError::ShardsChanged);
        }
        self.follow(&mut copies, |index| point.positions[index], observer)?;
        copies.into_iter().try_for_each(ShardCopy::finish)?;
        let manifest = originals.seal(point, folder, observer)?;
        manifest.write(folder)?;
        observer.check()?;
        unfinished.finish()?;
        tracing::info!(to = %to.display(), at = manifest.at, "a backup was made");
        Ok(manifest)
    }

    fn originals(&self) -> Originals<'_> {
        let shards = self.shards.iter().map(|shard| &shard.original).collect();
        Originals { data_dir: self.data_dir, catalog: self.catalog, shards }
    }

    /// Lets the copies replay the logs until they are at most [`NEAR`] batches behind, or for
    /// [`ROUNDS_MAX`] rounds.
    fn bring_near(
        &self,
        copies: &mut [ShardCopy],
        observer: &ProgressObserver<'_>,
    ) -> Result<(), SaveError> {
        for _ in 0..ROUNDS_MAX {
            let lacks = self.shards.iter().zip(&*copies);
            let lacks = lacks.map(|(shard, copy)| {
                shard.replication.primary().committed().saturating_sub(copy.position())
            });
            let behind = lacks.max().unwrap_or(0);
            observer.report(&Step::Following { behind })?;
            if behind <= NEAR {
                break;
            }
            let now: Vec<u64> =
                self.shards.iter().map(|shard| shard.replication.primary().committed()).collect();
            self.follow(copies, |index| now[index], observer)?;
        }
        Ok(())
    }

    /// Lets the copies replay the logs up to these positions, several copies at a time.
    fn follow(
        &self,
        copies: &mut [ShardCopy],
        until: impl Fn(usize) -> u64 + Sync,
        observer: &ProgressObserver<'_>,
    ) -> Result<(), SaveError> {
        let numbered: Vec<_> = self.shards.iter().zip(copies).enumerate().collect();
        let mut numbered = numbered.into_iter();
        loop {
            let some: Vec<_> = numbered.by_ref().take(AT_A_TIME).collect();
            if some.is_empty() {
                return observer.check();
            }
            std::thread::scope(|scope| {
                let (until, cancelled) = (&until, observer.cancelled);
                let work = some.into_iter().map(|(index, (shard, copy))| {
                    scope.spawn(move || {
                        let followed = copy.follow(until(index), cancelled);
                        followed.map_err(|error| follow_failed(shard, copy, &error))
                    })
                });
                let work: Vec<_> = work.collect();
                work.into_iter().try_for_each(|thread| {
                    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
            })?;
        }
    }

    /// Holds all lanes between two batches, and reads the position of each shard.
    fn hold(
        &self,
        copies: &mut [ShardCopy],
        catalog: &mut CatalogCopy,
        observer: &ProgressObserver<'_>,
    ) -> Result<SnapshotPoint, SaveError> {
        let mut restless = None;
        for _ in 0..HOLDS_MAX {
            observer.check()?;
            let began = Instant::now();
            let closed: Vec<Closed<'_>> =
                self.shards.iter().map(|shard| shard.pause_barrier.close()).collect();
            let deadline = began + HELD_MAX;
            restless = closed.iter().position(|closed| !closed.wait_until(deadline));
            if restless.is_none() {
                let at = format_timestamp(Utc::now());
                let asked = self.shards.iter().zip(copies).map(|(shard, copy)| {
                    // The position is read from the file, because after a commit with an unknown
                    // outcome, the position in memory may be wrong.
                    let position = copy.primary_position();
                    position.map_err(|error| follow_failed(shard, copy, &error))
                });
                let positions = asked.collect::<Result<_, _>>()?;
                catalog.take()?;
                drop(closed);
                return Ok(SnapshotPoint { positions, at, held: began.elapsed() });
            }
            drop(closed);
            // The held writes proceed before the next attempt.
            std::thread::sleep(PROGRESS_INTERVAL);
        }
        let shard =
            restless.map_or_else(String::new, |index| self.shards[index].original.shard.clone());
        Err(SaveError::WritesNotPaused { shard })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_learn_that_the_disk_of_the_backups_is_full() {
        let path = Path::new("/backups/one");
        let full = SaveError::File(OpenError::file(path, "database or disk is full"));
        assert_eq!(named_if_full(full, path).for_clients(), "the disk of the backups is full");
    }
}
