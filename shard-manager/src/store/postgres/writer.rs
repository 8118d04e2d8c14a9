//! Writer: applies batches of changes on a shard's primary, each batch one durable transaction.
//!
//! It lives in the lane's task, whose runtime drives the one connection as well: so nobody wakes another thread between
//! a batch and its answer, and no request that is dropped can leave a transaction open.
//!
//! **Invariant:** a connection in doubt is closed and never used again; a batch is tried again only if nothing of it
//! was stored.
//! **Not here:** what happens inside a transaction (`transaction`, `upsert`), who waits for one (`lane`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::leader::{Leader, Led, Term};
use super::sql;
use super::statement::{Bind, Prepared, Statement, load, run};
use super::texts::Texts;
use super::transaction::{self, Broken, LaneSession, Stored};
use super::trouble::Trouble;
use super::upsert::{self, Newness};
use super::{citus, ddl};
use crate::address::Timeouts;
use crate::error::Outcome;
use crate::position::Position;
use crate::progress::Progress;
use crate::store::forgetting::Forgetting;
use crate::store::{AsyncWriter, BatchDone, BatchFailure, SchemaChange, Unit};
use crate::value::{ColumnType, Value};
use diesel::QueryResult;
use diesel_async::pooled_connection::PoolableConnection;

/// How much longer than the server lets a statement run a batch may take before its connection is given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take where the server knows no limit.
const UNLIMITED: Duration = Duration::from_secs(60);
/// How often a batch that crossed another router's is tried: from the second time on with the shard to itself.
const TRIES_MAX: usize = 3;
/// How often it is told why the primary cannot be written to, while it cannot.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// How often idempotency keys that are too old are looked for.
const FORGET_EVERY: Duration = Duration::from_secs(60);
/// Records of idempotency keys that are removed at a time.
const FORGOTTEN_MAX: i32 = 256;

/// The one writing connection to a shard's primary.
pub struct PgWriter {
    shard: String,
    leader: Arc<Leader>,
    timeouts: Timeouts,
    /// `None` until the first batch, and after a failure that left the connection in doubt.
    session: Option<(LaneSession, Term)>,
    progress: Arc<Progress>,
    forgot_at: Instant,
    /// When it was told last why there is no connection.
    told_at: Option<Instant>,
}

impl PgWriter {
    /// A writer that connects with its first batch.
    pub fn new(
        shard: &str,
        leader: &Arc<Leader>,
        timeouts: Timeouts,
        progress: &Arc<Progress>,
    ) -> Self {
        let (shard, leader) = (shard.to_owned(), Arc::clone(leader));
        let progress = Arc::clone(progress);
        let forgot_at = Instant::now();
        Self { shard, leader, timeouts, session: None, progress, forgot_at, told_at: None }
    }

    fn failure(&self, broken: &Broken) -> BatchFailure {
        BatchFailure {
            error: broken.trouble.error(&self.shard),
            outcome: broken.outcome,
            divisible: broken.divisible,
        }
    }

    /// The connection, or a new one if there is none that may be used.
    async fn session(&mut self) -> Result<(LaneSession, Term), Broken> {
        // Lets the task of an idle connection see first that the server has closed it: the outcome of a
        // batch that is sent on it would be unknown.
        tokio::task::yield_now().await;
        if let Some((mut open, term)) = self.session.take()
            && self.leader.term() == term
            && !open.connection.is_broken()
        {
            return Ok((open, term));
        }
        let connected = connect(&self.leader, self.timeouts).await;
        if let Err(NoSession { cause, .. }) = &connected {
            self.tell(cause);
        } else {
            self.told_at = None;
        }
        connected.map_err(|NoSession { broken, .. }| broken)
    }

    /// Who looks for what keeps writes waiting finds it, but not once for each time that it is tried.
    fn tell(&mut self, cause: &str) {
        if self.told_at.is_some_and(|at| at.elapsed() < TELL_EVERY) {
            return;
        }
        self.told_at = Some(Instant::now());
        let (node, at) = (self.leader.name(), self.leader.address());
        tracing::warn!(node, %at, error = cause, "the primary cannot be written to");
    }

    async fn apply_once(
        &mut self,
        units: &[Unit<'_>],
        alone: bool,
    ) -> Result<(Stored, u32), Broken> {
        let (mut session, term) = self.session().await?;
        let applied = async {
            if !alone
                && !self.leader.hazards().touch(units)
                && let Some(stored) = upsert::apply(&mut session, units).await
            {
                return stored;
            }
            transaction::apply(&mut session, units, alone).await
        };
        let applied = self.in_time(term, applied).await;
        self.keep((session, term), &applied);
        applied.map(|stored| (stored, self.leader.life(term)))
    }

    /// Waits for work on a connection, but not for ever, nor for a node that leads no more or is not heard of.
    async fn in_time<T>(
        &self,
        term: Term,
        work: impl Future<Output = Result<T, Broken>>,
    ) -> Result<T, Broken> {
        let (trouble, outcome) = (Trouble::Lost, Outcome::Unknown);
        let in_doubt = Err(Broken { trouble, outcome, usable: false, divisible: false });
        tokio::select! {
            biased;
            worked = tokio::time::timeout(patience(self.timeouts), work) => {
                worked.unwrap_or(in_doubt)
            }
            () = self.leader.ended(term) => in_doubt,
            () = self.progress.unheard(None) => in_doubt,
        }
    }

    /// Keeps a connection for the next batch, if it may be used again after this one.
    fn keep<T>(&mut self, session: (LaneSession, Term), ended: &Result<T, Broken>) {
        let usable = match ended {
            // Clients choose which columns they give: what is prepared must not grow for ever.
            Ok(_) => !session.0.prepared.is_full(),
            Err(broken) => broken.usable,
        };
        self.session = Some(session).filter(|_| usable);
    }

    /// Now and then: removes records of idempotency keys that are too old. Whoever waits for a batch waits for it.
    async fn forget_old(&mut self) {
        if self.forgot_at.elapsed() < FORGET_EVERY {
            return;
        }
        let Ok((session, term)) = self.session().await else { return };
        let forgotten = self.in_time(term, forget(&session)).await;
        self.keep((session, term), &forgotten);
        // As long as there are more, each batch removes some.
        if forgotten.is_ok_and(|count| count == FORGOTTEN_MAX as usize) {
            return;
        }
        self.forgot_at = Instant::now();
    }

    /// Told after something was stored in a term.
    fn stored(&self, life: u32, sequence: u64) -> Position {
        self.progress.tell(life, |progress| progress.observe(sequence));
        Position { timeline: life, sequence }
    }
}

impl AsyncWriter for PgWriter {
    async fn ready(&mut self) -> bool {
        match self.session().await {
            Ok(session) => {
                self.session = Some(session);
                true
            }
            Err(_) => false,
        }
    }

    async fn apply(&mut self, units: &[Unit<'_>]) -> Result<BatchDone, BatchFailure> {
        if units.iter().all(|unit| unit.rows.is_empty()) {
            let position = self.progress.position(self.progress.committed());
            return Ok(BatchDone { rows: Vec::new(), position });
        }
        self.forget_old().await;
        let mut tries = 0;
        loop {
            tries += 1;
            let broken = match self.apply_once(units, tries > 1).await {
                Ok((Stored { rows, position }, life)) => {
                    return Ok(BatchDone { rows, position: self.stored(life, position) });
                }
                Err(broken) => broken,
            };
            // A new row that another router has made meanwhile is there the next time.
            let crossed = match broken.trouble {
                Trouble::Crossed => true,
                Trouble::Constraint(rule) => rule == "unique" && tries == 1,
                Trouble::Swallowed(_)
                | Trouble::ReadOnly
                | Trouble::Full
                | Trouble::Late
                | Trouble::Outdated
                | Trouble::Lost
                | Trouble::Promoted
                | Trouble::Other => false,
            };
            if !crossed || broken.outcome != Outcome::Rejected || tries == TRIES_MAX {
                return Err(self.failure(&broken.about(units)));
            }
        }
    }

    async fn change_schema(&mut self, change: &SchemaChange) -> Result<u64, BatchFailure> {
        let changed = match self.session().await {
            Ok((mut session, term)) => {
                let changed = self.in_time(term, ddl::change(&mut session, change)).await;
                self.keep((session, term), &changed);
                changed.map(|position| (position, self.leader.life(term)))
            }
            Err(broken) => Err(broken),
        };
        match changed {
            Ok((position, life)) => {
                self.stored(life, position);
                self.progress.tell(life, |progress| progress.schema_changed(position));
                Ok(position)
            }
            Err(broken) => Err(BatchFailure { divisible: false, ..self.failure(&broken) }),
        }
    }

    async fn close(&mut self) {
        self.session = None;
        // Drives the end of the connection: the server is told.
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
    }
}

/// Removes records of idempotency keys that are too old, and tells how many.
async fn forget(session: &LaneSession) -> Result<usize, Broken> {
    let Forgetting { from, until, witness } = Forgetting::now();
    let [from, until] = [from, until].map(Value::Text);
    let times = [&from, &until].map(|time| Bind::value(ColumnType::Timestamp, time));
    let broken = |error| Broken::before_commit(&error);
    if let Some((from, until)) = witness {
        let binds = [from, until].map(Value::Text);
        let binds = [&binds[0], &binds[1]].map(|time| Bind::value(ColumnType::Timestamp, time));
        let statement = Statement { sql: sql::WITNESS, binds: &binds, cached: true };
        if load(&session.connection, statement).await.map_err(broken)?.is_empty() {
            return Ok(0);
        }
    }
    if session.citus.is_some() {
        let forgotten = citus::forget(&session.connection, times, FORGOTTEN_MAX).await;
        return forgotten.map_err(broken);
    }
    let [from, until] = times;
    let binds = [from, until, Bind::integer(FORGOTTEN_MAX)];
    let statement = Statement { sql: sql::FORGET, binds: &binds, cached: true };
    load(&session.connection, statement).await.map(|rows| rows.len()).map_err(broken)
}

fn patience(timeouts: Timeouts) -> Duration {
    let statement = timeouts.statement;
    if statement.is_zero() { UNLIMITED } else { statement + PATIENCE }
}

/// Why there is no connection, for a batch and for people.
struct NoSession {
    broken: Broken,
    cause: String,
}

async fn connect(leader: &Leader, timeouts: Timeouts) -> Result<(LaneSession, Term), NoSession> {
    let (trouble, outcome) = (Trouble::Lost, Outcome::Rejected);
    let lost = |cause: &dyn std::fmt::Display| NoSession {
        broken: Broken { trouble: trouble.clone(), outcome, usable: false, divisible: false },
        cause: cause.to_string(),
    };
    let led = leader.connect("lane").await;
    let Led { session, term } = led.map_err(|error| lost(&error))?;
    let connection = session.connection;
    let set = tokio::time::timeout(timeouts.connect, run(&connection, sql::LANE_SETTINGS));
    let set: QueryResult<()> = set.await.map_err(|elapsed| lost(&elapsed))?;
    set.map_err(|error| NoSession {
        broken: Broken::before_commit(&error),
        cause: error.to_string(),
    })?;
    let (prepared, texts) = (Prepared::default(), Texts::default());
    let (newness, citus) = (Newness::default(), leader.citus().map(Arc::clone));
    Ok((LaneSession { connection, prepared, texts, newness, citus }, term))
}
