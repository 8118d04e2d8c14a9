//! The real programs that the load tester uses, started as a user would.

use std::ffi::OsStr;
use std::fs::DirEntry;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::SystemTime;

/// Program of the router, which belongs to another package: cargo builds it only before a test of
/// the whole workspace.
pub(crate) static PROGRAM: LazyLock<PathBuf> =
    LazyLock::new(|| program("api-router", &["api-router", "analytics", "shard-manager"]));

/// Program that creates local clusters.
pub(crate) static MANAGER: LazyLock<PathBuf> =
    LazyLock::new(|| program("shard-manager", &["shard-manager"]));

/// Returns the path of the program with the same name as its package, which is built first if it is
/// older than a source of these folders.
fn program(name: &str, groups: &[&str]) -> PathBuf {
    let tester = Path::new(env!("CARGO_BIN_EXE_loadtest"));
    let folder = tester.parent().unwrap();
    let program = folder.join(name);
    if made(&program).is_none_or(|made| made < last_change(groups)) {
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

/// Returns a command that inherits no settings, except for the folder of PostgreSQL's programs.
pub(crate) fn bare_command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let is_setting = text.starts_with("TESSERA_") && !text.starts_with("TESSERA_PG_");
        let plain = ["SHARD_URLS", "REPLICA_URLS", "MAINDB_URL", "PGPASSWORD", "REDIS_URL"];
        if is_setting || plain.contains(&&*text) {
            command.env_remove(&name);
        }
    }
    command
}

/// Returns the command of the load tester.
pub(crate) fn tester() -> Command {
    bare_command(env!("CARGO_BIN_EXE_loadtest"))
}

fn made(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|file| file.modified()).ok()
}

/// Returns the time of the last change to a source of the packages in these folders.
fn last_change(groups: &[&str]) -> SystemTime {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut folders = Vec::new();
    for group in groups.iter().map(|group| root.join(group)) {
        let nested = entries(&group).into_iter().map(|entry| entry.path().join("src"));
        folders.extend(nested.chain([group.join("src")]).filter(|folder| folder.is_dir()));
    }
    let mut latest = SystemTime::UNIX_EPOCH;
    while let Some(folder) = folders.pop() {
        for entry in entries(&folder) {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => latest = latest.max(made(&entry.path()).unwrap()),
            }
        }
    }
    latest
}

fn entries(folder: &Path) -> Vec<DirEntry> {
    folder.read_dir().unwrap().map(Result::unwrap).collect()
}
