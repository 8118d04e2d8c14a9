//! Node: address and expected identity of one node of a shard.
//!
//! **Invariant:** a returned session is one with the system and the database that the cluster was
//! opened with.
//! **Not here:** the choice of the primary (`primary_tracker`), statements on a session.

use std::sync::Arc;

use engine::node_address::{NodeAddress, Timeouts};

use super::citus::Citus;
use super::connect_error::ConnectError;
use super::primary_tracker::{PrimarySession, PrimaryTracker, Term};
use super::session::{self, Identity, NodeRole, Session};

/// A node of a shard.
#[derive(Clone, Debug)]
pub struct Node {
    /// Name when the cluster was opened, such as `shard1-primary`. [`PrimaryTracker::called`]
    /// returns its present name.
    pub name: String,
    /// Address of the node.
    pub address: NodeAddress,
    /// Timeouts of connecting and of statements.
    pub timeouts: Timeouts,
    /// Identity when the cluster was opened.
    pub identity: Identity,
}

/// Reason why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The connection failed.
    #[error("{cause}")]
    Connect {
        /// Error of connecting, which names the address.
        cause: ConnectError,
    },
    /// The node is another one than expected.
    #[error("{at}: {cause}")]
    Another {
        /// Address of the node.
        at: String,
        /// The difference.
        cause: &'static str,
    },
}

impl NodeError {
    /// Returns true if a retry may succeed without a change of settings.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect { cause } => cause.is_transient(),
            Self::Another { .. } => true,
        }
    }

    /// Returns true if the node was reached and has another role than the required one, as around a
    /// failover.
    pub fn is_wrong_role(&self) -> bool {
        match self {
            Self::Connect { cause } => cause.is_wrong_role(),
            Self::Another { .. } => false,
        }
    }
}

impl Node {
    /// Opens a session with this node in the required role.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn connect(&self, purpose: &str, role: NodeRole) -> Result<Session, NodeError> {
        let purpose = format!("tessera {purpose}");
        let connected = session::connect(&self.address, &purpose, role, &self.timeouts).await;
        let session = connected.map_err(|cause| NodeError::Connect { cause })?;
        if session.identity.system != self.identity.system {
            return Err(self.another("another server answers at its address"));
        }
        Ok(session)
    }

    /// Returns the error of a node that is another one than expected.
    pub(super) fn another(&self, cause: &'static str) -> NodeError {
        NodeError::Another { at: self.address.to_string(), cause }
    }
}

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
            Self::Primary(tracker) => term.map(|term| tracker.timeline_id(term)),
            Self::Replica(..) => None,
        }
    }

    /// Returns when a session of this term may not be used any more.
    pub async fn ended(&self, term: Option<Term>) {
        match (self, term) {
            (Self::Primary(tracker), Some(term)) => tracker.ended(term).await,
            (Self::Primary(_), None) => std::future::pending().await,
            // The node is read as the primary then.
            (Self::Replica(tracker, member), _) => {
                tracker.until(|term| term.member == *member).await;
            }
        }
    }

    /// Returns when another term has begun than this one.
    pub async fn another_term(&self, known: Term) {
        let (Self::Primary(tracker) | Self::Replica(tracker, _)) = self;
        tracker.ended(known).await;
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

    /// Index of the replica; `None` for the primary.
    pub fn replica(&self) -> Option<usize> {
        match self {
            Self::Primary(_) => None,
            Self::Replica(_, index) => Some(*index),
        }
    }
}
