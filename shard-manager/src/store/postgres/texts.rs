//! Texts: the statements of each table that is written to, made once for each connection.
//!
//! **Not here:** what they say (`sql`), whether they are prepared (`statement`).

use std::sync::Arc;

use super::sql;
use crate::table::Table;

/// Tables whose texts are kept. Beyond, all are made anew.
const TABLES_MAX: usize = 64;
/// Upserts whose texts are kept: clients choose which columns they give.
const UPSERTS_MAX: usize = 128;

/// The statements of one table.
pub(super) struct TableTexts {
    pub(super) table: Arc<Table>,
    pub(super) lock_rows: String,
    pub(super) insert: String,
    pub(super) update: String,
    pub(super) remove: String,
}

/// The statements of all tables that were written to.
#[derive(Default)]
pub(super) struct Texts {
    tables: Vec<Arc<TableTexts>>,
    upserts: Vec<(Arc<Table>, Vec<usize>, Arc<str>)>,
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
        let texts = Arc::new(TableTexts {
            table: Arc::clone(table),
            lock_rows: sql::lock_rows(table),
            insert: sql::insert(table),
            update: sql::update(table),
            remove: sql::remove(table),
        });
        self.tables.push(Arc::clone(&texts));
        texts
    }

    /// The upsert of these columns of a table.
    pub(super) fn upsert(
        &mut self,
        table: &Arc<Table>,
        set: impl ExactSizeIterator<Item = usize> + Clone,
    ) -> Arc<str> {
        let known = self.upserts.iter().find(|(known, columns, _)| {
            Arc::ptr_eq(known, table)
                && columns.len() == set.len()
                && columns.iter().copied().eq(set.clone())
        });
        if let Some((_, _, sql)) = known {
            return Arc::clone(sql);
        }
        if self.upserts.len() == UPSERTS_MAX {
            self.upserts.clear();
        }
        let set: Vec<usize> = set.collect();
        let sql: Arc<str> = sql::upsert(table, &set).into();
        self.upserts.push((Arc::clone(table), set, Arc::clone(&sql)));
        sql
    }
}
