//! Lab runs: lab experiments on temporary clusters, one at a time, on a thread that serves no
//! requests.
//!
//! **Invariant:** an experiment touches no data of the router's cluster. It ends soon after its
//! client has disconnected, after [`SECONDS_MAX`], or when the router stops, and removes its
//! cluster.
//! **Not here:** the experiments (`shard_manager::lab`), HTTP (`routes::lab`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use shard_manager::lab::experiment_observer::{Bar, ExperimentObserver};
use shard_manager::lab::lab_error::LabError;
use shard_manager::lab::levels::{self, LevelsOptions, LevelsResult};
use tokio::sync::oneshot;

/// Maximum duration of an experiment, in seconds.
pub const SECONDS_MAX: u64 = 60;

/// Reason why an experiment has no result.
#[derive(Debug, thiserror::Error)]
pub enum LabRunError {
    /// Another experiment is running.
    #[error("another experiment is running on this router, and only one runs at a time")]
    Runs,
    /// The run took too long.
    #[error("the experiment took longer than {SECONDS_MAX} seconds; its cluster is removed")]
    TooLong,
    /// The router is stopping.
    #[error("the router is stopping; the cluster of the experiment is removed")]
    Closing,
    /// The run failed; the reason may contain paths of this machine.
    #[error("the experiment failed; its cluster is removed")]
    Failed(String),
}

/// The experiment that is running, if there is one.
#[derive(Debug, Default)]
pub struct LabRuns {
    is_running: AtomicBool,
    is_closed: AtomicBool,
}

impl LabRuns {
    /// Ends the running experiment, and starts no further ones.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
    }

    /// Runs the experiment `levels` on a temporary cluster of files.
    ///
    /// # Errors
    /// [`LabRunError`].
    pub async fn levels(
        self: &Arc<Self>,
        options: LevelsOptions,
    ) -> Result<LevelsResult, LabRunError> {
        if self.is_closed.load(Ordering::Acquire) {
            return Err(LabRunError::Closing);
        }
        let permit = RunPermit::take(self).ok_or(LabRunError::Runs)?;
        let has_client = Arc::new(AtomicBool::new(true));
        // The future is dropped when the client disconnects.
        let _presence = Presence(Arc::clone(&has_client));
        let until = Instant::now() + Duration::from_secs(SECONDS_MAX);
        let watcher = Watcher { runs: Arc::clone(self), has_client, until };
        let (result, ended) = oneshot::channel();
        let work = move || {
            let measured = levels::measure(&options, &watcher);
            let measured = measured.map_err(|error| watcher.explain(&error));
            drop(permit);
            // Sending fails if the client has disconnected.
            let _ = result.send(measured);
        };
        let thread = thread::Builder::new().name("lab".to_owned()).spawn(work);
        thread.map_err(|error| LabRunError::Failed(error.to_string()))?;
        let panicked = |_| Err(LabRunError::Failed("its thread has panicked".to_owned()));
        ended.await.unwrap_or_else(panicked)
    }
}

/// Permit to run an experiment, until it is dropped. There is only one.
struct RunPermit(Arc<LabRuns>);

impl RunPermit {
    fn take(runs: &Arc<LabRuns>) -> Option<Self> {
        let before = runs.is_running.swap(true, Ordering::AcqRel);
        (!before).then(|| Self(Arc::clone(runs)))
    }
}

impl Drop for RunPermit {
    fn drop(&mut self) {
        self.0.is_running.store(false, Ordering::Release);
    }
}

/// Guard that reports the client of an experiment as gone when it is dropped.
struct Presence(Arc<AtomicBool>);

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Observer that limits the time of an experiment, and does not show its progress to the client.
struct Watcher {
    runs: Arc<LabRuns>,
    has_client: Arc<AtomicBool>,
    until: Instant,
}

impl Watcher {
    fn explain(&self, error: &LabError) -> LabRunError {
        match error {
            LabError::Cancelled if self.runs.is_closed.load(Ordering::Acquire) => {
                LabRunError::Closing
            }
            LabError::Cancelled => LabRunError::TooLong,
            LabError::Impossible(why) | LabError::Failed(why) => LabRunError::Failed(why.clone()),
        }
    }
}

impl ExperimentObserver for Watcher {
    fn report(&self, line: &str) {
        tracing::debug!(line, "progress of the experiment");
    }

    fn bar(&self, _: &str, _: u64) -> Box<dyn Bar> {
        Box::new(NoBar)
    }

    fn is_cancelled(&self) -> bool {
        !self.has_client.load(Ordering::Acquire)
            || self.runs.is_closed.load(Ordering::Acquire)
            || Instant::now() >= self.until
    }
}

/// Progress bar that shows nothing.
struct NoBar;

impl Bar for NoBar {
    fn add(&self, _: u64) {}
}
