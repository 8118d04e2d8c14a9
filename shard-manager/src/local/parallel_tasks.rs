//! Work: what is done to nodes by many threads, and noted as it is done.
//!
//! **Invariant:** of a shard at most one node is started as primary; a node is noted as made after it is.
//! **Not here:** which of a shard's nodes that is (`primary_choice`).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use super::cluster_dir::{Lock, Place};
use super::error::LocalError;
use super::manifest::{NodeNote, Notes};
use super::node::LocalNode;
use super::provision::{make_primary, make_replica};
use crate::topology::Role;

/// Shards or nodes that are worked on at a time: each is a program or several.
const AT_A_TIME: usize = 8;

/// What is noted while nodes are being made, by many threads.
pub(super) struct Work<'w> {
    pub(super) place: &'w Place,
    pub(super) lock: &'w Lock,
    pub(super) notes: Mutex<Notes>,
}

impl Work<'_> {
    /// What is noted, for one thread at a time.
    pub(super) fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes what is missing of a shard and starts the rest, but no former primary: that would be a second one.
    pub(super) fn raise_shard(&self, nodes: &[LocalNode]) -> Result<(), LocalError> {
        let nodes = &self.settled(nodes)?;
        let (complete, missing): (Vec<_>, Vec<_>) =
            nodes.iter().partition(|node| node.is_complete());
        let fit: Vec<_> =
            complete.iter().copied().filter(|node| !node.is_former_primary()).collect();
        all(&fit, |node| {
            node.start()?;
            self.change(&node.name, |note| note.is_made = true)
        })?;
        if missing.is_empty() {
            return Ok(());
        }
        let leader = fit.into_iter().find(|node| !node.is_standby());
        let unmade = missing.iter().copied().find(|node| node.role == Role::Primary);
        let source = match (leader, unmade) {
            (Some(leader), _) => leader,
            (None, Some(first)) if !first.is_noted => {
                make_primary(first, self.lock)?;
                self.change(&first.name, |note| note.is_made = true)?;
                first
            }
            (None, Some(gone)) => {
                return Err(LocalError::Lost { node: gone.name.clone(), dir: gone.dir.clone() });
            }
            (None, None) => {
                let cause = "it has no primary";
                return Err(LocalError::NoSource { shard: nodes[0].database(), cause });
            }
        };
        let replicas: Vec<_> =
            missing.into_iter().filter(|node| node.name != source.name).collect();
        all(&replicas, |node| self.make_replica(node, source))
    }

    /// Makes a node as a replica of another one, whatever it was.
    pub(super) fn make_replica(
        &self,
        node: &LocalNode,
        source: &LocalNode,
    ) -> Result<(), LocalError> {
        self.change(&node.name, |note| {
            note.is_made = false;
            note.follows = Some(source.name.clone());
        })?;
        let node = LocalNode { source: Some(source.peer()), ..node.clone() };
        make_replica(&node, &source.peer(), self.lock)?;
        self.change(&node.name, |note| note.is_made = true)
    }

    /// Changes what is noted of a node.
    pub(super) fn change(
        &self,
        name: &str,
        change: impl FnOnce(&mut NodeNote),
    ) -> Result<(), LocalError> {
        let mut notes = self.notes();
        change(notes.node(name)?);
        notes.save(self.place)
    }
}

/// Does something with all of them, several at a time; of what fails the first is told, when all have ended.
pub(super) fn all<T: Copy + Sync>(
    items: &[T],
    act: impl Fn(T) -> Result<(), LocalError> + Sync,
) -> Result<(), LocalError> {
    let act = &act;
    let mut first = Ok(());
    for some in items.chunks(AT_A_TIME) {
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
