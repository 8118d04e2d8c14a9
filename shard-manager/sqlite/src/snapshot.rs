//! Snapshot: creates the file of a replica from that of its primary while the primary is written
//! to.
//!
//! `VACUUM INTO` reads one snapshot of the primary and writes it as a new file, so rows and
//! position are of the same instant. The copy is made beside the replica's file, synced, and then
//! renamed to the name of that file.
//!
//! **Invariant:** under a replica's name there is a complete copy or none.
//! **Not here:** the reasons to rebuild a replica (`replica`).

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use diesel::connection::SimpleConnection;
use diesel::sqlite::SqliteConnection;

use super::batch::run;
use super::connection::{Bind, OpenError, bytes_in_use, open};
use super::{private_file, sql};

/// Creates the file of a replica. The old file must not be open. Blocks while the whole primary is
/// read and the copy is written.
///
/// # Errors
/// [`OpenError`]; the replica then has no file, or still has the old one.
pub fn make(primary: &Path, replica: &Path) -> Result<(), OpenError> {
    let copy = with_suffix(replica, "-building");
    remove(&copy)?;
    // A partial copy is removed, because it may be what fills the disk.
    copy_and_rename(primary, replica, &copy).inspect_err(|_| drop(remove(&copy)))
}

fn copy_and_rename(primary: &Path, replica: &Path, copy: &Path) -> Result<(), OpenError> {
    let mut source = open(primary, "")?;
    check_room(&mut source, copy)?;
    private_file::create_empty(copy).map_err(|error| OpenError::io(copy, error))?;
    let path = copy.to_string_lossy();
    run(&mut source, sql::VACUUM_INTO, &[Bind::Text(&path)])
        .map_err(|error| OpenError::file(copy, error))?;
    drop(source);
    // The log is removed from the copy, because replicas read the log in the primary's file.
    let mut made = open(copy, "")?;
    made.batch_execute("DELETE FROM tessera_log; PRAGMA wal_checkpoint(TRUNCATE)")
        .map_err(|error| OpenError::file(copy, error))?;
    drop(made);
    let synced = File::open(copy).and_then(|file| file.sync_all());
    synced.map_err(|error| OpenError::io(copy, error))?;
    remove(replica)?;
    fs::rename(copy, replica).map_err(|error| OpenError::io(replica, error))?;
    let folder = replica.parent().unwrap_or(Path::new("."));
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| OpenError::io(folder, error))
}

/// Refuses a copy that would only fill the disk.
fn check_room(source: &mut SqliteConnection, copy: &Path) -> Result<(), OpenError> {
    let failed = |error| OpenError::file(copy, error);
    let needed = bytes_in_use(source).map_err(failed)?;
    let folder = copy.parent().unwrap_or(Path::new("."));
    // If the free space is unknown, the copy is attempted.
    let Ok(disk) = rustix::fs::statvfs(folder) else { return Ok(()) };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free >= needed {
        return Ok(());
    }
    let (dir, file) = (folder.display().to_string(), copy.display());
    Err(OpenError::NoSpace {
        dir,
        cause: format!("{file} needs {needed} bytes and {free} are free"),
    })
}

/// Removes a database file and the files that SQLite keeps beside it. A WAL that was left behind
/// would be replayed into the next file of that name.
fn remove(path: &Path) -> Result<(), OpenError> {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let path = with_suffix(path, suffix);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(OpenError::io(&path, error)),
        }
    }
    Ok(())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
