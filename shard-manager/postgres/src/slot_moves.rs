//! Slot moves: the access of a mover, the task that carries moves out, to a shard's primary.
//!
//! A mover uses database sessions of its own, so that a copy never waits for the write lane of the
//! shard (the queue whose writes share transactions), and the lane never waits for a copy. The
//! rules of a move are evaluated in this process. Meanwhile, an open transaction holds the locks of
//! the move. If the change must exclude writes, that transaction also holds the fence lock, which
//! every write takes as well (`move_change`).
//!
//! **Invariant:** everything that one read returns comes from one snapshot; if the position of the
//! log is returned too, it is queried after the snapshot.
//! **Not here:** the rules (crate `moves`), the functions of the database (`migrations`).

mod chunk;
mod digests;
mod ended_recordings;
mod facts;
mod move_change;
mod move_metadata;
mod move_session;
mod recording;
mod round;
mod row_hashes;
mod row_type;
mod snapshot_mark;
mod statements;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use diesel::QueryResult;
use engine::EngineFuture;
use engine::replication::ReplicationState;
use engine::row_hashes::{RowHashQuery, RowHashes};
use engine::slot_move::{
    FactsQuery, MoveChange, MoveChangeError, MoveFacts, MoveReader, MoveWriter, RoundError,
    RoundQuery, RoundRead, SlotDigest,
};
use futures_util::future::BoxFuture;
use model::error::{Error, Outcome};
use model::keyspace::Slot;
use moves::move_row::MoveRow;
use moves::request_context::MoveEffect;

use self::ended_recordings::{EndedRecordings, TIDY, UnconfirmedChange, delete_left_changes, tidy};
use self::move_change::{Attempted, MoveChanged};
pub(super) use self::move_session::SESSIONS_MAX;
use self::move_session::{MoveSessions, Taken};
pub(super) use self::recording::{drop_recording, record_new_table, record_restored};
pub(super) use self::statements::NEEDLESSLY_RECORDED;
use super::db_error::DbErrorKind;
use super::lane_session::TransactionError;
use super::primary_tracker::PrimaryTracker;
use super::term::timeline_id;

/// Maximum number of attempts to enable the triggers of all tables, if clients create tables
/// meanwhile.
const ENABLE_TRIES: usize = 3;

/// Access of movers to the primary of a shard.
pub(super) struct PgMoves {
    shard: String,
    tracker: Arc<PrimaryTracker>,
    replication: Arc<ReplicationState>,
    sessions: MoveSessions,
    last_step: LastStep,
    /// Wakes the task that disables triggers. It is a separate task so that no step of a move waits
    /// until the triggers are disabled.
    ended: Arc<EndedRecordings>,
}

/// Time of the last step of a move on a shard; `None` before the first one.
#[derive(Default)]
struct LastStep(Mutex<Option<Instant>>);

impl LastStep {
    fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Returns true if no move has had a step for this time.
    fn is_older_than(&self, time: Duration) -> bool {
        let at = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        at.is_none_or(|at| at.elapsed() >= time)
    }
}

impl PgMoves {
    /// Creates the access of movers to a shard, and starts the task that disables triggers that no
    /// move needs, on the current runtime.
    pub(super) fn start(
        shard: &str,
        tracker: &Arc<PrimaryTracker>,
        replication: &Arc<ReplicationState>,
    ) -> Arc<Self> {
        let ended = Arc::new(EndedRecordings::default());
        let moves = Arc::new(Self {
            shard: shard.to_owned(),
            tracker: Arc::clone(tracker),
            replication: Arc::clone(replication),
            sessions: MoveSessions::new(shard, tracker),
            last_step: LastStep::default(),
            ended: Arc::clone(&ended),
        });
        tokio::spawn(tidy(Arc::downgrade(&moves), ended, Arc::clone(tracker)));
        moves
    }

    /// Returns a session to the pool unless the work on it failed, and passes on the result of the
    /// work.
    fn finish<T, E>(
        &self,
        taken: Taken<'_>,
        worked: Result<Result<T, E>, Error>,
    ) -> Result<Result<T, E>, Error> {
        if matches!(worked, Ok(Ok(_))) {
            self.sessions.give_back(taken);
        }
        worked
    }

    fn failed(&self, error: &diesel::result::Error) -> Error {
        let kind = DbErrorKind::of(error);
        tracing::warn!(shard = %self.shard, %error, ?kind, "the primary cannot be read for a move");
        kind.error(&self.shard)
    }

    /// Returns the result of a read.
    fn read<T>(&self, read: Result<QueryResult<T>, Error>) -> Result<T, Error> {
        read?.map_err(|error| self.failed(&error))
    }

    async fn read_facts(&self, query: &FactsQuery, deadline: Instant) -> Result<MoveFacts, Error> {
        self.last_step.note();
        let mut taken = self.sessions.take(deadline).await?;
        let facts = facts::read(&mut taken.session, query);
        let facts = self.sessions.in_time(taken.term, deadline, facts).await;
        let facts = self.finish(taken, facts);
        self.read(facts)
    }

    async fn read_next_round(
        &self,
        query: &RoundQuery,
        deadline: Instant,
    ) -> Result<RoundRead, RoundError> {
        let mut taken = self.sessions.take(deadline).await?;
        let round = round::read(&mut taken.session, query);
        let round = self.sessions.in_time(taken.term, deadline, round).await;
        let round = self.finish(taken, round);
        self.read(round)?
    }

    async fn read_digests(
        &self,
        slots: &[Slot],
        deadline: Instant,
    ) -> Result<Vec<SlotDigest>, Error> {
        let mut taken = self.sessions.take(deadline).await?;
        let digests = digests::read(&mut taken.session, slots);
        let digests = self.sessions.in_time(taken.term, deadline, digests).await;
        let digests = self.finish(taken, digests);
        self.read(digests)
    }

    async fn read_row_hashes(
        &self,
        query: &RowHashQuery,
        deadline: Instant,
    ) -> Result<RowHashes, Error> {
        let mut taken = self.sessions.take(deadline).await?;
        let hashes = row_hashes::read(&mut taken.session, query);
        let hashes = self.sessions.in_time(taken.term, deadline, hashes).await;
        let hashes = self.finish(taken, hashes);
        self.read(hashes)
    }

    async fn read_rows(&self, deadline: Instant) -> Result<Vec<MoveRow>, Error> {
        let mut taken = self.sessions.take(deadline).await?;
        let rows = move_metadata::rows(&mut taken.session);
        let rows = self.sessions.in_time(taken.term, deadline, rows).await;
        let rows = self.finish(taken, rows);
        self.read(rows)
    }

    /// Carries out a change of a move. If rows of its slots or recorded changes are left over from
    /// earlier, they are deleted in batches first. The triggers that record changes are enabled
    /// before the transaction that needs them.
    async fn carry_out(
        &self,
        change: &MoveChange,
        deadline: Instant,
    ) -> Result<MoveEffect, MoveChangeError> {
        let (mut enabled, mut displaces) = (0, false);
        loop {
            if enabled == 0 && recording::is_needed_by(&change.request) {
                if recording::deletes_left_before(&change.request) {
                    delete_left_changes(self, deadline).await?;
                }
                self.enable_recording(deadline).await?;
                enabled += 1;
            }
            match self.attempt((change, displaces), deadline).await? {
                Attempted::Changed(changed) => return Ok(self.changed(changed)),
                Attempted::Refused(reason) => return Err(reason),
                Attempted::Deleted if deadline <= Instant::now() => {
                    let holder = "the deletion of rows that were left over".to_owned();
                    return Err(MoveChangeError::Busy { holder });
                }
                Attempted::Deleted => {}
                Attempted::NotUnique => displaces = true,
                Attempted::Unrecorded if enabled < ENABLE_TRIES => {
                    self.enable_recording(deadline).await?;
                    enabled += 1;
                }
                Attempted::Unrecorded => {
                    let holder = "the creation of a table".to_owned();
                    return Err(MoveChangeError::Busy { holder });
                }
            }
        }
    }

    async fn attempt(
        &self,
        (change, displaces): (&MoveChange, bool),
        deadline: Instant,
    ) -> Result<Attempted, MoveChangeError> {
        let mut taken = self.sessions.take(deadline).await.map_err(rejected)?;
        let has_replicas = self.replication.timeline().replica_count() > 0;
        let change = (change, displaces);
        let unconfirmed = UnconfirmedChange::new(&self.ended);
        let attempt = move_change::attempt(&mut taken.session, change, has_replicas);
        let attempted = self.sessions.in_time(taken.term, deadline, attempt).await;
        // The change may have been sent, so its outcome is unknown.
        let attempted = attempted
            .map_err(|error| MoveChangeError::Failed { error, outcome: Outcome::Unknown })?;
        if !matches!(attempted, Err(TransactionError { outcome: Outcome::Unknown, .. })) {
            unconfirmed.confirm();
        }
        match attempted {
            Ok(attempted) => {
                self.sessions.give_back(taken);
                Ok(attempted)
            }
            Err(TransactionError { kind, outcome, usable, .. }) => {
                if usable {
                    self.sessions.give_back(taken);
                }
                let is_unique = matches!(kind, DbErrorKind::NotUnique(_));
                if is_unique && outcome == Outcome::Rejected && !displaces {
                    return Ok(Attempted::NotUnique);
                }
                Err(MoveChangeError::Failed { error: kind.error(&self.shard), outcome })
            }
        }
    }

    /// Makes a change known in this process, and returns its effect.
    fn changed(&self, changed: MoveChanged) -> MoveEffect {
        let MoveChanged { effect, timeline, position, has_news, gains_slots, ends_recording } =
            changed;
        if let Some(position) = position {
            let timeline = self.timeline_id(timeline);
            self.replication.update_if_current(timeline, |state| {
                state.primary().observe(position);
                if gains_slots {
                    // A replica that has not replayed this position may still have rows from before
                    // the shard last gave these slots away.
                    state.primary().record_schema_change(position);
                }
            });
        }
        if has_news {
            // The database sends a notification as well, but that arrives a moment later.
            self.tracker.slot_news.announce();
        }
        if ends_recording {
            self.ended.announce();
        }
        effect
    }

    async fn enable_recording(&self, deadline: Instant) -> Result<(), MoveChangeError> {
        let mut taken = self.sessions.take(deadline).await.map_err(rejected)?;
        let enabled = recording::enable(&mut taken.session);
        let enabled = self.sessions.in_time(taken.term, deadline, enabled).await;
        let enabled = self.finish(taken, enabled);
        match self.read(enabled).map_err(rejected)? {
            None => Ok(()),
            Some(holder) => Err(MoveChangeError::Busy { holder }),
        }
    }

    /// Disables the triggers if no move needs them. A failed attempt is repeated later.
    async fn disable_recording(&self) {
        let deadline = Instant::now() + TIDY;
        let Ok(mut taken) = self.sessions.take(deadline).await else { return };
        let disabled = recording::disable(&mut taken.session);
        let disabled = self.sessions.in_time(taken.term, deadline, disabled).await;
        if let Err(error) = self
            .finish(taken, disabled)
            .and_then(|disabled| disabled.map_err(|error| self.failed(&error)))
        {
            tracing::debug!(shard = %self.shard, %error, "triggers of moves are still enabled");
        }
    }

    fn timeline_id(&self, timeline: u32) -> u32 {
        timeline_id(self.tracker.terms().system(), timeline)
    }
}

/// Returns true if at least the given number of changes of the slots are recorded.
async fn read_has_too_many_changes(
    moves: &PgMoves,
    limit: (&[Slot], u64),
    deadline: Instant,
) -> Result<bool, Error> {
    let mut taken = moves.sessions.take(deadline).await?;
    let found = recording::has_too_many_changes(&mut taken.session, limit);
    let found = moves.sessions.in_time(taken.term, deadline, found).await;
    let found = moves.finish(taken, found);
    moves.read(found)
}

/// Converts a failure before the change was sent.
fn rejected(error: Error) -> MoveChangeError {
    MoveChangeError::Failed { error, outcome: Outcome::Rejected }
}

impl MoveReader for PgMoves {
    fn facts<'a>(
        &'a self,
        query: &'a FactsQuery,
        deadline: Instant,
    ) -> EngineFuture<'a, MoveFacts> {
        Box::pin(self.read_facts(query, deadline))
    }

    fn read_round<'a>(
        &'a self,
        query: &'a RoundQuery,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<RoundRead, RoundError>> {
        Box::pin(self.read_next_round(query, deadline))
    }

    fn digests<'a>(
        &'a self,
        slots: &'a Arc<[Slot]>,
        deadline: Instant,
    ) -> EngineFuture<'a, Vec<SlotDigest>> {
        Box::pin(self.read_digests(slots, deadline))
    }

    fn row_hashes<'a>(
        &'a self,
        query: &'a RowHashQuery,
        deadline: Instant,
    ) -> EngineFuture<'a, RowHashes> {
        Box::pin(self.read_row_hashes(query, deadline))
    }

    fn has_too_many_changes<'a>(
        &'a self,
        slots: &'a Arc<[Slot]>,
        most: u64,
        deadline: Instant,
    ) -> EngineFuture<'a, bool> {
        Box::pin(read_has_too_many_changes(self, (slots, most), deadline))
    }

    fn rows(&self, deadline: Instant) -> EngineFuture<'_, Vec<MoveRow>> {
        Box::pin(self.read_rows(deadline))
    }

    fn position_timeline(&self, timeline: u32) -> Option<u32> {
        Some(self.timeline_id(timeline))
    }
}

impl MoveWriter for PgMoves {
    fn change(
        &self,
        change: MoveChange,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<MoveEffect, MoveChangeError>> {
        Box::pin(async move { self.carry_out(&change, deadline).await })
    }
}
