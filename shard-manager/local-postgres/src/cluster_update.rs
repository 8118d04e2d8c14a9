//! Cluster update: creates and starts several nodes concurrently, and records each of them in the
//! manifest as it is completed.
//!
//! **Invariant:** at most one node of a shard is started as primary; a node is recorded as made
//! only after it is complete.
//! **Not here:** choosing the primary (`primary_choice`), starting one server (`node`).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::cluster_dir::{ClusterDir, Lock};
use crate::error::LocalError;
use crate::manifest::{Manifest, NodeEntry};
use crate::node::LocalNode;
use crate::provision::{make_primary, make_replica};
use model::topology::Role;

/// Maximum number of shards or nodes that are handled at the same time, because each runs one or
/// more programs.
const PARALLEL_MAX: usize = 8;

/// Function that returns true once the start of a cluster is cancelled; `None` if it cannot be.
pub(super) type IsCancelled<'w> = Option<&'w (dyn Fn() -> bool + Sync)>;

/// Manifest of a locked cluster, shared by the threads that change its nodes.
pub(super) struct ClusterUpdate<'w> {
    pub(super) cluster_dir: &'w ClusterDir,
    pub(super) lock: &'w Lock,
    pub(super) manifest: Mutex<Manifest>,
    pub(super) is_cancelled: IsCancelled<'w>,
}

impl ClusterUpdate<'_> {
    /// Locks the manifest.
    pub(super) fn manifest(&self) -> MutexGuard<'_, Manifest> {
        self.manifest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates the missing nodes of a shard and starts the existing ones, except a former primary,
    /// because the shard would then have two primaries.
    pub(super) fn start_shard(&self, nodes: &[LocalNode]) -> Result<(), LocalError> {
        self.check_cancelled()?;
        let nodes = &self.with_recorded_primary(nodes)?;
        let (complete, missing): (Vec<_>, Vec<_>) =
            nodes.iter().partition(|node| node.dir.is_complete());
        let fit: Vec<_> =
            complete.iter().copied().filter(|node| !node.is_former_primary()).collect();
        for_each_parallel(&fit, |node| {
            node.start()?;
            self.change(&node.name, |entry| entry.is_made = true)
        })?;
        if missing.is_empty() {
            return Ok(());
        }
        let leader = fit.into_iter().find(|node| !node.dir.is_standby());
        let unmade = missing.iter().copied().find(|node| node.role == Role::Primary);
        let source = match (leader, unmade) {
            (Some(leader), _) => leader,
            (None, Some(first)) if !first.was_complete => {
                make_primary(first, self.lock)?;
                self.change(&first.name, |entry| entry.is_made = true)?;
                first
            }
            (None, Some(gone)) => {
                return Err(LocalError::Lost {
                    node: gone.name.clone(),
                    dir: gone.dir.path.clone(),
                });
            }
            (None, None) => {
                let cause = "it has no primary";
                return Err(LocalError::NoSource { shard: nodes[0].database(), cause });
            }
        };
        let replicas: Vec<_> =
            missing.into_iter().filter(|node| node.name != source.name).collect();
        for_each_parallel(&replicas, |node| {
            self.check_cancelled()?;
            self.make_replica(node, source)
        })
    }

    /// Returns an error once the start is cancelled.
    fn check_cancelled(&self) -> Result<(), LocalError> {
        match self.is_cancelled {
            Some(is_cancelled) if is_cancelled() => Err(LocalError::Cancelled),
            Some(_) | None => Ok(()),
        }
    }

    /// Turns a node, whatever its role was, into a replica of another node.
    pub(super) fn make_replica(
        &self,
        node: &LocalNode,
        source: &LocalNode,
    ) -> Result<(), LocalError> {
        self.change(&node.name, |entry| {
            entry.is_made = false;
            entry.follows = Some(source.name.clone());
        })?;
        let node = LocalNode { source: Some(source.peer()), ..node.clone() };
        make_replica(&node, &source.peer(), self.lock)?;
        self.change(&node.name, |entry| entry.is_made = true)
    }

    /// Changes the manifest entry of a node and saves the manifest.
    pub(super) fn change(
        &self,
        name: &str,
        change: impl FnOnce(&mut NodeEntry),
    ) -> Result<(), LocalError> {
        let mut manifest = self.manifest();
        change(manifest.node(name)?);
        manifest.save(self.cluster_dir)
    }
}

/// Applies a function to all items, several at a time. After all calls have ended, returns the
/// first error, if there was one.
pub(super) fn for_each_parallel<T: Copy + Sync>(
    items: &[T],
    act: impl Fn(T) -> Result<(), LocalError> + Sync,
) -> Result<(), LocalError> {
    let act = &act;
    let mut first = Ok(());
    for some in items.chunks(PARALLEL_MAX) {
        let ended: Vec<_> = thread::scope(|scope| {
            let begun: Vec<_> = some.iter().map(|item| scope.spawn(move || act(*item))).collect();
            begun.into_iter().map(thread::ScopedJoinHandle::join).collect()
        });
        for ended in ended {
            first = first.and(ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
    }
    first
}
