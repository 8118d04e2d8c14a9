//! Node commands: operations on single nodes of a local cluster.
//!
//! The commands are stop, start, freeze (suspend the server), thaw (resume it), promote, rejoin and
//! rebuild.
//!
//! **Invariant:** a node is promoted only while the current primary is stopped or frozen; each
//! operation holds the cluster's lock while it reads and changes the manifest, so that operations
//! run one at a time.
//! **Not here:** the decision to promote or stop a node (the operator).

use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::local_cluster::LocalCluster;
use crate::cluster_update::ClusterUpdate;
use crate::environment;
use crate::error::LocalError;
use crate::manifest::Manifest;
use crate::node::{LocalNode, NodeState, Stop};
use crate::pg_rewind::rewind;
use crate::primary_choice::{await_follower, most_advanced, nodes_of};
use model::topology::Role;

/// Time limit of a promotion, in seconds.
const PROMOTE_SECONDS: &str = "60";
/// Time limit for a promoted node to accept writes.
const WRITES_MAX: Duration = Duration::from_secs(10);
/// Time limit for replicas to begin to follow another node.
const FOLLOW_MAX: Duration = Duration::from_secs(10);

/// Result of a promotion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promoted {
    /// Name of the new primary.
    pub node: String,
    /// Names of running replicas that do not follow the new primary yet. They may have rows that
    /// the new primary does not have, and must rejoin.
    pub behind: Vec<String>,
}

/// Way in which a node was brought back into its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejoined {
    /// The node was already a replica, and was only made to follow the primary.
    Followed,
    /// The node was rewound, and kept the data that it has in common with the primary.
    Rewound,
    /// The node was rebuilt from a copy of the primary.
    Rebuilt,
}

/// Commands on single nodes of a cluster. Each command takes the cluster's lock, reads the
/// manifest, and afterwards updates the list of nodes of the [`LocalCluster`].
#[derive(Debug)]
pub struct NodeCommands<'c> {
    pub(super) cluster: &'c mut LocalCluster,
}

impl NodeCommands<'_> {
    /// Stops the server of a node. Does nothing if the server is not running.
    ///
    /// # Errors
    /// [`LocalError::NoNode`], and the errors of [`LocalNode::stop`].
    pub fn stop(&mut self, name: &str, how: Stop) -> Result<(), LocalError> {
        self.update(|_, nodes| find(nodes, name)?.stop(how))
    }

    /// Starts the server of a node. A replica then follows the current primary of its shard.
    ///
    /// # Errors
    /// [`LocalError::NoNode`], [`LocalError::Unsuitable`] for an incomplete one, and the errors of
    /// [`LocalNode::start`].
    pub fn start(&mut self, name: &str) -> Result<(), LocalError> {
        self.update(|_, nodes| made(find(nodes, name)?)?.start())
    }

    /// Freezes a node ([`LocalNode::freeze`]).
    ///
    /// # Errors
    /// [`LocalError::NoNode`], and the errors of [`LocalNode::freeze`].
    pub fn freeze(&mut self, name: &str) -> Result<(), LocalError> {
        self.update(|_, nodes| find(nodes, name)?.freeze())
    }

    /// Resumes a frozen node ([`LocalNode::thaw`]). A former primary then accepts writes again,
    /// which are lost when it rejoins.
    ///
    /// # Errors
    /// [`LocalError::NoNode`], and the errors of [`LocalNode::thaw`].
    pub fn thaw(&mut self, name: &str) -> Result<(), LocalError> {
        self.update(|_, nodes| find(nodes, name)?.thaw())
    }

    /// Promotes a replica to primary of its shard. Returns when the node accepts writes and the
    /// other replicas are configured to follow it. If the node is already the primary, only
    /// configures the replicas.
    ///
    /// # Errors
    /// [`LocalError::NoNode`]; [`LocalError::Unsuitable`] if the current primary is running, or if
    /// the node is a former primary or is not running.
    pub fn promote(&mut self, name: &str) -> Result<Promoted, LocalError> {
        self.update(|update, nodes| {
            let node = find(nodes, name)?;
            let shard = shard_of(nodes, node);
            check_promotable(&shard, node)?;
            update.promote(&shard, node)
        })
    }

    /// Promotes the most advanced replica of a shard (`shard1`, …). This replica has at least all
    /// WAL that a majority of the shard's nodes has stored.
    ///
    /// # Errors
    /// [`LocalError::NoNode`] for an unknown shard; [`LocalError::Unsuitable`] if too few of its
    /// replicas run to decide, and the errors of [`NodeCommands::promote`].
    pub fn promote_best(&mut self, shard: &str) -> Result<Promoted, LocalError> {
        self.update(|update, nodes| {
            let first = nodes.iter().find(|node| node.database() == shard);
            let first = first.ok_or_else(|| LocalError::NoNode(shard.to_owned()))?;
            let shard = shard_of(nodes, first);
            match shard.iter().find(|node| leads(node)) {
                Some(leader) if leader.state() == NodeState::Running => {
                    Err(primary_still_runs_error(leader))
                }
                Some(_) | None => update.promote(&shard, most_advanced(&shard)?),
            }
        })
    }

    /// Makes a node, whatever its role was, follow the current primary of its shard. Rows that only
    /// this node has are removed.
    ///
    /// # Errors
    /// [`LocalError::NoNode`]; [`LocalError::Unsuitable`] if the node is the primary, or if the
    /// primary does not run.
    pub fn rejoin(&mut self, name: &str) -> Result<Rejoined, LocalError> {
        self.update(|update, nodes| {
            let node = find(nodes, name)?;
            let shard = shard_of(nodes, node);
            let unsuitable = |cause: &str| {
                Err(LocalError::Unsuitable { node: node.name.clone(), cause: cause.to_owned() })
            };
            match shard.iter().find(|node| leads(node)) {
                Some(leader) if leader.name == node.name => {
                    unsuitable("it is the primary of its shard; others rejoin it")
                }
                Some(leader) if leader.state() == NodeState::Running => update.rejoin(node, leader),
                Some(_) | None => {
                    unsuitable("no primary of its shard runs; start that one, or promote another")
                }
            }
        })
    }

    /// Rebuilds a node as a replica of the primary of its shard, which must be running. The old
    /// data of the node is removed.
    ///
    /// # Errors
    /// [`LocalError::NoNode`] if there is no such node, [`LocalError::NoSource`] if `source` is not
    /// the primary of the node's shard; other variants if a program fails.
    pub fn rebuild(&mut self, name: &str, source: &str) -> Result<(), LocalError> {
        self.update(|update, nodes| {
            let find = |name: &str| {
                let node = nodes.iter().find(|node| node.name == name);
                node.ok_or_else(|| LocalError::NoNode(name.to_owned()))
            };
            let (node, from) = (find(name)?, find(source)?);
            if node.shard != from.shard || node.name == from.name || from.dir.is_standby() {
                let cause = "a replica is made from the primary of its own shard only";
                return Err(LocalError::NoSource { shard: node.database(), cause });
            }
            // The source is a primary, even if the manifest does not record it as one yet.
            update.change(&from.name, |entry| entry.follows = None)?;
            update.make_replica(node, from)
        })
    }

    /// Executes an operation under the cluster's lock, on the nodes as the manifest describes them
    /// now, and afterwards updates the list of nodes and the environment file.
    fn update<R>(
        &mut self,
        act: impl FnOnce(&ClusterUpdate<'_>, &[LocalNode]) -> Result<R, LocalError>,
    ) -> Result<R, LocalError> {
        let env = Arc::clone(&self.cluster.env);
        let cluster_dir = &env.cluster_dir;
        let lock = cluster_dir.lock()?;
        let manifest = Manifest::load(&cluster_dir.path)?;
        if manifest.is_being_destroyed {
            return Err(LocalError::BeingDestroyed(cluster_dir.path.clone()));
        }
        let nodes = nodes_of(&env, &manifest);
        let manifest = Mutex::new(manifest);
        let update = ClusterUpdate { cluster_dir, lock: &lock, manifest, is_cancelled: None };
        let done = act(&update, &nodes);
        self.cluster.nodes = nodes_of(&env, &update.manifest());
        let written = cluster_dir
            .write(&self.cluster.environment_file(), &environment::text(&self.cluster.nodes));
        done.and_then(|done| written.map(|()| done))
    }
}

impl ClusterUpdate<'_> {
    fn promote(&self, shard: &[LocalNode], node: &LocalNode) -> Result<Promoted, LocalError> {
        let env = &node.env;
        if node.dir.is_standby() {
            let mut command = env.command("pg_ctl");
            command.args(["promote", "--silent", "--wait", "-t", PROMOTE_SECONDS, "-D"]);
            env.run(&node.name, command.arg(node.dir.data()))?;
        }
        let deadline = Instant::now() + WRITES_MAX;
        while node.query("SELECT pg_is_in_recovery()")? != "f" {
            if Instant::now() > deadline {
                let cause = "it was promoted and accepts no writes yet; see its log".to_owned();
                return Err(LocalError::Unsuitable { node: node.name.clone(), cause });
            }
            sleep(Duration::from_millis(20));
        }
        self.follow_primary(shard, node)?;
        let mut behind = Vec::new();
        let deadline = Instant::now() + FOLLOW_MAX;
        for other in shard.iter().filter(|other| other.name != node.name && other.dir.is_standby())
        {
            let limit = deadline.saturating_duration_since(Instant::now());
            if other.state() == NodeState::Running && !await_follower(node, other, limit)? {
                behind.push(other.name.clone());
            }
        }
        Ok(Promoted { node: node.name.clone(), behind })
    }

    fn rejoin(&self, node: &LocalNode, leader: &LocalNode) -> Result<Rejoined, LocalError> {
        let follower = LocalNode { source: Some(leader.peer()), ..node.clone() };
        if node.dir.is_complete() && node.dir.is_standby() {
            self.follow_primary(std::slice::from_ref(node), leader)?;
            follower.start()?;
            if await_follower(leader, node, FOLLOW_MAX)? {
                return Ok(Rejoined::Followed);
            }
        }
        if node.dir.is_complete() {
            self.change(&node.name, |entry| {
                entry.is_made = false;
                entry.follows = Some(leader.name.clone());
            })?;
            let rewound = rewind(&follower, leader, self.lock);
            if rewound.is_ok() && await_follower(leader, node, FOLLOW_MAX)? {
                self.change(&node.name, |entry| entry.is_made = true)?;
                return Ok(Rejoined::Rewound);
            }
        }
        self.make_replica(node, leader)?;
        Ok(Rejoined::Rebuilt)
    }
}

fn find<'n>(nodes: &'n [LocalNode], name: &str) -> Result<&'n LocalNode, LocalError> {
    let found = nodes.iter().find(|node| node.name == name);
    found.ok_or_else(|| LocalError::NoNode(name.to_owned()))
}

fn made(node: &LocalNode) -> Result<&LocalNode, LocalError> {
    if node.dir.is_complete() {
        return Ok(node);
    }
    let cause = "it is not made yet; `cluster up` makes it".to_owned();
    Err(LocalError::Unsuitable { node: node.name.clone(), cause })
}

fn shard_of(nodes: &[LocalNode], node: &LocalNode) -> Vec<LocalNode> {
    nodes.iter().filter(|other| other.shard == node.shard).cloned().collect()
}

/// Returns true if a node is a primary that is complete, and not one that has yet to be created.
fn leads(node: &LocalNode) -> bool {
    node.role == Role::Primary && node.dir.is_complete() && !node.dir.is_standby()
}

/// Checks that a node can be promoted now.
fn check_promotable(shard: &[LocalNode], node: &LocalNode) -> Result<(), LocalError> {
    let unsuitable = |cause: &str| {
        Err(LocalError::Unsuitable { node: node.name.clone(), cause: cause.to_owned() })
    };
    if node.is_former_primary() {
        return unsuitable("it is a former primary and no replica; let it rejoin first");
    }
    match made(node)?.state() {
        NodeState::Running => {}
        NodeState::Frozen | NodeState::Stopped | NodeState::NotMade => {
            return unsuitable("it does not run; start it first");
        }
    }
    match shard.iter().find(|other| leads(other)) {
        Some(leader) if leader.name != node.name && leader.state() == NodeState::Running => {
            Err(primary_still_runs_error(leader))
        }
        Some(_) | None => Ok(()),
    }
}

fn primary_still_runs_error(leader: &LocalNode) -> LocalError {
    let cause = format!(
        "it is the primary and runs, so no other can be; stop it first (`cluster stop {}`)",
        leader.name
    );
    LocalError::Unsuitable { node: leader.name.clone(), cause }
}
