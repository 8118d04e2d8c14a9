//! Migrate: brings the files of a stopped cluster to the schema of this program.
//!
//! A router migrates its files when it starts. This command migrates them in advance, so that an
//! operator sees the result and the duration. All files are checked before the first is changed.
//! Each migration is a transaction, so an interrupted run continues where it stopped.
//!
//! **Invariant:** no file is changed while another is foreign, lost, or of a newer program.
//! **Not here:** the migrations themselves (`migrations/`).

use std::path::{Path, PathBuf};

use diesel::sqlite::SqliteConnection;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness};
use model::topology::Topology;

use super::connection::{Statement, for_each_row, open};
use super::data_dir::{DataDir, catalog_file, primary_file, replica_file};
use super::read_only::connect_read_only;
use super::schema_state::SchemaState;
use super::{OpenError, catalog, check_version, shard_file, sql};

/// A file, and its migrations that ran or would run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// Name of the file, such as `shard1-primary.db`.
    pub file: String,
    /// Names of migrations.
    pub applied: Vec<String>,
}

/// A file of a cluster and the migrations of its kind.
struct Target {
    path: PathBuf,
    migrations: EmbeddedMigrations,
    state: SchemaState,
}

/// Returns the work of [`migrate`]. Changes nothing, and may run while a router runs.
///
/// # Errors
/// [`OpenError`] if a file is missing, foreign or newer than this program.
pub fn plan(folder: &Path) -> Result<Vec<Migrated>, OpenError> {
    check_version()?;
    let planned =
        |target: Target| Migrated { file: name(&target.path), applied: target.state.pending };
    Ok(targets(folder)?.into_iter().map(planned).collect())
}

/// Migrates every file of a stopped cluster, and calls `done` after each.
///
/// # Errors
/// [`OpenError::Locked`] if a router runs; other errors if a file cannot be used. Files that were
/// passed to `done` are migrated.
pub fn migrate(folder: &Path, mut done: impl FnMut(&Migrated)) -> Result<(), OpenError> {
    // Checked first without the lock, because locking would create a folder.
    plan(folder)?;
    let data_dir = DataDir::open(folder)?;
    let migrated = targets(folder).and_then(|targets| {
        for Target { path, migrations, .. } in targets {
            let applied = migrate_file(&path, migrations)?;
            done(&Migrated { file: name(&path), applied });
        }
        Ok(())
    });
    data_dir.close();
    migrated
}

/// File of a shard's primary, which was checked to belong to the shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrimaryFile {
    /// Name of the shard.
    pub shard: String,
    /// Path of the file.
    pub path: PathBuf,
}

/// Returns the primaries of a cluster with any schema, for a backup before the migration. Changes
/// nothing.
///
/// # Errors
/// [`OpenError`] if a file is missing, foreign or newer than this program.
pub fn primaries(folder: &Path) -> Result<Vec<PrimaryFile>, OpenError> {
    check_version()?;
    let (cluster, _) = Cluster::of(folder)?;
    let files = cluster.shards.iter().map(|shard| {
        let path = primary_file(folder, shard);
        if !path.exists() && !cluster.ready {
            let cause =
                "the creation of the cluster was interrupted; a start of the router completes it";
            return Err(OpenError::foreign(&path, cause));
        }
        cluster
            .target(path, shard)
            .map(|found| PrimaryFile { shard: shard.clone(), path: found.path })
    });
    files.collect()
}

fn migrate_file(path: &Path, migrations: EmbeddedMigrations) -> Result<Vec<String>, OpenError> {
    let mut connection = open(path, "")?;
    let mut state = SchemaState::read(&mut connection, path, &migrations)?;
    let applied = connection.run_pending_migrations(migrations);
    let applied = applied.map_err(|error| OpenError::file(path, error))?.len();
    state.pending.truncate(applied);
    Ok(state.pending)
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Returns every file of the cluster, after checking all of them.
fn targets(folder: &Path) -> Result<Vec<Target>, OpenError> {
    let (cluster, catalog) = Cluster::of(folder)?;
    let mut targets = vec![catalog];
    for shard in &cluster.shards {
        let primary = primary_file(folder, shard);
        if primary.exists() || cluster.ready {
            targets.push(cluster.target(primary, shard)?);
        }
        // All replicas that exist: the oldest schema does not contain their number, and a start
        // rebuilds missing ones.
        let replicas = (0..Topology::REPLICAS_MAX).map(|index| replica_file(folder, shard, index));
        for replica in replicas.filter(|replica| replica.exists()) {
            targets.push(cluster.target(replica, shard)?);
        }
    }
    Ok(targets)
}

fn target(
    connection: &mut SqliteConnection,
    path: &Path,
    migrations: EmbeddedMigrations,
) -> Result<Target, OpenError> {
    let state = SchemaState::read(connection, path, &migrations)?;
    state.check_not_newer(path)?;
    Ok(Target { path: path.to_owned(), migrations, state })
}

/// Facts about a cluster with any schema.
struct Cluster {
    id: String,
    shards: Vec<String>,
    ready: bool,
}

impl Cluster {
    /// Reads the catalog of a folder.
    fn of(folder: &Path) -> Result<(Self, Target), OpenError> {
        let path = catalog_file(folder);
        if !path.exists() {
            return Err(OpenError::io(folder, "there is no cluster here (no catalog.db)"));
        }
        let mut connection = connect_read_only(&path)?;
        let target = target(&mut connection, &path, catalog::MIGRATIONS)?;
        Ok((Self::read(&mut connection, &path)?, target))
    }

    fn read(connection: &mut SqliteConnection, path: &Path) -> Result<Self, OpenError> {
        let (mut id, mut shards, mut ready) = (None, String::new(), false);
        let statement = Statement { sql: sql::CLUSTER, binds: &[], cached: false };
        for_each_row(connection, statement, |row| {
            id = row.text(0, str::to_owned);
            shards = row.text(1, str::to_owned).unwrap_or_default();
            ready = row.int(2) == Some(1);
            Ok(())
        })
        .map_err(|error| OpenError::file(path, error))?;
        let id = id.ok_or_else(|| OpenError::foreign(path, "no cluster was created here yet"))?;
        let shards = catalog::shard_names(connection, &shards);
        let shards = shards.map_err(|fault| fault.of_file(path))?;
        Ok(Self { id, shards, ready })
    }

    fn target(&self, path: PathBuf, shard: &str) -> Result<Target, OpenError> {
        let mut connection = connect_read_only(&path)?;
        let target = target(&mut connection, &path, shard_file::MIGRATIONS)?;
        let mut own = false;
        let statement = Statement { sql: sql::SIGNED, binds: &[], cached: false };
        for_each_row(&mut connection, statement, |row| {
            let same = |column, text: &str| row.text(column, |found| found == text) == Some(true);
            own = same(0, &self.id) && same(1, shard);
            Ok(())
        })
        .map_err(|error| OpenError::file(&path, error))?;
        if own {
            Ok(target)
        } else {
            Err(OpenError::foreign(&path, "it is not the file of this shard"))
        }
    }
}
