//! The real programs that the load tester uses, started as a user would.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::SystemTime;

/// Program of the router, which belongs to another package: cargo builds it only before a test of
/// the whole workspace.
pub(crate) static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| program("api-router"));

/// Program that creates local clusters.
pub(crate) static MANAGER: LazyLock<PathBuf> = LazyLock::new(|| program("shard-manager"));

/// Path of the program with the same name as its package.
fn program(name: &str) -> PathBuf {
    let tester = Path::new(env!("CARGO_BIN_EXE_loadtest"));
    let folder = tester.parent().unwrap();
    let program = folder.join(name);
    if made(&program).is_none_or(|made| made < last_change()) {
        let profile = folder.file_name().unwrap().to_str().unwrap();
        let profile = if profile == "debug" { "dev" } else { profile };
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", name, "--bin", name]);
        build.args(["--profile", profile, "--target-dir"]).arg(folder.parent().unwrap());
        build.current_dir(env!("CARGO_MANIFEST_DIR"));
        assert!(build.status().unwrap().success(), "{name} is made");
    }
    program
}

fn made(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|file| file.modified()).ok()
}

/// Returns the time of the last change to a source of these programs.
fn last_change() -> SystemTime {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut folders = vec![root.join("api-router/src"), root.join("shard-manager/src")];
    let mut latest = SystemTime::UNIX_EPOCH;
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => latest = latest.max(made(&entry.path()).unwrap()),
            }
        }
    }
    latest
}
