//! Assembly: opens a cluster with the engine that keeps it, and lets a manager serve it.
//!
//! **Invariant:** beside the engines, the doctor and the commands about files, no other module names
//! an engine.
//! **Not here:** opening (the engines), serving (`manager`).

use std::sync::Arc;

use engine::open_error::OpenError;
use postgres;
use sqlite::backup::BackupSource;
use sqlite::open::OpenedFiles;

use crate::manager::Manager;

pub use postgres::citus::MOVES as CITUS_MOVES;
pub use postgres::open::ConnectedCluster;
pub use sqlite::open::EmbeddedCluster;

impl Manager {
    /// Opens an embedded cluster, creating what is new and migrating what is old. Blocks.
    ///
    /// # Errors
    /// [`OpenError`], with a sentence that tells the operator what to do.
    pub fn open(cluster: &EmbeddedCluster) -> Result<Self, OpenError> {
        Self::open_with_source(cluster).map(|(manager, _)| manager)
    }

    /// Opens an embedded cluster like [`Manager::open`], and returns what a backup copies of it.
    ///
    /// # Errors
    /// Errors of [`Manager::open`].
    pub fn open_with_source(
        cluster: &EmbeddedCluster,
    ) -> Result<(Self, Arc<BackupSource>), OpenError> {
        let OpenedFiles { cluster, source } = sqlite::open::open(cluster)?;
        Ok((Self::new(cluster)?, source))
    }

    /// Opens an embedded cluster without its replicas, for a command that fills a cluster that is not
    /// read meanwhile. The replicas get what they lack at the next start. Blocks.
    ///
    /// # Errors
    /// Errors of [`Manager::open`].
    pub fn open_primaries(cluster: &EmbeddedCluster) -> Result<Self, OpenError> {
        Self::new(sqlite::open::open_primaries(cluster)?.cluster)
    }

    /// Opens a cluster of PostgreSQL nodes, creating what is new and migrating what is old. Blocks.
    ///
    /// # Errors
    /// [`OpenError`], with a sentence that tells the operator what to do.
    pub fn connect(cluster: &ConnectedCluster) -> Result<Self, OpenError> {
        Self::new(postgres::open::open(cluster)?)
    }
}
