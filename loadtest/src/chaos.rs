//! Chaos: a router of our own, broken on purpose while the verifying workload runs.
//!
//! **Invariant:** never two routers on one directory: the next one is started when the last one is known to be gone.
//! What the seed says happens in that order, whatever the router does; only the moments differ.
//! **Not here:** what the faults did to the answers (`loadtest::checker`).

mod process;
mod schedule;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use loadtest::history::Recorder;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) use process::RouterProcess;

use self::schedule::{Fault, Schedule};
use crate::wire::Pool;

/// By then after the last fault everything must work again.
pub(crate) const LIVENESS: Duration = Duration::from_secs(10);
/// How often a router that starts is asked.
const POLL: Duration = Duration::from_millis(10);

/// Faults going on, until it is stopped.
pub(crate) struct Chaos {
    stop: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<RouterProcess>>,
}

impl Chaos {
    /// Breaks the router again and again, as the seed says.
    pub(crate) fn start(router: RouterProcess, recorder: Arc<Recorder>, seed: u64) -> Self {
        let (stop, mut stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let mut router = router;
            for (pause, fault) in Schedule::new(seed) {
                tokio::select! {
                    _ = &mut stopped => break,
                    () = tokio::time::sleep(pause) => {}
                }
                recorder.fault(&fault.to_string());
                commit(&mut router, fault).await?;
                recorder.fault(&format!("over: {fault}"));
            }
            Ok(router)
        });
        Self { stop, task }
    }

    /// Lets the last fault end.
    ///
    /// # Errors
    /// The router could not be started again.
    pub(crate) async fn stop(self) -> anyhow::Result<RouterProcess> {
        // Nobody listens when it has failed already; the task says why.
        let _ = self.stop.send(());
        self.task.await.context("the chaos ended badly")?
    }
}

async fn commit(router: &mut RouterProcess, fault: Fault) -> anyhow::Result<()> {
    match fault {
        Fault::Kill { down } => {
            router.kill()?;
            tokio::time::sleep(down).await;
            router.start()
        }
        Fault::Freeze { lasts } => {
            router.freeze()?;
            tokio::time::sleep(lasts).await;
            router.thaw()
        }
        Fault::Restart => {
            router.end().await?;
            router.start()
        }
    }
}

/// Waits until a router takes requests; tells how long that took.
///
/// # Errors
/// It does not within `patience`.
pub(crate) async fn ready(pool: &Pool, patience: Duration) -> anyhow::Result<Duration> {
    let began = Instant::now();
    loop {
        match crate::wire::check_ready(pool).await {
            Ok(()) => return Ok(began.elapsed()),
            Err(error) if began.elapsed() > patience => {
                return Err(error).context(format!("the router is not there after {patience:?}"));
            }
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// The router's program: given, or beside this one.
///
/// # Errors
/// It is not there.
pub(crate) fn program(given: Option<&PathBuf>) -> anyhow::Result<PathBuf> {
    let path = match given {
        Some(path) => path.clone(),
        None => {
            std::env::current_exe().context("where is this program?")?.with_file_name("api-router")
        }
    };
    anyhow::ensure!(
        path.is_file(),
        "there is no router at {}: build one with `cargo build --release -p api-router`, or name it with --router",
        path.display()
    );
    Ok(path)
}
