//! Session epoch: handles reads of a session whose token has a different epoch from the shard map
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
    /// Updates the shard map if the session's token has a later epoch. Returns the options for the
    /// read, with the level [`Level::All`] if the map could not be updated.
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
    // Half of the remaining time is left for the read itself.
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
    /// Returns true if the session may have read a slot from a shard other than its present owner,
    /// so that the token contains a position of that other shard. The slot got its owner in the
    /// epoch `since`, and `epoch` is the epoch of the map in use.
    #[inline]
    pub(super) fn may_have_moved(self, since: u64, epoch: u64) -> bool {
        let session = &self.options.session;
        !session.is_empty() && (session.predates(since) || session.epoch() > epoch)
    }

    /// Returns true if the session may have read slots of this route from a shard other than their
    /// present owner, so that the token contains a position of that other shard.
    #[inline]
    pub(super) fn has_moved(self, route: &Route, map: &ShardMap) -> bool {
        self.may_have_moved(map.epoch(), map.epoch())
            && self.may_have_moved(route.since(map), map.epoch())
    }

    /// Checks, for every shard in the token, that the shard's history still contains the position
    /// that the session has seen.
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
