//! Pulse: whether a lane gets on with its writes, told by what it did last.
//!
//! Its loop says when it takes up something and when that is done; whoever asks compares that with the clock. A lane with
//! nothing to do is sent a probe, which takes the way of a write and changes nothing.
//!
//! **Not here:** what the loop does (`worker`), what is told of the shard (`shard`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{Lane, Message, State};
use crate::error::Error;
use crate::reason::Reason;

/// A lane that has been at the same piece of work for longer stands still. A little less than a probe may take, so that
/// one probe finds it out.
const STANDSTILL: Duration = Duration::from_millis(1_800);
/// How long a probe is waited for at most.
const PROBE_MAX: Duration = Duration::from_secs(2);
/// A lane that has been at it for less is not waited for: it has just moved.
const MOVED_LATELY: Duration = Duration::from_millis(500);
/// How long a write that failed in the storage counts, if none has succeeded since.
const FAILED_LATELY: Duration = Duration::from_secs(10);
/// How often it is looked whether a busy lane has moved.
const LOOK: Duration = Duration::from_millis(20);

/// What the loop of a lane tells of its work.
#[derive(Debug)]
pub(super) struct Pulse {
    epoch: Instant,
    /// Milliseconds since `epoch` at which it took up what it is at; 0: it is at nothing.
    busy_since: AtomicU64,
    /// Milliseconds since `epoch` at which a batch failed in the storage; 0: the last one did not.
    failed_at: AtomicU64,
    /// Whether a probe is on its way.
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
    /// Told when the loop takes up something, and when it has got on with it.
    pub(super) fn begin(&self) {
        self.busy_since.store(self.millis(), Ordering::Relaxed);
    }

    /// Told when there is nothing to do.
    pub(super) fn rest(&self) {
        self.busy_since.store(0, Ordering::Relaxed);
    }

    /// Told after a batch became durable.
    pub(super) fn succeeded(&self) {
        self.begin();
        if self.failed_at.load(Ordering::Relaxed) != 0 {
            self.failed_at.store(0, Ordering::Relaxed);
        }
    }

    /// Told after a batch failed as a whole.
    pub(super) fn failed(&self, error: &Error) {
        if matches!(error, Error::StorageFull { .. } | Error::ShardUnavailable { .. }) {
            self.failed_at.store(self.millis(), Ordering::Relaxed);
        }
    }

    /// How many of the operations that wait are none: a probe waits as they do.
    pub(super) fn probes(&self) -> usize {
        usize::from(self.is_probed.load(Ordering::Acquire))
    }

    /// For how long the loop has been at the same piece of work; `None` if it is at nothing.
    fn busy_for(&self) -> Option<Duration> {
        let since = self.busy_since.load(Ordering::Relaxed);
        (since != 0).then(|| self.since(since))
    }

    fn stands_still(&self) -> bool {
        self.busy_for().is_some_and(|time| time >= STANDSTILL)
    }

    fn has_failed(&self) -> bool {
        let at = self.failed_at.load(Ordering::Relaxed);
        at != 0 && self.since(at) < FAILED_LATELY
    }

    fn since(&self, millis: u64) -> Duration {
        Duration::from_millis(self.millis().saturating_sub(millis))
    }

    fn millis(&self) -> u64 {
        // Never 0, which means that there is nothing.
        self.epoch.elapsed().as_millis() as u64 + 1
    }
}

impl Lane {
    /// Why it does not get on with writes, as far as is known without asking it.
    pub fn standstill(&self) -> Option<Reason> {
        let pulse = &self.state.pulse;
        if !self.is_up() {
            Some(Reason::WriterEnded)
        } else if self.waits() {
            Some(Reason::NoPrimary)
        } else if pulse.stands_still() {
            Some(Reason::WritesStalled)
        } else if pulse.has_failed() {
            Some(Reason::WritesFail)
        } else {
            None
        }
    }

    /// Whether the writes that wait have waited for long, and none was finished meanwhile.
    pub(super) fn is_stuck(&self) -> bool {
        self.state.pulse.stands_still()
    }

    /// Finds out whether it gets on, at most until `deadline`: what [`Lane::standstill`] tells afterwards is true now.
    pub async fn probe(&self, deadline: Instant) {
        let deadline = deadline.min(Instant::now() + PROBE_MAX);
        let pulse = &self.state.pulse;
        match pulse.busy_for() {
            None if !pulse.is_probed.swap(true, Ordering::AcqRel) => {
                let (reply, answer) = oneshot::channel();
                let probe = Probe { state: Arc::clone(&self.state), _reply: reply };
                // One that a full queue does not take is dropped: that lane has moved a moment ago, or is at something.
                let _ = self.queue.try_send(Message::Probe(probe));
                // That it comes too late says nothing itself: the lane has been at it all the time then.
                let _ = tokio::time::timeout_at(deadline.into(), answer).await;
            }
            Some(time) if time < MOVED_LATELY || time >= STANDSTILL => {}
            None | Some(_) => {
                let since = pulse.busy_since.load(Ordering::Relaxed);
                let moved = || pulse.busy_since.load(Ordering::Relaxed) != since;
                while !moved() && !pulse.stands_still() && Instant::now() < deadline {
                    tokio::time::sleep(LOOK).await;
                }
            }
        }
    }
}

/// A message that takes the way of a write and changes nothing. There is one at a time; when its turn has come it is
/// dropped, and whoever sent it is told by that.
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
    fn a_lane_at_nothing_does_not_stand_still() {
        let pulse = Pulse::default();
        assert!(pulse.busy_for().is_none());
        pulse.begin();
        assert!(pulse.busy_for().is_some());
        pulse.rest();
        assert!(!pulse.stands_still() && pulse.busy_for().is_none());
    }
}
