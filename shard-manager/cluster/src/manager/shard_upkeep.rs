//! Shard upkeep: the task that opens the shards that the catalog's map names, closes those that
//! have retired, and lets shards join.
//!
//! ```text
//!   a map names a shard that is not open here ──▶ open it ──▶ put the whole map in force
//!   a map in force no longer names a shard    ──▶ close it
//! ```
//! Requests do not wait for this task: until a shard is open, the map in force leaves it out, which
//! is possible as long as the shard owns no slots.
//!
//! **Invariant:** a shard is opened by one task at a time, and each table that this router knows
//! exists on every open shard.
//! **Not here:** opening a shard (the engines), the order of the list and the map (`shards`).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use engine::new_shard::NewShardRefusal;
use futures_util::future::join5;
use model::error::Error;
use model::shard_map::ShardMap;
use model::topology::{ShardNumber, ShardState};

use super::rebalancer::Rebalancer;
use super::shard_membership::ShardJoin;
use super::{Manager, Shards};
use super::{index_building, mover};

/// Pause after a shard could not be opened.
const RETRY: Duration = Duration::from_millis(500);
/// Time limit for opening a shard.
const OPEN_MAX: Duration = Duration::from_secs(30);

impl<'m> Shards<'m> {
    /// Opens shards that join through other routers, closes shards that retire, and carries out
    /// joins, moves of slots, rebalances and changes of indexes, until the future is dropped. Each
    /// process runs one such task.
    pub async fn keep_up(self) {
        let moves = mover::carry_out(self.0);
        let rebalances = Rebalancer::of(self.0).carry_out();
        let indexes = index_building::carry_out(self.0);
        join5(carry_out_joins(self), self.upkeep().follow_map(), moves, rebalances, indexes).await;
    }

    /// Returns the interface for opening and closing shards.
    pub(super) fn upkeep(self) -> ShardUpkeep<'m> {
        ShardUpkeep(self.0)
    }
}

async fn carry_out_joins(shards: Shards<'_>) {
    let Some(mut orders) = shards.0.joins.open() else { return };
    while let Some((order, done)) = orders.recv().await {
        if order.deadline <= Instant::now() {
            // Its request has ended while the order waited.
            continue;
        }
        // The client may have disconnected.
        let _ = done.send(ShardJoin { shards, order: &order }.carry_out().await);
    }
}

/// Interface of a [`Manager`] for opening and closing shards.
#[derive(Clone, Copy)]
pub(super) struct ShardUpkeep<'m>(&'m Manager);

impl ShardUpkeep<'_> {
    async fn follow_map(self) {
        // Shards for which a warning was logged because they cannot be opened.
        let mut reported = BTreeSet::new();
        loop {
            let is_complete = self.open_missing(&mut reported).await;
            self.close_retired().await;
            if is_complete {
                self.0.map.backlog().changed().await;
            } else {
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Opens the shards of the newest map, and puts that map in force. Returns false if one of them
    /// cannot be opened.
    async fn open_missing(self, reported: &mut BTreeSet<ShardNumber>) -> bool {
        let Some(newest) = self.0.map.backlog().newest() else { return true };
        let missing = self.missing(&newest);
        let (mut opened, mut is_complete) = (false, true);
        for number in missing {
            match self.open_listed(number, Instant::now() + OPEN_MAX).await {
                Ok(()) => {
                    opened = true;
                    reported.remove(&number);
                }
                Err(error) => {
                    is_complete = false;
                    let shard = newest.topology().name(number);
                    if reported.insert(number) {
                        tracing::warn!(shard, %error, "a shard cannot be opened here yet: it is tried again");
                    } else {
                        tracing::debug!(shard, %error, "a shard cannot be opened here yet");
                    }
                }
            }
        }
        if opened {
            self.publish_newest();
        }
        is_complete
    }

    /// Opens every shard of the newest map, so that a table is created on each of them.
    ///
    /// # Errors
    /// [`Error::ShardUnavailable`].
    pub(super) async fn open_all(self, deadline: Instant) -> Result<(), Error> {
        let Some(newest) = self.0.map.backlog().newest() else { return Ok(()) };
        let missing = self.missing(&newest);
        if missing.is_empty() {
            return Ok(());
        }
        for number in missing {
            self.open_listed(number, deadline).await.map_err(|error| {
                let shard = newest.topology().name(number).to_owned();
                tracing::warn!(shard, %error, "the tables cannot be changed: a shard is not open here");
                Error::ShardUnavailable { shard }
            })?;
        }
        self.publish_newest();
        Ok(())
    }

    /// Returns the shards of a map that are not open here, except joining shards: each of these is
    /// opened by the router that lets it join.
    fn missing(self, map: &ShardMap) -> Vec<ShardNumber> {
        let shards = self.0.shards.load();
        let members = map.topology().members();
        let made = members.filter(|(_, shard)| shard.state != ShardState::Joining);
        made.map(|(number, _)| number).filter(|number| shards.get(*number).is_none()).collect()
    }

    /// Puts the newest map in force after shards were opened. This may be a later map than the one
    /// that named these shards, because opening a shard takes up to `OPEN_MAX`.
    fn publish_newest(self) {
        let Some(newest) = self.0.map.backlog().newest() else { return };
        let epoch = newest.epoch();
        match self.0.map.publish_open(ShardMap::clone(&newest)) {
            Ok(true) => tracing::info!(epoch, "the shard map has changed"),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "the shard map in force stays"),
        }
    }

    /// Opens a shard that the newest map lists, unless it is open, and adds it to the list.
    ///
    /// # Errors
    /// [`NewShardRefusal`].
    pub(super) async fn open_listed(
        self,
        number: ShardNumber,
        deadline: Instant,
    ) -> Result<(), NewShardRefusal> {
        let _turn = self.0.opening.lock().await;
        if self.0.shards().find(number).is_some() {
            return Ok(());
        }
        let (tables, backend) = (self.0.registry.load_full(), &self.0.backend);
        let opened = backend.open_shard(number, &tables, deadline).await?;
        let place = opened.name.clone();
        self.0.shards().add(number, opened).map_err(|error| {
            backend.release_shard(number);
            NewShardRefusal::Unsuitable { place: place.clone(), cause: error.to_string() }
        })?;
        tracing::info!(shard = place, "a shard was opened");
        Ok(())
    }

    /// Closes the shards that have retired.
    async fn close_retired(self) {
        for number in self.0.map.open_retired() {
            match self.0.shards().take_out(number) {
                Ok(Some(shard)) => {
                    let closed = tokio::task::spawn_blocking(move || shard.close()).await;
                    if let Err(error) = closed {
                        tracing::error!(%error, "a shard that has retired was not closed in order");
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(%error, "a shard that has retired stays open");
                    continue;
                }
            }
            self.0.backend.release_shard(number);
            tracing::info!(
                shard = self.0.shard_name(number),
                "a shard that has retired was closed"
            );
        }
    }
}
