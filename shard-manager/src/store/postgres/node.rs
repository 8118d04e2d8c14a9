//! Node: where one node of a shard is, and who it must be.
//!
//! **Invariant:** a session that is handed out is of the system and the database that the cluster was opened with.
//! **Not here:** which node leads (`primary_tracker`), what is done on a session.

use std::sync::Arc;

use super::citus::Citus;
use super::connect_error::ConnectError;
use super::primary_tracker::{PrimarySession, PrimaryTracker, Term};
use super::session::{self, Identity, NodeRole, Session};
use crate::node_address::{NodeAddress, Timeouts};

/// A node of a shard.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it was called when the cluster was opened, such as `shard1-primary`: what it is called now, its leader knows.
    pub name: String,
    /// Where it is.
    pub address: NodeAddress,
    /// How long it may take.
    pub timeouts: Timeouts,
    /// Who it was when the cluster was opened.
    pub identity: Identity,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// There is no connection.
    #[error("{cause}")]
    Connect {
        /// Why, and where it is.
        cause: ConnectError,
    },
    /// It is not the one that it should be.
    #[error("{at}: {cause}")]
    Another {
        /// Where it is.
        at: String,
        /// What differs.
        cause: &'static str,
    },
}

impl NodeError {
    /// Whether it may be different in a moment without anybody changing a setting.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect { cause } => cause.is_transient(),
            Self::Another { .. } => true,
        }
    }

    /// Whether the node is there, in another role than the one that was wanted: as around a failover.
    pub fn is_wrong_role(&self) -> bool {
        match self {
            Self::Connect { cause } => cause.is_wrong_role(),
            Self::Another { .. } => false,
        }
    }
}

impl Node {
    /// A session with this node in the role that is wanted.
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

    /// That it is not the one that it should be.
    pub(super) fn another(&self, cause: &'static str) -> NodeError {
        NodeError::Another { at: self.address.to_string(), cause }
    }
}

/// Whom a connection is made to.
#[derive(Clone)]
pub enum Target {
    /// The node that leads, whichever that is.
    Primary(Arc<PrimaryTracker>),
    /// The one of this number among the members, as a replica.
    Replica(Arc<PrimaryTracker>, usize),
}

impl Target {
    /// What it is called now.
    pub fn name(&self) -> &str {
        match self {
            Self::Primary(tracker) => tracker.name(),
            Self::Replica(tracker, member) => tracker.called(*member),
        }
    }

    /// Where it is now.
    pub fn address(&self) -> &NodeAddress {
        match self {
            Self::Primary(tracker) => tracker.address(),
            Self::Replica(tracker, member) => &tracker.members()[*member].address,
        }
    }

    /// A session, and the term in which it may be used if that matters.
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

    /// Whether a session of this term may be used still.
    pub fn is_current(&self, term: Option<Term>) -> bool {
        match self {
            Self::Primary(tracker) => term.is_some_and(|term| tracker.term() == term),
            Self::Replica(tracker, member) => tracker.term().member != *member,
        }
    }

    /// The timeline, as histories call it, of what is read in a term; of a replica its session does not tell.
    pub fn life(&self, term: Option<Term>) -> Option<u32> {
        match self {
            Self::Primary(tracker) => term.map(|term| tracker.life(term)),
            Self::Replica(..) => None,
        }
    }

    /// Returns when a session of this term may not be used any more.
    pub async fn ended(&self, term: Option<Term>) {
        match (self, term) {
            (Self::Primary(tracker), Some(term)) => tracker.ended(term).await,
            (Self::Primary(_), None) => std::future::pending().await,
            // It is read as the leader then.
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

    /// The present term.
    pub fn term(&self) -> Term {
        let (Self::Primary(tracker) | Self::Replica(tracker, _)) = self;
        tracker.term()
    }

    /// What is known of Citus, if it is asked as its coordinator.
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
