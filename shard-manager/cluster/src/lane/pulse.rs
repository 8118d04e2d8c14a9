//! Pulse: detects whether a lane makes progress with its writes.
//!
//! The lane's loop records when it starts and finishes a piece of work; readers compare that with
//! the clock. An idle lane is checked with a probe, a message that is processed in its turn like a
//! write and changes nothing.
//!
//! **Not here:** the work of the loop (`worker`), the health of the shard (`shard`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use model::error::Error;
use model::reason::Reason;
use tokio::sync::oneshot;

use super::{Lane, Message, State};

/// Duration of one piece of work after which the lane counts as stalled. It is slightly shorter
/// than `PROBE_MAX`, so that a single probe detects a stall.
const STALL_AFTER: Duration = Duration::from_millis(1_800);
/// Longest wait for a probe.
const PROBE_MAX: Duration = Duration::from_secs(2);
/// Duration of the current piece of work below which a probe does not wait for the lane, because
/// the lane has just made progress.
const MOVED_RECENTLY: Duration = Duration::from_millis(500);
/// Time for which a write that failed in the storage makes the lane count as failing, unless a
/// later write succeeds.
const FAILED_RECENTLY: Duration = Duration::from_secs(10);
/// Interval at which a busy lane is checked for progress.
const LOOK: Duration = Duration::from_millis(20);

/// Record of the work of a lane's loop.
#[derive(Debug)]
pub(super) struct Pulse {
    epoch: Instant,
    /// Milliseconds since `epoch` at which the current piece of work began; 0 if the loop is idle.
    busy_since: AtomicU64,
    /// Milliseconds since `epoch` at which a batch failed in the storage; 0 if the last one
    /// succeeded.
    failed_at: AtomicU64,
    /// True while a probe is queued.
    is_probed: AtomicBool,
}

impl Default for Pulse {
    fn default() -> Self {
        let (busy_since, failed_at) = (AtomicU64::new(0), AtomicU64::new(0));
        let is_probed = AtomicBool::new(false);
        Self { epoch: Instant::now(), busy_since, failed_at, is_probed }
    }
}

impl Pulse {
    /// Records that the loop starts a piece of work, or has made progress with it.
    pub(super) fn begin(&self) {
        self.busy_since.store(self.millis(), Ordering::Relaxed);
    }

    /// Records that the loop is idle.
    pub(super) fn rest(&self) {
        self.busy_since.store(0, Ordering::Relaxed);
    }

    /// Records that a batch became durable.
    pub(super) fn succeeded(&self) {
        self.begin();
        if self.failed_at.load(Ordering::Relaxed) != 0 {
            self.failed_at.store(0, Ordering::Relaxed);
        }
    }

    /// Records that a batch failed as a whole.
    pub(super) fn failed(&self, error: &Error) {
        if matches!(error, Error::StorageFull { .. } | Error::ShardUnavailable { .. }) {
            self.failed_at.store(self.millis(), Ordering::Relaxed);
        }
    }

    /// Returns the number of queued messages that are probes: 0 or 1.
    pub(super) fn probes(&self) -> usize {
        usize::from(self.is_probed.load(Ordering::Acquire))
    }

    /// Returns the time that the loop has spent on the current piece of work; `None` if the loop is
    /// idle.
    fn busy_for(&self) -> Option<Duration> {
        let since = self.busy_since.load(Ordering::Relaxed);
        (since != 0).then(|| self.since(since))
    }

    fn is_stalled(&self) -> bool {
        self.busy_for().is_some_and(|time| time >= STALL_AFTER)
    }

    fn has_failed(&self) -> bool {
        let at = self.failed_at.load(Ordering::Relaxed);
        at != 0 && self.since(at) < FAILED_RECENTLY
    }

    fn since(&self, millis: u64) -> Duration {
        Duration::from_millis(self.millis().saturating_sub(millis))
    }

    fn millis(&self) -> u64 {
        // Never 0, because 0 means that the loop is idle, or that no batch has failed.
        self.epoch.elapsed().as_millis() as u64 + 1
    }
}

impl Lane {
    /// Returns the reason why the lane makes no progress, as far as it is recorded; `None` if no
    /// reason is. Sends no probe.
    pub fn standstill(&self) -> Option<Reason> {
        let pulse = &self.state.pulse;
        if !self.is_up() {
            Some(Reason::WriterEnded)
        } else if self.waits() {
            Some(Reason::NoPrimary)
        } else if pulse.is_stalled() {
            Some(Reason::WritesStalled)
        } else if pulse.has_failed() {
            Some(Reason::WritesFail)
        } else {
            None
        }
    }

    /// Returns true if the loop has worked on one piece for so long that the lane counts as
    /// stalled.
    pub(super) fn is_stuck(&self) -> bool {
        self.state.pulse.is_stalled()
    }

    /// Probes the lane, at most until `deadline`, so that [`Lane::standstill`] is up to date
    /// afterwards. Returns false if the deadline passed before the state of the lane was known.
    pub async fn probe(&self, deadline: Instant) -> bool {
        let began = Instant::now();
        let deadline = deadline.min(began + PROBE_MAX);
        let pulse = &self.state.pulse;
        match pulse.busy_for() {
            None if !pulse.is_probed.swap(true, Ordering::AcqRel) => {
                let (reply, answer) = oneshot::channel();
                let probe = Probe { state: Arc::clone(&self.state), _reply: reply };
                // A full queue drops the probe, which ends the wait below at once: such a lane has
                // just made progress, or is busy.
                let _ = self.queue.try_send(Message::Probe(probe), 0);
                // A late probe is not recorded: while it waited, the lane was busy with one piece
                // of work, which is recorded.
                let answered = tokio::time::timeout_at(deadline.into(), answer).await;
                answered.is_ok() || began.elapsed() >= STALL_AFTER
            }
            Some(time) if time < MOVED_RECENTLY || time >= STALL_AFTER => true,
            None | Some(_) => {
                let since = pulse.busy_since.load(Ordering::Relaxed);
                // If an idle lane already has the probe of another request, it makes progress when
                // that probe is processed.
                let moved = || {
                    pulse.busy_since.load(Ordering::Relaxed) != since
                        || (since == 0 && !pulse.is_probed.load(Ordering::Acquire))
                };
                while !moved() && !pulse.is_stalled() && Instant::now() < deadline {
                    let left = deadline.saturating_duration_since(Instant::now());
                    tokio::time::sleep(LOOK.min(left)).await;
                }
                moved() || began.elapsed() >= STALL_AFTER
            }
        }
    }
}

/// Probe that waits its turn like a write and changes nothing. A lane has at most one at a time.
/// The loop drops the probe at its turn, which notifies the sender.
pub(super) struct Probe {
    state: Arc<State>,
    _reply: oneshot::Sender<()>,
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.state.pulse.is_probed.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_failed_in_the_storage_counts_until_one_succeeds() {
        let pulse = Pulse::default();
        pulse.failed(&Error::Internal);
        assert!(!pulse.has_failed(), "a defect is not the storage's");
        pulse.failed(&Error::StorageFull { shard: "shard1".into() });
        assert!(pulse.has_failed());
        pulse.succeeded();
        assert!(!pulse.has_failed());
    }

    #[test]
    fn an_idle_lane_does_not_stand_still() {
        let pulse = Pulse::default();
        assert!(pulse.busy_for().is_none());
        pulse.begin();
        assert!(pulse.busy_for().is_some());
        pulse.rest();
        assert!(!pulse.is_stalled() && pulse.busy_for().is_none());
    }
}
