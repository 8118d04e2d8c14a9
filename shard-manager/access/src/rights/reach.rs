//! Reach: the tables, columns and keys whose existence a caller may know.
//!
//! **Invariant:** a table, column or key to which none of the caller's grants applies seems not to
//! exist to the caller.
//! **Not here:** the decision about a request, which a single grant must allow (`rights`).

use model::keyspace::ShardKey;

use super::Bounds;
use crate::grant::Grant;
use crate::operation::RowOperations;

/// Tables, columns and keys to which some grant of a caller applies.
#[derive(Clone, Copy, Debug)]
pub struct Reach<'r>(pub(super) Option<&'r Bounds>);

impl Reach<'_> {
    /// Returns true if the caller may know that a table exists: some grant applies to it.
    pub fn has_table(self, table: &str) -> bool {
        let Some(Bounds { role, .. }) = self.0 else { return true };
        role.grants(table).next().is_some()
    }

    /// Returns true if the caller may know that a column exists: some grant of all these operations
    /// on the table permits it.
    pub fn has_column(self, table: &str, column: &str, operations: RowOperations) -> bool {
        let Some(Bounds { role, .. }) = self.0 else { return true };
        let mut grants = role.grants(table).filter(|grant| grant.operations().contains(operations));
        grants.any(|grant| grant.columns().contains(column))
    }

    /// Returns true if some grant admits this shard key: a grant for `table`, or for any table if
    /// `table` is `None`.
    pub fn has_key(self, key: ShardKey<'_>, table: Option<&str>) -> bool {
        let Some(Bounds { role, tenants, .. }) = self.0 else { return true };
        let admits = |grant: &Grant| grant.keys().binding(tenants).admits(key.as_str());
        match table {
            Some(table) => role.grants(table).any(admits),
            None => role.role().grants().iter().any(admits),
        }
    }
}
