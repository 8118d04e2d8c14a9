//! Table index: the declaration of a secondary index of a table, which is the same on all shards.
//!
//! The key of an index in the databases consists of the declared columns and of columns that
//! identify or locate a row. The databases can therefore use the index for filters on the declared
//! columns and for sorting by them, both in reads of all shards and in reads of one shard key.
//!
//! **Invariant:** the columns exist, are comparable and are distinct. The name of the index in a
//! database contains a hash of the whole declaration, so that an index with this name has this
//! declaration.
//! **Not here:** the state of an index (`engine::index_record`), the SQL that creates it (the
//! engines).

use std::fmt::Write as _;
use std::sync::Arc;

use crate::declaration::{Fault, check_table_name};
use crate::table::Table;

/// Secondary index of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableIndex {
    table: Arc<Table>,
    name: String,
    columns: Vec<usize>,
    is_unique: bool,
}

/// Member of the declaration of an index that is refused, with its fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{member} {fault}")]
pub struct IndexError {
    /// Name of the member, such as `columns[1]`.
    pub member: String,
    /// Fault of the member.
    pub fault: IndexFault,
}

/// Fault of a member of the declaration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexFault {
    /// The name cannot be used.
    #[error(transparent)]
    Name(Fault),
    /// There are no columns, or too many.
    #[error("must name 1 to {} columns, but names {count}", TableIndex::COLUMNS_MAX)]
    ColumnCount {
        /// Number of given columns.
        count: usize,
    },
    /// The table has no such column.
    #[error("is not a column of the table")]
    NoSuchColumn {
        /// Column with a similar name.
        suggestion: Option<String>,
    },
    /// The column is given twice.
    #[error("is given twice")]
    Twice,
    /// The column has the type json, whose values cannot be compared.
    #[error("is a json column, and json cannot be compared")]
    NotComparable,
    /// The column is one that determines where rows are stored.
    #[error("cannot be indexed: the location of a row is already part of every index")]
    Place,
}

impl TableIndex {
    /// Maximum number of declared columns of an index.
    pub const COLUMNS_MAX: usize = 8;
    /// Maximum number of indexes of a table. Every write to the table has to update its indexes.
    pub const PER_TABLE_MAX: usize = 16;
    /// Prefix of the names of indexes in the databases.
    pub const PREFIX: &str = "tessera_ix_";
    /// Length of the suffix of a name in the databases: `_` and ten hex digits.
    const END: usize = 11;

    /// Declares an index on these columns of a table.
    ///
    /// # Errors
    /// [`IndexError`], which names the member of the declaration and its fault.
    pub fn new(
        table: &Arc<Table>,
        name: &str,
        columns: &[String],
        is_unique: bool,
    ) -> Result<Self, IndexError> {
        let reported = |member: &str, fault| IndexError { member: member.to_owned(), fault };
        check_table_name(name).map_err(|fault| reported("name", IndexFault::Name(fault)))?;
        if columns.is_empty() || columns.len() > Self::COLUMNS_MAX {
            let count = columns.len();
            return Err(reported("columns", IndexFault::ColumnCount { count }));
        }
        let mut found = Vec::with_capacity(columns.len());
        for (index, column) in columns.iter().enumerate() {
            let column = column_of(table, column, is_unique);
            let column = column.and_then(|column| match found.contains(&column) {
                true => Err(IndexFault::Twice),
                false => Ok(column),
            });
            found.push(column.map_err(|fault| reported(&format!("columns[{index}]"), fault))?);
        }
        let table = Arc::clone(table.whole());
        Ok(Self { table, name: name.to_owned(), columns: found, is_unique })
    }

    /// Returns the table.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// Returns the name of the index, which is unique among the indexes of the table.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the names of the declared columns, in their order.
    pub fn column_names(&self) -> Vec<String> {
        self.columns.iter().map(|column| self.table.column(*column).name.clone()).collect()
    }

    /// Returns true if two rows with the same shard key cannot have the same values in the declared
    /// columns.
    pub fn is_unique(&self) -> bool {
        self.is_unique
    }

    /// Returns the columns of the key in the databases.
    ///
    /// In a non-unique index, shard key and id follow the declared columns, because a read of all
    /// shards breaks ties by shard key and id. A unique index begins with slot and shard key,
    /// because its values need to be unique only among the rows with the same shard key.
    pub fn key(&self) -> Vec<usize> {
        if self.is_unique {
            return Table::PLACE.into_iter().chain(self.columns.iter().copied()).collect();
        }
        let mut key = self.columns.clone();
        for column in std::iter::once(Table::SHARD_KEY).chain(self.table.id().iter().copied()) {
            if !key.contains(&column) {
                key.push(column);
            }
        }
        key
    }

    /// Returns the names of the columns of the key, separated by commas.
    pub fn key_list(&self) -> String {
        let names = self.key().into_iter().map(|column| self.table.column(column).name.as_str());
        names.collect::<Vec<_>>().join(",")
    }

    /// Returns the name of the index in the databases. It has at most 62 bytes, because PostgreSQL
    /// truncates names to 63 bytes.
    pub fn database_name(&self) -> String {
        let unique = if self.is_unique { "unique" } else { "" };
        let text = format!("{} {} {unique} {}", self.table.name(), self.name, self.key_list());
        let digest = xxhash_rust::xxh3::xxh3_64(text.as_bytes()) >> 24;
        let mut name = format!("{}{}_", Self::PREFIX, self.name);
        let _ = write!(name, "{digest:010x}");
        name
    }

    /// Returns the name with which an index was declared, given its name in a database; `None` if
    /// the database name is not one of [`TableIndex::database_name`].
    pub fn name_in(database_name: &str) -> Option<&str> {
        let rest = database_name.strip_prefix(Self::PREFIX)?;
        rest.get(..rest.len().checked_sub(Self::END)?)
    }
}

/// Returns the column with this name, if an index may contain it.
fn column_of(table: &Table, name: &str, is_unique: bool) -> Result<usize, IndexFault> {
    let Some(column) = table.find(name) else {
        return Err(IndexFault::NoSuchColumn { suggestion: table.visible().suggest(name) });
    };
    if column == Table::SLOT || (is_unique && column == Table::SHARD_KEY) {
        return Err(IndexFault::Place);
    }
    match table.column(column).kind.is_comparable() {
        true => Ok(column),
        false => Err(IndexFault::NotComparable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Column;
    use crate::value::ColumnType;

    fn orders() -> Arc<Table> {
        let column = |name: &str, kind| Column {
            name: name.to_owned(),
            kind,
            nullable: true,
            default: None,
        };
        let mut id = column("order_id", ColumnType::Text);
        id.nullable = false;
        let columns = vec![
            id,
            column("status", ColumnType::Text),
            column("amount", ColumnType::Bigint),
            column("about", ColumnType::Json),
        ];
        let table = Table::new("orders", columns, &["order_id".to_owned()], None);
        Arc::new(table.expect("a good table"))
    }

    fn index(columns: &[&str], is_unique: bool) -> Result<TableIndex, IndexError> {
        let columns: Vec<String> = columns.iter().map(|name| (*name).to_owned()).collect();
        TableIndex::new(&orders(), "by_status", &columns, is_unique)
    }

    #[test]
    fn the_key_of_an_index_orders_rows_as_reads_of_all_shards_do() {
        let keys = |columns: &[&str], is_unique| index(columns, is_unique).unwrap().key_list();
        assert_eq!(keys(&["status", "amount"], false), "status,amount,shard_key,order_id");
        assert_eq!(keys(&["shard_key", "order_id"], false), "shard_key,order_id");
        assert_eq!(keys(&["status"], true), "slot,shard_key,status");
    }

    #[test]
    fn an_index_is_known_by_its_name_in_a_database_and_no_other_shape_has_it() {
        let one = index(&["status"], false).unwrap();
        let name = one.database_name();
        assert_eq!(TableIndex::name_in(&name), Some("by_status"));
        assert_ne!(name, index(&["amount"], false).unwrap().database_name());
        assert_ne!(name, index(&["status"], true).unwrap().database_name());
        assert_eq!(TableIndex::name_in("users_pkey"), None);
        assert_eq!(TableIndex::name_in("tessera_ix_"), None);
        let longest = "a".repeat(40);
        let columns = ["status".to_owned()];
        let longest = TableIndex::new(&orders(), &longest, &columns, false).unwrap();
        assert!(longest.database_name().len() <= 63);
    }

    #[test]
    fn a_bad_index_is_refused_with_the_member_that_is_wrong() {
        let error =
            |columns: &[&str], is_unique| index(columns, is_unique).unwrap_err().to_string();
        assert_eq!(error(&[], false), "columns must name 1 to 8 columns, but names 0");
        assert_eq!(error(&["state"], false), "columns[0] is not a column of the table");
        assert_eq!(error(&["status", "status"], false), "columns[1] is given twice");
        assert!(error(&["about"], false).starts_with("columns[0] is a json column"));
        assert!(error(&["slot"], false).starts_with("columns[0] cannot be indexed"));
        assert!(error(&["shard_key"], true).starts_with("columns[0] cannot be indexed"));
        let columns = ["status".to_owned()];
        let bad = TableIndex::new(&orders(), "By Status", &columns, false).unwrap_err();
        assert!(bad.to_string().starts_with("name must be a lower-case letter"), "{bad}");
    }
}
