//! Primary choice: determines the primary of each shard, and makes the replicas follow it.
//!
//! A promoted node is on a later timeline than its predecessor, and its folder shows that even if
//! the promotion was interrupted before it was recorded. Between nodes of one timeline the manifest
//! decides.
//!
//! **Invariant:** a shard has one primary; a former primary that was replaced is never chosen.
//! **Not here:** the decision to promote a node (`node_commands`).

use std::cmp::Reverse;
use std::fs;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::error::LocalError;
use crate::manifest::{Manifest, NodeEntry};
use crate::node::{LocalNode, NodeState};
use crate::parallel_tasks::ClusterUpdate;
use crate::provision::{ensure_slot, remove_source_settings};
use crate::shared_env::{Peer, SharedEnv};
use model::topology::Role;

/// Interval between two checks whether a node follows.
const POLL: Duration = Duration::from_millis(50);

/// Returns the nodes of the manifest with their present roles.
pub(super) fn nodes_of(env: &Arc<SharedEnv>, manifest: &Manifest) -> Vec<LocalNode> {
    let peer_of = |name: &String| {
        let found = manifest.nodes.iter().find(|it| it.name == *name);
        found.map(|it| Peer::here(it.port))
    };
    let node = |entry: &NodeEntry| node_of(env, entry, entry.follows.as_ref().and_then(peer_of));
    let mut nodes: Vec<_> = manifest.nodes.iter().map(node).collect();
    for shard in nodes.chunk_by_mut(|a, b| a.shard == b.shard) {
        let primary = primary_of(shard);
        for (index, node) in shard.iter_mut().enumerate() {
            node.role = if index == primary { Role::Primary } else { Role::Replica };
        }
    }
    nodes
}

/// Returns a node of the manifest, before the primary of its shard is determined.
pub(super) fn node_of(env: &Arc<SharedEnv>, entry: &NodeEntry, source: Option<Peer>) -> LocalNode {
    LocalNode {
        name: entry.name.clone(),
        shard: entry.shard,
        database: format!("shard{}", entry.shard + 1),
        role: if entry.number == 0 { Role::Primary } else { Role::Replica },
        port: entry.port,
        dir: env.cluster_dir.path.join(&entry.name),
        was_complete: entry.is_made,
        is_recorded_primary: entry.follows.is_none(),
        source,
        env: Arc::clone(env),
    }
}

fn primary_of(shard: &[LocalNode]) -> usize {
    let recorded = shard.iter().position(|node| node.is_recorded_primary).unwrap_or(0);
    if shard[recorded].was_complete && !shard[recorded].is_complete() {
        // Its rows are missing, and a former primary lacks them too: it is not chosen in its place.
        return recorded;
    }
    let leads = |index: &usize| shard[*index].is_complete() && !shard[*index].is_standby();
    let rank = |index: &usize| {
        let node = &shard[*index];
        (node.timeline(), *index == recorded, node.is_running(), Reverse(*index))
    };
    (0..shard.len()).filter(leads).max_by_key(rank).unwrap_or(recorded)
}

impl LocalNode {
    /// Returns whether the node was the primary until another one was promoted, and does not follow
    /// that one yet. It may hold rows that no other node has.
    pub fn is_former_primary(&self) -> bool {
        self.role == Role::Replica && self.is_complete() && !self.is_standby()
    }

    /// Returns the timeline of its data: one more than the promotions in its history, for each of
    /// which PostgreSQL keeps a file.
    pub(super) fn timeline(&self) -> u32 {
        let found = fs::read_dir(self.data_dir().join("pg_wal"));
        let names = found.into_iter().flatten().flatten().map(|entry| entry.file_name());
        let number = |name: &str| u32::from_str_radix(name.strip_suffix(".history")?, 16).ok();
        let timelines = names.filter_map(|name| number(name.to_str()?));
        timelines.max().unwrap_or(1)
    }

    /// Returns the end of the log that it has stored, in bytes.
    pub(super) fn position(&self) -> Result<u64, LocalError> {
        // The log received since the last start; before any arrives, the log replayed.
        let sql = "SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0'";
        let output = self.query(sql)?;
        output.parse().map_err(|_| LocalError::Unsuitable {
            node: self.name.clone(),
            cause: "it does not report how much of the log it has; see its log".to_owned(),
        })
    }

    /// Makes its server follow the source that the manifest names.
    fn repoint(&self) -> Result<(), LocalError> {
        remove_source_settings(self)?;
        self.write_settings()?;
        if !self.is_running() {
            return Ok(());
        }
        let mut command = self.env.command("pg_ctl");
        self.env.run(&self.name, command.args(["reload", "--silent", "-D"]).arg(self.data_dir()))
    }

    /// Waits until another node follows this one, and returns whether it does before the time
    /// limit.
    pub(super) fn await_follower(&self, node: &Self, limit: Duration) -> Result<bool, LocalError> {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_replication WHERE application_name = '{}' AND state = 'streaming'",
            node.slot()
        );
        let deadline = Instant::now() + limit;
        loop {
            if self.query(&sql)? != "0" {
                return Ok(true);
            }
            if Instant::now() > deadline {
                return Ok(false);
            }
            sleep(POLL);
        }
    }
}

impl ClusterUpdate<'_> {
    /// Makes the replicas of a shard follow its primary; those that do not run do so after their
    /// next start.
    pub(super) fn follow_primary(
        &self,
        shard: &[LocalNode],
        leader: &LocalNode,
    ) -> Result<(), LocalError> {
        let others: Vec<_> = shard.iter().filter(|node| node.name != leader.name).collect();
        let replicas: Vec<_> =
            others.iter().filter(|node| node.is_complete() && node.is_standby()).collect();
        for node in &replicas {
            ensure_slot(node, &leader.peer(), self.lock)?;
        }
        {
            let mut manifest = self.manifest();
            for node in &others {
                manifest.node(&node.name)?.follows = Some(leader.name.clone());
            }
            manifest.node(&leader.name)?.follows = None;
            manifest.save(self.cluster_dir)?;
        }
        let follow =
            |node: &LocalNode| LocalNode { source: Some(leader.peer()), ..node.clone() }.repoint();
        replicas.into_iter().try_for_each(|node| follow(node))
    }

    /// Returns the nodes of a shard, after recording the primary if another tool has promoted one.
    pub(super) fn with_recorded_primary(
        &self,
        shard: &[LocalNode],
    ) -> Result<Vec<LocalNode>, LocalError> {
        let mut nodes = shard.to_vec();
        let leader = shard.iter().find(|node| node.role == Role::Primary);
        let Some(leader) = leader.filter(|node| node.is_complete() && !node.is_standby()) else {
            return Ok(nodes);
        };
        if leader.is_recorded_primary {
            return Ok(nodes);
        }
        leader.start()?;
        self.follow_primary(shard, leader)?;
        for node in &mut nodes {
            node.is_recorded_primary = node.name == leader.name;
            node.source = (!node.is_recorded_primary).then(|| leader.peer());
        }
        Ok(nodes)
    }
}

/// Returns the replica that has stored the most log. Fails unless so many replicas answer that it
/// has all that a majority of the shard's nodes has stored.
pub(super) fn most_advanced(shard: &[LocalNode]) -> Result<&LocalNode, LocalError> {
    let can_tell = |node: &&LocalNode| node.is_standby() && node.state() == NodeState::Running;
    let answering: Vec<_> = shard.iter().filter(can_tell).collect();
    let needed = shard.len().div_ceil(2);
    if answering.len() < needed || answering.is_empty() {
        let cause = format!(
            "{} of its replicas answer and {needed} are needed to know what a majority has stored; start or thaw \
             the others, or name the one to promote",
            answering.len()
        );
        return Err(LocalError::Unsuitable { node: shard[0].database(), cause });
    }
    let mut found = None;
    for node in answering {
        let rank = (node.timeline(), node.position()?);
        if found.is_none_or(|(most, _)| rank > most) {
            found = Some((rank, node));
        }
    }
    let unknown = || LocalError::NoNode(shard[0].database());
    found.map(|(_, node)| node).ok_or_else(unknown)
}
