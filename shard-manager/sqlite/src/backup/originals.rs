//! Originals: the files from which a copy of a cluster is made, whether the cluster runs or not.
//!
//! **Invariant:** a copy is sealed only when each file contains the expected position.
//! **Not here:** choosing one point in time for all files (`backup`, `stopped`).

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};

use super::manifest::{Manifest, SavedShardFile, bytes_of, read_and_hash};
use engine::unfinished_folder as folder;

use super::{AT_A_TIME, PROGRESS_INTERVAL, ProgressObserver, SaveError, SnapshotPoint, Step};
use crate::{OpenError, copy};

/// Primary of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Original {
    /// Name of the shard.
    pub shard: String,
    /// File of the primary.
    pub primary: PathBuf,
}

impl Original {
    /// Returns the name of the file, which is the same in a copy.
    pub(super) fn file_name(&self) -> String {
        file_of(&self.primary)
    }

    /// Estimates the size of the copy in bytes.
    pub(super) fn bytes(&self) -> u64 {
        let mut wal = self.primary.as_os_str().to_owned();
        wal.push("-wal");
        bytes_of(&self.primary) + bytes_of(Path::new(&wal))
    }
}

/// Files from which a copy is made.
pub(super) struct Originals<'o> {
    pub(super) data_dir: &'o Path,
    pub(super) catalog: &'o Path,
    /// Shards, in the cluster's order.
    pub(super) shards: Vec<&'o Original>,
}

impl Originals<'_> {
    /// Returns the path of a new copy, which must be free, outside the data directory, and on a
    /// disk with enough room.
    pub(super) fn place(&self, to: &Path) -> Result<PathBuf, SaveError> {
        let place = folder::free_place(to)?;
        let home = self.data_dir.canonicalize();
        let home = home.map_err(|error| SaveError::io(self.data_dir, error))?;
        // The end of the path may not exist yet, so its longest existing part is compared.
        let exists = place.ancestors().find_map(|folder| folder.canonicalize().ok());
        if exists.is_some_and(|folder| folder.starts_with(&home)) {
            return Err(SaveError::target(to, "it is in the data directory to be copied"));
        }
        folder::check_room(&place, self.bytes())?;
        Ok(place)
    }

    fn bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.bytes()).sum()
    }

    /// Returns the path of the catalog in a folder.
    pub(super) fn catalog_in(&self, folder: &Path) -> PathBuf {
        folder.join(file_of(self.catalog))
    }

    /// Copies every primary, some at a time: `make` receives the index of the shard and the new
    /// file.
    pub(super) fn copy<T: Send>(
        &self,
        folder: &Path,
        observer: &ProgressObserver<'_>,
        make: impl Fn(usize, &Path) -> Result<T, OpenError> + Sync,
    ) -> Result<Vec<T>, SaveError> {
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let path = |shard: &Original| folder.join(shard.file_name());
        let mut copies: Vec<Option<T>> = self.shards.iter().map(|_| None).collect();
        std::thread::scope(|scope| {
            let (done, made) = channel();
            for _ in 0..AT_A_TIME.min(self.shards.len()) {
                let (done, next, stop, make) = (done.clone(), &next, &stop, &make);
                scope.spawn(move || {
                    while !stop.load(Ordering::SeqCst) {
                        let index = next.fetch_add(1, Ordering::SeqCst);
                        let Some(shard) = self.shards.get(index) else { break };
                        // If the receiver is gone, the copy was abandoned.
                        let _ = done.send((index, make(index, &path(shard))));
                    }
                });
            }
            drop(done);
            let mut waited = || -> Result<(), SaveError> {
                loop {
                    match made.recv_timeout(PROGRESS_INTERVAL) {
                        Ok((index, copy)) => copies[index] = Some(copy?),
                        Err(RecvTimeoutError::Timeout) => observer.check()?,
                        Err(RecvTimeoutError::Disconnected) => return Ok(()),
                    }
                    for (shard, copy) in self.shards.iter().zip(&copies) {
                        let of = shard.bytes();
                        let bytes = match copy {
                            Some(_) => of,
                            None => copied_bytes(&path(shard)).min(of),
                        };
                        observer.report(&Step::Copying {
                            shard: shard.shard.clone(),
                            bytes,
                            of,
                        })?;
                    }
                }
            };
            waited().inspect_err(|_| stop.store(true, Ordering::SeqCst))
        })?;
        Ok(copies.into_iter().flatten().collect())
    }

    /// Checks the finished files of a copy, and returns their manifest.
    pub(super) fn seal(
        &self,
        point: SnapshotPoint,
        folder: &Path,
        observer: &ProgressObserver<'_>,
    ) -> Result<Manifest, SaveError> {
        let mut shards = Vec::with_capacity(self.shards.len());
        let total = self.bytes();
        let mut done = 0;
        let mut check = |piece: &[u8]| {
            done += piece.len() as u64;
            observer.report(&Step::Checking { bytes: done, of: total })
        };
        for (original, position) in self.shards.iter().zip(point.positions) {
            let (name, shard) = (original.file_name(), original.shard.clone());
            let path = folder.join(&name);
            let facts = copy::shard_facts(&path)?;
            if facts.position != position {
                let cause = format!("it is at position {}, not {position}", facts.position);
                return Err(SaveError::unsuitable(&path, cause));
            }
            let (rows, file) = (facts.rows, read_and_hash(folder, &name, &mut check)?);
            shards.push(SavedShardFile { shard, position, rows, file });
        }
        let names: Vec<&str> = self.shards.iter().map(|shard| &*shard.shard).collect();
        let facts = copy::finish_catalog(&self.catalog_in(folder), &names)?;
        let catalog = read_and_hash(folder, &file_of(self.catalog), &mut check)?;
        let held = point.held.as_micros() as u64;
        Ok(Manifest::new((facts.cluster_id, facts.epoch), (point.at, held), catalog, shards))
    }
}

fn file_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Returns the number of bytes copied so far: an unfinished snapshot has the suffix `-building`.
fn copied_bytes(path: &Path) -> u64 {
    let mut building = path.as_os_str().to_owned();
    building.push("-building");
    bytes_of(path).max(bytes_of(Path::new(&building)))
}
