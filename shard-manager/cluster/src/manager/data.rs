//! Data: the face of a manager for rows: writes, reads and session tokens.
//!
//! **Invariant:** a success means durable on the primary that the receipt names.
//! **Not here:** bulk writes (`bulk`), reads (`reads`), the cache (`cached`).

mod bulk;
mod cached;
mod reads;

use std::sync::Arc;

use model::error::{Error, Failure, Outcome};
use model::keyspace::ShardKey;
use model::position::Position;
use model::row_change::{Fields, Operation, RowWrite};
use model::shard_map::{KeyLocation, ShardMap};
use model::table::Table;
use model::token::{SessionToken, TokenError};
use model::topology::ShardIndex;

use super::{Manager, Receipt, RequestOptions, WriteReceipt};
use crate::lane::LaneFailure;

pub use bulk::{BulkDone, BulkPart, BulkRow, BulkRowDone};

/// Face of a [`Manager`] for rows.
#[derive(Clone, Copy)]
pub struct Data<'m>(pub(super) &'m Manager);

/// A read in progress: the cluster that is read, and the options of the request.
#[derive(Clone, Copy)]
struct RowReader<'r> {
    data: Data<'r>,
    options: &'r RequestOptions,
}

impl Data<'_> {
    /// Merges the session tokens of a request.
    ///
    /// # Errors
    /// [`TokenError`] if a token is too long, or not one of this cluster.
    pub fn session<'t>(
        self,
        tokens: impl Iterator<Item = &'t str>,
    ) -> Result<SessionToken, TokenError> {
        let mut session = SessionToken::empty();
        let holds = |shard: ShardIndex, position| {
            // A shard that was removed has no position to check.
            let shard = self.0.shards.get(shard.index());
            shard.is_none_or(|shard| shard.replication.timeline().history().holds(position))
        };
        for token in tokens {
            session.merge(&SessionToken::parse(token, &self.0.token_key)?, holds);
        }
        Ok(session)
    }

    /// Returns the text of a session token, for the client to keep.
    pub fn token(self, session: &SessionToken) -> String {
        session.encode(&self.0.token_key)
    }

    /// Adds a position that the client has seen to its session. A position of the session that may
    /// be lost stays: the next read reports it.
    pub fn extend_session(self, session: &mut SessionToken, shard: ShardIndex, position: Position) {
        let history = self.0.shards[shard.index()].replication.timeline().history();
        if session.seen(shard).is_none_or(|known| history.holds(known)) {
            session.see(shard, position);
        }
    }

    /// Checks one change and routes it by a snapshot of the map. All changes of a request use the
    /// same snapshot.
    ///
    /// # Errors
    /// [`Error::Row`], which names the member and its fault.
    pub fn prepare(
        map: &ShardMap,
        table: &Arc<Table>,
        operation: Operation,
        key: ShardKey<'_>,
        fields: &Fields<'_>,
    ) -> Result<(KeyLocation, RowWrite), Error> {
        let place = map.place(key)?;
        let row = RowWrite::parse(table, operation, (key, place.slot), fields)?;
        Ok((place, row))
    }

    /// Applies one change. After `Ok` it is durable on as many nodes as the level requires.
    ///
    /// # Errors
    /// [`Failure`], with the cause, the slot and shard, and the outcome, which may be unknown.
    pub async fn write(
        self,
        place: KeyLocation,
        row: RowWrite,
        options: &RequestOptions,
    ) -> Result<WriteReceipt, Failure> {
        let shard = &self.0.shards[place.shard.index()];
        let failed = |error, outcome, seen| Failure { error, place: Some(place), outcome, seen };
        let mut pending = self.pending_keys(std::iter::once((place, &row)));
        let done = shard.write(vec![row], options.level, options.deadline).await;
        if let Err(LaneFailure { outcome: Outcome::Rejected, .. }) = &done {
            pending.forget();
        }
        drop(pending);
        let done = done.map_err(|failure| failed(failure.error, failure.outcome, None))?;
        let position = done.seen();
        let seen = Some(position);
        let times = done.applied.times;
        match (done.applied.rows.into_iter().next(), done.shortfall) {
            (Some(Ok(row)), None) => {
                Ok(WriteReceipt { row, receipt: Receipt { place, position, times } })
            }
            (Some(Ok(_)), Some(shortfall)) => Err(failed(shortfall, Outcome::Committed, seen)),
            (Some(Err(error)), _) => Err(failed(error, Outcome::Rejected, seen)),
            (None, _) => Err(failed(Error::Internal, Outcome::Unknown, None)),
        }
    }
}
