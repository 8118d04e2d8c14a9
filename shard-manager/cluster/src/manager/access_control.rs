//! Access: the interface of a manager for the API keys, roles and denials that the catalog stores.
//!
//! **Not here:** storage (the engines), decisions about requests (the crate `access`).

use std::sync::Arc;

use access::audit::AuditSecret;
use access::audit::chain::AuditHead;
use access::unix_time::UnixTime;
use engine::access_store::{
    AccessChange, AccessError, AccessMode, AccessState, ChangeAuthor, UsageFlush,
};
use model::error::Error;
use tokio::sync::watch;

use super::Manager;

/// Interface of a [`Manager`] for keys, roles and denials.
#[derive(Clone, Copy)]
pub struct Access<'m>(pub(super) &'m Manager);

impl Access<'_> {
    /// Returns the mode of access control that the catalog stores.
    ///
    /// # Errors
    /// The error of the catalog.
    pub async fn mode(self) -> Result<AccessMode, Error> {
        self.0.backend.access_store().mode().await
    }

    /// Reads all keys, roles and denials from the catalog, as of one moment.
    ///
    /// # Errors
    /// The error of the catalog.
    pub async fn load(self) -> Result<AccessState, Error> {
        self.0.backend.access_store().load().await
    }

    /// Makes a change durable, and returns the generation that it began. Subscribers in this
    /// process receive the change before this function returns, and those in other routers within a
    /// second. The calling function must have checked the rights of the author.
    ///
    /// # Errors
    /// [`AccessError::Refused`] if a rule forbids the change; nothing was stored then. After
    /// [`AccessError::Catalog`] the change may have been stored.
    pub async fn change(
        self,
        change: &AccessChange,
        author: &ChangeAuthor,
        now: UnixTime,
    ) -> Result<u64, AccessError> {
        self.0.backend.access_store().change(change, author, now).await
    }

    /// Adds the numbers of rows and of uses of keys that this router has counted to the sums in the
    /// catalog.
    ///
    /// # Errors
    /// The error of the catalog. The flush may have been stored despite the error, and may be
    /// repeated.
    pub async fn add_usage(self, flush: &UsageFlush) -> Result<(), Error> {
        self.0.backend.access_store().add_usage(flush).await
    }

    /// Returns the number of rows that each API client (caller) used on a day. If there are very
    /// many clients, only the highest numbers are returned.
    ///
    /// # Errors
    /// The error of the catalog.
    pub async fn usage(self, day: u32) -> Result<Vec<(String, u64)>, Error> {
        self.0.backend.access_store().usage(day).await
    }

    /// Subscribes to the state of access control, beginning with the present one. If the catalog
    /// becomes unreachable later, the receiver keeps the last state. A state that is borrowed from
    /// the receiver must not be held across an `await`: the next state cannot be published before
    /// the borrow ends.
    ///
    /// # Errors
    /// The error of the catalog.
    pub async fn subscribe(self) -> Result<watch::Receiver<Arc<AccessState>>, Error> {
        let store = self.0.backend.access_store();
        // Subscribed before the state is read, so that a change that is made meanwhile is not
        // missed.
        let mut states = store.feed().subscribe();
        store.load().await?;
        states.mark_changed();
        Ok(states)
    }

    /// Returns the last time at which the subscribed state was known to be current; `None` if there
    /// is no such time.
    pub fn confirmed_at(self, now: UnixTime) -> Option<UnixTime> {
        self.0.backend.access_store().confirmed_at(now)
    }
    /// Returns the secret with which audit logs hash shard keys. All routers of the cluster use the
    /// same secret.
    ///
    /// # Errors
    /// The error of the catalog.
    pub async fn audit_secret(self) -> Result<AuditSecret, Error> {
        self.0.backend.access_store().audit_secret().await
    }

    /// Records the position and hash of the last line of an audit log in the catalog, unless a
    /// later line is already recorded there.
    ///
    /// # Errors
    /// The error of the catalog.
    pub async fn keep_audit_head(self, head: AuditHead, now: UnixTime) -> Result<(), Error> {
        self.0.backend.access_store().keep_audit_head(head, now).await
    }
}
