//! Keys, roles and last lines of audit logs of a data directory, for commands.
//!
//! **Invariant:** a change needs the lock of the directory; reading needs none, and changes
//! nothing.
//! **Not here:** a cluster that is open in this process (`FileAccess`).

use std::path::{Path, PathBuf};

use access::audit::chain::AuditHead;
use access::unix_time::UnixTime;
use engine::access_store::{AccessChange, AccessError, AccessState, ChangeAuthor};

use super::tables;
use crate::OpenError;
use crate::catalog::{MIGRATIONS, inspect};
use crate::connection::open;
use crate::data_dir::{DataDir, catalog_file};
use crate::read_only::open_read_only;

/// Reads the keys and roles of a data directory, even while another process holds it.
///
/// # Errors
/// [`OpenError`] if there is no catalog of this program's schema.
pub fn read_state(folder: &Path) -> Result<AccessState, OpenError> {
    let path = existing_catalog(folder)?;
    let mut connection = open_read_only(&path, &MIGRATIONS)?;
    tables::load(&mut connection).map_err(|error| OpenError::file(&path, error))
}

/// Reads the last lines of all audit logs that a data directory keeps, even while another process
/// holds it.
///
/// # Errors
/// [`OpenError`] if there is no catalog of this program's schema.
pub fn read_audit_heads(folder: &Path) -> Result<Vec<AuditHead>, OpenError> {
    let path = existing_catalog(folder)?;
    let mut connection = open_read_only(&path, &MIGRATIONS)?;
    tables::audit_heads(&mut connection).map_err(|error| OpenError::file(&path, error))
}

/// Changes the keys and roles of a data directory that no process holds.
///
/// # Errors
/// [`OpenError`] if the directory is in use, or has no catalog of this program's schema; inside,
/// the error of the change.
pub fn change_stopped(
    folder: &Path,
    change: &AccessChange,
    author: &ChangeAuthor,
    now: UnixTime,
) -> Result<Result<u64, AccessError>, OpenError> {
    // Checked first without the lock, because locking would create the folder.
    let path = existing_catalog(folder)?;
    inspect(&path)?;
    let data_dir = DataDir::open(folder)?;
    let changed = open(&path, "");
    let changed =
        changed.map(|mut connection| tables::change(&mut connection, change, author, now));
    data_dir.close();
    changed
}

fn existing_catalog(folder: &Path) -> Result<PathBuf, OpenError> {
    let path = catalog_file(folder);
    if path.exists() {
        return Ok(path);
    }
    let cause = "there is no cluster here (no catalog.db): a start of the router creates one";
    Err(OpenError::io(folder, cause))
}
