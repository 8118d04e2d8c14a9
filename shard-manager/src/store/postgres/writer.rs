//! Writer: applies batches of changes on a shard's primary, each batch one durable transaction.
//!
//! It lives on the lane's thread, with a runtime of its own that drives the one connection: so nobody wakes another
//! thread between a batch and its answer, and no request that is dropped can leave a transaction open.
//!
//! **Invariant:** a connection in doubt is closed and never used again; a batch is tried again only if nothing of it
//! was stored.
//! **Not here:** what happens inside a transaction (`transaction`, `upsert`), who waits for one (`lane`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use diesel::QueryResult;
use diesel_async::pooled_connection::PoolableConnection;
use tokio::runtime::Runtime;

use super::ddl;
use super::node::Node;
use super::sql;
use super::statement::{Bind, Prepared, Statement, load, run};
use super::texts::Texts;
use super::transaction::{self, Broken, LaneSession, Stored};
use super::trouble::Trouble;
use super::upsert::{self, Newness};
use crate::error::Outcome;
use crate::idempotency;
use crate::progress::Progress;
use crate::store::{BatchDone, BatchFailure, SchemaChange, Unit, Writer};
use crate::value::{ColumnType, Value, format_timestamp};

/// How much longer than the server lets a statement run a batch may take before its connection is given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take where the server knows no limit.
const UNLIMITED: Duration = Duration::from_secs(60);
/// After how long a connection is listened to before the next batch: what has ended it since is told as rejected then.
const UNHEARD: Duration = Duration::from_millis(10);
/// How often a batch that crossed another router's is tried: from the second time on with the shard to itself.
const TRIES_MAX: usize = 3;
/// How often idempotency keys that are too old are looked for.
const FORGET_EVERY: Duration = Duration::from_secs(60);
/// Records of idempotency keys that are removed at a time.
const FORGOTTEN_MAX: i32 = 256;

/// The one writing connection to a shard's primary.
pub struct PgWriter {
    shard: String,
    node: Node,
    runtime: Runtime,
    /// `None` until the first batch, and after a failure that left the connection in doubt.
    session: Option<LaneSession>,
    /// When it was last heard of.
    used_at: Instant,
    progress: Arc<Progress>,
    forgot_at: Instant,
}

impl PgWriter {
    /// A writer that connects with its first batch.
    ///
    /// # Errors
    /// The system's, if it has nothing to drive sockets with.
    pub fn new(shard: &str, node: Node, progress: &Arc<Progress>) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self {
            shard: shard.to_owned(),
            node,
            runtime,
            session: None,
            used_at: Instant::now(),
            progress: Arc::clone(progress),
            forgot_at: Instant::now(),
        })
    }

    fn failure(&self, broken: &Broken) -> BatchFailure {
        BatchFailure {
            error: broken.trouble.error(&self.shard),
            outcome: broken.outcome,
            divisible: broken.divisible,
        }
    }

    /// Runs work on the connection, making one if there is none; it is kept if it may be used again.
    fn on_session<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut LaneSession) -> Result<T, Broken>,
    ) -> Result<T, Broken> {
        let Self { runtime, session, node, used_at, .. } = self;
        runtime.block_on(async {
            if used_at.elapsed() > UNHEARD {
                // What the server has sent meanwhile is read first: that it has closed the connection, perhaps.
                tokio::task::yield_now().await;
                tokio::task::yield_now().await;
            }
            let kept = session.take().and_then(|mut open| {
                let usable = !open.connection.is_broken();
                usable.then_some(open)
            });
            let mut open = match kept {
                Some(open) => open,
                None => connect(node).await?,
            };
            let worked = tokio::time::timeout(patience(node), work(&mut open)).await;
            *used_at = Instant::now();
            match worked {
                Ok(Ok(done)) => {
                    // Clients choose which columns they give: what is prepared must not grow for ever.
                    *session = Some(open).filter(|open| !open.prepared.is_full());
                    Ok(done)
                }
                Ok(Err(broken)) => {
                    *session = Some(open).filter(|_| broken.usable);
                    Err(broken)
                }
                Err(_elapsed) => Err(Broken {
                    trouble: Trouble::Lost,
                    outcome: Outcome::Unknown,
                    usable: false,
                    divisible: false,
                }),
            }
        })
    }

    fn apply_once(&mut self, units: &[Unit<'_>], alone: bool) -> Result<Stored, Broken> {
        self.on_session(async |session| {
            if !alone && let Some(stored) = upsert::apply(session, units).await {
                return stored;
            }
            transaction::apply(session, units, alone).await
        })
    }

    /// Now and then: removes records of idempotency keys that are too old. Whoever waits for a batch waits for it.
    fn forget_old(&mut self) {
        if self.forgot_at.elapsed() < FORGET_EVERY {
            return;
        }
        let forgotten = self.on_session(async |session| {
            let before = Value::Text(format_timestamp(Utc::now() - idempotency::KEPT));
            let binds = [Bind::value(ColumnType::Timestamp, &before), Bind::integer(FORGOTTEN_MAX)];
            let statement = Statement { sql: sql::FORGET, binds: &binds, cached: true };
            let removed = load(&session.connection, statement).await;
            removed.map(|rows| rows.len()).map_err(|error| Broken::before_commit(&error))
        });
        // As long as there are more, each batch removes some.
        if forgotten.is_ok_and(|count| count == FORGOTTEN_MAX as usize) {
            return;
        }
        self.forgot_at = Instant::now();
    }
}

impl Writer for PgWriter {
    fn apply(&mut self, units: &[Unit<'_>]) -> Result<BatchDone, BatchFailure> {
        if units.iter().all(|unit| unit.rows.is_empty()) {
            return Ok(BatchDone { rows: Vec::new(), position: self.progress.committed() });
        }
        self.forget_old();
        let mut tries = 0;
        loop {
            tries += 1;
            let broken = match self.apply_once(units, tries > 1) {
                Ok(Stored { rows, position }) => {
                    self.progress.observe(position);
                    return Ok(BatchDone { rows, position });
                }
                Err(broken) => broken,
            };
            // A new row that another router has made meanwhile is there the next time.
            let crossed = match broken.trouble {
                Trouble::Crossed => true,
                Trouble::Constraint(rule) => rule == "unique" && tries == 1,
                Trouble::ReadOnly
                | Trouble::Full
                | Trouble::Late
                | Trouble::Outdated
                | Trouble::Lost
                | Trouble::Other => false,
            };
            if !crossed || broken.outcome != Outcome::Rejected || tries == TRIES_MAX {
                return Err(self.failure(&broken));
            }
        }
    }

    fn change_schema(&mut self, change: &SchemaChange) -> Result<u64, BatchFailure> {
        let changed = self.on_session(async |session| ddl::change(session, change).await);
        match changed {
            Ok(position) => {
                self.progress.observe(position);
                self.progress.schema_changed(position);
                Ok(position)
            }
            Err(broken) => Err(BatchFailure { divisible: false, ..self.failure(&broken) }),
        }
    }

    fn close(&mut self) {
        self.session = None;
        // Drives the end of the connection: the server is told.
        self.runtime.block_on(async {
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
        });
    }
}

fn patience(node: &Node) -> Duration {
    let statement = node.timeouts.statement;
    if statement.is_zero() { UNLIMITED } else { statement + PATIENCE }
}

async fn connect(node: &Node) -> Result<LaneSession, Broken> {
    let lost = || Broken {
        trouble: Trouble::Lost,
        outcome: Outcome::Rejected,
        usable: false,
        divisible: false,
    };
    let session = node.primary("lane").await.map_err(|error| {
        tracing::warn!(%error, "the primary cannot be written to");
        lost()
    })?;
    let connection = session.connection;
    let set = tokio::time::timeout(node.timeouts.connect, run(&connection, sql::LANE_SETTINGS));
    let set: QueryResult<()> = set.await.map_err(|_elapsed| lost())?;
    set.map_err(|error| Broken::before_commit(&error))?;
    let (prepared, texts) = (Prepared::default(), Texts::default());
    Ok(LaneSession { connection, prepared, texts, newness: Newness::default() })
}
