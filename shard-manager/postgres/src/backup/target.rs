//! Target: a database that a copy is restored into.
//!
//! From the first statement until the restore is complete, the database has a table that names the
//! copy. So the next restore recognises an interrupted one, and removes what it left. It removes
//! only tables that the copy declares; if there are others, it is refused.
//!
//! **Invariant:** nothing is changed in a database that has tables of other applications; a restore
//! holds the locks with which routers open a cluster. A database of a cluster is emptied only for a
//! copy of that cluster, while no other client is connected.
//! **Not here:** the contents (`restore`).

use std::time::{Duration, Instant};

use diesel::QueryResult;
use diesel::result::Error as DieselError;
use diesel_async::AsyncPgConnection;
use engine::open_error::OpenError;
use engine::save_error::SaveError;

use super::manifest::ServerManifest;
use crate::discovery;
use crate::node_address::{ClusterAddress, NodeAddress};
use crate::session::Identity;
use crate::statement::{Bind, RowView, Statement, load, run};

/// Settings of the session: parts of a restore take long.
const SETTINGS: &str = "SET statement_timeout=0; SET idle_in_transaction_session_timeout=0";
/// Locks that a router takes to open a catalog, and to claim a database.
const LOCKS: &str = "SELECT pg_try_advisory_lock(1950,3) AND pg_try_advisory_lock(1950,6)";
/// Selects a table, view or sequence that no extension has made.
const CONTENTS: &str = "SELECT n.nspname||'.'||c.relname FROM pg_class c \
    JOIN pg_namespace n ON n.oid=c.relnamespace WHERE n.nspname IN ('public','tessera') \
    AND c.relkind IN ('r','p','v','m','S','f') AND NOT EXISTS (SELECT FROM pg_depend d \
    WHERE d.classid='pg_class'::regclass AND d.objid=c.oid AND d.deptype='e') \
    ORDER BY n.nspname,c.relname LIMIT 1";
/// Selects a table or view that is neither declared in the cluster nor part of an extension.
const FOREIGN: &str = "SELECT c.relname::text FROM pg_class c \
    WHERE c.relnamespace='public'::regnamespace AND c.relkind IN ('r','p','v','m','f') \
    AND NOT EXISTS (SELECT FROM tessera.tessera_tables t WHERE t.name=c.relname) \
    AND NOT EXISTS (SELECT FROM pg_depend d \
    WHERE d.classid='pg_class'::regclass AND d.objid=c.oid AND d.deptype='e') \
    ORDER BY c.relname LIMIT 1";
/// Selects the first table or view of a database without declarations that is not part of an
/// extension.
const CONTENTS_OF_CLIENTS: &str = "SELECT c.relname::text FROM pg_class c \
    WHERE c.relnamespace='public'::regnamespace AND c.relkind IN ('r','p','v','m','f') \
    AND NOT EXISTS (SELECT FROM pg_depend d \
    WHERE d.classid='pg_class'::regclass AND d.objid=c.oid AND d.deptype='e') \
    ORDER BY c.relname LIMIT 1";
/// Selects the schema of Tessera, or a table that is kept, and its owner, if the user lacks the
/// rights of the owner, which removing and moving need.
const OF_OTHER_OWNERS: &str = "SELECT o.name,pg_get_userbyid(o.owner)::text FROM (\
    SELECT 1 AS rank,'the schema tessera'::text AS name,nspowner AS owner FROM pg_namespace \
    WHERE nspname='tessera' UNION ALL \
    SELECT 2,'the table tessera.'||relname::text,relowner FROM pg_class \
    WHERE to_regclass('tessera.tessera_history') IS NOT NULL AND oid IN ( \
    to_regclass('tessera.tessera_history'),to_regclass('tessera.__diesel_schema_migrations'))) o \
    WHERE NOT pg_has_role(o.owner,'USAGE') ORDER BY o.rank,o.name LIMIT 1";
/// Sessions of other clients with this database. Of sessions of other users, only the ids are
/// visible to every user.
const OTHERS: &str = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid<>pg_backend_pid() \
    AND usesysid IS NOT NULL AND datid=(SELECT oid FROM pg_database WHERE datname=current_database()))";
/// Ids of the cluster to which the database belongs, as a shard and as a catalog.
const IS_SHARD: &str = "SELECT to_regclass('tessera.tessera_shard') IS NOT NULL";
const SHARD_OF: &str = "SELECT cluster_id FROM tessera.tessera_shard";
const IS_CATALOG: &str = "SELECT to_regclass('tessera.tessera_cluster') IS NOT NULL";
const CATALOG_OF: &str = "SELECT cluster_id FROM tessera.tessera_cluster";
const HAS_DECLARATIONS: &str = "SELECT to_regclass('tessera.tessera_tables') IS NOT NULL";
const IS_CITUS: &str = "SELECT to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL";
const HAS_MARK: &str = "SELECT to_regclass('tessera.tessera_restore') IS NOT NULL";
const MARK_OF: &str = "SELECT cluster_id,at FROM tessera.tessera_restore";
/// Earlier versions of Tessera have stored no version counter.
const MARKED_VERSION: &str = "SELECT max((to_jsonb(r)->>'version')::bigint) \
    FROM tessera.tessera_restore r";
const HAS_VERSIONS: &str = "SELECT to_regclass('tessera.tessera_version') IS NOT NULL";
const LAST_VERSION: &str = "SELECT last_value FROM tessera.tessera_version";
const MAKE_MARK: &str = "CREATE SCHEMA IF NOT EXISTS tessera; CREATE TABLE \
    tessera.tessera_restore (cluster_id TEXT NOT NULL, at TEXT NOT NULL, version BIGINT NOT NULL)";
const SET_MARK: &str = "INSERT INTO tessera.tessera_restore VALUES ($1,$2,$3)";
/// Removes everything that a restore or a cluster has made, and no other table. The history of
/// analytics and the record of its migrations stay. Migrations of analytics are numbered from
/// 950001.
const WIPE: &str = "DO $$ DECLARE own REGCLASS; BEGIN \
    IF to_regclass('tessera.tessera_tables') IS NOT NULL THEN \
    FOR own IN SELECT c.oid FROM pg_class c JOIN tessera.tessera_tables t ON t.name=c.relname \
    WHERE c.relnamespace='public'::regnamespace AND c.relkind='r' \
    LOOP EXECUTE format('DROP TABLE %s CASCADE',own); END LOOP; END IF; \
    IF to_regclass('tessera.tessera_history') IS NULL THEN DROP SCHEMA tessera CASCADE; RETURN; END IF; \
    ALTER SCHEMA tessera RENAME TO tessera_wiped; CREATE SCHEMA tessera; \
    ALTER TABLE tessera_wiped.tessera_history SET SCHEMA tessera; \
    ALTER TABLE tessera_wiped.__diesel_schema_migrations SET SCHEMA tessera; \
    DROP SCHEMA tessera_wiped CASCADE; \
    DELETE FROM tessera.__diesel_schema_migrations WHERE substr(version,9)<'950001'; END $$";

/// Time for the sessions of a client that has just ended to disappear.
const OTHERS_MAX: Duration = Duration::from_secs(5);
const OTHERS_LOOK: Duration = Duration::from_millis(50);

/// Database that a copy is restored into.
pub(super) struct RestoreTarget {
    /// Name in messages.
    pub(super) label: String,
    /// Session with its primary.
    pub(super) connection: AsyncPgConnection,
    /// Identity of its server.
    pub(super) identity: Identity,
    /// True if it holds a part of this copy, or all of it.
    pub(super) is_marked: bool,
    /// True if it has a cluster, or a part of another copy, that must be removed.
    pub(super) is_occupied: bool,
    /// Name of a table, if it has the cluster of the copy, without a mark.
    pub(super) finished_with: Option<String>,
    /// Version that all later ones of the restored shard must exceed.
    pub(super) version_floor: i64,
}

/// Contents that a database may have before a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occupancy {
    /// Nothing, or a part of the same copy.
    Empty,
    /// Also the cluster of the copy, which is removed.
    Cluster,
}

impl RestoreTarget {
    /// Connects to a database, and checks that it is none of the others and that its contents may
    /// be replaced by this copy.
    pub(super) async fn open(
        at: &NodeAddress,
        label: String,
        (manifest, occupancy): (&ServerManifest, Occupancy),
        others: &[Self],
    ) -> Result<Self, SaveError> {
        let cluster = ClusterAddress::of_node(at);
        let (session, _) = discovery::connect_primary(at, &label, &cluster).await?;
        let (connection, identity) = (session.connection, session.identity);
        let mut target = Self {
            label,
            connection,
            identity,
            is_marked: false,
            is_occupied: false,
            finished_with: None,
            version_floor: 0,
        };
        // Checked first, because the session with the other target holds the locks.
        check_other(others, &target)?;
        let found = target.look().await.map_err(|error| target.failed(error))?;
        match found {
            Found::Busy => {
                Err(target.refused("a router or another restore uses the database; stop it first"))
            }
            Found::Citus => Err(target.refused("this command restores no clusters of Citus")),
            Found::Table(_) if occupancy == Occupancy::Cluster => {
                target.check_cluster(&manifest.cluster_id).await?;
                target.is_occupied = true;
                Ok(target)
            }
            Found::Table(name) => {
                let owner = target.owner().await.map_err(|error| target.failed(error))?;
                if owner.as_ref() != Some(&manifest.cluster_id) {
                    return Err(target.not_empty(&name));
                }
                target.finished_with = Some(name);
                Ok(target)
            }
            Found::Mark(cluster_id, at)
                if occupancy == Occupancy::Cluster
                    && cluster_id == manifest.cluster_id
                    && at != manifest.at =>
            {
                target.is_occupied = true;
                Ok(target)
            }
            Found::Mark(cluster_id, at) => {
                if (&cluster_id, &at) != (&manifest.cluster_id, &manifest.at) {
                    return Err(target.refused(&format!(
                        "the database holds a part of another copy, of {at}: name an empty one"
                    )));
                }
                target.is_marked = true;
                Ok(target)
            }
            Found::Nothing => Ok(target),
        }
    }

    /// Checks that the database holds this cluster, nothing else, and has no other clients.
    async fn check_cluster(&self, cluster_id: &str) -> Result<(), SaveError> {
        let (foreign, owner) = {
            let found =
                async { Ok::<_, DieselError>((self.foreign().await?, self.owner().await?)) };
            found.await.map_err(|error| self.failed(error))?
        };
        if owner.as_deref() != Some(cluster_id) {
            return Err(self.refused("the database does not belong to the copied cluster"));
        }
        if let Some(name) = foreign {
            return Err(self.has_foreign(&name));
        }
        let began = Instant::now();
        while self.truth(OTHERS).await.map_err(|error| self.failed(error))? {
            if began.elapsed() > OTHERS_MAX {
                return Err(self.refused(
                    "a router or another client is connected to the database; stop it first",
                ));
            }
            tokio::time::sleep(OTHERS_LOOK).await;
        }
        Ok(())
    }

    /// Checks that a database that is to be emptied has no table that other applications have made
    /// since the earlier restore, and that the user may remove and move what it has.
    pub(super) async fn check_foreign(&self) -> Result<(), SaveError> {
        if !self.is_marked && !self.is_occupied {
            return Ok(());
        }
        let foreign = self.foreign().await.map_err(|error| self.failed(error))?;
        if let Some(name) = foreign {
            return Err(self.has_foreign(&name));
        }
        let owned = self.load(OF_OTHER_OWNERS).await.map_err(|error| self.failed(error))?;
        let owned = owned.first().and_then(|row| row.text(0).zip(row.text(1)));
        owned.map_or(Ok(()), |(name, owner)| {
            Err(self.refused(&format!(
                "{name} belongs to the user {owner}, and only its owner may move or remove it: give this command's \
                 user the rights of the owner (GRANT \"{owner}\" TO …), or make it the owner (ALTER … OWNER TO …)"
            )))
        })
    }

    fn has_foreign(&self, table: &str) -> SaveError {
        self.refused(&format!(
            "the database also has {table}, which does not belong to the cluster and would be lost; move it elsewhere"
        ))
    }

    /// Returns the first table or view that does not belong to the cluster.
    async fn foreign(&self) -> QueryResult<Option<String>> {
        let sql = if self.truth(HAS_DECLARATIONS).await? { FOREIGN } else { CONTENTS_OF_CLIENTS };
        Ok(self.load(sql).await?.first().and_then(|row| row.text(0)))
    }

    /// Returns the id of the cluster to which the database belongs.
    async fn owner(&self) -> QueryResult<Option<String>> {
        for (exists, sql) in [(IS_SHARD, SHARD_OF), (IS_CATALOG, CATALOG_OF)] {
            if self.truth(exists).await?
                && let Some(id) = self.load(sql).await?.first().and_then(|row| row.text(0))
            {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    async fn truth(&self, sql: &str) -> QueryResult<bool> {
        Ok(self.load(sql).await?.first().and_then(|row| row.boolean(0)) == Some(true))
    }

    async fn look(&self) -> QueryResult<Found> {
        run(&self.connection, SETTINGS).await?;
        if self.truth(IS_CITUS).await? {
            return Ok(Found::Citus);
        }
        if !self.truth(LOCKS).await? {
            return Ok(Found::Busy);
        }
        if self.truth(HAS_MARK).await? {
            let mark = self.load(MARK_OF).await?;
            let mark = mark.first().and_then(|row| row.text(0).zip(row.text(1)));
            let (cluster_id, at) = mark.unwrap_or_default();
            return Ok(Found::Mark(cluster_id, at));
        }
        let table = self.load(CONTENTS).await?;
        let table = table.first().and_then(|row| row.text(0));
        Ok(table.map_or(Found::Nothing, Found::Table))
    }

    /// Runs a statement without parameters.
    pub(super) async fn load(&self, sql: &str) -> QueryResult<Vec<RowView>> {
        load(&self.connection, Statement { sql, binds: &[], cached: false }).await
    }

    /// Returns an error of the database.
    pub(super) fn failed(&self, error: impl std::fmt::Display) -> SaveError {
        SaveError::File(OpenError::node(&self.label, error))
    }

    fn refused(&self, cause: &str) -> SaveError {
        SaveError::Databases(format!("{}: {cause}", self.label))
    }

    /// Refuses a database with the cluster of the copy, unless an earlier restore was cut off while
    /// it removed its marks, which the caller checks.
    pub(super) fn check_unfinished(&self) -> Result<(), SaveError> {
        self.finished_with.as_ref().map_or(Ok(()), |name| Err(self.not_empty(name)))
    }

    fn not_empty(&self, table: &str) -> SaveError {
        self.refused(&format!("the database is not empty, it has {table}: name an empty one"))
    }

    /// Removes what an earlier restore has left, or the cluster, and marks the database as the
    /// target of a restore of this copy, in one step.
    pub(super) async fn begin(&mut self, manifest: &ServerManifest) -> QueryResult<()> {
        run(&self.connection, "BEGIN").await?;
        for (exists, sql) in [(HAS_MARK, MARKED_VERSION), (HAS_VERSIONS, LAST_VERSION)] {
            if self.truth(exists).await? {
                let version = self.load(sql).await?.first().and_then(|row| row.bigint(0));
                self.version_floor = self.version_floor.max(version.unwrap_or(0));
            }
        }
        if self.is_marked || self.is_occupied {
            run(&self.connection, WIPE).await?;
        }
        run(&self.connection, MAKE_MARK).await?;
        let floor = Bind::bigint(self.version_floor);
        let binds = [Bind::text(&manifest.cluster_id), Bind::text(&manifest.at), floor];
        load(&self.connection, Statement { sql: SET_MARK, binds: &binds, cached: false }).await?;
        run(&self.connection, "COMMIT").await?;
        (self.is_marked, self.is_occupied) = (true, false);
        Ok(())
    }

    /// Removes the mark.
    pub(super) async fn finish(&self) -> QueryResult<()> {
        run(&self.connection, "DROP TABLE IF EXISTS tessera.tessera_restore; ANALYZE").await
    }
}

/// Refuses two targets that are the same database.
fn check_other(targets: &[RestoreTarget], new: &RestoreTarget) -> Result<(), SaveError> {
    let is_same = |target: &&RestoreTarget| {
        target.identity.system == new.identity.system
            && target.identity.database == new.identity.database
    };
    match targets.iter().find(is_same) {
        Some(other) => Err(SaveError::Databases(format!(
            "{} and {} are the same database: give each its own",
            other.label, new.label
        ))),
        None => Ok(()),
    }
}

/// Contents of a database before a restore.
enum Found {
    Nothing,
    /// Another session holds the locks.
    Busy,
    Citus,
    /// Name of a table, view or sequence; there is no mark.
    Table(String),
    /// Mark of a part of a copy: id of the cluster and time of the copy.
    Mark(String, String),
}
