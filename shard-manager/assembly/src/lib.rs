//! Assembly: opens a cluster with its engine (SQLite or PostgreSQL), and creates the manager that
//! serves it.
//!
//! **Invariant:** apart from this crate, only the commands of `cli` that work on files or servers
//! directly name an engine.
//! **Not here:** opening files and connections (the engines), serving requests (`cluster`).
#![forbid(unsafe_code)]

pub mod doctor;

use std::sync::Arc;

use cluster::manager::Manager;
use engine::open_error::OpenError;
use sqlite::backup::BackupSource;
use sqlite::open::OpenedFiles;

pub use postgres::citus::{MOVE as CITUS_MOVE, MOVES as CITUS_MOVES};
pub use postgres::open::ConnectedCluster;
pub use postgres::replay_delay::delay_replay;
pub use postgres::temporary_database::{TemporaryDatabase, server_version};
pub use sqlite::open::EmbeddedCluster;
pub use sqlite::version as sqlite_version;

/// Opens an embedded cluster, creating missing files and migrating old ones. Blocks.
///
/// # Errors
/// [`OpenError`], whose message states what the operator has to do.
pub fn open(cluster: &EmbeddedCluster) -> Result<Manager, OpenError> {
    open_with_source(cluster).map(|(manager, _)| manager)
}

/// Opens an embedded cluster like [`open`], and also returns its files as the source of backups.
///
/// # Errors
/// Errors of [`open`].
pub fn open_with_source(
    cluster: &EmbeddedCluster,
) -> Result<(Manager, Arc<BackupSource>), OpenError> {
    let OpenedFiles { cluster, source } = sqlite::open::open(cluster)?;
    Ok((Manager::new(cluster)?, source))
}

/// Opens an embedded cluster without its replicas, for a command during which no client reads. The
/// replicas catch up at the next start. Blocks.
///
/// # Errors
/// Errors of [`open`].
pub fn open_primaries(cluster: &EmbeddedCluster) -> Result<Manager, OpenError> {
    Manager::new(sqlite::open::open_primaries(cluster)?.cluster)
}

/// Opens a cluster of PostgreSQL nodes, creating missing tables and migrating old schemas. Blocks.
///
/// # Errors
/// [`OpenError`], whose message states what the operator has to do.
pub fn connect(cluster: &ConnectedCluster) -> Result<Manager, OpenError> {
    Manager::new(postgres::open::open(cluster)?)
}
