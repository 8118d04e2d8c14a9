//! Tests of the modes of files and folders: other users can read none that the product creates.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use shard_manager::engine::cluster_spec::ClusterSpec;

use crate::cluster::{open, with_replicas};
use crate::command::{program, succeed, text};
use crate::scratch;

/// Runs the program with the umask that removes no permission.
fn with_open_umask(arguments: &[&str]) {
    let program = program();
    let mut shell = Command::new("sh");
    shell.args(["-c", "umask 000; exec \"$0\" \"$@\""]).arg(program.get_program()).args(arguments);
    for (name, _) in program.get_envs() {
        shell.env_remove(name);
    }
    let output = shell.output().expect("there is a shell");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

/// Checks every entry of a folder, and returns their names.
fn assert_closed(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
    let entries: Vec<_> = entries.collect();
    for entry in &entries {
        assert_eq!(mode(&entry.path()) & 0o077, 0, "{:?}", entry.path());
    }
    entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn new_files_are_for_their_owner_alone_whatever_the_umask() {
    let dir = scratch::folder();
    let (home, copies) = (dir.path().join("new/data"), dir.path().join("copies"));
    with_open_umask(&["generate", "--data-dir", text(&home), "--users", "20"]);
    assert_eq!((mode(&home), mode(&dir.path().join("new"))), (0o700, 0o777));
    let names = assert_closed(&home);
    assert!(names.contains(&"catalog.db".to_owned()), "{names:?}");
    assert!(names.contains(&"shard1-primary.db".to_owned()), "{names:?}");
    // With new replicas, and beside a running cluster.
    let manager = open(&home, ClusterSpec { replicas: Some(1), ..ClusterSpec::default() });
    let manager = manager.expect("it starts");
    let names = assert_closed(&home);
    for name in ["shard1-replica1.db", "shard1-primary.db-wal", "tessera.lock"] {
        assert!(names.contains(&name.to_owned()), "{name}: {names:?}");
    }
    with_open_umask(&["backup", "--data-dir", text(&home), "--to", text(&copies.join("live"))]);
    manager.close();
    drop(manager);
    with_open_umask(&["backup", "--data-dir", text(&home), "--to", text(&copies.join("rest"))]);
    for copy in ["live", "rest"] {
        let (copy, back) = (copies.join(copy), dir.path().join("back").join(copy));
        with_open_umask(&["restore", "--from", text(&copy), "--data-dir", text(&back)]);
        for folder in [&copy, &back] {
            assert_eq!(mode(folder), 0o700, "{folder:?}");
            assert!(assert_closed(folder).contains(&"catalog.db".to_owned()));
        }
    }
}

#[test]
fn an_existing_folder_keeps_its_mode() {
    let dir = scratch::folder();
    let folder = |name: &str| {
        let path = dir.path().join(name);
        fs::create_dir(&path).expect("a new folder");
        fs::set_permissions(&path, Permissions::from_mode(0o750)).expect("it is ours");
        path
    };
    let (home, copy, back) = (folder("data"), folder("copy"), folder("back"));
    open(&home, with_replicas(1, 1)).expect("a new cluster").close();
    succeed(&["backup", "--data-dir", text(&home), "--to", text(&copy)]);
    succeed(&["restore", "--from", text(&copy), "--data-dir", text(&back)]);
    for folder in [&home, &copy, &back] {
        assert_eq!(mode(folder), 0o750, "{folder:?}");
        assert_closed(folder);
    }
}
