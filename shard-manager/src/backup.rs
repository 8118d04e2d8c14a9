//! Backup: a copy of a whole cluster as it was at one moment, made while it is written to.
//!
//! 1. Each shard's primary is copied as a snapshot, and the copies follow the change logs.
//! 2. All lanes are held between two batches. This is the moment: each shard's position is noted, and the catalog copied
//!    into memory. Whatever was acknowledged before is at or below these positions; whatever comes
//!    after is above them.
//! 3. The copies follow the logs exactly to these positions, and are synced; then the folder gets its name.
//!
//! So a copy holds no effect without its cause: who writes to one shard and, after the answer, to another, finds the
//! second only with the first. (A consistent cut: Chandy and Lamport, "Distributed Snapshots", 1985; with one process
//! that can stop all channels the easy case of it.)
//!
//! The lanes are held for as long as the batches take that are being stored: a few milliseconds in quiet times, more than
//! a hundred under a full load of bulk writes. Who has not ended after half a second lets all of them go on, and it is
//! tried again. What is done while they stand still writes to no disk.
//!
//! **Invariant:** under the final name there is a whole copy or nothing; while lanes are held nothing waits for the disk
//! that the copy goes to.
//! **Not here:** a cluster that nobody has open (`stopped`), putting a copy back (`restore`), who asks for it (`control`,
//! the command line).

mod folder;
pub mod manifest;
mod originals;
pub mod restore;
pub mod stopped;
mod trouble;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, TryLockError};
use std::time::{Duration, Instant};

use chrono::Utc;
use serde::{Deserialize, Serialize};

use crate::barrier::{Closed, Gate};
use crate::replication::ReplicationState;
use crate::store::sqlite::copy::{CatalogCopy, ShardCopy};
use crate::store::sqlite::footing::Footing;
use crate::value::format_timestamp;
use folder::Unfinished;
use manifest::Manifest;
use originals::Originals;

pub use originals::Original;
pub use trouble::SaveError;

/// Shards copied at a time: disks are faster with two, and not with many.
const AT_A_TIME: usize = 2;
/// How often it is told how far a copy is.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// How long writes are held for batches that do not end.
const HELD_MAX: Duration = Duration::from_millis(500);
/// How often it is tried to hold them.
const HOLDS_MAX: usize = 20;
/// Batches that a copy may lack when writes are held: what is left to replay is little then.
const NEAR: u64 = 64;
/// How often copies are brought near: writes that come faster than they are replayed are not waited for.
const ROUNDS_MAX: usize = 16;

/// Cluster that a backup copies.
pub struct BackupSource {
    /// The data directory.
    pub data_dir: PathBuf,
    /// The catalog's file.
    pub catalog: PathBuf,
    /// The shards, in the cluster's order.
    pub shards: Vec<SavedShard>,
    turn: Mutex<()>,
}

/// A shard, as a backup meets it.
pub struct SavedShard {
    /// What is copied.
    pub original: Original,
    /// Proof that the name still leads to the file that the writer has open; `None` without such a
    /// proof.
    pub footing: Option<Arc<Footing>>,
    /// What its writes pass.
    pub gate: Arc<Gate>,
    /// How far it has come.
    pub replication: Arc<ReplicationState>,
}

/// How far a backup or a restore is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// A shard is being copied.
    Copying {
        /// The shard.
        shard: String,
        /// Bytes written.
        bytes: u64,
        /// About how many they will be.
        of: u64,
    },
    /// The copies follow the logs.
    Following {
        /// Batches that they lack.
        behind: u64,
    },
    /// The moment has been.
    Held {
        /// For how long writes were held, in microseconds.
        micros: u64,
    },
    /// A copy is being read again.
    Checking {
        /// Bytes read.
        bytes: u64,
        /// Of how many.
        of: u64,
    },
    /// A data directory is being written.
    Writing {
        /// Bytes written.
        bytes: u64,
        /// Of how many.
        of: u64,
    },
}

/// Who waits for a backup or a restore: told how far it is, and asked whether it shall go on.
pub struct Watch<'w> {
    /// Told each step; may be called often.
    pub step: &'w (dyn Fn(&Step) + Sync),
    /// Whether nobody waits any more.
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

/// Point in time that a copy shows: the position of each shard, and the time.
struct SnapshotPoint {
    positions: Vec<u64>,
    at: String,
    held: Duration,
}

impl BackupSource {
    /// A cluster of these shards.
    pub fn new(data_dir: &Path, catalog: PathBuf, shards: Vec<SavedShard>) -> Self {
        Self { data_dir: data_dir.to_owned(), catalog, shards, turn: Mutex::new(()) }
    }

    /// Makes a copy of the cluster in a folder that is not there, or empty. Blocks.
    ///
    /// # Errors
    /// [`SaveError`]; there is nothing in the folder then.
    pub fn save(&self, to: &Path, watch: &Watch<'_>) -> Result<Manifest, SaveError> {
        let _turn = match self.turn.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(SaveError::Busy),
        };
        // Opened by its name, a file that replaced the shard's would be taken for it.
        let footings = self.shards.iter().filter_map(|shard| shard.footing.as_ref());
        for footing in footings {
            footing.check()?;
        }
        let originals = self.originals();
        let unfinished = Unfinished::begin(&originals.place(to)?, true)?;
        let folder = unfinished.path();
        let _kept: Vec<_> =
            self.shards.iter().map(|shard| shard.replication.retain_log()).collect();
        let mut copies = originals.copy(folder, watch, |index, path| {
            let timeline = self.shards[index].replication.timeline().history().current();
            ShardCopy::make(&self.shards[index].original.primary, path, timeline)
        })?;
        self.bring_near(&mut copies, watch)?;
        let mut catalog = CatalogCopy::open(&self.catalog)?;
        let point = self.hold(&mut copies, &mut catalog, watch)?;
        watch.tell(&Step::Held { micros: point.held.as_micros() as u64 })?;
        catalog.write(&originals.catalog_in(folder))?;
        self.follow(&mut copies, |index| point.positions[index], watch)?;
        copies.into_iter().try_for_each(ShardCopy::finish)?;
        let manifest = originals.seal(point, folder, watch)?;
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

    /// Lets the copies follow until they lack little.
    fn bring_near(&self, copies: &mut [ShardCopy], watch: &Watch<'_>) -> Result<(), SaveError> {
        for _ in 0..ROUNDS_MAX {
            let lacks = self.shards.iter().zip(&*copies);
            let lacks = lacks.map(|(shard, copy)| {
                shard.replication.primary().committed().saturating_sub(copy.position())
            });
            let behind = lacks.max().unwrap_or(0);
            watch.tell(&Step::Following { behind })?;
            if behind <= NEAR {
                break;
            }
            let now: Vec<u64> =
                self.shards.iter().map(|shard| shard.replication.primary().committed()).collect();
            self.follow(copies, |index| now[index], watch)?;
        }
        Ok(())
    }

    /// Lets the copies follow up to these positions, some at a time.
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

    /// The moment: all lanes stand still between two batches, and each shard is asked where it stands.
    fn hold(
        &self,
        copies: &mut [ShardCopy],
        catalog: &mut CatalogCopy,
        watch: &Watch<'_>,
    ) -> Result<SnapshotPoint, SaveError> {
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
                    // The file's own word: of a commit whose fate is not known, the lane does not know either.
                    let shard = || shard.original.shard.clone();
                    let told = |cause| SaveError::Follow { shard: shard(), cause };
                    copy.primary_position().map_err(told)
                });
                let positions = asked.collect::<Result<_, _>>()?;
                catalog.take()?;
                drop(closed);
                return Ok(SnapshotPoint { positions, at, held: began.elapsed() });
            }
            drop(closed);
            // Whoever was held has its turn first.
            std::thread::sleep(TELL_EVERY);
        }
        let shard =
            restless.map_or_else(String::new, |index| self.shards[index].original.shard.clone());
        Err(SaveError::Restless { shard })
    }
}
