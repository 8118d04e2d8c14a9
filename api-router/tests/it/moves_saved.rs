//! Tests of backups that are made while slots move.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};
use shard_manager::backup::ProgressObserver;
use shard_manager::backup::restore::restore;
use shard_manager::control::Request;
use shard_manager::control::client::request_backup;

use crate::backend::files_only;
use crate::client::user;
use crate::commands::run;
use crate::folders;
use crate::harness::{Router, eventually};
use crate::moves::{End, OPERATE, PATIENT, begin_slow, names, order, other, place, show, until};

/// Runs without an observer and is never cancelled.
const ALONE: ProgressObserver<'_> = ProgressObserver { step: &|_| {}, cancelled: &|| false };

/// Number of large rows that [`begin_slow`] writes.
const LARGE: u64 = 12;
/// Rate of the copy in MiB/s, so that it lasts for several seconds: a backup begins meanwhile.
const RATE: u64 = 2;

/// Backup, and the number of the last write that was acknowledged before it began.
struct Saved {
    folder: String,
    acknowledged: usize,
}

/// Returns the number of the write whose value the row of the key `ada` has.
#[track_caller]
fn latest(router: &Router) -> usize {
    let names = names(router, "ada");
    let [name] = &names[..] else { panic!("{names:?}") };
    name[1..].parse().unwrap()
}

/// Restores a backup and checks the cluster: the move resumes, and neither it nor the restore has
/// lost a row.
fn check(folder: &Path, saved: &Saved, begun: &Value) {
    let back = folder.join(format!("{}-back", saved.folder));
    restore(&folder.join(&saved.folder), &back, &ALONE).unwrap();
    let mut router = Router::start_in(&back, OPERATE);
    let restored = latest(&router);
    assert!(restored >= saved.acknowledged, "{}: {restored}", saved.folder);
    let large =
        || router.read("ada", "table=orders&limit=100&select=order_id").json()["count"].clone();
    assert_eq!(large(), LARGE, "{}", saved.folder);
    eventually("the move arrives or ends", || {
        let shown = show(&router, begun);
        assert_ne!(shown["phase"], "failed", "{shown}");
        (shown["phase"] == "keeping" || !shown["ended_at"].is_null()).then_some(())
    });
    assert_eq!((latest(&router), large()), (restored, json!(LARGE)), "{}", saved.folder);
    assert_eq!(router.write_user("ada", "n0").status, 200);
    assert_eq!(latest(&router), 0);
    let shown = show(&router, begun);
    if shown["phase"] == "keeping" && shown["goal"] == "forward" {
        assert_eq!(order(&router, begun, "settle").status, 200);
        until(&router, begun, "done");
    }
    assert_eq!((latest(&router), large()), (0, json!(LARGE)), "{}", saved.folder);
    router.end();
    router.wait();
    let checked = run(&["check", "--data-dir", back.to_str().unwrap()], "");
    assert_eq!(checked.code, Some(0), "{checked:?}");
}

#[test]
fn a_backup_made_while_slots_move_has_every_row_and_its_move_goes_on() {
    files_only!("a backup copies files");
    let folder = folders::temporary();
    let data = folder.path().join("data");
    let router = Router::start_in(&data, OPERATE);
    assert_eq!(router.write_user("ada", "n0").status, 201);
    let to = other(&place(&router, "ada").1);
    let (acknowledged, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
    let save = |name: &str| {
        let acknowledged = acknowledged.load(Ordering::SeqCst);
        request_backup(&data, &Request::Backup { to: folder.path().join(name) }, &ALONE).unwrap();
        Saved { folder: name.to_owned(), acknowledged }
    };
    let (begun, all_saved) = std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1.. {
                if ended.load(Ordering::SeqCst) {
                    break;
                }
                let row = user("ada", &format!("n{number}"));
                let reply = router.post("/api/write", &[("x-shard-key", "ada"), PATIENT], &row);
                assert_eq!(reply.status, 200, "{}", reply.text());
                acknowledged.store(number, Ordering::SeqCst);
            }
        });
        let _end = End(&ended);
        let begun = begin_slow(&router, "ada", to, RATE);
        let mut all_saved = Vec::new();
        until(&router, &begun, "copying");
        all_saved.push(save("copying"));
        let early = ["planned", "preparing", "copying"];
        eventually("the copy is whole", || {
            (!early.iter().any(|phase| show(&router, &begun)["phase"] == *phase)).then_some(())
        });
        all_saved.push(save("arriving"));
        until(&router, &begun, "keeping");
        all_saved.push(save("keeping"));
        assert_eq!(order(&router, &begun, "rollback").status, 200);
        all_saved.push(save("returning"));
        until(&router, &begun, "rolled_back");
        (begun, all_saved)
    });
    drop(router);
    all_saved.iter().for_each(|saved| check(folder.path(), saved, &begun));
}
