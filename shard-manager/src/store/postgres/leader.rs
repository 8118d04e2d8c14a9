//! Leader: which node of a shard takes writes, and how this router follows when that changes.
//!
//! Others decide who leads: a failover manager, a cloud, a person. Here that is only found out. Each promotion begins a
//! new timeline of PostgreSQL, so of two nodes that take writes the one on the higher timeline leads, and a node on a
//! lower one than was ever met was deposed, whatever it says of itself. Each change begins a new term; a session knows
//! the term it was made in, and is not used in another.
//!
//! **Invariant:** terms go on to higher timelines only; before a term begins, all that is known of the shard's nodes is
//! what the new leader has.
//! **Not here:** who notices a promotion (`replica`), what is done on a session.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex as Lock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use diesel_async::AsyncPgConnection;
use futures_util::future::join_all;
use tokio::sync::{Mutex, watch};

use super::citus::Citus;
use super::hazards::Hazards;
use super::node::{Node, NodeError};
use super::session::{Identity, Session, Wanted};
use super::sql;
use super::statement::{Statement, load};
use crate::address::NodeAddress;
use crate::position::TimelineHistory;
use crate::progress::Progress;

/// How long one node may take to say whether it leads, while others are asked as well.
const SEEK_MAX: Duration = Duration::from_millis(500);
/// How often all nodes are asked at most.
const SEEK_EVERY: Duration = Duration::from_millis(100);
/// Largest number of timelines by which a token may be ahead of the known one.
const AHEAD_MAX: u32 = 1_024;
/// Moments at which the leader's position is remembered: what a replica has is as old as the last that it has passed.
const SAMPLES_MAX: usize = 512;
/// How far these lie apart at least.
const SAMPLES_APART: Duration = Duration::from_millis(20);

/// The time in which one node leads on one timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// Which of the members.
    pub member: usize,
    /// On which timeline.
    pub timeline: u32,
}

/// The nodes of a shard, and which of them leads.
pub struct Leader {
    members: Vec<Node>,
    system: u64,
    term: watch::Sender<Term>,
    /// How far its nodes have come; the catalog's are not watched.
    progress: Option<Arc<Progress>>,
    /// What is known of Citus, if that is what they are.
    citus: Option<Arc<Citus>>,
    /// Held by whoever looks for the leader.
    turn: Mutex<Sought>,
    samples: Lock<VecDeque<(u64, Instant)>>,
    /// Hazards of its tables at the last check.
    hazards: ArcSwap<Hazards>,
}

/// What was found when the leader was looked for.
#[derive(Default)]
struct Sought {
    /// When that was last done.
    at: Option<Instant>,
    /// Nodes of which it was told why they cannot be asked: once, until they can.
    refused: BTreeMap<usize, String>,
}

/// A session with the leader.
pub struct Led {
    /// The session.
    pub session: Session,
    /// When it may be used.
    pub term: Term,
}

impl Leader {
    /// The nodes of a shard (or of the catalog, then without progress), of which the first leads now.
    pub fn new(
        members: Vec<Node>,
        identity: &Identity,
        progress: Option<&Arc<Progress>>,
        citus: Option<Arc<Citus>>,
    ) -> Arc<Self> {
        let term = Term { member: 0, timeline: identity.timeline };
        Arc::new(Self {
            members,
            system: identity.system,
            term: watch::Sender::new(term),
            progress: progress.map(Arc::clone),
            citus,
            turn: Mutex::default(),
            samples: Lock::default(),
            hazards: ArcSwap::default(),
        })
    }

    /// What is known of Citus, if the leader is its coordinator.
    pub fn citus(&self) -> Option<&Arc<Citus>> {
        self.citus.as_ref()
    }

    /// What the leader is called, whichever it is.
    pub fn name(&self) -> &str {
        &self.members[0].name
    }

    /// Where the leader is now.
    pub fn address(&self) -> &NodeAddress {
        &self.members[self.term().member].address
    }

    /// What a node is called now: names belong to roles, so the node that led at first has that of the one that leads.
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

    /// The nodes.
    pub fn members(&self) -> &[Node] {
        &self.members
    }

    /// The present term.
    pub fn term(&self) -> Term {
        *self.term.borrow()
    }

    /// The id of a term in histories: of two shards these differ but for one chance in four billions.
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

    /// True if this timeline is later than all that are known here: a node was promoted, and this
    /// router has not learned of it yet. False if the id is no timeline of this system.
    pub fn is_ahead(&self, life_sought: u32) -> bool {
        let known = self.term().timeline;
        let mut later = (1..=AHEAD_MAX).map_while(|step| known.checked_add(step));
        later.any(|timeline| life(self.system, timeline) == life_sought)
    }

    /// Asks all nodes at once which of them leads, instead of waiting until the leader reports
    /// itself.
    pub async fn look(&self) {
        self.seek(self.term()).await;
    }

    /// A session with the node that leads, whichever that is.
    ///
    /// # Errors
    /// [`NodeError`] of the one that led last, if none does now.
    pub async fn connect(&self, purpose: &str) -> Result<Led, NodeError> {
        let term = self.term();
        let node = &self.members[term.member];
        let connected = tokio::select! {
            connected = node.connect(purpose, Wanted::Primary) => connected,
            // It may be frozen: there is another by now.
            () = self.ended(term) => Err(node.another("another node leads by now")),
        };
        let error = match connected {
            Ok(session) if session.identity.timeline == term.timeline => {
                return Ok(Led { session, term });
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
        let session = node.connect(purpose, Wanted::Primary).await?;
        if session.identity.timeline == term.timeline {
            Ok(Led { session, term })
        } else {
            Err(node.another("it was promoted a moment ago"))
        }
    }

    /// Asks all nodes which of them leads; tells whether a term has begun since `known`.
    async fn seek(&self, known: Term) -> bool {
        let mut sought = self.turn.lock().await;
        if self.term() != known {
            return true;
        }
        if sought.at.is_some_and(|at| at.elapsed() < SEEK_EVERY) {
            return false;
        }
        let asked = self.members.iter().map(async |node| {
            let connecting = node.connect("failover", Wanted::Primary);
            tokio::time::timeout(SEEK_MAX, connecting).await
        });
        let mut found = Vec::new();
        for (member, asked) in join_all(asked).await.into_iter().enumerate() {
            match asked {
                Ok(Ok(session)) => {
                    sought.refused.remove(&member);
                    found.push((member, session));
                }
                Ok(Err(error)) => self.tell_refusal(&mut sought.refused, member, &error),
                Err(_elapsed) => {}
            }
        }
        let best = found.into_iter().max_by_key(|(_, session)| session.identity.timeline);
        sought.at = Some(Instant::now());
        match best {
            Some((member, session)) => self.begin(member, &session).await,
            None => false,
        }
    }

    /// Who mends what keeps a node from being followed has to know of it.
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
            tracing::warn!(node, %at, %error, "a node cannot be asked whether it leads: it would not be followed");
            refused.insert(member, told);
        }
    }

    /// Told that a node takes writes: it leads, if its timeline is higher than all before.
    ///
    /// # Errors
    /// [`NodeError`] if it cannot be asked.
    pub async fn found(&self, member: usize) -> Result<(), NodeError> {
        let _turn = self.turn.lock().await;
        let session = self.members[member].connect("failover", Wanted::Primary).await?;
        self.begin(member, &session).await;
        Ok(())
    }

    /// Begins a term, if this node is ahead of the one that led.
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
        if let Some(progress) = &self.progress {
            let known = lives(&session.connection, &session.identity).await;
            let history = known.unwrap_or_else(|| {
                // What it had when it was last looked at, it has brought along; of more nobody knows.
                let kept = progress.durable_on(member).max(progress.applied_by(member));
                progress.history().followed_by(life(self.system, timeline), kept)
            });
            self.samples().clear();
            progress.follow(history, position, member);
        }
        let (was, before) = (self.called(member), self.address());
        let (node, at) = (self.name(), &node.address);
        tracing::warn!(node, %at, was, %before, timeline, "a promoted node is followed");
        self.term.send_replace(Term { member, timeline });
        true
    }

    /// Hazards of its tables, as of the last check.
    pub fn hazards(&self) -> arc_swap::Guard<Arc<Hazards>> {
        self.hazards.load()
    }

    /// Records the tables' hazards that were found, and reported to the operator, when the cluster
    /// was opened.
    pub fn set_hazards(&self, found: Hazards) {
        self.hazards.store(Arc::new(found));
    }

    /// Records the hazards of the leader's tables.
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

    /// Told by who has asked the leader: where its log ended, and when it was asked.
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

    /// When the leader had no more than this.
    pub(super) fn had_all_at(&self, position: u64) -> Option<Instant> {
        let samples = self.samples();
        samples.iter().rev().find(|(written, _)| *written <= position).map(|(_, at)| *at)
    }

    fn samples(&self) -> std::sync::MutexGuard<'_, VecDeque<(u64, Instant)>> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is said of a node that goes on alone.
pub(super) const DEPOSED: &str =
    "another node was promoted since: this one must not be written to; make it a replica";

fn life(system: u64, timeline: u32) -> u32 {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&system.to_be_bytes());
    bytes[8..].copy_from_slice(&timeline.to_be_bytes());
    xxhash_rust::xxh3::xxh3_64(&bytes) as u32
}

/// Where the log of a primary ends.
async fn position(connection: &AsyncPgConnection) -> diesel::QueryResult<u64> {
    let statement = Statement { sql: sql::POSITION, binds: &[], cached: false };
    let rows = load(connection, statement).await?;
    Ok(rows.first().and_then(|row| row.bigint(0)).unwrap_or(0).cast_unsigned())
}

/// The timelines that a primary has come by; if it does not show them, none but its own.
pub async fn history(connection: &AsyncPgConnection, identity: &Identity) -> TimelineHistory {
    let own = || (life(identity.system, identity.timeline), 0);
    lives(connection, identity)
        .await
        .or_else(|| TimelineHistory::new(vec![own()]))
        .unwrap_or_else(|| unreachable!("one timeline is in order"))
}

/// What a primary's file of timelines says; `None` if that cannot be read.
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
    // Each line says where a timeline ended: there the next one began.
    let began = [0].into_iter().chain(lives.iter().map(|(_, ended)| *ended));
    let timelines = lives.iter().map(|(timeline, _)| *timeline).chain([timeline]);
    TimelineHistory::new(timelines.map(|timeline| life(system, timeline)).zip(began).collect())
}

/// Lines of a timeline, where it ended, and why.
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
