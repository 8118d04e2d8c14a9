//! Witness: up to where a read may have seen the shard's changes, told by the node that was read.
//!
//! A read shows what was committed when its snapshot was taken. What is asked after it bounds that from above: on a
//! primary, where its log ends now. On a replica a commit can be seen a moment before the position that is replayed is
//! told, so the bound is one record further than that, and at most what the replica has received.
//!
//! **Invariant:** whoever waits until a node has replayed a told position finds there everything that was read.
//! **Not here:** waiting (`shard`).

use diesel::QueryResult;
use diesel::result::Error as DieselError;

use super::node::Target;
use super::statement::RowView;

/// A record that is being replayed ends at most so far behind the last one. A commit takes some hundred bytes; one of a
/// transaction that made tables, some thousand.
const RECORD_MAX: u64 = 64 << 10;

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Witness {
    Primary,
    Replica,
}

impl Witness {
    /// The witness of reads of such a node.
    pub(super) fn of(target: &Target) -> Self {
        match target {
            Target::Leader(_) => Self::Primary,
            Target::Replica(..) => Self::Replica,
        }
    }

    /// What it is asked.
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

/// A node that was read as a replica takes writes now.
#[derive(Debug, thiserror::Error)]
#[error("the replica that was read was promoted meanwhile")]
pub(super) struct Promoted;

/// What the node shows for certain.
///
/// # Errors
/// If it did not say.
pub(super) fn shown(rows: &[RowView]) -> QueryResult<u64> {
    let told = rows.first().and_then(|row| row.bigint(0));
    told.map(i64::cast_unsigned).ok_or(DieselError::NotFound)
}

/// The position that it tells.
///
/// # Errors
/// If the node is not what it was.
pub(super) fn position(witness: Witness, rows: &[RowView]) -> QueryResult<u64> {
    let row = rows.first().ok_or(DieselError::NotFound)?;
    let number = |column| row.bigint(column).map(i64::cast_unsigned);
    let replayed = number(0).ok_or(DieselError::NotFound)?;
    if witness == Witness::Replica && row.boolean(2) != Some(true) {
        // It was promoted: what it shows is no replica's view any more.
        return Err(DieselError::QueryBuilderError(Box::new(Promoted)));
    }
    Ok(match (witness, number(1)) {
        (Witness::Primary, _) | (Witness::Replica, None) => replayed,
        (Witness::Replica, Some(received)) => {
            received.clamp(replayed, replayed.saturating_add(RECORD_MAX))
        }
    })
}
