//! Open: opens the embedded cluster of a data directory.
//!
//! Table creations that a crash has interrupted are finished or undone before the cluster is
//! served.
//!
//! **Invariant:** an opened cluster has all its files, each file belongs to its node, and all have
//! the same tables.
//! **Not here:** serving an open cluster (`manager`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use engine::cluster_spec::ClusterSpec;
use engine::doubts::{Doubt, Doubts};
use engine::open_error::OpenError;
use engine::published_map::PublishedMap;
use engine::replication::{ReplicaState, ReplicationState};
use engine::schema_agreement::{Agreement, Declared, agree};
use engine::{LaneControls, OpenedCluster, OpenedReplica, OpenedShard, WriterKind};
use model::reason::{Findings, Reason};
use model::sabotage::{Mutation, is_on};
use model::table::Registry;
use model::topology::{ShardNumber, Topology};

use super::backend::Files;
use super::backup::{BackupSource, Original, SavedShard};
use super::catalog::{self, FileCatalog};
use super::comparison_loop::{ComparedShard, ComparisonLoop};
use super::data_dir::{DataDir, has_no_room};
use super::doubt_record::DoubtRecord;
use super::file_reader::FileReader;
use super::file_watch::FileWatch;
use super::intents::{Intent, IntentTable};
use super::open_file_check::OpenFileCheck;
use super::reader::{Housekeeping, ReaderPool, ReaderSource, VisibleBound};
use super::replica::{FileReplica, ReplicaSpec};
use super::shard_file::{self, FileIdentity, Prepared};
use super::writer::SqliteWriter;
use super::{check, check_version, ddl};

/// Data directory and settings of an embedded cluster.
#[derive(Clone, Debug)]
pub struct EmbeddedCluster {
    /// The data directory, which is created if it is missing.
    pub data_dir: PathBuf,
    /// Settings that the operator has specified.
    pub wanted: ClusterSpec,
}

/// Embedded cluster that was opened.
pub struct OpenedFiles {
    /// The cluster, for a manager to serve.
    pub cluster: OpenedCluster,
    /// The files of the cluster, for backups.
    pub source: Arc<BackupSource>,
}

/// Opens an embedded cluster: creates missing files and migrates old ones. Blocks.
///
/// # Errors
/// [`OpenError`], whose message states the remedy.
pub fn open(cluster: &EmbeddedCluster) -> Result<OpenedFiles, OpenError> {
    open_as(cluster, true)
}

/// Opens an embedded cluster without its replicas, for a command that imports rows while the
/// cluster is not read. The replicas catch up at the next start, from the log or from a snapshot.
/// Blocks.
///
/// # Errors
/// Errors of [`open`].
pub fn open_primaries(cluster: &EmbeddedCluster) -> Result<OpenedFiles, OpenError> {
    open_as(cluster, false)
}

fn open_as(cluster: &EmbeddedCluster, replicas: bool) -> Result<OpenedFiles, OpenError> {
    check_version()?;
    catalog::check_start(&cluster.data_dir, &cluster.wanted)?;
    let dir = &cluster.data_dir;
    open_checked(cluster, replicas).map_err(|error| error.or_no_space(dir, || has_no_room(dir)))
}

fn open_checked(cluster: &EmbeddedCluster, replicas: bool) -> Result<OpenedFiles, OpenError> {
    let data_dir = DataDir::open(&cluster.data_dir)?;
    let record = DoubtRecord::read(data_dir.path());
    let opened = open_files(&data_dir, cluster, replicas, &record);
    let (catalog, registry, mut shards) =
        opened.inspect_err(|error| close_after(error, &data_dir))?;
    let source = Arc::new(source(&data_dir, &shards.0));
    let file_watch = FileWatch::start(&data_dir);
    let file_watch = file_watch.map_err(|error| OpenError::io(&cluster.data_dir, error))?;
    shards.0.iter().for_each(|shard| file_watch.file_checks().add(&shard.file_check));
    let map = Arc::new(PublishedMap::new(catalog.map.clone()));
    let mut files = Files::new(&source, data_dir, file_watch, &map);
    if let Some(contradiction) = catalog.map.contradiction() {
        // Such a cluster was created by a version that allowed it, and its rows are where its map
        // places them.
        tracing::warn!(%contradiction, "keyspace and placement of this cluster contradict each other");
    }
    let registry = Arc::new(ArcSwap::from_pointee(registry));
    let shards = std::mem::take(&mut shards.0);
    wait_for_replicas(&shards);
    compare_copies(&mut files, &shards, &registry, &record);
    if files.data_dir().is_unclean() {
        check_files(&files, &shards);
    }
    let cluster = OpenedCluster {
        map,
        registry,
        token_key: catalog.token_key.clone(),
        shards: shards.into_iter().map(|shard| shard.opened).collect(),
        backend: Box::new(files),
    };
    Ok(OpenedFiles { cluster, source })
}

/// Closes the directory of a start that was refused. Its files were closed in order and need no
/// check, unless one of them is the reason: its neighbours may be damaged, too.
fn close_after(error: &OpenError, data_dir: &DataDir) {
    if !matches!(error, OpenError::Database { .. } | OpenError::Io { .. }) {
        data_dir.close();
    }
}

/// Opens the catalog and the files of all shards.
fn open_files(
    data_dir: &DataDir,
    cluster: &EmbeddedCluster,
    replicas: bool,
    record: &DoubtRecord,
) -> Result<(FileCatalog, Registry, FileShards), OpenError> {
    let mut catalog = FileCatalog::open(&data_dir.catalog(), &cluster.wanted)?;
    if !replicas {
        catalog.replicas = 0;
    }
    let mut intents = IntentTable::open(&data_dir.catalog())?;
    let pending = read_intents(data_dir, &mut intents)?;
    let (registry, shards) = open_shards(data_dir, &catalog, &pending, record)?;
    for intent in &pending {
        let removed = intents.remove(intent.table.name());
        removed.map_err(|error| OpenError::file(&data_dir.catalog(), error))?;
    }
    drop(intents);
    let current = |FileShard { opened, .. }: &FileShard| {
        (opened.name.clone(), opened.replication.timeline().history().current())
    };
    catalog.set_ready(&data_dir.catalog(), shards.0.iter().map(current).collect())?;
    Ok((catalog, registry, shards))
}

/// Starts to compare the copies of each shard in the background.
fn compare_copies(
    files: &mut Files,
    shards: &[FileShard],
    registry: &Arc<ArcSwap<Registry>>,
    record: &Arc<DoubtRecord>,
) {
    // A replica that is sabotaged on purpose must not be repaired.
    if is_on(Mutation::Resurrect) {
        return;
    }
    let compared = shards.iter().map(|FileShard { opened, file_check, replicas }| {
        let file = |index| files.data_dir().replica(&opened.name, index);
        let numbered = replicas.iter().map(Arc::clone).enumerate();
        let of_replicas = opened.replicas.iter().map(|replica| &replica.findings);
        ComparedShard {
            name: opened.name.clone(),
            doubts: Arc::clone(&opened.doubts),
            record: Arc::clone(record),
            replication: Arc::clone(&opened.replication),
            findings: std::iter::once(&opened.findings)
                .chain(of_replicas)
                .map(Arc::clone)
                .collect(),
            primary: files.data_dir().primary(&opened.name),
            file_check: Some(Arc::clone(file_check)),
            replicas: numbered.map(|(index, replica)| (replica, file(index))).collect(),
        }
    });
    let comparison = ComparisonLoop::new(registry);
    for shard in compared {
        if let Err(error) = comparison.add(shard) {
            tracing::error!(%error, "the copies of a shard cannot be compared");
        }
    }
    files.keep_comparison(comparison);
}

/// Waits until the replicas follow, so that they can serve reads from the start, but not for a
/// replica whose creation takes long.
fn wait_for_replicas(shards: &[FileShard]) {
    let deadline = Instant::now() + REPLICAS_WAIT;
    let follows = |shard: &FileShard| {
        shard.replicas.iter().enumerate().all(|(index, replica)| {
            shard.opened.replication.replicas().state(index) == ReplicaState::Following
                && replica.is_reachable()
        })
    };
    while !shards.iter().all(follows) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Action on a file that is found damaged.
type OnDamage = Box<dyn Fn() + Send>;

/// Checks every page of every file after an unclean stop, on a thread of its own. SQLite recovers
/// from a crash by itself; this check is for disks that lose synced data. The unclean stop stays
/// recorded until all files were found intact: a damaged replica that is rebuilt now is checked
/// again at the next start, and a replica that is not attached is rebuilt when it is attached.
fn check_files(files: &Files, shards: &[FileShard]) {
    let data_dir = files.data_dir();
    let mut checks: Vec<(PathBuf, Option<Arc<OpenFileCheck>>, OnDamage)> = Vec::new();
    for FileShard { opened, file_check, replicas } in shards {
        let findings = Arc::clone(&opened.findings);
        // The shard keeps serving: the intact part of the file may be the only copy of its rows.
        let report: OnDamage = Box::new(move || {
            findings.raise(Reason::Damaged);
        });
        checks.push((data_dir.primary(&opened.name), Some(Arc::clone(file_check)), report));
        let attached = replicas.iter().map(|replica| {
            let replica = Arc::clone(replica);
            Box::new(move || replica.suspect()) as OnDamage
        });
        let rebuild = attached.chain(std::iter::repeat_with(|| Box::new(|| ()) as OnDamage));
        let files = (0..Topology::REPLICAS_MAX).map(|index| data_dir.replica(&opened.name, index));
        checks.extend(files.zip(rebuild).map(|(file, rebuild)| (file, None, rebuild)));
    }
    // A missing file is rebuilt, or was never created.
    checks.retain(|(file, ..)| std::fs::metadata(file).is_ok_and(|file| file.len() > 0));
    let (closed, found_well) = (Arc::clone(files.closed()), data_dir.found_well());
    let work = move || {
        let mut well = true;
        for (file, file_check, damaged) in &checks {
            if closed.load(Ordering::Acquire) {
                return;
            }
            if file_check.as_ref().is_some_and(|file_check| file_check.check().is_err()) {
                // Another file may have taken its place, and must not be opened with the WAL of the
                // old one.
                well = false;
                continue;
            }
            if let Err(error) = check::quick(file) {
                tracing::error!(%error, "a file is damaged");
                damaged();
                well = false;
            }
        }
        if well {
            found_well();
        }
        let files = checks.len();
        tracing::info!(files, "the files were checked after an unclean stop");
    };
    if let Err(error) = std::thread::Builder::new().name("check".to_owned()).spawn(work) {
        tracing::error!(%error, "the files cannot be checked");
    }
}

fn source(data_dir: &DataDir, shards: &[FileShard]) -> BackupSource {
    let source = BackupSource::new(data_dir.path(), data_dir.catalog());
    for FileShard { opened, file_check, .. } in shards {
        let (shard, primary) = (opened.name.clone(), data_dir.primary(&opened.name));
        source.add_shard(SavedShard {
            original: Original { shard, primary },
            file_check: Some(Arc::clone(file_check)),
            pause_barrier: Arc::clone(&opened.controls.pause_barrier),
            replication: Arc::clone(&opened.replication),
        });
    }
    source
}

/// Shard that was opened, with the parts that only this engine knows.
struct FileShard {
    opened: OpenedShard,
    file_check: Arc<OpenFileCheck>,
    replicas: Vec<Arc<FileReplica>>,
}

/// Shards of a start that may still fail. Dropping them stops their replicas, before the lock of
/// the data directory is released.
#[derive(Default)]
struct FileShards(Vec<FileShard>);

impl Drop for FileShards {
    fn drop(&mut self) {
        self.0.iter().for_each(|shard| shard.opened.stop_replicas());
    }
}

/// Longest time that a start waits for its replicas. Those of a small cluster are created in less.
const REPLICAS_WAIT: Duration = Duration::from_secs(1);

/// A shard whose files were checked and prepared.
struct Found<'c> {
    name: &'c str,
    primary: PathBuf,
    position: u64,
    /// The replicas' files; true if the file may be used as it is.
    replicas: Vec<(PathBuf, bool)>,
}

/// Opens or creates the files of every shard, and finishes interrupted table changes. No timeline
/// begins before every file was checked, so that refused starts leave no trace, however many there
/// are.
fn open_shards(
    data_dir: &DataDir,
    catalog: &FileCatalog,
    pending: &[Intent],
    record: &DoubtRecord,
) -> Result<(Registry, FileShards), OpenError> {
    let topology = catalog.map.topology();
    let mut found = Vec::with_capacity(topology.len());
    let mut declared = Vec::with_capacity(topology.len());
    for index in topology.numbers() {
        let (shard, tables) = find_shard(data_dir, catalog, index)?;
        found.push(shard);
        declared.push(tables);
    }
    let Agreement { registry, changes } = agree(&declared, pending)?;
    // The timeline begins first, because the present contents of the file show whether it was a
    // replica's.
    let mut begun = Vec::with_capacity(found.len());
    for (shard, changes) in found.into_iter().zip(changes) {
        let last = catalog.timelines.get(shard.name).copied();
        let history = shard_file::begin_timeline(&shard.primary, last)?;
        let position = match &changes[..] {
            [] => shard.position,
            changes => ddl::settle(&shard.primary, changes)?,
        };
        begun.push((shard, history, position));
    }
    let housekeeping = Housekeeping::start();
    let mut shards = FileShards::default();
    for (Found { name, primary, replicas, .. }, history, position) in begun {
        let replication = ReplicationState::new(history, position, replicas.len());
        let doubts = record.about(name, |copy| match copy.checked_sub(1) {
            None => Some(data_dir.primary(name)),
            Some(index) => replicas.get(index).map(|(file, _usable)| file.clone()),
        });
        shards.0.push(open_shard(name, &primary, replicas, replication, &housekeeping, &doubts)?);
    }
    Ok((registry, shards))
}

/// Opens a shard's files for writing and reading, and starts its replicas. `replicas` contains each
/// replica's file, and true if the file may be used as it is. `doubts`: those of an earlier process
/// about the copies.
fn open_shard(
    name: &str,
    primary: &Path,
    replicas: Vec<(PathBuf, bool)>,
    replication: ReplicationState,
    housekeeping: &Housekeeping,
    doubts: &BTreeMap<usize, Doubt>,
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
    let is_unsettled = doubts.values().any(|doubt| *doubt == Doubt::Unsettled);
    let source_in_doubt = is_unsettled || doubts.contains_key(&0);
    let mut started: Vec<Arc<FileReplica>> = Vec::with_capacity(replicas.len());
    for (index, (file, usable)) in replicas.into_iter().enumerate() {
        let (node, shard) = (format!("{name}-replica{}", index + 1), name.to_owned());
        let (primary, file_check) = (primary.to_owned(), Arc::clone(&file_check));
        let condemned = doubts.get(&(index + 1)) == Some(&Doubt::Wrong);
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
    let findings = |copy: usize| {
        let findings = Findings::default();
        if let Some(doubt) = doubts.get(&copy) {
            findings.raise(doubt.reason(copy));
            tracing::warn!(
                shard = name,
                copy,
                ?doubt,
                "copies of a shard differed before this start; they are compared again"
            );
        }
        Arc::new(findings)
    };
    let node = |(replica, copy): (&Arc<FileReplica>, usize)| OpenedReplica {
        node: Arc::clone(replica) as _,
        findings: findings(copy),
    };
    let known_doubts = Doubts::default();
    known_doubts.note(doubts, false);
    let slot_news = Arc::clone(&writer.slots().news);
    let opened = OpenedShard {
        name: name.to_owned(),
        replication,
        writers: vec![WriterKind::Thread(Box::new(writer))],
        partitioner: None,
        controls: LaneControls::default(),
        primary: Arc::new(FileReader::new(readers)),
        findings: findings(0),
        doubts: Arc::new(known_doubts),
        slot_news,
        replicas: started.iter().zip(1..).map(node).collect(),
    };
    Ok(FileShard { opened, file_check, replicas: started })
}

/// Reads the table changes that a crash has interrupted, and logs them.
fn read_intents(data_dir: &DataDir, intents: &mut IntentTable) -> Result<Vec<Intent>, OpenError> {
    let pending = intents.list().map_err(|error| OpenError::file(&data_dir.catalog(), error))?;
    for Intent { state, table } in &pending {
        tracing::warn!(table = table.name(), ?state, "an interrupted table change is finished");
    }
    Ok(pending)
}

fn find_shard<'c>(
    data_dir: &DataDir,
    catalog: &'c FileCatalog,
    index: ShardNumber,
) -> Result<(Found<'c>, Declared<'c>), OpenError> {
    let name = catalog.map.topology().name(index);
    let primary = data_dir.primary(name);
    let slots: Vec<u16> = catalog.map.slots_of(index).collect();
    let identity = FileIdentity { cluster_id: &catalog.cluster_id, shard: name, slots: &slots };
    let prepared = shard_file::prepare(&primary, &identity, !catalog.ready)?;
    let Prepared { tables, made, history, position } = prepared;
    let mut replicas = Vec::with_capacity(catalog.replicas);
    for replica in 0..catalog.replicas {
        let file = data_dir.replica(name, replica);
        let standing = shard_file::standing(&file, &identity, &history, position)?;
        replicas.push((file, standing.is_some()));
    }
    let declared = Declared { shard: name, tables, made };
    Ok((Found { name, primary, position, replicas }, declared))
}
