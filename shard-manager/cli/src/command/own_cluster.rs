//! Own cluster: a data directory that no router serves, and that a command has opened to carry out
//! moves and rebalances itself.
//!
//! Any process that opens a data directory listens on the control socket in it. So the command
//! sends its requests to its own socket, as it would send them to a router, and another thread of
//! the command carries them out.
//!
//! **Invariant:** a directory is opened only if no process served it when the command began. If a
//! router stops while a command waits, the command does not open the directory, so the router can
//! start again.
//! **Not here:** the requests (`moves::place`, `rebalance::place`), the work (`cluster`).

use std::path::Path;
use std::thread::{Builder, JoinHandle};

use assembly::EmbeddedCluster;
use cluster::manager::{Manager, serve_commands};
use engine::cluster_spec::ClusterSpec;
use sqlite::control::client::{ControlError, command_moves};
use sqlite::control::move_command::MoveCommand;
use sqlite::offline_view::DirView;
use tokio::sync::oneshot::{Receiver, Sender, channel};

use super::CommandError;
use super::access::with_runtime;
use crate::terminal::say;

/// Cluster that this process has open until the value is dropped. Moves and rebalances that have
/// not ended by then keep their state, and the next process that opens the directory continues
/// them.
pub(super) struct OwnCluster {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl OwnCluster {
    /// Opens a data directory with its replicas; returns `None` if a process serves it already.
    ///
    /// # Errors
    /// [`CommandError`] if there is no cluster, or it cannot be opened.
    pub(super) fn open_unless_served(data_dir: &Path) -> Result<Option<Self>, CommandError> {
        match command_moves(data_dir, MoveCommand::List) {
            Err(ControlError::NoListener) => Self::open(data_dir).map(Some),
            // An error of a process that listens is not reported here, because the next request
            // reports it.
            Ok(_) | Err(_) => Ok(None),
        }
    }

    fn open(data_dir: &Path) -> Result<Self, CommandError> {
        // This fails for a folder without a cluster; `open` and `open_primaries` would create one.
        DirView::open(data_dir)?;
        let (data_dir, wanted) = (data_dir.to_owned(), ClusterSpec::default());
        let manager = assembly::open(&EmbeddedCluster { data_dir, wanted })?;
        let ((stop, stopped), (ready, is_ready)) = (channel(), channel());
        let thread = Builder::new().name("own-cluster".to_owned());
        let thread = thread.spawn(move || serve(&manager, ready, stopped));
        let thread = thread.map_err(|error| CommandError::Refused(error.to_string()))?;
        // An error is ignored: it means that the thread has ended, and the next request reports
        // that.
        let _ = is_ready.blocking_recv();
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for OwnCluster {
    fn drop(&mut self) {
        // The thread ends as soon as this sender is dropped.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Carries out moves, rebalances and the requests of the control socket until the sender of
/// `stopped` is dropped, and then closes the cluster. Sends a message through `ready` once requests
/// are accepted.
fn serve(manager: &Manager, ready: Sender<()>, stopped: Receiver<()>) {
    let served = with_runtime(async {
        let report = async {
            // When this future is polled again, `commands` and `work` have been polled once, so
            // requests are accepted.
            tokio::task::yield_now().await;
            let _ = ready.send(());
        };
        let (commands, work) = (serve_commands(manager), manager.shards().keep_up());
        let work = async { tokio::join!(commands, work, report) };
        tokio::select! {
            _ = work => {}
            _ = stopped => {}
        }
        Ok(())
    });
    if let Err(error) = served {
        say(format_args!("moves are not carried out: {error}"));
    }
    manager.close();
}
