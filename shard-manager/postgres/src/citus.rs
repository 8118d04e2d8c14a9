//! Citus: the differences from plain PostgreSQL if the server is the coordinator of a Citus
//! cluster.
//!
//! A Citus cluster is one shard of Tessera: the coordinator receives all statements, and Citus
//! decides by a hash of the shard key which of its own shards holds a row, and which worker has
//! that shard. Citus plans each statement for its own shards, so the texts of statements differ:
//! rows are sent as lists of values, not as arrays, and each statement concerns only one of Citus'
//! shards. Such a statement needs only one worker. A transaction on one worker commits there
//! directly; a transaction on several workers is prepared on each of them first (two-phase commit),
//! which takes three syncs instead of one.
//!
//! **Invariant:** the known placement of Citus' shards affects only speed: if it is out of date,
//! statements and transactions take longer, and nothing else changes.
//! **Not here:** the texts of statements (`citus::sql`), running them (`batch_transaction`,
//! `upsert_transaction`, `key_reads`).

mod hash;
pub(super) mod jobs;
pub(super) mod joining;
pub(super) mod members;
pub(super) mod needs;
pub(super) mod nodes;
pub(super) mod plans;
pub mod setup;
pub(super) mod sql;

use std::sync::{Arc, PoisonError, RwLock};

use diesel::QueryResult;
use diesel::result::Error as DieselError;
use diesel_async::AsyncPgConnection;
use engine::WritePartitioner;
use model::value::ColumnType;

use super::binary_value;
use super::db_error::DbErrorKind;
use super::statement::{Bind, Statement, load};

/// Reads Citus' own shards: least and greatest hash, and the group of nodes that stores each.
const PARTS: &str = "SELECT shardminvalue::bigint, shardmaxvalue::bigint, min(groupid)::bigint
    FROM pg_dist_shard JOIN pg_dist_placement USING (shardid)
    WHERE logicalrelid = 'tessera.tessera_idempotency'::regclass
    GROUP BY shardid, shardminvalue, shardmaxvalue ORDER BY 1";

/// Advice to operators who ask Tessera to move rows.
pub const MOVES: &str = "Citus moves rows, not Tessera: POST /api/rebalance has it begin, as citus_rebalance_start() on \
    the coordinator does, and GET /api/rebalance shows its progress";

/// Statement that moves one of Citus' own shards, for an operator.
pub const MOVE: &str = "move one of Citus' shards by SELECT citus_move_shard_placement(shard_id, \
    'source_host', 5432, 'target_host', 5432) on the coordinator";

/// Known state of a Citus cluster.
#[derive(Debug, Default)]
pub struct Citus(RwLock<Arc<Parts>>);

/// Shards of Citus, by their hashes, in order. The tables of Tessera are co-located: all have the
/// same shards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    all: Vec<CitusShard>,
    /// Groups of nodes that store the shards, in order.
    groups: Vec<i64>,
}

/// One of Citus' own shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CitusShard {
    least: i64,
    most: i64,
    group: i64,
}

impl Citus {
    /// Reads the shards from the coordinator, and returns true if they have changed.
    ///
    /// # Errors
    /// The error of the query.
    pub async fn refresh(&self, connection: &AsyncPgConnection) -> QueryResult<bool> {
        let parts = Parts::ask(connection).await?;
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let changed = **known != parts;
        *known = Arc::new(parts);
        Ok(changed)
    }

    /// Returns the known placement of keys.
    pub fn parts(&self) -> Arc<Parts> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl WritePartitioner for Citus {
    fn lane_of(&self, key: &str, lanes: usize) -> usize {
        self.parts().group_number(key) % lanes
    }
}

impl Parts {
    async fn ask(connection: &AsyncPgConnection) -> QueryResult<Self> {
        let statement = Statement { sql: PARTS, binds: &[], cached: false };
        let rows = load(connection, statement).await?;
        let part = |row: &super::statement::RowView| {
            let (least, most, group) = (row.bigint(0)?, row.bigint(1)?, row.bigint(2)?);
            Some(CitusShard { least, most, group })
        };
        Ok(Self::new(rows.iter().filter_map(part).collect()))
    }

    fn new(all: Vec<CitusShard>) -> Self {
        let mut groups: Vec<i64> = all.iter().map(|part| part.group).collect();
        groups.sort_unstable();
        groups.dedup();
        Self { all, groups }
    }

    /// Returns the number, in the order of hashes, of the Citus shard of a key.
    pub(super) fn of(&self, key: &str) -> usize {
        let hash = i64::from(hash::of_text(key.as_bytes()));
        self.all.partition_point(|part| part.most < hash)
    }

    /// Groups of nodes that store the shards, in order.
    pub fn groups(&self) -> &[i64] {
        &self.groups
    }

    /// Returns the number of the group that stores a key.
    pub fn group_number(&self, key: &str) -> usize {
        let part = self.all.get(self.of(key));
        part.and_then(|part| self.groups.binary_search(&part.group).ok()).unwrap_or(0)
    }
}

/// Removes the oldest of the records of idempotency keys that are too old, and returns their
/// number. The number is approximately `most`: Citus does not support `DELETE` with a limit, so the
/// records are selected by their creation times.
///
/// # Errors
/// The error of Citus.
pub(super) async fn forget(
    connection: &AsyncPgConnection,
    [from, before]: [Bind; 2],
    most: i32,
) -> QueryResult<usize> {
    let binds = [from.clone(), before, Bind::integer(most)];
    let oldest = Statement { sql: sql::OLDEST, binds: &binds, cached: true };
    let until = load(connection, oldest).await?;
    let until = until
        .first()
        .and_then(|row| row.cell(0, |bytes| binary_value::decode(ColumnType::Timestamp, bytes)));
    let Some(until) = until else { return Ok(0) };
    let binds = [from, Bind::value(ColumnType::Timestamp, &until)];
    let removed =
        load(connection, Statement { sql: sql::FORGET, binds: &binds, cached: true }).await?;
    Ok(removed.len().min(most.unsigned_abs() as usize))
}

/// Returns true if an error of a coordinator that still responds proves that nothing was stored.
/// `last` is true for an error of the commit. Then only a worker that refuses rows is a proof: if a
/// worker is lost, Citus knows neither the outcome of the commit nor that of a cancelled statement.
pub(super) fn is_rejected(error: &DieselError, last: bool) -> bool {
    // These errors mean that nothing was sent to that worker (the connections that commit exist
    // already), or that the statement was never begun.
    let message = error.to_string();
    if ["Connection refused", "the database system is", "does not exist"]
        .iter()
        .any(|proof| message.contains(proof))
    {
        return true;
    }
    match DbErrorKind::of(error) {
        DbErrorKind::Constraint(_)
        | DbErrorKind::NotUnique(_)
        | DbErrorKind::IndexEntryTooLong(_)
        | DbErrorKind::Discarded(_)
        | DbErrorKind::Conflict
        | DbErrorKind::ReadOnly
        | DbErrorKind::Outdated => true,
        DbErrorKind::Full
        | DbErrorKind::Late
        | DbErrorKind::Lost
        | DbErrorKind::Promoted
        | DbErrorKind::Other => !last,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_in_the_range_of_its_hash() {
        let part = |least, most, group| CitusShard { least, most, group };
        let low = i64::from(i32::MIN);
        let parts = Parts::new(vec![part(low, -1, 7), part(0, i64::from(i32::MAX), 3)]);
        // The hash of user_123 is below zero, that of `a` above.
        assert_eq!((parts.of("user_123"), parts.group_number("user_123")), (0, 1));
        assert_eq!((parts.of("a"), parts.group_number("a")), (1, 0));
        assert_eq!(parts.groups(), [3, 7]);
        assert_eq!((Parts::default().of("a"), Parts::default().group_number("a")), (0, 0));
    }
}
