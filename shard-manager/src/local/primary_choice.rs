//! Leading: which node of a shard is its primary, and who follows it.
//!
//! A node that was promoted is on a later timeline than the one it took over from, and its folder tells so: even if
//! whoever promoted it was cut off before it was noted. What is noted decides between nodes of one timeline.
//!
//! **Invariant:** a shard has one primary; a former one, which others have taken over from, is never taken for it.
//! **Not here:** deciding that a node is to take over (`node_commands`).

use std::cmp::Reverse;
use std::fs;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::error::LocalError;
use super::manifest::{NodeNote, Notes};
use super::node::{LocalNode, NodeState};
use super::parallel_tasks::Work;
use super::provision::{ensure_slot, forget_source};
use super::shared_env::{Ground, Peer};
use crate::topology::Role;

/// How often it is looked whether a node follows.
const POLL: Duration = Duration::from_millis(50);

/// The nodes that are noted, as they are.
pub(super) fn nodes_of(ground: &Arc<Ground>, notes: &Notes) -> Vec<LocalNode> {
    let peer_of = |name: &String| {
        let found = notes.nodes.iter().find(|it| it.name == *name);
        found.map(|it| Peer::here(it.port))
    };
    let node = |note: &NodeNote| node_of(ground, note, note.follows.as_ref().and_then(peer_of));
    let mut nodes: Vec<_> = notes.nodes.iter().map(node).collect();
    for shard in nodes.chunk_by_mut(|a, b| a.shard == b.shard) {
        let leader = leader_of(shard);
        for (at, node) in shard.iter_mut().enumerate() {
            node.role = if at == leader { Role::Primary } else { Role::Replica };
        }
    }
    nodes
}

/// A node that is noted, before it is looked who of its shard leads.
pub(super) fn node_of(ground: &Arc<Ground>, note: &NodeNote, source: Option<Peer>) -> LocalNode {
    LocalNode {
        name: note.name.clone(),
        shard: note.shard,
        database: format!("shard{}", note.shard + 1),
        role: if note.number == 0 { Role::Primary } else { Role::Replica },
        port: note.port,
        dir: ground.place.dir.join(&note.name),
        is_noted: note.is_made,
        is_leading: note.follows.is_none(),
        source,
        ground: Arc::clone(ground),
    }
}

fn leader_of(shard: &[LocalNode]) -> usize {
    let noted = shard.iter().position(|node| node.is_leading).unwrap_or(0);
    if shard[noted].is_noted && !shard[noted].is_complete() {
        // Its rows are gone: whoever led before it lacks them, and does not take its place unasked.
        return noted;
    }
    let leads = |at: &usize| shard[*at].is_complete() && !shard[*at].is_standby();
    let rank = |at: &usize| {
        let node = &shard[*at];
        (node.timeline(), *at == noted, node.is_running(), Reverse(*at))
    };
    (0..shard.len()).filter(leads).max_by_key(rank).unwrap_or(noted)
}

impl LocalNode {
    /// Whether it was the primary of its shard until another node took over, and has not been made to follow that yet.
    /// It may hold rows that no other node has.
    pub fn is_former_primary(&self) -> bool {
        self.role == Role::Replica && self.is_complete() && !self.is_standby()
    }

    /// How many times it was taken over from those that it descends from, plus one. PostgreSQL keeps a file for each.
    pub(super) fn timeline(&self) -> u32 {
        let found = fs::read_dir(self.data_dir().join("pg_wal"));
        let names = found.into_iter().flatten().flatten().map(|entry| entry.file_name());
        let number = |name: &str| u32::from_str_radix(name.strip_suffix(".history")?, 16).ok();
        let timelines = names.filter_map(|name| number(name.to_str()?));
        timelines.max().unwrap_or(1)
    }

    /// The end of the log that it has stored, in bytes.
    pub(super) fn position(&self) -> Result<u64, LocalError> {
        // What came since the last start, or, before anything came, what was there.
        let asked = "SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0'";
        let said = self.ask(asked)?;
        said.parse().map_err(|_| LocalError::Unfit {
            node: self.name.clone(),
            cause: "it does not tell how much of the log it has; look at its log".to_owned(),
        })
    }

    /// Lets its server follow the node that it is noted to follow.
    fn repoint(&self) -> Result<(), LocalError> {
        forget_source(self)?;
        self.write_settings()?;
        if !self.is_running() {
            return Ok(());
        }
        let mut command = self.ground.command("pg_ctl");
        self.ground.run(&self.name, command.args(["reload", "--silent", "-D"]).arg(self.data_dir()))
    }

    /// Whether another node follows this one, if not yet, after some time.
    pub(super) fn is_followed_by(
        &self,
        node: &Self,
        patience: Duration,
    ) -> Result<bool, LocalError> {
        let asked = format!(
            "SELECT count(*) FROM pg_stat_replication WHERE application_name = '{}' AND state = 'streaming'",
            node.slot()
        );
        let deadline = Instant::now() + patience;
        loop {
            if self.ask(&asked)? != "0" {
                return Ok(true);
            }
            if Instant::now() > deadline {
                return Ok(false);
            }
            sleep(POLL);
        }
    }
}

impl Work<'_> {
    /// Lets the replicas of a shard follow a node that leads it: also those that do not run, as soon as they are started.
    pub(super) fn lead(&self, shard: &[LocalNode], leader: &LocalNode) -> Result<(), LocalError> {
        let others: Vec<_> = shard.iter().filter(|node| node.name != leader.name).collect();
        let replicas: Vec<_> =
            others.iter().filter(|node| node.is_complete() && node.is_standby()).collect();
        for node in &replicas {
            ensure_slot(node, &leader.peer(), self.lock)?;
        }
        {
            let mut notes = self.notes();
            for node in &others {
                notes.node(&node.name)?.follows = Some(leader.name.clone());
            }
            notes.node(&leader.name)?.follows = None;
            notes.save(self.place)?;
        }
        let follow =
            |node: &LocalNode| LocalNode { source: Some(leader.peer()), ..node.clone() }.repoint();
        replicas.into_iter().try_for_each(|node| follow(node))
    }

    /// The nodes of a shard, after it was noted who leads it if somebody else promoted one.
    pub(super) fn settled(&self, shard: &[LocalNode]) -> Result<Vec<LocalNode>, LocalError> {
        let mut settled = shard.to_vec();
        let leader = shard.iter().find(|node| node.role == Role::Primary);
        let Some(leader) = leader.filter(|node| node.is_complete() && !node.is_standby()) else {
            return Ok(settled);
        };
        if leader.is_leading {
            return Ok(settled);
        }
        leader.start()?;
        self.lead(shard, leader)?;
        for node in &mut settled {
            node.is_leading = node.name == leader.name;
            node.source = (!node.is_leading).then(|| leader.peer());
        }
        Ok(settled)
    }
}

/// The replica of a shard that has all that any of them has, if enough of them can be asked: then it has whatever a
/// majority of the shard's nodes has stored.
pub(super) fn best(shard: &[LocalNode]) -> Result<&LocalNode, LocalError> {
    let can_tell = |node: &&LocalNode| node.is_standby() && node.state() == NodeState::Running;
    let asked: Vec<_> = shard.iter().filter(can_tell).collect();
    let needed = shard.len().div_ceil(2);
    if asked.len() < needed || asked.is_empty() {
        let cause = format!(
            "{} of its replicas can be asked and it takes {needed} to know what a majority has; start or thaw the \
             others, or name the one to promote",
            asked.len()
        );
        return Err(LocalError::Unfit { node: shard[0].database(), cause });
    }
    let mut best = None;
    for node in asked {
        let rank = (node.timeline(), node.position()?);
        if best.is_none_or(|(most, _)| rank > most) {
            best = Some((rank, node));
        }
    }
    let unknown = || LocalError::NoNode(shard[0].database());
    best.map(|(_, node)| node).ok_or_else(unknown)
}
