//! Verbs: what is done to single nodes of a local cluster: stopped, started, frozen, thawed, promoted, and taken back.
//!
//! **Invariant:** a node is promoted only while the present primary does not answer; what is done is done to the cluster
//! as it is noted at that moment, by one command at a time.
//! **Not here:** when any of this is to be done.

use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::error::LocalError;
use super::manifest::Notes;
use super::node::{LocalNode, NodeState, Stop};
use super::parallel_tasks::Work;
use super::pg_rewind::rewind;
use super::primary_choice::{best, nodes_of};
use super::{LocalCluster, environment};
use crate::topology::Role;

/// How long a promotion may take, in seconds.
const PROMOTE_SECONDS: &str = "60";
/// How long a promoted node may take until it takes writes.
const WRITES_MAX: Duration = Duration::from_secs(10);
/// How long replicas are waited for that are to follow another node.
const FOLLOW_MAX: Duration = Duration::from_secs(10);

/// A node that leads its shard from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promoted {
    /// Its name.
    pub node: String,
    /// Replicas that run and do not follow it yet: they may have rows that it lacks, and must rejoin.
    pub behind: Vec<String>,
}

/// How a node came back to its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejoined {
    /// It was a replica already.
    Followed,
    /// It kept what the primary has too.
    Rewound,
    /// It was made again.
    MadeAgain,
}

impl LocalCluster {
    /// Ends the server of a node; nothing if it does not run.
    ///
    /// # Errors
    /// [`LocalError::NoNode`], and as [`LocalNode::stop`].
    pub fn stop_node(&mut self, name: &str, how: Stop) -> Result<(), LocalError> {
        self.work_on(|_, nodes| find(nodes, name)?.stop(how))
    }

    /// Starts the server of a node; a replica follows whoever leads its shard now.
    ///
    /// # Errors
    /// [`LocalError::NoNode`], [`LocalError::Unfit`] for one that is not made, and as [`LocalNode::start`].
    pub fn start_node(&mut self, name: &str) -> Result<(), LocalError> {
        self.work_on(|_, nodes| made(find(nodes, name)?)?.start())
    }

    /// Freezes a node, as [`LocalNode::freeze`].
    ///
    /// # Errors
    /// [`LocalError::NoNode`], and as [`LocalNode::freeze`].
    pub fn freeze_node(&mut self, name: &str) -> Result<(), LocalError> {
        self.work_on(|_, nodes| find(nodes, name)?.freeze())
    }

    /// Thaws a node, as [`LocalNode::thaw`]: also a former primary, which then takes writes that nobody gets.
    ///
    /// # Errors
    /// [`LocalError::NoNode`], and as [`LocalNode::thaw`].
    pub fn thaw_node(&mut self, name: &str) -> Result<(), LocalError> {
        self.work_on(|_, nodes| find(nodes, name)?.thaw())
    }

    /// Lets a replica lead its shard: returns when it takes writes, and the other replicas have been told to follow it.
    /// One that leads already is looked after in the same way.
    ///
    /// # Errors
    /// [`LocalError::NoNode`]; [`LocalError::Unfit`] if the present primary runs, if the node is a former primary, or
    /// does not run.
    pub fn promote(&mut self, name: &str) -> Result<Promoted, LocalError> {
        self.work_on(|work, nodes| {
            let node = find(nodes, name)?;
            let shard = shard_of(nodes, node);
            check_leader_gone(&shard, node)?;
            work.promote(&shard, node)
        })
    }

    /// Promotes the replica of a shard (`shard1`, …) that has stored most: at least all that a majority of the shard's
    /// nodes has.
    ///
    /// # Errors
    /// [`LocalError::NoNode`] for no shard; [`LocalError::Unfit`] if too few of its replicas run to tell, and as
    /// [`LocalCluster::promote`].
    pub fn promote_best(&mut self, shard: &str) -> Result<Promoted, LocalError> {
        self.work_on(|work, nodes| {
            let first = nodes.iter().find(|node| node.database() == shard);
            let first = first.ok_or_else(|| LocalError::NoNode(shard.to_owned()))?;
            let shard = shard_of(nodes, first);
            match shard.iter().find(|node| leads(node)) {
                Some(leader) if leader.state() == NodeState::Running => Err(runs(leader)),
                Some(_) | None => work.promote(&shard, best(&shard)?),
            }
        })
    }

    /// Lets a node follow the present primary of its shard, whatever it was: what it has and that one has not is gone.
    ///
    /// # Errors
    /// [`LocalError::NoNode`]; [`LocalError::Unfit`] if it is the primary itself, or that does not run.
    pub fn rejoin(&mut self, name: &str) -> Result<Rejoined, LocalError> {
        self.work_on(|work, nodes| {
            let node = find(nodes, name)?;
            let shard = shard_of(nodes, node);
            let unfit = |cause: &str| {
                Err(LocalError::Unfit { node: node.name.clone(), cause: cause.to_owned() })
            };
            match shard.iter().find(|node| leads(node)) {
                Some(leader) if leader.name == node.name => {
                    unfit("it is the primary of its shard; others rejoin it")
                }
                Some(leader) if leader.state() == NodeState::Running => work.rejoin(node, leader),
                Some(_) | None => unfit(
                    "no primary of its shard runs that it could follow; start that one, or promote another",
                ),
            }
        })
    }

    /// Does something to the cluster as it is noted now, while nobody else works on it, and notes what became of it.
    pub(super) fn work_on<R>(
        &mut self,
        act: impl FnOnce(&Work<'_>, &[LocalNode]) -> Result<R, LocalError>,
    ) -> Result<R, LocalError> {
        let ground = Arc::clone(&self.ground);
        let place = &ground.place;
        let lock = place.lock()?;
        let notes = Notes::load(&place.dir)?;
        if notes.is_going {
            return Err(LocalError::Going(place.dir.clone()));
        }
        let nodes = nodes_of(&ground, &notes);
        let work = Work { place, lock: &lock, notes: Mutex::new(notes) };
        let done = act(&work, &nodes);
        self.nodes = nodes_of(&ground, &work.notes());
        let written = place.write(&self.environment_file(), &environment::text(self));
        done.and_then(|done| written.map(|()| done))
    }
}

impl Work<'_> {
    fn promote(&self, shard: &[LocalNode], node: &LocalNode) -> Result<Promoted, LocalError> {
        let ground = &node.ground;
        if node.is_standby() {
            let mut command = ground.command("pg_ctl");
            command.args(["promote", "--silent", "--wait", "-t", PROMOTE_SECONDS, "-D"]);
            ground.run(&node.name, command.arg(node.data_dir()))?;
        }
        let deadline = Instant::now() + WRITES_MAX;
        while node.ask("SELECT pg_is_in_recovery()")? != "f" {
            if Instant::now() > deadline {
                let cause = "it was promoted and takes no writes yet; look at its log".to_owned();
                return Err(LocalError::Unfit { node: node.name.clone(), cause });
            }
            sleep(Duration::from_millis(20));
        }
        self.lead(shard, node)?;
        let mut behind = Vec::new();
        let deadline = Instant::now() + FOLLOW_MAX;
        for other in shard.iter().filter(|other| other.name != node.name && other.is_standby()) {
            let patience = deadline.saturating_duration_since(Instant::now());
            if other.state() == NodeState::Running && !node.is_followed_by(other, patience)? {
                behind.push(other.name.clone());
            }
        }
        Ok(Promoted { node: node.name.clone(), behind })
    }

    fn rejoin(&self, node: &LocalNode, leader: &LocalNode) -> Result<Rejoined, LocalError> {
        let follower = LocalNode { source: Some(leader.peer()), ..node.clone() };
        if node.is_complete() && node.is_standby() {
            self.lead(std::slice::from_ref(node), leader)?;
            follower.start()?;
            if leader.is_followed_by(node, FOLLOW_MAX)? {
                return Ok(Rejoined::Followed);
            }
        }
        if node.is_complete() {
            self.change(&node.name, |note| {
                note.is_made = false;
                note.follows = Some(leader.name.clone());
            })?;
            let rewound = rewind(&follower, leader, self.lock);
            if rewound.is_ok() && leader.is_followed_by(node, FOLLOW_MAX)? {
                self.change(&node.name, |note| note.is_made = true)?;
                return Ok(Rejoined::Rewound);
            }
        }
        self.make_replica(node, leader)?;
        Ok(Rejoined::MadeAgain)
    }
}

fn find<'n>(nodes: &'n [LocalNode], name: &str) -> Result<&'n LocalNode, LocalError> {
    let found = nodes.iter().find(|node| node.name == name);
    found.ok_or_else(|| LocalError::NoNode(name.to_owned()))
}

fn made(node: &LocalNode) -> Result<&LocalNode, LocalError> {
    if node.is_complete() {
        return Ok(node);
    }
    let cause = "it is not made yet; `cluster up` makes it".to_owned();
    Err(LocalError::Unfit { node: node.name.clone(), cause })
}

fn shard_of(nodes: &[LocalNode], node: &LocalNode) -> Vec<LocalNode> {
    nodes.iter().filter(|other| other.shard == node.shard).cloned().collect()
}

/// Whether it is a primary with rows, and not only the one that is to be made as such.
fn leads(node: &LocalNode) -> bool {
    node.role == Role::Primary && node.is_complete() && !node.is_standby()
}

/// Whether a node can be promoted as things are.
fn check_leader_gone(shard: &[LocalNode], node: &LocalNode) -> Result<(), LocalError> {
    let unfit =
        |cause: &str| Err(LocalError::Unfit { node: node.name.clone(), cause: cause.to_owned() });
    if node.is_former_primary() {
        return unfit("it is no replica but a former primary; let it rejoin first");
    }
    match made(node)?.state() {
        NodeState::Running => {}
        NodeState::Frozen | NodeState::Stopped | NodeState::NotMade => {
            return unfit("it does not run; start it first");
        }
    }
    match shard.iter().find(|other| leads(other)) {
        Some(leader) if leader.name != node.name && leader.state() == NodeState::Running => {
            Err(runs(leader))
        }
        Some(_) | None => Ok(()),
    }
}

fn runs(leader: &LocalNode) -> LocalError {
    let cause = format!(
        "it is the primary and runs, so no other can be; stop it first (`cluster stop {}`)",
        leader.name
    );
    LocalError::Unfit { node: leader.name.clone(), cause }
}
