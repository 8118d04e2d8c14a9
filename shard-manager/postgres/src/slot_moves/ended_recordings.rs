//! Ended recordings: a task of each shard disables the triggers that no move needs any longer, and
//! deletes the recorded changes of slots whose recording has ended.
//!
//! **Invariant:** recorded changes of a recording that this router has ended, or whose end has an
//! unknown outcome, are deleted within two intervals of [`TIDY`] after the end is committed.
//! **Not here:** statements (`recording`), the changes that end a recording (`move_change`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use engine::slot_move::MoveChangeError;
use model::error::Error;
use tokio::sync::Notify;

use super::{PgMoves, recording, rejected};
use crate::primary_tracker::PrimaryTracker;

/// Interval between two searches for enabled triggers that no move needs. Such triggers are left
/// over if the process that should have disabled them has ended.
pub(super) const TIDY: Duration = Duration::from_secs(30);
/// Number of searches for triggers after which recorded changes that are left over are searched for
/// as well. That search is rarer because it reads the whole table of changes.
const LEFT_EVERY: u32 = 20;

/// Notices of recordings that this router has ended, or may have ended.
#[derive(Default)]
pub(super) struct EndedRecordings {
    notice: Notify,
    has_unconfirmed: AtomicBool,
}

impl EndedRecordings {
    /// Announces the end of a recording.
    pub(super) fn announce(&self) {
        self.notice.notify_one();
    }

    /// Waits for a notice. Returns the number of searches for recorded changes that are due: two
    /// after a change whose outcome is unknown, because it may be committed after the first search.
    async fn next(&self) -> u32 {
        self.notice.notified().await;
        if self.has_unconfirmed.swap(false, Ordering::AcqRel) { 2 } else { 1 }
    }
}

/// Change whose outcome is unknown until it is confirmed. If the change is dropped before, for
/// example because its mover was cancelled, the server may still commit it and so end a recording.
pub(super) struct UnconfirmedChange<'e> {
    ended: &'e EndedRecordings,
    is_confirmed: bool,
}

impl<'e> UnconfirmedChange<'e> {
    /// Creates the guard of a change that is about to be sent.
    pub(super) fn new(ended: &'e EndedRecordings) -> Self {
        Self { ended, is_confirmed: false }
    }

    /// Notes that the outcome of the change is known.
    pub(super) fn confirm(mut self) {
        self.is_confirmed = true;
    }
}

impl Drop for UnconfirmedChange<'_> {
    fn drop(&mut self) {
        if !self.is_confirmed {
            self.ended.has_unconfirmed.store(true, Ordering::Release);
            self.ended.announce();
        }
    }
}

/// Runs as long as the shard is open: disables triggers that no move needs, and deletes recorded
/// changes of slots whose recording has ended. It searches for such changes at the start, after
/// each recording that this router has ended or may have ended, and from time to time, because
/// another router may have failed to delete the changes of a recording that it has ended.
pub(super) async fn tidy(
    moves: Weak<PgMoves>,
    ended: Arc<EndedRecordings>,
    tracker: Arc<PrimaryTracker>,
) {
    let (mut round, mut searches) = (0_u32, 1_u32);
    loop {
        let Some(open) = moves.upgrade() else { return };
        open.disable_recording().await;
        if round.is_multiple_of(LEFT_EVERY) {
            searches = searches.max(1);
        }
        round = round.wrapping_add(1);
        let (begun, mut rest) = (Instant::now(), TIDY);
        if searches > 0 {
            match delete_left_batch(&open, begun + TIDY).await {
                // After each batch, the task pauses for as long as the batch took, so that the
                // server can do other work.
                Ok(true) => rest = begun.elapsed(),
                Ok(false) => searches -= 1,
                Err(_) => {}
            }
        }
        if rest == TIDY && open.last_step.is_older_than(TIDY) {
            // A router that carries out no moves keeps no sessions for moves. Those of consecutive
            // moves stay open: a new session costs both sides as much as hundreds of writes.
            open.sessions.close_idle();
        }
        drop(open);
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            due = ended.next() => searches = searches.max(due),
            () = tracker.terms().retired() => return,
        }
    }
}

/// Deletes a batch of recorded changes of slots that are not followed, that is, whose changes are
/// no longer recorded. Returns false if there are no more.
async fn delete_left_batch(moves: &PgMoves, deadline: Instant) -> Result<bool, Error> {
    let mut taken = moves.sessions.take(deadline).await?;
    let deleted = recording::delete_left(&mut taken.session);
    let deleted = moves.sessions.in_time(taken.term, deadline, deleted).await;
    let deleted = moves.finish(taken, deleted);
    moves.read(deleted)
}

/// Deletes all recorded changes of slots that are not followed, in batches.
pub(super) async fn delete_left_changes(
    moves: &PgMoves,
    deadline: Instant,
) -> Result<(), MoveChangeError> {
    while delete_left_batch(moves, deadline).await.map_err(rejected)? {
        if deadline <= Instant::now() {
            let holder = "a deletion of old recorded changes".to_owned();
            return Err(MoveChangeError::Busy { holder });
        }
    }
    Ok(())
}
