//! Catalog: the durable shard map of a cluster, in a database that all routers share.
//!
//! A router holds a lock of the catalog while it opens a cluster or changes its tables, and other
//! routers wait. Locks belong to sessions, so the lock of a router that crashes is released.
//!
//! **Invariant:** a router that reads the catalog in order to change it holds one of the catalog's
//! locks.
//! **Not here:** the contents of the catalog (`engine::cluster_spec`), the rows (`shard_database`).

mod access;
mod index_tables;
mod intents;
mod known_shards;
mod lead_lock;
mod map_tables;
mod move_tables;
mod rebalance_tables;
mod router_versions;

use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use engine::catalog_rows::ShardRow;
use engine::cluster_spec::{ClusterRow, ClusterSpec, differences};
use engine::open_error::OpenError;
use engine::system_tables::tessera_cluster::dsl;
use model::error::Error;
use model::shard_map::ShardMap;
use model::table::Registry;
use model::table_group::GroupNumber;
use model::token::TokenKey;

use super::shard_database::{has_rows, is_being_restored, migrate, tables, versions};
use super::statement::{Statement, load, run};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations/postgres/catalog");

pub use access::AccessTables;
pub use index_tables::IndexTables;
pub use intents::Intents;
pub use known_shards::{KnownShard, KnownShards};
pub use lead_lock::LeadLock;
pub use map_tables::{MapTables, StoredMap, arrivals_after, raise_epoch};
pub use move_tables::MoveTables;
pub use rebalance_tables::RebalanceTables;
pub use router_versions::{follower_purpose, older_routers};

/// Name of the catalog in errors.
pub const PLACE: &str = "the catalog";

/// Takes the lock for opening a cluster.
const OPENING: &str = "SELECT pg_advisory_lock(1950, 3)";
/// Takes the lock for changing tables.
const CHANGING: &str = "SELECT pg_advisory_lock(1950, 4)";

/// A session with the catalog.
pub struct Catalog {
    pub(super) connection: AsyncPgConnection,
}

/// Contents of a catalog.
pub struct Cluster {
    /// Id of the cluster. Every shard stores it as well.
    pub cluster_id: String,
    /// The current shard map.
    pub map: ShardMap,
    /// True if every shard was claimed for this cluster.
    pub ready: bool,
    /// Table groups for which it is not certain yet that the shards own their slots.
    pub unready_groups: Vec<GroupNumber>,
    /// Key that signs session tokens.
    pub token_key: TokenKey,
    /// Messages about settings that differ from the stored cluster and are therefore not in force.
    pub differences: Vec<String>,
}

/// Version of the tables. A sequence shows its new value before the transaction that has removed an
/// intent is committed, so the sequence alone could look unchanged afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TablesVersion {
    /// Grows whenever the tables have changed.
    changes: i64,
    /// Number of tables that are being created or dropped.
    intents: i64,
}

/// Version of the catalog, which routers poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatalogVersion {
    /// Version of the map.
    pub epoch: i64,
    /// Version of the tables.
    pub tables: TablesVersion,
    /// Grows whenever keys, roles, denials or the mode have changed.
    pub access: i64,
}

impl Catalog {
    /// Creates a catalog on a connection.
    pub fn on(connection: AsyncPgConnection) -> Self {
        Self { connection }
    }

    /// Locks the catalog to open the cluster, until [`Catalog::unlock`] is called or the session
    /// ends.
    ///
    /// # Errors
    /// [`OpenError`] if the lock is not free in time, or a restore was interrupted.
    pub async fn lock_to_open(self) -> Result<Self, OpenError> {
        let lock = Statement { sql: OPENING, binds: &[], cached: false };
        let locked = load(&self.connection, lock).await;
        locked.map_err(|error| {
            OpenError::node(PLACE, format!("another router is opening the cluster: {error}"))
        })?;
        let marked = is_being_restored(&self.connection).await;
        if marked.map_err(|error| OpenError::node(PLACE, error))? {
            let cause = "a restore into its database was interrupted: run the restore again";
            return Err(OpenError::node(PLACE, cause));
        }
        Ok(self)
    }

    /// Returns true if the catalog contains a cluster.
    ///
    /// # Errors
    /// [`OpenError`] if it cannot be read.
    pub async fn is_made(&self) -> Result<bool, OpenError> {
        let is_there = has_rows(&self.connection, "tessera_cluster").await;
        is_there.map_err(|error| OpenError::node(PLACE, error))
    }

    /// Brings the schema up to date.
    ///
    /// # Errors
    /// [`OpenError`] if the migration fails, or if a newer program has migrated the catalog.
    pub async fn migrate(mut self) -> Result<Self, OpenError> {
        if let Some(newer) = newer_migration(&self.connection).await? {
            let cause = format!(
                "its schema is newer than this program (it has {newer}): use the program that made it"
            );
            return Err(OpenError::node(PLACE, cause));
        }
        self.connection = migrate(self.connection, MIGRATIONS, PLACE).await?;
        // From here on, no other router can change tables either, until the locks are released.
        let lock = Statement { sql: CHANGING, binds: &[], cached: false };
        let locked = load(&self.connection, lock).await;
        locked.map_err(|error| {
            OpenError::node(PLACE, format!("another router is changing the catalog: {error}"))
        })?;
        Ok(self)
    }

    /// Releases all locks of the session.
    ///
    /// # Errors
    /// [`OpenError`] if the connection is lost.
    pub async fn unlock(&self) -> Result<(), OpenError> {
        run(&self.connection, "SELECT pg_advisory_unlock_all()")
            .await
            .map_err(|error| OpenError::node(PLACE, error))
    }

    /// Reads the cluster and adds the table groups that are new in the settings. If the catalog is
    /// empty, creates the cluster as specified, with shards of these names.
    ///
    /// # Errors
    /// [`OpenError::Conflict`] if the cluster was created with another keyspace.
    pub async fn cluster(
        &self,
        spec: &ClusterSpec,
        names: &[String],
    ) -> Result<Cluster, OpenError> {
        let failed = |error| OpenError::node(PLACE, error);
        let (row, stored) = match self.map_tables().read_and_add_groups(spec).await? {
            Some(found) => found,
            None => {
                let (row, map) = ClusterRow::new(spec, Some(names))?;
                let stored = StoredMap { shards: ShardRow::of(map.topology(), &[]), map };
                self.map_tables().make(&row, &stored).await.map_err(failed)?;
                (row, stored)
            }
        };
        let damaged = |cause: String| OpenError::node(PLACE, cause);
        let differences = differences(&stored.map, spec, PLACE)?;
        let token_key = row.token_key().map_err(damaged)?;
        let (cluster_id, ready, map) = (row.cluster_id, row.ready == 1, stored.map);
        let unready_groups = map_tables::unready_groups(&self.connection).await.map_err(failed)?;
        Ok(Cluster { cluster_id, map, ready, unready_groups, token_key, differences })
    }

    /// Records that every shard was claimed and owns its slots.
    ///
    /// # Errors
    /// [`OpenError`] if it cannot be written.
    pub async fn set_ready(&self) -> Result<(), OpenError> {
        let noted = diesel::update(dsl::tessera_cluster).set(dsl::ready.eq(1_i64));
        let noted = noted.execute(&mut &self.connection).await;
        noted.map_err(|error| OpenError::node(PLACE, error))?;
        let noted = map_tables::set_groups_ready(&self.connection).await;
        noted.map_err(|error| OpenError::node(PLACE, error))
    }

    /// Returns the version, which changes whenever the map, the tables, or the keys, roles, denials
    /// or mode have changed.
    ///
    /// # Errors
    /// The error of the query.
    pub async fn version(&self) -> QueryResult<CatalogVersion> {
        // A new sequence already shows the value that the first `nextval` returns, so `is_called`
        // is added.
        const VERSION: &str = "SELECT epoch, (SELECT last_value + is_called::integer
            FROM tessera_tables_changed), (SELECT count(*) FROM tessera_intents),
            (SELECT generation FROM tessera_access) FROM tessera_cluster";
        let rows =
            load(&self.connection, Statement { sql: VERSION, binds: &[], cached: true }).await?;
        let number = |column| rows.as_slice().first().and_then(|row| row.bigint(column));
        let version = || {
            let tables = TablesVersion { changes: number(1)?, intents: number(2)? };
            Some(CatalogVersion { epoch: number(0)?, tables, access: number(3)? })
        };
        version().ok_or(diesel::result::Error::NotFound)
    }

    /// Returns the tables that are declared in the database of the catalog, if it is also the
    /// database of a shard, and a position of its log: a replica that has reached the position has
    /// the declarations.
    ///
    /// # Errors
    /// The error of the query.
    pub async fn declared_tables(&self) -> QueryResult<(Registry, u64)> {
        tables(&self.connection).await
    }

    /// Locks the catalog to change tables, until [`Catalog::unlock`] is called or the session ends.
    ///
    /// # Errors
    /// [`Error`] if the lock is not free in time.
    pub async fn lock_to_change(self) -> Result<Self, Error> {
        let locked =
            load(&self.connection, Statement { sql: CHANGING, binds: &[], cached: false }).await;
        locked.map_err(|error| refused(&error))?;
        Ok(self)
    }

    /// Returns access to the shards and the owners of slots.
    pub fn map_tables(&self) -> MapTables<'_> {
        MapTables(&self.connection)
    }

    /// Returns access to the recorded intents, the changes of tables that are in progress.
    pub fn intents(&self) -> Intents<'_> {
        Intents(&self.connection)
    }

    /// Returns access to the keys, roles and denials.
    pub fn access(&self) -> AccessTables<'_> {
        AccessTables(&self.connection)
    }

    /// Subscribes the session to notifications of changes of the catalog.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn listen(&mut self) -> QueryResult<()> {
        run(&self.connection, "LISTEN tessera").await
    }

    /// Waits until the catalog notifies of a change of tables, the map, keys or roles; returns
    /// false if the connection is lost.
    pub async fn table_changed(&mut self) -> bool {
        use futures_util::StreamExt;
        let mut notified = std::pin::pin!(self.connection.notifications_stream());
        matches!(notified.next().await, Some(Ok(_)))
    }
}

/// Returns the result of a transaction, and rolls the transaction back first if it failed. Without
/// the rollback, every later statement of the session would fail. If the session is lost, the
/// rollback fails as well, which does no harm.
async fn or_rollback<T, E>(connection: &AsyncPgConnection, ended: Result<T, E>) -> Result<T, E> {
    if ended.is_err() {
        let _ = run(connection, "ROLLBACK").await;
    }
    ended
}

/// Returns the versions of the migrations of catalogs.
pub(super) fn migrations() -> Vec<String> {
    versions(&MIGRATIONS)
}

/// Returns the version of a catalog migration that this program does not know, if there is one.
async fn newer_migration(connection: &AsyncPgConnection) -> Result<Option<String>, OpenError> {
    let failed = |error| OpenError::node(PLACE, error);
    if !has_rows(connection, "__diesel_schema_migrations").await.map_err(failed)? {
        return Ok(None);
    }
    let known = migrations();
    let sql = "SELECT version::text FROM tessera.__diesel_schema_migrations ORDER BY 1";
    let rows = load(connection, Statement { sql, binds: &[], cached: false }).await;
    let rows = rows.map_err(failed)?;
    let mut found = rows.iter().filter_map(|row| row.text(0));
    Ok(found.find(|version| is_of_catalog(version) && !known.contains(version)))
}

/// Returns true if this is the version of a migration of the catalog. The catalog may share its
/// database with a shard and with analytics; the number after the date distinguishes their
/// migrations.
fn is_of_catalog(version: &str) -> bool {
    let number = version.get(8..).and_then(|number| number.parse::<u32>().ok());
    number.is_some_and(|number| (900_001..950_001).contains(&number))
}

/// Logs that a statement of the catalog failed, and returns the error for clients.
fn refused(error: &diesel::result::Error) -> Error {
    tracing::error!(%error, "the catalog cannot be used");
    super::db_error::DbErrorKind::of(error).error(PLACE)
}

/// Logs that the catalog cannot be reached, and returns the error for clients.
pub fn unavailable(cause: &dyn std::fmt::Display) -> Error {
    tracing::error!(%cause, "the catalog cannot be reached");
    Error::ShardUnavailable { shard: PLACE.to_owned() }
}
