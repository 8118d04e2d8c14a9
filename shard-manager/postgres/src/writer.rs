//! Writer: applies batches of changes on a shard's primary, each batch one durable transaction.
//!
//! The writer runs in the task of a write lane (the queue of a shard whose writes share
//! transactions), on the runtime that also drives its only connection. So no other thread is woken
//! between a batch and its results, and a dropped request of a client cannot leave a transaction
//! open.
//!
//! **Invariant:** a connection whose state is in doubt is closed and never used again; a batch is
//! retried only if nothing of it was stored; a refusal that must be repeated under an idempotency
//! key is stored before it is reported.
//! **Not here:** the contents of a transaction (`batch_transaction`, `upsert_transaction`), waiting
//! for one (`lane`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::idempotency_expiry::IdempotencyExpiry;
use engine::replication::{ReplicationState, presumed_lost};
use engine::slot_change::{SlotChange, SlotChangeError};
use engine::slot_move::{MoveChange, MoveChangeError};
use engine::{AsyncWriter, BatchDone, BatchFailure, SchemaChange, WriteGroup};
use model::error::{Error, Outcome};
use model::idempotency;
use model::position::Position;
use model::row_change::RowDone;
use model::value::{ColumnType, Value};
use moves::request_context::MoveEffect;

use super::batch_results::Refusal;
use super::db_error::DbErrorKind;
use super::insert_predictor::InsertPredictor;
use super::lane_session::{LaneSession, Stored, TransactionError};
use super::node_address::Timeouts;
use super::primary_tracker::{PrimarySession, PrimaryTracker};
use super::slot_changes::{self, Changed};
use super::sql;
use super::statement::{Bind, Prepared, Statement, load, run};
use super::statement_cache::StatementCache;
use super::term::Term;
use super::{batch_transaction, upsert_transaction};
use super::{citus, ddl};
use diesel::QueryResult;
use diesel_async::pooled_connection::PoolableConnection;
use futures_util::future::BoxFuture;

/// Time that a batch may take beyond the statement timeout of the server before its connection is
/// closed.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time limit of a batch if the server has no statement timeout.
const UNLIMITED: Duration = Duration::from_secs(60);
/// Maximum number of attempts of a batch that conflicts with a batch of another router. From the
/// second attempt on, it locks the whole shard.
const TRIES_MAX: usize = 3;
/// Interval between logged reasons why the primary cannot be written to.
const LOG_EVERY: Duration = Duration::from_secs(10);
/// Interval between searches for idempotency keys that are too old.
const FORGET_EVERY: Duration = Duration::from_secs(60);
/// Maximum number of records of idempotency keys that are removed together.
const FORGOTTEN_MAX: i32 = 256;

/// Writer of one lane, with its connection to the shard's primary.
pub struct PgWriter {
    shard: String,
    tracker: Arc<PrimaryTracker>,
    timeouts: Timeouts,
    /// `None` until the first batch, and after a failure that left the connection in doubt.
    session: Option<(LaneSession, Term)>,
    replication: Arc<ReplicationState>,
    forgot_at: Instant,
    /// Time of the last logged reason why there is no connection.
    logged_at: Option<Instant>,
}

impl PgWriter {
    /// Creates a writer that connects with its first batch.
    pub fn new(
        shard: &str,
        tracker: &Arc<PrimaryTracker>,
        timeouts: Timeouts,
        replication: &Arc<ReplicationState>,
    ) -> Self {
        let (shard, tracker) = (shard.to_owned(), Arc::clone(tracker));
        let replication = Arc::clone(replication);
        let forgot_at = Instant::now();
        Self { shard, tracker, timeouts, session: None, replication, forgot_at, logged_at: None }
    }

    fn failure(&self, failed: &TransactionError) -> BatchFailure {
        BatchFailure {
            error: failed.kind.error(&self.shard),
            outcome: failed.outcome,
            retry_split: failed.retry_split,
        }
    }

    /// Returns the connection, or opens one if there is no usable connection.
    async fn session(&mut self) -> Result<(LaneSession, Term), TransactionError> {
        // Gives the task of an idle connection a chance to notice that the server has closed it. If
        // a batch were sent on a closed connection, its outcome would be unknown.
        tokio::task::yield_now().await;
        if let Some((mut open, term)) = self.session.take()
            && self.tracker.term() == term
            && !open.connection.is_broken()
        {
            return Ok((open, term));
        }
        let connected = connect(&self.tracker, self.timeouts).await;
        if let Err(NoSession { cause, .. }) = &connected {
            self.log_cause(cause);
        } else {
            self.logged_at = None;
        }
        connected.map_err(|NoSession { failed, .. }| failed)
    }

    /// Logs the reason why writes wait, but not at each attempt.
    fn log_cause(&mut self, cause: &str) {
        if self.logged_at.is_some_and(|at| at.elapsed() < LOG_EVERY) {
            return;
        }
        self.logged_at = Some(Instant::now());
        let (node, at) = (self.tracker.name(), self.tracker.address());
        tracing::warn!(node, %at, error = cause, "the primary cannot be written to");
    }

    /// Returns the index of the change for which the database refuses an atomic operation, and the
    /// kind of its error: the last change of the shortest beginning of the operation that is
    /// refused. Beginnings are tried in transactions that are rolled back. Returns `None` if the
    /// operation is one change, or no rule of the database has refused it.
    async fn find_culprit(
        &mut self,
        groups: &[WriteGroup<'_>],
        failed: &TransactionError,
    ) -> Option<(usize, DbErrorKind)> {
        let [WriteGroup { rows, atomic_rows: Some(places) }] = groups else { return None };
        let is_of_rule = |failed: &TransactionError| {
            failed.outcome == Outcome::Rejected && failed.kind.is_of_rule()
        };
        if rows.len() < 2 || !is_of_rule(failed) {
            return None;
        }
        // The first `accepted` changes are accepted, and the first `refused` changes are not.
        let (mut accepted, mut refused) = (0, rows.len());
        let mut kind = failed.kind.clone();
        while refused - accepted > 1 {
            let count = accepted + (refused - accepted) / 2;
            let beginning =
                WriteGroup { rows: rows.get(..count)?, atomic_rows: Some(places.get(..count)?) };
            match self.try_out(beginning).await {
                Ok(()) => accepted = count,
                Err(again) if is_of_rule(&again) => (refused, kind) = (count, again.kind),
                Err(_) => return None,
            }
        }
        Some((accepted, kind))
    }

    /// Returns the error with which the database refuses an operation, if it does; nothing of the
    /// operation is stored.
    async fn try_out(&mut self, operation: WriteGroup<'_>) -> Result<(), TransactionError> {
        let (mut session, term) = self.session().await?;
        let operation = [operation];
        let tried = batch_transaction::try_out(&mut session, &operation);
        let tried = self.in_time(term, tried).await;
        self.keep((session, term), &tried);
        tried
    }

    /// Applies a batch. If `refusal` is given, the batch is one operation that the database has
    /// refused for this reason, and only the refusal is stored, under its idempotency keys.
    async fn apply_once(
        &mut self,
        groups: &[WriteGroup<'_>],
        refusal: Option<&Refusal>,
        alone: bool,
    ) -> Result<(Stored, u32), TransactionError> {
        let (mut session, term) = self.session().await?;
        let applied = async {
            if let (Some(reason), [operation]) = (refusal, groups) {
                return batch_transaction::remember_refusal(&mut session, operation, reason, alone)
                    .await;
            }
            if !alone
                && !self.tracker.hazards().current().affects(groups)
                && let Some(stored) = upsert_transaction::apply(&mut session, groups).await
            {
                return stored;
            }
            batch_transaction::apply(&mut session, groups, alone).await
        };
        let applied = self.in_time(term, applied).await;
        self.keep((session, term), &applied);
        applied.map(|stored| (stored, self.tracker.terms().timeline_id(term)))
    }

    /// Waits for work on a connection. Gives up after a time limit, when another node becomes the
    /// primary, or when the connection to the node is presumed lost.
    async fn in_time<T>(
        &self,
        term: Term,
        work: impl Future<Output = Result<T, TransactionError>>,
    ) -> Result<T, TransactionError> {
        let (kind, outcome) = (DbErrorKind::Lost, Outcome::Unknown);
        let in_doubt = Err(TransactionError { kind, outcome, usable: false, retry_split: false });
        tokio::select! {
            biased;
            worked = tokio::time::timeout(patience(self.timeouts), work) => {
                worked.unwrap_or(in_doubt)
            }
            () = self.tracker.terms().ended(term) => in_doubt,
            () = presumed_lost(&self.replication, None) => in_doubt,
        }
    }

    /// Keeps a connection for the next batch, if it may be used again after this one.
    fn keep<T>(&mut self, session: (LaneSession, Term), ended: &Result<T, TransactionError>) {
        let usable = match ended {
            // Clients choose the columns of statements, so the number of prepared statements must
            // be limited.
            Ok(_) => !session.0.prepared.is_full(),
            Err(failed) => failed.usable,
        };
        self.session = Some(session).filter(|_| usable);
    }

    /// Periodically removes records of idempotency keys that are too old. The clients of the batch
    /// wait meanwhile.
    async fn forget_old(&mut self) {
        if self.forgot_at.elapsed() < FORGET_EVERY {
            return;
        }
        let Ok((session, term)) = self.session().await else { return };
        let forgotten = self.in_time(term, forget(&session)).await;
        self.keep((session, term), &forgotten);
        // While old records are left, each batch removes some.
        if forgotten.is_ok_and(|count| count == FORGOTTEN_MAX as usize) {
            return;
        }
        self.forgot_at = Instant::now();
    }

    /// Records that the primary has reached the position of stored changes, and returns the
    /// position.
    fn stored(&self, timeline_id: u32, sequence: u64) -> Position {
        self.replication
            .update_if_current(timeline_id, |replication| replication.primary().observe(sequence));
        Position { timeline: timeline_id, sequence }
    }

    /// Returns the results of changes of which nothing was stored.
    fn unchanged(&self, rows: Vec<Result<RowDone, Error>>) -> BatchDone {
        let committed = self.replication.primary().committed();
        BatchDone { rows, position: self.replication.timeline().position(committed) }
    }

    async fn apply_groups(&mut self, groups: &[WriteGroup<'_>]) -> Result<BatchDone, BatchFailure> {
        if groups.iter().all(|group| group.rows.is_empty()) {
            return Ok(self.unchanged(Vec::new()));
        }
        self.forget_old().await;
        let mut tries = 0;
        let mut refusal: Option<Refusal> = None;
        loop {
            tries += 1;
            let failed = match self.apply_once(groups, refusal.as_ref(), tries > 1).await {
                Ok((Stored { rows, position }, timeline_id)) => {
                    return Ok(BatchDone { rows, position: self.stored(timeline_id, position) });
                }
                Err(failed) => failed,
            };
            // If another router has inserted the same new row meanwhile, it exists at the next
            // attempt.
            let is_conflict = match failed.kind {
                DbErrorKind::Conflict => true,
                DbErrorKind::Constraint(rule) => rule == "unique" && tries == 1,
                DbErrorKind::NotUnique(_) => tries == 1,
                DbErrorKind::IndexEntryTooLong(_)
                | DbErrorKind::Discarded(_)
                | DbErrorKind::ReadOnly
                | DbErrorKind::Full
                | DbErrorKind::Late
                | DbErrorKind::Outdated
                | DbErrorKind::Lost
                | DbErrorKind::Promoted
                | DbErrorKind::Other => false,
            };
            if is_conflict && failed.outcome == Outcome::Rejected && tries < TRIES_MAX {
                continue;
            }
            if refusal.is_some() {
                return Err(self.failure(&failed.about(groups)));
            }
            let found = self.find_culprit(groups, &failed).await;
            let (culprit, kind) = found.map_or((None, failed.kind), |(at, kind)| (Some(at), kind));
            let failure = self.failure(&TransactionError { kind, ..failed }.about(groups));
            let refused = Refusal { error: failure.error.clone(), culprit };
            if !is_remembered(groups, &failure) {
                return match groups {
                    [operation] if culprit.is_some() => {
                        Ok(self.unchanged(refused.results(operation)))
                    }
                    _ => Err(failure),
                };
            }
            // The refused transaction was rolled back, and with it the records of its idempotency
            // keys. The refusal is reported only after a second transaction has stored them.
            (refusal, tries) = (Some(refused), 0);
        }
    }

    async fn change_tables(&mut self, change: &SchemaChange) -> Result<u64, BatchFailure> {
        let changed = match self.session().await {
            Ok((mut session, term)) => {
                let changed = self.in_time(term, ddl::change(&mut session, change)).await;
                self.keep((session, term), &changed);
                changed.map(|position| (position, self.tracker.terms().timeline_id(term)))
            }
            Err(failed) => Err(failed),
        };
        match changed {
            Ok((position, timeline_id)) => {
                self.stored(timeline_id, position);
                self.replication.update_if_current(timeline_id, |replication| {
                    replication.primary().record_schema_change(position)
                });
                Ok(position)
            }
            Err(failed) => Err(BatchFailure { retry_split: false, ..self.failure(&failed) }),
        }
    }

    async fn change_owned(&mut self, change: &SlotChange) -> Result<u64, SlotChangeError> {
        if self.tracker.citus().is_some() {
            return Err(SlotChangeError::Unsupported { shard: self.shard.clone() });
        }
        let changed = match self.session().await {
            Ok((mut session, term)) => {
                let changed = slot_changes::change(&mut session, change);
                let changed = self.in_time(term, changed).await;
                self.keep((session, term), &changed);
                changed.map(|changed| (changed, self.tracker.terms().timeline_id(term)))
            }
            Err(failed) => Err(failed),
        };
        let shard = self.shard.clone();
        match changed {
            Ok((Changed::Done { position }, timeline_id)) => {
                self.stored(timeline_id, position);
                // The database sends a notification as well, but that arrives a moment later.
                self.tracker.slot_news.announce();
                Ok(position)
            }
            Ok((Changed::NotOwned(slots), _)) => Err(SlotChangeError::NotOwned { shard, slots }),
            Ok((Changed::Busy, _)) => Err(SlotChangeError::Busy { shard }),
            Err(failed) => {
                let BatchFailure { error, outcome, .. } = self.failure(&failed);
                Err(SlotChangeError::Failed { error, outcome })
            }
        }
    }
}

impl AsyncWriter for PgWriter {
    fn ready(&mut self) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let session = self.session().await;
            let is_ready = session.is_ok();
            self.session = session.ok();
            is_ready
        })
    }

    fn apply<'a>(
        &'a mut self,
        groups: &'a [WriteGroup<'a>],
    ) -> BoxFuture<'a, Result<BatchDone, BatchFailure>> {
        Box::pin(self.apply_groups(groups))
    }

    fn change_schema<'a>(
        &'a mut self,
        change: &'a SchemaChange,
    ) -> BoxFuture<'a, Result<u64, BatchFailure>> {
        Box::pin(self.change_tables(change))
    }

    fn change_slots<'a>(
        &'a mut self,
        change: &'a SlotChange,
    ) -> BoxFuture<'a, Result<u64, SlotChangeError>> {
        Box::pin(self.change_owned(change))
    }

    /// Moves are changed in separate sessions (`slot_moves`).
    fn change_move<'a>(
        &'a mut self,
        _: &'a MoveChange,
    ) -> BoxFuture<'a, Result<MoveEffect, MoveChangeError>> {
        Box::pin(std::future::ready(Err(MoveChangeError::Unsupported)))
    }

    #[cfg(feature = "sabotage")]
    fn commit_owed(&mut self) {}

    fn close(&mut self) -> BoxFuture<'_, ()> {
        self.session = None;
        Box::pin(async {
            // Lets the task of the connection run until it has notified the server of the end.
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
        })
    }
}

/// Returns true if the failure of a batch must be stored under idempotency keys: the batch is one
/// operation that cannot be split, it was rejected, and its failure is one that idempotency keys
/// repeat.
fn is_remembered(groups: &[WriteGroup<'_>], failure: &BatchFailure) -> bool {
    let [operation] = groups else { return false };
    let is_whole = operation.rows.len() == 1 || operation.atomic_rows.is_some();
    let outcome = Err(failure.error.clone());
    let has_record = |change| idempotency::record(change, &outcome).is_some();
    is_whole && failure.outcome == Outcome::Rejected && operation.rows.iter().any(has_record)
}

/// Removes records of idempotency keys that are too old, and returns their number.
async fn forget(session: &LaneSession) -> Result<usize, TransactionError> {
    let IdempotencyExpiry { from, until, witness } = IdempotencyExpiry::now();
    let [from, until] = [from, until].map(Value::Text);
    let times = [&from, &until].map(|time| Bind::value(ColumnType::Timestamp, time));
    let failed = |error| TransactionError::before_commit(&error);
    if let Some((from, until)) = witness {
        let binds = [from, until].map(Value::Text);
        let binds = [&binds[0], &binds[1]].map(|time| Bind::value(ColumnType::Timestamp, time));
        let statement = Statement { sql: sql::WITNESS, binds: &binds, cached: true };
        if load(&session.connection, statement).await.map_err(failed)?.is_empty() {
            return Ok(0);
        }
    }
    if session.citus.is_some() {
        let forgotten = citus::forget(&session.connection, times, FORGOTTEN_MAX).await;
        return forgotten.map_err(failed);
    }
    let [from, until] = times;
    let binds = [from, until, Bind::integer(FORGOTTEN_MAX)];
    let statement = Statement { sql: sql::FORGET, binds: &binds, cached: true };
    let forgotten = load(&session.connection, statement).await.map_err(failed)?;
    Ok(forgotten.first().and_then(|row| row.bigint(0)).unwrap_or(0) as usize)
}

fn patience(timeouts: Timeouts) -> Duration {
    let statement = timeouts.statement;
    if statement.is_zero() { UNLIMITED } else { statement + PATIENCE }
}

/// Reason why there is no connection, for the batch and for the log.
struct NoSession {
    failed: TransactionError,
    cause: String,
}

async fn connect(
    tracker: &PrimaryTracker,
    timeouts: Timeouts,
) -> Result<(LaneSession, Term), NoSession> {
    let (kind, outcome) = (DbErrorKind::Lost, Outcome::Rejected);
    let lost = |cause: &dyn std::fmt::Display| NoSession {
        failed: TransactionError { kind: kind.clone(), outcome, usable: false, retry_split: false },
        cause: cause.to_string(),
    };
    let led = tracker.connect("lane").await;
    let PrimarySession { session, term } = led.map_err(|error| lost(&error))?;
    let connection = session.connection;
    let begin = format!("{}; {}", sql::LANE_SETTINGS, sql::BEGIN_TIMELINE);
    let set = tokio::time::timeout(timeouts.connect, run(&connection, &begin));
    let set: QueryResult<()> = set.await.map_err(|elapsed| lost(&elapsed))?;
    set.map_err(|error| NoSession {
        failed: TransactionError::before_commit(&error),
        cause: error.to_string(),
    })?;
    let (prepared, statements) = (Prepared::default(), StatementCache::default());
    let (insert_predictor, citus) = (InsertPredictor::default(), tracker.citus().map(Arc::clone));
    Ok((LaneSession { connection, prepared, statements, insert_predictor, citus }, term))
}
