//! Trim waits: short waits until replicas have confirmed the copied changes, so that the sending
//! side can delete its record of these changes (trim it).
//!
//! Recorded changes are deleted once a majority of the receiving side's nodes has them. On a busy
//! shard the replicas always lag behind the newest position, so a run waits for them at intervals.
//! While rows are copied, changes are deleted only after such a wait, because each round has a new
//! position.
//!
//! **Not here:** the request that deletes the changes (`moves::next_step` decides it).

use std::time::{Duration, Instant};

use moves::move_row::CopyCursor;
use moves::observation::MoveProgress;

use super::move_sides::{MoveSides, SeenMove};

/// Shortest interval between two waits.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time limit of one wait.
const WAIT_MAX: Duration = Duration::from_millis(100);

/// Waits of the run of one move.
pub(super) struct TrimWaits {
    /// Time at which the run began; while rows are copied, the first wait comes one interval later.
    begun: Instant,
    last: Option<Instant>,
}

impl Default for TrimWaits {
    fn default() -> Self {
        Self { begun: Instant::now(), last: None }
    }
}

impl TrimWaits {
    /// Waits briefly for the replicas of the receiving side, if recorded changes can be deleted
    /// afterwards.
    pub(super) async fn await_confirmation(
        &mut self,
        sides: &MoveSides,
        seen: &mut SeenMove,
        progress: &mut MoveProgress,
    ) {
        let leg = seen.leg;
        let side = if seen.is_committed() { leg.source() } else { leg.target() };
        let shard = &mut seen.shards[side.index()];
        let Some(row) = &shard.row else { return };
        let (round, is_copying) = (row.applied.round, row.cursor != CopyCursor::Whole);
        let is_new = progress.trimmed != Some(round) && !row.applied.is_empty();
        if !is_new || progress.is_fenced {
            return;
        }
        let last = if is_copying { self.last.or(Some(self.begun)) } else { self.last };
        if last.is_some_and(|last| last.elapsed() < INTERVAL) {
            if is_copying {
                progress.trimmed = Some(round);
            }
            return;
        }
        if !shard.is_confirmed {
            let until = Instant::now() + WAIT_MAX;
            let majority = sides.majority(side);
            shard.is_confirmed = majority.await_confirmation(shard.position, until).await;
        }
        self.last = Some(Instant::now());
    }
}
