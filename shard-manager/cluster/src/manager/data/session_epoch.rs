//! Session epoch: reads of a session whose token has a later or an earlier epoch than the shard map
//! of this router.
//!
//! If the token has a later epoch, the session may have read a slot from its new owner, while the
//! map of this router still names the previous one. The router therefore updates its map before
//! such a read. If the catalog does not answer, the read goes to nodes that are proven to be
//! primaries, which return only rows of slots that their shard owns.
//!
//! If the token has an earlier epoch, a slot may have moved since then. The session may have read
//! that slot from any shard whose position is in its token.
//!
//! **Invariant:** a session never reads a slot from an earlier owner than the one that it knows. If
//! a change that the session has read is lost, the new owner of the slot reports the loss as well.
//! **Not here:** the epochs of a token (`token`), reading the map (the engines).

use std::borrow::Cow;
use std::time::{Duration, Instant};

use model::consistency::Level;
use model::error::Error;
use model::shard_map::ShardMap;

use super::super::RequestOptions;
use super::shards_of_read::Route;
use super::{Data, RowReader};

/// Longest wait of a read for the shard map.
const UPDATE_MAX: Duration = Duration::from_secs(1);

impl Data<'_> {
    /// Returns the options with which a read is carried out.
    #[inline]
    pub(super) async fn catch_up<'o>(self, options: &'o RequestOptions) -> Cow<'o, RequestOptions> {
        if options.session.epoch() <= self.manager.map.load().epoch() {
            return Cow::Borrowed(options);
        }
        // On the heap: every read reserves space for this wait, and few need it.
        Box::pin(update_map(self, options)).await
    }
}

async fn update_map<'o>(data: Data<'_>, options: &'o RequestOptions) -> Cow<'o, RequestOptions> {
    let now = Instant::now();
    // The read needs time as well.
    let wait = UPDATE_MAX.min(options.deadline.saturating_duration_since(now) / 2);
    match data.manager.backend.update_map(options.session.epoch(), now + wait).await {
        Ok(()) => Cow::Borrowed(options),
        Err(error) => {
            tracing::debug!(%error, "the shard map is older than a session: its read is proven");
            Cow::Owned(RequestOptions { level: Level::All, ..options.clone() })
        }
    }
}

impl RowReader<'_> {
    /// Returns true if a slot that got its owner in the epoch `since` may have been read from
    /// another shard whose position is in the token. `epoch` is the epoch of the map in use.
    #[inline]
    pub(super) fn may_have_moved(self, since: u64, epoch: u64) -> bool {
        let session = &self.options.session;
        !session.is_empty() && (session.predates(since) || session.epoch() > epoch)
    }

    /// Returns true if slots of this route may have been read from another shard whose position is
    /// in the token.
    #[inline]
    pub(super) fn has_moved(self, route: &Route, map: &ShardMap) -> bool {
        self.may_have_moved(map.epoch(), map.epoch())
            && self.may_have_moved(route.since(map), map.epoch())
    }

    /// Checks that no position of the session was lost, of any shard.
    pub(super) async fn check_positions(self, deadline: Instant) -> Result<(), Error> {
        let shards = self.data.manager.shards.load_full();
        for (number, position) in self.options.session.positions() {
            // A shard that was removed has no position to check.
            if let Some(shard) = shards.get(number) {
                shard.primary().held(position, deadline).await?;
            }
        }
        Ok(())
    }
}
