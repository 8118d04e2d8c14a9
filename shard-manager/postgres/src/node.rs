//! Node: address and expected identity of one node of a shard.
//!
//! **Invariant:** a returned session is one with the system and the database that the cluster was
//! opened with.
//! **Not here:** the choice of the primary (`primary_tracker`), statements on a session.

use super::connect_error::ConnectError;
use super::node_address::{NodeAddress, Timeouts};
use super::session::{self, Identity, NodeRole, Session};

/// A node of a shard.
#[derive(Clone, Debug)]
pub struct Node {
    /// Name when the cluster was opened, such as `shard1-primary`. Names belong to roles, so the
    /// present name may be another.
    pub name: String,
    /// Address of the node.
    pub address: NodeAddress,
    /// Timeouts of connecting and of statements.
    pub timeouts: Timeouts,
    /// Identity when the cluster was opened. The timeline of a replica that did not answer then is
    /// 0.
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
