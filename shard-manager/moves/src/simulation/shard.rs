//! Simulated shard: nodes with logs, a primary, failovers, and a deposed primary that does not know
//! that it has a successor.

use std::rc::Rc;

use model::position::{Position, TimelineHistory};

use super::database::Database;
use super::random::Random;

/// Node with its log: the database after each commit.
pub(super) struct Node {
    pub(super) history: TimelineHistory,
    pub(super) log: Vec<Rc<Database>>,
    /// False from an election until the node follows the new primary. Meanwhile it does not count
    /// for any majority.
    is_following: bool,
    /// Offset of the node's clock from the time of the world, in milliseconds.
    pub(super) clock: i64,
}

impl Node {
    pub(super) fn database(&self) -> &Rc<Database> {
        self.log.last().unwrap()
    }

    pub(super) fn position(&self) -> Position {
        Position { timeline: self.history.current(), sequence: self.log.len() as u64 }
    }

    /// Returns true if the node has everything up to a position of its own history.
    pub(super) fn has_passed(&self, position: Position) -> bool {
        position.sequence == 0
            || self.history.holds(position) && self.log.len() as u64 >= position.sequence
    }
}

/// Write that the shard has accepted and not yet committed.
#[derive(Clone, Copy)]
pub(super) struct RunningWrite {
    pub(super) change: u64,
    pub(super) write: usize,
    pub(super) key: usize,
    pub(super) deletes: bool,
}

pub(super) struct Shard {
    pub(super) nodes: Vec<Node>,
    pub(super) primary: usize,
    pub(super) deposed: Option<usize>,
    pub(super) running: Vec<RunningWrite>,
    pub(super) next_change: u64,
    timelines: u32,
}

impl Shard {
    pub(super) fn new(database: Database, replicas: usize) -> Self {
        let database = Rc::new(database);
        let node = || Node {
            history: TimelineHistory::new(vec![(1, 0)]).unwrap(),
            log: vec![database.clone()],
            is_following: true,
            clock: 0,
        };
        let nodes = (0..=replicas).map(|_| node()).collect();
        Self { nodes, primary: 0, deposed: None, running: Vec::new(), next_change: 1, timelines: 1 }
    }

    pub(super) fn database(&self) -> &Rc<Database> {
        self.nodes[self.primary].database()
    }

    /// Returns a node that accepts writes: the primary, or sometimes the deposed one.
    pub(super) fn believed_primary(&self, random: &mut Random, thousandths: u32) -> usize {
        match self.deposed {
            Some(node) if random.chance(thousandths) => node,
            Some(_) | None => self.primary,
        }
    }

    pub(super) fn accepts_writes(&self, node: usize) -> bool {
        node == self.primary || Some(node) == self.deposed
    }

    /// Returns the number of replicas that, with the primary, form a majority.
    fn majority(&self) -> usize {
        (self.nodes.len() - 1).div_ceil(2)
    }

    fn followers(&self, node: usize) -> impl Iterator<Item = &Node> {
        let timeline = self.nodes[node].history.current();
        self.nodes.iter().enumerate().filter_map(move |(index, other)| {
            let follows = index != node && other.is_following && !self.accepts_writes(index);
            (follows && other.history.current() == timeline).then_some(other)
        })
    }

    /// Returns the number of followers of a node that have its log up to a length.
    fn flushed_by(&self, node: usize, sequence: u64) -> usize {
        self.followers(node).filter(|other| other.log.len() as u64 >= sequence).count()
    }

    /// Returns the number of replicas that have flushed a position of the primary's log.
    pub(super) fn flushed(&self, position: Position) -> usize {
        if self.nodes[self.primary].history.current() == position.timeline {
            self.flushed_by(self.primary, position.sequence)
        } else {
            0
        }
    }

    /// Returns true if a majority has flushed the log of a node up to a length.
    pub(super) fn is_confirmed(&self, node: usize, sequence: u64) -> bool {
        self.flushed_by(node, sequence) >= self.majority()
    }

    pub(super) fn has_majority(&self, node: usize) -> bool {
        self.followers(node).count() >= self.majority()
    }

    pub(super) fn commit(&mut self, node: usize, database: Database) {
        self.nodes[node].log.push(Rc::new(database));
    }

    /// Lets a node that is not primary receive some of the log, or join the primary again.
    ///
    /// `rejoin` is the probability, in thousandths, that a deposed primary joins, and `lag` that
    /// the last of several replicas receives nothing.
    pub(super) fn replicate(
        &mut self,
        node: usize,
        random: &mut Random,
        (rejoin, lag): (u32, u32),
    ) {
        let stays_deposed = Some(node) == self.deposed && !random.chance(rejoin);
        let lags = node > 1 && node == self.nodes.len() - 1 && lag > 0 && random.chance(lag);
        if node == self.primary || stays_deposed || lags {
            return;
        }
        let timeline = self.nodes[node].history.current();
        let is_alone = !self.nodes[node].is_following || Some(node) == self.deposed;
        let upstream = [Some(self.primary), self.deposed].into_iter().flatten();
        let upstream =
            upstream.into_iter().find(|up| self.nodes[*up].history.current() == timeline);
        match upstream.filter(|_| !is_alone) {
            Some(up) => {
                let (from, to) = (self.nodes[node].log.len(), self.nodes[up].log.len());
                if from < to {
                    let end = from + 1 + random.below(to - from);
                    let records = self.nodes[up].log[from..end].to_vec();
                    self.nodes[node].log.extend(records);
                }
                // A replica that still follows the deposed primary finds the new one sooner or
                // later.
                if up != self.primary && random.chance(300) {
                    self.join(node);
                }
            }
            None => self.join(node),
        }
    }

    /// Replaces the log and the history of a node with those of the primary.
    fn join(&mut self, node: usize) {
        if Some(node) == self.deposed {
            self.deposed = None;
        }
        let (log, history) = {
            let primary = &self.nodes[self.primary];
            (primary.log.clone(), primary.history.clone())
        };
        let joined = &mut self.nodes[node];
        joined.log = log;
        joined.history = history;
        joined.is_following = true;
    }

    /// Returns true if the log of a node is a prefix of the primary's. A manager of servers must
    /// not promote a deposed primary that has a history of its own.
    fn is_behind_primary(&self, node: usize) -> bool {
        let (log, primary) = (&self.nodes[node].log, &self.nodes[self.primary].log);
        let same = primary.get(log.len() - 1);
        same.zip(log.last()).is_some_and(|(same, last)| Rc::ptr_eq(same, last))
    }

    /// Promotes the most advanced of some random replicas. They are so many that every majority
    /// contains one of them. Returns false if none can be promoted.
    pub(super) fn fail_over(&mut self, random: &mut Random) -> bool {
        if self.nodes.len() == 1 {
            return false;
        }
        let mut others: Vec<usize> =
            (0..self.nodes.len()).filter(|node| *node != self.primary).collect();
        let seen = others.len() / 2 + 1;
        for index in 0..seen {
            let swap = index + random.below(others.len() - index);
            others.swap(index, swap);
        }
        others.truncate(seen);
        let rank =
            |node: &usize| (self.nodes[*node].history.current(), self.nodes[*node].log.len());
        // A node with a history of its own can neither be promoted nor vouch for a majority.
        if !others.iter().all(|node| self.is_behind_primary(*node)) {
            return false;
        }
        let Some(elected) = others.iter().copied().max_by_key(rank) else { return false };
        for node in &others {
            self.nodes[*node].is_following = false;
        }
        if let Some(node) = self.deposed {
            self.nodes[node].is_following = false;
        }
        self.deposed = Some(self.primary);
        self.primary = elected;
        self.timelines += 1;
        let node = &mut self.nodes[elected];
        let length = node.log.len() as u64;
        node.history = node.history.followed_by(self.timelines, length);
        self.running.clear();
        self.next_change = node.database().next_change;
        true
    }
}
