//! Embedded: from a data directory to a cluster that serves.
//!
//! Tables that were being made when a process died (`tables`) are finished, or taken back, before anything is served.
//!
//! **Invariant:** a cluster that opens has every file that it should have, each its own, and the same tables in each.
//! **Not here:** what is asked of an open cluster.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Manager;
use super::agreement::{Agreement, Declared, agree};
use super::backing::{Backing, Files};
use super::comparing::{Compared, Comparing};
use crate::backup::{Original, SavedShard, Source};
use crate::lane::Lane;
use crate::progress::Progress;
use crate::sabotage::{Mutation, is_on};
use crate::shard::{Shard, Suspect};
use crate::store::cluster::Wanted;
use crate::store::intent::Intent;
use crate::store::open_error::OpenError;
use crate::store::readers::Readers;
use crate::store::replica::Replica;
use crate::store::sqlite::catalog::{self, Catalog};
use crate::store::sqlite::data_dir::{DataDir, has_no_room};
use crate::store::sqlite::footing::Footing;
use crate::store::sqlite::guard::Guard;
use crate::store::sqlite::intents::Intents;
use crate::store::sqlite::reader::{Housekeeping, Readers as FileReaders, Witness};
use crate::store::sqlite::replica::{Replica as FileReplica, ReplicaSpec};
use crate::store::sqlite::shard_file::{self, Identity, Prepared};
use crate::store::sqlite::writer::SqliteWriter;
use crate::store::sqlite::{check, check_version, ddl};
use crate::table::Registry;
use crate::topology::{ShardIndex, Topology};

/// Where an embedded cluster is and what it must be.
#[derive(Clone, Debug)]
pub struct EmbeddedCluster {
    /// The data directory; made if it is not there.
    pub data_dir: PathBuf,
    /// What the operator asks for.
    pub wanted: Wanted,
}

impl Manager {
    /// Opens an embedded cluster, making what is new and migrating what is old. Blocks.
    ///
    /// # Errors
    /// [`OpenError`], with a sentence that tells the operator what to do.
    pub fn open(cluster: &EmbeddedCluster) -> Result<Self, OpenError> {
        Self::open_as(cluster, true)
    }

    /// The same without replicas: for a command that fills a cluster that nobody reads meanwhile. What the
    /// replicas then lack they get at the next start, from the log or from a snapshot. Blocks.
    ///
    /// # Errors
    /// As [`Manager::open`].
    pub fn open_primaries(cluster: &EmbeddedCluster) -> Result<Self, OpenError> {
        Self::open_as(cluster, false)
    }

    fn open_as(cluster: &EmbeddedCluster, replicas: bool) -> Result<Self, OpenError> {
        check_version()?;
        catalog::check_start(&cluster.data_dir, &cluster.wanted)?;
        let dir = &cluster.data_dir;
        Self::open_checked(cluster, replicas)
            .map_err(|error| error.or_no_space(dir, || has_no_room(dir)))
    }

    fn open_checked(cluster: &EmbeddedCluster, replicas: bool) -> Result<Self, OpenError> {
        let data_dir = DataDir::open(&cluster.data_dir)?;
        let mut catalog = Catalog::open(&data_dir.catalog(), &cluster.wanted)?;
        if !replicas {
            catalog.replicas = 0;
        }
        let mut intents = Intents::open(&data_dir.catalog())?;
        let pending = read_intents(&data_dir, &mut intents)?;
        let (registry, shards) = open_shards(&data_dir, &catalog, &pending)?;
        for intent in &pending {
            let removed = intents.remove(intent.table.name());
            removed.map_err(|error| OpenError::file(&data_dir.catalog(), error))?;
        }
        drop(intents);
        let current = |shard: &Shard| (shard.name().to_owned(), shard.progress.history().current());
        catalog.set_ready(&data_dir.catalog(), shards.iter().map(current).collect())?;
        let saved = Arc::new(saved(&data_dir, &shards));
        let footings = shards.iter().filter_map(|shard| shard.footing().cloned()).collect();
        let guard = Guard::start(&data_dir, footings);
        let guard = guard.map_err(|error| OpenError::io(&cluster.data_dir, error))?;
        let files = Files::new(saved, data_dir, guard);
        let manager = Self::new(
            catalog.map.clone(),
            registry,
            shards,
            catalog.token_key.clone(),
            Backing::Files(files),
        );
        manager.wait_for_replicas();
        manager.compare_copies();
        if let Backing::Files(files) = &manager.backing
            && files.data_dir.is_unclean()
        {
            manager.check_files(files);
        }
        Ok(manager)
    }

    /// Compares the copies of each shard from now on.
    fn compare_copies(&self) {
        let Backing::Files(files) = &self.backing else { return };
        // A replica that is sabotaged on purpose must not be mended.
        if is_on(Mutation::Resurrect) {
            return;
        }
        let shards = self.shards.iter().map(|shard| {
            let replicas = shard.file_replicas().into_iter().enumerate();
            let file = |index| files.data_dir.replica(shard.name(), index);
            Compared {
                name: shard.name().to_owned(),
                doubts: Arc::clone(shard.doubts()),
                progress: Arc::clone(&shard.progress),
                findings: std::iter::once(shard.findings())
                    .chain((0..).map_while(|index| shard.findings_of_replica(index)))
                    .map(Arc::clone)
                    .collect(),
                primary: files.data_dir.primary(shard.name()),
                footing: shard.footing().cloned(),
                replicas: replicas.map(|(index, replica)| (replica, file(index))).collect(),
            }
        });
        match Comparing::start(shards.collect(), &self.registry) {
            Ok(comparing) => drop(files.comparing.set(comparing)),
            Err(error) => tracing::error!(%error, "the copies of the shards cannot be compared"),
        }
    }

    /// A router that serves should have its replicas; one that takes long to be made is not waited for.
    fn wait_for_replicas(&self) {
        let deadline = Instant::now() + REPLICAS_WAIT;
        let ready = |shard: &Shard| shard.following() == shard.progress.replicas();
        while !self.shards.iter().all(ready) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// After a stop in bad order: looks at every page of every file, on a thread of its own. SQLite recovers
    /// from a crash by itself; this is for disks that do not keep what they synced. Until all were found well, the stop
    /// stays noted: a damaged replica that is mended now is looked at once more by the next start, and one that is not
    /// attached is mended when it is.
    fn check_files(&self, files: &Files) {
        let mut checks: Vec<(PathBuf, Option<Arc<Footing>>, Suspect)> = Vec::new();
        for shard in &self.shards {
            let primary = files.data_dir.primary(shard.name());
            checks.push((primary, shard.footing().cloned(), shard.primary_suspect()));
            let attached = shard.replica_suspects();
            let suspects = attached.chain(std::iter::repeat_with(|| Box::new(|| ()) as Suspect));
            let files = (0..Topology::REPLICAS_MAX)
                .map(|index| files.data_dir.replica(shard.name(), index));
            checks.extend(files.zip(suspects).map(|(file, suspect)| (file, None, suspect)));
        }
        // What is not there is made anew, or was never made.
        checks.retain(|(file, ..)| std::fs::metadata(file).is_ok_and(|file| file.len() > 0));
        let (closed, found_well) = (Arc::clone(&files.closed), files.data_dir.found_well());
        let work = move || {
            let mut well = true;
            for (file, footing, damaged) in &checks {
                if closed.load(Ordering::Acquire) {
                    return;
                }
                if footing.as_ref().is_some_and(|footing| footing.check().is_err()) {
                    // Another file may have taken its place, and must not be opened beside its WAL.
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
            tracing::info!(files, "the files were checked after a stop in bad order");
        };
        if let Err(error) = std::thread::Builder::new().name("check".to_owned()).spawn(work) {
            tracing::error!(%error, "the files cannot be checked");
        }
    }
}

fn saved(data_dir: &DataDir, shards: &[Shard]) -> Source {
    let shards = shards.iter().map(|shard| SavedShard {
        original: Original {
            shard: shard.name().to_owned(),
            primary: data_dir.primary(shard.name()),
        },
        footing: shard.footing().cloned(),
        gate: Arc::clone(shard.gate()),
        progress: Arc::clone(&shard.progress),
    });
    Source::new(data_dir.path(), data_dir.catalog(), shards.collect())
}

/// How long a start waits for its replicas: those of a small cluster are made in a moment.
const REPLICAS_WAIT: Duration = Duration::from_secs(1);

/// A shard whose files have been found good.
struct Found<'c> {
    name: &'c str,
    primary: PathBuf,
    position: u64,
    /// The replicas' files, and whether each may be used as it is.
    replicas: Vec<(PathBuf, bool)>,
}

/// Opens or makes the files of every shard, and finishes what was begun with their tables. Nothing begins before
/// every file has been found good: a start that is refused, again and again, leaves no trace.
fn open_shards(
    data_dir: &DataDir,
    catalog: &Catalog,
    pending: &[Intent],
) -> Result<(Registry, Vec<Shard>), OpenError> {
    let topology = catalog.map.topology();
    let mut found = Vec::with_capacity(topology.len());
    let mut declared = Vec::with_capacity(topology.len());
    for index in topology.indices() {
        let (shard, tables) = find_shard(data_dir, catalog, index)?;
        found.push(shard);
        declared.push(tables);
    }
    let Agreement { registry, changes } = agree(&declared, pending)?;
    // A timeline begins first: what is found of the file's past tells whether it was a replica's.
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
    let mut shards = Vec::with_capacity(begun.len());
    for (Found { name, primary, replicas, .. }, history, position) in begun {
        let progress = Progress::new(history, position, replicas.len());
        shards.push(open_shard(name, &primary, replicas, progress, &housekeeping)?);
    }
    Ok((registry, shards))
}

/// Opens a shard's files for writing and reading, and starts its replicas: of each the file, and whether it may be
/// used as it is.
fn open_shard(
    name: &str,
    primary: &Path,
    replicas: Vec<(PathBuf, bool)>,
    progress: Progress,
    housekeeping: &Housekeeping,
) -> Result<Shard, OpenError> {
    let progress = Arc::new(progress);
    let no_thread =
        |error: std::io::Error| OpenError::Io { path: name.to_owned(), cause: error.to_string() };
    let writer = SqliteWriter::open(name, primary, &progress)?;
    let footing = Arc::clone(writer.footing());
    let lane = Lane::start(name, writer).map_err(no_thread)?;
    let witness = Witness::primary(&progress);
    let readers = FileReaders::open_on(Some(&footing), (name, primary), witness, housekeeping)?;
    let readers = Arc::new(readers);
    let mut started: Vec<Replica> = Vec::with_capacity(replicas.len());
    for (index, (file, usable)) in replicas.into_iter().enumerate() {
        let (node, shard) = (format!("{name}-replica{}", index + 1), name.to_owned());
        let (primary, footing) = (primary.to_owned(), Arc::clone(&footing));
        let spec = ReplicaSpec { node, shard, primary, footing, file, usable, index };
        match FileReplica::start(spec, &progress, housekeeping) {
            Ok(replica) => started.push(Replica::Sqlite(replica)),
            Err(error) => {
                started.iter().for_each(Replica::stop);
                return Err(no_thread(error));
            }
        }
    }
    Ok(Shard::new(name, progress, lane, Readers::Sqlite(readers), started))
}

/// What a process that died was doing with the tables.
fn read_intents(data_dir: &DataDir, intents: &mut Intents) -> Result<Vec<Intent>, OpenError> {
    let pending = intents.list().map_err(|error| OpenError::file(&data_dir.catalog(), error))?;
    for Intent { state, table } in &pending {
        tracing::warn!(
            table = table.name(),
            ?state,
            "a change of the tables was cut off and is finished"
        );
    }
    Ok(pending)
}

fn find_shard<'c>(
    data_dir: &DataDir,
    catalog: &'c Catalog,
    index: ShardIndex,
) -> Result<(Found<'c>, Declared<'c>), OpenError> {
    let name = catalog.map.topology().name(index);
    let primary = data_dir.primary(name);
    let slots: Vec<u16> = catalog.map.slots_of(index).collect();
    let identity = Identity { cluster_id: &catalog.cluster_id, shard: name, slots: &slots };
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
