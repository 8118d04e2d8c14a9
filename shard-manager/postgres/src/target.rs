//! Target: the node that reads are sent to: the primary, whichever node that is, or one replica.
//!
//! **Invariant:** a session of a term that has ended is not current.
//! **Not here:** the choice of the primary (`primary_tracker`), statements on a session.

use std::sync::Arc;

use super::citus::Citus;
use super::node::NodeError;
use super::node_address::NodeAddress;
use super::position_query::PositionQuery;
use super::primary_tracker::{PrimarySession, PrimaryTracker};
use super::session::{NodeRole, Session};
use super::term::Term;

/// Node that a connection is opened to.
#[derive(Clone)]
pub enum Target {
    /// The primary, whichever node that is.
    Primary(Arc<PrimaryTracker>),
    /// The member with this index, as a replica.
    Replica(Arc<PrimaryTracker>, usize),
}

impl Target {
    /// Returns the present name.
    pub fn name(&self) -> &str {
        match self {
            Self::Primary(tracker) => tracker.name(),
            Self::Replica(tracker, member) => tracker.called(*member),
        }
    }

    /// Returns the present address.
    pub fn address(&self) -> &NodeAddress {
        match self {
            Self::Primary(tracker) => tracker.address(),
            Self::Replica(tracker, member) => &tracker.members()[*member].address,
        }
    }

    /// Opens a session, and returns the term in which it may be used, if it has one.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn connect(&self, purpose: &str) -> Result<(Session, Option<Term>), NodeError> {
        match self {
            Self::Primary(tracker) => {
                let PrimarySession { session, term } = tracker.connect(purpose).await?;
                Ok((session, Some(term)))
            }
            Self::Replica(tracker, member) => {
                let node = &tracker.members()[*member];
                Ok((node.connect(purpose, NodeRole::Replica).await?, None))
            }
        }
    }

    /// Returns true if a session of this term may still be used.
    pub fn is_current(&self, term: Option<Term>) -> bool {
        match self {
            Self::Primary(tracker) => term.is_some_and(|term| tracker.term() == term),
            Self::Replica(tracker, member) => tracker.term().member != *member,
        }
    }

    /// Returns the timeline id, as in histories, of reads in a term; `None` for a replica, whose
    /// session does not report it.
    pub fn timeline_id(&self, term: Option<Term>) -> Option<u32> {
        match self {
            Self::Primary(tracker) => term.map(|term| tracker.terms().timeline_id(term)),
            Self::Replica(..) => None,
        }
    }

    /// Waits until a session of this term may not be used any more.
    pub async fn ended(&self, term: Option<Term>) {
        match (self, term) {
            (Self::Primary(tracker), Some(term)) => tracker.terms().ended(term).await,
            (Self::Primary(_), None) => std::future::pending().await,
            // Once this member is the primary, its sessions as a replica must not be used.
            (Self::Replica(tracker, member), _) => {
                tracker.terms().until(|term| term.member == *member).await;
            }
        }
    }

    /// Waits until another term has begun than this one; returns false if the shard has retired.
    pub async fn another_term(&self, known: Term) -> bool {
        let (Self::Primary(tracker) | Self::Replica(tracker, _)) = self;
        tokio::select! {
            () = tracker.terms().ended(known) => true,
            () = tracker.terms().retired() => false,
        }
    }

    /// Returns the present term.
    pub fn term(&self) -> Term {
        let (Self::Primary(tracker) | Self::Replica(tracker, _)) = self;
        tracker.term()
    }

    /// Returns the known state of Citus, if the node is read as its coordinator.
    pub fn citus(&self) -> Option<&Arc<Citus>> {
        match self {
            Self::Primary(tracker) => tracker.citus(),
            Self::Replica(..) => None,
        }
    }

    /// Returns the index of the replica; `None` for the primary.
    pub fn replica(&self) -> Option<usize> {
        match self {
            Self::Primary(_) => None,
            Self::Replica(_, index) => Some(*index),
        }
    }

    /// Returns the query for the position that reads of this node have seen.
    pub(super) fn position_query(&self) -> PositionQuery {
        match self {
            Self::Primary(_) => PositionQuery::Primary,
            Self::Replica(..) => PositionQuery::Replica,
        }
    }
}
