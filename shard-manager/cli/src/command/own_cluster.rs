//! Own cluster: a data directory that no router serves, opened by a command that carries out moves
//! and rebalances itself.
//!
//! The process that opens a directory listens at its control socket. So the command sends its
//! requests there, as it would send them to a router, and they are carried out on another thread.
//!
//! **Invariant:** a directory is opened only if no process served it when the command began. A
//! router that is stopped later finds its directory free when it starts again.
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

/// Cluster that this process has open until the value is dropped. Work that is under way then stays
/// as it is: the next process that opens the directory carries it on.
pub(super) struct OwnCluster {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl OwnCluster {
    /// Opens a data directory with its replicas, unless a process serves it: then returns `None`.
    ///
    /// # Errors
    /// [`CommandError`] if there is no cluster, or it cannot be opened.
    pub(super) fn open_unless_served(data_dir: &Path) -> Result<Option<Self>, CommandError> {
        match command_moves(data_dir, MoveCommand::List) {
            Err(ControlError::NoListener) => Self::open(data_dir).map(Some),
            // The request that follows reports what is wrong with a process that listens.
            Ok(_) | Err(_) => Ok(None),
        }
    }

    fn open(data_dir: &Path) -> Result<Self, CommandError> {
        // Opening a folder without a cluster would create one.
        DirView::open(data_dir)?;
        let (data_dir, wanted) = (data_dir.to_owned(), ClusterSpec::default());
        let manager = assembly::open(&EmbeddedCluster { data_dir, wanted })?;
        let ((stop, stopped), (ready, is_ready)) = (channel(), channel());
        let thread = Builder::new().name("own-cluster".to_owned());
        let thread = thread.spawn(move || serve(&manager, ready, stopped));
        let thread = thread.map_err(|error| CommandError::Refused(error.to_string()))?;
        // Fails only if the thread has ended, which the next request reports.
        let _ = is_ready.blocking_recv();
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for OwnCluster {
    fn drop(&mut self) {
        // The thread ends as soon as its channel does.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Carries out moves, rebalances and the requests of the socket until the channel ends, and closes
/// the cluster. Sends `ready` once requests are accepted.
fn serve(manager: &Manager, ready: Sender<()>, stopped: Receiver<()>) {
    let served = with_runtime(async {
        let report = async {
            // The other futures have been polled by then.
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
