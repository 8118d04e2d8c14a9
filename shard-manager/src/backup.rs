//! Backup: a copy of a whole cluster as of one moment, made while it is written to.
//!
//! 1. Each shard's primary is copied as a snapshot, and the copies follow the change logs.
//! 2. All lanes are paused between two batches. This is the moment: each shard's position is
//!    recorded, and the catalog copied into memory. Writes acknowledged before are at or below
//!    these positions; later writes are above them.
//! 3. The copies follow the logs exactly to these positions, and are synced; then the folder gets
//!    its name.
//!
//! So a copy holds no effect without its cause: of two writes to different shards, one sent after
//! the answer to the other, the second is in the copy only with the first. (A consistent cut:
//! Chandy and Lamport, "Distributed Snapshots", 1985; the easy case, because one process can pause
//! all channels.)
//!
//! The pause lasts until the current batches are stored: a few milliseconds normally, more than a
//! hundred under a full load of bulk writes. If a batch takes longer than half a second, all lanes
//! resume and the pause is tried again. The work during the pause writes to no disk.
//!
//! **Invariant:** under the final name there is a complete copy or nothing; while lanes are paused
//! nothing waits for the disk of the copy.
//! **Not here:** a cluster that no process has open (`stopped`), restoring a copy (`restore`), the
//! request (`control`, the command line).

mod error;
mod folder;
pub mod manifest;
mod originals;
pub mod restore;
pub mod stopped;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, TryLockError};
use std::time::{Duration, Instant};

use chrono::Utc;
use serde::{Deserialize, Serialize};

use crate::barrier::{Closed, Gate};
use crate::progress::Progress;
use crate::store::sqlite::copy::{CatalogCopy, ShardCopy};
use crate::store::sqlite::footing::Footing;
use crate::value::format_timestamp;
use folder::Unfinished;
use manifest::Manifest;
use originals::Originals;

pub use error::SaveError;
pub use originals::Original;

/// Number of shards copied at a time: disks are fastest with about two.
const AT_A_TIME: usize = 2;
/// Interval between two reports of progress.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// Time limit for all lanes to pause.
const HELD_MAX: Duration = Duration::from_millis(500);
/// Maximal number of attempts to pause the lanes.
const HOLDS_MAX: usize = 20;
/// Number of batches that a copy may lack when lanes are paused, so that little is left to replay.
const NEAR: u64 = 64;
/// Maximal number of rounds of catching up: writes may arrive faster than they are replayed.
const ROUNDS_MAX: usize = 16;

/// Cluster to copy.
pub struct Source {
    /// Data directory.
    pub data_dir: PathBuf,
    /// File of the catalog.
    pub catalog: PathBuf,
    /// Shards, in the cluster's order.
    pub shards: Vec<SavedShard>,
    turn: Mutex<()>,
}

/// Shard to copy.
pub struct SavedShard {
    /// Primary to copy.
    pub original: Original,
    /// Proof that the name still leads to the file that the writer has open; `None` without such a
    /// proof.
    pub footing: Option<Arc<Footing>>,
    /// Lanes of its writes.
    pub gate: Arc<Gate>,
    /// Progress of its positions.
    pub progress: Arc<Progress>,
}

/// Step of a backup or a restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// A shard is being copied.
    Copying {
        /// Name of the shard.
        shard: String,
        /// Number of bytes written.
        bytes: u64,
        /// Approximate total.
        of: u64,
    },
    /// The copies follow the logs.
    Following {
        /// Number of batches that they lack.
        behind: u64,
    },
    /// The moment of the copy has passed.
    Held {
        /// Time for which writes were paused, in microseconds.
        micros: u64,
    },
    /// A copy is being verified.
    Checking {
        /// Number of bytes read.
        bytes: u64,
        /// Total number of bytes.
        of: u64,
    },
    /// A data directory is being written.
    Writing {
        /// Number of bytes written.
        bytes: u64,
        /// Total number of bytes.
        of: u64,
    },
}

/// Observer of a backup or a restore, which receives its progress and may cancel it.
pub struct Watch<'w> {
    /// Receives each step; may be called often.
    pub step: &'w (dyn Fn(&Step) + Sync),
    /// Returns whether the work is cancelled.
    pub cancelled: &'w (dyn Fn() -> bool + Sync),
}

impl Watch<'_> {
    fn tell(&self, step: &Step) -> Result<(), SaveError> {
        self.check()?;
        (self.step)(step);
        Ok(())
    }

    fn check(&self) -> Result<(), SaveError> {
        if (self.cancelled)() { Err(SaveError::Cancelled) } else { Ok(()) }
    }
}

/// Moment of a copy.
struct Moment {
    positions: Vec<u64>,
    at: String,
    held: Duration,
}

impl Source {
    /// Describes a cluster of these shards.
    pub fn new(data_dir: &Path, catalog: PathBuf, shards: Vec<SavedShard>) -> Self {
        Self { data_dir: data_dir.to_owned(), catalog, shards, turn: Mutex::new(()) }
    }

    /// Makes a copy of the cluster in a folder that does not exist or is empty. Blocks.
    ///
    /// # Errors
    /// [`SaveError`]; the folder is empty or missing then.
    pub fn save(&self, to: &Path, watch: &Watch<'_>) -> Result<Manifest, SaveError> {
        let _turn = match self.turn.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(SaveError::Busy),
        };
        // The file is opened by name, so a file that replaced the shard's would be copied instead.
        let footings = self.shards.iter().filter_map(|shard| shard.footing.as_ref());
        for footing in footings {
            footing.check()?;
        }
        let originals = self.originals();
        let unfinished = Unfinished::begin(&originals.place(to)?, true)?;
        let folder = unfinished.path();
        let _kept: Vec<_> = self.shards.iter().map(|shard| shard.progress.keep_log()).collect();
        let mut copies = originals.copy(folder, watch, |index, path| {
            let timeline = self.shards[index].progress.history().current();
            ShardCopy::make(&self.shards[index].original.primary, path, timeline)
        })?;
        self.bring_near(&mut copies, watch)?;
        let mut catalog = CatalogCopy::open(&self.catalog)?;
        let moment = self.hold(&mut copies, &mut catalog, watch)?;
        watch.tell(&Step::Held { micros: moment.held.as_micros() as u64 })?;
        catalog.write(&originals.catalog_in(folder))?;
        self.follow(&mut copies, |index| moment.positions[index], watch)?;
        copies.into_iter().try_for_each(ShardCopy::finish)?;
        let manifest = originals.seal(moment, folder, watch)?;
        manifest.write(folder)?;
        watch.check()?;
        unfinished.finish()?;
        tracing::info!(to = %to.display(), at = manifest.at, "a backup was made");
        Ok(manifest)
    }

    fn originals(&self) -> Originals<'_> {
        let shards = self.shards.iter().map(|shard| &shard.original).collect();
        Originals { data_dir: &self.data_dir, catalog: &self.catalog, shards }
    }

    /// Replays logs into the copies until they lack little.
    fn bring_near(&self, copies: &mut [ShardCopy], watch: &Watch<'_>) -> Result<(), SaveError> {
        for _ in 0..ROUNDS_MAX {
            let lacks = self.shards.iter().zip(&*copies);
            let lacks = lacks
                .map(|(shard, copy)| shard.progress.committed().saturating_sub(copy.position()));
            let behind = lacks.max().unwrap_or(0);
            watch.tell(&Step::Following { behind })?;
            if behind <= NEAR {
                break;
            }
            let now: Vec<u64> =
                self.shards.iter().map(|shard| shard.progress.committed()).collect();
            self.follow(copies, |index| now[index], watch)?;
        }
        Ok(())
    }

    /// Replays logs into the copies up to these positions, some at a time.
    fn follow(
        &self,
        copies: &mut [ShardCopy],
        until: impl Fn(usize) -> u64 + Sync,
        watch: &Watch<'_>,
    ) -> Result<(), SaveError> {
        let numbered: Vec<_> = self.shards.iter().zip(copies).enumerate().collect();
        let mut numbered = numbered.into_iter();
        loop {
            let some: Vec<_> = numbered.by_ref().take(AT_A_TIME).collect();
            if some.is_empty() {
                return watch.check();
            }
            std::thread::scope(|scope| {
                let (until, cancelled) = (&until, watch.cancelled);
                let work = some.into_iter().map(|(index, (shard, copy))| {
                    scope.spawn(move || {
                        let shard = shard.original.shard.clone();
                        let followed = copy.follow(until(index), cancelled);
                        followed.map_err(|cause| SaveError::Follow { shard, cause })
                    })
                });
                let work: Vec<_> = work.collect();
                work.into_iter().try_for_each(|thread| {
                    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
            })?;
        }
    }

    /// Pauses all lanes between two batches, and reads the position of each shard.
    fn hold(
        &self,
        copies: &mut [ShardCopy],
        catalog: &mut CatalogCopy,
        watch: &Watch<'_>,
    ) -> Result<Moment, SaveError> {
        let mut restless = None;
        for _ in 0..HOLDS_MAX {
            watch.check()?;
            let began = Instant::now();
            let closed: Vec<Closed<'_>> =
                self.shards.iter().map(|shard| shard.gate.close()).collect();
            let deadline = began + HELD_MAX;
            restless = closed.iter().position(|closed| !closed.wait_until(deadline));
            if restless.is_none() {
                let at = format_timestamp(Utc::now());
                let asked = self.shards.iter().zip(copies).map(|(shard, copy)| {
                    // Read from the file: the lane does not know the outcome of a commit in doubt.
                    let shard = || shard.original.shard.clone();
                    let told = |cause| SaveError::Follow { shard: shard(), cause };
                    copy.primary_position().map_err(told)
                });
                let positions = asked.collect::<Result<_, _>>()?;
                catalog.take()?;
                drop(closed);
                return Ok(Moment { positions, at, held: began.elapsed() });
            }
            drop(closed);
            // Paused lanes proceed first.
            std::thread::sleep(TELL_EVERY);
        }
        let shard =
            restless.map_or_else(String::new, |index| self.shards[index].original.shard.clone());
        Err(SaveError::Restless { shard })
    }
}
