//! Trim waits: short waits for replicas, after which recorded changes can be deleted.
//!
//! Changes are deleted once a majority of the receiving side has them. On a busy shard replicas
//! never have the newest position, so a run waits for them from time to time.
//!
//! **Not here:** the request that deletes the changes (`moves::mover` decides it).

use std::time::{Duration, Instant};

use moves::move_row::CopyCursor;
use moves::observation::MoveProgress;

use super::move_sides::{MoveSides, SeenMove};

/// Interval of the waits.
const INTERVAL: Duration = Duration::from_secs(1);
/// Longest wait.
const WAIT_MAX: Duration = Duration::from_millis(100);

/// Waits of one run.
#[derive(Default)]
pub(super) struct TrimWaits {
    last: Option<Instant>,
}

impl TrimWaits {
    /// Waits a little for the replicas of the side that receives, if recorded changes can be
    /// deleted then.
    pub(super) async fn await_confirmation(
        &mut self,
        sides: &MoveSides,
        seen: &mut SeenMove,
        progress: &MoveProgress,
    ) {
        let leg = seen.leg;
        let side = if seen.is_committed() { leg.source() } else { leg.target() };
        let shard = &mut seen.shards[side.index()];
        let Some(row) = &shard.row else { return };
        let is_due = row.cursor == CopyCursor::Whole
            && progress.trimmed != Some(row.applied.round)
            && self.last.is_none_or(|last| last.elapsed() >= INTERVAL);
        if !is_due || shard.is_confirmed || progress.is_fenced {
            return;
        }
        let until = Instant::now() + WAIT_MAX;
        shard.is_confirmed = sides.majority(side).await_confirmation(shard.position, until).await;
        self.last = Some(Instant::now());
    }
}
