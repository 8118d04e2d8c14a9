//! Barrier: holds workers between two pieces of work, several of them at the same instant.
//!
//! Each worker passes a gate before each piece of work. Whoever wants an instant at which nothing runs closes all
//! gates, waits until what runs has ended, looks, and lets go. Unlike a brake it is never left closed: it is for
//! milliseconds, and opens by itself when it is dropped.
//!
//! **Invariant:** while a [`Closed`] that has waited lives, no work of its gate runs.
//! **Not here:** what the work is (`lane`), what is looked at meanwhile (`backup`).

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What one worker passes before each piece of work.
#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    closed: usize,
    working: bool,
}

/// The right to do one piece of work.
#[derive(Debug)]
pub struct Pass<'g>(&'g Gate);

/// A gate that lets nobody in until this is dropped.
#[derive(Debug)]
pub struct Closed<'g>(&'g Gate);

impl Gate {
    /// The worker's side: waits until the gate is open.
    pub fn enter(&self) -> Pass<'_> {
        let closed = |state: &mut State| state.closed > 0;
        let waited = self.changed.wait_while(self.locked(), closed);
        waited.unwrap_or_else(PoisonError::into_inner).working = true;
        Pass(self)
    }

    /// Lets nobody in from now on. What runs goes on: see [`Closed::wait_until`].
    pub fn close(&self) -> Closed<'_> {
        self.locked().closed += 1;
        Closed(self)
    }

    /// Whether somebody keeps it closed now.
    pub fn is_closed(&self) -> bool {
        self.locked().closed > 0
    }

    /// Nothing is left half-done behind this lock.
    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Closed<'_> {
    /// Waits until what runs has ended, and tells whether it has before `deadline`.
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
