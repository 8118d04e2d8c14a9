//! Left search: finds the moves of which a shard still has a record. Some of them ended before this
//! process became the leader, and may have left a copy on a shard. Others are missing from the
//! catalog, which has lost them in a failover.
//!
//! **Invariant:** after this process has become the leader, it reads the records of each shard
//! until one attempt has succeeded and its caller has taken note of all moves that were found.
//! **Not here:** the selection of the moves that have ended (`left_copies`), the deletion
//! (`copy_cleaner`), listing lost moves again (`lost_moves`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::move_catalog::MoveCatalog;
use engine::move_record::{MoveRecord, move_name};
use futures_util::future::join_all;
use model::topology::ShardNumber;
use moves::identity::MoveId;
use moves::move_row::MoveRow;

use super::move_sides::{CALL_MAX, reader_of};
use super::{CATALOG_MAX, lost_moves};
use crate::manager::Manager;
use crate::manager::indexes::indexed_shards;
use crate::shard::Shard;

/// Pause before shards that could not be read are read again.
const PAUSE: Duration = Duration::from_secs(5);

/// Progress of the search for moves of which the shards still have records.
#[derive(Debug, Default)]
pub(super) struct LeftSearch {
    /// Shards that were read.
    searched: BTreeSet<ShardNumber>,
    /// Time of the next attempt; `None` if it may begin at once.
    next: Option<Instant>,
    is_busy: bool,
    /// True after the first attempt, or if there was nothing to search.
    has_searched: bool,
}

/// Result of an attempt.
pub(super) struct Searched {
    /// Shards that were read.
    shards: Vec<ShardNumber>,
    /// Moves that these shards have records of, as the catalog has them.
    pub(super) records: Vec<MoveRecord>,
}

impl LeftSearch {
    /// Returns the shards to read now; `None` if there are none, or an attempt is still running.
    pub(super) fn due(
        &mut self,
        manager: &Manager,
        now: Instant,
    ) -> Option<Vec<(ShardNumber, Arc<Shard>)>> {
        if self.is_busy || self.next.is_some_and(|next| now < next) {
            return None;
        }
        let mut shards = indexed_shards(manager);
        shards.retain(|(number, _)| !self.searched.contains(number));
        self.is_busy = !shards.is_empty();
        self.has_searched |= shards.is_empty();
        self.is_busy.then_some(shards)
    }

    /// Returns true once the shards were searched, as far as they could be read.
    pub(super) fn has_searched(&self) -> bool {
        self.has_searched
    }

    /// Records the result of an attempt. If the caller could not take note of all moves that were
    /// found (`are_noted` is false), the shards are read again.
    pub(super) fn settle(&mut self, found: &Searched, are_noted: bool, now: Instant) {
        (self.is_busy, self.has_searched) = (false, true);
        self.next = Some(now + PAUSE);
        if are_noted {
            self.searched.extend(&found.shards);
        }
    }
}

/// Reads the records of moves on these shards, and enters those moves in the catalog again that it
/// has lost. A shard with a move that cannot be entered yet does not count as read.
pub(super) async fn search(
    manager: &Manager,
    catalog: &dyn MoveCatalog,
    shards: Vec<(ShardNumber, Arc<Shard>)>,
) -> Searched {
    let searches = shards.iter().map(async |(number, shard)| {
        let found = search_shard(manager, catalog, (*number, shard)).await;
        found.map_err(|reason| {
            let shard = shard.name();
            tracing::debug!(shard, reason, "the moves of a shard are not known yet");
        })
    });
    let mut found = Searched { shards: Vec::new(), records: Vec::new() };
    let searched = join_all(searches).await;
    for ((number, _), searched) in shards.iter().zip(searched) {
        let Ok((is_complete, records)) = searched else { continue };
        if is_complete {
            found.shards.push(*number);
        }
        found.records.extend(records);
    }
    found
}

/// Searches one shard. Returns true if the catalog now has all of its moves, and the catalog's
/// records of the moves that it had already, or that were cancelled.
async fn search_shard(
    manager: &Manager,
    catalog: &dyn MoveCatalog,
    (number, shard): (ShardNumber, &Shard),
) -> Result<(bool, Vec<MoveRecord>), String> {
    let (mut is_complete, mut records) = (true, Vec::new());
    for row in rows_of(shard).await? {
        if let Some(record) = stored(catalog, row.id).await? {
            records.push(record);
            continue;
        }
        match lost_moves::list_again(manager, catalog, (number, &row)).await {
            Ok(cancelled) => records.extend(cancelled),
            Err(reason) => {
                let (shard, id) = (shard.name(), move_name(row.id));
                tracing::debug!(shard, id, reason, "a lost move cannot be listed yet");
                is_complete = false;
            }
        }
    }
    Ok((is_complete, records))
}

async fn rows_of(shard: &Shard) -> Result<Vec<MoveRow>, String> {
    // An engine that distributes rows by itself has no moves.
    let Ok(reader) = reader_of(shard) else { return Ok(Vec::new()) };
    let rows = reader.rows(Instant::now() + CALL_MAX).await;
    rows.map_err(|error| error.to_string())
}

/// Reads a move from the catalog; `None` if it is not stored.
async fn stored(catalog: &dyn MoveCatalog, id: MoveId) -> Result<Option<MoveRecord>, String> {
    let stored = tokio::time::timeout(CATALOG_MAX, catalog.get(id)).await;
    let stored = stored.map_err(|_elapsed| "the catalog does not answer".to_owned())?;
    stored.map_err(|error| error.to_string())
}
