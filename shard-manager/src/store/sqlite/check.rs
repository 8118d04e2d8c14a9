//! Check: whether a file is what SQLite wrote.
//!
//! **Not here:** whether a replica equals its primary (`digest`), what to do about damage.

use std::path::Path;

use diesel::sqlite::SqliteConnection;

use super::connection::{OpenError, Statement, for_each_row, open, open_unchanging};

/// Looks at the structure of a file, every page of it. Blocks. A file that is not there, or empty, is not made.
///
/// # Errors
/// [`OpenError::Database`] with the first defect found.
pub fn quick(path: &Path) -> Result<(), OpenError> {
    if std::fs::metadata(path).map_or(0, |file| file.len()) == 0 {
        return Err(OpenError::file(path, "it is missing or empty"));
    }
    let connection = open(path, "PRAGMA query_only=ON")?;
    look(connection, path)
}

/// The same for a file that nobody changes, of a copy: nothing is made beside it.
///
/// # Errors
/// [`OpenError::Database`] with the first defect found.
pub fn quick_unchanging(path: &Path) -> Result<(), OpenError> {
    look(open_unchanging(path)?, path)
}

fn look(mut connection: SqliteConnection, path: &Path) -> Result<(), OpenError> {
    let mut found = String::new();
    let statement = Statement { sql: "PRAGMA quick_check(1)", binds: &[], cached: false };
    for_each_row(&mut connection, statement, |row| {
        found += &row.text(0, str::to_owned).unwrap_or_default();
        Ok(())
    })
    .map_err(|error| OpenError::file(path, error))?;
    if found == "ok" { Ok(()) } else { Err(OpenError::file(path, found)) }
}
