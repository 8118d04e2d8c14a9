//! Copy: creates the files of a backup, which are one file for each shard and one for the catalog.
//!
//! A copy of a shard begins as a snapshot of the primary, replays the primary's change log like a
//! replica, and stops at a given position. If the primary has no writer, the snapshot is already
//! complete, whatever its schema. The finished copy is one file without a WAL. When a router starts
//! with it, it recognises that the primary may have continued after the copy, and skips the row
//! versions that the lost timeline may have assigned.
//!
//! **Invariant:** a finished copy is one synced file, without a WAL or other files beside it.
//! **Not here:** the choice of the position (`backup`).

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use engine::system_tables::{tessera_cluster, tessera_counts, tessera_shard};

use super::access_store;
use super::applier::{Applier, ApplyError};
use super::batch::run;
use super::catalog::{self, MapFault};
use super::connection::{Bind, Statement, for_each_row, open, open_unchanging};
use super::read_only::connect_read_only;
use super::{OpenError, private_file, snapshot, sql};

/// A copy of one shard, while it is being made.
pub struct ShardCopy {
    path: PathBuf,
    applier: Applier,
}

impl ShardCopy {
    /// Copies the current state of the primary. Blocks while the whole file is read and written.
    ///
    /// # Errors
    /// [`OpenError`] if one of the files cannot be used.
    pub fn make(primary: &Path, path: &Path, timeline: u32) -> Result<Self, OpenError> {
        snapshot::make(primary, path)?;
        let applier = Applier::open(primary, path, timeline)?;
        Ok(Self { path: path.to_owned(), applier })
    }

    /// Returns the folder of the copy, for messages.
    pub fn folder(&self) -> String {
        self.path.parent().unwrap_or(Path::new(".")).display().to_string()
    }

    /// Returns the position of the copy.
    pub fn position(&self) -> u64 {
        self.applier.position()
    }

    /// Returns the position of the primary.
    ///
    /// # Errors
    /// [`ApplyError`] if the primary's file cannot be read.
    pub fn primary_position(&mut self) -> Result<u64, ApplyError> {
        self.applier.primary_position()
    }

    /// Applies the log up to the position `until`. Stops between two transactions if `cancelled`
    /// returns true.
    ///
    /// # Errors
    /// [`ApplyError`] if one of the files cannot be used, or if the log was trimmed.
    pub fn follow(&mut self, until: u64, cancelled: impl Fn() -> bool) -> Result<(), ApplyError> {
        self.applier.stop_after(until);
        while !cancelled() && self.applier.step(false, None, |_| {})? {}
        Ok(())
    }

    /// Completes the copy as one synced file.
    ///
    /// # Errors
    /// [`OpenError`] if it cannot be written.
    pub fn finish(self) -> Result<(), OpenError> {
        let Self { path, applier } = self;
        applier.close();
        into_one_file(&path)
    }
}

/// Copies a primary without a writer into one synced file. Blocks.
///
/// # Errors
/// [`OpenError`] if one of the files cannot be used.
pub fn copy_at_rest(primary: &Path, path: &Path) -> Result<(), OpenError> {
    snapshot::make(primary, path)?;
    into_one_file(path)
}

/// Facts that are read from a finished copy of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardFacts {
    /// Id of the cluster.
    pub cluster_id: String,
    /// Name of the shard.
    pub shard: String,
    /// Position of the copy.
    pub position: u64,
    /// Number of rows of each table.
    pub rows: BTreeMap<String, i64>,
}

/// Reads the facts from a finished copy of a shard. Changes nothing.
///
/// # Errors
/// [`OpenError`] if it is not the file of a shard.
pub fn shard_facts(path: &Path) -> Result<ShardFacts, OpenError> {
    let mut connection = open_unchanging(path)?;
    let failed = |error| OpenError::file(path, error);
    let row = tessera_shard::table.select((
        tessera_shard::cluster_id,
        tessera_shard::shard,
        tessera_shard::position,
    ));
    let (cluster_id, shard, position): (String, String, i64) =
        row.first(&mut connection).map_err(failed)?;
    let rows: Vec<(String, i64)> = tessera_counts::table.load(&mut connection).map_err(failed)?;
    let rows = rows.into_iter().collect();
    Ok(ShardFacts { cluster_id, shard, position: position as u64, rows })
}

/// A copy of the catalog, which is first made in memory, so that writers do not wait for the disk
/// of the backup.
pub struct CatalogCopy {
    path: PathBuf,
    connection: SqliteConnection,
    /// Name of the database in memory that contains the copy.
    name: String,
}

impl CatalogCopy {
    /// Opens the catalog, and creates the database in memory for its copy.
    ///
    /// # Errors
    /// [`OpenError`] if the catalog cannot be used.
    pub fn open(catalog: &Path) -> Result<Self, OpenError> {
        let mut connection = open(catalog, "")?;
        // An in-memory database can be attached by its name only if the name begins with a slash.
        let name = format!("file:/catalog-{}?vfs=memdb", uuid::Uuid::new_v4().simple());
        let attached = run(&mut connection, sql::ATTACH_TAKEN, &[Bind::Text(&name)]);
        attached.map_err(|error| OpenError::file(catalog, error))?;
        Ok(Self { path: catalog.to_owned(), connection, name })
    }

    /// Returns the names of the shards that the catalog lists now, except those that are joining.
    ///
    /// # Errors
    /// [`OpenError`] if it cannot be read.
    pub fn shards(&mut self) -> Result<Vec<String>, OpenError> {
        let facts = read_catalog(&mut self.connection);
        facts.map(|facts| facts.shards).map_err(|fault| fault.of_file(&self.path))
    }

    /// Copies the catalog as it is now. Because the catalog is small, this takes less than a
    /// millisecond.
    ///
    /// # Errors
    /// [`OpenError`] if it cannot be read.
    pub fn take(&mut self) -> Result<(), OpenError> {
        let taken = run(&mut self.connection, sql::VACUUM_INTO, &[Bind::Text(&self.name)]);
        taken.map_err(|error| OpenError::file(&self.path, error))
    }

    /// Writes the copy to a file.
    ///
    /// # Errors
    /// [`OpenError`] if it cannot be written.
    pub fn write(mut self, path: &Path) -> Result<(), OpenError> {
        private_file::create_empty(path).map_err(|error| OpenError::io(path, error))?;
        let to = path.to_string_lossy();
        let written = run(&mut self.connection, sql::VACUUM_TAKEN_INTO, &[Bind::Text(&to)]);
        written.map_err(|error| OpenError::file(path, error))
    }
}

/// Records in the copy of a catalog that the cluster may have continued after the copy, and
/// completes the copy as one synced file.
///
/// The next start then treats each shard's file as an older copy, even if it is empty: see
/// `timeline`. A catalog of the oldest schema has no column for this, because the programs that
/// wrote it did not know timelines.
///
/// # Errors
/// [`OpenError`] if it cannot be written.
pub fn finish_catalog(path: &Path, shards: &[&str]) -> Result<CatalogFacts, OpenError> {
    let with_path = |error| OpenError::file(path, error);
    let mut connection = open(path, "")?;
    if knows_timelines(&mut connection).map_err(with_path)? {
        let unknown = || uuid::Uuid::new_v4().as_u128() as u32;
        let timelines: BTreeMap<&str, u32> =
            shards.iter().map(|shard| (*shard, unknown())).collect();
        let timelines =
            serde_json::to_string(&timelines).expect("names and numbers always serialise");
        let noted = diesel::update(tessera_cluster::table)
            .set(tessera_cluster::timelines.eq(timelines))
            .execute(&mut connection);
        noted.map_err(with_path)?;
    }
    let facts = read_catalog(&mut connection).map_err(|fault| fault.of_file(path))?;
    drop(connection);
    into_one_file(path)?;
    Ok(facts)
}

/// Suspends every API key in the copy of a catalog. The copy is a single synced file before and
/// after.
///
/// # Errors
/// [`OpenError`] if it cannot be written.
pub fn suspend_keys(path: &Path) -> Result<(), OpenError> {
    let mut connection = open(path, "")?;
    let suspended = access_store::suspend_keys(&mut connection);
    suspended.map_err(|error| OpenError::file(path, error))?;
    drop(connection);
    into_one_file(path)
}

/// Returns the row version that was last assigned in a shard's file. The file may have a WAL.
///
/// # Errors
/// [`OpenError`] if it is not the file of a shard.
pub(super) fn last_version(path: &Path) -> Result<i64, OpenError> {
    let mut connection = connect_read_only(path)?;
    let version = tessera_shard::table.select(tessera_shard::version).first(&mut connection);
    version.map_err(|error| OpenError::file(path, error))
}

/// Ensures that row versions that are assigned in a copy from now on are above `version`. The copy
/// is a single synced file before and after.
///
/// # Errors
/// [`OpenError`] if it cannot be written.
pub(super) fn continue_above(path: &Path, version: i64) -> Result<(), OpenError> {
    let mut connection = open(path, "")?;
    let lower = tessera_shard::table.filter(tessera_shard::version.lt(version));
    let raised = diesel::update(lower).set(tessera_shard::version.eq(version));
    raised.execute(&mut connection).map_err(|error| OpenError::file(path, error))?;
    drop(connection);
    into_one_file(path)
}

fn knows_timelines(connection: &mut SqliteConnection) -> QueryResult<bool> {
    let mut knows = false;
    let statement = Statement { sql: sql::HAS_TIMELINES, binds: &[], cached: false };
    for_each_row(connection, statement, |_| {
        knows = true;
        Ok(())
    })?;
    Ok(knows)
}

/// Facts that are read from a catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogFacts {
    /// Id of the cluster.
    pub cluster_id: String,
    /// Epoch, which is the version of the shard map.
    pub epoch: u64,
    /// Names of the shards, except those that are joining.
    pub shards: Vec<String>,
}

/// Reads the facts from the catalog of a finished copy. Changes nothing.
///
/// # Errors
/// [`OpenError`] if it is not a catalog.
pub fn catalog_facts(path: &Path) -> Result<CatalogFacts, OpenError> {
    read_catalog(&mut open_unchanging(path)?).map_err(|fault| fault.of_file(path))
}

fn read_catalog(connection: &mut SqliteConnection) -> Result<CatalogFacts, MapFault> {
    let row = tessera_cluster::table.select((
        tessera_cluster::cluster_id,
        tessera_cluster::epoch,
        tessera_cluster::shards,
    ));
    let (cluster_id, epoch, shards): (String, i64, String) = row.first(connection)?;
    let shards = catalog::shard_names(connection, &shards)?;
    Ok(CatalogFacts { cluster_id, epoch: epoch as u64, shards })
}

/// Checkpoints the WAL into the file and removes it, so that the file can be read on read-only
/// media.
fn into_one_file(path: &Path) -> Result<(), OpenError> {
    drop(open(path, "PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode=DELETE")?);
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|error| OpenError::io(path, error))
}
