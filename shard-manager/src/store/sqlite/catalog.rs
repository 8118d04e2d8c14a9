//! Catalog: the durable shard map of an embedded cluster, in a file of its own.
//!
//! **Not here:** what it says (`store::cluster`), the rows (`shard_file`).

mod look;

use std::collections::BTreeMap;
use std::path::Path;

use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use super::OpenError;
use super::connection::create;
use super::data_dir::{catalog_file, shard_file_in};
use crate::shard_map::ShardMap;
use crate::store::cluster::{ClusterRow, check_wanted};
pub use crate::store::cluster::{REPLICAS_DEFAULT, SHARDS_DEFAULT, Wanted};
use crate::store::schema::tessera_cluster::dsl;
use crate::token::TokenKey;

pub(super) use look::{Looked, look};

pub(super) const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../migrations/sqlite/catalog");

/// What the operator knows the cluster by.
const PLACE: &str = "the data directory";

/// An open catalog.
pub struct Catalog {
    connection: SqliteConnection,
    /// Who this cluster is: every file of it says the same.
    pub cluster_id: String,
    /// The map in force.
    pub map: ShardMap,
    /// Whether every shard's file has been made.
    pub ready: bool,
    /// How many replicas each shard has.
    pub replicas: usize,
    /// The timeline that each shard's primary began last, by the shard's name.
    pub timelines: BTreeMap<String, u32>,
    /// What session tokens are signed with.
    pub token_key: TokenKey,
}

/// Refuses a folder in which the wanted cluster cannot exist, before anything is created there.
///
/// # Errors
/// [`OpenError::Foreign`] if there are shards without their catalog, [`OpenError::Conflict`] if a
/// new cluster cannot have the wanted settings.
pub fn check_start(folder: &Path, wanted: &Wanted) -> Result<(), OpenError> {
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
        None => ClusterRow::new(wanted, None).map(drop),
    }
}

impl Catalog {
    /// Opens the catalog, or makes it for a new cluster as wanted.
    ///
    /// # Errors
    /// [`OpenError::Conflict`] if the cluster is another than wanted; the others if the file cannot be
    /// used.
    pub fn open(path: &Path, wanted: &Wanted) -> Result<Self, OpenError> {
        let mut connection = create(path)?;
        let migrated = connection.run_pending_migrations(MIGRATIONS);
        migrated.map_err(|error| OpenError::file(path, error))?;
        let found: Option<ClusterRow> = dsl::tessera_cluster
            .first(&mut connection)
            .optional()
            .map_err(|error| OpenError::file(path, error))?;
        let row = match found {
            Some(row) => row,
            None => {
                let row = ClusterRow::new(wanted, None)?;
                let stored = diesel::insert_into(dsl::tessera_cluster).values(&row);
                stored.execute(&mut connection).map_err(|error| OpenError::file(path, error))?;
                row
            }
        };
        row.check_hash(PLACE)?;
        let damaged = |cause: String| OpenError::foreign(path, cause);
        let map = row.map().map_err(damaged)?;
        check_wanted(&map, wanted, PLACE)?;
        let replicas = match wanted.replicas {
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
        Ok(Self { connection, cluster_id, map, ready, replicas, timelines, token_key })
    }

    /// Notes that every shard's file is there, and which timeline each primary has begun.
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
        noted.execute(&mut self.connection).map_err(|error| OpenError::file(path, error))?;
        (self.ready, self.timelines) = (true, timelines);
        Ok(())
    }
}
