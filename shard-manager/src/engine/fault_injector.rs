//! Brake: holds a worker, a thread or a task, back between two pieces of work. For tests, and for teaching what lag does.
//!
//! **Invariant:** when [`Brake::set`] returns, no piece of work runs that began under the setting before.
//! **Not here:** what the work is (`lane`, `store`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a task looks whether it may go on.
const TASK_LOOK: Duration = Duration::from_millis(2);

/// Whether a worker may go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gear {
    /// As it does without a brake.
    #[default]
    Running,
    /// It is there, but does nothing.
    Paused,
    /// As if nobody could reach it.
    Cut,
}

impl Gear {
    /// Every gear, for messages.
    pub const ALL: [Self; 3] = [Self::Running, Self::Paused, Self::Cut];

    /// The name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Cut => "cut",
        }
    }

    /// The gear of this name.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|gear| gear.name() == name)
    }
}

/// What a brake is set to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hold {
    /// Whether the worker may go on.
    pub gear: Gear,
    /// How much later than it could each piece of work is done.
    pub delay: Duration,
}

/// A brake between those who set it and the one worker that obeys it.
#[derive(Debug, Default)]
pub struct Brake {
    /// Whether the hold is another than the default: the one thing a worker looks at while nobody brakes.
    engaged: AtomicBool,
    hold: Mutex<Hold>,
    changed: Condvar,
    working: Mutex<bool>,
    rests: Condvar,
}

/// The right to do one piece of work.
#[derive(Debug)]
pub struct Turn<'b>(&'b Brake);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *locked(&self.0.working) = false;
        self.0.rests.notify_all();
    }
}

impl Brake {
    /// Longest delay.
    pub const DELAY_MAX: Duration = Duration::from_secs(60);

    /// What it is set to.
    pub fn hold(&self) -> Hold {
        if self.engaged.load(Ordering::Acquire) { *locked(&self.hold) } else { Hold::default() }
    }

    /// Sets it, and waits until the work that runs has ended. Blocks.
    pub fn set(&self, hold: Hold) {
        {
            let mut held = locked(&self.hold);
            *held = hold;
            self.engaged.store(hold != Hold::default(), Ordering::Release);
            self.changed.notify_all();
        }
        drop(self.rests.wait_while(locked(&self.working), |working| *working));
    }

    /// The worker's side: the right to do one piece of work, or the hold that forbids it now.
    ///
    /// # Errors
    /// The hold, if its gear is not [`Gear::Running`].
    pub fn enter(&self) -> Result<Turn<'_>, Hold> {
        let mut working = locked(&self.working);
        // Looked at under the lock: whoever set it waits for the lock, so work cannot begin behind his back.
        let hold = self.hold();
        if hold.gear != Gear::Running {
            return Err(hold);
        }
        *working = true;
        Ok(Turn(self))
    }

    /// As [`Brake::enter`], waiting until it is allowed, and before that for the delay.
    pub fn wait(&self) -> Turn<'_> {
        let mut delayed = false;
        loop {
            let hold = self.hold();
            if hold.gear != Gear::Running {
                let braked = |hold: &mut Hold| hold.gear != Gear::Running;
                drop(self.changed.wait_while(locked(&self.hold), braked));
            } else if !hold.delay.is_zero() && !delayed {
                // Ends early when the brake is set anew.
                drop(self.changed.wait_timeout(locked(&self.hold), hold.delay));
                delayed = true;
            } else if let Ok(turn) = self.enter() {
                return turn;
            }
        }
    }
}

impl Brake {
    /// As [`Brake::wait`], for a task: its thread goes on with others meanwhile.
    pub async fn wait_on_task(&self) -> Turn<'_> {
        let mut delayed_since = None;
        loop {
            let hold = self.hold();
            if hold.gear == Gear::Running {
                let since = *delayed_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= hold.delay
                    && let Ok(turn) = self.enter()
                {
                    return turn;
                }
            }
            tokio::time::sleep(TASK_LOOK).await;
        }
    }
}

/// A worker that panicked leaves nothing half-done behind these locks.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
