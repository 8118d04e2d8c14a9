//! Connections: opens files, runs dynamic statements on diesel, and interprets errors of SQLite.
//!
//! **Invariant:** values are always bound; the text of a [`Statement`] comes only from constants,
//! `sql`, `engine::select` and `engine::access_store`.
//! **Not here:** the texts themselves.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use diesel::connection::{LoadConnection, SimpleConnection};
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::result::{DatabaseErrorKind, Error as DieselError};
use diesel::row::{Field, Row};
use diesel::sql_types::{BigInt, Binary, Double, Nullable, Text, Untyped};
use diesel::sqlite::{Sqlite, SqliteConnection};
use diesel::{Connection, QueryResult, RunQueryDsl};

use super::{private_file, sql};
pub(super) use engine::open_error::OpenError;
use model::error::Error;
use model::sabotage::{Mutation, is_on};
use model::table::Table;
use model::value::Value;

/// Settings that every guarantee depends on.
///
/// `trusted_schema`, `cell_size_check` and no `mmap` bound the effect of a damaged file; `FULL`
/// syncs each commit. Checkpoints run in the writer's own commits, every 16,000 pages (64 MiB), so
/// that a page is copied once for the many transactions that change it.
pub(super) const SETTINGS: &str = "
    PRAGMA busy_timeout=2000; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
    PRAGMA foreign_keys=ON; PRAGMA trusted_schema=OFF; PRAGMA cell_size_check=ON;
    PRAGMA mmap_size=0; PRAGMA temp_store=MEMORY; PRAGMA wal_autocheckpoint=16000;
    PRAGMA journal_size_limit=67108864;";

/// Opens an existing file with [`SETTINGS`]. A missing file is not created: an empty file in its
/// place would be mistaken for it.
pub(super) fn open(path: &Path, pragmas: &str) -> Result<SqliteConnection, OpenError> {
    connect(path, &uri(path, "mode=rw")?, pragmas)
}

/// Opens a file with the settings of [`open`], and creates it if it is missing.
pub(super) fn create(path: &Path) -> Result<SqliteConnection, OpenError> {
    private_file::create_empty(path).map_err(|error| OpenError::io(path, error))?;
    connect(path, &uri(path, "mode=rwc")?, "")
}

fn connect(path: &Path, uri: &str, pragmas: &str) -> Result<SqliteConnection, OpenError> {
    let opened = || -> Result<SqliteConnection, diesel::ConnectionError> {
        let mut connection = SqliteConnection::establish(uri)?;
        let mut set = |pragmas: &str| {
            let set = connection.batch_execute(pragmas);
            set.map_err(diesel::ConnectionError::CouldntSetupConfiguration)
        };
        set(SETTINGS)?;
        set(pragmas)?;
        if is_on(Mutation::SqliteSyncOff) {
            set("PRAGMA synchronous=OFF")?;
        }
        Ok(connection)
    };
    opened().map_err(|error| OpenError::file(path, error))
}

/// Opens a file that this process has open already, to read it from the disk: with a small cache,
/// and without ever creating it.
pub(super) fn open_in_place(path: &Path) -> Result<SqliteConnection, OpenError> {
    let failed = |error: &dyn std::fmt::Display| OpenError::file(path, error);
    let uri = uri(path, "mode=rw")?;
    let mut connection = SqliteConnection::establish(&uri).map_err(|error| failed(&error))?;
    let pragmas = "PRAGMA busy_timeout=2000; PRAGMA query_only=ON; PRAGMA trusted_schema=OFF;
        PRAGMA cell_size_check=ON; PRAGMA mmap_size=0; PRAGMA cache_size=-512";
    connection.batch_execute(pragmas).map_err(|error| failed(&error))?;
    Ok(connection)
}

/// Opens a file without a writer, and changes nothing, neither in it nor beside it.
pub(super) fn open_unchanging(path: &Path) -> Result<SqliteConnection, OpenError> {
    let failed = |error: &dyn std::fmt::Display| OpenError::file(path, error);
    let uri = uri(path, "mode=ro&immutable=1")?;
    let mut connection = SqliteConnection::establish(&uri).map_err(|error| failed(&error))?;
    let pragmas = "PRAGMA trusted_schema=OFF; PRAGMA cell_size_check=ON; PRAGMA mmap_size=0";
    connection.batch_execute(pragmas).map_err(|error| failed(&error))?;
    Ok(connection)
}

/// Returns the URI of a file, which sets the mode of opening.
///
/// The path is absolute and follows an empty host, because SQLite takes the text after two slashes
/// for a host.
pub(super) fn uri(path: &Path, mode: &str) -> Result<String, OpenError> {
    let absolute = std::path::absolute(path).map_err(|error| OpenError::io(path, error))?;
    let mut uri = "file://".to_owned();
    for &byte in absolute.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                uri.push(char::from(byte));
            }
            // These include the characters that end a path (? and #), the one that begins an escape
            // (%), and bytes that are not UTF-8.
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    Ok(uri + "?" + mode)
}

/// Returns the version of the linked SQLite, such as `3.53.2`, as the library itself reports it.
pub(super) fn sqlite_version() -> Result<String, OpenError> {
    let failed = |error: &dyn std::fmt::Display| OpenError::file(Path::new(":memory:"), error);
    let mut connection = SqliteConnection::establish(":memory:").map_err(|error| failed(&error))?;
    let statement = Statement { sql: "SELECT sqlite_version()", binds: &[], cached: false };
    let mut version = String::new();
    for_each_row(&mut connection, statement, |row| {
        version = row.text(0, str::to_owned).unwrap_or_default();
        Ok(())
    })
    .map_err(|error| failed(&error))?;
    Ok(version)
}

/// A bound value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Bind<'v> {
    Null,
    Int(i64),
    Double(f64),
    Text(&'v str),
    Blob(&'v [u8]),
}

impl<'v> From<&'v Value> for Bind<'v> {
    fn from(value: &'v Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(truth) => Self::Int(i64::from(*truth)),
            Value::Int(number) => Self::Int(*number),
            Value::Double(number) => Self::Double(*number),
            Value::Text(text) => Self::Text(text),
        }
    }
}

/// SQL whose text is known only at run time. Unlike diesel's `sql_query` it may stay prepared.
#[derive(Debug)]
pub(super) struct Statement<'s> {
    pub(super) sql: &'s str,
    pub(super) binds: &'s [Bind<'s>],
    pub(super) cached: bool,
}

const NO_TEXT: Option<&str> = None;

impl QueryFragment<Sqlite> for Statement<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        if !self.cached {
            out.unsafe_to_cache_prepared();
        }
        out.push_sql(self.sql);
        for bind in self.binds {
            match bind {
                Bind::Null => out.push_bind_param_value_only::<Nullable<Text>, _>(&NO_TEXT)?,
                Bind::Int(number) => out.push_bind_param_value_only::<BigInt, i64>(number)?,
                Bind::Double(number) => out.push_bind_param_value_only::<Double, f64>(number)?,
                Bind::Text(text) => out.push_bind_param_value_only::<Text, str>(text)?,
                Bind::Blob(bytes) => out.push_bind_param_value_only::<Binary, [u8]>(bytes)?,
            }
        }
        Ok(())
    }
}

impl QueryId for Statement<'_> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Query for Statement<'_> {
    type SqlType = Untyped;
}

impl RunQueryDsl<SqliteConnection> for Statement<'_> {}

/// Runs a statement and hands each row to `each`.
pub(super) fn for_each_row(
    connection: &mut SqliteConnection,
    statement: Statement<'_>,
    mut each: impl FnMut(&RowView<'_, '_>) -> QueryResult<()>,
) -> QueryResult<()> {
    for_each_row_while(connection, statement, |row| each(row).map(|()| true))
}

/// Runs a statement and hands each row to `each` until that returns false.
pub(super) fn for_each_row_while(
    connection: &mut SqliteConnection,
    statement: Statement<'_>,
    mut each: impl FnMut(&RowView<'_, '_>) -> QueryResult<bool>,
) -> QueryResult<()> {
    for row in LoadConnection::load(connection, statement)? {
        if !each(&RowView { row: row? })? {
            break;
        }
    }
    Ok(())
}

type SqliteRow<'c, 'q> = <SqliteConnection as LoadConnection>::Row<'c, 'q>;

/// A row in the memory of SQLite.
pub(super) struct RowView<'c, 'q> {
    row: SqliteRow<'c, 'q>,
}

impl RowView<'_, '_> {
    /// Hands the text of a column to `read`; `None` if it is null.
    pub(super) fn text<T>(&self, column: usize, read: impl FnOnce(&str) -> T) -> Option<T> {
        self.row.get(column)?.value().map(|mut value| read(value.read_text()))
    }

    /// Hands the bytes of a column to `read`; `None` if it is null.
    pub(super) fn blob<T>(&self, column: usize, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        self.row.get(column)?.value().map(|mut value| read(value.read_blob()))
    }

    /// Returns a whole number; `None` if it is null.
    pub(super) fn int(&self, column: usize) -> Option<i64> {
        self.row.get(column)?.value().map(|mut value| value.read_long())
    }

    /// Returns a number; `None` if it is null.
    pub(super) fn double(&self, column: usize) -> Option<f64> {
        self.row.get(column)?.value().map(|mut value| value.read_double())
    }
}

/// Statements that one connection keeps prepared.
///
/// Clients choose columns and filters, so the texts are many; beyond [`PreparedShapes::MAX`] new
/// ones run unprepared instead of filling memory.
#[derive(Debug, Default)]
pub(super) struct PreparedShapes {
    known: HashSet<u64>,
    /// Statements of the tables that were written to.
    statements: Vec<(Arc<Table>, Arc<TableStatements>)>,
}

/// Statements of one table that every write needs, built once because that costs as much as binding
/// values.
#[derive(Debug)]
pub(super) struct TableStatements {
    pub(super) select_row: String,
    pub(super) insert: String,
    pub(super) insert_new: String,
}

impl PreparedShapes {
    /// Maximum number of prepared statements of one connection; each takes some kilobytes.
    pub(super) const MAX: usize = 256;

    /// Returns the statements of a table.
    pub(super) fn statements(&mut self, table: &Arc<Table>) -> Arc<TableStatements> {
        if let Some((_, statements)) =
            self.statements.iter().find(|(known, _)| Arc::ptr_eq(known, table))
        {
            return Arc::clone(statements);
        }
        if self.statements.len() == Self::MAX / 4 {
            self.statements.clear();
        }
        let statements = Arc::new(TableStatements {
            select_row: sql::select_row(table),
            insert: sql::insert(table),
            insert_new: sql::insert_new(table),
        });
        self.statements.push((Arc::clone(table), Arc::clone(&statements)));
        statements
    }

    /// Returns true if a statement of this text may be kept prepared.
    pub(super) fn admit(&mut self, sql: &str) -> bool {
        // If two texts have the same hash, the second is kept as well.
        let hash = xxhash_rust::xxh3::xxh3_64(sql.as_bytes());
        if self.known.contains(&hash) {
            return true;
        }
        let room = self.known.len() < Self::MAX;
        if room {
            self.known.insert(hash);
        }
        room
    }
}

/// Kind of an error of SQLite: the effect on the statement and its transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DbErrorKind {
    /// The statement alone was undone; the transaction continues.
    Constraint(&'static str),
    /// No space left: nothing of the transaction will be stored.
    Full,
    /// The file or the disk is damaged or cannot be used now.
    Unusable,
    /// Anything else: the statement itself may have caused it.
    Other,
}

impl DbErrorKind {
    pub(super) fn of(error: &DieselError) -> Self {
        if let DieselError::RollbackErrorOnCommit { commit_error, .. } = error {
            return Self::of(commit_error);
        }
        let DieselError::DatabaseError(kind, information) = error else { return Self::Other };
        // diesel does not pass on codes for these, only the fixed messages of SQLite
        // (sqlite3ErrStr).
        let message = information.message();
        let says = |sentences: &[&str]| sentences.iter().any(|sentence| message.contains(sentence));
        if let Some(rule) = broken_rule(kind) {
            Self::Constraint(rule)
        } else if says(&["database or disk is full"]) {
            Self::Full
        } else if says(&UNUSABLE) {
            Self::Unusable
        } else {
            Self::Other
        }
    }

    /// Converts the kind to the error that clients receive.
    pub(super) fn error(&self, shard: &str) -> Error {
        match self {
            Self::Constraint(rule) => Error::Constraint { rule },
            Self::Full => Error::StorageFull { shard: shard.to_owned() },
            Self::Unusable => Error::ShardUnavailable { shard: shard.to_owned() },
            Self::Other => Error::Internal,
        }
    }
}

/// Messages of SQLite about a file or a disk that is damaged, or that another process keeps locked.
const UNUSABLE: [&str; 5] =
    ["disk I/O error", "malformed", "readonly database", "not a database", "locked"];

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "diesel's enum may grow, and only these are rules"
)]
fn broken_rule(kind: &DatabaseErrorKind) -> Option<&'static str> {
    match kind {
        DatabaseErrorKind::UniqueViolation => Some("unique"),
        DatabaseErrorKind::ForeignKeyViolation => Some("foreign key"),
        DatabaseErrorKind::CheckViolation => Some("check"),
        DatabaseErrorKind::NotNullViolation => Some("not null"),
        _ => None,
    }
}

/// Selects the bytes of the pages of a file that are in use.
const BYTES_IN_USE: &str = "SELECT (p.page_count - f.freelist_count) * s.page_size
    FROM pragma_page_count AS p, pragma_freelist_count AS f, pragma_page_size AS s";

/// Returns the bytes of the pages of a file that are in use.
pub(crate) fn bytes_in_use(connection: &mut SqliteConnection) -> QueryResult<u64> {
    let statement = Statement { sql: BYTES_IN_USE, binds: &[], cached: true };
    let mut bytes = 0;
    for_each_row(connection, statement, |row| {
        bytes = row.int(0).unwrap_or(0).max(0).cast_unsigned();
        Ok(())
    })?;
    Ok(bytes)
}
