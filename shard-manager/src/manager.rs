//! Manager: the façade. One call for each thing a client can ask, answered with a receipt.
//!
//! Each request takes one snapshot of the shard map and of the registry, and never looks twice.
//!
//! **Invariant:** a success means durable on the primary that the receipt names.
//! **Not here:** HTTP, metrics (the caller records the receipt), SQL.

mod agreement;
mod backing;
mod bulk;
mod cached;
mod comparing;
mod connected;
mod embedded;
mod following;
mod members;
mod reads;
mod tables;
mod vitals;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures_util::future::join;

use crate::brake::{Brake, Hold};
use crate::cache::{Cache, CacheUse, ServedBy};
use crate::consistency::Level;
use crate::error::{Error, Failure, Outcome};
use crate::keyspace::ShardKey;
use crate::lane::{LaneFailure, LaneTimes};
use crate::position::Position;
use crate::result_rows::Rows;
use crate::row_change::{Fields, Operation, RowDone, RowWrite};
use crate::shard::{NodeHealth, Shard};
use crate::shard_map::{KeyLocation, ShardMap};
use crate::store::{CitusNode, TableSize};
use crate::table::{Registry, Table};
use crate::token::{SessionToken, TokenError, TokenKey};
use crate::topology::ShardIndex;

use backing::Backing;
pub use bulk::{BulkDone, BulkPart, BulkRow, BulkRowDone};
pub use connected::{ConnectedCluster, check_members};
pub use embedded::EmbeddedCluster;
pub use tables::Made;

/// The cluster, as a router uses it.
pub struct Manager {
    map: Arc<ArcSwap<ShardMap>>,
    registry: Arc<ArcSwap<Registry>>,
    /// Held by whoever changes the tables.
    schema_turn: Arc<tokio::sync::Mutex<()>>,
    shards: Vec<Shard>,
    token_key: TokenKey,
    backing: Backing,
    cache: Option<Arc<Cache>>,
}

/// What a client asks of a request, whatever it is about.
#[derive(Clone, Debug)]
pub struct Wish {
    /// How many nodes must have a write, or how much a read must not miss.
    pub level: Level,
    /// What the client has seen before.
    pub session: SessionToken,
    /// How long ago the node that answers a read may have been current.
    pub staleness: Duration,
    /// Whether a read of all shards may be answered without those that cannot answer.
    pub partial: bool,
    /// When the answer is of no use any more.
    pub deadline: Instant,
}

impl Wish {
    /// An answer until `deadline`, by a client that says nothing else.
    pub fn by(deadline: Instant) -> Self {
        let (level, session) = (Level::One, SessionToken::empty());
        Self { level, session, staleness: Duration::MAX, partial: false, deadline }
    }
}

/// Where a request's work was done, and where its time went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Slot, shard and epoch.
    pub place: KeyLocation,
    /// The shard's position that holds it.
    pub position: Position,
    /// Time in the queue, and in the database.
    pub times: LaneTimes,
}

/// A write that is durable.
#[derive(Clone, Debug)]
pub struct Written {
    /// What became of the row.
    pub row: RowDone,
    /// Where.
    pub receipt: Receipt,
}

/// The rows of a read.
#[derive(Clone, Debug)]
pub struct ReadDone {
    /// The rows.
    pub rows: Rows,
    /// The shards that answered, in order.
    pub shards: Vec<ShardIndex>,
    /// Those that could not, if that was allowed.
    pub missing: Vec<ShardIndex>,
    /// Where to go on, if more rows follow.
    pub next_cursor: Option<String>,
    /// Where, if the read had a key.
    pub place: Option<KeyLocation>,
    /// Who answered; of several shards the primary if one of them did.
    pub served_by: ServedBy,
    /// What the cache was to it; `None` if there is none.
    pub cache: Option<CacheUse>,
    /// What the client has seen with this.
    pub session: SessionToken,
    /// Version of the map.
    pub epoch: u64,
    /// Time in the databases (the slowest counts), and merging.
    pub database: Duration,
    /// Time spent merging.
    pub merge: Duration,
}

impl ReadDone {
    /// The version of the row, if it is the only one of a read by key.
    pub fn version(&self) -> Option<i64> {
        let only = self.rows.len() == 1 && self.next_cursor.is_none();
        self.rows.version.filter(|_| only)
    }
}

/// A shard's sizes and health, for people and for balancing.
#[derive(Clone, Debug)]
pub struct ShardReport {
    /// Which shard.
    pub shard: ShardIndex,
    /// Its nodes.
    pub nodes: Vec<NodeHealth>,
    /// Its tables; `None` if it could not be asked.
    pub tables: Option<Vec<TableSize>>,
    /// The nodes of Citus, if its primary coordinates them and could be asked.
    pub citus: Vec<CitusNode>,
}

impl Manager {
    fn new(
        map: ShardMap,
        registry: Registry,
        shards: Vec<Shard>,
        token_key: TokenKey,
        backing: Backing,
    ) -> Self {
        if let Some(contradiction) = map.contradiction() {
            // The cluster was created when that was allowed, and its rows lie where its map says.
            tracing::warn!(%contradiction, "keyspace and placement of this cluster contradict each other");
        }
        let map = Arc::new(ArcSwap::from_pointee(map));
        let registry = Arc::new(ArcSwap::from_pointee(registry));
        Self::of(map, registry, shards, token_key, backing)
    }

    fn of(
        map: Arc<ArcSwap<ShardMap>>,
        registry: Arc<ArcSwap<Registry>>,
        shards: Vec<Shard>,
        token_key: TokenKey,
        backing: Backing,
    ) -> Self {
        let schema_turn = Arc::default();
        Self { map, registry, schema_turn, shards, token_key, backing, cache: None }
    }

    /// The map in force.
    pub fn map(&self) -> Arc<ShardMap> {
        self.map.load_full()
    }

    /// The name of a shard that this manager told.
    pub fn shard_name(&self, shard: ShardIndex) -> &str {
        self.shards[shard.index()].name()
    }

    /// Reads the tokens of a request and puts them together.
    ///
    /// # Errors
    /// [`TokenError`] if one is too long, or not one of this cluster.
    pub fn session<'t>(
        &self,
        tokens: impl Iterator<Item = &'t str>,
    ) -> Result<SessionToken, TokenError> {
        let mut session = SessionToken::empty();
        let holds = |shard: ShardIndex, position| {
            // A shard that is not there any more has nothing to hold.
            let shard = self.shards.get(shard.index());
            shard.is_none_or(|shard| shard.progress.history().holds(position))
        };
        for token in tokens {
            session.merge(&SessionToken::parse(token, &self.token_key)?, holds);
        }
        Ok(session)
    }

    /// The text of a token, for the client to keep.
    pub fn token(&self, session: &SessionToken) -> String {
        session.encode(&self.token_key)
    }

    /// How many replicas each shard has.
    pub fn replicas(&self) -> usize {
        self.shards.first().map_or(0, |shard| shard.progress.replicas())
    }

    /// The names of a shard's primary and of its replicas.
    pub fn nodes(&self, shard: ShardIndex) -> (&str, &[String]) {
        self.shards[shard.index()].nodes()
    }

    /// The table of this name.
    ///
    /// # Errors
    /// [`Error::NoSuchTable`], with the name that may have been meant.
    pub fn table(&self, name: &str) -> Result<Arc<Table>, Error> {
        let registry = self.registry.load();
        registry.find(name).cloned().ok_or_else(|| Error::NoSuchTable {
            table: name.chars().take(80).collect(),
            suggestion: registry.suggest(name),
        })
    }

    /// Checks one change and routes it by a snapshot of the map: one for all changes of a request.
    ///
    /// # Errors
    /// [`Error::Row`] names the member and what is wrong with it.
    pub fn prepare(
        map: &ShardMap,
        table: &Arc<Table>,
        operation: Operation,
        key: ShardKey<'_>,
        fields: &Fields<'_>,
    ) -> Result<(KeyLocation, RowWrite), Error> {
        let place = map.place(key)?;
        let row = RowWrite::parse(table, operation, (key, place.slot), fields)?;
        Ok((place, row))
    }

    /// Applies one change; when this returns `Ok`, it is durable on as many nodes as the level asks for.
    ///
    /// # Errors
    /// [`Failure`] says why, where, and whether it may have been stored.
    pub async fn write(
        &self,
        place: KeyLocation,
        row: RowWrite,
        wish: &Wish,
    ) -> Result<Written, Failure> {
        let shard = &self.shards[place.shard.index()];
        let failed = |error, outcome, seen| Failure { error, place: Some(place), outcome, seen };
        let mut written = self.written(std::iter::once((place, &row)));
        let done = shard.write(vec![row], wish.level, wish.deadline).await;
        if let Err(LaneFailure { outcome: Outcome::Rejected, .. }) = &done {
            written.forget();
        }
        drop(written);
        let done = done.map_err(|failure| failed(failure.error, failure.outcome, None))?;
        let position = shard.seen_by_writer(done.applied.position);
        let seen = Some(position);
        let times = done.applied.times;
        match (done.applied.rows.into_iter().next(), done.shortfall) {
            (Some(Ok(row)), None) => {
                Ok(Written { row, receipt: Receipt { place, position, times } })
            }
            (Some(Ok(_)), Some(shortfall)) => Err(failed(shortfall, Outcome::Committed, seen)),
            (Some(Err(error)), _) => Err(failed(error, Outcome::Rejected, seen)),
            (None, _) => Err(failed(Error::Internal, Outcome::Unknown, None)),
        }
    }

    /// What a client has seen that saw `session` before, and now a shard up to `position`. What may have been
    /// lost is not forgotten: a read tells of it.
    pub fn seen(&self, session: &mut SessionToken, shard: ShardIndex, position: Position) {
        let history = self.shards[shard.index()].progress.history();
        if session.seen(shard).is_none_or(|known| history.holds(known)) {
            session.see(shard, position);
        }
    }

    /// Asks every node how it is.
    pub async fn health(&self, deadline: Instant) -> Vec<ShardReport> {
        self.cache.iter().for_each(Cache::look_after);
        let probes = self.shards.iter().map(|shard| shard.probe(deadline));
        let nodes = futures_util::future::join_all(probes).await;
        let numbered = (0..).map(ShardIndex).zip(nodes);
        let report = |(shard, nodes)| ShardReport { shard, nodes, tables: None, citus: Vec::new() };
        numbered.map(report).collect()
    }

    /// Health and sizes of the given shards. Visits every page of their files: ask seldom.
    pub async fn report(&self, shards: &[ShardIndex], deadline: Instant) -> Vec<ShardReport> {
        let reports = shards.iter().map(async |&index| {
            let shard = &self.shards[index.index()];
            // Concurrently: a stalled lane delays no read.
            let (nodes, tables) = join(shard.probe(deadline), shard.sizes(deadline)).await;
            let mut tables = tables.ok();
            // One that is not on every shard yet is nobody's business.
            let registry = self.registry.load();
            let is_known = |size: &TableSize| registry.find(&size.table).is_some();
            tables.iter_mut().for_each(|tables| tables.retain(is_known));
            let citus = shard.citus_nodes(deadline).await.unwrap_or_default();
            ShardReport { shard: index, nodes, tables, citus }
        });
        futures_util::future::join_all(reports).await
    }

    /// Rows of all tables on each shard; `None` if it could not be asked.
    pub async fn count_rows(&self, deadline: Instant) -> Vec<(ShardIndex, Option<i64>)> {
        let counts = self.shards.iter().map(|shard| shard.counts(deadline));
        let counts = futures_util::future::join_all(counts).await;
        let sum = |tables: Vec<(String, i64)>| tables.iter().map(|(_, rows)| rows).sum();
        (0..)
            .map(ShardIndex)
            .zip(counts)
            .map(|(shard, tables)| (shard, tables.ok().map(sum)))
            .collect()
    }

    /// The nodes of all shards, and what holds each back.
    pub fn holds(&self) -> Vec<(String, Hold)> {
        let nodes = self.shards.iter().flat_map(|shard| {
            let (primary, replicas) = shard.nodes();
            let names = std::iter::once(primary).chain(replicas.iter().map(String::as_str));
            names.filter_map(|node| Some((node.to_owned(), shard.brake(node)?.hold())))
        });
        nodes.collect()
    }

    /// What holds a node back; `None` if there is no such node. For tests and for teaching.
    pub fn brake(&self, node: &str) -> Option<&Brake> {
        self.shards.iter().find_map(|shard| shard.brake(node))
    }
}
