//! Replayed table: a table of a replica and the statements that replay changes of its rows.
//!
//! **Invariant:** a row that the log contains never deletes another row.
//! **Not here:** reading the log (`log`), transactions on the replica (`applier`).

use std::sync::Arc;

use engine::IndexChange;
use model::table::Table;

use super::sql;

/// A table and the statements that replay its changes.
pub(super) struct ReplayedTable {
    pub(super) table: Arc<Table>,
    /// Stores a row, whether it exists or not.
    pub(super) store: String,
    /// Removes a row if it exists.
    pub(super) remove: String,
}

impl ReplayedTable {
    /// Creates the statements for a table with or without a unique index. If the log has a row with
    /// the unique values of another row, the replica is damaged. So the statement for a table with
    /// a unique index refuses the row instead of deleting the other one.
    pub(super) fn of(table: &Arc<Table>, has_unique_index: bool) -> Self {
        let store = if has_unique_index { sql::replace(table) } else { sql::overwrite(table) };
        Self { table: Arc::clone(table), store, remove: sql::remove(table) }
    }

    /// Chooses the statements again after a change of an index of the table. After the end of a
    /// unique index they stay as they are until the replica is opened again: the table may have
    /// another one.
    pub(super) fn learn(&mut self, change: &IndexChange) {
        match change {
            IndexChange::Make(index) | IndexChange::MakeWithin(index, _) => {
                if index.is_unique() {
                    *self = Self::of(&self.table, true);
                }
            }
            IndexChange::Drop(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use diesel::connection::SimpleConnection;
    use diesel::sqlite::SqliteConnection;
    use diesel::{Connection, QueryResult};
    use model::table::Column;
    use model::table_index::TableIndex;
    use model::value::ColumnType;

    use super::*;
    use crate::batch::run;
    use crate::connection::{Bind, DbErrorKind, Statement, for_each_row};
    use crate::index_ddl;

    /// Creates a database with an empty table called `excluded`, and returns the table as well.
    fn excluded() -> (SqliteConnection, Arc<Table>) {
        let column = |name, nullable| Column::new(name, ColumnType::Text, nullable);
        let columns = vec![column("id", false), column("name", true)];
        let table = Table::new("excluded", columns, &["id".to_owned()], None);
        let mut connection = SqliteConnection::establish(":memory:").expect("a database");
        let made = connection.batch_execute(
            "CREATE TABLE excluded (slot INTEGER, shard_key TEXT, id TEXT, name TEXT,
             version INTEGER, created_at TEXT, updated_at TEXT,
             PRIMARY KEY (slot, shard_key, id)) STRICT, WITHOUT ROWID",
        );
        made.expect("a table");
        (connection, Arc::new(table.expect("a sound table")))
    }

    /// Stores rows, given as pairs of id and name, and returns the names that the table then has.
    fn stored(
        connection: &mut SqliteConnection,
        replayed: &ReplayedTable,
        rows: [(&str, &str); 2],
    ) -> QueryResult<Vec<String>> {
        for (id, name) in rows {
            let [key, id, name, time] =
                ["k", id, name, "2026-11-21T10:00:00.000000Z"].map(Bind::Text);
            let binds = [Bind::Int(1), key, id, name, Bind::Int(7), time, time];
            run(connection, &replayed.store, &binds)?;
        }
        let mut names: Vec<String> = Vec::new();
        let sql = "SELECT name FROM excluded ORDER BY id";
        for_each_row(connection, Statement { sql, binds: &[], cached: false }, |row| {
            names.extend(row.text(0, str::to_owned));
            Ok(())
        })?;
        Ok(names)
    }

    #[test]
    fn a_row_of_a_table_called_excluded_is_replaced_like_any_other() {
        for is_unique in [false, true] {
            let (mut connection, table) = excluded();
            let replayed = ReplayedTable::of(&table, is_unique);
            let names = stored(&mut connection, &replayed, [("a", "Ada"), ("a", "Eve")]);
            assert_eq!(names.expect("the rows are stored"), ["Eve"]);
        }
    }

    #[test]
    fn once_a_unique_index_exists_a_row_with_the_values_of_another_is_refused() {
        let (mut connection, table) = excluded();
        let mut replayed = ReplayedTable::of(&table, false);
        let rows = [("a", "Ada"), ("b", "Ada")];
        let names = stored(&mut connection, &replayed, rows);
        assert_eq!(names.expect("the rows are stored"), ["Ada", "Ada"]);
        let columns = ["name".to_owned()];
        let index = TableIndex::new(&table, "by_name", &columns, true).expect("a sound index");
        let made = connection.batch_execute(
            "DELETE FROM excluded;
             CREATE UNIQUE INDEX tessera_ix_by_name ON excluded (slot, shard_key, name)",
        );
        made.expect("an index");
        let unique = index_ddl::tables_with_unique(&mut connection).expect("the indexes are read");
        assert!(unique.contains("excluded"), "a replica that is opened now knows of the index");
        replayed.learn(&IndexChange::Make(Arc::new(index)));
        let refused = stored(&mut connection, &replayed, rows);
        assert_eq!(
            refused.map_err(|error| DbErrorKind::of(&error)),
            Err(DbErrorKind::Constraint("unique"))
        );
        let names = stored(&mut connection, &replayed, [("a", "Eve"), ("a", "Ada")]);
        assert_eq!(names.expect("the rows are stored"), ["Ada"]);
    }
}
