//! Read-only connections: reads a file while another process may be writing it.
//!
//! SQLite itself needs two small files beside a file in WAL mode, which the last reader removes
//! when it ends. A WAL that a crash has left is read, and is kept.
//!
//! **Invariant:** a connection never changes the contents of a file, and never prevents the start
//! of a router.
//! **Not here:** the files of a data directory (`offline_view`).

use std::fs;
use std::path::{Path, PathBuf};

use diesel::Connection;
use diesel::connection::SimpleConnection;
use diesel::sqlite::SqliteConnection;
use diesel_migrations::EmbeddedMigrations;

use super::connection::{OpenError, uri};
use super::schema_state::SchemaState;

/// Settings of every read-only connection. The timeout lets it wait for a writer that is recovering
/// a WAL.
const PRAGMAS: &str = "PRAGMA query_only=ON; PRAGMA busy_timeout=2000; PRAGMA trusted_schema=OFF;
    PRAGMA cell_size_check=ON; PRAGMA mmap_size=0; PRAGMA cache_size=-4096";

/// Opens a file with this program's schema for reading.
pub(super) fn open_read_only(
    path: &Path,
    migrations: &EmbeddedMigrations,
) -> Result<SqliteConnection, OpenError> {
    let mut connection = connect_read_only(path)?;
    SchemaState::read(&mut connection, path, migrations)?.check(path)?;
    Ok(connection)
}

/// Opens a file with any schema for reading.
pub(super) fn connect_read_only(path: &Path) -> Result<SqliteConnection, OpenError> {
    if fs::metadata(path).map_or(0, |file| file.len()) == 0 {
        return Err(OpenError::foreign(path, "the file is missing or empty"));
    }
    // The last connection with write access checkpoints the WAL into the file when it is closed. A
    // WAL that a crash has left must be kept, but an empty one is better removed.
    let wal_bytes = fs::metadata(wal_file(path)).map_or(0, |file| file.len());
    let mode = if wal_bytes > 0 { "mode=ro" } else { "mode=rw" };
    match connect(path, mode) {
        Ok(connection) => Ok(connection),
        // No file can be created beside it: the media are read-only, and there is no writer.
        Err(cause) if cannot_make(&cause) && wal_bytes == 0 => {
            connect(path, "mode=ro&immutable=1").map_err(|cause| OpenError::file(path, cause))
        }
        Err(cause) if cannot_make(&cause) => Err(OpenError::file(
            path,
            "its last changes are in the -wal beside it, which cannot be read in a folder that is not writable: copy \
             the folder to a writable one and read it there",
        )),
        Err(cause) => Err(OpenError::file(path, cause)),
    }
}

/// Returns true if SQLite could not create the files that it needs beside a file in WAL mode.
fn cannot_make(cause: &str) -> bool {
    cause.contains("unable to open database file") || cause.contains("readonly database")
}

fn connect(path: &Path, mode: &str) -> Result<SqliteConnection, String> {
    let uri = uri(path, mode).map_err(|error| error.to_string())?;
    let mut connection = SqliteConnection::establish(&uri).map_err(|error| error.to_string())?;
    connection.batch_execute(PRAGMAS).map_err(|error| error.to_string())?;
    // SQLite opens a file when it is first read.
    connection
        .batch_execute("SELECT count(*) FROM sqlite_schema")
        .map_err(|error| error.to_string())?;
    Ok(connection)
}

/// Returns the path of the WAL of a file.
pub(super) fn wal_file(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    PathBuf::from(name)
}
