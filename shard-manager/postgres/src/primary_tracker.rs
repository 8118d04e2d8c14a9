//! Primary tracker: knows the node of a shard that accepts writes, and switches to another node
//! when that node is promoted.
//!
//! An operator, a cloud service or a failover manager chooses the primary; this module only finds
//! it. Each promotion begins a new timeline of PostgreSQL. So of two nodes that accept writes the
//! one on the higher timeline is the primary, and a node on a lower timeline than the highest known
//! one was deposed, whatever it reports. Each change begins a new term; a session is used only in
//! the term in which it was opened.
//!
//! **Invariant:** each term has a higher timeline than the one before; before a term begins, the
//! known positions of the shard's nodes are replaced by those of the new primary.
//! **Not here:** noticing a promotion (`replica`), statements on a session.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use diesel_async::AsyncPgConnection;
use engine::replication::ReplicationState;
use engine::slot_news::SlotNews;
use futures_util::future::join_all;
use tokio::sync::Mutex;

use super::citus::Citus;
use super::hazards::KnownHazards;
use super::node::{Node, NodeError};
use super::node_address::NodeAddress;
use super::position_samples::PositionSamples;
use super::session::{Identity, NodeRole, Session};
use super::sql;
use super::statement::{Statement, load};
use super::term::{Term, Terms};
use super::timeline_file::read_timelines;

/// Time limit for the response of one node in a search.
const SEEK_MAX: Duration = Duration::from_millis(500);
/// Minimum interval between two searches.
const SEEK_EVERY: Duration = Duration::from_millis(100);

/// The nodes of a shard, and the one that is the primary.
pub struct PrimaryTracker {
    members: Vec<Node>,
    terms: Terms,
    /// Positions of the nodes; `None` for the catalog.
    replication: Option<Arc<ReplicationState>>,
    /// Known state of Citus, if the nodes are coordinators.
    citus: Option<Arc<Citus>>,
    /// Locked during a search for the primary.
    last_search: Mutex<LastSearch>,
    samples: PositionSamples,
    hazards: KnownHazards,
    /// Announcements that the slots of the shard have changed.
    pub(super) slot_news: Arc<SlotNews>,
}

/// Result of the last search for the primary.
#[derive(Default)]
struct LastSearch {
    /// Time of the search.
    at: Option<Instant>,
    /// Last logged error of each node that could not be queried, by the index of the node. The same
    /// error is not logged again until the node answers or has a transient error.
    refused: BTreeMap<usize, String>,
}

impl LastSearch {
    /// Logs the error that would prevent this router from following a node if it were promoted.
    fn record_refusal(
        &mut self,
        member: usize,
        (node, at): (&str, &NodeAddress),
        error: &NodeError,
    ) {
        if error.is_transient() {
            self.refused.remove(&member);
            return;
        }
        let message = error.to_string();
        if self.refused.get(&member) != Some(&message) {
            tracing::warn!(node, %at, %error, "a node cannot be queried: it would not be followed if it were promoted");
            self.refused.insert(member, message);
        }
    }
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
    /// node is the primary now.
    pub fn new(
        members: Vec<Node>,
        identity: &Identity,
        replication: Option<&Arc<ReplicationState>>,
        citus: Option<Arc<Citus>>,
    ) -> Arc<Self> {
        let term = Term { member: 0, timeline: identity.timeline };
        Arc::new(Self {
            members,
            terms: Terms::new(identity.system, term),
            replication: replication.map(Arc::clone),
            citus,
            last_search: Mutex::default(),
            samples: PositionSamples::default(),
            hazards: KnownHazards::default(),
            slot_news: Arc::default(),
        })
    }

    /// Returns the known state of Citus, if the primary is its coordinator.
    pub fn citus(&self) -> Option<&Arc<Citus>> {
        self.citus.as_ref()
    }

    /// Returns the name of the primary, which stays the same whichever node is the primary.
    pub fn name(&self) -> &str {
        &self.members[0].name
    }

    /// Returns the present address of the primary.
    pub fn address(&self) -> &NodeAddress {
        &self.members[self.term().member].address
    }

    /// Returns the present name of a node. Names belong to roles: the first primary and the present
    /// one have exchanged their names.
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
        self.terms.present()
    }

    /// Returns the terms of the shard.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Returns the known hazards of the primary's tables.
    pub fn hazards(&self) -> &KnownHazards {
        &self.hazards
    }

    /// Returns the positions that the primary is known to have reached.
    pub(super) fn samples(&self) -> &PositionSamples {
        &self.samples
    }

    /// Searches for the primary among all nodes now, instead of waiting until a promotion is
    /// noticed.
    pub async fn look(&self) {
        self.seek(self.term()).await;
    }

    /// Opens a session with the primary, whichever node that is.
    ///
    /// # Errors
    /// [`NodeError`] of the last known primary, if no primary is found.
    pub async fn connect(&self, purpose: &str) -> Result<PrimarySession, NodeError> {
        let term = self.term();
        let node = &self.members[term.member];
        let connected = tokio::select! {
            connected = node.connect(purpose, NodeRole::Primary) => connected,
            // The node may be frozen, and another one may have become the primary meanwhile.
            () = self.terms.ended(term) => Err(node.another("another node is the primary now")),
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
                Ok(Err(error)) => {
                    let node = (self.called(member), &self.members[member].address);
                    last.record_refusal(member, node, &error);
                }
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

    /// Records that a node accepts writes: it is the primary if its timeline is higher than all
    /// earlier ones.
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
        let begun = Term { member, timeline };
        let node = &self.members[member];
        // The search holds a lock, so a node that freezes now must not block further searches.
        let response = tokio::time::timeout(SEEK_MAX, position(&session.connection)).await;
        let position = match response {
            Ok(Ok(position)) => position,
            Ok(Err(error)) => {
                let (node, at) = (self.called(member), &node.address);
                tracing::warn!(node, %at, %error, "a node that was promoted does not answer");
                return false;
            }
            Err(_elapsed) => {
                let (node, at) = (self.called(member), &node.address);
                tracing::warn!(node, %at, "a node that was promoted does not answer in time");
                return false;
            }
        };
        if let Some(replication) = &self.replication {
            let reading = read_timelines(&session.connection, &session.identity);
            let known = tokio::time::timeout(SEEK_MAX, reading).await;
            let history = known.ok().flatten().unwrap_or_else(|| {
                // The node certainly has the changes up to its last reported position; whether it
                // has more is unknown.
                let kept = replication
                    .replicas()
                    .durable(member)
                    .max(replication.replicas().applied(member));
                replication.timeline().history().followed_by(self.terms.timeline_id(begun), kept)
            });
            self.samples.clear();
            replication.follow(history, position, member);
        }
        let (was, before) = (self.called(member), self.address());
        let (node, at) = (self.name(), &node.address);
        tracing::warn!(node, %at, was, %before, timeline, "a promoted node is followed");
        self.terms.begin(begun);
        true
    }
}

/// Message about a deposed node.
pub(super) const DEPOSED: &str =
    "another node was promoted since: this one must not be written to; make it a replica";

/// Returns the end of a primary's log.
async fn position(connection: &AsyncPgConnection) -> diesel::QueryResult<u64> {
    let statement = Statement { sql: sql::POSITION, binds: &[], cached: false };
    let rows = load(connection, statement).await?;
    Ok(rows.first().and_then(|row| row.bigint(0)).unwrap_or(0).cast_unsigned())
}
