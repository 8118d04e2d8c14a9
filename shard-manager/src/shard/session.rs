//! Session: what a client has seen of a shard, held against the shard's history.
//!
//! A token may be newer than what this router knows: while it slept, a node was promoted, and another router wrote there.
//! Then the servers are asked, rather than the client told that something was lost.
//!
//! **Invariant:** what is told as lost is not part of the history of the latest timeline that is known, and its own
//! timeline is none that is still to be found.
//! **Not here:** tokens (`token`), who follows a promotion (`store/postgres/leader`).

use std::convert::Infallible;
use std::time::{Duration, Instant};

use super::Shard;
use crate::error::Error;
use crate::position::Position;
use crate::progress::Progress;

/// How often the servers are asked anew.
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl Shard {
    /// The position of a session, if the shard's history holds it. One of a timeline that is not known yet is waited
    /// for, at most until `deadline`.
    ///
    /// # Errors
    /// [`Error::SeenMayBeLost`] if the history does not hold it; [`Error::NoPrimary`] if the node that leads on its
    /// timeline was not found in time.
    pub async fn held(&self, position: Position, deadline: Instant) -> Result<u64, Error> {
        let is_held = || self.progress.history().holds(position);
        if !is_held() && self.is_to_be_found(position.timeline) {
            // On the heap: every read has room for this wait, and hardly any needs it.
            Box::pin(self.find(position.timeline, deadline)).await?;
        }
        if is_held() {
            Ok(position.at)
        } else {
            Err(Error::SeenMayBeLost { shard: self.name.clone() })
        }
    }

    /// Waits until a timeline is known, or a later one without it.
    async fn find(&self, timeline: u32, deadline: Instant) -> Result<(), Error> {
        let found = |_: &Progress| (!self.is_to_be_found(timeline)).then_some(());
        tokio::select! {
            biased;
            found = self.progress.until(deadline, found) => {
                found.ok_or_else(|| Error::NoPrimary { shard: self.name.clone() })
            }
            never = self.look_again_and_again() => match never {},
        }
    }

    fn is_to_be_found(&self, timeline: u32) -> bool {
        !self.progress.history().knows(timeline) && self.primary.is_ahead(timeline)
    }

    /// Never returns: who finds a leader tells it to those who wait.
    async fn look_again_and_again(&self) -> Infallible {
        loop {
            self.primary.look().await;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
