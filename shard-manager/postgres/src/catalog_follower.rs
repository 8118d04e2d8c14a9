//! Catalog follower: learns of changes that other routers make.
//!
//! The catalog is asked once a second, and tells of a change at once (`LISTEN`). What it says then is read anew: a
//! table is shown once every shard has it and no intent is left, as by the router that made it.
//!
//! **Invariant:** the registry never shows a table that may still be taken back; a table that is known stays the same
//! object, so that what is prepared for it goes on being used.
//! **Not here:** changing tables (`manager/schema`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use engine::replication::ReplicationState;
use futures_util::future::{join_all, select};
use model::shard_map::ShardMap;
use model::table::{Registry, Table};
use tokio::sync::Mutex;

use super::catalog::{Catalog, CatalogVersion};
use super::primary_tracker::{PrimarySession, PrimaryTracker, Term};
use super::session::Session;
use super::shard_database::ShardDatabase;

/// How often the catalog is asked.
const EVERY: Duration = Duration::from_secs(1);
/// The pause after it could not be followed.
const RETRY: Duration = Duration::from_millis(250);
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long it and all primaries together may take to tell their tables.
const TABLES_MAX: Duration = Duration::from_secs(15);

/// What was seen of the catalog.
#[derive(Default)]
struct Seen {
    version: Option<CatalogVersion>,
    /// It could not be followed when that was tried last.
    is_lost: bool,
}

/// What is needed to see what others have changed.
pub(super) struct CatalogFollower {
    /// Where the catalog is.
    pub(super) catalog: Arc<PrimaryTracker>,
    /// The primaries, and how far the nodes of each shard have come.
    pub(super) shards: Vec<(Arc<PrimaryTracker>, Arc<ReplicationState>)>,
    pub(super) map: Arc<ArcSwap<ShardMap>>,
    pub(super) registry: Arc<ArcSwap<Registry>>,
    pub(super) closed: AtomicBool,
    /// Held by whoever reads everything anew.
    pub(super) turn: Mutex<()>,
}

impl CatalogFollower {
    /// Follows until it is closed.
    pub(super) async fn run(self: Arc<Self>) {
        let mut seen = Seen::default();
        while !self.closed.load(Ordering::Acquire) {
            let ended = match self.connect("follower").await {
                Ok((catalog, term)) => tokio::select! {
                    ended = self.follow(catalog, &mut seen) => ended,
                    () = self.catalog.ended(term) => {
                        // Who leads now may lack what was seen.
                        seen.version = None;
                        Ok(())
                    }
                },
                Err(error) => Err(error),
            };
            if let Err(error) = ended {
                // Told once, however often it is tried.
                if seen.is_lost {
                    tracing::debug!(%error, "the catalog cannot be followed");
                } else {
                    tracing::warn!(%error, "the catalog cannot be followed");
                }
                seen.is_lost = true;
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    async fn follow(&self, mut catalog: Catalog, seen: &mut Seen) -> Result<(), String> {
        catalog.listen().await.map_err(|error| error.to_string())?;
        while !self.closed.load(Ordering::Acquire) {
            let version = tokio::time::timeout(PATIENCE, catalog.version()).await;
            let version = version.map_err(|elapsed| elapsed.to_string())?;
            let version = version.map_err(|error| error.to_string())?;
            if std::mem::take(&mut seen.is_lost) {
                tracing::info!("the catalog is followed again");
            }
            if seen.version != Some(version) {
                let refreshed = tokio::time::timeout(TABLES_MAX, self.refresh_from(&catalog)).await;
                refreshed.map_err(|elapsed| elapsed.to_string())??;
                seen.version = Some(version);
            }
            let pause = std::pin::pin!(tokio::time::sleep(EVERY));
            let told = std::pin::pin!(catalog.told_of_change());
            select(pause, told).await;
        }
        Ok(())
    }

    /// A session with the catalog, and when it may be used.
    pub(super) async fn connect(&self, purpose: &str) -> Result<(Catalog, Term), String> {
        let led = self.catalog.connect(purpose).await;
        let PrimarySession { session, term } = led.map_err(|error| error.to_string())?;
        Ok((Catalog::on(session.connection), term))
    }

    /// Reads everything anew.
    ///
    /// # Errors
    /// Why it cannot be; nothing has changed then.
    pub(super) async fn refresh_from(&self, catalog: &Catalog) -> Result<(), String> {
        let _turn = self.turn.lock().await;
        let told = |error: &dyn std::fmt::Display| error.to_string();
        let map = catalog.map().await.map_err(|error| told(&error))?;
        if map.epoch() > self.map.load().epoch() {
            tracing::info!(epoch = map.epoch(), "the shard map has changed");
            self.map.store(Arc::new(map));
        }
        // Before the tables, and after them: what is on its way between may be on every shard and be taken back.
        let before = catalog.intents().await.map_err(|error| told(&error))?;
        let declared = self.shards.iter().map(async |(leader, _)| {
            if Arc::ptr_eq(leader, &self.catalog) {
                // A node sees no more connections than it has uses for.
                return catalog.tables_beside().await.map_err(|error| error.to_string());
            }
            declared(leader).await
        });
        let shards = join_all(declared).await;
        let shards: Vec<(Registry, u64)> = shards.into_iter().collect::<Result<_, _>>()?;
        let after = catalog.intents().await.map_err(|error| told(&error))?;
        let pending = before.iter().chain(&after);
        let pending: Vec<&str> = pending.map(|intent| intent.table.name()).collect();
        let known = self.registry.load_full();
        let Some((first, _)) = shards.first() else { return Ok(()) };
        let everywhere = |table: &&Arc<Table>| {
            !pending.contains(&table.name())
                && shards.iter().all(|(tables, _)| tables.find(table.name()) == Some(*table))
        };
        let same = |table: &Arc<Table>| known.find(table.name()).filter(|same| *same == table);
        let tables = first.tables().filter(everywhere);
        let tables: Vec<Arc<Table>> =
            tables.map(|table| Arc::clone(same(table).unwrap_or(table))).collect();
        if tables.iter().any(|table| known.find(table.name()).is_none()) {
            // A replica is not asked for a table before it knows it.
            for ((_, replication), (_, position)) in self.shards.iter().zip(&shards) {
                replication.primary().record_schema_change(*position);
            }
        }
        let registry = tables.into_iter().fold(Registry::default(), |all, table| all.with(table));
        self.registry.rcu(|now| {
            // What this router has made meanwhile stays.
            let is_new = |table: &&Arc<Table>| {
                known.find(table.name()).is_none() && registry.find(table.name()).is_none()
            };
            now.tables()
                .filter(is_new)
                .fold(registry.clone(), |all, table| all.with(Arc::clone(table)))
        });
        Ok(())
    }
}

async fn declared(leader: &PrimaryTracker) -> Result<(Registry, u64), String> {
    let led = leader.connect("tables").await;
    let PrimarySession { session, .. } = led.map_err(|error| error.to_string())?;
    let Session { connection, identity, address } = session;
    let name = leader.name().to_owned();
    let database = ShardDatabase::on(name, connection, identity, None);
    database.tables().await.map_err(|error| format!("{address}: {error}"))
}
