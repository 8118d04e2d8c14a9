//! Mode check: compares the access mode of a router with the one that is stored in the catalog.
//!
//! **Invariant:** once a cluster has been served with access control, no router without it serves
//! the cluster until `shard-manager access off` permits that: a single such router would open the
//! cluster to everyone.
//! **Not here:** storage of the mode (`shard_manager::engine::access_store`).

use shard_manager::engine::access_store::{self, AccessChange, AccessError, ChangeAuthor};
use shard_manager::error::Error;
use shard_manager::manager::Manager;

use super::clock::unix_now;
use crate::config::AccessMode;

/// Reason why a router of this access mode may not serve the cluster.
#[derive(Debug, thiserror::Error)]
pub enum ModeError {
    /// The catalog says that access control is on, and this router does not enforce it.
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

/// Checks that a router of this access mode may serve the cluster. Changes nothing.
///
/// # Errors
/// [`ModeError`] if the router may not serve the cluster, or the catalog does not respond.
pub async fn check_mode(manager: &Manager, mode: AccessMode) -> Result<(), ModeError> {
    match (mode, manager.access().mode().await?) {
        (AccessMode::On, access_store::AccessMode::On | access_store::AccessMode::Off)
        | (AccessMode::Off | AccessMode::Observe, access_store::AccessMode::Off) => Ok(()),
        (AccessMode::Off | AccessMode::Observe, access_store::AccessMode::On) => {
            Err(ModeError::Remembered(mode))
        }
    }
}

/// Settles the access mode directly before the router serves. The first router that enforces access
/// control stores in the catalog that it is on. A router without it is checked again, because
/// another router may have stored that since the first check.
///
/// The mode is stored last, because a start that fails must not change the mode of the cluster.
///
/// # Errors
/// [`ModeError`] if the router may not serve the cluster, or the catalog does not respond.
pub async fn settle_mode(manager: &Manager, mode: AccessMode) -> Result<(), ModeError> {
    match mode {
        AccessMode::Off | AccessMode::Observe => check_mode(manager, mode).await,
        AccessMode::On => {
            let access = manager.access();
            match access.mode().await? {
                access_store::AccessMode::On => Ok(()),
                access_store::AccessMode::Off => {
                    let change = AccessChange::SetMode(access_store::AccessMode::On);
                    access.change(&change, &ChangeAuthor::Router, unix_now()).await?;
                    Ok(())
                }
            }
        }
    }
}
