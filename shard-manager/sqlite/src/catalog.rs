//! Catalog: the durable shard map of an embedded cluster, in a file of its own.
//!
//! **Not here:** the contents of the catalog (`engine::cluster_spec`, `engine::catalog_rows`), the
//! rows (`shard_file`).

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

/// Name of the catalog in errors.
const PLACE: &str = "the data directory";

/// An open catalog.
pub struct FileCatalog {
    connection: SqliteConnection,
    /// Id of the cluster, which every file repeats.
    pub cluster_id: String,
    /// The current shard map.
    pub map: ShardMap,
    /// True if every shard's file has been created.
    pub ready: bool,
    /// Table groups whose slots may not be owned by their shards yet.
    pub unready_groups: Vec<GroupNumber>,
    /// Number of replicas of each shard.
    pub replicas: usize,
    /// Timeline that the primary of each shard began last, by the name of the shard.
    pub timelines: BTreeMap<String, u32>,
    /// Key that signs session tokens.
    pub token_key: TokenKey,
}

/// Refuses a folder in which the specified cluster cannot exist, before anything is created there.
///
/// # Errors
/// [`OpenError::Foreign`] if there are shards without their catalog, [`OpenError::Conflict`] if a
/// new cluster cannot have the specified settings.
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

    /// Records that every shard has its file and owns its slots, and the timeline that each primary
    /// has begun.
    ///
    /// # Errors
    /// [`OpenError::Database`] if it cannot be written.
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

    /// Lets those shards serve that were joining when the last process ended. Their files have been
    /// opened; `sync` first makes the names of these files durable.
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

/// Returns the timeline that the primary of a shard began last, as far as the catalog knows.
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

/// Returns the row of the cluster and its map. A new cluster is stored, the map of an earlier
/// version is copied into tables of its own, and new groups of the settings are added. Runs in one
/// transaction.
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
        // A refused start adds no group.
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

/// Refuses a catalog of a newer program, before it is migrated.
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
