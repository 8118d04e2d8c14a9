//! Declarations: what a client may declare a table to be.
//!
//! [`Table::new`] holds every table to what the program relies on; this holds those that clients
//! make to more: names that can be used everywhere, keys that tell rows apart.
//!
//! **Invariant:** a table that was checked here has no name that SQL, a query string or the system
//! needs for itself, so statements need no quoting in SQLite or PostgreSQL.
//! **Not here:** the body it comes in (the router), making it (`manager`).

use crate::table::{Column, Table, TableError, closest};
use crate::value::ColumnType;

/// A table as a client declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declaration {
    /// `name`.
    pub name: String,
    /// `columns`, in their order.
    pub columns: Vec<Column>,
    /// `id`: the columns that tell rows of one shard key apart.
    pub id: Vec<String>,
    /// `routing`: the column that is the shard key.
    pub routing: Option<String>,
}

impl Declaration {
    /// Most id columns: all of them stand in the key of every row.
    pub const ID_MAX: usize = 8;

    /// Every type that a column may have.
    pub const TYPES: [ColumnType; 7] = [
        ColumnType::Text,
        ColumnType::Bigint,
        ColumnType::Double,
        ColumnType::Boolean,
        ColumnType::Timestamp,
        ColumnType::Json,
        ColumnType::Uuid,
    ];

    /// The type of this name.
    pub fn find_type(name: &str) -> Option<ColumnType> {
        Self::TYPES.into_iter().find(|kind| kind.name() == name)
    }

    /// The table, if it may be made.
    ///
    /// # Errors
    /// [`DeclarationError`] names the member and what is wrong with it.
    pub fn check(self) -> Result<Table, DeclarationError> {
        let told = |member: String| move |fault| DeclarationError { member, fault };
        check_name(&self.name, &SYSTEM_TABLES).map_err(told("name".into()))?;
        if SYSTEM_PREFIXES.iter().any(|prefix| self.name.starts_with(prefix)) {
            return Err(told("name".into())(Fault::Reserved { by: "the system" }));
        }
        if self.columns.is_empty() || self.columns.len() > Table::COLUMNS_MAX {
            return Err(told("columns".into())(Fault::ColumnCount { count: self.columns.len() }));
        }
        for (index, column) in self.columns.iter().enumerate() {
            let told = told(format!("columns[{index}].name"));
            check_name(&column.name, &SYSTEM_COLUMNS).map_err(told.clone())?;
            if self.columns[..index].iter().any(|other| other.name == column.name) {
                return Err(told(Fault::Twice));
            }
        }
        if self.id.is_empty() || self.id.len() > Self::ID_MAX {
            return Err(told("id".into())(Fault::IdCount { count: self.id.len() }));
        }
        for (index, name) in self.id.iter().enumerate() {
            let told = told(format!("id[{index}]"));
            self.check_key(name).map_err(told.clone())?;
            if self.id[..index].contains(name) {
                return Err(told(Fault::Twice));
            }
        }
        if let Some(name) = &self.routing {
            self.check_key(name).map_err(told("routing".into()))?;
        }
        Table::new(&self.name, self.columns, &self.id, self.routing.as_deref())
            .map_err(|error| told("the table".into())(Fault::Unsound(error)))
    }

    fn check_key(&self, name: &str) -> Result<(), Fault> {
        let Some(column) = self.columns.iter().find(|column| column.name == name) else {
            let suggestion = closest(name, self.columns.iter().map(|column| &*column.name));
            return Err(Fault::NoSuchColumn { suggestion });
        };
        if !column.kind.is_comparable() {
            return Err(Fault::NotComparable);
        }
        if column.nullable { Err(Fault::Nullable) } else { Ok(()) }
    }
}

/// Reason why a declaration is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{member} {fault}")]
pub struct DeclarationError {
    /// The member, such as `columns[3].name`.
    pub member: String,
    /// Fault of the member.
    pub fault: Fault,
}

/// Fault of a member.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Not `[a-z][a-z0-9_]{0,39}`.
    #[error("must be a lower-case letter, then letters, digits or _, at most 40")]
    Name,
    /// Taken by something else.
    #[error("is a name that {by} needs for itself")]
    Reserved {
        /// By what.
        by: &'static str,
    },
    /// A name came before.
    #[error("comes twice")]
    Twice,
    /// None or too many.
    #[error("must be 1 to {}, and are {count}", Table::COLUMNS_MAX)]
    ColumnCount {
        /// Columns given.
        count: usize,
    },
    /// None or too many.
    #[error("must name 1 to {} columns, and names {count}", Declaration::ID_MAX)]
    IdCount {
        /// Columns given.
        count: usize,
    },
    /// A key that is no column.
    #[error("is none of the columns")]
    NoSuchColumn {
        /// The column that may have been meant.
        suggestion: Option<String>,
    },
    /// A key whose values cannot be told apart.
    #[error("is a json column, and json cannot be compared")]
    NotComparable,
    /// A key that may be absent.
    #[error("is a column that may be null")]
    Nullable,
    /// A fault that no other check has found.
    #[error("cannot be: {0}")]
    Unsound(TableError),
}

fn check_name(name: &str, system: &[&str]) -> Result<(), Fault> {
    if !Table::is_name(name) {
        return Err(Fault::Name);
    }
    let by = if PARAMETERS.contains(&name) {
        "a query string"
    } else if system.contains(&name) {
        "the system"
    } else if is_word_of(RESERVED_BY_SQLITE, name) {
        "SQLite"
    } else if is_word_of(RESERVED_BY_POSTGRESQL, name) {
        "PostgreSQL"
    } else {
        return Ok(());
    };
    Err(Fault::Reserved { by })
}

fn is_word_of(words: &str, name: &str) -> bool {
    words.split_ascii_whitespace().any(|word| word == name)
}

/// Names of query parameters, which cannot be columns.
const PARAMETERS: [&str; 12] = [
    "and", "columns", "count", "cursor", "limit", "not", "offset", "or", "order", "select",
    "table", "where",
];

/// Columns that every table has, and those that SQLite or PostgreSQL add to each.
const SYSTEM_COLUMNS: [&str; 13] = [
    "slot",
    "shard_key",
    "version",
    "created_at",
    "updated_at",
    "rowid",
    "oid",
    "tableoid",
    "ctid",
    "xmin",
    "xmax",
    "cmin",
    "cmax",
];

/// Tables that SQLite or PostgreSQL have in every database and that statements of ours, or of
/// tools, name.
const SYSTEM_TABLES: [&str; 6] =
    ["information_schema", "dbstat", "json_each", "json_tree", "jsonb_each", "jsonb_tree"];

const SYSTEM_PREFIXES: [&str; 4] = ["tessera_", "sqlite_", "pg_", "pragma_"];

/// Keywords of SQLite that are not always accepted as unquoted names
/// (<https://www.sqlite.org/lang_keywords.html>).
const RESERVED_BY_SQLITE: &str = "add all alter and as autoincrement between case cast check collate commit \
    constraint create cross current_date current_time current_timestamp default deferrable delete distinct drop else end escape except \
    exists explain filter for foreign from full generated glob group having if in index indexed inner insert \
    intersect into is isnull join left like limit match materialized natural not nothing notnull null nulls on \
    or order outer over primary raise recursive references regexp replace returning right rollback select set \
    table then to transaction union unique update using values when where window with without";

/// Words that PostgreSQL 18 reserves, also where a function or type may have the name
/// (<https://www.postgresql.org/docs/current/sql-keywords-appendix.html>).
const RESERVED_BY_POSTGRESQL: &str = "all analyse analyze and any array as asc asymmetric authorization binary both \
    case cast check collate collation column concurrently constraint create cross current_catalog current_date current_role \
    current_schema current_time current_timestamp current_user default deferrable desc distinct do else end \
    except false fetch for foreign freeze from full grant group having ilike in initially inner intersect into \
    is isnull join lateral leading left like limit localtime localtimestamp natural not notnull null offset on \
    only or order outer overlaps placing primary references returning right select session_user similar some \
    symmetric system_user table tablesample then to trailing true union unique user using variadic verbose \
    when where window with";
