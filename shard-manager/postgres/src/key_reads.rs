//! Key reads: reads of the rows of one key, many of them in one statement.
//!
//! All reads that wait when a connection becomes free go to the server together, as one array of
//! keys: they share planning, round trip and wake-ups. There is no timer: a read that arrives alone
//! is sent alone, without waiting for others.
//!
//! If more reads wait than one statement may have, and they are of several tenants, the tenants
//! take turns.
//!
//! **Invariant:** each read sees one snapshot; it is refused if, in that snapshot, the node does
//! not answer reads of its slot; its position is queried after the read, on the same session.
//! **Not here:** all other reads (`scan`), the choice of a node (`shard`).

mod queued;
mod text;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use diesel::QueryResult;
use diesel::result::Error as DieselError;
use diesel_async::AsyncPgConnection;
use diesel_async::pooled_connection::PoolableConnection;
use engine::fair_channel::{FairReceiver, FairSender};
use engine::replication::{ReplicationState, presumed_lost};
use engine::runtime_pool::{RuntimeHandle, RuntimePool};
use engine::{NodeRows, fair_channel};
use model::error::Error;
use model::position::Position;
use model::query::{Output, ReadQuery};
use model::result_rows::Rows;
use model::stats::PoolStats;
use model::table::Table;
use model::value::{ColumnType, Value};
use tokio::sync::Mutex;

use super::db_error::DbErrorKind;
use super::json_rows::JsonRows;
use super::node::NodeError;
use super::position_query::{self, PositionQuery};
use super::refusals;
use super::sql;
use super::statement::{Bind, Prepared, Statement, for_each_row, load, pipeline, run, step};
use super::target::Target;
use super::term::Term;
use queued::LIMITS;
pub(super) use queued::QueuedKeyRead;
use text::{refused_column, text};

/// Maximum number of SQL statements that one connection caches.
const TEXTS_MAX: usize = 256;
/// Pause after a node could not be reached. Reads that arrive during the pause fail at once.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// Time limit for the settings of a new session.
const SETTINGS_MAX: Duration = Duration::from_secs(5);
/// Time limit for one batch.
const PATIENCE: Duration = Duration::from_secs(35);

/// Queue of the connections of one node.
pub(super) struct KeyReadQueue {
    queue: FairSender<QueuedKeyRead>,
    connections: usize,
    counts: Counts,
}

/// Numbers of open connections, and of those that execute reads.
#[derive(Clone, Default)]
struct Counts {
    open: Arc<AtomicUsize>,
    answering: Arc<AtomicUsize>,
}

/// Count of one connection, which ends when this value is dropped.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn by(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl KeyReadQueue {
    /// Starts the tasks of this many connections. They end when this is dropped.
    pub(super) fn start(
        target: &Target,
        (shard, replication): (&str, &Arc<ReplicationState>),
        connections: usize,
        runtimes: &RuntimePool,
    ) -> Self {
        let (queue, waiting) = fair_channel::channel(LIMITS);
        let waiting = Arc::new(Mutex::new(waiting));
        let counts = Counts::default();
        for _ in 0..connections {
            let server = Server {
                target: target.clone(),
                shard: shard.to_owned(),
                replication: Arc::clone(replication),
                position_query: target.position_query(),
                open: None,
                retry_at: None,
                counts: counts.clone(),
            };
            server.settle(Arc::clone(&waiting), runtimes.handle());
        }
        Self { queue, connections, counts }
    }

    /// Queues a read. Returns false if too many reads of all tenants, or of the tenant of this one,
    /// wait already.
    pub(super) fn send(&self, read: QueuedKeyRead) -> bool {
        self.queue.try_send(read, 0).is_ok()
    }

    /// Returns the numbers of connections and of reads that wait for one.
    pub(super) fn stats(&self) -> PoolStats {
        PoolStats {
            in_use: self.counts.answering.load(Ordering::Relaxed),
            open: self.counts.open.load(Ordering::Relaxed),
            max: self.connections,
            waiting: self.queue.waiting(),
        }
    }
}

/// One connection and its task.
struct Server {
    target: Target,
    shard: String,
    replication: Arc<ReplicationState>,
    position_query: PositionQuery,
    open: Option<Open>,
    retry_at: Option<Instant>,
    counts: Counts,
}

struct Open {
    connection: AsyncPgConnection,
    term: Option<Term>,
    /// Position of the node at the last query on this connection. It does not decrease within a
    /// timeline.
    known: u64,
    prepared: Prepared,
    texts: VecDeque<(Arc<Table>, Vec<Output>, Arc<str>)>,
    is_citus: bool,
    _counted: Counted,
}

impl Server {
    fn settle(self, waiting: Arc<Mutex<FairReceiver<QueuedKeyRead>>>, runtime: RuntimeHandle) {
        runtime.runtime().spawn(self.run(waiting, runtime));
    }

    async fn run(
        mut self,
        waiting: Arc<Mutex<FairReceiver<QueuedKeyRead>>>,
        mut runtime: RuntimeHandle,
    ) {
        let mut batch = Vec::with_capacity(LIMITS.batch_operations);
        loop {
            let take = async { waiting.lock().await.recv_many(&mut batch).await };
            let taken = tokio::select! {
                biased;
                taken = take => taken,
                () = runtime.moved() => {
                    // A connection stays on the runtime that opened it.
                    self.open = None;
                    self.settle(waiting, runtime);
                    return;
                }
                () = self.outlived() => {
                    // A node keeps only the connections it needs.
                    self.open = None;
                    continue;
                }
            };
            if taken == 0 {
                return;
            }
            let now = Instant::now();
            // No client waits any longer for a read whose deadline has passed.
            for late in batch.extract_if(.., |read: &mut QueuedKeyRead| read.deadline <= now) {
                let _ = late.reply.send(Err(Error::DeadlinePassed));
            }
            batch.retain(|read| !read.reply.is_closed());
            let _answering = Counted::by(&self.counts.answering);
            self.answer(&mut batch).await;
        }
    }

    /// Returns when the connection cannot be used any more because another node is the primary.
    async fn outlived(&self) {
        match &self.open {
            Some(open) => self.target.ended(open.term).await,
            None => std::future::pending().await,
        }
    }

    async fn answer(&mut self, batch: &mut Vec<QueuedKeyRead>) {
        let mut rest = std::mem::take(batch);
        while let Some(first) = rest.first() {
            let query = first.query.clone();
            let same = |read: &QueuedKeyRead| {
                Arc::ptr_eq(&read.query.table, &query.table) && read.query.outputs == query.outputs
            };
            let (group, others): (Vec<_>, Vec<_>) = rest.into_iter().partition(same);
            rest = others;
            match self.read(&query, &group).await {
                Ok(Answer { rows, position, known }) => {
                    for (read, rows) in group.into_iter().zip(rows) {
                        let behind = || Error::ShardUnavailable { shard: self.shard.clone() };
                        let rows = if read.floor > known { Err(behind()) } else { rows };
                        let _ = read.reply.send(rows.map(|rows| NodeRows {
                            rows,
                            position,
                            owned: None,
                        }));
                    }
                }
                Err(error) => {
                    for read in group {
                        let _ = read.reply.send(Err(error.clone()));
                    }
                }
            }
        }
    }

    /// Executes reads, and retries once on a new connection if the old one was closed.
    async fn read(&mut self, query: &ReadQuery, group: &[QueuedKeyRead]) -> Result<Answer, Error> {
        let lost = || Error::ShardUnavailable { shard: self.shard.clone() };
        if self.retry_at.is_some_and(|until| Instant::now() < until) {
            return Err(lost());
        }
        for _ in 0..2 {
            let kept = self.open.take().and_then(|mut open| {
                let usable = self.target.is_current(open.term) && !open.connection.is_broken();
                usable.then_some(open)
            });
            let now = self.replication.timeline().id();
            let was_kept = kept.is_some();
            let mut open = match kept {
                Some(open) => open,
                None => match connect(&self.target, &self.counts).await {
                    Some(open) => open,
                    None => break,
                },
            };
            let term = open.term;
            let reading = read(&mut open, self.position_query, query, group);
            let reading = async {
                tokio::select! {
                    biased;
                    read = tokio::time::timeout(PATIENCE, reading) => read.ok(),
                    () = presumed_lost(&self.replication, self.target.replica()) => None,
                    () = self.target.ended(term) => None,
                }
            };
            match reading.await {
                Some(Ok((rows, sequence, known))) => {
                    let timeline = match self.target.timeline_id(open.term) {
                        Some(timeline) => timeline,
                        None if self.replication.timeline().id() == now => now,
                        // The rows may belong to an abandoned timeline.
                        None => return Err(lost()),
                    };
                    // Clients choose the columns and filters of statements, so the number of
                    // prepared statements must be limited.
                    self.open = Some(open).filter(|open| !open.prepared.is_full());
                    self.retry_at = None;
                    let position = Position { timeline, sequence };
                    return Ok(Answer { rows, position, known });
                }
                Some(Err(error)) => {
                    let kind = DbErrorKind::of(&error);
                    if was_kept && kind == DbErrorKind::Lost {
                        continue;
                    }
                    let (node, at) = (self.target.name(), self.target.address());
                    if kind == DbErrorKind::Promoted {
                        tracing::info!(node, %at, %error, "a read must use another node");
                    } else {
                        tracing::warn!(node, %at, %error, "a read failed");
                    }
                    return Err(error_of_read(&kind, lost));
                }
                None => return Err(lost()),
            }
        }
        self.retry_at = Some(Instant::now() + RETRY_PAUSE);
        Err(lost())
    }
}

/// Returns the error that clients receive for an error of a read; `lost` creates the error for a
/// node that does not respond.
fn error_of_read(kind: &DbErrorKind, lost: impl FnOnce() -> Error) -> Error {
    match kind {
        DbErrorKind::Late => Error::DeadlinePassed,
        DbErrorKind::Discarded(_) | DbErrorKind::Other => Error::Internal,
        DbErrorKind::Constraint(_)
        | DbErrorKind::NotUnique(_)
        | DbErrorKind::IndexEntryTooLong(_)
        | DbErrorKind::Conflict
        | DbErrorKind::ReadOnly
        | DbErrorKind::Full
        | DbErrorKind::Outdated
        | DbErrorKind::Promoted
        | DbErrorKind::Lost => lost(),
    }
}

/// Result of a group of reads.
struct Answer {
    rows: Vec<Result<Rows, Error>>,
    position: Position,
    /// Position that the node had certainly reached before the read.
    known: u64,
}

/// Logs that a node cannot be read. A promoted replica is logged when this router begins to follow
/// it.
pub(super) fn log_unreadable(target: &Target, error: &NodeError) {
    let (node, at) = (target.name(), target.address());
    if error.is_wrong_role() {
        tracing::debug!(node, %at, %error, "a node cannot be read");
    } else {
        tracing::warn!(node, %at, %error, "a node cannot be read");
    }
}

async fn connect(target: &Target, counts: &Counts) -> Option<Open> {
    let (session, term) = match target.connect("reads").await {
        Ok(session) => session,
        Err(error) => {
            log_unreadable(target, &error);
            return None;
        }
    };
    let connection = session.connection;
    let set = tokio::time::timeout(SETTINGS_MAX, run(&connection, sql::LANE_SETTINGS));
    set.await.ok()?.ok()?;
    let (prepared, texts) = (Prepared::default(), VecDeque::new());
    let is_citus = target.citus().is_some();
    let _counted = Counted::by(&counts.open);
    Some(Open { connection, term, known: 0, prepared, texts, is_citus, _counted })
}

/// Reads the rows of these keys, and then the position that bounds the changes which the node
/// shows. If the reads need a higher position than the connection is known to have, the position is
/// queried first, in a separate statement, because the snapshot of a statement is taken before its
/// functions run.
async fn read(
    open: &mut Open,
    position_query: PositionQuery,
    query: &ReadQuery,
    group: &[QueuedKeyRead],
) -> QueryResult<(Vec<Result<Rows, Error>>, u64, u64)> {
    if open.is_citus {
        return read_each(open, position_query, query, group).await;
    }
    let sql = open.text(query);
    let is_known = group.iter().all(|read| read.floor <= open.known);
    let connection = &open.connection;
    let binds = [
        Bind::integers(group.iter().map(|read| i32::from(read.slot.number()))),
        Bind::texts(group.iter().map(|read| read.key.as_str())),
        limits(group),
    ];
    let mut pages: Vec<JsonRows<'_>> =
        group.iter().map(|read| JsonRows::new(&read.query)).collect();
    let (refused_at, mut refused) = (refused_column(query), Vec::new());
    let rows = async {
        let statement = Statement { sql: &sql, binds: &binds, cached: true };
        for_each_row(connection, statement, |row| {
            let number = row.bigint(0).unwrap_or(0) as usize;
            let at = number.checked_sub(1).ok_or(DieselError::NotFound)?;
            if let Some(reason) = row.bigint(refused_at) {
                refused.push((at, reason));
                return Ok(());
            }
            pages.get_mut(at).ok_or(DieselError::NotFound)?.push(row)
        })
        .await
    };
    let ask = || Statement { sql: position_query.sql(), binds: &[], cached: true };
    let before = async { if is_known { Ok(Vec::new()) } else { load(connection, ask()).await } };
    let seen = load(connection, ask());
    let (before, read, seen) = if open.prepared.has(&sql) && open.prepared.has(position_query.sql())
    {
        // Sent in this order: see `pipeline`.
        tokio::task::unconstrained(futures_util::future::join3(before, rows, seen)).await
    } else {
        let all = (before.await, rows.await, seen.await);
        if let (Ok(_), Ok(()), Ok(_)) = &all {
            open.prepared.add(&sql);
            open.prepared.add(position_query.sql());
        }
        all
    };
    read?;
    let before = before?;
    let known = if is_known { open.known } else { position_query::shown(&before)? };
    let seen = seen?;
    let position = position_query::position(position_query, &seen)?;
    open.known = position_query::shown(&seen)?;
    let mut rows: Vec<_> = pages.into_iter().map(JsonRows::finish).collect();
    for (at, reason) in refused {
        let refused = group.get(at).ok_or(DieselError::NotFound)?;
        rows[at] = Err(Error::SlotRefused(refusals::refusal(refused.slot, reason)));
    }
    Ok((rows, position, known))
}

/// Reads on Citus, which needs a statement for each key: all are sent at once.
async fn read_each(
    open: &mut Open,
    position_query: PositionQuery,
    query: &ReadQuery,
    group: &[QueuedKeyRead],
) -> QueryResult<(Vec<Result<Rows, Error>>, u64, u64)> {
    let sql = open.text(query);
    let Open { connection, prepared, known, .. } = open;
    let connection = &*connection;
    let binds: Vec<[Bind; 3]> = group.iter().map(of_one).collect();
    let ask =
        || step(connection, Statement { sql: position_query.sql(), binds: &[], cached: true });
    // The first query reports a position that the node has before the reads, the last one the bound
    // of the changes that they show.
    let mut steps = vec![ask()];
    steps.extend(
        binds.iter().map(|binds| step(connection, Statement { sql: &sql, binds, cached: true })),
    );
    steps.push(ask());
    let results: QueryResult<Vec<_>> = pipeline(prepared, steps).await.into_iter().collect();
    let mut results = results?;
    let seen = results.pop().unwrap_or_default();
    let mut results = results.into_iter();
    *known = position_query::shown(&results.next().unwrap_or_default())?;
    let mut pages = Vec::with_capacity(group.len());
    for (read, rows) in group.iter().zip(results) {
        let mut page = JsonRows::new(&read.query);
        rows.iter().try_for_each(|row| page.push(row))?;
        pages.push(page.finish());
    }
    Ok((pages, position_query::position(position_query, &seen)?, *known))
}

fn of_one(read: &QueuedKeyRead) -> [Bind; 3] {
    let slot = Bind::integer(i32::from(read.slot.number()));
    [slot, Bind::text(&read.key), Bind::bigint(i64::from(read.query.limit) + 1)]
}

fn limits(group: &[QueuedKeyRead]) -> Bind {
    let limits: Vec<Value> =
        group.iter().map(|read| Value::Int(i64::from(read.query.limit) + 1)).collect();
    Bind::values(ColumnType::Bigint, limits.iter())
}

impl Open {
    /// Returns the statement of a query, which depends on its table and outputs.
    fn text(&mut self, query: &ReadQuery) -> Arc<str> {
        let known = self.texts.iter().find(|(table, outputs, _)| {
            Arc::ptr_eq(table, &query.table) && *outputs == query.outputs
        });
        if let Some((_, _, sql)) = known {
            return Arc::clone(sql);
        }
        if self.texts.len() == TEXTS_MAX {
            self.texts.pop_front();
        }
        let sql: Arc<str> = text(query, self.is_citus).into();
        self.texts.push_back((Arc::clone(&query.table), query.outputs.clone(), Arc::clone(&sql)));
        sql
    }
}
