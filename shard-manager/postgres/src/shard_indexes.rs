//! Shard indexes: builds and drops the indexes of clients' tables on a primary while rows are
//! written.
//!
//! `CREATE INDEX CONCURRENTLY` cannot run in a transaction. If it fails or is interrupted, it
//! leaves an invalid index, which is dropped and built again. A server continues a build after its
//! router has ended, so the session that builds holds a lock of the shard, for which other routers
//! wait.
//!
//! **Invariant:** one session changes the indexes of a shard at a time; names come from a checked
//! [`TableIndex`].
//! **Not here:** the list of indexes (`catalog`), a new shard, whose tables are empty (`ddl`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use engine::index_builder::{IndexBuilder, IndexSession};
use engine::{EngineFuture, IndexChange};
use futures_util::future::BoxFuture;
use model::error::Error;
use model::table_index::TableIndex;
use tokio::runtime::Handle;

use super::db_error::DbErrorKind;
use super::primary_tracker::{PrimarySession, PrimaryTracker};
use super::statement::{Bind, Statement, load, run};
use super::term::Term;

/// Interval at which a lock that is not free is requested again. A statement that waited for the
/// lock would hold a snapshot, and the session that builds an index waits for the end of such
/// snapshots.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Settings of the session: there is no time limit for a build, or for its wait for other
/// transactions. A single process builds, so that the other processors of the server are free for
/// writes.
const SETTINGS: &str =
    "SET statement_timeout=0; SET lock_timeout=0; SET max_parallel_maintenance_workers=0";
/// Takes the lock if it is free, and returns the process of the session.
const TAKE: &str = "SELECT pg_try_advisory_lock(1950,10),pg_backend_pid()::bigint";
/// Cancels the statement of the process `$1`, if it still holds the lock.
const CANCEL: &str =
    "SELECT pg_cancel_backend(pid) FROM pg_locks WHERE pid=$1 AND locktype='advisory'
    AND classid=1950 AND objid=10 AND granted
    AND database=(SELECT oid FROM pg_database WHERE datname=current_database())";
/// Longest time for a cancellation, including its connection.
const CANCEL_MAX: Duration = Duration::from_secs(10);
/// Selects true if the index `$1` is valid, and no row if it does not exist.
const IS_VALID: &str = "SELECT indisvalid FROM pg_index WHERE indexrelid=to_regclass($1)";

/// Indexes of one shard.
pub(super) struct PgIndexes {
    shard: String,
    tracker: Arc<PrimaryTracker>,
    /// Runtime that drives the sessions.
    runtime: Handle,
}

impl PgIndexes {
    /// Creates the builder of a shard, on the current runtime.
    pub(super) fn new(shard: &str, tracker: &Arc<PrimaryTracker>) -> Self {
        let (shard, tracker) = (shard.to_owned(), Arc::clone(tracker));
        Self { shard, tracker, runtime: Handle::current() }
    }

    async fn take_lock(
        shard: String,
        tracker: Arc<PrimaryTracker>,
    ) -> Result<LockedIndexes, Error> {
        let unavailable = || Error::ShardUnavailable { shard: shard.clone() };
        let led = tracker.connect("indexes").await.map_err(|error| {
            tracing::debug!(shard, %error, "the indexes of a shard cannot be changed now");
            unavailable()
        })?;
        let PrimarySession { session, term } = led;
        let connection = session.connection;
        let failed = |error| failed(&shard, &error);
        run(&connection, SETTINGS).await.map_err(failed)?;
        loop {
            let take = Statement { sql: TAKE, binds: &[], cached: false };
            let taken = load(&connection, take).await.map_err(failed)?;
            if let Some(row) = taken.first().filter(|row| row.boolean(0) == Some(true)) {
                let process = row.bigint(1).and_then(|process| i32::try_from(process).ok());
                let runtime = Handle::current();
                return Ok(LockedIndexes { shard, tracker, connection, term, process, runtime });
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }
}

impl IndexBuilder for PgIndexes {
    fn lock(&self, deadline: Instant) -> EngineFuture<'_, Box<dyn IndexSession>> {
        let taken = Self::take_lock(self.shard.clone(), Arc::clone(&self.tracker));
        let task = self.runtime.spawn(tokio::time::timeout_at(deadline.into(), taken));
        Box::pin(async move {
            let taken = task.await.map_err(|_panicked| Error::Internal)?;
            let locked = taken.unwrap_or(Err(Error::DeadlinePassed))?;
            Ok(Box::new(locked) as Box<dyn IndexSession>)
        })
    }
}

/// Session that holds the lock of a shard's indexes.
struct LockedIndexes {
    shard: String,
    tracker: Arc<PrimaryTracker>,
    connection: AsyncPgConnection,
    term: Term,
    /// Process of the server that serves the session.
    process: Option<i32>,
    /// Runtime that drives the sessions.
    runtime: Handle,
}

impl LockedIndexes {
    async fn carry_out(&self, change: &IndexChange) -> QueryResult<()> {
        let (index, connection) = (change.index(), &self.connection);
        let name = index.database_name();
        let is_wanted = matches!(change, IndexChange::Make(_) | IndexChange::MakeWithin(..));
        match self.is_valid(&name).await? {
            Some(true) if is_wanted => return Ok(()),
            None if !is_wanted => return Ok(()),
            None => {}
            Some(_) => {
                run(connection, &format!("DROP INDEX CONCURRENTLY public.{name}")).await?;
            }
        }
        if !is_wanted {
            return Ok(());
        }
        let built = run(connection, &create(index, "CONCURRENTLY ")).await;
        if built.is_err() {
            // Even an invalid unique index would refuse rows.
            let _ = run(connection, &format!("DROP INDEX CONCURRENTLY public.{name}")).await;
        }
        built
    }

    /// Returns true if an index is valid; `None` if it does not exist.
    async fn is_valid(&self, name: &str) -> QueryResult<Option<bool>> {
        let binds = [Bind::text(&format!("public.{name}"))];
        let found = Statement { sql: IS_VALID, binds: &binds, cached: false };
        Ok(load(&self.connection, found).await?.first().and_then(|row| row.boolean(0)))
    }
}

impl IndexSession for LockedIndexes {
    fn change<'a>(&'a self, change: &'a IndexChange) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let changed = tokio::select! {
                changed = self.carry_out(change) => changed,
                () = self.tracker.terms().ended(self.term) => {
                    return Err(Error::ShardUnavailable { shard: self.shard.clone() });
                }
            };
            changed.map_err(|error| {
                let kind = DbErrorKind::of(&error);
                // The message of a build names the index as its constraint.
                if matches!(kind, DbErrorKind::NotUnique(_) | DbErrorKind::Constraint("unique")) {
                    return Error::NotUnique { index: change.index().name().to_owned() };
                }
                failed(&self.shard, &error)
            })
        })
    }

    fn cancel(&self) -> BoxFuture<'_, ()> {
        let session = (self.term, self.process);
        let work = cancel_holder(self.shard.clone(), Arc::clone(&self.tracker), session);
        let task = self.runtime.spawn(tokio::time::timeout(CANCEL_MAX, work));
        Box::pin(async move {
            let is_cancelled = matches!(task.await, Ok(Ok(true)));
            let shard = &self.shard;
            tracing::info!(shard, is_cancelled, "an index is dropped during its build");
        })
    }
}

/// Cancels the statement of the session with the lock, and returns true if it was there. A session
/// that began in another term has ended with its primary.
async fn cancel_holder(
    shard: String,
    tracker: Arc<PrimaryTracker>,
    (term, process): (Term, Option<i32>),
) -> bool {
    let Some(process) = process else { return false };
    let led = match tracker.connect("indexes").await {
        Ok(led) if led.term == term => led,
        Ok(_) => return false,
        Err(error) => {
            tracing::debug!(shard, %error, "the build of an index cannot be cancelled now");
            return false;
        }
    };
    let binds = [Bind::integer(process)];
    let cancel = Statement { sql: CANCEL, binds: &binds, cached: false };
    let cancelled = load(&led.session.connection, cancel).await;
    cancelled.is_ok_and(|rows| rows.first().and_then(|row| row.boolean(0)) == Some(true))
}

/// Returns the statement that builds an index.
pub(super) fn create(index: &TableIndex, how: &str) -> String {
    let unique = if index.is_unique() { "UNIQUE " } else { "" };
    let (name, table, key) = (index.database_name(), index.table().name(), index.key_list());
    format!("CREATE {unique}INDEX {how}{name} ON public.{table} ({key})")
}

fn failed(shard: &str, error: &diesel::result::Error) -> Error {
    tracing::warn!(shard, %error, "an index could not be changed");
    let kind = DbErrorKind::of(error);
    if kind == DbErrorKind::Other {
        // The message is in the log, and the change is retried.
        return Error::ShardUnavailable { shard: shard.to_owned() };
    }
    kind.error(shard)
}
