//! Runtime pool: the async runtimes of the tasks that communicate with database servers.
//!
//! A request waits for a task that communicates with a server. If that task runs on the same thread
//! as the request, its reply need not wake another thread. At low load, waking a thread is most of
//! the cost of a reply. The threads that serve clients therefore add their runtimes to this pool,
//! and the tasks are distributed over these runtimes.
//!
//! **Invariant:** the pool always has a runtime, because the first one is never removed and
//! outlives all tasks.
//! **Not here:** the work of the tasks (`lane`, `postgres`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::Handle;
use tokio::sync::watch;

/// Runtimes over which tasks are distributed.
#[derive(Debug)]
pub struct RuntimePool {
    first: Handle,
    added: watch::Sender<Arc<[Handle]>>,
    /// Number of handles that were created.
    handles: AtomicUsize,
}

/// Assignment of one task to a runtime of the pool. The assignment changes when runtimes are added
/// or removed.
#[derive(Debug)]
pub struct RuntimeHandle {
    number: usize,
    first: Handle,
    added: watch::Receiver<Arc<[Handle]>>,
}

impl RuntimePool {
    /// Creates a pool in which all tasks run on this runtime until others are added.
    pub fn new(first: Handle) -> Self {
        Self { first, added: watch::Sender::default(), handles: AtomicUsize::new(0) }
    }

    /// Returns a handle for one more task.
    #[inline]
    pub fn handle(&self) -> RuntimeHandle {
        let number = self.handles.fetch_add(1, Ordering::Relaxed);
        RuntimeHandle { number, first: self.first.clone(), added: self.added.subscribe() }
    }

    /// Adds a runtime. Its thread must keep running the runtime until
    /// [`RuntimePool::remove_runtimes`] is called.
    pub fn add_runtime(&self, runtime: Handle) {
        self.added.send_modify(|added| {
            *added = added.iter().cloned().chain([runtime]).collect();
        });
    }

    /// Removes all runtimes except the first one. Tasks move back to the first runtime as soon as
    /// their current work ends.
    pub fn remove_runtimes(&self) {
        self.added.send_replace(Arc::default());
    }
}

impl RuntimeHandle {
    /// Returns the runtime on which the task is to run now.
    #[inline]
    pub fn runtime(&self) -> Handle {
        let added = self.added.borrow();
        let count = added.len().max(1);
        added.get(self.number % count).unwrap_or(&self.first).clone()
    }

    /// Waits until runtimes are added or removed. The task should then move to the runtime that
    /// [`RuntimeHandle::runtime`] returns.
    ///
    /// Cancel safety: a change is not missed if the future is dropped and created again.
    pub async fn moved(&mut self) {
        if self.added.changed().await.is_err() {
            std::future::pending().await
        }
    }
}
