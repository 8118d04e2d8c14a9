//! Tests of the files that `export` writes.

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::cluster::{Cluster, Ended, interrupt, program, run_in, write_long_users};

fn export_to(cluster: &Cluster, file: &Path) -> Ended {
    let args = ["export", "--table", "users", "--output", file.to_str().expect("UTF-8")];
    run_in(cluster.path(), &args)
}

fn lines(file: &Path) -> usize {
    fs::read_to_string(file).expect("the file is there").lines().count()
}

#[test]
fn two_exports_never_write_one_file() {
    let cluster = Cluster::filled();
    let out = tempfile::tempdir().unwrap();
    let (file, part) = (out.path().join("users"), out.path().join("users.part"));
    fs::write(&file, "of yesterday").unwrap();
    fs::write(&part, "by another").unwrap();
    let another = File::open(&part).unwrap();
    another.lock().unwrap();
    export_to(&cluster, &file).refused("another command is writing this file");
    assert_eq!(fs::read_to_string(&part).unwrap(), "by another", "it was left alone");
    assert_eq!(fs::read_to_string(&file).unwrap(), "of yesterday");
    drop(another);
    // A partial file left by a process that has ended is not an obstacle.
    export_to(&cluster, &file).expect(0);
    assert_eq!(lines(&file), 60);
    std::thread::scope(|scope| {
        let exports = || (0..5).map(|_| export_to(&cluster, &file).code).collect::<Vec<_>>();
        let running: Vec<_> = (0..3).map(|_| scope.spawn(exports)).collect();
        let ended: Vec<i32> = running.into_iter().flat_map(|one| one.join().unwrap()).collect();
        assert!(ended.iter().all(|code| [0, 2].contains(code)), "{ended:?}");
        assert!(ended.contains(&0), "{ended:?}");
    });
    assert_eq!(lines(&file), 60);
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 1, "no part is left");
}

#[test]
fn a_target_that_is_no_regular_file_is_written_to_in_place() {
    let cluster = Cluster::filled();
    let out = tempfile::tempdir().unwrap();
    let (file, link) = (out.path().join("users"), out.path().join("link"));
    fs::write(&file, "of yesterday").unwrap();
    symlink(&file, &link).unwrap();
    export_to(&cluster, &link).expect(0);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(lines(&file), 60);
    let device = out.path().join("null");
    symlink("/dev/null", &device).unwrap();
    export_to(&cluster, &device).expect(0);
    assert!(fs::metadata(&device).unwrap().file_type().is_char_device());
    let pipe = out.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    std::thread::scope(|scope| {
        let read = scope.spawn(|| lines(&pipe));
        export_to(&cluster, &pipe).expect(0);
        assert_eq!(read.join().unwrap(), 60);
    });
    assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
}

#[test]
fn an_impossible_target_is_refused() {
    let cluster = Cluster::new(1, 0);
    let out = tempfile::tempdir().unwrap();
    export_to(&cluster, out.path()).refused("this is a folder");
    let link = out.path().join("link");
    symlink("nowhere", &link).unwrap();
    export_to(&cluster, &link).refused("a link to a file that is not there");
    let part = out.path().join("users.part");
    fs::create_dir(&part).unwrap();
    export_to(&cluster, &out.path().join("users")).refused("this is not a regular file");
}

#[test]
fn ctrl_c_leaves_no_part_of_an_export() {
    let cluster = Cluster::new(1, 0);
    // Much larger than one write, so that the signal arrives before the export has finished.
    write_long_users(&cluster.manager, 120, 500_000);
    let out = tempfile::tempdir().unwrap();
    let (file, part) = (out.path().join("users"), out.path().join("users.part"));
    fs::write(&file, "of yesterday").unwrap();
    let mut command = program(&["export", "--table", "users", "--output"]);
    command.arg(&file).env("TESSERA_DATA_DIR", cluster.path());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    while !part.exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before the signal");
        std::thread::yield_now();
    }
    let said = interrupt(child);
    assert!(said.contains("cancelled"), "{said}");
    assert!(!part.exists());
    assert_eq!(fs::read_to_string(&file).unwrap(), "of yesterday");
}
