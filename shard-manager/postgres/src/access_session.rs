//! Access session: reads and changes keys and roles in the catalog of a cluster, without opening
//! the cluster. For commands.
//!
//! **Invariant:** a catalog without a cluster, or with the schema of an older program, is refused
//! and not changed.
//! **Not here:** the transactions (`catalog`), a cluster that is open in this process (`backend`).

use access::audit::chain::AuditHead;
use access::unix_time::UnixTime;
use engine::access_store::{AccessChange, AccessError, AccessState, ChangeAuthor};
use engine::open_error::OpenError;

use super::catalog::Catalog;
use super::catalog_session::{self, CATALOG};
use super::node_address::NodeAddress;

/// Session with a catalog.
pub struct AccessSession {
    catalog: Catalog,
    /// Timeline of the server.
    timeline: u32,
}

impl AccessSession {
    /// Connects to the primary among the hosts of a catalog.
    ///
    /// # Errors
    /// [`OpenError`] if there is no primary, or no cluster in its database.
    pub async fn open(at: &NodeAddress) -> Result<Self, OpenError> {
        let session = catalog_session::open(at, "tessera_access").await?;
        let timeline = session.identity.timeline;
        Ok(Self { catalog: Catalog::on(session.connection), timeline })
    }

    /// Reads everything as of one moment.
    ///
    /// # Errors
    /// [`OpenError`] if it cannot be read.
    pub async fn load(&self) -> Result<AccessState, OpenError> {
        let state = self.catalog.access().state(self.timeline).await;
        state.map_err(|error| OpenError::node(CATALOG, error))
    }

    /// Makes a change durable, and returns the generation that it began.
    ///
    /// # Errors
    /// [`AccessError::Refused`] if a rule forbids it: then nothing was stored.
    pub async fn change(
        &self,
        change: &AccessChange,
        author: &ChangeAuthor,
        now: UnixTime,
    ) -> Result<u64, AccessError> {
        self.catalog.access().change(change, (author, now), self.timeline).await
    }
    /// Reads the last lines of all audit logs.
    ///
    /// # Errors
    /// [`OpenError`] if they cannot be read.
    pub async fn audit_heads(&self) -> Result<Vec<AuditHead>, OpenError> {
        let heads = self.catalog.access().audit_heads().await;
        heads.map_err(|error| OpenError::node(CATALOG, error))
    }
}
