//! Early ack: a sabotaged writer that acknowledges a batch before it is committed, or instead of
//! committing it.
//!
//! **Invariant:** a transaction that was left open is committed before the writer does anything
//! else.
//! **Not here:** batches that are committed before they are acknowledged (`writer`).

use std::time::{Duration, Instant};

use diesel::QueryResult;
use diesel::connection::SimpleConnection;
use engine::{BatchDone, WriteGroup};
use model::sabotage::{Mutation, is_due, is_on};

use super::{Opened, SqliteWriter};
use crate::batch::{Applied, Batch};

/// Number of batches out of which one is lost.
const LOST_EVERY: u64 = 64;
/// Time for which an acknowledged batch stays uncommitted before its commit begins: about as long
/// as a sync takes on a slow disk.
const OPEN: Duration = Duration::from_millis(20);

/// A batch that was acknowledged and is not committed yet.
pub(super) struct Owed {
    position: u64,
}

impl SqliteWriter {
    /// Returns the result of a batch that is not committed yet or never will be; `None` if the
    /// batch must be committed first. A batch that cannot be applied is rolled back, so that the
    /// regular path reports the failure.
    pub(super) fn pretend(&mut self, groups: &[WriteGroup<'_>]) -> Option<BatchDone> {
        self.commit_owed_batch();
        let lost = is_due(Mutation::LostBatch, LOST_EVERY);
        if !lost && !is_on(Mutation::AckBeforeCommit) {
            return None;
        }
        let connection = &mut self.opened.as_mut()?.connection;
        connection.batch_execute("BEGIN IMMEDIATE").ok()?;
        let applied: QueryResult<Applied> =
            Batch::new(connection, self.counters, &mut self.shapes).run(groups);
        let kept = applied.ok().filter(|applied| !lost || applied.logged > 0);
        let Some(applied) = kept else {
            connection.batch_execute("ROLLBACK").ok();
            return None;
        };
        let position = applied.counters.position as u64;
        let done = BatchDone {
            rows: applied.rows,
            position: self.replication.timeline().position(position),
        };
        if lost {
            connection.batch_execute("ROLLBACK").ok();
            return Some(done);
        }
        self.counters = applied.counters;
        self.log.append(applied.logged);
        self.owed = Some(Owed { position });
        Some(done)
    }

    /// Commits the open batch, if there is one.
    pub(super) fn commit_owed_batch(&mut self) {
        let Some(Owed { position }) = self.owed.take() else { return };
        std::thread::sleep(OPEN);
        let began = Instant::now();
        self.replication.primary().begin(position);
        let Some(Opened { connection, .. }) = &mut self.opened else { return };
        if let Err(error) = connection.batch_execute("COMMIT") {
            tracing::error!(shard = %self.shard, %error, "a batch that was answered is lost");
            self.opened = None;
            return;
        }
        self.replication.commit(position, began);
    }
}
