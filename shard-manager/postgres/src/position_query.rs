//! Position query: an upper bound of the changes that a read may have seen, as reported by the node
//! that was read.
//!
//! A read shows the transactions that were committed when its snapshot was taken. A position
//! queried after the read is an upper bound of the positions of these transactions: on a primary,
//! the end of its log. A replica shows a commit a moment before it reports the position of the
//! commit as replayed. So the bound on a replica is one record after the reported position, and at
//! most the position that the replica has received.
//!
//! **Invariant:** a node that has replayed a reported position shows everything that was read.
//! **Not here:** waiting (`shard`).

use diesel::QueryResult;
use diesel::result::Error as DieselError;

use super::db_error::Promoted;
use super::statement::RowView;

/// Maximum number of bytes of a record that is being replayed. The record of a commit has a few
/// hundred bytes; if the transaction created tables, a few thousand.
const RECORD_MAX: u64 = 64 << 10;

/// Query with which a node reports the position that its reads have seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PositionQuery {
    Primary,
    Replica,
}

impl PositionQuery {
    /// Returns the text of the query that also reports, in a fourth column, the generation of the
    /// slots.
    pub(super) fn sql_with_generation(self) -> &'static str {
        match self {
            Self::Primary => {
                "SELECT (pg_current_wal_insert_lsn()-'0/0')::bigint,NULL::bigint,false,\
                 (SELECT generation FROM tessera_readable WHERE id=1)"
            }
            Self::Replica => {
                "SELECT (pg_last_wal_replay_lsn()-'0/0')::bigint,\
                 (pg_last_wal_receive_lsn()-'0/0')::bigint,pg_is_in_recovery(),\
                 (SELECT generation FROM tessera_readable WHERE id=1)"
            }
        }
    }

    /// Returns the text of the query.
    pub(super) fn sql(self) -> &'static str {
        match self {
            Self::Primary => {
                "SELECT (pg_current_wal_insert_lsn()-'0/0')::bigint,NULL::bigint,false"
            }
            Self::Replica => {
                "SELECT (pg_last_wal_replay_lsn()-'0/0')::bigint,\
                 (pg_last_wal_receive_lsn()-'0/0')::bigint,pg_is_in_recovery()"
            }
        }
    }
}

/// Returns the position up to which the node certainly shows all changes.
///
/// # Errors
/// [`DieselError::NotFound`] if the node did not report it.
pub(super) fn shown(rows: &[RowView]) -> QueryResult<u64> {
    let reported = rows.first().and_then(|row| row.bigint(0));
    reported.map(i64::cast_unsigned).ok_or(DieselError::NotFound)
}

/// Returns the position that is an upper bound for the reads before the query.
///
/// # Errors
/// [`Promoted`] if the node is no longer a replica.
pub(super) fn position(position_query: PositionQuery, rows: &[RowView]) -> QueryResult<u64> {
    let row = rows.first().ok_or(DieselError::NotFound)?;
    let number = |column| row.bigint(column).map(i64::cast_unsigned);
    let replayed = number(0).ok_or(DieselError::NotFound)?;
    if position_query == PositionQuery::Replica && row.boolean(2) != Some(true) {
        // The node was promoted: its reads are no longer those of a replica.
        return Err(DieselError::QueryBuilderError(Box::new(Promoted)));
    }
    Ok(match (position_query, number(1)) {
        (PositionQuery::Primary, _) | (PositionQuery::Replica, None) => replayed,
        (PositionQuery::Replica, Some(received)) => {
            received.clamp(replayed, replayed.saturating_add(RECORD_MAX))
        }
    })
}
