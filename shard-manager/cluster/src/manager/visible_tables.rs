//! Visible tables: the tables and columns that a caller (an API client) may know, and refusals that
//! name no others.
//!
//! For a caller without a grant that includes it, a table or a column does not exist: it is not
//! found, listed or suggested.
//!
//! **Invariant:** if a caller's rights are limited, each name that is returned to the caller is
//! that of a table for which the caller has a grant, or of a column that such a grant includes,
//! unless the caller has sent the name.
//! **Not here:** the creation of tables (`schema`), the columns of one request (`access::rights`).

use std::collections::BTreeSet;
use std::sync::Arc;

use access::operation::RowOperations;
use access::rights::{CompiledRole, Denied, RowLack, RowRequest};
use model::error::Error;
use model::keyspace::ShardKey;
use model::row_change::RowError;
use model::shard_map::ShardMap;
use model::shard_map::partitions::{columns, partition_column};
use model::table::{Registry, Table};

use super::Schema;

/// Maximum number of characters of a string sent by a client that a refusal repeats.
const SHOWN_MAX: usize = 80;

impl Schema<'_> {
    /// Returns the table of this name with the columns that the caller may know.
    ///
    /// # Errors
    /// [`Error::NoSuchTable`], with the name that may have been meant.
    pub fn table(self, name: &str) -> Result<Arc<Table>, Error> {
        let registry = self.manager.registry.load();
        let Some(table) = registry.find(name).filter(|_| self.rights.reach().has_table(name))
        else {
            return Err(Error::NoSuchTable {
                table: name.chars().take(SHOWN_MAX).collect(),
                suggestion: self.suggest(&registry, name),
            });
        };
        Ok(self.view(table, RowOperations::NONE))
    }

    /// Returns all tables that the caller may know, each with the columns that the caller may know.
    pub fn tables(self) -> Arc<Registry> {
        let registry = self.manager.registry.load_full();
        if self.rights.is_all() {
            return registry;
        }
        let is_seen = |table: &Table| self.rights.reach().has_table(table.name());
        let view = |table: &Arc<Table>| self.view(table, RowOperations::NONE);
        Arc::new(registry.view(|table| is_seen(table).then(|| view(table))))
    }

    /// Returns a table with the columns that the caller may name in a request with these
    /// operations. A request that no grant allows for any column and key is refused here, before it
    /// is parsed.
    ///
    /// # Errors
    /// [`Error::Forbidden`] if no grant for the table includes the operations, or the columns that
    /// identify a row to change.
    pub fn usable_for(
        self,
        table: Arc<Table>,
        operations: RowOperations,
    ) -> Result<Arc<Table>, Error> {
        if self.rights.is_all() {
            return Ok(table);
        }
        let columns = std::iter::empty();
        let request = RowRequest { operations, table: table.name(), columns };
        self.rights.allow_bound(&request).map_err(|denied| self.refusal(denied))?;
        let view = self.view(&table, operations);
        let mut named = view.id().iter().filter(|column| Some(**column) != view.routing());
        if operations != RowOperations::READ && named.any(|column| !view.visible().has(*column)) {
            return Err(Error::Forbidden {
                operations: operations.to_string(),
                table: view.name().to_owned(),
                lack: "no grant has all columns that tell its rows apart".to_owned(),
            });
        }
        Ok(view)
    }

    /// Returns the error of a request about rows that was denied.
    pub(super) fn refusal(self, denied: Denied) -> Error {
        let (operations, table, lack) = match denied {
            Denied::Rows { operations, table, lack } => (operations, table, lack),
            Denied::Scope(_) => return Error::Internal,
        };
        let registry = self.manager.registry.load();
        match lack {
            RowLack::Table => {
                let suggestion = self.suggest(&registry, &table);
                Error::NoSuchTable { table: table.into(), suggestion }
            }
            RowLack::Column(column) => {
                let view = registry.find(&table).map(|table| self.view(table, operations));
                let suggestion = view.and_then(|view| view.visible().suggest(&column));
                let (table, column) = (table.into(), column.into());
                Error::Row(RowError::NoSuchColumn { table, column, suggestion })
            }
            RowLack::Operations(_) | RowLack::OneGrant | RowLack::Key => Error::Forbidden {
                operations: operations.to_string(),
                table: table.into(),
                lack: lack.to_string(),
            },
        }
    }

    /// Returns the error of a change of tables for which a scope is missing.
    pub(super) fn scope_refusal(self, table: &Table, denied: &Denied) -> Error {
        Error::Forbidden {
            operations: "create".to_owned(),
            table: table.name().to_owned(),
            lack: denied.to_string(),
        }
    }

    fn suggest(self, registry: &Registry, name: &str) -> Option<String> {
        if self.rights.is_all() {
            return registry.suggest(name);
        }
        let is_seen = |table: &&Arc<Table>| self.rights.reach().has_table(table.name());
        registry.view(|table| Some(table).filter(is_seen).cloned()).suggest(name)
    }

    /// Returns the table with the columns of those grants that include all of these operations.
    fn view(self, table: &Arc<Table>, operations: RowOperations) -> Arc<Table> {
        let shows_all = |role: &CompiledRole| role.shows_all_columns(table.name(), operations);
        if self.rights.role().is_none_or(shows_all) {
            return Arc::clone(table.whole());
        }
        table.view(|column| self.rights.reach().has_column(table.name(), column, operations))
    }
}

/// Checks that the caller may write under a shard key. Writes are otherwise checked when they are
/// carried out. But if a row cannot be placed on a shard, the error names what exists, so this
/// check comes before the caller receives the error.
///
/// # Errors
/// [`Error::Forbidden`] if no grant for the table includes the operations for the key.
#[inline]
pub fn check_key(
    schema: Schema<'_>,
    table: &Table,
    operations: RowOperations,
    key: ShardKey<'_>,
) -> Result<(), Error> {
    if schema.rights.is_all() {
        return Ok(());
    }
    let columns = std::iter::empty();
    let request = RowRequest { operations, table: table.name(), columns };
    schema.rights.allow_key(&request, key).map_err(|denied| schema.refusal(denied))?;
    Ok(())
}

/// Returns the columns that determine the partition of a row in the keyspaces of all table groups.
/// Only those are returned that the caller may know as a column of some table of the group.
pub fn partition_columns(schema: Schema<'_>, map: &ShardMap) -> BTreeSet<String> {
    if schema.rights.is_all() {
        return columns(map).into_iter().map(str::to_owned).collect();
    }
    let tables = schema.tables();
    let known = tables.tables().filter_map(|table| {
        let column = partition_column(map, table)?;
        table.visible().has(column).then(|| table.column(column).name.clone())
    });
    known.collect()
}
