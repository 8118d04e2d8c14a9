//! Statement cache: the statements of each table that is written to, generated once for each
//! connection.
//!
//! **Not here:** the texts of statements (`sql`), preparing statements (`statement`).

use std::sync::Arc;

use model::table::Table;

use super::sql::{self, UpsertMode};

/// Tables whose statements are kept. When there are more, the cache is cleared.
const TABLES_MAX: usize = 64;
/// Upserts whose statements are kept: clients choose the columns, so there may be many. When there
/// are more, the cache is cleared.
const UPSERTS_MAX: usize = 128;

/// The statements of one table.
pub(super) struct TableStatements {
    pub(super) table: Arc<Table>,
    pub(super) lock_rows: String,
    pub(super) hold_rows: String,
    pub(super) insert: String,
    pub(super) update: String,
    pub(super) remove: String,
}

impl TableStatements {
    /// Returns statements that fail unless they affect each of their rows.
    fn requiring_all_rows(table: &Arc<Table>) -> Self {
        let plain = Self::plain(table);
        Self {
            insert: sql::require_all_rows(table, &plain.insert),
            update: sql::require_all_rows(table, &plain.update),
            remove: sql::require_all_rows(table, &plain.remove),
            ..plain
        }
    }

    /// Returns statements that do not check how many rows they affect.
    pub(super) fn plain(table: &Arc<Table>) -> Self {
        Self {
            table: Arc::clone(table),
            lock_rows: sql::lock_rows(table),
            hold_rows: sql::hold_rows(table),
            insert: sql::insert(table),
            update: sql::update(table),
            remove: sql::remove(table),
        }
    }
}

/// One upsert of a table.
struct Upsert {
    table: Arc<Table>,
    set: Vec<usize>,
    mode: UpsertMode,
    sql: Arc<str>,
}

/// The statements of all tables that were written to.
#[derive(Default)]
pub(super) struct StatementCache {
    tables: Vec<Arc<TableStatements>>,
    upserts: Vec<Upsert>,
}

impl StatementCache {
    /// Returns the statements of a table.
    pub(super) fn of(&mut self, table: &Arc<Table>) -> Arc<TableStatements> {
        if let Some(known) = self.tables.iter().find(|known| Arc::ptr_eq(&known.table, table)) {
            return Arc::clone(known);
        }
        if self.tables.len() == TABLES_MAX {
            self.tables.clear();
        }
        let statements = Arc::new(TableStatements::requiring_all_rows(table));
        self.tables.push(Arc::clone(&statements));
        statements
    }

    /// Returns the upsert of these columns of a table in a mode.
    pub(super) fn upsert(
        &mut self,
        table: &Arc<Table>,
        set: impl ExactSizeIterator<Item = usize> + Clone,
        mode: UpsertMode,
    ) -> Arc<str> {
        let known = self.upserts.iter().find(|known| {
            Arc::ptr_eq(&known.table, table)
                && known.mode == mode
                && known.set.iter().copied().eq(set.clone())
        });
        if let Some(known) = known {
            return Arc::clone(&known.sql);
        }
        if self.upserts.len() == UPSERTS_MAX {
            self.upserts.clear();
        }
        let (table, set) = (Arc::clone(table), set.collect::<Vec<_>>());
        let sql: Arc<str> = sql::upsert(&table, &set, mode).into();
        self.upserts.push(Upsert { table, set, mode, sql: Arc::clone(&sql) });
        sql
    }
}
