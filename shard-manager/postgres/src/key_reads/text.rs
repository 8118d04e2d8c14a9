//! Text: the statement that reads the rows of several keys, each if the node answers reads of its
//! slot.
//!
//! Ownership is looked up in the snapshot of the rows, so a row is never returned by a node that
//! had given its slot away before the row was read.
//!
//! **Not here:** running it (`key_reads`), the text on Citus (`citus::sql`).

use std::fmt::Write as _;

use model::query::ReadQuery;

use super::super::{citus, sql};

/// Expression for the bit of a key's slot: 1 if the node answers reads of it.
const BIT: &str = "get_bit((SELECT bits FROM tessera_readable WHERE id=1),k.slot)";

/// Builds the statement of a query. Parameters: slots, shard keys, and for each key its limit plus
/// one. Columns: the number of the key, then those that [`super::JsonRows`] reads, then
/// [`refused_column`].
///
/// A key without rows is left out unless its slot is refused: the bits are looked up once for all
/// keys, and once more only if a key has no rows.
pub(super) fn text(query: &ReadQuery, is_citus: bool) -> String {
    let table = &query.table;
    let mut columns: Vec<usize> = query.outputs.iter().map(|output| output.column).collect();
    columns.push(table.version());
    columns.extend(table.id());
    if is_citus {
        return citus::sql::point(query, &columns);
    }
    let mut sql = "SELECT k.n,".to_owned();
    sql::push_names(&mut sql, "t.", table, columns.iter().copied());
    let _ = write!(
        sql,
        ",CASE WHEN {BIT}=1 THEN NULL ELSE tessera_refused(k.slot) END \
         FROM unnest($1::integer[],$2::text[],$3::bigint[]) WITH ORDINALITY \
         AS k(slot,shard_key,most,n) LEFT JOIN LATERAL (SELECT "
    );
    columns.sort_unstable();
    columns.dedup();
    sql::push_names(&mut sql, "r.", table, columns.into_iter());
    let _ = write!(
        sql,
        " FROM {} r WHERE r.slot=k.slot AND r.shard_key=k.shard_key ORDER BY ",
        table.name()
    );
    sql::push_names(&mut sql, "r.", table, table.id().iter().copied());
    let version = &table.column(table.version()).name;
    let _ = write!(
        sql,
        " LIMIT k.most) t ON TRUE WHERE t.{version} IS NOT NULL OR {BIT} IS DISTINCT FROM 1"
    );
    sql
}

/// Returns the index of the column with the reason of a refusal (`refusals`), which is null in the
/// rows of a key that may be read. A key whose slot is refused has at least one row.
pub(super) fn refused_column(query: &ReadQuery) -> usize {
    2 + query.outputs.len() + query.table.id().len()
}
