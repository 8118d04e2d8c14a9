//! Move session: the pool of a few sessions with a shard's primary that all its moves share.
//!
//! **Invariant:** a session is used only in the term in which it was opened (the time in which one
//! node is the primary), and by one task at a time. A session is closed if the work on it failed or
//! was cancelled.
//! **Not here:** statements (the modules beside this one).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use diesel_async::pooled_connection::PoolableConnection;
use model::error::Error;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::primary_tracker::{PrimarySession, PrimaryTracker};
use crate::sql;
use crate::statement::{Bind, Prepared, run};
use crate::term::Term;

/// Maximum number of sessions with a shard that moves use at the same time. A shard may be the
/// source of one move and the target of another, and still be the kept source of earlier ones.
pub(crate) const SESSIONS_MAX: usize = 4;

/// Settings of a session: no time limit for statements, because copies take long, and plans that
/// find rows by their keys in an index.
const SETTINGS: &str = "SET statement_timeout=0; SET enable_seqscan=off; SET enable_hashjoin=off; \
    SET enable_mergejoin=off; SET enable_bitmapscan=off";

/// Session with a primary.
pub(super) struct MoveSession {
    pub(super) connection: AsyncPgConnection,
    pub(super) prepared: Prepared,
    /// Number of the primary's timeline, which grows with each promotion.
    pub(super) timeline: u32,
    /// System identifier of the primary.
    system: u64,
    /// For each table, the highest slot of the last batch of deleted rows. The index keeps the
    /// entries of deleted rows for a while, so the next batch starts at this slot instead of
    /// reading those entries again.
    deleted_from: Mutex<HashMap<String, u16>>,
}

impl MoveSession {
    /// Returns the system identifier as a parameter.
    pub(super) fn system_bind(&self) -> Bind {
        Bind::text(&self.system.to_string())
    }

    /// Returns the slot of a table at which the next deletion starts.
    pub(super) fn deletes_from(&self, table: &str) -> u16 {
        let deleted = self.deleted_from.lock().unwrap_or_else(PoisonError::into_inner);
        deleted.get(table).copied().unwrap_or(0)
    }

    /// Remembers the highest slot from which a batch has deleted rows of a table.
    pub(super) fn note_deleted(&self, table: &str, slot: u16) {
        let mut deleted = self.deleted_from.lock().unwrap_or_else(PoisonError::into_inner);
        deleted.insert(table.to_owned(), slot);
    }

    /// Makes the next deletion start at the first slot in all tables. Returns false if it would
    /// have started there anyway.
    pub(super) fn delete_from_start(&self) -> bool {
        let mut deleted = self.deleted_from.lock().unwrap_or_else(PoisonError::into_inner);
        let had_any = !deleted.is_empty();
        deleted.clear();
        had_any
    }
}

/// Session that is in use.
pub(super) struct Taken<'s> {
    pub(super) session: MoveSession,
    pub(super) term: Term,
    _permit: SemaphorePermit<'s>,
}

/// Sessions of a shard.
pub(super) struct MoveSessions {
    shard: String,
    tracker: Arc<PrimaryTracker>,
    permits: Semaphore,
    idle: Mutex<Vec<(MoveSession, Term)>>,
}

impl MoveSessions {
    /// Creates the pool of sessions with the primary of a shard. Nothing connects before the first
    /// move.
    pub(super) fn new(shard: &str, tracker: &Arc<PrimaryTracker>) -> Self {
        Self {
            shard: shard.to_owned(),
            tracker: Arc::clone(tracker),
            permits: Semaphore::new(SESSIONS_MAX),
            idle: Mutex::default(),
        }
    }

    fn unavailable(&self) -> Error {
        Error::ShardUnavailable { shard: self.shard.clone() }
    }

    /// Takes an idle session, or opens one if no idle session can be used.
    ///
    /// # Errors
    /// The shard has no primary, or the deadline has passed.
    pub(super) async fn take(&self, deadline: Instant) -> Result<Taken<'_>, Error> {
        let taken = tokio::time::timeout_at(deadline.into(), self.take_or_connect()).await;
        taken.unwrap_or(Err(Error::DeadlinePassed))
    }

    async fn take_or_connect(&self) -> Result<Taken<'_>, Error> {
        let permit = self.permits.acquire().await.map_err(|_closed| self.unavailable())?;
        // Gives the tasks of idle connections a chance to notice that the server has closed them.
        tokio::task::yield_now().await;
        if let Some((session, term)) = self.idle() {
            return Ok(Taken { session, term, _permit: permit });
        }
        let connected = self.tracker.connect("mover").await;
        let PrimarySession { session, term } = connected.map_err(|error| {
            tracing::debug!(shard = %self.shard, %error, "a mover has no session");
            self.unavailable()
        })?;
        let (connection, identity) = (session.connection, session.identity);
        let (timeline, system) = (identity.timeline, identity.system);
        // The target of a move continues the version numbers of this shard. On a promoted primary
        // they must skip the versions that its predecessor may have assigned.
        let begin = format!("{SETTINGS}; {}", sql::BEGIN_TIMELINE);
        run(&connection, &begin).await.map_err(|error| {
            tracing::debug!(shard = %self.shard, %error, "a mover has no session");
            self.unavailable()
        })?;
        let (prepared, deleted_from) = (Prepared::default(), Mutex::default());
        let session = MoveSession { connection, prepared, timeline, system, deleted_from };
        Ok(Taken { session, term, _permit: permit })
    }

    /// Returns an idle session of the present term. Closes idle sessions that are broken or belong
    /// to an earlier term.
    fn idle(&self) -> Option<(MoveSession, Term)> {
        let now = self.tracker.term();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain_mut(|(session, term)| *term == now && !session.connection.is_broken());
        idle.pop()
    }

    /// Closes the sessions that are not in use.
    pub(super) fn close_idle(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Returns a session to the pool, unless too many statements are prepared on it.
    pub(super) fn give_back(&self, taken: Taken<'_>) {
        let Taken { session, term, .. } = taken;
        if !session.prepared.is_full() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push((session, term));
        }
    }

    /// Waits for work on a session, but not beyond the deadline, nor after another node has become
    /// the primary.
    ///
    /// # Errors
    /// [`Error::DeadlinePassed`] or [`Error::ShardUnavailable`]. After either, the session must not
    /// be used again.
    pub(super) async fn in_time<T>(
        &self,
        term: Term,
        deadline: Instant,
        work: impl Future<Output = T>,
    ) -> Result<T, Error> {
        tokio::select! {
            biased;
            worked = tokio::time::timeout_at(deadline.into(), work) => {
                worked.map_err(|_elapsed| Error::DeadlinePassed)
            }
            () = self.tracker.terms().ended(term) => Err(self.unavailable()),
        }
    }
}

/// Rolls back a transaction that has changed nothing, and returns the value that it has read.
pub(super) async fn end<T>(session: &MoveSession, found: T) -> QueryResult<T> {
    run(&session.connection, "ROLLBACK").await.map(|()| found)
}
