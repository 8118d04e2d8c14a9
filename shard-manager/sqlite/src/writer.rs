//! Writer: applies batches of changes to a shard's file, each batch one durable transaction.
//!
//! **Invariant:** the counters in memory equal those in the file whenever no transaction runs; the
//! replication state receives each position twice, before the transaction commits and after it has
//! committed; no batch is acknowledged if the file was deleted while it was open.
//! **Not here:** the contents of a transaction (`batch`), the queue of waiting writes (`lane`).

#[cfg(feature = "sabotage")]
mod early_ack;
mod move_change;
mod schema_change;
mod slot_change;
#[cfg(feature = "sabotage")]
mod slot_copy;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use diesel::QueryResult;
use diesel::connection::SimpleConnection;
use diesel::result::Error as DieselError;
use diesel::sqlite::SqliteConnection;
use engine::replication::{ReplicationState, record_trim};
use engine::slot_change::{SlotChange, SlotChangeError};
use engine::slot_move::{MoveChange, MoveChangeError};
use engine::slot_news::SlotNews;
use engine::{BatchDone, BatchFailure, SchemaChange, WriteGroup, Writer};
use model::error::{Error, Outcome};
use model::reason::Reason;
use moves::request_context::MoveEffect;

use super::batch::{Applied, Batch, Counters};
use super::connection::{DbErrorKind, OpenError, PreparedShapes, open};
use super::log_extent::{LogExtent, Trimmed};
use super::move_change::restart_recording;
use super::move_counts::ComparedCounts;
use super::move_traces::MoveTraces;
use super::open_file_check::{FileHandles, OpenFileCheck};
use super::owned_slots::{OwnedSlots, SlotOwnership};
use super::read_gate::ReadGate;
use super::{declarations, log, owned_slots, stored_move};

/// Page cache of 8 MiB, large enough for the inner B-tree pages of a few million rows.
const PRAGMAS: &str = "PRAGMA cache_size=-8192";
/// Interval between searches for expired idempotency keys, once a search has found no more of them.
const FORGET_EVERY: Duration = Duration::from_secs(60);

/// The only connection that writes to a shard's file.
pub struct SqliteWriter {
    shard: String,
    path: PathBuf,
    file_check: Arc<OpenFileCheck>,
    /// The open connection; `None` after a failure that may have left it in an unknown state, in
    /// which case the next batch opens a new one.
    opened: Option<Opened>,
    counters: Counters,
    shapes: PreparedShapes,
    replication: Arc<ReplicationState>,
    slots: SharedSlots,
    log: LogExtent,
    /// Time of the last search after which no expired idempotency key was left; `None` if there has
    /// been no such search since the file was opened.
    forgot_at: Option<Instant>,
    #[cfg(feature = "sabotage")]
    owed: Option<early_ack::Owed>,
}

/// State of the shard's slots and moves, which the writer shares with readers and with waiting
/// writes.
#[derive(Clone, Default)]
pub struct SharedSlots {
    /// Slots that the shard owns.
    pub ownership: Arc<SlotOwnership>,
    /// Channel that announces each change of the slots.
    pub news: Arc<SlotNews>,
    /// Guards that keep log entries which running moves still need.
    pub traces: Arc<MoveTraces>,
    /// Row counts that the last comparison for a move has found.
    pub compared: Arc<ComparedCounts>,
    /// Gate that admits the reads of moves; it is closed when the file is closed.
    pub gate: Arc<ReadGate>,
}

/// The connection, and handles of its file that show if the file was deleted meanwhile.
struct Opened {
    /// Handles of the file and its WAL; declared before the connection so that they are dropped
    /// first.
    handles: FileHandles,
    connection: SqliteConnection,
}

impl SqliteWriter {
    /// Opens the writing connection to the file of a shard.
    ///
    /// # Errors
    /// [`OpenError`] if the file cannot be opened or lacks its counters.
    pub fn open(
        shard: &str,
        path: &Path,
        replication: &Arc<ReplicationState>,
    ) -> Result<Self, OpenError> {
        let shared = (OpenFileCheck::of(shard, path), SharedSlots::default());
        Self::open_on(shared, (shard, path), replication)
    }

    fn open_on(
        (file_check, slots): (Arc<OpenFileCheck>, SharedSlots),
        (shard, path): (&str, &Path),
        replication: &Arc<ReplicationState>,
    ) -> Result<Self, OpenError> {
        file_check.check()?;
        let failed = |error| OpenError::file(path, error);
        let mut connection = open(path, PRAGMAS)?;
        restart_recording(&mut connection, Utc::now()).map_err(failed)?;
        let counters = Counters::load(&mut connection).map_err(failed)?;
        let (first, bytes) = log::extent(&mut connection).map_err(failed)?;
        let position = counters.position as u64;
        let trimmed = first.map_or(Some(position), |first| first.checked_sub(1));
        let trimmed = trimmed.filter(|trimmed| *trimmed <= position);
        let unfit = || OpenError::foreign(path, "its change log does not fit its position");
        let trimmed = trimmed.ok_or_else(unfit)?;
        replication.reset_to(position);
        let tables_at = declarations::last_made_at(&mut connection).map_err(failed)?;
        let slots_at = owned_slots::generation(&mut connection).map_err(failed)?;
        replication.primary().record_schema_change(tables_at.max(slots_at));
        let owned = OwnedSlots::load(&mut connection).map_err(failed)?;
        slots.ownership.finish_change(owned);
        let moves = stored_move::load(&mut connection).map_err(failed)?;
        slots.traces.settle(replication, &moves, trimmed).map_err(failed)?;
        let handles = file_check.open_handles();
        Ok(Self {
            shard: shard.to_owned(),
            path: path.to_owned(),
            file_check,
            opened: Some(Opened { handles, connection }),
            counters,
            shapes: PreparedShapes::default(),
            replication: Arc::clone(replication),
            slots,
            log: LogExtent::new(trimmed, bytes),
            forgot_at: None,
            #[cfg(feature = "sabotage")]
            owed: None,
        })
    }

    /// Returns the check that the path still leads to the file that is open.
    pub fn file_check(&self) -> &Arc<OpenFileCheck> {
        &self.file_check
    }

    /// Returns the state of the slots that the writer shares with readers and waiting writes.
    pub fn slots(&self) -> &SharedSlots {
        &self.slots
    }

    fn reopen(&mut self) -> Result<Opened, BatchFailure> {
        let shared = (Arc::clone(&self.file_check), self.slots.clone());
        let place = (&*self.shard, &*self.path);
        let reopened = Self::open_on(shared, place, &self.replication).map_err(|error| {
            tracing::error!(shard = %self.shard, %error, "the shard's file cannot be opened again");
            let unavailable = || Error::ShardUnavailable { shard: self.shard.clone() };
            let error = self.file_check.check_writable().err().unwrap_or_else(unavailable);
            BatchFailure { error, outcome: Outcome::Rejected, retry_split: false }
        })?;
        *self = reopened;
        Ok(self.opened.take().expect("open() always connects"))
    }

    /// Takes the connection out of the writer, and opens a new one if there is none. Fails if the
    /// file does not accept writes.
    fn take_opened(&mut self) -> Result<Opened, BatchFailure> {
        self.file_check.check_writable().map_err(|error| BatchFailure {
            error,
            outcome: Outcome::Rejected,
            retry_split: false,
        })?;
        match self.opened.take() {
            Some(opened) => Ok(opened),
            None => self.reopen(),
        }
    }

    /// Puts the connection back after a commit. Fails if the file no longer has a name, because the
    /// commit must not be acknowledged then.
    fn give_back(&mut self, opened: Opened) -> Result<(), BatchFailure> {
        let have_names = opened.handles.have_names();
        self.opened = Some(opened);
        if have_names {
            return Ok(());
        }
        self.file_check.record_loss(Reason::FilesLost);
        let error = Error::FilesLost { shard: self.shard.clone(), loss: Reason::FilesLost };
        Err(BatchFailure { error, outcome: Outcome::Unknown, retry_split: false })
    }

    /// Executes one transaction, including its commit.
    fn transact(
        &mut self,
        connection: &mut SqliteConnection,
        groups: &[WriteGroup<'_>],
        state: &mut Attempt,
    ) -> QueryResult<Applied> {
        let forget = self.forgot_at.is_none_or(|at| at.elapsed() > FORGET_EVERY);
        connection.immediate_transaction(|connection| {
            let mut work = |connection: &mut SqliteConnection| {
                state.trim(self, connection)?;
                let mut batch = Batch::new(connection, self.counters, &mut self.shapes);
                if forget {
                    state.forgot_all = batch.forget_old()?;
                }
                batch.run(groups)
            };
            let applied =
                work(connection).inspect_err(|error| state.cause = Some(DbErrorKind::of(error)))?;
            state.committing = true;
            state.began = Instant::now();
            self.replication.primary().begin(applied.counters.position as u64);
            Ok::<_, DieselError>(applied)
        })
    }

    /// Records the new extent of the log after a transaction that appended `appended` bytes and
    /// removed the entries in `trimmed`.
    fn note_log(&mut self, appended: u64, trimmed: Option<Trimmed>) {
        self.log.append(appended);
        let Some(trimmed) = trimmed else { return };
        self.log.remove(trimmed);
        for holder in record_trim(&self.replication, trimmed.position) {
            tracing::warn!(
                shard = %self.shard, holder,
                "the change log has exceeded its size limit: this holder must start over"
            );
        }
    }

    /// Converts a failure. If COMMIT had not begun, certainly nothing was stored. If it had begun,
    /// that is certain only if the disk is full; otherwise the outcome is unknown.
    fn failure(&self, kind: &DbErrorKind, committing: bool) -> BatchFailure {
        let certain = !committing || *kind == DbErrorKind::Full;
        BatchFailure {
            error: match kind {
                // A constraint that a client's row violates fails only that change, so this
                // violation is in one of Tessera's own tables.
                DbErrorKind::Constraint(_) => Error::Internal,
                DbErrorKind::Full | DbErrorKind::Unusable | DbErrorKind::Other => {
                    kind.error(&self.shard)
                }
            },
            outcome: if certain { Outcome::Rejected } else { Outcome::Unknown },
            retry_split: !committing && *kind == DbErrorKind::Other,
        }
    }
}

/// State of an attempted transaction.
struct Attempt {
    committing: bool,
    /// First error of the transaction. It is kept because SQLite may already have rolled back, and
    /// diesel then reports only that its own rollback found nothing to undo.
    cause: Option<DbErrorKind>,
    /// Log entries that the transaction removed.
    trimmed: Option<Trimmed>,
    /// True if no expired idempotency key is left.
    forgot_all: bool,
    began: Instant,
}

impl Attempt {
    fn new() -> Self {
        let began = Instant::now();
        Self { committing: false, cause: None, trimmed: None, forgot_all: false, began }
    }

    /// Trims the log within the transaction, if enough of it is no longer needed.
    fn trim(
        &mut self,
        writer: &SqliteWriter,
        connection: &mut SqliteConnection,
    ) -> QueryResult<()> {
        let position = writer.counters.position as u64;
        if let Some(limit) = writer.log.trim_limit(&writer.replication, position) {
            self.trimmed = log::trim(connection, limit)?;
        }
        Ok(())
    }

    /// Records that the commit begins now. If the transaction has `stored` something, a failure
    /// from now on leaves the outcome in doubt.
    fn begin_commit(&mut self, writer: &SqliteWriter, after: &Counters, stored: bool) {
        self.committing = stored;
        self.began = Instant::now();
        writer.replication.primary().begin(after.position as u64);
    }
}

impl Writer for SqliteWriter {
    fn apply(&mut self, groups: &[WriteGroup<'_>]) -> Result<BatchDone, BatchFailure> {
        let position = self.counters.position as u64;
        if groups.iter().all(|group| group.rows.is_empty()) {
            let position = self.replication.timeline().position(position);
            return Ok(BatchDone { rows: Vec::new(), position });
        }
        #[cfg(feature = "sabotage")]
        if let Some(done) = self.pretend(groups) {
            return Ok(done);
        }
        let mut opened = self.take_opened()?;
        let mut state = Attempt::new();
        match self.transact(&mut opened.connection, groups, &mut state) {
            Ok(applied) => {
                let position = applied.counters.position as u64;
                if position as i64 != self.counters.position {
                    self.replication.commit(position, state.began);
                }
                self.counters = applied.counters;
                self.note_log(applied.logged, state.trimmed);
                if state.forgot_all {
                    self.forgot_at = Some(Instant::now());
                }
                self.give_back(opened)?;
                let position = self.replication.timeline().position(position);
                Ok(BatchDone { rows: applied.rows, position })
            }
            Err(error) => {
                let kind = state.cause.unwrap_or_else(|| DbErrorKind::of(&error));
                let committing = state.committing;
                if error == DieselError::RollbackTransaction && !committing {
                    // The writer itself aborted the transaction, so certainly nothing was stored.
                    self.opened = Some(opened);
                } else {
                    tracing::error!(shard = %self.shard, %error, ?kind, committing, "a batch failed");
                }
                Err(self.failure(&kind, committing))
            }
        }
    }

    fn change_schema(&mut self, change: &SchemaChange) -> Result<u64, BatchFailure> {
        self.alter(change)
    }

    fn change_slots(&mut self, change: &SlotChange) -> Result<u64, SlotChangeError> {
        self.change_owned(change)
    }

    fn change_move(&mut self, change: &MoveChange) -> Result<MoveEffect, MoveChangeError> {
        move_change::carry_out(self, change)
    }

    #[cfg(feature = "sabotage")]
    fn commit_owed(&mut self) {
        self.commit_owed_batch();
    }

    fn close(&mut self) {
        self.slots.gate.close();
        if let Some(Opened { connection, .. }) = &mut self.opened {
            // A failed checkpoint is ignored, because data in the WAL is as durable as in the file.
            let _ = connection.batch_execute("PRAGMA wal_checkpoint(TRUNCATE)");
        }
        self.opened = None;
    }
}
