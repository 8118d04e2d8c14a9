//! Sort place: decides whether SQLite sorts the rows of a new index in memory or in a temporary
//! file.
//!
//! Connections normally keep temporary data in memory, which is best for requests. The rows of an
//! index may need more memory than there is, so they are sorted in a temporary file, and the sort
//! uses no more memory than the page cache of the connection. SQLite creates the file in the first
//! of these folders to which it may write: `SQLITE_TMPDIR`, `TMPDIR`, `/var/tmp`, `/usr/tmp`,
//! `/tmp`, the working directory. The name of the file is removed at once, so that nothing is left
//! after a crash.
//!
//! **Invariant:** if the folder has too little free space before the sort, the index is still
//! built, and its rows are sorted in memory.
//! **Not here:** the index itself (`index_ddl`).

use std::path::PathBuf;

use diesel::connection::SimpleConnection;
use diesel::sqlite::SqliteConnection;
use rustix::fs::{Access, access};

use crate::connection::bytes_in_use;
use crate::data_dir;

/// Returns true if there is enough disk space to sort the rows of a connection's file in a
/// temporary file.
pub(crate) fn has_room(connection: &mut SqliteConnection) -> bool {
    let needed = bytes_in_use(connection).map(needed);
    needed.is_ok_and(|needed| free_bytes().is_some_and(|free| free >= needed))
}

/// Makes a connection sort in a temporary file if there is enough disk space. Returns true if it
/// will.
pub(super) fn use_file(connection: &mut SqliteConnection) -> bool {
    has_room(connection) && connection.batch_execute("PRAGMA temp_store=FILE").is_ok()
}

/// Makes a connection sort in memory again.
pub(super) fn use_memory(connection: &mut SqliteConnection) {
    if let Err(error) = connection.batch_execute("PRAGMA temp_store=MEMORY") {
        tracing::warn!(%error, "a connection continues to keep temporary data in files");
    }
}

/// Returns the maximum number of bytes that sorting the rows of a file takes: during a merge, the
/// rows are stored twice.
fn needed(file_bytes: u64) -> u64 {
    file_bytes.saturating_mul(2)
}

/// Returns the free space of the folder in which SQLite creates temporary files; `None` if there is
/// no such folder.
fn free_bytes() -> Option<u64> {
    let named = ["SQLITE_TMPDIR", "TMPDIR"].into_iter().filter_map(std::env::var_os);
    let fixed = ["/var/tmp", "/usr/tmp", "/tmp", "."].map(PathBuf::from);
    let mut folders = named.map(PathBuf::from).chain(fixed);
    let folder = folders.find(|folder| {
        folder.is_dir() && access(folder, Access::WRITE_OK | Access::EXEC_OK).is_ok()
    })?;
    data_dir::free_bytes(&folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::{Statement, create, for_each_row};

    /// Returns the setting of a connection: 1 for files, 2 for memory.
    fn setting(connection: &mut SqliteConnection) -> Option<i64> {
        let statement = Statement { sql: "PRAGMA temp_store", binds: &[], cached: false };
        let mut setting = None;
        for_each_row(connection, statement, |row| {
            setting = row.int(0);
            Ok(())
        })
        .expect("the setting");
        setting
    }

    #[test]
    fn rows_are_sorted_in_a_file_inside_a_transaction_and_in_memory_afterwards() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut connection = create(&folder.path().join("rows.db")).expect("a file");
        connection.batch_execute("CREATE TABLE rows (id INTEGER) STRICT").expect("a table");
        assert_eq!(setting(&mut connection), Some(2));
        connection
            .immediate_transaction(|connection| {
                assert!(use_file(connection), "there is room for a few pages");
                assert_eq!(setting(connection), Some(1));
                connection.batch_execute("CREATE INDEX by_id ON rows (id)")?;
                use_memory(connection);
                Ok::<_, diesel::result::Error>(())
            })
            .expect("an index");
        assert_eq!(setting(&mut connection), Some(2));
    }

    #[test]
    fn a_file_of_which_twice_the_size_does_not_fit_into_a_number_has_no_room() {
        assert_eq!(needed(4_096), 8_192);
        assert_eq!(needed(u64::MAX), u64::MAX);
    }
}
