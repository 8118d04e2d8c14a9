//! Scan: reads that may visit many rows, on connections of their own, so that short reads never
//! wait for them.
//!
//! Each read runs in a task that owns its connection: a dropped request leaves no half-read result,
//! and the server ends a statement after its deadline.
//!
//! **Invariant:** a connection returns to the pool only after its work has ended without an error.
//! **Not here:** the statements of a read (`scan_session`), reads of single keys (`key_reads`).

mod scan_session;

use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool::Runtime as PoolRuntime;
use deadpool::managed::{Metrics, Object, Pool, PoolError, RecycleError, RecycleResult};
use diesel::QueryResult;
use diesel::result::Error as DieselError;
use diesel_async::pooled_connection::PoolableConnection;
use engine::fair_places::FairPlaces;
use engine::replication::ReplicationState;
use engine::{NodeRows, Scope, TableSize, WorkerNode, read_task};
use futures_util::future::BoxFuture;
use model::error::Error;
use model::fair_share::FairShare;
use model::position::Position;
use model::query::ReadQuery;
use model::slot_refusal::SlotRefusal;
use model::stats::{MoverConnections, PoolStats, SizeEstimate};
use tokio::runtime::Handle;

use super::citus;
use super::db_error::DbErrorKind;
use super::free_connections;
use super::key_reads::log_unreadable;
use super::node::NodeError;
use super::position_query::{self, PositionQuery};
use super::slot_moves::SESSIONS_MAX;
use super::statement::{Prepared, Statement, load, run};
use super::target::Target;
use scan_session::{ScanSession, SessionRows};

/// Maximum number of connections to one node for scans.
const CONNECTIONS_MAX: usize = 2;
/// Share of the time until its deadline that a read may wait for a connection.
const POOL_WAIT: f64 = 0.75;
/// Time after its deadline within which the server must have ended a statement. A server that is
/// frozen does not end the statement. Its connection is dropped then, because the connections to
/// the primary are needed after a failover.
const END_MAX: Duration = Duration::from_secs(1);
/// Settings of a session. Its statements differ much, so each is planned for its own values.
const SETTINGS: &str = "SET plan_cache_mode=force_custom_plan";

/// Estimates the numbers of rows and bytes. The number of rows comes from the statistics since the
/// server was started or, without those, from the last `ANALYZE`.
const SIZE_ESTIMATE: &str = "SELECT COALESCE(sum(CASE WHEN s.n_live_tup>0 THEN s.n_live_tup \
    ELSE GREATEST(c.reltuples,0)::bigint END),0)::bigint, COALESCE(sum(pg_total_relation_size(c.oid)),0)::bigint \
    FROM tessera_tables t JOIN pg_class c ON c.oid=to_regclass('public.'||t.name) \
    LEFT JOIN pg_stat_all_tables s ON s.relid=c.oid";
/// Estimates the size of a Citus cluster in bytes. The number of rows is null, because a
/// coordinator does not count the rows of its workers.
const SIZE_ESTIMATE_OF_CITUS: &str = "SELECT NULL::bigint, \
    COALESCE(sum(citus_total_relation_size(c.oid)),0)::bigint \
    FROM tessera_tables t JOIN pg_class c ON c.oid=to_regclass('public.'||t.name)";
/// Selects the size of the database in bytes. This needs only the right to connect to it.
const DATABASE_BYTES: &str = "SELECT pg_database_size(current_database())";

/// The pool of one node.
#[derive(Clone)]
pub(super) struct Scans {
    shard: String,
    target: Target,
    position_query: PositionQuery,
    replication: Arc<ReplicationState>,
    pool: Pool<Connector>,
    /// Permits for the connections of the pool, which the tenants share fairly.
    places: FairPlaces,
    /// Runtime that drives the connections.
    runtime: Handle,
}

/// Work on a connection.
type Work<'s, T> = BoxFuture<'s, QueryResult<T>>;

/// Opens the connections of the pool.
pub(super) struct Connector(Target);

impl deadpool::managed::Manager for Connector {
    type Type = ScanSession;
    type Error = NodeError;

    async fn create(&self) -> Result<ScanSession, NodeError> {
        let (session, term) = self.0.connect("scans").await?;
        let connection = session.connection;
        if let Err(error) = run(&connection, SETTINGS).await {
            let (node, at) = (self.0.name(), self.0.address());
            tracing::warn!(node, %at, %error, "a session cannot be set up");
        }
        Ok(ScanSession { connection, term, prepared: Prepared::default(), known: None })
    }

    async fn recycle(&self, session: &mut ScanSession, _: &Metrics) -> RecycleResult<NodeError> {
        if session.connection.is_broken() || !self.0.is_current(session.term) {
            return Err(RecycleError::message("the connection is closed"));
        }
        Ok(())
    }
}

impl Scans {
    /// Creates the pool of a node, whose connections the current runtime drives.
    pub(super) fn new(target: &Target, shard: &str, replication: &Arc<ReplicationState>) -> Self {
        let builder = Pool::builder(Connector(target.clone()));
        let builder = builder.max_size(CONNECTIONS_MAX).runtime(PoolRuntime::Tokio1);
        let pool = builder.build().expect("a pool with a runtime can always be built");
        let (shard, position_query) = (shard.to_owned(), target.position_query());
        let (target, replication) = (target.clone(), Arc::clone(replication));
        let (places, runtime) = (FairPlaces::new(CONNECTIONS_MAX), Handle::current());
        let scans = Self { shard, target, position_query, replication, pool, places, runtime };
        scans.runtime.spawn(scans.clone().close_outdated_connections());
        scans
    }

    /// Closes the idle connections of the pool when another node becomes the primary, so that a
    /// node keeps only the connections it needs. Ends when the shard has retired, or with the
    /// runtime.
    async fn close_outdated_connections(self) {
        loop {
            let term = self.target.term();
            self.pool.retain(|session, _| self.target.is_current(session.term));
            if !self.target.another_term(term).await {
                return;
            }
        }
    }

    /// Reads a page.
    pub(super) async fn read(
        &self,
        query: Arc<ReadQuery>,
        key: Option<(model::keyspace::Slot, String)>,
        (floor, deadline): (u64, Instant),
        share: FairShare,
    ) -> Result<NodeRows, Error> {
        let (position_query, target) = (self.position_query, self.target.clone());
        let now = self.replication.timeline().id();
        let rows = self.run_shared(share, deadline, move |session| {
            Box::pin(async move {
                let scope = match &key {
                    Some((slot, key)) => Scope::Key(*slot, key),
                    None => Scope::Shard,
                };
                if floor > 0 {
                    // A separate statement, because the snapshot of a statement is taken before its
                    // functions run.
                    let shown = Statement { sql: position_query.sql(), binds: &[], cached: true };
                    if position_query::shown(&load(&session.connection, shown).await?)? < floor {
                        return Ok(None);
                    }
                }
                let read = if target.citus().is_some() {
                    session.read_all(&query, scope, position_query).await?
                } else {
                    session.read_owned(&query, scope, position_query).await?
                };
                let timeline = target.timeline_id(session.term).unwrap_or(now);
                Ok(Some(read.map(|SessionRows { rows, sequence, owned }| {
                    let position = Position { timeline, sequence };
                    NodeRows { rows, position, owned }
                })))
            })
        });
        // The rows of a replica may belong to an abandoned timeline.
        let goes_on = |_: &Result<NodeRows, SlotRefusal>| {
            matches!(self.target, Target::Primary(_)) || self.replication.timeline().id() == now
        };
        let read = rows.await?.filter(goes_on);
        let read = read.ok_or_else(|| Error::ShardUnavailable { shard: self.shard.clone() })?;
        let read = read.map_err(Error::SlotRefused)?;
        if read.rows.is_too_large() {
            return Err(Error::AnswerTooLarge);
        }
        Ok(read)
    }

    /// Sends an empty statement.
    ///
    /// # Errors
    /// [`Error::PoolExhausted`] only if other work uses all sessions: a node on which none could be
    /// opened in time has not answered.
    pub(super) async fn probe(&self, deadline: Instant) -> Result<(), Error> {
        let probed = self.run(deadline, |session| Box::pin(run(&session.connection, ""))).await;
        let PoolStats { in_use, max, .. } = self.stats();
        if matches!(probed, Err(Error::PoolExhausted { .. })) && in_use < max {
            return Err(Error::DeadlinePassed);
        }
        probed
    }

    /// Returns the numbers of rows and bytes of each table. Reads every row to count them.
    pub(super) async fn sizes<K: Send + 'static>(
        &self,
        kept: K,
        deadline: Instant,
    ) -> Result<Vec<TableSize>, Error> {
        let is_citus = self.target.citus().is_some();
        self.run(deadline, move |session| {
            Box::pin(async move {
                let _kept = kept;
                session.sizes(is_citus).await
            })
        })
        .await
    }

    /// Estimates the size of the data from the statistics of the node.
    pub(super) async fn size_estimate(&self, deadline: Instant) -> Result<SizeEstimate, Error> {
        let is_citus = self.target.citus().is_some();
        let sql = if is_citus { SIZE_ESTIMATE_OF_CITUS } else { SIZE_ESTIMATE };
        self.run(deadline, move |session| {
            Box::pin(async move {
                let statement = Statement { sql, binds: &[], cached: true };
                let rows = load(&session.connection, statement).await?;
                let row = rows.first().ok_or(DieselError::NotFound)?;
                let number =
                    |column| row.bigint(column).map(|number| number.max(0).cast_unsigned());
                let bytes = number(1).unwrap_or(0);
                Ok(SizeEstimate { rows: number(0), is_estimate: true, bytes })
            })
        })
        .await
    }

    /// Returns the bytes that the shard's database takes on the node's disk.
    pub(super) async fn database_bytes(&self, deadline: Instant) -> Result<u64, Error> {
        self.run(deadline, |session| {
            Box::pin(async move {
                let statement = Statement { sql: DATABASE_BYTES, binds: &[], cached: true };
                let rows = load(&session.connection, statement).await?;
                let bytes = rows.first().and_then(|row| row.bigint(0));
                Ok(bytes.ok_or(DieselError::NotFound)?.max(0).cast_unsigned())
            })
        })
        .await
    }

    /// Returns the number of connections that movers need to the node, and the number of free
    /// connections.
    pub(super) async fn mover_connections(
        &self,
        deadline: Instant,
    ) -> Result<MoverConnections, Error> {
        self.run(deadline, |session| {
            Box::pin(async move {
                let found = free_connections::read(&session.connection).await?;
                Ok(found.for_movers(SESSIONS_MAX as u64))
            })
        })
        .await
    }

    /// Returns the nodes of a Citus cluster; none for other servers.
    pub(super) async fn citus_nodes(&self, deadline: Instant) -> Result<Vec<WorkerNode>, Error> {
        if self.target.citus().is_none() {
            return Ok(Vec::new());
        }
        self.run(deadline, |session| Box::pin(citus::nodes::ask(&session.connection))).await
    }

    /// Returns the number of connections, and of those in use.
    pub(super) fn stats(&self) -> PoolStats {
        let pool = self.pool.status();
        let in_use = pool.size.saturating_sub(pool.available);
        PoolStats {
            in_use,
            open: pool.size,
            max: pool.max_size,
            waiting: pool.waiting + self.places.waiting(),
        }
    }

    /// Runs work that no tenant has requested.
    async fn run<T: Send + 'static>(
        &self,
        deadline: Instant,
        work: impl for<'s> FnOnce(&'s mut ScanSession) -> Work<'s, T> + Send + 'static,
    ) -> Result<T, Error> {
        self.run_shared(FairShare::COMMON, deadline, work).await
    }

    /// Runs work in a task that owns a connection.
    async fn run_shared<T: Send + 'static>(
        &self,
        share: FairShare,
        deadline: Instant,
        work: impl for<'s> FnOnce(&'s mut ScanSession) -> Work<'s, T> + Send + 'static,
    ) -> Result<T, Error> {
        let scans = self.clone();
        let task = self.runtime.spawn(async move { scans.owned(share, deadline, work).await });
        read_task::result_of(task, deadline).await
    }

    async fn owned<T>(
        &self,
        share: FairShare,
        deadline: Instant,
        work: impl for<'s> FnOnce(&'s mut ScanSession) -> Work<'s, T>,
    ) -> Result<T, Error> {
        let left = deadline.saturating_duration_since(Instant::now());
        let shard = || self.shard.clone();
        let wait = left.mul_f64(POOL_WAIT);
        let place = self.places.enter(share, Instant::now() + wait).await;
        let Some(_place) = place else { return Err(Error::PoolExhausted { shard: shard() }) };
        let session = tokio::time::timeout(wait, self.pool.get()).await;
        let mut session = match session {
            Err(_elapsed) => return Err(Error::PoolExhausted { shard: shard() }),
            Ok(Err(PoolError::Timeout(_))) => return Err(Error::PoolExhausted { shard: shard() }),
            Ok(Err(PoolError::Backend(error))) => {
                log_unreadable(&self.target, &error);
                return Err(Error::ShardUnavailable { shard: shard() });
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "a node cannot be read");
                return Err(Error::ShardUnavailable { shard: shard() });
            }
            Ok(Ok(session)) => session,
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left < Duration::from_millis(1) {
            return Err(Error::DeadlinePassed);
        }
        let limit = format!("SET statement_timeout={}", left.as_millis());
        let term = session.term;
        let done = {
            let working = async {
                run(&session.connection, &limit).await?;
                work(&mut session).await
            };
            tokio::select! {
                biased;
                done = working => done.map_err(|error| self.to_error(&error, deadline)),
                () = self.target.ended(term) => Err(Error::ShardUnavailable { shard: shard() }),
                () = tokio::time::sleep_until((deadline + END_MAX).into()) => {
                    Err(Error::DeadlinePassed)
                }
            }
        };
        if done.is_err() {
            // The transaction may still be open.
            drop(Object::take(session));
        }
        done
    }

    fn to_error(&self, error: &DieselError, deadline: Instant) -> Error {
        let kind = DbErrorKind::of(error);
        if kind == DbErrorKind::Late || Instant::now() >= deadline {
            return Error::DeadlinePassed;
        }
        let (node, at) = (self.target.name(), self.target.address());
        if kind == DbErrorKind::Promoted {
            tracing::info!(node, %at, %error, "a read must use another node");
        } else {
            tracing::warn!(node, %at, %error, ?kind, "a read failed");
        }
        match kind {
            DbErrorKind::Discarded(_) | DbErrorKind::Other => Error::Internal,
            DbErrorKind::Constraint(_)
            | DbErrorKind::NotUnique(_)
            | DbErrorKind::IndexEntryTooLong(_)
            | DbErrorKind::Conflict
            | DbErrorKind::ReadOnly
            | DbErrorKind::Full
            | DbErrorKind::Late
            | DbErrorKind::Outdated
            | DbErrorKind::Promoted
            | DbErrorKind::Lost => Error::ShardUnavailable { shard: self.shard.clone() },
        }
    }
}
