//! Shard database: claims, migrates and checks the database of a shard when a router starts, and
//! reads its tables.
//!
//! **Invariant:** after [`ShardDatabase::prepare`] the database belongs to this cluster and this
//! shard, its schema is current, and its tables are the declared ones.
//! **Not here:** rows (`writer`, `readers`).

use std::collections::BTreeSet;
use std::sync::Arc;

use diesel::QueryResult;
use diesel::migration::{Migration, MigrationSource};
use diesel::pg::Pg;
use diesel_async::AsyncMigrationHarness;
use diesel_async::AsyncPgConnection;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use engine::SchemaChange;
use engine::open_error::OpenError;
use model::shard_map::MapGroups;
use model::slot_set::SlotSet;
use model::table::{Registry, Table};

use super::citus::{Citus, setup};
use super::hazards::Hazards;
use super::insert_predictor::InsertPredictor;
use super::lane_session::LaneSession;
use super::session::Identity;
use super::statement::{Bind, Prepared, Statement, load, run};
use super::statement_cache::StatementCache;
use super::{ddl, declarations, sql};

/// Lock that lets one router at a time claim and migrate a database. It is held until the session
/// of the [`ShardDatabase`] ends.
const CLAIMING: &str = "SELECT pg_advisory_lock(1950, 6)";

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations/postgres/shard");

/// The database of a shard while a cluster is opened.
pub struct ShardDatabase {
    name: String,
    session: LaneSession,
    /// Identity of the server.
    pub identity: Identity,
}

/// Expected owner of a database.
#[derive(Clone, Debug)]
pub struct Claim<'i> {
    /// Id of the cluster in the catalog.
    pub cluster_id: &'i str,
    /// Name of the shard.
    pub shard: &'i str,
    /// Slots of the shard, if it is claimed now.
    pub slots: &'i [u16],
    /// Slots of new table groups that the shard is to own, except those that already have a state.
    pub new_slots: &'i SlotSet,
    /// Table groups of the cluster.
    pub groups: MapGroups<'i>,
    /// True if the database may be claimed now.
    pub is_new: bool,
}

impl Claim<'_> {
    /// Checks that a database with this signature (the id of a cluster and the name of a shard) may
    /// be used.
    ///
    /// # Errors
    /// A sentence with the remedy.
    fn check(&self, signature: Option<&(String, String)>) -> Result<(), String> {
        match signature {
            None if self.is_new => Ok(()),
            None => Err("the database is empty, and held rows: restore it from a backup before starting"
                .to_owned()),
            Some((cluster, _)) if cluster != self.cluster_id => {
                Err("the database belongs to another cluster: use an empty one, or the catalog of that cluster"
                    .to_owned())
            }
            Some((_, shard)) if shard != self.shard => {
                Err(format!("the database is that of {shard}, not of {}", self.shard))
            }
            Some(_) => Ok(()),
        }
    }
}

/// Contents of a database that may be used.
#[derive(Debug)]
pub struct Found {
    /// Declared tables.
    pub tables: Registry,
    /// Names of the tables that clients created; the others come with every database.
    pub made: BTreeSet<String>,
    /// End of the log.
    pub position: u64,
}

impl ShardDatabase {
    /// Creates the database from a connection to it, with this name in messages.
    pub fn on(
        name: String,
        connection: AsyncPgConnection,
        identity: Identity,
        citus: Option<Arc<Citus>>,
    ) -> Self {
        let (prepared, statements, insert_predictor) =
            (Prepared::default(), StatementCache::default(), InsertPredictor::default());
        let session = LaneSession { connection, prepared, statements, insert_predictor, citus };
        Self { name, session, identity }
    }

    /// Migrates the database, and claims it for the shard if it is new.
    ///
    /// # Errors
    /// [`OpenError`] if it belongs to another shard, has lost its rows or a part of a copy, or
    /// declares tables that it does not have.
    pub async fn prepare(mut self, claim: &Claim<'_>) -> Result<(Self, Found), OpenError> {
        let LaneSession { connection, prepared, statements, insert_predictor, citus } =
            self.session;
        let failed = |error| OpenError::node(&self.name, error);
        let lock = Statement { sql: CLAIMING, binds: &[], cached: false };
        load(&connection, lock).await.map_err(failed)?;
        if is_being_restored(&connection).await.map_err(failed)? {
            let cause = "a restore into this database is running or was interrupted: wait for it, or run it again";
            return Err(OpenError::node(&self.name, cause));
        }
        let signed = signature(&connection).await.map_err(failed)?;
        claim.check(signed.as_ref()).map_err(|cause| OpenError::node(&self.name, cause))?;
        let connection = migrate(connection, MIGRATIONS, &self.name).await?;
        if signed.is_none() {
            sign(&connection, claim).await.map_err(failed)?;
        }
        extend_to_groups(&connection, claim).await.map_err(failed)?;
        self.session = LaneSession { connection, prepared, statements, insert_predictor, citus };
        let failed = |error| OpenError::node(&self.name, error);
        let connection = &self.session.connection;
        let (tables, made) = declarations::load(connection).await.map_err(failed)?;
        let tables = Registry::new(tables);
        if let Some(difference) = declarations::drift(connection, &tables).await.map_err(failed)? {
            return Err(OpenError::node(
                &self.name,
                format!(
                    "{difference}. Another program has changed its schema: undo that, so that all shards are alike"
                ),
            ));
        }
        if let Some(citus) = &self.session.citus {
            self.distribute(citus, &tables).await?;
        }
        let position = self.position().await.map_err(failed)?;
        Ok((self, Found { tables, made, position }))
    }

    /// Distributes tables that are not distributed, and reads where Citus has placed them.
    async fn distribute(&self, citus: &Citus, tables: &Registry) -> Result<(), OpenError> {
        let failed = |error| OpenError::node(&self.name, error);
        let connection = &self.session.connection;
        let tables: Vec<&Table> = tables.tables().map(|table| &**table).collect();
        setup::distribute(connection, &tables).await.map_err(failed)?;
        let misdistributed = setup::misdistributed_table(connection, &tables).await;
        if let Some(table) = misdistributed.map_err(failed)? {
            let cause = format!(
                "the table {table} is distributed otherwise than Tessera's others: by shard_key, and co-located with \
                 tessera.tessera_idempotency, it has to be. SELECT alter_distributed_table(…) does that"
            );
            return Err(OpenError::node(&self.name, cause));
        }
        citus.refresh(connection).await.map(drop).map_err(failed)
    }

    /// Finishes changes of the tables that were begun.
    ///
    /// # Errors
    /// [`OpenError`] if a change fails.
    pub async fn settle(&mut self, changes: &[SchemaChange]) -> Result<(), OpenError> {
        for change in changes {
            let changed = ddl::change(&mut self.session, change).await;
            changed.map_err(|failed| {
                let table = change.table().name();
                OpenError::node(&self.name, format!("table {table}: {:?}", failed.kind))
            })?;
        }
        Ok(())
    }

    /// Returns the declared tables, and a position at which a replica knows them.
    ///
    /// # Errors
    /// The error of the query.
    pub async fn tables(&self) -> QueryResult<(Registry, u64)> {
        tables(&self.session.connection).await
    }

    /// Returns the hazards of its tables.
    ///
    /// # Errors
    /// The error of the query.
    pub async fn hazards(&self) -> QueryResult<Hazards> {
        Hazards::of_database(&self.session.connection).await
    }

    /// Returns the end of the log.
    ///
    /// # Errors
    /// The error of the query.
    pub async fn position(&self) -> QueryResult<u64> {
        position(&self.session.connection).await
    }
}

/// Returns the declared tables of a database, and a position at which a replica knows them.
pub(super) async fn tables(connection: &AsyncPgConnection) -> QueryResult<(Registry, u64)> {
    let (tables, _) = declarations::load(connection).await?;
    Ok((Registry::new(tables), position(connection).await?))
}

async fn position(connection: &AsyncPgConnection) -> QueryResult<u64> {
    let statement = Statement { sql: sql::POSITION, binds: &[], cached: false };
    let rows = load(connection, statement).await?;
    Ok(rows.first().and_then(|row| row.bigint(0)).unwrap_or(0).cast_unsigned())
}

/// Returns the versions of the migrations of shards.
pub(super) fn migrations() -> Vec<String> {
    versions(&MIGRATIONS)
}

/// Returns the versions of migrations.
pub(super) fn versions(migrations: &EmbeddedMigrations) -> Vec<String> {
    // Embedded migrations were read when the program was built, so this cannot fail.
    let known: Vec<Box<dyn Migration<Pg>>> = migrations.migrations().unwrap_or_default();
    known.iter().map(|known| known.name().version().to_string()).collect()
}

/// Brings the schema of a shard in a database up to date.
///
/// # Errors
/// [`OpenError`] if a migration fails.
pub(super) async fn migrate_shard(
    connection: AsyncPgConnection,
    name: &str,
) -> Result<AsyncPgConnection, OpenError> {
    migrate(connection, MIGRATIONS, name).await
}

/// Returns true if a copy is being restored into a database, or a restore was interrupted there.
pub(super) async fn is_being_restored(connection: &AsyncPgConnection) -> QueryResult<bool> {
    let sql = "SELECT to_regclass('tessera.tessera_restore') IS NOT NULL";
    let marked = load(connection, Statement { sql, binds: &[], cached: false }).await?;
    Ok(marked.first().and_then(|row| row.boolean(0)) == Some(true))
}

/// Creates the schema of Tessera and runs the pending migrations. Each migration is a transaction,
/// and the next start retries one that failed.
pub(super) async fn migrate(
    connection: AsyncPgConnection,
    migrations: EmbeddedMigrations,
    name: &str,
) -> Result<AsyncPgConnection, OpenError> {
    let reported = |error| OpenError::node(name, error);
    // The user that created the schema may have lost the right to create another.
    let there = "SELECT to_regnamespace('tessera') IS NOT NULL";
    let there = load(&connection, Statement { sql: there, binds: &[], cached: false }).await;
    if there.map_err(reported)?.first().and_then(|row| row.boolean(0)) != Some(true) {
        run(&connection, "CREATE SCHEMA IF NOT EXISTS tessera").await.map_err(reported)?;
    }
    let mut harness = AsyncMigrationHarness::new(connection);
    let migrated = harness.run_pending_migrations(migrations).map(drop);
    migrated.map_err(|error| OpenError::node(name, format!("a migration failed: {error}")))?;
    Ok(harness.into_inner())
}

/// Returns the id of the cluster and the name of the shard of a database, if it belongs to one.
///
/// # Errors
/// The error of the query.
pub async fn signature(connection: &AsyncPgConnection) -> QueryResult<Option<(String, String)>> {
    if !has_rows(connection, "tessera_shard").await? {
        return Ok(None);
    }
    signed(connection).await
}

/// Returns true if a table of Tessera exists and has rows.
pub(super) async fn has_rows(connection: &AsyncPgConnection, table: &str) -> QueryResult<bool> {
    let sql = format!("SELECT to_regclass('tessera.{table}') IS NOT NULL");
    let there = load(connection, Statement { sql: &sql, binds: &[], cached: false }).await?;
    if there.first().and_then(|row| row.boolean(0)) != Some(true) {
        return Ok(false);
    }
    let sql = format!("SELECT FROM tessera.{table} LIMIT 1");
    let rows = load(connection, Statement { sql: &sql, binds: &[], cached: false }).await?;
    Ok(!rows.is_empty())
}

async fn signed(connection: &AsyncPgConnection) -> QueryResult<Option<(String, String)>> {
    let signed = "SELECT cluster_id, shard FROM tessera.tessera_shard";
    let rows = load(connection, Statement { sql: signed, binds: &[], cached: false }).await?;
    Ok(rows.first().and_then(|row| row.text(0).zip(row.text(1))))
}

/// Records the cluster and the shard in a new database, and assigns its slots and the groups of its
/// tables, in one transaction.
async fn sign(connection: &AsyncPgConnection, claim: &Claim<'_>) -> QueryResult<()> {
    run(connection, "BEGIN").await?;
    let binds = [Bind::text(claim.cluster_id), Bind::text(claim.shard)];
    let sql = "INSERT INTO tessera_shard (id, cluster_id, shard) VALUES (1, $1, $2)";
    load(connection, Statement { sql, binds: &binds, cached: false }).await?;
    let slots = [Bind::integers(claim.slots.iter().map(|slot| i32::from(*slot)))];
    let sql =
        "INSERT INTO tessera_slots (slot, state) SELECT slot, 'owned' FROM unnest($1) AS s (slot)";
    load(connection, Statement { sql, binds: &slots, cached: false }).await?;
    for (table, group) in claim.groups.tables() {
        let binds = [Bind::text(&table), Bind::bigint(group.index() as i64)];
        let sql = "UPDATE tessera_tables SET group_number = $2 WHERE name = $1";
        load(connection, Statement { sql, binds: &binds, cached: false }).await?;
    }
    run(connection, "COMMIT").await
}

/// Extends the slot bits of a shard to all table groups, and gives it its slots of new groups.
async fn extend_to_groups(connection: &AsyncPgConnection, claim: &Claim<'_>) -> QueryResult<()> {
    if claim.groups.count() == 1 {
        return Ok(());
    }
    let bytes = [Bind::integer((claim.groups.count() * SlotSet::BYTES) as i32)];
    let sql = "SELECT tessera_widen($1)";
    load(connection, Statement { sql, binds: &bytes, cached: false }).await?;
    if claim.new_slots.is_empty() {
        return Ok(());
    }
    let slots = claim.new_slots.iter().map(|slot| i32::from(slot.number()));
    let slots = [Bind::integers(slots.collect::<Vec<_>>().into_iter())];
    let sql =
        "INSERT INTO tessera_slots (slot, state) SELECT slot, 'owned' FROM unnest($1) AS s (slot)
        ON CONFLICT DO NOTHING";
    load(connection, Statement { sql, binds: &slots, cached: false }).await.map(drop)
}
