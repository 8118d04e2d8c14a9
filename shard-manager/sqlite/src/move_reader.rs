//! Move reader: reads a primary's file for the mover, the task that carries out moves of slots.
//!
//! Each read opens a connection of its own, and takes one short snapshot without occupying the
//! writer. Nothing stays open afterwards, so the file of a closed shard is not held open.
//!
//! **Invariant:** everything that one read returns comes from one snapshot, and the returned
//! position is that of the snapshot.
//! **Not here:** changes (`move_change`), the contents of a round (`move_reader/round`).

mod digests;
mod round;
mod row_hashes;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use diesel::QueryResult;
use diesel::connection::Connection as _;
use diesel::result::Error as DieselError;
use diesel::sqlite::SqliteConnection;
use engine::EngineFuture;
use engine::row_hashes::{RowHashQuery, RowHashes};
use engine::slot_move::{
    FactsQuery, MoveFacts, MoveReader, RoundError, RoundQuery, RoundRead, SlotDigest,
};
use futures_util::future::BoxFuture;
use model::error::Error;
use model::keyspace::Slot;
use model::position::Position;
use model::slot_set::SlotSet;
use moves::applied::AppliedRows;
use moves::identity::MoveId;
use moves::move_row::MoveRow;
use moves::observation::state_of;

use super::connection::{DbErrorKind, open_in_place};
use super::move_counts::ComparedCounts;
use super::open_file_check::OpenFileCheck;
use super::read_gate::ReadGate;
use super::stored_move::{self, FEED_TIMELINE, StoredMove};
use super::{move_log, move_metadata, moving_rows, threads, timeline};

/// Reads of one primary's file for movers.
pub struct FileMoveReader(Arc<Source>);

/// The file, with the checks and the gate that every read must pass.
struct Source {
    shard: String,
    path: PathBuf,
    file_check: Arc<OpenFileCheck>,
    gate: Arc<ReadGate>,
    compared: Arc<ComparedCounts>,
}

/// Snapshot of the file.
struct Snapshot<'s> {
    connection: &'s mut SqliteConnection,
    gate: &'s ReadGate,
    compared: &'s ComparedCounts,
    deadline: Instant,
}

impl FileMoveReader {
    /// Creates a reader of the file of a shard's primary. Reads fail once the gate is closed.
    pub fn new(
        (shard, path): (&str, &Path),
        file_check: &Arc<OpenFileCheck>,
        (gate, compared): (&Arc<ReadGate>, &Arc<ComparedCounts>),
    ) -> Self {
        Self(Arc::new(Source {
            shard: shard.to_owned(),
            path: path.to_owned(),
            file_check: Arc::clone(file_check),
            gate: Arc::clone(gate),
            compared: Arc::clone(compared),
        }))
    }

    /// Executes a read on a thread that may block.
    fn read<T: Send + 'static>(
        &self,
        deadline: Instant,
        work: impl FnOnce(&mut Snapshot<'_>) -> QueryResult<T> + Send + 'static,
    ) -> EngineFuture<'_, T> {
        let source = Arc::clone(&self.0);
        Box::pin(threads::blocking(deadline, move |_| source.read(deadline, work)))
    }
}

impl Source {
    fn read<T>(
        &self,
        deadline: Instant,
        work: impl FnOnce(&mut Snapshot<'_>) -> QueryResult<T>,
    ) -> Result<T, Error> {
        let unavailable = || Error::ShardUnavailable { shard: self.shard.clone() };
        let _open = self.gate.enter().ok_or_else(unavailable)?;
        self.file_check.check_writable()?;
        let failed = |error: &dyn std::fmt::Display| {
            tracing::warn!(shard = %self.shard, %error, "the file cannot be read for a move");
        };
        self.file_check.check().map_err(|_| unavailable())?;
        let opened = open_in_place(&self.path).inspect_err(|error| failed(error));
        let mut connection = opened.map_err(|_| unavailable())?;
        let read = connection.transaction(|connection| {
            let (gate, compared) = (&*self.gate, &*self.compared);
            work(&mut Snapshot { connection, gate, compared, deadline })
        });
        read.map_err(|error| {
            if error == DieselError::RollbackTransaction {
                let is_over = deadline <= Instant::now();
                return if is_over { Error::DeadlinePassed } else { unavailable() };
            }
            failed(&error);
            DbErrorKind::of(&error).error(&self.shard)
        })
    }
}

impl MoveReader for FileMoveReader {
    fn facts<'a>(
        &'a self,
        query: &'a FactsQuery,
        deadline: Instant,
    ) -> EngineFuture<'a, MoveFacts> {
        let query = query.clone();
        self.read(deadline, move |snapshot| snapshot.facts(&query))
    }

    fn read_round<'a>(
        &'a self,
        query: &'a RoundQuery,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<RoundRead, RoundError>> {
        let query = query.clone();
        let read = self.read(deadline, move |snapshot| round::read(snapshot, &query));
        Box::pin(async move { read.await? })
    }

    fn digests<'a>(
        &'a self,
        slots: &'a Arc<[Slot]>,
        deadline: Instant,
    ) -> EngineFuture<'a, Vec<SlotDigest>> {
        let slots: SlotSet = slots.iter().copied().collect();
        self.read(deadline, move |snapshot| digests::read(snapshot, &slots))
    }

    fn row_hashes<'a>(
        &'a self,
        query: &'a RowHashQuery,
        deadline: Instant,
    ) -> EngineFuture<'a, RowHashes> {
        let query = query.clone();
        self.read(deadline, move |snapshot| row_hashes::read(snapshot, &query))
    }

    fn rows(&self, deadline: Instant) -> EngineFuture<'_, Vec<MoveRow>> {
        self.read(deadline, |snapshot| {
            let rows: Result<_, _> =
                stored_move::load(snapshot.connection)?.iter().map(StoredMove::row).collect();
            Ok(rows?)
        })
    }

    fn position_timeline(&self, _timeline: u32) -> Option<u32> {
        None
    }
}

impl Snapshot<'_> {
    /// Fails once the deadline has passed, or the shard is being closed.
    fn check(&self) -> QueryResult<()> {
        check_over(self.gate, self.deadline)
    }

    fn position(&mut self) -> QueryResult<u64> {
        timeline::position(self.connection).map(|position| position.sequence)
    }

    fn stored(&mut self, id: MoveId) -> QueryResult<Option<StoredMove>> {
        for row in stored_move::load(self.connection)? {
            if row.move_id()? == id {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    fn facts(&mut self, query: &FactsQuery) -> QueryResult<MoveFacts> {
        let sequence = self.position()?;
        let stored = self.stored(query.id)?;
        let slots: SlotSet = query.slots.iter().copied().collect();
        let metadata = move_metadata::load(self.connection, &[], &slots, 0)?;
        let copied = query.copied.as_ref().filter(|copied| !copied.is_empty());
        let (is_ahead, lost_changes) = match copied {
            None => (false, false),
            Some(copied) => match self.lacks_after(stored.as_ref(), copied, sequence)? {
                None => (false, true),
                Some(after) => (move_log::has_change_after(self.connection, &slots, after)?, false),
            },
        };
        Ok(MoveFacts {
            position: Position { timeline: FEED_TIMELINE, sequence },
            row: stored.as_ref().map(StoredMove::row).transpose()?,
            slots: state_of(&metadata, &query.slots),
            has_rows: moving_rows::has_rows(self.connection, &slots)?,
            is_ahead,
            lost_changes,
        })
    }

    /// Returns the log position after which the changes begin that the copied rows do not have yet.
    /// Returns `None` if the rows were copied from another feed, so that their mark means nothing
    /// here, or if the log no longer has all of the changes.
    fn lacks_after(
        &mut self,
        stored: Option<&StoredMove>,
        copied: &AppliedRows,
        position: u64,
    ) -> QueryResult<Option<u64>> {
        let Some(stored) = stored else { return Ok(None) };
        if stored.row()?.feed(FEED_TIMELINE) != copied.feed {
            return Ok(None);
        }
        move_log::lacks_after(self.connection, stored, &copied.mark, position)
    }
}

/// Fails once the deadline has passed, or the shard is being closed.
fn check_over(gate: &ReadGate, deadline: Instant) -> QueryResult<()> {
    let is_over = gate.is_closed() || deadline <= Instant::now();
    if is_over { Err(DieselError::RollbackTransaction) } else { Ok(()) }
}
