//! Primary choice: determines the primary of each shard, and makes the replicas follow it.
//!
//! A promoted node is on a later timeline than the former primary, and its data directory shows
//! this even if the promotion was interrupted before the manifest recorded it. Between nodes on the
//! same timeline, the manifest decides.
//!
//! **Invariant:** exactly one node of a shard is chosen as its primary, and never a former primary
//! that was replaced.
//! **Not here:** the decision to promote a node (`node_commands`).

use std::cmp::Reverse;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::cluster_update::ClusterUpdate;
use crate::error::LocalError;
use crate::manifest::{Manifest, NodeEntry};
use crate::node::{LocalNode, NodeState};
use crate::node_dir::NodeDir;
use crate::provision::{ensure_slot, remove_source_settings};
use crate::shared_env::{Peer, SharedEnv};
use model::topology::Role;

/// Interval between two checks whether a replica follows its primary.
const POLL: Duration = Duration::from_millis(50);

/// Returns the nodes of the manifest with their current roles.
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

/// Returns a node of the manifest with a provisional role, because the primary of its shard is not
/// determined yet.
pub(super) fn node_of(env: &Arc<SharedEnv>, entry: &NodeEntry, source: Option<Peer>) -> LocalNode {
    LocalNode {
        name: entry.name.clone(),
        shard: entry.shard,
        database: format!("shard{}", entry.shard + 1),
        role: if entry.number == 0 { Role::Primary } else { Role::Replica },
        port: entry.port,
        dir: NodeDir { path: env.cluster_dir.path.join(&entry.name) },
        was_complete: entry.is_made,
        is_recorded_primary: entry.follows.is_none(),
        source,
        env: Arc::clone(env),
    }
}

fn primary_of(shard: &[LocalNode]) -> usize {
    let recorded = shard.iter().position(|node| node.is_recorded_primary).unwrap_or(0);
    if shard[recorded].was_complete && !shard[recorded].dir.is_complete() {
        // The data of the recorded primary is missing. No other node is chosen instead, because a
        // former primary may lack some of the rows.
        return recorded;
    }
    let leads = |index: &usize| shard[*index].dir.is_complete() && !shard[*index].dir.is_standby();
    let rank = |index: &usize| {
        let node = &shard[*index];
        (node.dir.timeline(), *index == recorded, node.is_running(), Reverse(*index))
    };
    (0..shard.len()).filter(leads).max_by_key(rank).unwrap_or(recorded)
}

/// Returns the end of the WAL that a replica has stored, as a position in bytes.
fn stored_position(node: &LocalNode) -> Result<u64, LocalError> {
    // The position of the received WAL is null until WAL arrives after a start; then that of the
    // replayed WAL is used.
    let sql = "SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0'";
    let output = node.query(sql)?;
    output.parse().map_err(|_| LocalError::Unsuitable {
        node: node.name.clone(),
        cause: "it does not report how much of the log it has; see its log".to_owned(),
    })
}

/// Makes the server of a replica follow the node's current source.
fn repoint(node: &LocalNode) -> Result<(), LocalError> {
    remove_source_settings(node)?;
    node.write_settings(&[])?;
    if !node.is_running() {
        return Ok(());
    }
    let mut command = node.env.command("pg_ctl");
    node.env.run(&node.name, command.args(["reload", "--silent", "-D"]).arg(node.dir.data()))
}

/// Waits until a replica follows a primary, and returns whether it does before the time limit.
pub(super) fn await_follower(
    primary: &LocalNode,
    replica: &LocalNode,
    limit: Duration,
) -> Result<bool, LocalError> {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_replication WHERE application_name = '{}' AND state = 'streaming'",
        replica.slot()
    );
    let deadline = Instant::now() + limit;
    loop {
        if primary.query(&sql)? != "0" {
            return Ok(true);
        }
        if Instant::now() > deadline {
            return Ok(false);
        }
        sleep(POLL);
    }
}

impl ClusterUpdate<'_> {
    /// Makes the replicas of a shard follow its primary. Replicas that are not running follow it
    /// after their next start.
    pub(super) fn follow_primary(
        &self,
        shard: &[LocalNode],
        leader: &LocalNode,
    ) -> Result<(), LocalError> {
        let others: Vec<_> = shard.iter().filter(|node| node.name != leader.name).collect();
        let replicas: Vec<_> =
            others.iter().filter(|node| node.dir.is_complete() && node.dir.is_standby()).collect();
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
            |node: &LocalNode| repoint(&LocalNode { source: Some(leader.peer()), ..node.clone() });
        replicas.into_iter().try_for_each(|node| follow(node))
    }

    /// Returns the nodes of a shard. If another tool has promoted a node, the manifest first
    /// records it as the primary.
    pub(super) fn with_recorded_primary(
        &self,
        shard: &[LocalNode],
    ) -> Result<Vec<LocalNode>, LocalError> {
        let mut nodes = shard.to_vec();
        let leader = shard.iter().find(|node| node.role == Role::Primary);
        let Some(leader) = leader.filter(|node| node.dir.is_complete() && !node.dir.is_standby())
        else {
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

/// Returns the replica that has stored the most WAL. Fails unless enough replicas respond to be
/// sure that this replica has all WAL that a majority of the shard's nodes has stored.
pub(super) fn most_advanced(shard: &[LocalNode]) -> Result<&LocalNode, LocalError> {
    let can_tell = |node: &&LocalNode| node.dir.is_standby() && node.state() == NodeState::Running;
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
        let rank = (node.dir.timeline(), stored_position(node)?);
        if found.is_none_or(|(most, _)| rank > most) {
            found = Some((rank, node));
        }
    }
    let unknown = || LocalError::NoNode(shard[0].database());
    found.map(|(_, node)| node).ok_or_else(unknown)
}
