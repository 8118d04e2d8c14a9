//! Catalog failure: chooses the error that clients receive if the catalog's file cannot be used.
//!
//! **Invariant:** [`Error::StorageFull`] is reported only if it is certain that nothing was stored.
//! If the disk is full and a file beside the catalog, such as its WAL, cannot grow, SQLite reports
//! only a general disk error. Before a commit, such an error counts as a full disk if the disk is
//! in fact full. An error of the commit itself does not, because the commit may have been stored.
//! **Not here:** the kinds of errors (`connection`).

use std::path::Path;

use diesel::result::Error as DieselError;
use model::error::Error;

use super::OpenError;
use super::connection::DbErrorKind;
use super::data_dir::has_no_room;

/// Name of the catalog in error messages, where otherwise the name of a shard stands.
pub(super) const CATALOG: &str = "the catalog";

/// Logs that the catalog cannot be opened, and returns the error that clients receive.
pub(super) fn not_opened(catalog: &Path, error: OpenError) -> Error {
    tracing::error!(%error, "the catalog cannot be opened");
    if is_full(catalog, error, has_no_room) {
        return DbErrorKind::Full.error(CATALOG);
    }
    DbErrorKind::Unusable.error(CATALOG)
}

/// Returns the kind of an error that occurred in a statement before the transaction was committed.
pub(super) fn kind_before_commit(catalog: &Path, error: &DieselError) -> DbErrorKind {
    let kind = DbErrorKind::of(error);
    let of_file = || OpenError::file(catalog, error);
    if kind == DbErrorKind::Unusable && is_full(catalog, of_file(), has_no_room) {
        return DbErrorKind::Full;
    }
    kind
}

/// Returns true if the error was caused by a full disk.
fn is_full(catalog: &Path, error: OpenError, has_no_room: impl FnOnce(&Path) -> bool) -> bool {
    let error = error.or_no_space(catalog, || has_no_room(catalog));
    matches!(error, OpenError::NoSpace { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vague_error_of_the_disk_is_taken_for_a_full_one_only_if_the_disk_is_full() {
        let catalog = Path::new("data/catalog.db");
        for (cause, if_full, otherwise) in [
            ("database or disk is full", true, true),
            ("disk I/O error", true, false),
            ("unable to open database file", true, false),
            ("database disk image is malformed", false, false),
        ] {
            let found = |room: bool| is_full(catalog, OpenError::file(catalog, cause), |_| !room);
            assert_eq!((found(false), found(true)), (if_full, otherwise), "{cause}");
        }
    }
}
