//! Cluster sessions: a command's sessions with the catalog and the primaries of a cluster, which it
//! reads without opening the cluster.
//!
//! **Invariant:** each session is with the primary of a shard that the catalog lists, and nothing
//! is changed on it. Shards that are joining have no rows and are left out.
//! **Not here:** the rows (`export`, `audit`).

use std::sync::Arc;

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use engine::open_error::OpenError;
use model::shard_map::ShardMap;
use model::slot_set::SlotSet;
use model::topology::ShardNumber;

use super::catalog::Catalog;
use super::catalog_session::{self, CATALOG};
use super::discovery;
use super::known_slots::KnownSlots;
use super::node::Node;
use super::node_address::ClusterAddress;
use super::session::Session;
use super::shard_addresses::{self, JoiningShards, ShardAddresses};
use super::shard_database::{is_being_restored, signature};
use super::statement::{Statement, load, run};

/// Settings of a session that reads whole tables: there is no time limit, and rows come in the
/// order of the primary key without being sorted first.
const SETTINGS: &str = "SET statement_timeout=0; SET idle_in_transaction_session_timeout=0; \
    SET enable_seqscan=off; SET enable_bitmapscan=off; SET enable_sort=off; \
    SET max_parallel_workers_per_gather=0";
/// Begins a transaction whose statements see one snapshot.
const ONE_SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
/// Selects two flags: the database has the tables of the latest version, and it belongs to Citus.
const KIND: &str = "SELECT to_regclass('tessera.tessera_slot_moves') IS NOT NULL,\
    to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL";

/// Cause of the refusal of a database that has the mark of a restore.
const RESTORED: &str = "a restore into its database is running or was interrupted: wait for it, or \
    run the restore again";

/// Sessions with a cluster.
pub(super) struct ClusterSessions {
    /// Id of the cluster.
    pub(super) cluster_id: String,
    /// Session with the catalog.
    pub(super) catalog: Catalog,
    /// Sessions with the shards, in the order of the catalog.
    pub(super) shards: Vec<ShardSession>,
}

/// Session with the primary of a shard.
pub(super) struct ShardSession {
    /// Name of the shard.
    pub(super) name: String,
    /// Number of the shard.
    pub(super) number: ShardNumber,
    /// The session.
    pub(super) session: Session,
    /// Nodes of the shard, the primary first.
    pub(super) nodes: Vec<Node>,
}

impl ClusterSessions {
    /// Connects to the catalog and to the primary of each shard that it lists.
    ///
    /// # Errors
    /// [`OpenError`] if no server answers, there is no cluster, a restore was interrupted, a shard
    /// has no primary, or a schema is older.
    pub(super) async fn open(settings: &ClusterAddress) -> Result<Self, OpenError> {
        let mut joining = JoiningShards { are_left_out: true, ..JoiningShards::default() };
        let found = shard_addresses::find(settings, &mut joining).await?;
        if !found.is_made {
            return Err(no_cluster(found).await);
        }
        let name = |(index, name): (usize, Option<String>)| {
            name.unwrap_or_else(|| format!("shard{}", index + 1))
        };
        let listed = found.cluster.shards.iter().map(|shard| shard.name.clone());
        let names: Vec<String> = listed.enumerate().map(name).collect();
        let members = discovery::find(&found.cluster, &names, &found.opened).await?;
        let catalog = match &found.cluster.catalog {
            Some(at) => at,
            None => &members[found.catalog_shard].nodes[0].address,
        };
        let catalog = catalog_session::open(catalog, "tessera_shards").await?;
        let catalog = Catalog::on(catalog.connection);
        let failed = |error| OpenError::node(CATALOG, error);
        if is_being_restored(&catalog.connection).await.map_err(failed)? {
            return Err(OpenError::node(CATALOG, RESTORED));
        }
        let map = catalog.map_tables().map().await.map_err(failed)?;
        let cluster_id = cluster_id(&catalog.connection).await.map_err(failed)?;
        let mut shards = Vec::with_capacity(names.len());
        for (name, members) in names.into_iter().zip(members) {
            let number = map.topology().find(&name).ok_or_else(|| {
                OpenError::node(CATALOG, format!("it does not list {name} any more: try again"))
            })?;
            let shard =
                ShardSession { name, number, session: members.session, nodes: members.nodes };
            shard.check(&cluster_id).await?;
            shards.push(shard);
        }
        Ok(Self { cluster_id, catalog, shards })
    }

    /// Returns the current shard map.
    ///
    /// # Errors
    /// [`OpenError`] if it cannot be read.
    pub(super) async fn map(&self) -> Result<ShardMap, OpenError> {
        let map = self.catalog.map_tables().map().await;
        map.map_err(|error| OpenError::node(CATALOG, error))
    }
}

/// Returns the error of databases without the catalog of a cluster.
async fn no_cluster(found: ShardAddresses) -> OpenError {
    for session in found.opened.take_all() {
        // A session that fails now is not the reason why there is no cluster.
        if is_being_restored(&session.connection).await.unwrap_or(false) {
            return OpenError::node(&session.address.to_string(), RESTORED);
        }
    }
    let cause = "there is no cluster in these databases: name those of a cluster in SHARD_URLS, and its catalog in \
        MAINDB_URL if that has a database of its own";
    // A server that does not answer may have the catalog.
    found.unanswered.unwrap_or_else(|| OpenError::node(CATALOG, cause))
}

/// Returns the id of the cluster of a catalog.
async fn cluster_id(connection: &AsyncPgConnection) -> QueryResult<String> {
    let sql = "SELECT cluster_id FROM tessera_cluster";
    let rows = load(connection, Statement { sql, binds: &[], cached: false }).await?;
    Ok(rows.first().and_then(|row| row.text(0)).unwrap_or_default())
}

impl ShardSession {
    /// Returns the connection of the session.
    pub(super) fn connection(&self) -> &AsyncPgConnection {
        &self.session.connection
    }

    /// Returns an error about this shard.
    pub(super) fn failed(&self, error: impl std::fmt::Display) -> OpenError {
        OpenError::node(&format!("{}-primary", self.name), error)
    }

    /// Ends the transaction of the session, if there is one, begins one that sees one snapshot, and
    /// returns the slots that the shard owns in it.
    ///
    /// # Errors
    /// [`OpenError`] if the session fails.
    pub(super) async fn begin(&self) -> Result<Arc<SlotSet>, OpenError> {
        let begun = async {
            run(self.connection(), "ROLLBACK").await?;
            run(self.connection(), ONE_SNAPSHOT).await?;
            KnownSlots::load(self.connection()).await
        };
        let slots = begun.await.map_err(|error| self.failed(error))?;
        Ok(slots.readable)
    }

    /// Checks that the database is that of the shard, and one that this program can read.
    async fn check(&self, cluster_id: &str) -> Result<(), OpenError> {
        let is_marked = is_being_restored(self.connection()).await;
        if is_marked.map_err(|error| self.failed(error))? {
            return Err(self.failed(RESTORED));
        }
        let (signed, is_current, is_citus) =
            self.facts().await.map_err(|error| self.failed(error))?;
        if signed.is_none_or(|(cluster, shard)| cluster != cluster_id || shard != self.name) {
            return Err(self.failed(format_args!("the database is not that of {}", self.name)));
        }
        if is_citus {
            let cause =
                "this command does not read clusters of Citus, whose rows lie on its workers";
            return Err(self.failed(cause));
        }
        if !is_current {
            let cause = "its schema is older than this program: start a router of this version once, which migrates it";
            return Err(self.failed(cause));
        }
        Ok(())
    }

    async fn facts(&self) -> QueryResult<(Option<(String, String)>, bool, bool)> {
        let connection = self.connection();
        run(connection, SETTINGS).await?;
        let kind = load(connection, Statement { sql: KIND, binds: &[], cached: false }).await?;
        let truth = |column| kind.first().and_then(|row| row.boolean(column)) == Some(true);
        Ok((signature(connection).await?, truth(0), truth(1)))
    }
}
