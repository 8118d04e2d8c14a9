//! Check of the structure of a file.
//!
//! **Not here:** comparing replicas with their primary (`digest`, `compare`), repairing damage.

use std::path::Path;

use diesel::sqlite::SqliteConnection;

use super::connection::{OpenError, Statement, for_each_row, open, open_in_place, open_unchanging};

/// Checks the structure of a file, every page of it. Blocks. A missing or empty file is not
/// created.
///
/// # Errors
/// [`OpenError::Database`] with the first defect found.
pub fn quick(path: &Path) -> Result<(), OpenError> {
    if std::fs::metadata(path).map_or(0, |file| file.len()) == 0 {
        return Err(OpenError::file(path, "it is missing or empty"));
    }
    let found = look(open(path, "PRAGMA query_only=ON")?, path)?;
    found.map_or(Ok(()), |defect| Err(OpenError::file(path, defect)))
}

/// Checks the structure of a file, its indexes, and the constraints of its tables. Returns the
/// first contradiction. Takes longer than [`quick`]. Blocks.
///
/// # Errors
/// [`OpenError`] if the file could not be read, which does not prove that it is damaged.
pub fn contradiction(path: &Path) -> Result<Option<String>, OpenError> {
    let found = open_in_place(path)
        .and_then(|connection| ask(connection, path, "PRAGMA integrity_check(1)"));
    match found {
        Err(OpenError::Database { cause, .. }) if is_damage(&cause) => Ok(Some(cause)),
        found => found,
    }
}

/// Returns the first defect of a copy, which has no writer. Creates no file beside it. Blocks.
///
/// # Errors
/// [`OpenError`] if the file could not be read, which does not prove that it is damaged.
pub fn defect(path: &Path) -> Result<Option<String>, OpenError> {
    let found = open_unchanging(path).and_then(|connection| look(connection, path));
    match found {
        Err(OpenError::Database { cause, .. }) if is_damage(&cause) => Ok(Some(cause)),
        found => found,
    }
}

/// Returns true if an error of SQLite is about the bytes of the file, not about reading them. Such
/// an error is recognised by the fixed messages of SQLite (sqlite3ErrStr), because diesel does not
/// pass on its code.
pub(super) fn is_damage(cause: &str) -> bool {
    ["malformed", "not a database"].iter().any(|sentence| cause.contains(sentence))
}

fn look(connection: SqliteConnection, path: &Path) -> Result<Option<String>, OpenError> {
    ask(connection, path, "PRAGMA quick_check(1)")
}

fn ask(
    mut connection: SqliteConnection,
    path: &Path,
    sql: &str,
) -> Result<Option<String>, OpenError> {
    let mut found = String::new();
    let statement = Statement { sql, binds: &[], cached: false };
    for_each_row(&mut connection, statement, |row| {
        found += &row.text(0, str::to_owned).unwrap_or_default();
        Ok(())
    })
    .map_err(|error| OpenError::file(path, error))?;
    Ok(Some(found).filter(|found| found != "ok"))
}
