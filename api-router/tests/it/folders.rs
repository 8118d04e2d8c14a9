//! Folders: temporary ones for the files of a test, in memory if there is room.
//!
//! A disk would have to sync the files of every router that a test starts and of every write that
//! it sends; this takes more than half of the time of most tests. `TMPDIR` names another place.
//!
//! **Invariant:** a folder is removed with its value, or, if its process was killed, by the next
//! process of tests.
//!
//! **Not here:** loss of power, which tests of `shard-manager` simulate below SQLite. A router is
//! killed here, and what it wrote to files outlives it on a disk and in memory. That it syncs each
//! write before it answers is read from its system calls (`durability`).

use std::path::Path;
use std::sync::LazyLock;

use tempfile::{Builder, TempDir};

/// File system in memory.
pub(crate) const MEMORY: &str = "/dev/shm";
/// Bytes that must be free there; containers often have 64 MiB in all.
const FREE_MIN: u64 = 2 << 30;
/// Name of a folder in memory, before the id of its process.
const PREFIX: &str = "tessera-test-";

static IS_IN_MEMORY: LazyLock<bool> = LazyLock::new(|| {
    let free = rustix::fs::statvfs(MEMORY).map(|disk| disk.f_bavail * disk.f_frsize);
    let is_chosen = std::env::var_os("TMPDIR").is_none() && free.is_ok_and(|free| free >= FREE_MIN);
    if is_chosen {
        sweep();
    }
    is_chosen
});

/// Returns a new folder.
pub(crate) fn temporary() -> TempDir {
    if *IS_IN_MEMORY {
        let prefix = format!("{PREFIX}{}-", std::process::id());
        return Builder::new().prefix(&prefix).tempdir_in(MEMORY).unwrap();
    }
    tempfile::tempdir().unwrap()
}

/// Removes the folders of processes that have ended.
fn sweep() {
    for entry in Path::new(MEMORY).read_dir().into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            // Another process of tests may remove it at the same time.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
