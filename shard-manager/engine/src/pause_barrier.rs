//! Pause barrier: stops several workers at the same time, each between two pieces of its work.
//!
//! Each worker passes its barrier before each piece of work. To get positions that are consistent
//! with each other, a backup closes all barriers, waits until the current work has ended, reads the
//! positions and opens the barriers again. Unlike a fault injector, a barrier is closed for
//! milliseconds only, and opens when its guard is dropped.
//!
//! **Invariant:** once [`Closed::wait_until`] has returned true, the worker of its barrier does no
//! work until the [`Closed`] is dropped.
//! **Not here:** the work (`lane`), the reads while the workers are stopped (the backup of files).

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Barrier that one worker passes before each piece of work.
#[derive(Debug, Default)]
pub struct PauseBarrier {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    closed: usize,
    working: bool,
}

/// Permit for one piece of work.
#[derive(Debug)]
pub struct Pass<'b>(&'b PauseBarrier);

/// Guard that keeps a barrier closed until it is dropped.
#[derive(Debug)]
pub struct Closed<'b>(&'b PauseBarrier);

impl PauseBarrier {
    /// Waits until the barrier is open, and returns the worker's permit. Blocks.
    #[inline]
    pub fn enter(&self) -> Pass<'_> {
        let closed = |state: &mut State| state.closed > 0;
        let waited = self.changed.wait_while(self.locked(), closed);
        waited.unwrap_or_else(PoisonError::into_inner).working = true;
        Pass(self)
    }

    /// Closes the barrier. The current work continues: see [`Closed::wait_until`].
    pub fn close(&self) -> Closed<'_> {
        self.locked().closed += 1;
        Closed(self)
    }

    /// Returns true if the barrier is closed.
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.locked().closed > 0
    }

    /// Locks the state. A poisoned lock is used as well, because a panic cannot leave the state
    /// inconsistent.
    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Closed<'_> {
    /// Waits until the current work has ended. Returns false if it has not ended by `deadline`.
    pub fn wait_until(&self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let working = |state: &mut State| state.working;
        let waited = self.0.changed.wait_timeout_while(self.0.locked(), left, working);
        !waited.unwrap_or_else(PoisonError::into_inner).0.working
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let mut state = self.0.locked();
        state.working = false;
        if state.closed > 0 {
            self.0.changed.notify_all();
        }
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.locked().closed -= 1;
        self.0.changed.notify_all();
    }
}
