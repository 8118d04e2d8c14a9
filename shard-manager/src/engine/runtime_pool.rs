//! Home: on which runtime the tasks live that speak with servers.
//!
//! A task that shares a thread with whoever waits for it answers without waking another: at low load that is most of
//! what an answer costs. So the threads that serve clients offer their runtimes, and the tasks spread over them.
//!
//! **Invariant:** there is always a home: the first one, which lives as long as the tasks may.
//! **Not here:** what the tasks do (`lane`, `store`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::Handle;
use tokio::sync::watch;

/// The runtimes that there are, and who wants to know of them.
#[derive(Debug)]
pub struct Homes {
    first: Handle,
    offered: watch::Sender<Arc<[Handle]>>,
    /// How many tasks have asked for one.
    asked: AtomicUsize,
}

/// The home of one task.
#[derive(Debug)]
pub struct Home {
    number: usize,
    first: Handle,
    offered: watch::Receiver<Arc<[Handle]>>,
}

impl Homes {
    /// All tasks live on this runtime, until others are offered.
    pub fn new(first: Handle) -> Self {
        Self { first, offered: watch::Sender::default(), asked: AtomicUsize::new(0) }
    }

    /// A home for one more task.
    pub fn another(&self) -> Home {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        Home { number, first: self.first.clone(), offered: self.offered.subscribe() }
    }

    /// Offers one more runtime. It is to be driven until it is withdrawn.
    pub fn offer(&self, runtime: Handle) {
        self.offered.send_modify(|offered| {
            *offered = offered.iter().cloned().chain([runtime]).collect();
        });
    }

    /// All tasks move back to the first runtime as soon as they have done what they are at.
    pub fn withdraw(&self) {
        self.offered.send_replace(Arc::default());
    }
}

impl Home {
    /// Where the task lives now.
    pub fn runtime(&self) -> Handle {
        let offered = self.offered.borrow();
        let count = offered.len().max(1);
        offered.get(self.number % count).unwrap_or(&self.first).clone()
    }

    /// Returns when the task is to move: to where [`Home::runtime`] says then.
    ///
    /// Cancel safety: nothing is missed.
    pub async fn moved(&mut self) {
        if self.offered.changed().await.is_err() {
            std::future::pending().await
        }
    }
}
