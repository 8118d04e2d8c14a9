//! Tests of backups: a running router is backed up through the socket in its data directory, and
//! the backup is restored.

use std::sync::atomic::{AtomicBool, Ordering};

use shard_manager::backup::restore::{restore, verify};
use shard_manager::backup::{ProgressObserver, Step};
use shard_manager::control::client::{ControlError, request_backup};
use shard_manager::control::{Request, SOCKET};

use crate::backend::files_only;
use crate::commands::run;
use crate::harness::Router;
use crate::row_writer::{BesideWrites, beside_writes};

/// Runs without an observer and is never cancelled.
const ALONE: ProgressObserver<'_> = ProgressObserver { step: &|_| {}, cancelled: &|| false };

#[test]
fn a_router_is_saved_while_it_serves_and_put_back_with_all_that_it_had_acknowledged() {
    files_only!("a backup copies files");
    let folder = crate::folders::temporary();
    let (data, copy, back) =
        (folder.path().join("data"), folder.path().join("copy"), folder.path().join("back"));
    let mut router = Router::start_in(&data, &[]);
    let to = copy.clone();
    let before = beside_writes(&router, || {
        request_backup(&data, &Request::Backup { to }, &ALONE).unwrap();
    })
    .before;
    let last = router.write_user("user_after", "n");
    let token = last.header("x-session-token").unwrap().to_owned();
    router.end();
    assert!(!data.join(SOCKET).exists(), "the socket goes with the router");
    let saved = restore(&copy, &back, &ALONE).unwrap();
    let router = Router::start_in(&back, &[]);
    let name = |number: usize| format!("user_{number}");
    let there = |key: &str| {
        let read = router.read(key, "table=users&limit=1").json();
        read["data"].as_array().unwrap().len() == 1
    };
    // One client wrote the rows one after the other, so the copy has the first ones, without a gap.
    let held = usize::try_from(saved.rows()).unwrap();
    assert!(held >= before, "{held} of {before} that were acknowledged before");
    assert!((0..held).all(|number| there(&name(number))));
    assert!(!there(&name(held)) && !there("user_after"));
    let headers = [("x-shard-key", "user_after"), ("x-session-token", token.as_str())];
    let reported = router.send("GET", "/api/read?table=users", &headers, None);
    assert_eq!((reported.status, reported.code().as_str()), (409, "TSR305"));
}

#[test]
fn a_named_snapshot_beside_a_running_router_shows_all_shards_as_of_one_moment() {
    files_only!("the snapshot of servers is saved without the router");
    let folder = crate::folders::temporary();
    let (data, snapshots) = (folder.path().join("data"), folder.path().join("snapshots"));
    let places = ["--data-dir", data.to_str().unwrap(), "--snapshots", snapshots.to_str().unwrap()];
    let snapshot = |verb: &[&str]| {
        let command = ["lab", "snapshot"];
        run(&[&command[..], verb, &places, &["--json"]].concat(), "").json(0)
    };
    let mut router = Router::start_in(&data, &[]);
    let BesideWrites { before, result: saved, .. } =
        beside_writes(&router, || snapshot(&["save", "beside"]));
    assert_eq!(router.write_user("user_after", "n").status, 201);
    router.end();
    let restored = snapshot(&["restore", "beside", "--yes"]);
    assert_eq!(restored["digests"], saved["digests"]);
    let router = Router::start_in(&data, &[]);
    let there = |key: &str| router.read(key, "table=users&limit=1").json()["count"] == 1;
    // One client wrote the rows one after the other to all shards, so a snapshot of one moment has
    // the first ones, without a gap.
    let held = usize::try_from(saved["rows"].as_u64().unwrap()).unwrap();
    assert!(held >= before, "{held} of {before} that were acknowledged before");
    assert!((0..held).all(|number| there(&format!("user_{number}"))));
    assert!(!there(&format!("user_{held}")) && !there("user_after"));
}

#[test]
fn a_router_that_is_killed_while_it_is_saved_leaves_nothing_under_the_final_name() {
    files_only!("a backup copies files");
    let folder = crate::folders::temporary();
    let (data, copy) = (folder.path().join("data"), folder.path().join("copy"));
    let request = Request::Backup { to: copy.clone() };
    let mut router = Router::start_in(&data, &[]);
    router.write_user("user_1", "n");
    let pid = router.pid();
    let struck = AtomicBool::new(false);
    let step = |_: &Step| {
        if !struck.swap(true, Ordering::SeqCst) {
            let killed = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status();
            assert!(killed.unwrap().success());
        }
    };
    let observer = ProgressObserver { step: &step, cancelled: &|| false };
    let reported = request_backup(&data, &request, &observer);
    router.wait();
    match reported {
        // The backup ended before the signal.
        Ok(_) => std::fs::remove_dir_all(&copy).unwrap(),
        Err(ControlError::Broken(_)) => {
            if copy.exists() {
                verify(&copy, &ALONE).unwrap();
                std::fs::remove_dir_all(&copy).unwrap();
            }
        }
        Err(
            error @ (ControlError::NoListener
            | ControlError::Unreachable(_)
            | ControlError::Refused(_)),
        ) => panic!("{error}"),
    }
    let _router = Router::start_in(&data, &[]);
    request_backup(&data, &request, &ALONE).unwrap();
    assert_eq!(verify(&copy, &ALONE).unwrap().rows(), 1);
}
