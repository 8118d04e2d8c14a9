//! Backup: a copy of a whole cluster as it was at one moment, made while it is written to.
//!
//! 1. Each shard's primary is copied as a snapshot, and the copies follow the change logs.
//! 2. All lanes are held between two batches, for about a millisecond. This is the moment: each shard's position is
//!    noted, and the catalog copied. Whatever was acknowledged before is at or below these positions; whatever comes
//!    after is above them.
//! 3. The copies follow the logs exactly to these positions, and are synced; then the folder gets its name.
//!
//! So a copy holds no effect without its cause: who writes to one shard and, after the answer, to another, finds the
//! second only with the first. (A consistent cut: Chandy and Lamport, "Distributed Snapshots", 1985; with one process
//! that can stop all channels the easy case of it.)
//!
//! **Invariant:** under the final name there is a whole copy or nothing; the lanes are held for half a second at most.
//! **Not here:** putting it back (`restore`), who asks for it (`control`, the command line).

mod folder;
pub mod manifest;
pub mod restore;
mod trouble;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, TryLockError};
use std::time::{Duration, Instant};

use chrono::Utc;
use serde::{Deserialize, Serialize};

use crate::barrier::{Closed, Gate};
use crate::progress::Progress;
use crate::store::sqlite::copy::{self, ShardCopy};
use crate::value::format_timestamp;
use folder::Unfinished;
use manifest::{Manifest, SavedShardFile, bytes_of, look};

pub use trouble::SaveError;

/// Shards copied at a time: disks are faster with two, and not with many.
const AT_A_TIME: usize = 2;
/// How often it is told how far a copy is.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// How long writes may be held at once.
const HELD_MAX: Duration = Duration::from_millis(500);
/// How often it is tried to hold them.
const HOLDS_MAX: usize = 20;
/// Batches that a copy may lack when writes are held: what is left to replay is little then.
const NEAR: u64 = 64;
/// How often copies are brought near: writes that come faster than they are replayed are not waited for.
const ROUNDS_MAX: usize = 16;

/// A cluster, as a backup meets it.
pub struct Source {
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
    /// Its name.
    pub name: String,
    /// The primary's file.
    pub primary: PathBuf,
    /// What its writes pass.
    pub gate: Arc<Gate>,
    /// How far it has come.
    pub progress: Arc<Progress>,
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

/// The one moment of a copy.
struct Moment {
    positions: Vec<u64>,
    at: String,
    held: Duration,
}

impl Source {
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
        let unfinished = Unfinished::begin(&self.place(to)?, true)?;
        let folder = unfinished.path();
        let _kept: Vec<_> = self.shards.iter().map(|shard| shard.progress.keep_log()).collect();
        let mut copies = self.snapshots(folder, watch)?;
        self.bring_near(&mut copies, watch)?;
        let moment = self.hold(&mut copies, folder, watch)?;
        watch.tell(&Step::Held { micros: moment.held.as_micros() as u64 })?;
        self.follow(&mut copies, |index| moment.positions[index], watch)?;
        let manifest = self.seal(copies, moment, folder, watch)?;
        manifest.write(folder)?;
        watch.check()?;
        unfinished.finish()?;
        tracing::info!(to = %to.display(), at = manifest.at, "a backup was made");
        Ok(manifest)
    }

    /// Where the copy is to stand.
    fn place(&self, to: &Path) -> Result<PathBuf, SaveError> {
        let place = folder::free_place(to)?;
        let home = self.data_dir.canonicalize();
        let home = home.map_err(|error| SaveError::io(&self.data_dir, error))?;
        // Of what is not there yet, the part that is decides.
        let exists = place.ancestors().find_map(|folder| folder.canonicalize().ok());
        if exists.is_some_and(|folder| folder.starts_with(&home)) {
            return Err(SaveError::target(
                to,
                "it lies in the data directory that it is a copy of",
            ));
        }
        folder::check_room(&place, self.shards.iter().map(SavedShard::bytes).sum())?;
        Ok(place)
    }

    /// Copies every primary, some at a time.
    fn snapshots(&self, folder: &Path, watch: &Watch<'_>) -> Result<Vec<ShardCopy>, SaveError> {
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let path = |shard: &SavedShard| folder.join(file_name(shard));
        let mut copies: Vec<Option<ShardCopy>> = self.shards.iter().map(|_| None).collect();
        std::thread::scope(|scope| {
            let (done, made) = channel();
            for _ in 0..AT_A_TIME.min(self.shards.len()) {
                let (done, next, stop) = (done.clone(), &next, &stop);
                scope.spawn(move || {
                    while !stop.load(Ordering::SeqCst) {
                        let index = next.fetch_add(1, Ordering::SeqCst);
                        let Some(shard) = self.shards.get(index) else { break };
                        let timeline = shard.progress.history().current();
                        let copy = ShardCopy::make(&shard.primary, &path(shard), timeline);
                        // Whoever does not receive it has given up.
                        let _ = done.send((index, copy));
                    }
                });
            }
            drop(done);
            let mut waited = || -> Result<(), SaveError> {
                loop {
                    match made.recv_timeout(TELL_EVERY) {
                        Ok((index, copy)) => copies[index] = Some(copy?),
                        Err(RecvTimeoutError::Timeout) => watch.check()?,
                        Err(RecvTimeoutError::Disconnected) => return Ok(()),
                    }
                    for (shard, copy) in self.shards.iter().zip(&copies) {
                        let of = shard.bytes();
                        let bytes = match copy {
                            Some(_) => of,
                            None => copied_bytes(&path(shard)).min(of),
                        };
                        watch.tell(&Step::Copying { shard: shard.name.clone(), bytes, of })?;
                    }
                }
            };
            waited().inspect_err(|_| stop.store(true, Ordering::SeqCst))
        })?;
        Ok(copies.into_iter().flatten().collect())
    }

    /// Lets the copies follow until they lack little.
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
                        let shard = shard.name.clone();
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
        folder: &Path,
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
                    // The file's own word: of a commit whose fate is not known, the lane does not know either.
                    let shard = || shard.name.clone();
                    let told = |cause| SaveError::Follow { shard: shard(), cause };
                    copy.primary_position().map_err(told)
                });
                let positions = asked.collect::<Result<_, _>>()?;
                copy::copy_catalog(&self.catalog, &folder.join(file_of(&self.catalog)))?;
                drop(closed);
                return Ok(Moment { positions, at, held: began.elapsed() });
            }
            drop(closed);
            // Whoever was held has its turn first.
            std::thread::sleep(TELL_EVERY);
        }
        let shard = restless.map_or_else(String::new, |index| self.shards[index].name.clone());
        Err(SaveError::Restless { shard })
    }

    /// Makes each copy one synced file, and notes what it is.
    fn seal(
        &self,
        copies: Vec<ShardCopy>,
        moment: Moment,
        folder: &Path,
        watch: &Watch<'_>,
    ) -> Result<Manifest, SaveError> {
        let mut shards = Vec::with_capacity(copies.len());
        let total = self.shards.iter().map(SavedShard::bytes).sum();
        let mut done = 0;
        let mut check = |piece: &[u8]| {
            done += piece.len() as u64;
            watch.tell(&Step::Checking { bytes: done, of: total })
        };
        for ((shard, copy), position) in self.shards.iter().zip(copies).zip(moment.positions) {
            copy.finish()?;
            let (name, path) = (file_name(shard), folder.join(file_name(shard)));
            let facts = copy::shard_facts(&path)?;
            if facts.position != position {
                let cause = format!("it stands at {}, not at {position}", facts.position);
                return Err(SaveError::unfit(&path, cause));
            }
            let file = look(folder, &name, &mut check)?;
            let (shard, rows) = (shard.name.clone(), facts.rows);
            shards.push(SavedShardFile { shard, position, rows, file });
        }
        let name = file_of(&self.catalog);
        let names: Vec<&str> = self.shards.iter().map(|shard| &*shard.name).collect();
        let facts = copy::finish_catalog(&folder.join(&name), &names)?;
        let catalog = look(folder, &name, &mut check)?;
        let held = moment.held.as_micros() as u64;
        Ok(Manifest::new((facts.cluster_id, facts.epoch), (moment.at, held), catalog, shards))
    }
}

impl SavedShard {
    /// About the bytes of its copy.
    fn bytes(&self) -> u64 {
        let mut wal = self.primary.as_os_str().to_owned();
        wal.push("-wal");
        bytes_of(&self.primary) + bytes_of(Path::new(&wal))
    }
}

fn file_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn file_name(shard: &SavedShard) -> String {
    file_of(&shard.primary)
}

/// A snapshot is made under another name beside its own.
fn copied_bytes(path: &Path) -> u64 {
    let mut building = path.as_os_str().to_owned();
    building.push("-building");
    bytes_of(path).max(bytes_of(Path::new(&building)))
}
