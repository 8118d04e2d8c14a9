//! Trim waits: short waits for replicas, after which recorded changes can be deleted.
//!
//! Changes are deleted once a majority of the receiving side has them. On a busy shard replicas
//! never have the newest position, so a run waits for them from time to time. While rows are
//! copied, changes are deleted at these times only: each round has a new position.
//!
//! **Not here:** the request that deletes the changes (`moves::next_step` decides it).

use std::time::{Duration, Instant};

use moves::move_row::CopyCursor;
use moves::observation::MoveProgress;

use super::move_sides::{MoveSides, SeenMove};

/// Interval of the waits.
const INTERVAL: Duration = Duration::from_secs(1);
/// Longest wait.
const WAIT_MAX: Duration = Duration::from_millis(100);

/// Waits of one run.
pub(super) struct TrimWaits {
    /// Time from which the interval counts while rows are copied.
    begun: Instant,
    last: Option<Instant>,
}

impl Default for TrimWaits {
    fn default() -> Self {
        Self { begun: Instant::now(), last: None }
    }
}

impl TrimWaits {
    /// Waits briefly for the replicas of the side that receives, if recorded changes can be deleted
    /// then.
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
