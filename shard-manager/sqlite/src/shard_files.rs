//! Shard files: opens the files of shards that join an open cluster, and releases those of shards
//! that retire.
//!
//! The catalog durably lists a joining shard before the shard's first file is created. A file that
//! already has the name of the new shard before then was not created by the join, and is left
//! unchanged.
//!
//! **Invariant:** a shard serves requests only after the directory entries of its files are
//! durable; the files of a retired shard stay where they are.
//! **Not here:** the steps of a join (`cluster`), the order in which files are opened
//! (`shard_opening`).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use engine::new_shard::{NewShard, NewShardRefusal};
use engine::open_error::OpenError;
use engine::published_map::PublishedMap;
use engine::{OpenedShard, SchemaChange};
use model::shard_map::ShardMap;
use model::slot_set::SlotSet;
use model::table::Registry;
use model::topology::{ShardNumber, ShardSpec, ShardState, Topology};
use tokio::sync::oneshot;

use super::background::Background;
use super::catalog;
use super::data_dir::{free_bytes, has_no_room};
use super::listed_indexes;
use super::node_view;
use super::shard_opening::{FileShard, Origin, ShardOpener};

/// Number of free bytes that each file of a new shard needs. It is larger than an empty file with
/// its WAL, so that there is also room for the first writes.
const FILE_BYTES: u64 = 4 << 20;

/// Files of the shards of an open cluster.
pub(super) struct ShardFiles {
    opener: ShardOpener,
    background: Background,
    catalog: PathBuf,
    /// Shard map in force.
    map: Arc<PublishedMap>,
    /// True once the cluster is closing, so that no more files may be opened.
    closed: Arc<AtomicBool>,
    /// Locked while the files of a shard are opened.
    turn: Mutex<()>,
}

impl ShardFiles {
    /// Takes over the opened files. The shard map comes from the catalog.
    pub(super) fn new(
        opener: ShardOpener,
        background: Background,
        (catalog, map): (PathBuf, &Arc<PublishedMap>),
    ) -> Self {
        let (map, closed, turn) = (Arc::clone(map), Arc::default(), Mutex::default());
        Self { opener, background, catalog, map, closed, turn }
    }

    /// Returns the map in force.
    pub(super) fn map(&self) -> &Arc<PublishedMap> {
        &self.map
    }

    /// Returns the signal that ends background work.
    pub(super) fn closed(&self) -> &Arc<AtomicBool> {
        &self.closed
    }

    /// Ends background work, and waits for a shard that is being opened.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        drop(self.lock());
        self.background.stop();
    }

    /// Checks that a shard can join. Blocks.
    ///
    /// # Errors
    /// [`NewShardRefusal`].
    pub(super) fn check(&self, shard: &NewShard) -> Result<(), NewShardRefusal> {
        if shard.url.is_some() {
            return Err(NewShardRefusal::UrlUnexpected);
        }
        let listed = self.listed_state(&shard.name);
        if listed == Some(ShardState::Serving) {
            // The request is repeated, and the files that need the room exist.
            return Ok(());
        }
        let needed = FILE_BYTES * (1 + self.opener.replicas as u64);
        let free = free_bytes(&self.opener.folder).unwrap_or(u64::MAX);
        if free < needed {
            let (free, needed) = (free >> 20, needed >> 20);
            let cause =
                format!("its disk has {free} MiB left, and {needed} MiB are needed: make room");
            let place = self.opener.folder.display().to_string();
            return Err(NewShardRefusal::Unsuitable { place, cause });
        }
        if listed.is_some() {
            // The shard is already listed as joining, so its files were created by the join.
            return Ok(());
        }
        let replicas = (0..Topology::REPLICAS_MAX).map(|i| self.opener.replica(&shard.name, i));
        let mut files = std::iter::once(self.opener.primary(&shard.name)).chain(replicas);
        files.try_for_each(|file| self.check_unused(&file))
    }

    /// Returns the state of the member with this name; `None` if there is none.
    fn listed_state(&self, name: &str) -> Option<ShardState> {
        let map = self.newest_map();
        let topology = map.topology();
        topology.find(name).map(|number| topology.shards()[number.index()].state)
    }

    fn newest_map(&self) -> Arc<ShardMap> {
        self.map.backlog().newest_or(self.map.load_full())
    }

    fn check_unused(&self, file: &Path) -> Result<(), NewShardRefusal> {
        if fs::metadata(file).map_or(true, |found| found.len() == 0) {
            return Ok(());
        }
        let place = file.display().to_string();
        let contents = match node_view::cluster_of(file) {
            Some(id) if id != self.opener.cluster_id => {
                return Err(NewShardRefusal::OtherCluster { place });
            }
            Some(_) => "a shard of this name has retired, and this is its file",
            None => "a file of this name is there",
        };
        let contents = format!("{contents}; move it to another folder, or choose another name");
        Err(NewShardRefusal::NotEmpty { place, contents })
    }

    /// Opens the files of a listed shard, creates these tables and their indexes in them, and sends
    /// the opened shard to the receiver. Blocks.
    ///
    /// # Errors
    /// A [`NewShardRefusal`] is sent instead of the shard; no file is left open then.
    pub(super) fn open(
        self: Arc<Self>,
        number: ShardNumber,
        tables: &Registry,
        opened: oneshot::Sender<Result<Unclaimed, NewShardRefusal>>,
    ) {
        let files = Arc::clone(&self);
        // Held until the shard was handed over, or was closed because the request for it has ended.
        let _turn = self.lock();
        let folder = &self.opener.folder;
        let shard = self.open_files(number, tables);
        let shard = shard.map_err(|error| error.or_no_space(folder, || has_no_room(folder)));
        let shard = shard.map_err(|error| {
            let place = folder.display().to_string();
            NewShardRefusal::Unsuitable { place, cause: error.to_string() }
        });
        let shard = shard.map(|shard| {
            self.background.add(number, &shard, &self.opener);
            Unclaimed { shard: Some(shard.opened), number, files }
        });
        drop(opened.send(shard));
    }

    fn open_files(&self, number: ShardNumber, tables: &Registry) -> Result<FileShard, OpenError> {
        if self.closed.load(Ordering::Acquire) {
            // The cluster is closing, so another process may already own the folder.
            return Err(OpenError::Conflict("the router ends".to_owned()));
        }
        let map = self.newest_map();
        let listed = map.topology().members().find(|(known, _)| *known == number);
        let unknown = || OpenError::Conflict(format!("there is no shard number {}", number.0));
        let (_, ShardSpec { name, state, .. }) = listed.ok_or_else(unknown)?;
        let origin = if *state == ShardState::Joining { Origin::Joining } else { Origin::Existing };
        let found = self.opener.find((number, name), &map, origin)?;
        let last = match origin {
            // A timeline that is recorded under this name belongs to an earlier, retired shard.
            Origin::Joining | Origin::NewCluster => None,
            Origin::Existing => catalog::timeline_of(&self.catalog, name)?,
        };
        let mut changes = tables_of(tables);
        if origin == Origin::Joining {
            changes.extend(listed_indexes::building(&self.catalog, tables)?);
        }
        let begun = self.opener.begin(found, last, (&changes, &SlotSet::empty()))?;
        self.opener.sync_folder()?;
        let shard = self.opener.start(begun)?;
        let timeline = shard.opened.replication.timeline().history().current();
        let recorded = catalog::record_timeline(&self.catalog, name, timeline);
        recorded.inspect_err(|_| shard.opened.stop_replicas())?;
        Ok(shard)
    }

    /// Ends the background work on the files of a shard that was closed.
    pub(super) fn release(&self, number: ShardNumber) {
        self.background.remove(number);
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opened shard that was not yet received. If it is dropped, because the request for it has ended,
/// the shard is closed.
pub(super) struct Unclaimed {
    shard: Option<OpenedShard>,
    number: ShardNumber,
    files: Arc<ShardFiles>,
}

impl Unclaimed {
    /// Takes the shard out, so that it stays open.
    pub(super) fn take(mut self) -> Option<OpenedShard> {
        self.shard.take()
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some(shard) = self.shard.take() {
            self.files.release(self.number);
            shard.stop_replicas();
        }
    }
}

/// Returns the changes that create all of these tables on a shard.
pub(super) fn tables_of(tables: &Registry) -> Vec<SchemaChange> {
    tables.tables().map(|table| SchemaChange::Make(Arc::clone(table))).collect()
}
