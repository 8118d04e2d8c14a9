//! Pretending: a sabotaged writer that answers a batch before it is committed, or instead.
//!
//! **Invariant:** a transaction that was left open is committed before the writer does anything else.
//! **Not here:** batches that are committed before they are answered (`writer`).

use std::time::{Duration, Instant};

use diesel::QueryResult;
use diesel::connection::SimpleConnection;

use super::{Opened, SqliteWriter};
use crate::sabotage::{Mutation, is_due, is_on};
use crate::store::sqlite::batch::{Applied, Batch};
use crate::store::{BatchDone, Unit};

/// Of so many batches one is lost.
const LOST_EVERY: u64 = 64;
/// How long an answered batch stays open: as long as a slow disk takes to sync it.
const OPEN: Duration = Duration::from_millis(3);

/// A batch that was answered and is not committed yet.
pub(super) struct Owed {
    position: u64,
}

impl SqliteWriter {
    /// What is told of a batch that is not committed, if this one is not to be. One that cannot be applied is left to
    /// the honest way.
    pub(super) fn pretend(&mut self, units: &[Unit<'_>]) -> Option<BatchDone> {
        self.commit_owed_batch();
        let lost = is_due(Mutation::LostBatch, LOST_EVERY);
        if !lost && !is_on(Mutation::AckBeforeCommit) {
            return None;
        }
        let connection = &mut self.opened.as_mut()?.connection;
        connection.batch_execute("BEGIN IMMEDIATE").ok()?;
        let applied: QueryResult<Applied> =
            Batch::new(connection, self.counters, &mut self.shapes).run(units);
        let kept = applied.ok().filter(|applied| !lost || applied.logged > 0);
        let Some(applied) = kept else {
            connection.batch_execute("ROLLBACK").ok();
            return None;
        };
        let position = applied.counters.position as u64;
        let done = BatchDone { rows: applied.rows, position: self.progress.position(position) };
        if lost {
            connection.batch_execute("ROLLBACK").ok();
            return Some(done);
        }
        self.counters = applied.counters;
        self.log.bytes += applied.logged;
        self.owed = Some(Owed { position });
        Some(done)
    }

    /// Commits the batch that was left open, if there is one.
    pub(super) fn commit_owed_batch(&mut self) {
        let Some(Owed { position }) = self.owed.take() else { return };
        std::thread::sleep(OPEN);
        let began = Instant::now();
        self.progress.begin(position);
        let Some(Opened { connection, .. }) = &mut self.opened else { return };
        if let Err(error) = connection.batch_execute("COMMIT") {
            tracing::error!(shard = %self.shard, %error, "a batch that was answered is lost");
            self.opened = None;
            return;
        }
        self.progress.commit(position, began);
    }
}
