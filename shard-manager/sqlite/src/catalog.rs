//! Catalog: the file that holds the shard map and the settings of an embedded cluster.
//!
//! **Not here:** the contents of the catalog (`engine::cluster_spec`, `engine::catalog_rows`), the
//! files with the rows of clients (`shard_file`).

mod inspection;
mod map_tables;

use std::collections::BTreeMap;
use std::path::Path;

use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use engine::catalog_rows::ShardRow;
use engine::cluster_spec::{ClusterRow, differences, warn_of_differences};
use engine::group_rows::with_new_groups;

use super::connection::{Statement, create, for_each_row, open};
use super::data_dir::{catalog_file, shard_file_in};
use super::schema_state::SchemaState;
use super::{OpenError, sql};
pub use engine::cluster_spec::{ClusterSpec, REPLICAS_DEFAULT, SHARDS_DEFAULT};
use engine::system_tables::tessera_cluster::dsl;
use model::map_change::MapChange;
use model::shard_map::ShardMap;
use model::table_group::GroupNumber;
use model::token::TokenKey;
use model::topology::{ShardNumber, ShardState};

pub(super) use inspection::{InspectedCatalog, inspect};
pub(super) use map_tables::{MapFault, StoredMap, change as change_map, shard_names};

pub(super) const MIGRATIONS: EmbeddedMigrations =
    embed_migrations!("../../migrations/sqlite/catalog");

/// Name in error messages of the place where the settings of the cluster are stored.
const PLACE: &str = "the data directory";

/// An open catalog.
pub struct FileCatalog {
    connection: SqliteConnection,
    /// Id of the cluster, which is also stored in every shard's file.
    pub cluster_id: String,
    /// The current shard map.
    pub map: ShardMap,
    /// True if every shard's file has been created.
    pub ready: bool,
    /// Table groups that were added to the catalog, but whose slots may not yet be recorded as
    /// owned in the files of the shards.
    pub unready_groups: Vec<GroupNumber>,
    /// Number of replicas of each shard.
    pub replicas: usize,
    /// Latest timeline that the primary of each shard has begun, by the name of the shard.
    pub timelines: BTreeMap<String, u32>,
    /// Key that signs session tokens.
    pub token_key: TokenKey,
}

/// Refuses a folder that cannot hold the specified cluster, before anything is created in it.
///
/// # Errors
/// [`OpenError::Foreign`] if the folder has files of shards but no catalog, [`OpenError::Conflict`]
/// if the specified settings are not valid for a new cluster.
pub fn check_start(folder: &Path, spec: &ClusterSpec) -> Result<(), OpenError> {
    let catalog = catalog_file(folder);
    if std::fs::metadata(&catalog).is_ok_and(|file| file.len() > 0) {
        return Ok(());
    }
    match shard_file_in(folder) {
        Some(file) => Err(OpenError::foreign(
            &catalog,
            format!(
                "the catalog is missing or empty, though {file} is there: without it the shards of the rows are unknown. Restore \
                 it from where it was moved to or from a backup, or name another folder for a new cluster"
            ),
        )),
        None => ClusterRow::new(spec, None).map(drop),
    }
}

impl FileCatalog {
    /// Opens the catalog, or creates it for a new cluster.
    ///
    /// # Errors
    /// [`OpenError::Conflict`] if the cluster was created with another keyspace; other errors if
    /// the file cannot be used.
    pub fn open(path: &Path, spec: &ClusterSpec) -> Result<Self, OpenError> {
        let mut connection = create(path)?;
        check_not_newer(&mut connection, path)?;
        let migrated = connection.run_pending_migrations(MIGRATIONS);
        migrated.map_err(|error| OpenError::file(path, error))?;
        let opened = connection.immediate_transaction(|connection| find_or_make(connection, spec));
        let (row, StoredMap { map, .. }) = opened.map_err(|fault| fault.of_file(path))?;
        let damaged = |cause: String| OpenError::foreign(path, cause);
        warn_of_differences(&differences(&map, spec, PLACE)?);
        let replicas = match spec.replicas {
            Some(replicas) => {
                let kept = diesel::update(dsl::tessera_cluster)
                    .set(dsl::replicas.eq(replicas as i64))
                    .execute(&mut connection);
                kept.map_err(|error| OpenError::file(path, error))?;
                replicas
            }
            None => row.replicas as usize,
        };
        let timelines = row.begun_timelines().map_err(damaged)?;
        let token_key = row.token_key().map_err(damaged)?;
        let (cluster_id, ready) = (row.cluster_id, row.ready == 1);
        let unready_groups = map_tables::unready_groups(&mut connection);
        let unready_groups = unready_groups.map_err(|error| OpenError::file(path, error))?;
        Ok(Self {
            connection,
            cluster_id,
            map,
            ready,
            unready_groups,
            replicas,
            timelines,
            token_key,
        })
    }

    /// Records that each shard has a file and owns its slots in it, and records the timeline that
    /// each primary has begun.
    ///
    /// # Errors
    /// [`OpenError::Database`] if the catalog cannot be written.
    pub fn set_ready(
        &mut self,
        path: &Path,
        timelines: BTreeMap<String, u32>,
    ) -> Result<(), OpenError> {
        let text = serde_json::to_string(&timelines).expect("names and numbers always serialise");
        let noted =
            diesel::update(dsl::tessera_cluster).set((dsl::ready.eq(1), dsl::timelines.eq(text)));
        let failed = |error| OpenError::file(path, error);
        noted.execute(&mut self.connection).map_err(failed)?;
        map_tables::set_groups_ready(&mut self.connection).map_err(failed)?;
        (self.ready, self.timelines) = (true, timelines);
        Ok(())
    }

    /// Completes the joins that were in progress when the last process ended: the shards change
    /// from joining to serving. Their files must have been opened already. `sync` is called first,
    /// and must make the directory entries of these files durable.
    ///
    /// # Errors
    /// [`OpenError`] if the folder or the catalog cannot be written.
    pub fn finish_joins(
        &mut self,
        path: &Path,
        sync: impl FnOnce() -> Result<(), OpenError>,
    ) -> Result<(), OpenError> {
        let members = self.map.topology().members();
        let joining = members.filter(|(_, shard)| shard.state == ShardState::Joining);
        let joining: Vec<ShardNumber> = joining.map(|(number, _)| number).collect();
        if joining.is_empty() {
            return Ok(());
        }
        sync()?;
        for shard in joining {
            let change = MapChange::State { shard, state: ShardState::Serving };
            let next = change_map(&mut self.connection, (&change, self.map.epoch()));
            self.map = next.map_err(|error| OpenError::file(path, error))?;
            let shard = self.map.topology().name(shard);
            tracing::warn!(shard, "a join was interrupted, and is finished: the shard serves now");
        }
        Ok(())
    }
}

/// Returns the latest timeline of a shard's primary that the catalog has recorded; `None` if it has
/// recorded none.
///
/// # Errors
/// [`OpenError`] if the catalog cannot be read.
pub(super) fn timeline_of(catalog: &Path, shard: &str) -> Result<Option<u32>, OpenError> {
    let mut connection = open(catalog, "")?;
    let row: ClusterRow = dsl::tessera_cluster
        .first(&mut connection)
        .map_err(|error| OpenError::file(catalog, error))?;
    let timelines = row.begun_timelines().map_err(|cause| OpenError::foreign(catalog, cause))?;
    Ok(timelines.get(shard).copied())
}

/// Records the timeline that the primary of one shard has begun.
///
/// # Errors
/// [`OpenError`] if the catalog cannot be written.
pub(super) fn record_timeline(catalog: &Path, shard: &str, timeline: u32) -> Result<(), OpenError> {
    let mut connection = open(catalog, "")?;
    let recorded = connection.immediate_transaction(|connection| {
        let row: ClusterRow = dsl::tessera_cluster.first(connection)?;
        let mut timelines = row.begun_timelines().map_err(MapFault::Damaged)?;
        timelines.insert(shard.to_owned(), timeline);
        let text = serde_json::to_string(&timelines).expect("names and numbers always serialise");
        diesel::update(dsl::tessera_cluster).set(dsl::timelines.eq(text)).execute(connection)?;
        Ok(())
    });
    recorded.map_err(|fault: MapFault| fault.of_file(catalog))
}

/// Returns the cluster's row and its shard map. If there is no cluster yet, a new one is stored. If
/// the catalog is of an earlier version, its map is copied into the separate tables for it. Table
/// groups that are new in the settings are added. Must run in a transaction.
fn find_or_make(
    connection: &mut SqliteConnection,
    spec: &ClusterSpec,
) -> Result<(ClusterRow, StoredMap), MapFault> {
    let found: Option<ClusterRow> = dsl::tessera_cluster.first(connection).optional()?;
    if let Some(row) = found {
        let mut stored = map_tables::read(connection, &row)?;
        if !row.has_own_tables() {
            map_tables::fill(connection, &stored)?;
        }
        // Settings that do not fit the cluster are refused before any group is added.
        differences(&stored.map, spec, PLACE)?;
        if let Some(next) = with_new_groups(&stored.map, &spec.groups)? {
            map_tables::add_groups(connection, (&stored.map, &next))?;
            stored.map = next;
        }
        return Ok((row, stored));
    }
    let (row, map) = ClusterRow::new(spec, None)?;
    diesel::insert_into(dsl::tessera_cluster).values(&row).execute(connection)?;
    let stored = StoredMap { shards: ShardRow::of(map.topology(), &[]), map };
    map_tables::fill(connection, &stored)?;
    Ok((row, stored))
}

/// Refuses a catalog that a newer version of the program has written, before any migration runs.
fn check_not_newer(connection: &mut SqliteConnection, path: &Path) -> Result<(), OpenError> {
    let mut is_migrated = false;
    let statement = Statement { sql: sql::HAS_MIGRATIONS, binds: &[], cached: false };
    let read = for_each_row(connection, statement, |_| {
        is_migrated = true;
        Ok(())
    });
    read.map_err(|error| OpenError::file(path, error))?;
    if !is_migrated {
        return Ok(());
    }
    SchemaState::read(connection, path, &MIGRATIONS)?.check_not_newer(path)
}
