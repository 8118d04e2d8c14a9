//! Live: backups of an open cluster of servers by its router.
//!
//! **Invariant:** a cancelled backup ends at once, even if a server does not answer: its sessions
//! are closed, which releases their locks.
//! **Not here:** the copy itself (`backup`).

use std::path::Path;
use std::time::Duration;

use engine::backup_maker::BackupMaker;
use engine::progress_observer::ProgressObserver;
use engine::save_error::SaveError;

use crate::node_address::ClusterAddress;

/// Interval at which cancellation is checked.
const LOOK: Duration = Duration::from_millis(50);

/// Maker of backups of a cluster of servers.
pub(crate) struct ServerBackups {
    /// Addresses in the settings of the router, with users and passwords.
    settings: ClusterAddress,
}

impl ServerBackups {
    /// Creates the maker for the cluster at these addresses.
    pub(crate) fn new(settings: &ClusterAddress) -> Self {
        Self { settings: settings.clone() }
    }
}

impl BackupMaker for ServerBackups {
    fn make(&self, to: &Path, observer: &ProgressObserver<'_>) -> Result<(), SaveError> {
        // Writing files blocks, so it must not run on the runtimes of the router, which serve
        // requests.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| SaveError::io(to, error))?;
        runtime.block_on(async {
            tokio::select! {
                saved = super::save(&self.settings, to, observer) => saved.map(drop),
                () = cancelled(observer) => Err(SaveError::Cancelled),
            }
        })
    }
}

/// Waits until the caller cancels.
async fn cancelled(observer: &ProgressObserver<'_>) {
    while observer.check().is_ok() {
        tokio::time::sleep(LOOK).await;
    }
}
