//! Dialect: the SQL and the values of reads where PostgreSQL differs from other engines.
//!
//! **Invariant:** lists and patterns are one parameter each, so that the text does not depend on
//! their values.
//! **Not here:** the rest of a statement (`engine::select`), running a statement (`scan`), reads of
//! many keys at once (`key_reads`), statements that write (`sql`).

use engine::select::{self, Dialect, like_pattern};
use model::keyspace::Slot;
use model::query::Pattern;
use model::value::{ColumnType, Value};

use super::statement::Bind;

/// PostgreSQL's [`Dialect`].
pub(super) struct PostgresDialect;

/// A read of a server.
pub(super) type Select<'q> = select::Select<'q, PostgresDialect>;

impl Dialect for PostgresDialect {
    type Bind<'q> = Bind;

    const PARAMETER: char = '$';
    // The server itself cancels a statement after its deadline (`statement_timeout`).
    const DEADLINE_CHECK: Option<&'static str> = None;
    const IS_SAME: &'static str = " IS NOT DISTINCT FROM ";
    const IS_TRUE: &'static str = " IS TRUE";
    const IS_FALSE: &'static str = " IS FALSE";
    const IN_LIST: [&'static str; 2] = ["=ANY(", ")"];
    const LIKE: [&'static str; 2] = [" LIKE ", " ESCAPE '\\'"];
    const ILIKE: [&'static str; 2] = [" ILIKE ", " ESCAPE '\\'"];
    const AFTER_LIMIT: &'static str = "";

    fn slot<'q>(slot: Slot) -> Self::Bind<'q> {
        Bind::integer(i32::from(slot.number()))
    }

    fn key(key: &str) -> Self::Bind<'_> {
        Bind::text(key)
    }

    fn row_count<'q>(count: i64) -> Self::Bind<'q> {
        Bind::bigint(count)
    }

    fn value(kind: ColumnType, value: &Value) -> Self::Bind<'_> {
        Bind::value(kind, value)
    }

    fn list(kind: ColumnType, values: &[Value]) -> Self::Bind<'_> {
        Bind::values(kind, values.iter())
    }

    fn like<'q>(pattern: &Pattern) -> Self::Bind<'q> {
        Bind::text(&like_pattern(pattern))
    }

    fn ilike<'q>(pattern: &Pattern) -> Self::Bind<'q> {
        Bind::text(&like_pattern(pattern))
    }

    /// Appends two arrays instead of an array of pairs: Citus finds the workers by the array of
    /// keys, and would join pairs on its coordinator. The array of slots only limits the range of
    /// the index, which begins with the slot.
    fn push_keys<'q>(select: &mut Select<'q>, keys: &'q [(Slot, String)]) {
        let mut slots: Vec<i32> = keys.iter().map(|(slot, _)| slot.number().into()).collect();
        slots.sort_unstable();
        slots.dedup();
        select.push("slot=ANY(");
        select.bind(Bind::integers(slots.into_iter()));
        select.push(") AND shard_key=ANY(");
        select.bind(Bind::texts(keys.iter().map(|(_, key)| &**key)));
        select.push(")");
    }
}

#[cfg(test)]
mod tests;
