//! Scratch folders: temporary folders in memory where there is room, because tests wait for every
//! sync of a disk otherwise.
//!
//! **Not here:** tests of what reaches the disk, which use folders on one.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use tempfile::TempDir;

/// Folder in memory of most Linux systems.
const MEMORY: &str = "/dev/shm";
/// Free bytes there from which on it is used; it is small in some containers.
const ROOM_MIN: u64 = 4 << 30;

/// Creates a folder that is removed when it is dropped.
#[track_caller]
pub(crate) fn folder() -> TempDir {
    tempfile::tempdir_in(parent()).expect("a folder for the test")
}

/// Returns the folder of all scratch folders: the one that `TMPDIR` names, or else memory.
fn parent() -> &'static Path {
    static PARENT: LazyLock<PathBuf> = LazyLock::new(|| {
        let is_roomy = rustix::fs::statvfs(MEMORY)
            .is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) >= ROOM_MIN);
        let is_chosen = std::env::var_os("TMPDIR").is_some();
        if is_roomy && !is_chosen { MEMORY.into() } else { std::env::temp_dir() }
    });
    &PARENT
}
