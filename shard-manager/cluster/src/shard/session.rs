//! Session: checks the positions that a client has seen against the shard's history.
//!
//! A session token may contain a position of a timeline that this router does not know yet, if a
//! node was promoted and another router wrote to it. So the servers are queried before the client
//! receives the error that writes may be lost.
//!
//! **Invariant:** a position is reported as lost only if the history of the latest known timeline
//! does not contain it, and its own timeline is not a later one that this router does not know.
//! **Not here:** tokens (`token`), following a promotion (the engines).

use std::convert::Infallible;
use std::time::{Duration, Instant};

use model::error::Error;
use model::position::Position;

use super::primary::Primary;

/// Interval at which the servers are queried again.
const SEARCH_EVERY: Duration = Duration::from_millis(100);

impl Primary {
    /// Returns the position of a session, if the shard's history contains it. Waits for an unknown
    /// timeline, at most until `deadline`.
    ///
    /// # Errors
    /// [`Error::SeenMayBeLost`] if the history does not contain it; [`Error::NoPrimary`] if the
    /// primary of its timeline was not found in time.
    pub async fn held(&self, position: Position, deadline: Instant) -> Result<u64, Error> {
        let is_held = || self.replication.timeline().holds(position);
        if is_held() {
            return Ok(position.sequence);
        }
        if self.is_to_be_found(position.timeline) {
            // On the heap: otherwise the future of every read would reserve space for this wait,
            // which few need.
            Box::pin(self.find(position.timeline, deadline)).await?;
        }
        // Another thread may have learned the history since the first comparison.
        if is_held() {
            Ok(position.sequence)
        } else {
            Err(Error::SeenMayBeLost { shard: self.shard.clone() })
        }
    }

    /// Waits until a timeline is known, or is no longer later than all known timelines. In the
    /// second case its positions may be lost.
    async fn find(&self, timeline: u32, deadline: Instant) -> Result<(), Error> {
        let found = || (!self.is_to_be_found(timeline)).then_some(());
        tokio::select! {
            biased;
            found = self.replication.waiters().until(deadline, found) => {
                found.ok_or_else(|| Error::NoPrimary { shard: self.shard.clone() })
            }
            never = self.search_repeatedly() => match never {},
        }
    }

    fn is_to_be_found(&self, timeline: u32) -> bool {
        !self.replication.timeline().history().knows(timeline) && self.reader.is_ahead(timeline)
    }

    /// Searches for the primary until the future is dropped. The thread that finds a primary
    /// notifies the waiters.
    async fn search_repeatedly(&self) -> Infallible {
        loop {
            self.reader.find_primary().await;
            tokio::time::sleep(SEARCH_EVERY).await;
        }
    }
}
