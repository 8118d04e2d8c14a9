//! Shard opening: opens the files of one shard, either at the start of the cluster or when a shard
//! joins a running cluster.
//!
//! ```text
//!   find: files are checked ──▶ begin: timeline, tables ──▶ start: writer, readers, replicas
//! ```
//! A start carries out the step `find` for all shards before the step `begin` for the first one, so
//! that a refused start leaves no trace.
//!
//! **Invariant:** an opened shard has all its files, and each belongs to its node.
//! **Not here:** the tables that all shards agree on (`open`), background work on open files
//! (`background`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::copy_faults::{CopyFault, CopyFaults};
use engine::open_error::OpenError;
use engine::replication::ReplicationState;
use engine::schema_agreement::Declared;
use engine::slot_move::ShardMoves;
use engine::{LaneControls, OpenedReplica, OpenedShard, SchemaChange, WriterKind};
use model::position::TimelineHistory;
use model::reason::Findings;
use model::shard_map::ShardMap;
use model::slot_set::SlotSet;
use model::table::Registry;
use model::topology::ShardNumber;

use super::check::is_damage;
use super::data_dir::{primary_file, replica_file};
use super::ddl;
use super::doubt_record::DoubtRecord;
use super::file_reader::FileReader;
use super::move_reader::FileMoveReader;
use super::open_file_check::OpenFileCheck;
use super::reader::{Housekeeping, ReaderPool, ReaderSource, VisibleBound};
use super::replica::{FileReplica, ReplicaSpec};
use super::shard_file::{self, FileIdentity, Prepared};
use super::slot_change;
use super::writer::SqliteWriter;

/// Settings with which the files of every shard are opened.
pub(super) struct ShardOpener {
    /// The data directory.
    pub(super) folder: PathBuf,
    /// Id of the cluster, which is also stored in every file.
    pub(super) cluster_id: String,
    /// Number of replicas of each shard.
    pub(super) replicas: usize,
    /// Thread that opens and closes the connections of all readers.
    pub(super) housekeeping: Housekeeping,
    /// Record of the faults in copies that earlier processes found.
    pub(super) record: Arc<DoubtRecord>,
}

/// Origin of the file of a primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The file was created by an earlier process.
    Existing,
    /// The file may have to be created, because the cluster is new.
    NewCluster,
    /// The file may have to be created, because the shard is joining and has no rows.
    Joining,
}

/// Shard whose files were checked and prepared.
pub(super) struct FoundShard {
    pub(super) name: String,
    primary: PathBuf,
    position: u64,
    /// Files of the replicas, each with true if the file may be used as it is.
    replicas: Vec<(PathBuf, bool)>,
    tables: Registry,
    made: BTreeSet<String>,
}

/// Shard whose timeline has begun.
pub(super) struct BegunShard {
    name: String,
    primary: PathBuf,
    replicas: Vec<(PathBuf, bool)>,
    history: TimelineHistory,
    position: u64,
}

/// Shard that was opened, with the parts that only this engine knows.
pub(super) struct FileShard {
    pub(super) opened: OpenedShard,
    pub(super) file_check: Arc<OpenFileCheck>,
    pub(super) replicas: Vec<Arc<FileReplica>>,
}

impl FoundShard {
    /// Takes the declared tables out, so that they can be compared with those of other shards.
    pub(super) fn declared(&mut self) -> Declared<'_> {
        let (tables, made) = (std::mem::take(&mut self.tables), std::mem::take(&mut self.made));
        Declared { shard: &self.name, tables, made }
    }
}

impl ShardOpener {
    /// Returns the file of a shard's primary.
    pub(super) fn primary(&self, shard: &str) -> PathBuf {
        primary_file(&self.folder, shard)
    }

    /// Returns the file of a shard's replica, counted from 0.
    pub(super) fn replica(&self, shard: &str, index: usize) -> PathBuf {
        replica_file(&self.folder, shard, index)
    }

    /// Migrates and checks the files of a shard. A new file receives the slots that the shard owns.
    ///
    /// # Errors
    /// [`OpenError`] if a file is missing or foreign, or cannot be used.
    pub(super) fn find(
        &self,
        (number, name): (ShardNumber, &str),
        map: &ShardMap,
        origin: Origin,
    ) -> Result<FoundShard, OpenError> {
        let primary = self.primary(name);
        let slots: Vec<u16> = map.slots_of(number).collect();
        let (slots, table_groups) = (&slots, &map.groups().tables());
        let cluster_id = &self.cluster_id;
        let identity = FileIdentity { cluster_id, shard: name, slots, table_groups };
        let prepare = || shard_file::prepare(&primary, &identity, origin != Origin::Existing);
        let prepared = match prepare() {
            // A power failure may leave arbitrary bytes in a file that was being created.
            Err(OpenError::Database { cause, .. })
                if origin == Origin::Joining && is_damage(&cause) =>
            {
                let file = primary.display();
                tracing::warn!(%file, cause, "the file of a joining shard is incomplete, and is created again");
                remove_unfinished(&primary)?;
                prepare()
            }
            prepared => prepared,
        };
        let Prepared { tables, made, history, position } = prepared?;
        let mut replicas = Vec::with_capacity(self.replicas);
        for replica in 0..self.replicas {
            let file = self.replica(name, replica);
            let standing = shard_file::standing(&file, &identity, &history, position)?;
            replicas.push((file, standing.is_some()));
        }
        Ok(FoundShard { name: name.to_owned(), primary, position, replicas, tables, made })
    }

    /// Begins a timeline, and then changes the tables. This order matters because only the contents
    /// before the changes show if the file was a replica's. `last` is the latest timeline that the
    /// shard is known to have begun. The shard becomes the owner of those new slots of which its
    /// file has no record.
    ///
    /// # Errors
    /// [`OpenError`] if the file cannot be written, or a change does not fit it.
    pub(super) fn begin(
        &self,
        found: FoundShard,
        last: Option<u32>,
        (changes, new_slots): (&[SchemaChange], &SlotSet),
    ) -> Result<BegunShard, OpenError> {
        let FoundShard { name, primary, replicas, position, .. } = found;
        let history = shard_file::begin_timeline(&primary, last)?;
        let position = match changes {
            [] => position,
            changes => ddl::settle(&primary, changes)?,
        };
        let position = match new_slots.is_empty() {
            true => position,
            false => slot_change::settle(&primary, new_slots)?,
        };
        Ok(BegunShard { name, primary, replicas, history, position })
    }

    /// Opens the files of a shard for writing and reading, and starts its replicas.
    ///
    /// # Errors
    /// [`OpenError`]; the replicas are stopped then.
    pub(super) fn start(&self, begun: BegunShard) -> Result<FileShard, OpenError> {
        let BegunShard { name, primary, replicas, history, position } = begun;
        let replication = ReplicationState::new(history, position, replicas.len());
        let copy_faults = self.record.about(&name, |copy| match copy.checked_sub(1) {
            None => Some(self.primary(&name)),
            Some(index) => replicas.get(index).map(|(file, _usable)| file.clone()),
        });
        open_shard(&name, &primary, replicas, replication, &self.housekeeping, &copy_faults)
    }

    /// Makes the names of new files durable.
    ///
    /// # Errors
    /// [`OpenError::Io`].
    pub(super) fn sync_folder(&self) -> Result<(), OpenError> {
        let synced = File::open(&self.folder).and_then(|folder| folder.sync_all());
        synced.map_err(|error| OpenError::io(&self.folder, error))
    }
}

/// Removes a file without rows, and the files that SQLite keeps beside it.
fn remove_unfinished(primary: &Path) -> Result<(), OpenError> {
    for suffix in ["-wal", "-shm", "-journal", ""] {
        let mut path = primary.as_os_str().to_owned();
        path.push(suffix);
        let path = PathBuf::from(path);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(OpenError::io(&path, error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Opens a shard's files for writing and reading, and starts its replicas. `replicas` contains each
/// replica's file, with true if the file may be used as it is. `copy_faults` are the faults in the
/// copies that earlier processes found.
fn open_shard(
    name: &str,
    primary: &Path,
    replicas: Vec<(PathBuf, bool)>,
    replication: ReplicationState,
    housekeeping: &Housekeeping,
    copy_faults: &BTreeMap<usize, CopyFault>,
) -> Result<FileShard, OpenError> {
    let replication = Arc::new(replication);
    let no_thread =
        |error: std::io::Error| OpenError::Io { path: name.to_owned(), cause: error.to_string() };
    let writer = SqliteWriter::open(name, primary, &replication)?;
    let file_check = Arc::clone(writer.file_check());
    let visible_bound = VisibleBound::primary(&replication);
    let source = ReaderSource {
        file_check: Some(Arc::clone(&file_check)),
        ownership: Arc::clone(&writer.slots().ownership),
    };
    let readers = ReaderPool::open_on(source, (name, primary), visible_bound, housekeeping)?;
    let is_unsettled = copy_faults.values().any(|fault| *fault == CopyFault::Unsettled);
    let source_in_doubt = is_unsettled || copy_faults.contains_key(&0);
    let mut started: Vec<Arc<FileReplica>> = Vec::with_capacity(replicas.len());
    for (index, (file, usable)) in replicas.into_iter().enumerate() {
        let (node, shard) = (format!("{name}-replica{}", index + 1), name.to_owned());
        let (primary, file_check) = (primary.to_owned(), Arc::clone(&file_check));
        let condemned = copy_faults.get(&(index + 1)) == Some(&CopyFault::Wrong);
        let spec = ReplicaSpec {
            node,
            shard,
            primary,
            file_check,
            file,
            usable,
            index,
            condemned,
            source_in_doubt,
        };
        match FileReplica::start(spec, &replication, housekeeping) {
            Ok(replica) => started.push(replica),
            Err(error) => {
                started.iter().for_each(|replica| replica.stop());
                return Err(no_thread(error));
            }
        }
    }
    let findings = |copy: usize| findings_of(name, copy, copy_faults);
    let node = |(replica, copy): (&Arc<FileReplica>, usize)| OpenedReplica {
        node: Arc::clone(replica) as _,
        findings: findings(copy),
    };
    let known_faults = CopyFaults::default();
    known_faults.note(copy_faults, false);
    let slot_news = Arc::clone(&writer.slots().news);
    let moves = moves_of(&writer, (name, primary));
    let opened = OpenedShard {
        name: name.to_owned(),
        replication,
        writers: vec![WriterKind::Thread(Box::new(writer))],
        partitioner: None,
        controls: LaneControls::default(),
        primary: Arc::new(FileReader::new(readers)),
        findings: findings(0),
        copy_faults: Arc::new(known_faults),
        slot_news,
        moves: Some(moves),
        indexes: None,
        replicas: started.iter().zip(1..).map(node).collect(),
    };
    Ok(FileShard { opened, file_check, replicas: started })
}

/// Returns the findings about a copy of a shard that an earlier process has recorded.
fn findings_of(
    shard: &str,
    copy: usize,
    copy_faults: &BTreeMap<usize, CopyFault>,
) -> Arc<Findings> {
    let findings = Findings::default();
    if let Some(doubt) = copy_faults.get(&copy) {
        findings.raise(doubt.reason(copy));
        tracing::warn!(
            shard,
            copy,
            ?doubt,
            "copies of a shard differed before this start; they are compared again"
        );
    }
    Arc::new(findings)
}

/// Returns the interface through which moves access a shard. It contains only a reader, because
/// changes go through the write lane, the queue of the shard's writer.
fn moves_of(writer: &SqliteWriter, place: (&str, &Path)) -> ShardMoves {
    let slots = writer.slots();
    let shared = (&slots.gate, &slots.compared);
    let reader = FileMoveReader::new(place, writer.file_check(), shared);
    ShardMoves { reader: Arc::new(reader), writer: None }
}
