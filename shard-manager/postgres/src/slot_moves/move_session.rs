//! Move session: the few sessions with a primary that all moves of a shard share.
//!
//! **Invariant:** a session is used in the term in which it was opened, and by one task at a time.
//! A session whose work failed or was dropped is closed.
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

/// Highest number of sessions of a shard for moves: it gives slots in one move and takes slots in
/// another, while the sources of earlier moves are kept.
pub(crate) const SESSIONS_MAX: usize = 4;

/// Settings of a session: copies take long, and rows are found by their keys.
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
    /// Slots that rows were last deleted from, by table. The index keeps entries of deleted rows
    /// for a while, so a batch begins where the one before it has ended.
    deleted_from: Mutex<HashMap<String, u16>>,
}

impl MoveSession {
    /// Returns the system identifier as a parameter.
    pub(super) fn system_bind(&self) -> Bind {
        Bind::text(&self.system.to_string())
    }

    /// Returns the first slot of a table from which the next deletion removes rows.
    pub(super) fn deletes_from(&self, table: &str) -> u16 {
        let deleted = self.deleted_from.lock().unwrap_or_else(PoisonError::into_inner);
        deleted.get(table).copied().unwrap_or(0)
    }

    /// Remembers the highest slot of a table that rows were deleted from.
    pub(super) fn note_deleted(&self, table: &str, slot: u16) {
        let mut deleted = self.deleted_from.lock().unwrap_or_else(PoisonError::into_inner);
        deleted.insert(table.to_owned(), slot);
    }

    /// Lets the next deletion begin at the first slot. Returns false if it would have done so
    /// anyway.
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

    /// Returns a session, or opens one if none may be used.
    ///
    /// # Errors
    /// The shard has no primary, or the deadline has passed.
    pub(super) async fn take(&self, deadline: Instant) -> Result<Taken<'_>, Error> {
        let taken = tokio::time::timeout_at(deadline.into(), self.take_or_connect()).await;
        taken.unwrap_or(Err(Error::DeadlinePassed))
    }

    async fn take_or_connect(&self) -> Result<Taken<'_>, Error> {
        let permit = self.permits.acquire().await.map_err(|_closed| self.unavailable())?;
        // Lets the tasks of idle connections see first that the server has closed them.
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
        // The target of a move continues the versions of its source.
        let begin = format!("{SETTINGS}; {}", sql::BEGIN_TIMELINE);
        run(&connection, &begin).await.map_err(|error| {
            tracing::debug!(shard = %self.shard, %error, "a mover has no session");
            self.unavailable()
        })?;
        let (prepared, deleted_from) = (Prepared::default(), Mutex::default());
        let session = MoveSession { connection, prepared, timeline, system, deleted_from };
        Ok(Taken { session, term, _permit: permit })
    }

    /// Returns an idle session of the present term, and closes those of earlier ones.
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

    /// Keeps a session for the next work.
    pub(super) fn give_back(&self, taken: Taken<'_>) {
        let Taken { session, term, .. } = taken;
        if !session.prepared.is_full() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push((session, term));
        }
    }

    /// Waits for work on a session until the deadline, and as long as its node is the primary.
    ///
    /// # Errors
    /// [`Error::DeadlinePassed`], [`Error::ShardUnavailable`]. The session must not be used again.
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

/// Ends a transaction that has changed nothing, and returns what it has found.
pub(super) async fn end<T>(session: &MoveSession, found: T) -> QueryResult<T> {
    run(&session.connection, "ROLLBACK").await.map(|()| found)
}
