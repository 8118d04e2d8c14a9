//! Primary tracker: knows the node of a shard that takes writes, and switches to another node when
//! that is promoted.
//!
//! An operator, a cloud or a failover manager chooses the primary; this module only finds it. Each
//! promotion begins a new timeline of PostgreSQL. So of two nodes that accept writes the one on the
//! higher timeline is the primary, and a node on a lower timeline than the highest known one was
//! deposed, whatever it reports. Each change begins a new term; a session knows the term in which
//! it was opened, and is not used in another.
//!
//! **Invariant:** terms continue to higher timelines only; before a term begins, the known
//! positions of the shard's nodes are replaced by those of the new primary.
//! **Not here:** noticing a promotion (`replica`), statements on a session.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex as Lock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use diesel_async::AsyncPgConnection;
use engine::node_address::NodeAddress;
use engine::replication::ReplicationState;
use futures_util::future::join_all;
use model::position::TimelineHistory;
use tokio::sync::{Mutex, watch};

use super::citus::Citus;
use super::hazards::Hazards;
use super::node::{Node, NodeError};
use super::session::{Identity, NodeRole, Session};
use super::sql;
use super::statement::{Statement, load};

/// Time limit for the answer of one node in a search.
const SEEK_MAX: Duration = Duration::from_millis(500);
/// Least interval between two searches.
const SEEK_EVERY: Duration = Duration::from_millis(100);
/// Largest number of timelines by which a token may be ahead of the known one.
const AHEAD_MAX: u32 = 1_024;
/// Number of remembered positions of the primary with their times: the data of a replica is as old
/// as the last position that it has passed.
const SAMPLES_MAX: usize = 512;
/// Least interval between two remembered positions.
const SAMPLES_APART: Duration = Duration::from_millis(20);

/// Period in which one node is the primary on one timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// Index of the node.
    pub member: usize,
    /// Timeline of the node.
    pub timeline: u32,
}

/// The nodes of a shard, and the one that is the primary.
pub struct PrimaryTracker {
    members: Vec<Node>,
    system: u64,
    term: watch::Sender<Term>,
    /// Positions of the nodes; the catalog has none.
    replication: Option<Arc<ReplicationState>>,
    /// Known state of Citus, if the nodes are coordinators.
    citus: Option<Arc<Citus>>,
    /// Locked during a search for the primary.
    last_search: Mutex<LastSearch>,
    samples: Lock<VecDeque<(u64, Instant)>>,
    /// Hazards of the tables at the last check.
    hazards: ArcSwap<Hazards>,
}

/// Result of the last search for the primary.
#[derive(Default)]
struct LastSearch {
    /// Time of the search.
    at: Option<Instant>,
    /// Errors of nodes that could not be queried, as logged: each is logged once until the node
    /// answers.
    refused: BTreeMap<usize, String>,
}

/// A session with the primary.
pub struct PrimarySession {
    /// The session.
    pub session: Session,
    /// Term in which the session may be used.
    pub term: Term,
}

impl PrimaryTracker {
    /// Tracks the primary of a shard, or of the catalog, which has no replication state. The first
    /// node leads now.
    pub fn new(
        members: Vec<Node>,
        identity: &Identity,
        replication: Option<&Arc<ReplicationState>>,
        citus: Option<Arc<Citus>>,
    ) -> Arc<Self> {
        let term = Term { member: 0, timeline: identity.timeline };
        Arc::new(Self {
            members,
            system: identity.system,
            term: watch::Sender::new(term),
            replication: replication.map(Arc::clone),
            citus,
            last_search: Mutex::default(),
            samples: Lock::default(),
            hazards: ArcSwap::default(),
        })
    }

    /// Returns the known state of Citus, if the primary is its coordinator.
    pub fn citus(&self) -> Option<&Arc<Citus>> {
        self.citus.as_ref()
    }

    /// Returns the name of the primary, whichever node it is.
    pub fn name(&self) -> &str {
        &self.members[0].name
    }

    /// Returns the present address of the primary.
    pub fn address(&self) -> &NodeAddress {
        &self.members[self.term().member].address
    }

    /// Returns the present name of a node. Names belong to roles: the first primary takes the name
    /// of the present one.
    pub fn called(&self, member: usize) -> &str {
        let leading = self.term().member;
        let named = if member == leading {
            0
        } else if member == 0 {
            leading
        } else {
            member
        };
        &self.members[named].name
    }

    /// Returns the nodes.
    pub fn members(&self) -> &[Node] {
        &self.members
    }

    /// Returns the present term.
    pub fn term(&self) -> Term {
        *self.term.borrow()
    }

    /// Returns the id of a term in histories. Two shards have different ids, except for one chance
    /// in four billion.
    pub fn life(&self, term: Term) -> u32 {
        life(self.system, term.timeline)
    }

    /// Returns when this term is over.
    pub async fn ended(&self, term: Term) {
        self.until(|now| *now != term).await;
    }

    /// Returns when the present term is one of these.
    pub async fn until(&self, is_met: impl FnMut(&Term) -> bool) {
        let mut terms = self.term.subscribe();
        // The sender lives as long as this.
        let _ = terms.wait_for(is_met).await;
    }

    /// Returns true if this timeline is later than all known ones: a node was promoted, and this
    /// router does not know it yet. Returns false if the id is no timeline of this system.
    pub fn is_ahead(&self, life_sought: u32) -> bool {
        let known = self.term().timeline;
        let mut later = (1..=AHEAD_MAX).map_while(|step| known.checked_add(step));
        later.any(|timeline| life(self.system, timeline) == life_sought)
    }

    /// Searches for the primary among all nodes at once, instead of waiting until a promotion is
    /// noticed.
    pub async fn look(&self) {
        self.seek(self.term()).await;
    }

    /// Opens a session with the primary, whichever node that is.
    ///
    /// # Errors
    /// [`NodeError`] of the last primary, if there is none now.
    pub async fn connect(&self, purpose: &str) -> Result<PrimarySession, NodeError> {
        let term = self.term();
        let node = &self.members[term.member];
        let connected = tokio::select! {
            connected = node.connect(purpose, NodeRole::Primary) => connected,
            // The node may be frozen: another one is the primary by now.
            () = self.ended(term) => Err(node.another("another node is the primary now")),
        };
        let error = match connected {
            Ok(session) if session.identity.timeline == term.timeline => {
                return Ok(PrimarySession { session, term });
            }
            Ok(session) if session.identity.timeline < term.timeline => node.another(DEPOSED),
            Ok(_) => node.another("it was promoted a moment ago"),
            Err(error) => error,
        };
        if !self.seek(term).await {
            return Err(error);
        }
        let term = self.term();
        let node = &self.members[term.member];
        let session = node.connect(purpose, NodeRole::Primary).await?;
        if session.identity.timeline == term.timeline {
            Ok(PrimarySession { session, term })
        } else {
            Err(node.another("it was promoted a moment ago"))
        }
    }

    /// Searches for the primary; returns true if a term has begun since `known`.
    async fn seek(&self, known: Term) -> bool {
        let mut last = self.last_search.lock().await;
        if self.term() != known {
            return true;
        }
        if last.at.is_some_and(|at| at.elapsed() < SEEK_EVERY) {
            return false;
        }
        let asked = self.members.iter().map(async |node| {
            let connecting = node.connect("failover", NodeRole::Primary);
            tokio::time::timeout(SEEK_MAX, connecting).await
        });
        let mut found = Vec::new();
        for (member, asked) in join_all(asked).await.into_iter().enumerate() {
            match asked {
                Ok(Ok(session)) => {
                    last.refused.remove(&member);
                    found.push((member, session));
                }
                Ok(Err(error)) => self.tell_refusal(&mut last.refused, member, &error),
                Err(_elapsed) => {}
            }
        }
        let best = found.into_iter().max_by_key(|(_, session)| session.identity.timeline);
        last.at = Some(Instant::now());
        match best {
            Some((member, session)) => self.begin(member, &session).await,
            None => false,
        }
    }

    /// Logs the error that would prevent this router from following a node if it were promoted.
    fn tell_refusal(
        &self,
        refused: &mut BTreeMap<usize, String>,
        member: usize,
        error: &NodeError,
    ) {
        if error.is_transient() {
            refused.remove(&member);
            return;
        }
        let told = error.to_string();
        if refused.get(&member) != Some(&told) {
            let (node, at) = (self.called(member), &self.members[member].address);
            tracing::warn!(node, %at, %error, "a node cannot be queried: it would not be followed if it were promoted");
            refused.insert(member, told);
        }
    }

    /// Records that a node accepts writes: it is the primary if its timeline is higher than all
    /// before.
    ///
    /// # Errors
    /// [`NodeError`] if the node does not answer.
    pub async fn found(&self, member: usize) -> Result<(), NodeError> {
        let _search = self.last_search.lock().await;
        let session = self.members[member].connect("failover", NodeRole::Primary).await?;
        self.begin(member, &session).await;
        Ok(())
    }

    /// Begins a term, if this node has a higher timeline than the present primary.
    async fn begin(&self, member: usize, session: &Session) -> bool {
        let timeline = session.identity.timeline;
        if timeline <= self.term().timeline {
            return false;
        }
        let node = &self.members[member];
        let position = match position(&session.connection).await {
            Ok(position) => position,
            Err(error) => {
                let (node, at) = (self.called(member), &node.address);
                tracing::warn!(node, %at, %error, "a node that was promoted does not answer");
                return false;
            }
        };
        if let Some(replication) = &self.replication {
            let known = lives(&session.connection, &session.identity).await;
            let history = known.unwrap_or_else(|| {
                // The node certainly has the changes up to its last reported position; whether it
                // has more is unknown.
                let kept = replication
                    .replicas()
                    .durable(member)
                    .max(replication.replicas().applied(member));
                replication.timeline().history().followed_by(life(self.system, timeline), kept)
            });
            self.samples().clear();
            replication.follow(history, position, member);
        }
        let (was, before) = (self.called(member), self.address());
        let (node, at) = (self.name(), &node.address);
        tracing::warn!(node, %at, was, %before, timeline, "a promoted node is followed");
        self.term.send_replace(Term { member, timeline });
        true
    }

    /// Returns the hazards of the tables at the last check.
    pub fn hazards(&self) -> arc_swap::Guard<Arc<Hazards>> {
        self.hazards.load()
    }

    /// Records the tables' hazards that were found, and reported to the operator, when the cluster
    /// was opened.
    pub fn set_hazards(&self, found: Hazards) {
        self.hazards.store(Arc::new(found));
    }

    /// Records the hazards of the primary's tables, and logs the differences.
    pub(super) fn saw(&self, found: Hazards) {
        let before = self.hazards.load_full();
        if *before == found {
            return;
        }
        let (node, at) = (self.name(), self.address());
        for finding in found.new_since(&before) {
            tracing::warn!(node, %at, "{finding}");
        }
        for finding in before.new_since(&found) {
            tracing::info!(node, %at, "resolved: {finding}");
        }
        self.hazards.store(Arc::new(found));
    }

    /// Records the end of the primary's log, and the time of the query.
    pub(super) fn remember(&self, written: u64, asked_at: Instant) {
        let mut samples = self.samples();
        if let Some((known, at)) = samples.back_mut()
            && (*known == written || asked_at.duration_since(*at) < SAMPLES_APART)
        {
            if *known == written {
                *at = asked_at;
            }
            return;
        }
        if samples.len() == SAMPLES_MAX {
            samples.pop_front();
        }
        samples.push_back((written, asked_at));
    }

    /// Returns the last time at which the primary had no more than this position.
    pub(super) fn had_all_at(&self, position: u64) -> Option<Instant> {
        let samples = self.samples();
        samples.iter().rev().find(|(written, _)| *written <= position).map(|(_, at)| *at)
    }

    fn samples(&self) -> std::sync::MutexGuard<'_, VecDeque<(u64, Instant)>> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Message about a deposed node.
pub(super) const DEPOSED: &str =
    "another node was promoted since: this one must not be written to; make it a replica";

fn life(system: u64, timeline: u32) -> u32 {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&system.to_be_bytes());
    bytes[8..].copy_from_slice(&timeline.to_be_bytes());
    xxhash_rust::xxh3::xxh3_64(&bytes) as u32
}

/// Returns the end of a primary's log.
async fn position(connection: &AsyncPgConnection) -> diesel::QueryResult<u64> {
    let statement = Statement { sql: sql::POSITION, binds: &[], cached: false };
    let rows = load(connection, statement).await?;
    Ok(rows.first().and_then(|row| row.bigint(0)).unwrap_or(0).cast_unsigned())
}

/// Returns the timelines of a primary; only its present one, if it hides the others.
pub async fn history(connection: &AsyncPgConnection, identity: &Identity) -> TimelineHistory {
    let own = || (life(identity.system, identity.timeline), 0);
    lives(connection, identity)
        .await
        .or_else(|| TimelineHistory::new(vec![own()]))
        .unwrap_or_else(|| unreachable!("one timeline is in order"))
}

/// Reads a primary's file of timelines; `None` if that is impossible.
async fn lives(connection: &AsyncPgConnection, identity: &Identity) -> Option<TimelineHistory> {
    let Identity { system, timeline, .. } = *identity;
    let mut lives = Vec::new();
    if timeline > 1 {
        let sql = format!("SELECT pg_read_file('pg_wal/{timeline:08X}.history')");
        let read = load(connection, Statement { sql: &sql, binds: &[], cached: false }).await;
        let text = match read {
            Ok(rows) => rows.first()?.text(0)?,
            Err(error) => {
                tracing::warn!(%error, "the file of timelines cannot be read: tokens from before a failover may be \
                    refused; GRANT EXECUTE ON FUNCTION pg_read_file(text) to the user of Tessera");
                return None;
            }
        };
        lives = parse(&text)?;
    }
    // Each line has the end of a timeline, at which the next one began.
    let began = [0].into_iter().chain(lives.iter().map(|(_, ended)| *ended));
    let timelines = lives.iter().map(|(timeline, _)| *timeline).chain([timeline]);
    TimelineHistory::new(timelines.map(|timeline| life(system, timeline)).zip(began).collect())
}

/// Parses lines of timeline, end, and reason.
fn parse(text: &str) -> Option<Vec<(u32, u64)>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines = lines.filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.split_whitespace();
            let timeline = words.next()?.parse().ok()?;
            let (high, low) = words.next()?.split_once('/')?;
            let number = |text| u64::from_str_radix(text, 16).ok();
            Some((timeline, number(high)? << 32 | number(low)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_timelines_says_where_each_ended() {
        let text =
            "1\t0/3000148\tno recovery target specified\n\n2\t1/A0\tno recovery target specified\n";
        assert_eq!(parse(text), Some(vec![(1, 0x300_0148), (2, 0x1_0000_00A0)]));
        assert_eq!(parse(""), Some(vec![]));
        assert_eq!(parse("one\t0/0\n"), None);
    }
}
