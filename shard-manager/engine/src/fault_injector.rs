//! Fault injector: pauses, delays or cuts off a worker between two pieces of work, for tests and
//! for teaching.
//!
//! A worker is a thread or a task that works for one node.
//!
//! **Invariant:** when [`FaultInjector::set`] returns, every piece of work that began under the
//! earlier setting has ended.
//! **Not here:** the work itself (`lane`, `sqlite`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Interval at which a task checks whether it may continue.
const TASK_LOOK: Duration = Duration::from_millis(2);

/// Mode of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodeMode {
    /// The node works.
    #[default]
    Running,
    /// The node can be reached but does nothing.
    Paused,
    /// The node cannot be reached.
    Cut,
}

impl NodeMode {
    /// Every mode, for messages.
    pub const ALL: [Self; 3] = [Self::Running, Self::Paused, Self::Cut];

    /// Returns the name in API responses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Cut => "cut",
        }
    }

    /// Returns the mode of this name.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }
}

/// Fault of a node. The default is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeFault {
    /// Mode of the node.
    pub mode: NodeMode,
    /// Delay before each piece of work.
    pub delay: Duration,
}

/// Connects the code that sets a fault with the one worker that obeys it.
#[derive(Debug, Default)]
pub struct FaultInjector {
    /// True if a fault is set. While no fault is set, a worker reads no other setting.
    engaged: AtomicBool,
    fault: Mutex<NodeFault>,
    changed: Condvar,
    working: Mutex<bool>,
    rests: Condvar,
}

/// Permit for one piece of work.
#[derive(Debug)]
pub struct WorkPermit<'i>(&'i FaultInjector);

impl Drop for WorkPermit<'_> {
    fn drop(&mut self) {
        *locked(&self.0.working) = false;
        self.0.rests.notify_all();
    }
}

impl FaultInjector {
    /// Longest delay that may be set.
    pub const DELAY_MAX: Duration = Duration::from_secs(60);

    /// Returns the fault that is set.
    #[inline]
    pub fn fault(&self) -> NodeFault {
        if self.engaged.load(Ordering::Acquire) {
            *locked(&self.fault)
        } else {
            NodeFault::default()
        }
    }

    /// Sets a fault, and waits until the current work has ended. Blocks.
    pub fn set(&self, fault: NodeFault) {
        {
            let mut current = locked(&self.fault);
            *current = fault;
            self.engaged.store(fault != NodeFault::default(), Ordering::Release);
            self.changed.notify_all();
        }
        drop(self.rests.wait_while(locked(&self.working), |working| *working));
    }

    /// Returns a worker's permit for one piece of work.
    ///
    /// # Errors
    /// The fault, if its mode is not [`NodeMode::Running`].
    #[inline]
    pub fn enter(&self) -> Result<WorkPermit<'_>, NodeFault> {
        let mut working = locked(&self.working);
        // Read under the lock: `set` waits for the lock, so no work begins under an old setting.
        let fault = self.fault();
        if fault.mode != NodeMode::Running {
            return Err(fault);
        }
        *working = true;
        Ok(WorkPermit(self))
    }

    /// Waits until the mode allows work and the delay has passed, and returns the permit. Blocks.
    pub fn wait(&self) -> WorkPermit<'_> {
        let mut delayed = false;
        loop {
            let fault = self.fault();
            if fault.mode != NodeMode::Running {
                let stopped = |fault: &mut NodeFault| fault.mode != NodeMode::Running;
                drop(self.changed.wait_while(locked(&self.fault), stopped));
            } else if !fault.delay.is_zero() && !delayed {
                // Ends early if another fault is set.
                drop(self.changed.wait_timeout(locked(&self.fault), fault.delay));
                delayed = true;
            } else if let Ok(permit) = self.enter() {
                return permit;
            }
        }
    }

    /// Waits like [`FaultInjector::wait`], but asynchronously, so that other tasks of the thread
    /// continue.
    pub async fn wait_on_task(&self) -> WorkPermit<'_> {
        let mut delayed_since = None;
        loop {
            let fault = self.fault();
            if fault.mode == NodeMode::Running {
                let since = *delayed_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= fault.delay
                    && let Ok(permit) = self.enter()
                {
                    return permit;
                }
            }
            tokio::time::sleep(TASK_LOOK).await;
        }
    }
}

/// Locks a mutex, even if it is poisoned: a worker that panics cannot leave the state behind these
/// locks inconsistent.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
