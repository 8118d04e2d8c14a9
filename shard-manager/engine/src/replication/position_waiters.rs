//! Position waiters: the tasks that wait until replicas reach a position, and the appliers that
//! these tasks wake. An applier is the thread or task that applies the primary's changes to one
//! replica.
//!
//! **Invariant:** a task subscribes before it checks its condition, so no change is missed.
//! **Not here:** the positions themselves (`replica_positions`).

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Tasks that wait until replicas reach a position, and the appliers of these replicas.
#[derive(Debug)]
pub struct PositionWaiters {
    appliers: Box<[Applier]>,
    /// Notified when a replica advances.
    advanced: Notify,
    /// Notified when a replica goes down.
    down: Notify,
    /// Number of writes that wait until replicas have made them durable.
    confirmations: AtomicUsize,
    /// Number of reads and writes that wait for a replica to advance.
    waiting: AtomicUsize,
}

/// Thread or task that applies the primary's changes to one replica.
#[derive(Debug)]
struct Applier {
    waker: OnceLock<Waker>,
    /// True while the applier pauses for a moment so that several commits gather, which it then
    /// applies together. A commit does not wake it during this time.
    gathering: AtomicBool,
}

impl Applier {
    fn wake(&self) {
        if let Some(Waker(wake)) = self.waker.get() {
            wake();
        }
    }
}

/// Function that wakes an applier.
struct Waker(Box<dyn Fn() + Send + Sync>);

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waker")
    }
}

/// Guard of one wait, which ends when the guard is dropped.
#[derive(Debug)]
pub struct Waiting<'w>(&'w AtomicUsize);

impl<'w> Waiting<'w> {
    fn begin(count: &'w AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl PositionWaiters {
    pub(super) fn new(replicas: usize) -> Self {
        let applier = |_| Applier { waker: OnceLock::new(), gathering: AtomicBool::new(false) };
        Self {
            appliers: (0..replicas).map(applier).collect(),
            advanced: Notify::new(),
            down: Notify::new(),
            confirmations: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Registers the function that wakes the applier of a replica after a new commit or for a new
    /// waiter.
    pub fn set_waker(&self, replica: usize, wake: impl Fn() + Send + Sync + 'static) {
        // Set once, by the one thread or task that a replica has.
        let _ = self.appliers[replica].waker.set(Waker(Box::new(wake)));
    }

    /// Records whether an applier pauses to gather several commits. During this time it is woken by
    /// waiting tasks, but not by commits.
    pub fn set_gathering(&self, replica: usize, gathering: bool) {
        self.appliers[replica].gathering.store(gathering, Ordering::SeqCst);
    }

    /// Returns true if a read or a write waits for a replica to advance.
    #[inline]
    pub fn has_waiters(&self) -> bool {
        self.awaits_confirmations() || self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Returns true if a write waits until replicas have made it durable.
    #[inline]
    pub fn awaits_confirmations(&self) -> bool {
        self.confirmations.load(Ordering::SeqCst) > 0
    }

    /// Makes the appliers sync the changes that they apply to disk, until the guard is dropped.
    pub fn request_confirmations(&self) -> Waiting<'_> {
        let waiting = Waiting::begin(&self.confirmations);
        self.wake_all();
        waiting
    }

    /// Waits until `check` returns a value, at most until `deadline`. During this time, appliers
    /// apply each commit at once instead of gathering several.
    pub async fn until<T>(&self, deadline: Instant, check: impl Fn() -> Option<T>) -> Option<T> {
        let _waiting = Waiting::begin(&self.waiting);
        self.wake_all();
        loop {
            let advanced = self.advanced.notified();
            tokio::pin!(advanced);
            // The subscription comes before the check, so that a change after the check is not
            // missed.
            advanced.as_mut().enable();
            if let Some(found) = check() {
                return Some(found);
            }
            if tokio::time::timeout_at(deadline.into(), advanced).await.is_err() {
                return check();
            }
        }
    }

    /// Returns a future that ends when a replica goes down after this call.
    pub(super) fn down(&self) -> Notified<'_> {
        self.down.notified()
    }

    pub(super) fn notify_advanced(&self) {
        self.advanced.notify_waiters();
    }

    pub(super) fn notify_down(&self) {
        self.down.notify_waiters();
    }

    /// Wakes all appliers.
    pub(super) fn wake_all(&self) {
        self.appliers.iter().for_each(Applier::wake);
    }

    /// Wakes the appliers that are not pausing to gather commits.
    pub(super) fn wake_idle(&self) {
        let idle = |applier: &&Applier| !applier.gathering.load(Ordering::SeqCst);
        self.appliers.iter().filter(idle).for_each(Applier::wake);
    }
}
