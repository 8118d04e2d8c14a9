//! Foreign files: everything in a data directory that does not belong to its cluster, such as the
//! history of analytics or files of the operator. A copy that replaces the cluster does not replace
//! them.
//!
//! They are hard-linked into the new directory before the exchange. Removing the old directory
//! afterwards removes only the extra links.
//!
//! **Invariant:** the old directory is not changed.
//! **Not here:** the names of the files of a cluster (`data_dir`), the exchange (`replace`).

use std::fs::{self, DirBuilder, DirEntry, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, fchown};
use std::path::Path;

use super::SaveError;
use crate::data_dir::is_of_cluster;
use crate::private_file;

/// Links the files and folders of a data directory that do not belong to a cluster with these
/// shards into a new directory, and makes their names durable.
///
/// # Errors
/// [`SaveError::Io`] with the first one that cannot be linked.
pub(super) fn link_foreign_files(
    place: &Path,
    new: &Path,
    shards: &[&str],
) -> Result<(), SaveError> {
    for entry in entries(place)? {
        let name = entry.file_name();
        if !name.to_str().is_some_and(|name| is_of_cluster(name, shards)) {
            link(&entry.path(), &new.join(name))?;
        }
    }
    let synced = File::open(new).and_then(|folder| folder.sync_all());
    synced.map_err(|error| SaveError::io(new, error))
}

/// Links a file, or a folder with everything in it. Sockets are left out, because the processes
/// that listened on them have ended.
fn link(path: &Path, new: &Path) -> Result<(), SaveError> {
    let found = fs::symlink_metadata(path).map_err(|error| refused(path, &error))?;
    if found.file_type().is_socket() {
        return Ok(());
    }
    if !found.is_dir() {
        return fs::hard_link(path, new).map_err(|error| refused(path, &error));
    }
    let created = DirBuilder::new().mode(private_file::FOLDER_MODE).create(new);
    let folder = created.and_then(|()| File::open(new)).map_err(|error| refused(path, &error))?;
    for entry in entries(path)? {
        link(&entry.path(), &new.join(entry.file_name()))?;
    }
    // Only a user with special rights can give a folder to another one.
    let _ = fchown(&folder, Some(found.uid()), Some(found.gid()));
    let finished = folder.set_permissions(found.permissions()).and_then(|()| folder.sync_all());
    finished.map_err(|error| refused(path, &error))
}

fn entries(folder: &Path) -> Result<Vec<DirEntry>, SaveError> {
    let read = fs::read_dir(folder).and_then(Iterator::collect);
    read.map_err(|error| refused(folder, &error))
}

fn refused(path: &Path, error: &io::Error) -> SaveError {
    let cause = format!(
        "it does not belong to the cluster, and cannot be kept in the data directory ({error}): \
         move it elsewhere; nothing was changed"
    );
    SaveError::io(path, io::Error::new(error.kind(), cause))
}
