//! Position samples: positions that a primary has reached, with their times.
//!
//! The age of a replica's data is the time since the primary was at the last remembered position
//! that the replica has replayed.
//!
//! **Not here:** querying the positions (`replica`).

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Number of remembered positions.
const SAMPLES_MAX: usize = 512;
/// Minimum interval between two remembered positions.
const SAMPLES_APART: Duration = Duration::from_millis(20);

/// Remembered positions of a primary, oldest first.
#[derive(Default)]
pub(super) struct PositionSamples(Mutex<VecDeque<(u64, Instant)>>);

impl PositionSamples {
    /// Forgets all positions.
    pub(super) fn clear(&self) {
        self.samples().clear();
    }

    /// Records the end of the primary's log, and the time of the query.
    pub(super) fn record(&self, written: u64, asked_at: Instant) {
        let mut samples = self.samples();
        if let Some((known, at)) = samples.back_mut()
            && (*known == written || asked_at.duration_since(*at) < SAMPLES_APART)
        {
            if *known == written {
                *at = asked_at;
            }
            return;
        }
        if samples.len() == SAMPLES_MAX {
            samples.pop_front();
        }
        samples.push_back((written, asked_at));
    }

    /// Returns the last known time at which the end of the primary's log was not beyond this
    /// position.
    pub(super) fn had_all_at(&self, position: u64) -> Option<Instant> {
        let samples = self.samples();
        samples.iter().rev().find(|(written, _)| *written <= position).map(|(_, at)| *at)
    }

    fn samples(&self) -> MutexGuard<'_, VecDeque<(u64, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
