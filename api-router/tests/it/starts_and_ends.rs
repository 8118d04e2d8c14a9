//! Tests of the start and the end of a router: signals, and the state that a refused start leaves.

use std::fs::{self, File};
use std::path::Path;

use crate::backend::files_only;
use crate::harness::{Router, command, eventually, refused_start};

/// Checks that all files of a data directory were closed: until then, its lock file has a process
/// id in it, and the next start checks the files.
fn assert_closed(data: &Path) {
    let lock = fs::read_to_string(data.join("tessera.lock")).unwrap_or_default();
    assert_eq!(lock, "", "the next start would check the files");
}

/// Starts a router over this directory, whose log is the given file.
fn start_logging(data: &Path, log: &Path) -> Router {
    Router::start_logging(command(data), File::create(log).unwrap().into())
}

#[test]
fn a_router_without_files_to_read_again_serves_on_after_a_hangup_signal() {
    let folder = crate::folders::temporary();
    let (data, log) = (folder.path().join("data"), folder.path().join("log"));
    let mut router = start_logging(&data, &log);
    router.signal("HUP");
    eventually("the log of the signal", || {
        fs::read_to_string(&log).unwrap().contains("there is nothing to read again").then_some(())
    });
    let stored = router.write_user("ada", "Ada");
    assert_eq!(stored.status, 201, "{}", stored.text());
    router.signal("TERM");
    assert_eq!(router.wait().code(), Some(0));
    assert_closed(&data);
}

#[test]
fn a_refused_start_changes_neither_the_access_mode_nor_the_state_of_the_data_directory() {
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    let refused = |flags: &[&str], words: &str| {
        let mut command = command(&data);
        command.args(flags);
        let (code, said) = refused_start(command);
        assert!(code.is_some_and(|code| code != 0) && said.contains(words), "{code:?}: {said}");
        assert_closed(&data);
    };
    Router::start_in(&data, &[]).end();
    refused(&["--access", "on", "--audit-log", "."], "audit_log (.): is not a regular file");
    let log = folder.path().join("log");
    let mut router = start_logging(&data, &log);
    assert_eq!(router.get("/api/read?table=users").status, 200, "access control is still off");
    router.end();
    assert!(!fs::read_to_string(&log).unwrap().contains("unclean"));
    let mut on = command(&data);
    on.args(["--access", "on"]);
    Router::start_command(on).end();
    refused(&["--access", "off"], "this cluster is served with access control");
}

#[test]
fn a_router_that_is_interrupted_directly_after_its_start_logs_no_error() {
    files_only!("a server may refuse a session that begins while the router ends");
    for _ in 0..3 {
        let folder = crate::folders::temporary();
        let log = folder.path().join("log");
        start_logging(&folder.path().join("data"), &log).end();
        let said = fs::read_to_string(&log).unwrap();
        assert!(!said.contains("ERROR"), "{said}");
    }
}
