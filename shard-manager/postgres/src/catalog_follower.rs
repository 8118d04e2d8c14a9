//! Catalog follower: applies to this router the changes that other routers make to the shard map,
//! the tables, and the keys and roles.
//!
//! A session token may come from a router with a later shard map. A read with such a token makes
//! this router read the map at once.
//!
//! The catalog is polled once a second, and notifies of changes immediately (`LISTEN`). After a
//! change of the tables, or of the shards that serve requests, the tables are read again: a table
//! becomes visible once every shard has it and no intent for it is left, as on the router that
//! created it.
//!
//! After a failover, the new primary of the catalog may lack the last changes of the map, because
//! its replicas are asynchronous. A router that knows the epochs of the lost changes raises the
//! catalog's epoch above them, and adopts the catalog's map: the shards themselves know their
//! slots, and moves publish lost owners again.
//!
//! **Invariant:** the registry never shows a table whose creation may still be undone; a known
//! table stays the same object, so that statements prepared for it remain in use.
//! **Not here:** changing tables (`cluster`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use diesel::QueryResult;
use engine::access_store::{AccessFeed, now};
use engine::published_map::{PublishedMap, ShardListError};
use engine::replication::ReplicationState;
use futures_util::future::{join_all, select};
use model::error::Error;
use model::position::Position;
use model::shard_map::ShardMap;
use model::table::{Registry, Table};
use model::topology::{ShardNumber, ShardState};
use tokio::sync::Mutex;

use super::catalog::{
    Catalog, CatalogVersion, PLACE, TablesVersion, arrivals_after, follower_purpose, raise_epoch,
};
use super::primary_tracker::{PrimarySession, PrimaryTracker};
use super::session::Session;
use super::shard_database::ShardDatabase;
use super::term::Term;

/// Interval at which the catalog is polled.
const EVERY: Duration = Duration::from_secs(1);
/// Pause after the catalog could not be followed.
const RETRY: Duration = Duration::from_millis(250);
/// Time limit for a response of the catalog.
const PATIENCE: Duration = Duration::from_secs(2);
/// Time limit for reading the tables of the catalog and of all primaries.
const TABLES_MAX: Duration = Duration::from_secs(15);

/// Time limit for reading the shard map at the request of a session.
const MAP_MAX: Duration = Duration::from_millis(750);
/// Time limit for reading all keys and roles.
const ACCESS_MAX: Duration = Duration::from_secs(10);

/// State of the catalog at the last poll.
#[derive(Default)]
struct Seen {
    /// Term in which the catalog was read.
    term: Option<Term>,
    /// Epoch of the map, and version of the tables.
    cluster: Option<(i64, TablesVersion)>,
    /// Version of the tables that were read, and the terms of the shards then: a promoted node may
    /// lack a table.
    tables: Option<(TablesVersion, BTreeMap<ShardNumber, Term>)>,
    /// Version of the keys and roles in the feed.
    access: Option<i64>,
    /// True if the last attempt to follow the catalog failed.
    is_lost: bool,
}

/// Follows the catalog, and updates this router's shard map and registry.
pub(super) struct CatalogFollower {
    /// The nodes of the catalog.
    pub(super) catalog: Arc<PrimaryTracker>,
    /// The opened shards. A shard that joins is added before a map names it; one that retires is
    /// removed after a map that marks it as retired.
    pub(super) shards: ArcSwap<FollowedShards>,
    pub(super) map: Arc<PublishedMap>,
    pub(super) registry: Arc<ArcSwap<Registry>>,
    /// Keys and roles, read as long as they have subscribers.
    pub(super) access: AccessFeed,
    pub(super) closed: AtomicBool,
    /// Locked while the shard map and all tables are read again. Holds the timeline of the catalog
    /// on which the whole map was read last.
    pub(super) turn: Mutex<Option<u32>>,
    /// Locked while the shard map alone is read; end of the last read, if that failed.
    pub(super) map_failed_at: Mutex<Option<Instant>>,
}

/// Shards by number, each with its primary and the replication state of its nodes.
pub(super) type FollowedShards = BTreeMap<ShardNumber, FollowedShard>;

/// The primary of a shard, and the replication state of its nodes.
pub(super) type FollowedShard = (Arc<PrimaryTracker>, Arc<ReplicationState>);

impl CatalogFollower {
    /// Follows the catalog until `closed` is set.
    pub(super) async fn run(self: Arc<Self>) {
        let mut seen = Seen::default();
        while !self.closed.load(Ordering::Acquire) {
            let ended = match self.connect(&follower_purpose()).await {
                Ok((catalog, term)) => {
                    if seen.term.replace(term) != Some(term) {
                        // The new primary may lack the version that was read from the old one.
                        (seen.cluster, seen.tables, seen.access) = (None, None, None);
                    }
                    tokio::select! {
                        ended = self.follow((catalog, term), &mut seen) => ended,
                        () = self.catalog.terms().ended(term) => Ok(()),
                    }
                }
                Err(error) => Err(error),
            };
            if let Err(error) = ended {
                // The failure is logged as a warning only once, however often the attempt is
                // repeated.
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

    async fn follow(
        &self,
        (mut catalog, term): (Catalog, Term),
        seen: &mut Seen,
    ) -> Result<(), String> {
        catalog.listen().await.map_err(|error| error.to_string())?;
        while !self.closed.load(Ordering::Acquire) {
            let version = tokio::time::timeout(PATIENCE, catalog.version()).await;
            let version = version.map_err(|elapsed| elapsed.to_string())?;
            let version = version.map_err(|error| error.to_string())?;
            if std::mem::take(&mut seen.is_lost) {
                tracing::info!("the catalog is followed again");
            }
            // The keys are read first, because a revocation must not wait for a shard that does not
            // answer.
            self.follow_access(&catalog, term, (version, seen)).await?;
            if seen.cluster != Some((version.epoch, version.tables)) {
                let refreshed = refresh_changed(self, &catalog, term.timeline, (version, seen));
                let refreshed = tokio::time::timeout(TABLES_MAX, refreshed).await;
                refreshed.map_err(|elapsed| elapsed.to_string())??;
            }
            let pause = std::pin::pin!(tokio::time::sleep(EVERY));
            let changed = std::pin::pin!(catalog.table_changed());
            select(pause, changed).await;
        }
        Ok(())
    }

    /// Publishes the keys and roles if they have changed, and otherwise confirms that they are
    /// current. Reads nothing if there are no subscribers.
    async fn follow_access(
        &self,
        catalog: &Catalog,
        term: Term,
        (version, seen): (CatalogVersion, &mut Seen),
    ) -> Result<(), String> {
        if !self.access.is_watched() {
            seen.access = None;
        } else if seen.access == Some(version.access) {
            self.access.confirm(now());
        } else {
            let read = self.access.begin_read();
            let state = catalog.access().state_after(term.timeline, read.base.as_deref());
            let state = tokio::time::timeout(ACCESS_MAX, state).await;
            let state = state.map_err(|elapsed| elapsed.to_string())?;
            self.access.publish(&read, state.map_err(|error| error.to_string())?, now());
            seen.access = Some(version.access);
        }
        Ok(())
    }

    /// Opens a session with the catalog, and returns the term in which it may be used.
    pub(super) async fn connect(&self, purpose: &str) -> Result<(Catalog, Term), String> {
        let led = self.catalog.connect(purpose).await;
        let PrimarySession { session, term } = led.map_err(|error| error.to_string())?;
        Ok((Catalog::on(session.connection), term))
    }

    /// Follows a shard that was opened.
    pub(super) fn add_shard(&self, number: ShardNumber, shard: FollowedShard) {
        self.shards.rcu(|followed| {
            let mut all = FollowedShards::clone(followed);
            all.insert(number, shard.clone());
            all
        });
    }

    /// Releases the shards that have retired, because their databases may not exist any longer.
    fn release_retired(&self) {
        let map = self.map.load_full();
        let shards = map.topology().shards();
        self.release_shards(|number| {
            shards.get(number.index()).is_some_and(|shard| shard.state == ShardState::Retired)
        });
    }

    /// Stops following the shards that meet a condition, and ends their tasks.
    pub(super) fn release_shards(&self, is_released: impl Fn(ShardNumber) -> bool) {
        let before = self.shards.rcu(|followed| {
            let mut left = FollowedShards::clone(followed);
            left.retain(|number, _| !is_released(*number));
            left
        });
        for (_, (leader, _)) in before.iter().filter(|(number, _)| is_released(**number)) {
            leader.terms().retire();
        }
    }

    /// Returns the followed shards that serve requests. Others are left out, because a shard that
    /// is still joining may lack tables.
    fn serving_shards(&self) -> FollowedShards {
        let map = self.map.load();
        let members = map.topology().members();
        let serving = members.filter(|(_, shard)| shard.state != ShardState::Joining);
        let serving: BTreeSet<ShardNumber> = serving.map(|(number, _)| number).collect();
        let mut followed = FollowedShards::clone(&self.shards.load());
        followed.retain(|number, _| serving.contains(number));
        followed
    }

    /// Reads the changes of the shard map, or the whole map after a failover of the catalog, which
    /// may have lost or repeated epochs.
    async fn follow_map(
        &self,
        catalog: &Catalog,
        (timeline, read_on): (u32, &mut Option<u32>),
    ) -> QueryResult<()> {
        let known = self.map.backlog().newest_or(self.map.load_full());
        let (next, after) = if *read_on == Some(timeline) {
            (catalog.map_tables().map_after(&known).await?, known.epoch())
        } else {
            (catalog.map_tables().map().await?, 0)
        };
        if let Some(next) = self.not_below((catalog, timeline), next, known.epoch()).await? {
            let arrivals = arrivals_after(&catalog.connection, after).await?;
            record_arrivals(&self.shards.load(), &arrivals);
            *read_on = self.publish(next).then_some(timeline);
        }
        Ok(())
    }

    /// Returns the map that was read if its epoch is not below `known`, the highest epoch that this
    /// router knew before. If it is lower, the catalog has lost changes in a failover. Its next
    /// changes would get epochs that other maps have had, so the epoch of the catalog is raised
    /// above `known`, and its map is read again. Returns `None` if the session is no longer with
    /// the primary of the catalog.
    async fn not_below(
        &self,
        (catalog, timeline): (&Catalog, u32),
        next: ShardMap,
        known: u64,
    ) -> QueryResult<Option<ShardMap>> {
        if next.epoch() >= known {
            return Ok(Some(next));
        }
        if self.catalog.term().timeline != timeline {
            // A node that was deposed has lost nothing: later changes are on the present primary.
            return Ok(None);
        }
        raise_epoch(&catalog.connection, known + 1).await?;
        tracing::warn!(
            epoch = next.epoch(),
            known,
            "the catalog has lost the last changes of the shard map: its map is in force again, \
             with a later epoch"
        );
        catalog.map_tables().map().await.map(Some)
    }

    /// Puts a map in force that is not older than the present one, without shards that have just
    /// joined and are not open here. Returns false if the map does not belong to the open shards.
    fn publish(&self, next: ShardMap) -> bool {
        let epoch = next.epoch();
        match self.map.publish_open(next) {
            Ok(true) => {
                tracing::info!(epoch, "the shard map has changed");
                self.release_retired();
                true
            }
            Ok(false) => true,
            Err(error) => {
                tracing::error!(%error, "the shard map in force stays: start the router again");
                !matches!(error, ShardListError::NumberTaken { .. })
            }
        }
    }

    /// Puts a map in force that this router has stored in the catalog on this timeline. If a map of
    /// a later timeline was read since then, a failover may have lost the stored one.
    pub(super) async fn adopt(&self, next: ShardMap, timeline: u32) {
        let read_on = self.turn.lock().await;
        let is_present = read_on.is_none_or(|read_on| read_on <= timeline);
        if is_present && next.epoch() > self.map.load().epoch() {
            self.publish(next);
        }
    }

    /// Reads the shard map, unless this router has a map of this epoch or a later one. A call that
    /// arrives during another one waits and shares its result. After a failure, the catalog is not
    /// queried again for [`RETRY`].
    ///
    /// # Errors
    /// [`Error::ShardUnavailable`] if the map cannot be read, or its epoch is lower than this one.
    pub(super) async fn update_map(&self, epoch: u64) -> Result<(), Error> {
        let mut failed_at = self.map_failed_at.lock().await;
        if self.map.load().epoch() >= epoch {
            return Ok(());
        }
        let unavailable = || Error::ShardUnavailable { shard: PLACE.to_owned() };
        if failed_at.is_some_and(|ended: Instant| ended.elapsed() < RETRY) {
            return Err(unavailable());
        }
        let read = tokio::time::timeout(MAP_MAX, self.read_map()).await;
        let read = read.unwrap_or_else(|elapsed| Err(elapsed.to_string()));
        let is_late = self.map.load().epoch() < epoch;
        *failed_at = is_late.then(Instant::now);
        if is_late {
            let error = read.err().unwrap_or_else(|| "its shard map is older".to_owned());
            tracing::debug!(%error, "the catalog has no shard map for a session");
            return Err(unavailable());
        }
        Ok(())
    }

    /// Reads the shard map over a session of its own, so that it does not wait for the tables.
    async fn read_map(&self) -> Result<(), String> {
        let (catalog, term) = self.connect("map").await?;
        let known = self.map.backlog().newest_or(self.map.load_full()).epoch();
        let read = async {
            let next = catalog.map_tables().map().await?;
            let next = self.not_below((&catalog, term.timeline), next, known).await?;
            let arrivals = arrivals_after(&catalog.connection, 0).await?;
            record_arrivals(&self.shards.load(), &arrivals);
            QueryResult::Ok(next)
        };
        let map = tokio::select! {
            map = read => map.map_err(|error| error.to_string())?,
            () = self.catalog.terms().ended(term) => None,
        };
        self.publish(map.ok_or_else(|| "another node is its primary now".to_owned())?);
        Ok(())
    }

    /// Reads the shard map and all tables again, from a catalog on this timeline.
    ///
    /// # Errors
    /// The reason why they cannot be read, as a message. The registry is unchanged then.
    pub(super) async fn refresh_from(
        &self,
        catalog: &Catalog,
        timeline: u32,
    ) -> Result<(), String> {
        let mut turn = self.turn.lock().await;
        let followed = self.follow_map(catalog, (timeline, &mut turn)).await;
        followed.map_err(|error| error.to_string())?;
        read_tables(self, catalog, self.serving_shards()).await
    }
}

/// Reads the shard map, and the tables if their version, or the set of shards that serve
/// requests, differs from that of the last read. A move of slots changes neither, and reading
/// the tables opens a session with every shard.
///
/// # Errors
/// Errors of [`CatalogFollower::refresh_from`].
async fn refresh_changed(
    follower: &CatalogFollower,
    catalog: &Catalog,
    timeline: u32,
    (version, seen): (CatalogVersion, &mut Seen),
) -> Result<(), String> {
    let mut turn = follower.turn.lock().await;
    let followed = follower.follow_map(catalog, (timeline, &mut turn)).await;
    followed.map_err(|error| error.to_string())?;
    let serving = follower.serving_shards();
    let terms = serving.iter().map(|(number, (leader, _))| (*number, leader.term()));
    let tables = Some((version.tables, terms.collect()));
    if seen.tables != tables {
        read_tables(follower, catalog, serving).await?;
        seen.tables = tables;
    }
    seen.cluster = Some((version.epoch, version.tables));
    Ok(())
}

/// Returns the newest map that this router knows, if it has read the whole map on this timeline
/// of the catalog, and is not reading it now.
pub(super) fn known_on(follower: &CatalogFollower, timeline: u32) -> Option<Arc<ShardMap>> {
    let read_on = follower.turn.try_lock().ok()?;
    let is_known = *read_on == Some(timeline);
    is_known.then(|| follower.map.backlog().newest_or(follower.map.load_full()))
}

/// Reads the tables of these shards, and publishes those that all of them have.
async fn read_tables(
    follower: &CatalogFollower,
    catalog: &Catalog,
    followed: FollowedShards,
) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    // The registry is loaded before the intents. Otherwise, a table whose intent is read here
    // and which this router publishes before the comparison would be taken for a table that was
    // dropped.
    let known = follower.registry.load_full();
    // Intents are read before the tables and after them: a table that is being created
    // meanwhile may exist on every shard, and its creation may still be undone.
    let before = catalog.intents().load().await.map_err(|error| failed(&error))?;
    let declared = followed.values().map(async |(leader, _)| {
        if Arc::ptr_eq(leader, &follower.catalog) {
            // This reuses the open session instead of opening another one to the same node.
            return catalog.declared_tables().await.map_err(|error| error.to_string());
        }
        declared(leader).await
    });
    let shards = join_all(declared).await;
    let shards: Vec<(Registry, u64)> = shards.into_iter().collect::<Result<_, _>>()?;
    let after = catalog.intents().load().await.map_err(|error| failed(&error))?;
    let pending = before.iter().chain(&after);
    let pending: Vec<&str> = pending.map(|intent| intent.table.name()).collect();
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
        // Reads of a new table are not sent to a replica before it has replayed the table's
        // creation.
        for ((_, replication), (_, position)) in followed.values().zip(&shards) {
            replication.primary().record_schema_change(*position);
        }
    }
    let registry = tables.into_iter().fold(Registry::default(), |all, table| all.with(table));
    follower.registry.rcu(|now| {
        // Tables that this router has created meanwhile stay.
        let is_new = |table: &&Arc<Table>| {
            known.find(table.name()).is_none() && registry.find(table.name()).is_none()
        };
        now.tables().filter(is_new).fold(registry.clone(), |all, table| all.with(Arc::clone(table)))
    });
    Ok(())
}

/// Records all positions at which followed shards have accepted slots.
///
/// # Errors
/// The reason why they cannot be read, as a message.
pub(super) async fn read_arrivals(follower: &CatalogFollower) -> Result<(), String> {
    let (catalog, term) = follower.connect("map").await?;
    let arrivals = tokio::time::timeout(MAP_MAX, arrivals_after(&catalog.connection, 0));
    let arrivals = tokio::select! {
        arrivals = arrivals => arrivals.map_err(|elapsed| elapsed.to_string())?,
        () = follower.catalog.terms().ended(term) => {
            return Err("another node is its primary now".to_owned());
        }
    };
    record_arrivals(&follower.shards.load(), &arrivals.map_err(|error| error.to_string())?);
    Ok(())
}

/// Records the positions at which shards have accepted slots, before a map that names them as
/// owners comes into force. If a shard has given a slot away and got it back, a replica below such
/// a position may still serve the old rows of the slot, although a session may have seen later rows
/// on the shard that owned the slot between. Positions of other timelines need not be recorded,
/// because a router begins to follow a timeline at a position after them.
pub(super) fn record_arrivals(followed: &FollowedShards, arrivals: &[(ShardNumber, Position)]) {
    for (number, Position { timeline, sequence }) in arrivals {
        if let Some((_, replication)) = followed.get(number) {
            let record = |state: &ReplicationState| {
                state.primary().record_schema_change(*sequence);
            };
            replication.update_if_current(*timeline, record);
        }
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
