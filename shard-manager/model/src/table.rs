//! Tables: names, columns, types and keys of the tables that clients can use, as the databases
//! declare them.
//!
//! A name that a client sends is looked up here, and the name that was found is used in SQL, never
//! the one that was sent. A table that is not in the registry does not exist for clients.
//!
//! A client that may not know all columns of a table gets a [view](Table::view) of it. The columns
//! of a view have the same indices as in the table, but hidden columns cannot be found by their
//! names.
//!
//! **Invariant:** every name matches `[a-z][a-z0-9_]{0,39}`, so it needs no quoting in SQL or JSON.
//! **Not here:** reading the declarations from a database (`declarations` of `postgres` and of
//! `sqlite`); rows (`row_change`).

mod column_default;
mod difference;
mod visible;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use crate::group_number::GroupNumber;
use crate::value::ColumnType;
pub use column_default::{ColumnDefault, DefaultFault};
pub use difference::TableDifference;
pub use visible::VisibleColumns;

/// Column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Name in SQL and in JSON.
    pub name: String,
    /// Type of the values of the column.
    pub kind: ColumnType,
    /// True if values may be null.
    pub nullable: bool,
    /// Value that a new row gets if its write leaves the column out. If there is no default, the
    /// value is null in a nullable column, and otherwise it must be given.
    pub default: Option<ColumnDefault>,
}

/// Table with the columns `slot` and `shard_key`, its own columns, which clients declare, and then
/// `version`, `created_at` and `updated_at`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    name: String,
    columns: Vec<Column>,
    id: Vec<usize>,
    routing: Option<usize>,
    group: GroupNumber,
    digest: u64,
    view: Option<View>,
}

/// Part of a table that a client may know.
#[derive(Clone, Debug, PartialEq, Eq)]
struct View {
    whole: Arc<Table>,
    /// True for each hidden column, by index.
    hidden: Box<[bool]>,
}

impl Table {
    /// Index of the column `slot` in every table.
    pub const SLOT: usize = 0;
    /// Index of the column `shard_key` in every table.
    pub const SHARD_KEY: usize = 1;
    /// Indices of the columns that determine where a row is stored.
    pub const PLACE: [usize; 2] = [Self::SLOT, Self::SHARD_KEY];
    const OWN: usize = 2;
    /// Maximum number of own columns of a table.
    pub const COLUMNS_MAX: usize = 200;

    /// Creates a table with these own columns, in the group `main`.
    ///
    /// # Errors
    /// [`TableError`] if a name is malformed, repeated or unknown, if the number of columns is not
    /// permitted, or if the id columns cannot identify rows.
    pub fn new(
        name: &str,
        own: Vec<Column>,
        id: &[String],
        routing: Option<&str>,
    ) -> Result<Self, TableError> {
        check_name(name)?;
        if own.is_empty() || own.len() > Self::COLUMNS_MAX {
            return Err(TableError::ColumnCount { count: own.len() });
        }
        let mut columns =
            vec![system("slot", ColumnType::Bigint), system("shard_key", ColumnType::Text)];
        columns.extend(own);
        columns.push(system("version", ColumnType::Bigint));
        columns.push(system("created_at", ColumnType::Timestamp));
        columns.push(system("updated_at", ColumnType::Timestamp));
        for (index, column) in columns.iter().enumerate() {
            check_name(&column.name)?;
            if columns[..index].iter().any(|other| other.name == column.name) {
                return Err(TableError::NameTaken { name: column.name.clone() });
            }
        }
        let own = Self::OWN..columns.len() - 3;
        let own_column = |name: &str| {
            let found = columns.iter().position(|column| column.name == name);
            let found = found.filter(|index| own.contains(index));
            found.ok_or_else(|| TableError::UnknownKey { name: name.to_owned() })
        };
        let id: Vec<usize> = id.iter().map(|name| own_column(name)).collect::<Result<_, _>>()?;
        let routing = routing.map(own_column).transpose()?;
        if id.is_empty() {
            return Err(TableError::NoId);
        }
        let unfit = id.iter().map(|id| &columns[*id]).find(|column| !column.kind.is_comparable());
        if let Some(column) = unfit {
            return Err(TableError::IdNotComparable { name: column.name.clone() });
        }
        let name = name.to_owned();
        let group = GroupNumber::MAIN;
        let mut table = Self { name, columns, id, routing, group, digest: 0, view: None };
        table.digest = digest_of(&table);
        Ok(table)
    }

    /// Returns a hash of the declaration, which differs if a table is created again under the same
    /// name with another declaration.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Returns the table's name.
    #[inline]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns all columns, including those of the system, in the order in which the database has
    /// them.
    #[inline]
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Returns the column at an index that a method of this table has returned.
    #[inline]
    pub fn column(&self, index: usize) -> &Column {
        &self.columns[index]
    }

    /// Returns the indices of the columns that identify a row among the rows with the same shard
    /// key.
    #[inline]
    pub fn id(&self) -> &[usize] {
        &self.id
    }

    /// Returns the index of the routing column, whose value is the shard key of the row; `None` if
    /// the table has no such column.
    #[inline]
    pub fn routing(&self) -> Option<usize> {
        self.routing
    }

    /// Returns the group that the table belongs to.
    #[inline]
    pub fn group(&self) -> GroupNumber {
        self.group
    }

    /// Returns the indices of the table's own columns, which are those that clients may write.
    #[inline]
    pub fn own(&self) -> Range<usize> {
        Self::OWN..self.columns.len() - 3
    }

    /// Returns the indices of the columns that a response without `select` contains: own columns,
    /// `version`, `created_at`, `updated_at`.
    #[inline]
    pub fn answered(&self) -> Range<usize> {
        Self::OWN..self.columns.len()
    }

    /// Returns the index of the column `version`; `created_at` and `updated_at` follow it.
    #[inline]
    pub fn version(&self) -> usize {
        self.columns.len() - 3
    }

    /// Returns the index of the column with this name, which may be one of the system's; `None` if
    /// there is none, or it is hidden.
    pub fn find(&self, name: &str) -> Option<usize> {
        let found = self.columns.iter().position(|column| column.name == name);
        found.filter(|index| self.visible().has(*index))
    }

    /// Returns a view of the table that hides all columns for whose names `shows` returns false.
    /// Hidden columns cannot be found by their names, and are never suggested for a misspelled
    /// name.
    #[must_use]
    pub fn view(self: &Arc<Self>, shows: impl Fn(&str) -> bool) -> Arc<Self> {
        let whole = self.whole();
        // Most clients may know all columns of a table; for them no view is allocated.
        if whole.columns.iter().all(|column| shows(&column.name)) {
            return Arc::clone(whole);
        }
        let hidden = whole.columns.iter().map(|column| !shows(&column.name)).collect();
        let view = Some(View { whole: Arc::clone(whole), hidden });
        Arc::new(Self { view, ..Self::clone(whole) })
    }

    /// Returns the table of which this is a view, with all columns; the table itself if it is not a
    /// view.
    #[inline]
    pub fn whole(self: &Arc<Self>) -> &Arc<Self> {
        self.view.as_ref().map_or(self, |view| &view.whole)
    }

    /// Returns the columns that are not hidden.
    #[inline]
    pub fn visible(&self) -> VisibleColumns<'_> {
        VisibleColumns(self)
    }
}

/// Returns the table as a member of this group.
#[must_use]
pub fn in_group(table: Table, group: GroupNumber) -> Table {
    let mut table = Table { group, ..table };
    table.digest = digest_of(&table);
    table
}

fn digest_of(table: &Table) -> u64 {
    let mut text = format!("{} {:?} {:?}", table.name, table.id, table.routing);
    if table.group != GroupNumber::MAIN {
        let _ = write!(text, " group {}", table.group.index());
    }
    for column in &table.columns {
        let null = if column.nullable { " null" } else { "" };
        text.extend([" ", &column.name, " ", column.kind.name(), null]);
        if let Some(default) = column.default_json() {
            text.extend([" default ", default.get()]);
        }
    }
    xxhash_rust::xxh3::xxh3_64(text.as_bytes())
}

/// Returns true if a table or a column may have this name.
pub fn is_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_lowercase())
        && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && name.len() <= 40
}

fn system(name: &str, kind: ColumnType) -> Column {
    Column::new(name, kind, false)
}

fn check_name(name: &str) -> Result<(), TableError> {
    if is_name(name) { Ok(()) } else { Err(TableError::Name { name: name.to_owned() }) }
}

/// Tables of a cluster, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registry {
    tables: BTreeMap<String, Arc<Table>>,
}

impl Registry {
    /// Maximum number of tables of a cluster. Each table takes one or two pages in the file of
    /// every shard, and a check at every start.
    pub const TABLES_MAX: usize = 256;

    /// Creates a registry of these tables.
    pub fn new(tables: impl IntoIterator<Item = Table>) -> Self {
        let named = tables.into_iter().map(|table| (table.name.clone(), Arc::new(table)));
        Self { tables: named.collect() }
    }

    /// Returns a registry with one more table.
    #[must_use]
    pub fn with(&self, table: Arc<Table>) -> Self {
        let mut tables = self.tables.clone();
        tables.insert(table.name.clone(), table);
        Self { tables }
    }

    /// Returns a registry without the tables of these names.
    #[must_use]
    pub fn without(&self, names: &[&str]) -> Self {
        let kept = self.tables.iter().filter(|(name, _)| !names.contains(&name.as_str()));
        Self { tables: kept.map(|(name, table)| (name.clone(), Arc::clone(table))).collect() }
    }

    /// Returns a registry in which each table is replaced by what `view` returns for it, and left
    /// out if that is `None`.
    #[must_use]
    pub fn view(&self, view: impl Fn(&Arc<Table>) -> Option<Arc<Table>>) -> Self {
        let named = |table: Arc<Table>| (table.name.clone(), table);
        Self { tables: self.tables.values().filter_map(view).map(named).collect() }
    }

    /// Returns the table with this name.
    pub fn find(&self, name: &str) -> Option<&Arc<Table>> {
        self.tables.get(name)
    }

    /// Returns the name of the table that a client may have meant with this name.
    pub fn suggest(&self, name: &str) -> Option<String> {
        closest(name, self.tables.keys().map(String::as_str))
    }

    /// Returns all tables, in the order of their names.
    pub fn tables(&self) -> impl Iterator<Item = &Arc<Table>> {
        self.tables.values()
    }
}

/// Returns the name that is most similar to the one that a client wrote, if it is similar enough to
/// have been meant.
pub fn closest<'n>(written: &str, names: impl Iterator<Item = &'n str>) -> Option<String> {
    /// Maximum length, in bytes, of a written name that is compared. Longer ones are not misspelled
    /// names.
    const WRITTEN_MAX: usize = 64;
    if written.len() > WRITTEN_MAX {
        return None;
    }
    names
        .map(|name| (strsim::damerau_levenshtein(written, name), name))
        .filter(|(distance, name)| *distance <= (name.len() / 3).max(1))
        .min()
        .map(|(_, name)| name.to_owned())
}

/// Reason why a declaration does not describe a table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// The name does not match `[a-z][a-z0-9_]{0,39}`.
    #[error(
        "`{name}` is not a name: use a lower-case letter, then letters, digits or _, at most 40"
    )]
    Name {
        /// Name that was given.
        name: String,
    },
    /// The name of a column occurs twice, or is the name of a system column.
    #[error("the column name `{name}` is taken")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// An id or routing column is not an own column of the table.
    #[error("`{name}` is none of the table's columns")]
    UnknownKey {
        /// The name.
        name: String,
    },
    /// An id column has a type whose values cannot be compared.
    #[error("`{name}` is json, which cannot be compared, so it tells no rows apart")]
    IdNotComparable {
        /// The column.
        name: String,
    },
    /// There is no id column, so rows with the same shard key could not be distinguished.
    #[error("a table needs at least one id column")]
    NoId,
    /// There are no columns, or too many.
    #[error("a table has 1 to {} columns, not {count}", Table::COLUMNS_MAX)]
    ColumnCount {
        /// Number of given columns.
        count: usize,
    },
}
