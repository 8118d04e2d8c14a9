//! Node: where one node of a shard is, and who it must be.
//!
//! **Invariant:** a session that is handed out is of the database that the cluster was opened with: of the same system,
//! and as a primary of the same timeline, so that nothing is written to a copy that went another way.
//! **Not here:** what is done on a session.

use super::connect_error::ConnectError;
use super::session::{self, Identity, Session, Wanted};
use crate::address::{NodeAddress, Timeouts};

/// A node of a shard.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it is called, such as `shard1-primary`.
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
    #[error("{name}: {cause}")]
    Connect {
        /// The node.
        name: String,
        /// Why.
        cause: ConnectError,
    },
    /// It is not the one that the cluster was opened with.
    #[error("{name}: {cause}")]
    Another {
        /// The node.
        name: String,
        /// What differs.
        cause: &'static str,
    },
}

impl Node {
    /// A session with the primary that it is.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn primary(&self, purpose: &str) -> Result<Session, NodeError> {
        let session = self.connect(purpose, Wanted::Primary).await?;
        if session.identity.timeline != self.identity.timeline {
            let cause =
                "a replica was promoted since this router was started; start it again to follow";
            return Err(NodeError::Another { name: self.name.clone(), cause });
        }
        Ok(session)
    }

    /// A session with the replica that it is.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn replica(&self, purpose: &str) -> Result<Session, NodeError> {
        self.connect(purpose, Wanted::Replica).await
    }

    async fn connect(&self, purpose: &str, role: Wanted) -> Result<Session, NodeError> {
        let purpose = format!("tessera {purpose}");
        let connected = session::connect(&self.address, &purpose, role, &self.timeouts).await;
        let session =
            connected.map_err(|cause| NodeError::Connect { name: self.name.clone(), cause })?;
        if session.identity.system != self.identity.system {
            let cause = "another server answers at its address";
            return Err(NodeError::Another { name: self.name.clone(), cause });
        }
        Ok(session)
    }
}
