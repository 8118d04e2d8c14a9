//! Texts: the statements of each table that is written to, made once for each connection.
//!
//! **Not here:** what they say (`sql`), whether they are prepared (`statement`).

use std::sync::Arc;

use super::sql::{self, Manner};
use crate::table::Table;

/// Tables whose texts are kept. Beyond, all are made anew.
const TABLES_MAX: usize = 64;
/// Upserts whose texts are kept: clients choose which columns they give.
const UPSERTS_MAX: usize = 128;

/// The statements of one table.
pub(super) struct TableTexts {
    pub(super) table: Arc<Table>,
    pub(super) lock_rows: String,
    pub(super) hold_rows: String,
    pub(super) insert: String,
    pub(super) update: String,
    pub(super) remove: String,
}

impl TableTexts {
    /// Statements that fail unless they affect each of their rows.
    fn counted(table: &Arc<Table>) -> Self {
        let plain = Self::plain(table);
        Self {
            insert: sql::counted(table, &plain.insert),
            update: sql::counted(table, &plain.update),
            remove: sql::counted(table, &plain.remove),
            ..plain
        }
    }

    /// Statements that return no rows.
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
    manner: Manner,
    sql: Arc<str>,
}

/// The statements of all tables that were written to.
#[derive(Default)]
pub(super) struct Texts {
    tables: Vec<Arc<TableTexts>>,
    upserts: Vec<Upsert>,
}

impl Texts {
    /// Those of this table.
    pub(super) fn of(&mut self, table: &Arc<Table>) -> Arc<TableTexts> {
        if let Some(known) = self.tables.iter().find(|known| Arc::ptr_eq(&known.table, table)) {
            return Arc::clone(known);
        }
        if self.tables.len() == TABLES_MAX {
            self.tables.clear();
        }
        let texts = Arc::new(TableTexts::counted(table));
        self.tables.push(Arc::clone(&texts));
        texts
    }

    /// The upsert of these columns of a table; in this manner.
    pub(super) fn upsert(
        &mut self,
        table: &Arc<Table>,
        set: impl ExactSizeIterator<Item = usize> + Clone,
        manner: Manner,
    ) -> Arc<str> {
        let known = self.upserts.iter().find(|known| {
            Arc::ptr_eq(&known.table, table)
                && known.manner == manner
                && known.set.iter().copied().eq(set.clone())
        });
        if let Some(known) = known {
            return Arc::clone(&known.sql);
        }
        if self.upserts.len() == UPSERTS_MAX {
            self.upserts.clear();
        }
        let (table, set) = (Arc::clone(table), set.collect::<Vec<_>>());
        let sql: Arc<str> = sql::upsert(&table, &set, manner).into();
        self.upserts.push(Upsert { table, set, manner, sql: Arc::clone(&sql) });
        sql
    }
}
