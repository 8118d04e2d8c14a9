//! Manager: the façade of a cluster, with an interface for each kind of request.
//!
//! The interfaces are borrowed views: [`Data`] for rows, [`Schema`] for tables, [`Indexes`] for
//! their indexes, [`Sessions`] for session tokens, [`Status`] for health and sizes, [`Access`] for
//! keys and roles, [`Shards`] for the list of shards, [`Slots`] for fences of slots, [`Moves`] and
//! [`Rebalances`] for slots that move between shards, [`Nodes`] for the nodes of an engine that
//! distributes rows itself, [`Faults`] for injected faults. Only [`Backups`] has state of its own,
//! and is opened once. Each request uses one snapshot of the shard map and one of the table
//! registry.
//!
//! The interfaces that return rows or names of tables take the [`Rights`] of the API client as an
//! argument, so code that forgets them does not compile. Internal work passes [`Rights::ALL`].
//!
//! **Invariant:** a write that is reported as successful is durable on the primary of the shard
//! that the receipt names. A row or the name of a table is returned only if the rights that were
//! passed permit it.
//! **Not here:** HTTP, metrics (the calling code records the receipt), SQL.

mod access_control;
mod backups;
mod data;
mod faults;
#[cfg(feature = "sabotage")]
mod hand_overs;
mod index_building;
mod indexes;
mod join_orders;
mod lifecycle;
mod move_announcements;
mod move_resources;
mod move_status;
mod mover;
mod moves;
mod nodes;
mod operator_commands;
mod rebalance_status;
mod rebalancer;
mod rebalances;
mod schema;
mod sessions;
mod shard_membership;
mod shard_upkeep;
mod shards;
mod slots;
mod status;
mod time_limits;
mod visible_tables;

use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use ::access::rights::Rights;
use arc_swap::ArcSwap;
use cache::{Cache, CacheSettings, CacheUse, ServedBy};
use engine::index_record::IndexRecord;
use engine::open_error::OpenError;
use engine::published_map::PublishedMap;
use engine::{ClusterBackend, OpenedCluster, TableSize, WorkerNode};
use model::consistency::Level;
use model::keyspace::GROUPS_MAX;
use model::position::Position;
use model::result_rows::Rows;
use model::row_change::RowDone;
use model::shard_map::{KeyLocation, ShardMap};
use model::table::Registry;
use model::token::{SessionToken, TokenKey};
use model::topology::ShardNumber;

use crate::lane::LaneTimes;
use crate::parking_limits::ParkedWrites;
use crate::scatter_budget::ScatterBudget;
use crate::shard::{NodeHealth, Shard};
use crate::shard_list::ShardList;
use crate::slot_router::SlotRouter;

pub use access_control::Access;
pub use backups::{BackupTotals, Backups, BackupsError, LISTED_MAX};
use data::KnownCoverage;
pub use data::{
    BulkDone, BulkPart, BulkRow, BulkRowDone, Data, ResumeError, place_row, place_row_in,
};
pub use faults::Faults;
pub use indexes::{IndexCreated, IndexDraft, IndexPause, Indexes, IndexesError};
use join_orders::JoinOrders;
use move_announcements::MoveAnnouncements;
use move_status::MoveStatus;
pub use move_status::MoveTotals;
pub use moves::{Moves, MovesError};
pub use nodes::Nodes;
pub use operator_commands::serve_commands;
use rebalance_status::RebalanceStatus;
pub use rebalances::planning::PlannedSlots;
pub use rebalances::{LoadSource, ObservedLoad, Rebalances, RebalancesError, StoppedPlans};
pub use schema::{Schema, TableCreated};
pub use sessions::Sessions;
pub use shard_membership::{ShardChangeError, ShardChanged};
pub use shards::Shards;
pub use slots::{Slots, SlotsError};
pub use status::Status;
pub use visible_tables::{check_key, partition_columns};

/// An open cluster.
pub struct Manager {
    map: Arc<PublishedMap>,
    registry: Arc<ArcSwap<Registry>>,
    /// Lock that is held while the tables change.
    schema_turn: Arc<tokio::sync::Mutex<()>>,
    /// The open shards. A new shard is added to the list before the map names it.
    shards: ArcSwap<ShardList>,
    /// Lock that is held while the list of open shards is replaced.
    shards_turn: Mutex<()>,
    /// Lock that is held while a shard is opened and added to the list.
    opening: tokio::sync::Mutex<()>,
    /// Orders to let shards join.
    joins: JoinOrders,
    /// Announcements of moves and of orders for moves, inside this process.
    move_announcements: MoveAnnouncements,
    /// Moves as this process last read them from the catalog, and counts of its work for moves.
    move_status: MoveStatus,
    /// Latest rebalance, as far as this process knows it.
    rebalance_status: RebalanceStatus,
    /// Indexes as this process last read them from the catalog.
    index_status: ArcSwap<Vec<IndexRecord>>,
    /// Part of the process that counts requests, from which rebalances by load are planned.
    load_source: OnceLock<Arc<dyn LoadSource>>,
    token_key: TokenKey,
    /// Backend of the engine. It is dropped after the shards.
    backend: Box<dyn ClusterBackend>,
    cache: Option<Arc<Cache>>,
    /// Routes slots to shards.
    router: SlotRouter,
    /// Writes that wait until a shard accepts their slots.
    parked: ParkedWrites,
    /// Limit on the memory for the rows of running reads of several shards.
    scatter_budget: ScatterBudget,
    /// For each table group, the slots that each shard showed in the last complete read of all
    /// shards.
    coverage: [KnownCoverage; GROUPS_MAX],
}

/// Options of a request for rows.
#[derive(Clone, Debug)]
pub struct RequestOptions {
    /// Consistency level, which determines how many nodes must have a write and which changes a
    /// read must observe.
    pub level: Level,
    /// Positions that the client has seen.
    pub session: SessionToken,
    /// Maximum staleness of a read: the time since the node that serves it last had all changes of
    /// its primary.
    pub staleness: Duration,
    /// True if a read of all shards may leave out shards that cannot be read.
    pub partial: bool,
    /// Moment by which the response is due.
    pub deadline: Instant,
}

impl RequestOptions {
    /// Returns the default options with a deadline.
    pub fn by(deadline: Instant) -> Self {
        let (level, session) = (Level::One, SessionToken::empty());
        Self { level, session, staleness: Duration::MAX, partial: false, deadline }
    }
}

/// Slot, shard and duration of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Slot and shard of the row, and epoch of the map.
    pub place: KeyLocation,
    /// Position of the shard after the write.
    pub position: Position,
    /// Times in the queue and in the database.
    pub times: LaneTimes,
}

/// Receipt of a durable write.
#[derive(Clone, Debug)]
pub struct WriteReceipt {
    /// Outcome of the row.
    pub row: RowDone,
    /// Slot, shard and duration of the write.
    pub receipt: Receipt,
}

/// Rows of a read.
#[derive(Clone, Debug)]
pub struct ReadDone {
    /// The rows.
    pub rows: Rows,
    /// Shards that were read, in order.
    pub shards: Vec<ShardNumber>,
    /// Shards that could not be read, if the options allow leaving them out.
    pub missing: Vec<ShardNumber>,
    /// Cursor of the next page, if more rows follow.
    pub next_cursor: Option<String>,
    /// Slot and shard, if the read had a key.
    pub place: Option<KeyLocation>,
    /// Source of the rows: primary, replica or cache. For a read of several shards, it is the
    /// primary if at least one shard was read from its primary.
    pub served_by: ServedBy,
    /// Use of the cache by this read; `None` if the cluster has no cache.
    pub cache: Option<CacheUse>,
    /// Session of the client, with the positions of this read.
    pub session: SessionToken,
    /// Epoch of the shard map.
    pub epoch: u64,
    /// Time until all shards had responded, without merging; zero after a cache hit.
    pub database: Duration,
    /// Time for merging.
    pub merge: Duration,
}

impl ReadDone {
    /// Returns the version of the row, if a read by key has returned only one row and no page
    /// follows.
    pub fn version(&self) -> Option<i64> {
        let only = self.rows.len() == 1 && self.next_cursor.is_none();
        self.rows.version.filter(|_| only)
    }
}

/// Health and sizes of a shard.
#[derive(Clone, Debug)]
pub struct ShardReport {
    /// Number of the shard.
    pub shard: ShardNumber,
    /// Health of its nodes.
    pub nodes: Vec<NodeHealth>,
    /// Sizes of its tables; `None` if the shard did not respond.
    pub tables: Option<Vec<TableSize>>,
    /// Nodes over which the engine itself distributes the shard's rows; empty if it does not, or if
    /// the primary did not respond.
    pub workers: Vec<WorkerNode>,
}

impl Manager {
    /// Creates the manager of an opened cluster, and starts the lanes of its shards.
    ///
    /// # Errors
    /// [`OpenError`] if the operating system cannot start a thread.
    pub fn new(opened: OpenedCluster) -> Result<Self, OpenError> {
        let OpenedCluster { map, registry, token_key, shards: opened, backend } = opened;
        let members: Vec<ShardNumber> = map.load().topology().numbers().collect();
        let (mut shards, mut opened) = (ShardList::default(), members.into_iter().zip(opened));
        while let Some((number, shard)) = opened.next() {
            let path = shard.name.clone();
            match Shard::start(shard) {
                Ok(shard) => shards = shards.with(number, Arc::new(shard)),
                Err(error) => {
                    opened.for_each(|(_, shard)| shard.stop_replicas());
                    return Err(OpenError::Io { path, cause: error.to_string() });
                }
            }
        }
        let (schema_turn, shards_turn) = (Arc::default(), Mutex::default());
        let shards = ArcSwap::from_pointee(shards);
        let router = SlotRouter::new(&map);
        Ok(Self {
            map,
            registry,
            schema_turn,
            shards,
            shards_turn,
            opening: tokio::sync::Mutex::default(),
            joins: JoinOrders::default(),
            move_announcements: MoveAnnouncements::default(),
            move_status: MoveStatus::default(),
            rebalance_status: RebalanceStatus::default(),
            index_status: ArcSwap::default(),
            load_source: OnceLock::new(),
            token_key,
            backend,
            cache: None,
            router,
            parked: ParkedWrites::default(),
            scatter_budget: ScatterBudget::default(),
            coverage: Default::default(),
        })
    }

    /// Returns the current shard map.
    pub fn map(&self) -> Arc<ShardMap> {
        self.map.load_full()
    }

    /// Returns the interface for rows, for an API client with these rights.
    #[inline]
    pub fn data<'m>(&'m self, rights: &'m Rights) -> Data<'m> {
        Data { manager: self, rights }
    }

    /// Returns the interface for tables, for an API client with these rights.
    #[inline]
    pub fn schema<'m>(&'m self, rights: &'m Rights) -> Schema<'m> {
        Schema { manager: self, rights }
    }

    /// Returns the interface for session tokens.
    #[inline]
    pub fn sessions(&self) -> Sessions<'_> {
        Sessions(self)
    }

    /// Returns the interface for health and sizes.
    #[inline]
    pub fn status(&self) -> Status<'_> {
        Status(self)
    }

    /// Returns the interface for keys, roles and denials.
    #[inline]
    pub fn access(&self) -> Access<'_> {
        Access(self)
    }

    /// Returns the interface for injected faults.
    #[inline]
    pub fn faults(&self) -> Faults<'_> {
        Faults(self)
    }

    /// Puts a cache in front of the shards. The first read connects to the cache's server.
    #[must_use]
    pub fn with_cache(mut self, settings: CacheSettings) -> Self {
        tracing::info!(address = %settings.address, "reads may be answered from a cache");
        self.cache = Some(Arc::new(Cache::new(settings, &self.token_key)));
        self
    }
}
