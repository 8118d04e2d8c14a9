//! Other program: the program of another package, which is built first if it is older than a source
//! that it links.
//!
//! Cargo builds the programs of other packages only for tests of the whole workspace. So a test of
//! one package alone might run a program as it was some changes ago.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use serde_json::Value;

/// Folders of a package that no program links.
const UNLINKED: [&str; 4] = ["benches", "deploy", "docs", "tests"];

/// Returns the program that has the name of its package. It is beside this package's own program
/// `own`.
pub(crate) fn program(own: &str, name: &str) -> PathBuf {
    let folder = Path::new(own).parent().unwrap();
    let program = folder.join(name);
    if made(&program).is_none_or(|made| made < last_change(name)) {
        let profile = folder.file_name().unwrap().to_str().unwrap();
        let profile = if profile == "debug" { "dev" } else { profile };
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", name, "--bin", name]);
        build.args(["--profile", profile, "--target-dir"]).arg(folder.parent().unwrap());
        build.current_dir(env!("CARGO_MANIFEST_DIR"));
        assert!(build.status().unwrap().success(), "{name} is built");
    }
    program
}

fn made(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|file| file.modified()).ok()
}

/// Returns the time of the last change to a source of the packages of this workspace that a program
/// links.
fn last_change(name: &str) -> SystemTime {
    let mut command = Command::new(env!("CARGO"));
    command.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]);
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut folders = vec![Path::new(text(&metadata, "workspace_root")).join("migrations")];
    for package in linked(&metadata, name) {
        let folders_of_package = entries(package.as_ref()).into_iter().filter(|path| {
            let is_unlinked = UNLINKED.iter().any(|name| path.ends_with(name));
            path.is_dir() && !is_unlinked && !path.join("Cargo.toml").exists()
        });
        folders.extend(folders_of_package);
    }
    let mut latest = SystemTime::UNIX_EPOCH;
    while let Some(folder) = folders.pop() {
        for path in entries(&folder) {
            match path.is_dir() {
                true => folders.push(path),
                false => latest = latest.max(made(&path).unwrap_or(latest)),
            }
        }
    }
    latest
}

/// Returns the folders of a package of the workspace and of those on which it depends.
fn linked(metadata: &Value, name: &str) -> BTreeSet<PathBuf> {
    let packages = metadata["packages"].as_array().unwrap();
    let folder =
        |package: &Value| Path::new(text(package, "manifest_path")).parent().map(PathBuf::from);
    let named = packages.iter().find(|package| package["name"] == name);
    let mut waiting = vec![named.and_then(folder).expect("a package of the workspace")];
    let mut linked = BTreeSet::new();
    while let Some(next) = waiting.pop() {
        let package =
            packages.iter().find(|package| folder(package).is_some_and(|its| its == next));
        let dependencies = package.map(|package| package["dependencies"].as_array().unwrap());
        let in_workspace = dependencies.into_iter().flatten().filter(|one| one["kind"] != "dev");
        let paths = in_workspace.filter_map(|one| one["path"].as_str().map(PathBuf::from));
        waiting.extend(paths.filter(|path| !linked.contains(path)));
        linked.insert(next);
    }
    linked
}

fn text<'v>(value: &'v Value, member: &str) -> &'v str {
    value[member].as_str().unwrap()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect()
}
