//! Mode check: compares the mode of a router with the one that the catalog remembers.
//!
//! **Invariant:** a cluster that was once served with access control is served by no router without
//! it, until `shard-manager access off` permits that: one such router would open the cluster to
//! everyone.
//! **Not here:** storage of the mode (`shard_manager::engine::access_store`).

use shard_manager::engine::access_store::{self, AccessChange, AccessError, ChangeAuthor};
use shard_manager::error::Error;
use shard_manager::manager::Manager;

use super::clock::unix_now;
use crate::config::AccessMode;

/// Reason why a router of this mode may not serve the cluster.
#[derive(Debug, thiserror::Error)]
pub enum ModeError {
    /// The catalog remembers that access control is on.
    #[error(
        "this cluster is served with access control, and this router has --access {}: start it with --access on. To end \
         access control, run `shard-manager access off` first",
        .0.name()
    )]
    Remembered(AccessMode),
    /// The mode cannot be read or stored.
    #[error("the mode of access control in the catalog: {0}")]
    Catalog(#[from] Error),
    /// The mode cannot be stored.
    #[error("the mode of access control in the catalog: {0}")]
    Change(#[from] AccessError),
}

/// Checks that a router of this mode may serve the cluster. The first router with access control
/// records that.
///
/// # Errors
/// [`ModeError`] if it may not, or the catalog does not answer.
pub async fn check_mode(manager: &Manager, mode: AccessMode) -> Result<(), ModeError> {
    let access = manager.access();
    match (mode, access.mode().await?) {
        (AccessMode::On, access_store::AccessMode::On)
        | (AccessMode::Off | AccessMode::Observe, access_store::AccessMode::Off) => Ok(()),
        (AccessMode::On, access_store::AccessMode::Off) => {
            let change = AccessChange::SetMode(access_store::AccessMode::On);
            access.change(&change, &ChangeAuthor::Router, unix_now()).await?;
            Ok(())
        }
        (AccessMode::Off | AccessMode::Observe, access_store::AccessMode::On) => {
            Err(ModeError::Remembered(mode))
        }
    }
}
