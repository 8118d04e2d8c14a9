//! Proof: proves for strong reads that a node is still the primary.
//!
//! A primary that was replaced may not know that, and would return outdated rows. So before a
//! strong read, the node commits a small record: only for the real primary does a majority of the
//! shard's nodes flush this record on its timeline. This is the read index of Raft ("In Search of
//! an Understandable Consensus Algorithm", Ongaro and Ousterhout 2014, section 8). One record
//! serves all reads that wait when it begins.
//!
//! **Invariant:** a returned position was committed after the position was requested.
//! **Not here:** waiting for the majority (`shard`).

use std::sync::Arc;
use std::time::Duration;

use diesel_async::AsyncPgConnection;
use diesel_async::pooled_connection::PoolableConnection;
use model::position::Position;
use tokio::sync::{mpsc, oneshot};

use super::primary_tracker::{PrimarySession, PrimaryTracker};
use super::sql;
use super::statement::{Prepared, Statement, pipeline, step};
use super::term::Term;

/// Maximum number of reads that may wait for the next record.
const QUEUE_MAX: usize = 4_096;
/// Time limit for one record.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause after the node could not be reached.
const OUT: Duration = Duration::from_millis(100);

/// Writes an empty log record, which is committed like any other.
const MARK: &str = "SELECT 1 FROM pg_logical_emit_message(true,'tessera','')";

type Reply = oneshot::Sender<Option<Position>>;

/// Queue of the task that writes the records.
pub(super) struct Proof {
    queue: mpsc::Sender<Reply>,
}

struct Open {
    connection: AsyncPgConnection,
    term: Term,
    prepared: Prepared,
}

impl Proof {
    /// Starts the task, on the current runtime. It ends when this is dropped.
    pub(super) fn start(tracker: &Arc<PrimaryTracker>, shard: &str) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(serve(Arc::clone(tracker), shard.to_owned(), waiting));
        Self { queue }
    }

    /// Returns a position that is committed after this call; `None` if there is no primary, or too
    /// many reads wait.
    pub(super) async fn mark(&self) -> Option<Position> {
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(reply).ok()?;
        answer.await.ok().flatten()
    }
}

async fn serve(tracker: Arc<PrimaryTracker>, shard: String, mut waiting: mpsc::Receiver<Reply>) {
    let mut open: Option<Open> = None;
    let mut all = Vec::new();
    loop {
        let used = open.as_ref().map(|open| open.term);
        let asked = tokio::select! {
            biased;
            asked = waiting.recv_many(&mut all, QUEUE_MAX) => asked,
            () = async { tracker.terms().until(|term| used.is_some_and(|used| used != *term)).await } => {
                // A node keeps only the connections it needs.
                open = None;
                continue;
            }
        };
        if asked == 0 {
            return;
        }
        all.retain(|reply| !reply.is_closed());
        if all.is_empty() {
            continue;
        }
        let term = tracker.term();
        let marked = tokio::select! {
            marked = tokio::time::timeout(PATIENCE, mark(&tracker, &mut open)) => marked.ok().flatten(),
            () = tracker.terms().ended(term) => None,
        };
        if marked.is_none() {
            open = None;
            tracing::debug!(shard, "that its primary leads cannot be proven now");
        }
        for reply in all.drain(..) {
            let _ = reply.send(marked);
        }
        if marked.is_none() {
            tokio::time::sleep(OUT).await;
        }
    }
}

async fn mark(tracker: &PrimaryTracker, open: &mut Option<Open>) -> Option<Position> {
    let kept = open.take().and_then(|mut open| {
        let usable = tracker.term() == open.term && !open.connection.is_broken();
        usable.then_some(open)
    });
    let Open { connection, term, mut prepared } = match kept {
        Some(open) => open,
        None => {
            let PrimarySession { session, term } = tracker.connect("proof").await.ok()?;
            Open { connection: session.connection, term, prepared: Prepared::default() }
        }
    };
    let statement = |sql| Statement { sql, binds: &[], cached: true };
    let steps = [MARK, sql::POSITION].map(|sql| step(&connection, statement(sql)));
    let mut results = pipeline(&mut prepared, steps.into()).await;
    let (position, marked) = (results.pop()?.ok()?, results.pop()?.is_ok());
    let sequence = position.first().and_then(|row| row.bigint(0)).filter(|_| marked)?;
    *open = Some(Open { connection, term, prepared });
    Some(Position {
        timeline: tracker.terms().timeline_id(term),
        sequence: sequence.cast_unsigned(),
    })
}
