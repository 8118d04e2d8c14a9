//! Open: opens the embedded cluster of a data directory.
//!
//! If a crash has interrupted the creation of a table or the join of a shard, it is completed or
//! undone before the cluster is served.
//!
//! **Invariant:** an opened cluster has all its files, each file belongs to its node, and all have
//! the same tables.
//! **Not here:** serving an open cluster (`manager`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use engine::OpenedCluster;
use engine::cluster_spec::{ClusterSpec, warn_of_differences};
use engine::group_rows::misplaced_tables;
use engine::open_error::OpenError;
use engine::published_map::PublishedMap;
use engine::replication::ReplicaState;
use engine::schema_agreement::{Agreement, agree};
use model::placement::contradiction;
use model::reason::Reason;
use model::table::Registry;
use model::topology::{ShardSpec, ShardState, Topology};

use super::backend::Files;
use super::background::Background;
use super::backup::BackupSource;
use super::catalog::{self, FileCatalog};
use super::data_dir::{DataDir, has_no_room};
use super::doubt_record::DoubtRecord;
use super::file_watch::FileWatch;
use super::intents::{Intent, IntentTable};
use super::listed_indexes;
use super::open_file_check::OpenFileCheck;
use super::reader::Housekeeping;
use super::shard_files::{ShardFiles, tables_of};
use super::shard_opening::{FileShard, Origin, ShardOpener};
use super::{check, check_version};

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

/// Opens an embedded cluster without its replicas, for a command that imports rows while no clients
/// read. The replicas catch up at the next start, from the log or from a snapshot. Blocks.
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
    let opened = open_files(&data_dir, cluster, replicas);
    let OpenedShards { catalog, registry, opener, mut shards } =
        opened.inspect_err(|error| close_after(error, &data_dir))?;
    let source = Arc::new(BackupSource::new(data_dir.path(), data_dir.catalog()));
    let file_watch = FileWatch::start(&data_dir);
    let file_watch = file_watch.map_err(|error| OpenError::io(&cluster.data_dir, error))?;
    let registry = Arc::new(ArcSwap::from_pointee(registry));
    let background = Background::new(&source, file_watch.file_checks(), &registry);
    let map = Arc::new(PublishedMap::new(catalog.map.clone()));
    let shards = std::mem::take(&mut shards.0);
    for (number, shard) in catalog.map.topology().numbers().zip(&shards) {
        background.add(number, shard, &opener);
    }
    let shard_files = ShardFiles::new(opener, background, (data_dir.catalog(), &map));
    let files = Files::new(&source, data_dir, file_watch, shard_files);
    let (keyspace, placement) = (catalog.map.keyspace(), catalog.map.placement());
    if let Some(contradiction) = contradiction(keyspace, placement) {
        // An earlier version allowed such a cluster. It is still usable, because its rows are where
        // its shard map places them.
        tracing::warn!(%contradiction, "keyspace and placement of this cluster contradict each other");
    }
    wait_for_replicas(&shards);
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

/// Closes the data directory after a start was refused. The files were closed cleanly and need no
/// check at the next start, unless one of them caused the refusal, in which case others may be
/// damaged too.
fn close_after(error: &OpenError, data_dir: &DataDir) {
    if !matches!(error, OpenError::Database { .. } | OpenError::Io { .. }) {
        data_dir.close();
    }
}

/// Catalog and shards of a start.
struct OpenedShards {
    catalog: FileCatalog,
    registry: Registry,
    opener: ShardOpener,
    shards: FileShards,
}

/// Opens the catalog and the files of all shards. Shards that were joining serve from now on.
fn open_files(
    data_dir: &DataDir,
    cluster: &EmbeddedCluster,
    replicas: bool,
) -> Result<OpenedShards, OpenError> {
    let mut catalog = FileCatalog::open(&data_dir.catalog(), &cluster.wanted)?;
    let opener = ShardOpener {
        folder: data_dir.path().to_owned(),
        cluster_id: catalog.cluster_id.clone(),
        replicas: if replicas { catalog.replicas } else { 0 },
        housekeeping: Housekeeping::start(),
        record: DoubtRecord::read(data_dir.path()),
    };
    let mut intents = IntentTable::open(&data_dir.catalog())?;
    let pending = read_intents(data_dir, &mut intents)?;
    let (registry, shards) = open_shards(&opener, (&catalog, &data_dir.catalog()), &pending)?;
    warn_of_differences(&misplaced_tables(&catalog.map, &registry));
    for intent in &pending {
        let removed = intents.remove(intent.table.name());
        removed.map_err(|error| OpenError::file(&data_dir.catalog(), error))?;
    }
    drop(intents);
    let current = |FileShard { opened, .. }: &FileShard| {
        (opened.name.clone(), opened.replication.timeline().history().current())
    };
    catalog.set_ready(&data_dir.catalog(), shards.0.iter().map(current).collect())?;
    catalog.finish_joins(&data_dir.catalog(), || opener.sync_folder())?;
    Ok(OpenedShards { catalog, registry, opener, shards })
}

/// Waits until the replicas follow their primaries, so that they can serve reads from the start.
/// Does not wait for replicas that cannot be read, and checks at most [`LOOKS_MAX`] times.
fn wait_for_replicas(shards: &[FileShard]) {
    let follows = |shard: &FileShard| {
        shard.replicas.iter().enumerate().all(|(index, replica)| {
            shard.opened.replication.replicas().state(index) == ReplicaState::Following
                || !replica.is_reachable()
        })
    };
    look_until(|| shards.iter().all(follows), LOOKS_MAX);
}

/// Repeats a check until it returns true, at most `looks_max` times, with a pause after each failed
/// check.
fn look_until(mut is_so: impl FnMut() -> bool, looks_max: usize) {
    for _ in 0..looks_max {
        if is_so() {
            return;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Action to take if a file is found damaged.
type OnDamage = Box<dyn Fn() + Send>;

/// Checks every page of every file after an unclean stop, on a separate thread. SQLite recovers
/// from a crash by itself, so this check is for disks that lose synced data. The stop stays
/// recorded as unclean until all files were found intact. Therefore a damaged replica that is
/// rebuilt now is checked again at the next start. A damaged replica whose file is not open now is
/// rebuilt when the file is opened.
fn check_files(files: &Files, shards: &[FileShard]) {
    let data_dir = files.data_dir();
    let mut checks: Vec<(PathBuf, Option<Arc<OpenFileCheck>>, OnDamage)> = Vec::new();
    for FileShard { opened, file_check, replicas } in shards {
        let findings = Arc::clone(&opened.findings);
        // The shard continues to serve requests, because the intact part of the file may be the
        // only copy of its rows.
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
    // Missing files are skipped: they will be rebuilt, or were never created.
    checks.retain(|(file, ..)| std::fs::metadata(file).is_ok_and(|file| file.len() > 0));
    let (closed, found_well) = (Arc::clone(files.closed()), data_dir.found_well());
    let work = move || {
        let mut well = true;
        for (file, file_check, damaged) in &checks {
            if closed.load(Ordering::Acquire) {
                return;
            }
            if file_check.as_ref().is_some_and(|file_check| file_check.check().is_err()) {
                // Another file may have taken the place of this one, and must not be opened with
                // the WAL of the old file.
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

/// Opened shards of a start that may still fail. Dropping this value stops their replicas, before
/// the lock of the data directory is released.
#[derive(Default)]
struct FileShards(Vec<FileShard>);

impl Drop for FileShards {
    fn drop(&mut self) {
        self.0.iter().for_each(|shard| shard.opened.stop_replicas());
    }
}

/// Pause after each check of the replicas at a start.
const LOOK_EVERY: Duration = Duration::from_micros(200);
/// Maximum number of checks of the replicas at a start. On an idle machine they take about a
/// second, in which the replicas of a small cluster can be created. The limit is a number of checks
/// and not a time, because on a busy machine creating the replicas takes longer too.
const LOOKS_MAX: usize = 4_000;

/// Opens or creates the files of every shard, and finishes interrupted table changes. No timeline
/// begins before every file was checked, so that a refused start leaves no trace, even if it is
/// repeated often.
fn open_shards(
    opener: &ShardOpener,
    (catalog, catalog_file): (&FileCatalog, &Path),
    pending: &[Intent],
) -> Result<(Registry, FileShards), OpenError> {
    let mut found = Vec::with_capacity(catalog.map.topology().len());
    for (number, ShardSpec { name, state, .. }) in catalog.map.topology().members() {
        let made = if catalog.ready { Origin::Existing } else { Origin::NewCluster };
        let origin = if *state == ShardState::Joining { Origin::Joining } else { made };
        found.push((opener.find((number, name), &catalog.map, origin)?, origin));
    }
    // A joining shard receives the same tables and indexes as the others, so only those of the
    // others are compared.
    let others = found.iter_mut().filter(|(_, origin)| *origin != Origin::Joining);
    let declared = others.map(|(found, _)| found.declared()).collect::<Vec<_>>();
    let Agreement { registry, changes } = agree(&declared, pending)?;
    drop(declared);
    let mut changes = changes.into_iter();
    let mut begun = Vec::with_capacity(found.len());
    let numbers = catalog.map.topology().numbers();
    for ((shard, origin), number) in found.into_iter().zip(numbers) {
        let changes = match origin {
            Origin::Joining => {
                let mut all = tables_of(&registry);
                all.extend(listed_indexes::building(catalog_file, &registry)?);
                all
            }
            Origin::Existing | Origin::NewCluster => changes.next().unwrap_or_default(),
        };
        let last = catalog.timelines.get(&shard.name).copied();
        let new_slots = catalog.map.groups().slots_of(number, &catalog.unready_groups);
        begun.push(opener.begin(shard, last, (&changes, &new_slots))?);
    }
    let mut shards = FileShards::default();
    for shard in begun {
        shards.0.push(opener.start(shard)?);
    }
    Ok((registry, shards))
}

/// Reads the table changes that a crash has interrupted, and logs them.
fn read_intents(data_dir: &DataDir, intents: &mut IntentTable) -> Result<Vec<Intent>, OpenError> {
    let pending = intents.list().map_err(|error| OpenError::file(&data_dir.catalog(), error))?;
    for Intent { state, table } in &pending {
        tracing::warn!(table = table.name(), ?state, "an interrupted table change is finished");
    }
    Ok(pending)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_looks_at_its_replicas_until_they_follow_and_else_a_fixed_number_of_times() {
        let mut looks = 0;
        look_until(
            || {
                looks += 1;
                looks == 3
            },
            LOOKS_MAX,
        );
        assert_eq!(looks, 3);
        let mut looks = 0;
        let never = || {
            looks += 1;
            false
        };
        look_until(never, 5);
        assert_eq!(looks, 5);
    }
}
