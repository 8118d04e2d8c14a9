//! Declarations: checks the tables that clients declare.
//!
//! [`Table::new`] checks only what the program itself relies on. A table that a client declares
//! must also have names that are not reserved anywhere, and keys that can identify rows.
//!
//! **Invariant:** no name in a table that was checked here is reserved by SQL, by query strings or
//! by this system, so SQLite and PostgreSQL accept all of them without quotes.
//! **Not here:** the format of the request (the router), creating the table (`manager`).

use crate::table::{Column, DefaultFault, Table, TableError, closest, is_name};
use crate::value::ColumnType;

/// Table as a client declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declaration {
    /// `name`.
    pub name: String,
    /// `columns`, in the order of the declaration.
    pub columns: Vec<Column>,
    /// `id`: the columns that identify a row among the rows with the same shard key.
    pub id: Vec<String>,
    /// `routing`: the column that contains the shard key.
    pub routing: Option<String>,
}

impl Declaration {
    /// Maximum number of id columns. All of them are part of the key of every row.
    pub const ID_MAX: usize = 8;

    /// All types that a column may have.
    pub const TYPES: [ColumnType; 7] = [
        ColumnType::Text,
        ColumnType::Bigint,
        ColumnType::Double,
        ColumnType::Boolean,
        ColumnType::Timestamp,
        ColumnType::Json,
        ColumnType::Uuid,
    ];

    /// Returns the type with this name.
    pub fn find_type(name: &str) -> Option<ColumnType> {
        Self::TYPES.into_iter().find(|kind| kind.name() == name)
    }

    /// Checks the declaration and returns the table that it describes.
    ///
    /// # Errors
    /// [`DeclarationError`], which names the member of the declaration and its fault.
    pub fn check(self) -> Result<Table, DeclarationError> {
        let reported = |member: String| move |fault| DeclarationError { member, fault };
        check_table_name(&self.name).map_err(reported("name".into()))?;
        if self.columns.is_empty() || self.columns.len() > Table::COLUMNS_MAX {
            return Err(reported("columns".into())(Fault::ColumnCount {
                count: self.columns.len(),
            }));
        }
        for (index, column) in self.columns.iter().enumerate() {
            let reported = reported(format!("columns[{index}].name"));
            check_name(&column.name, &SYSTEM_COLUMNS).map_err(reported.clone())?;
            if self.columns[..index].iter().any(|other| other.name == column.name) {
                return Err(reported(Fault::Twice));
            }
        }
        if self.id.is_empty() || self.id.len() > Self::ID_MAX {
            return Err(reported("id".into())(Fault::IdCount { count: self.id.len() }));
        }
        for (index, name) in self.id.iter().enumerate() {
            let reported = reported(format!("id[{index}]"));
            self.check_key(name).map_err(reported.clone())?;
            if self.id[..index].contains(name) {
                return Err(reported(Fault::Twice));
            }
        }
        if let Some(name) = &self.routing {
            self.check_key(name).map_err(reported("routing".into()))?;
        }
        for (index, column) in self.columns.iter().enumerate() {
            let is_routing = self.routing.as_ref() == Some(&column.name);
            let default = column.default.as_ref();
            let default = default.filter(|_| is_routing || self.id.contains(&column.name));
            let reported = reported(format!("columns[{index}].default"));
            let checked = default.map_or(Ok(()), |default| default.check_key(is_routing));
            checked.map_err(|fault| reported(Fault::Default(fault)))?;
        }
        Table::new(&self.name, self.columns, &self.id, self.routing.as_deref())
            .map_err(|error| reported("the table".into())(Fault::Unsound(error)))
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

/// Member of a declaration that is refused, with its fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{member} {fault}")]
pub struct DeclarationError {
    /// The member, such as `columns[3].name`.
    pub member: String,
    /// Fault of the member.
    pub fault: Fault,
}

/// Fault of a member of a declaration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The name does not match `[a-z][a-z0-9_]{0,39}`.
    #[error("must be a lower-case letter, then letters, digits or _, at most 40")]
    Name,
    /// The name is reserved.
    #[error("is a name that {by} needs for itself")]
    Reserved {
        /// The program or language that reserves the name.
        by: &'static str,
    },
    /// The name occurs twice.
    #[error("is given twice")]
    Twice,
    /// There are no columns, or too many.
    #[error("must be 1 to {}, and are {count}", Table::COLUMNS_MAX)]
    ColumnCount {
        /// Number of given columns.
        count: usize,
    },
    /// There are no id columns, or too many.
    #[error("must name 1 to {} columns, but names {count}", Declaration::ID_MAX)]
    IdCount {
        /// Number of given columns.
        count: usize,
    },
    /// An id column or the routing column is not among the columns.
    #[error("is none of the columns")]
    NoSuchColumn {
        /// Column with a similar name.
        suggestion: Option<String>,
    },
    /// An id column or the routing column has a type whose values cannot be compared.
    #[error("is a json column, and json cannot be compared")]
    NotComparable,
    /// An id column or the routing column may be null.
    #[error("is a column that may be null")]
    Nullable,
    /// An id column or the routing column has a default that is not permitted there.
    #[error("{0}")]
    Default(DefaultFault),
    /// [`Table::new`] refuses the table for another reason.
    #[error("cannot be: {0}")]
    Unsound(TableError),
}

/// Checks the name of a table or of an index.
pub(crate) fn check_table_name(name: &str) -> Result<(), Fault> {
    check_name(name, &SYSTEM_TABLES)?;
    match SYSTEM_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
        true => Err(Fault::Reserved { by: "the system" }),
        false => Ok(()),
    }
}

fn check_name(name: &str, system: &[&str]) -> Result<(), Fault> {
    if !is_name(name) {
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

/// Columns that Tessera, SQLite or PostgreSQL adds to every table.
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

/// Tables and schemas of SQLite or PostgreSQL that statements of this program or of tools name.
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

/// Words that PostgreSQL 18 reserves, including those that may be names of functions or types
/// (<https://www.postgresql.org/docs/current/sql-keywords-appendix.html>).
const RESERVED_BY_POSTGRESQL: &str = "all analyse analyze and any array as asc asymmetric authorization binary both \
    case cast check collate collation column concurrently constraint create cross current_catalog current_date current_role \
    current_schema current_time current_timestamp current_user default deferrable desc distinct do else end \
    except false fetch for foreign freeze from full grant group having ilike in initially inner intersect into \
    is isnull join lateral leading left like limit localtime localtimestamp natural not notnull null offset on \
    only or order outer overlaps placing primary references returning right select session_user similar some \
    symmetric system_user table tablesample then to trailing true union unique user using variadic verbose \
    when where window with";
