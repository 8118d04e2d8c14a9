//! Offline view: reads a data directory as it is, while a router may be running.
//!
//! A view takes no lock, migrates nothing and writes nothing (`read_only`).
//!
//! **Invariant:** a view never changes the contents of a file, and never prevents the start of a
//! router.
//! **Not here:** the contents of a file (`node_view`), checking them (`audit`).

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use model::shard_map::ShardMap;
use model::table::Registry;
use model::topology::{Role, ShardNumber, ShardState};

use super::OpenError;
use super::data_dir::{
    catalog_file, is_folder_locked, lock_file, noted_pid, primary_file, replica_file,
};
use super::node_view::NodeView;
use super::read_only::wal_file;
use super::{catalog, check_version};

/// A data directory, opened for reading.
pub struct DirView {
    path: PathBuf,
    cluster_id: String,
    ready: bool,
    /// The shard map when the view was opened.
    pub map: ShardMap,
    /// Number of replicas of each shard.
    pub replicas: usize,
}

/// Process that holds a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A process holds it.
    Process {
        /// Id of the process in the lock file.
        pid: String,
    },
    /// No process holds it, and the last one closed its files.
    Free,
    /// No process holds it, and the last one did not close its files; the next start checks them.
    Crashed,
}

/// A file that a cluster should have.
#[derive(Clone, Debug)]
pub struct NodeFile {
    /// Name of the node, such as `shard1-primary`.
    pub node: String,
    /// Number of the shard.
    pub shard: ShardNumber,
    /// Role of the node in its shard.
    pub role: Role,
    /// Path of the file.
    pub path: PathBuf,
}

impl NodeFile {
    /// Returns the size on the disk in bytes, including the WAL; `None` if the file is missing or
    /// empty.
    pub fn bytes(&self) -> Option<u64> {
        let len = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
        let bytes = len(&self.path);
        (bytes > 0).then(|| bytes + len(&wal_file(&self.path)))
    }

    /// Describes a node of a stopped cluster whose file was not created yet.
    pub fn unmade(&self) -> String {
        format!("{} has not been made yet; the next start of the router makes it", self.node)
    }

    /// Describes a replica of a stopped cluster that lags.
    pub fn behind(&self, lag: u64) -> String {
        let node = &self.node;
        format!(
            "{node} is {lag} entries of the log behind; the next start of the router brings it up"
        )
    }
}

impl DirView {
    /// Opens the directory of a cluster.
    ///
    /// # Errors
    /// [`OpenError`], with the reason for the operator.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        check_version()?;
        let file = catalog_file(path);
        if !file.exists() {
            let cause = "there is no cluster here (no catalog.db); name its folder with --data-dir";
            return Err(OpenError::io(path, cause));
        }
        let catalog::InspectedCatalog { cluster_id, map, ready, replicas } =
            catalog::inspect(&file)?;
        Ok(Self { path: path.to_owned(), cluster_id, ready, map, replicas })
    }

    /// Returns the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the id of the cluster.
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// Returns true if the files of a shard have been created: before that a missing file is not a
    /// loss, and the shard has no rows.
    pub fn is_made(&self, shard: ShardNumber) -> bool {
        self.ready && !self.is_joining(shard)
    }

    /// Returns true if a shard is joining: its files may be incomplete, and the next start of the
    /// router completes them.
    pub fn is_joining(&self, shard: ShardNumber) -> bool {
        let spec = self.map.topology().shards().get(shard.index());
        spec.is_some_and(|spec| spec.state == ShardState::Joining)
    }

    /// Returns the files of a shard, its primary's first.
    pub fn nodes(&self, shard: ShardNumber) -> Vec<NodeFile> {
        let name = self.map.topology().name(shard);
        let primary = NodeFile {
            node: format!("{name}-primary"),
            shard,
            role: Role::Primary,
            path: primary_file(&self.path, name),
        };
        let replicas = (0..self.replicas).map(|index| NodeFile {
            node: format!("{name}-replica{}", index + 1),
            shard,
            role: Role::Replica,
            path: replica_file(&self.path, name, index),
        });
        std::iter::once(primary).chain(replicas).collect()
    }

    /// Opens the file of a node.
    ///
    /// # Errors
    /// [`OpenError`] if it is missing, belongs to another node, or cannot be read.
    pub fn node(&self, file: &NodeFile) -> Result<NodeView, OpenError> {
        NodeView::open(&file.path, &self.cluster_id, self.map.topology().name(file.shard))
    }

    /// Returns the tables as the first shard declares them; none before its files are created.
    ///
    /// # Errors
    /// [`OpenError`] if the file of its primary cannot be read.
    pub fn tables(&self) -> Result<Registry, OpenError> {
        let mut made = self.map.topology().numbers().filter(|shard| self.is_made(*shard));
        match made.next() {
            Some(shard) => self.node(&self.nodes(shard)[0])?.tables(),
            None => Ok(Registry::default()),
        }
    }

    /// Returns the process that holds the directory.
    ///
    /// # Errors
    /// [`OpenError::Io`] if the lock cannot be tried.
    pub fn holder(&self) -> Result<Holder, OpenError> {
        holder(&self.path)
    }
}

/// Returns the process that holds a data directory. The lock is tried only if its file names a
/// process, so the attempt can only disturb a start after a crash, which retries.
///
/// # Errors
/// [`OpenError::Io`] if the lock cannot be tried.
pub fn holder(folder: &Path) -> Result<Holder, OpenError> {
    let path = lock_file(folder);
    let failed = |error: std::io::Error| OpenError::io(&path, error);
    let held = || Holder::Process { pid: noted_pid(folder) };
    let mut lock = match File::open(&path) {
        Ok(lock) => lock,
        // The lock file may have been removed while a process holds the folder.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(if is_folder_locked(folder) { held() } else { Holder::Free });
        }
        Err(error) => return Err(failed(error)),
    };
    let mut pid = String::new();
    lock.read_to_string(&mut pid).map_err(failed)?;
    if pid.is_empty() {
        return Ok(Holder::Free);
    }
    match lock.try_lock_shared() {
        Ok(()) if is_folder_locked(folder) => Ok(held()),
        Ok(()) => Ok(Holder::Crashed),
        Err(TryLockError::WouldBlock) => Ok(Holder::Process { pid }),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}
