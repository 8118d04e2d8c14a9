//! Target: a database that a copy is restored into.
//!
//! From the first statement until the restore is complete, the database has a table that names the
//! copy. So a restore that was cut off is recognised, and its rest removed by the next one.
//!
//! **Invariant:** nothing is changed in a database that has tables of others; a restore holds the
//! locks with which routers open a cluster.
//! **Not here:** the contents (`restore`).

use diesel::QueryResult;
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
/// A table, view or sequence that no extension has made.
const CONTENTS: &str = "SELECT n.nspname||'.'||c.relname FROM pg_class c \
    JOIN pg_namespace n ON n.oid=c.relnamespace WHERE n.nspname IN ('public','tessera') \
    AND c.relkind IN ('r','p','v','m','S','f') AND NOT EXISTS (SELECT FROM pg_depend d \
    WHERE d.classid='pg_class'::regclass AND d.objid=c.oid AND d.deptype='e') \
    ORDER BY n.nspname,c.relname LIMIT 1";
const IS_CITUS: &str = "SELECT to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL";
const HAS_MARK: &str = "SELECT to_regclass('tessera.tessera_restore') IS NOT NULL";
const MARK_OF: &str = "SELECT cluster_id,at FROM tessera.tessera_restore";
const MAKE_MARK: &str = "BEGIN; CREATE SCHEMA IF NOT EXISTS tessera; \
    CREATE TABLE tessera.tessera_restore (cluster_id TEXT NOT NULL, at TEXT NOT NULL)";
const SET_MARK: &str = "INSERT INTO tessera.tessera_restore VALUES ($1,$2)";
/// Removes everything that a restore has made. The database was empty before.
const WIPE: &str = "DO $$ DECLARE own REGCLASS; BEGIN \
    FOR own IN SELECT c.oid FROM pg_class c WHERE c.relnamespace='public'::regnamespace \
    AND c.relkind='r' AND NOT EXISTS (SELECT FROM pg_depend d \
    WHERE d.classid='pg_class'::regclass AND d.objid=c.oid AND d.deptype='e') \
    LOOP EXECUTE format('DROP TABLE %s CASCADE',own); END LOOP; \
    DROP SCHEMA tessera CASCADE; END $$";

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
}

impl RestoreTarget {
    /// Connects to a database, and checks that it is empty or holds a part of this copy.
    pub(super) async fn open(
        at: &NodeAddress,
        label: String,
        manifest: &ServerManifest,
    ) -> Result<Self, SaveError> {
        let cluster = ClusterAddress::of_node(at);
        let (session, _) = discovery::connect_primary(at, &label, &cluster).await?;
        let (connection, identity) = (session.connection, session.identity);
        let mut target = Self { label, connection, identity, is_marked: false };
        let found = target.look().await.map_err(|error| target.failed(error))?;
        match found {
            Found::Busy => {
                Err(target.refused("a router or another restore uses the database; stop it first"))
            }
            Found::Citus => Err(target.refused("this command restores no clusters of Citus")),
            Found::Table(name) => Err(target
                .refused(&format!("the database is not empty, it has {name}: name an empty one"))),
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

    async fn look(&self) -> QueryResult<Found> {
        run(&self.connection, SETTINGS).await?;
        let truth = |rows: Vec<RowView>| rows.first().and_then(|row| row.boolean(0)) == Some(true);
        if truth(self.load(IS_CITUS).await?) {
            return Ok(Found::Citus);
        }
        if !truth(self.load(LOCKS).await?) {
            return Ok(Found::Busy);
        }
        if truth(self.load(HAS_MARK).await?) {
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

    /// Removes the rest of an earlier restore, and marks the database as one that this copy is
    /// being restored into.
    pub(super) async fn begin(&mut self, manifest: &ServerManifest) -> QueryResult<()> {
        if self.is_marked {
            run(&self.connection, WIPE).await?;
        }
        run(&self.connection, MAKE_MARK).await?;
        let binds = [Bind::text(&manifest.cluster_id), Bind::text(&manifest.at)];
        load(&self.connection, Statement { sql: SET_MARK, binds: &binds, cached: false }).await?;
        run(&self.connection, "COMMIT").await?;
        self.is_marked = true;
        Ok(())
    }

    /// Removes the mark.
    pub(super) async fn finish(&self) -> QueryResult<()> {
        run(&self.connection, "DROP TABLE IF EXISTS tessera.tessera_restore; ANALYZE").await
    }
}

/// Contents of a database before a restore.
enum Found {
    Nothing,
    /// Another session holds the locks.
    Busy,
    Citus,
    /// A table of others.
    Table(String),
    /// A part of a copy of this cluster and this time.
    Mark(String, String),
}
