//! Tests of `/api/backup`: backups that a router writes into its folder of backups.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use shard_manager::backup::restore;

use crate::backend::{self, files_only, is_servers, not_on_citus};
use crate::backup_place::{
    ALONE, BackupPlace, CITUS, StuckBatch, begin, listed, post, show, until, until_held, verified,
};
use crate::client::refusal;
use crate::faults::meddle;
use crate::harness::{Router, bare_command, refused_start};
use crate::moves::OPERATE;
use crate::row_writer::{BesideWrites, beside_writes};

/// Id of a backup that does not exist.
const NO_BACKUP: &str = "20260101T000000Z-0000";

#[test]
fn a_backup_holds_every_write_that_was_acknowledged_before_it() {
    not_on_citus!(CITUS);
    let place = BackupPlace::new();
    let mut router = place.start(&[]);
    let BesideWrites { before, after, result: done } = beside_writes(&router, || {
        let path = begin(&router);
        until(&router, &path, "done")
    });
    let copy = place.backups().join(done["id"].as_str().unwrap());
    let held = usize::try_from(verified(&copy)).unwrap();
    assert!((before..=after).contains(&held), "{held} of {before} to {after}");
    assert_eq!(done["rows"], held, "{done}");
    let sum = |member: &str| {
        let shards = done["shards"].as_array().unwrap();
        shards.iter().map(|shard| shard[member].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!(usize::try_from(sum("rows")).unwrap(), held, "{done}");
    assert!(sum("bytes") > 0 && done["bytes"].as_u64().unwrap() > sum("bytes"), "{done}");
    for member in ["seconds", "writes_held_ms"] {
        assert!(done[member].as_f64().unwrap() >= 0.0, "{member}: {done}");
    }
    for member in ["as_of", "ended_at"] {
        assert!(done[member].as_str() >= done["began_at"].as_str(), "{member}: {done}");
    }
    assert_eq!((&done["actions"], &done["stage"]), (&json!([]), &Value::Null), "{done}");
    router.end();
    if is_servers() {
        // The databases of the servers that a test gets are not empty: see `backing_up`.
        return;
    }
    let back = place.folder.path().join("back");
    restore::restore(&copy, &back, &ALONE).unwrap();
    let router = Router::start_in(&back, &[]);
    let is_there = |number: usize| {
        let read = router.read(&format!("user_{number}"), "table=users&limit=1").json();
        read["data"].as_array().unwrap().len() == 1
    };
    // One client wrote the rows one after the other, so the copy has the first ones, without a gap.
    assert!((0..held).all(is_there) && !is_there(held));
}

#[test]
fn a_second_backup_is_refused_while_one_runs_and_a_cancelled_one_leaves_nothing() {
    not_on_citus!(CITUS);
    let place = BackupPlace::new();
    let router = place.start(&["--shards", "2", "--replicas", "0"]);
    let stuck = StuckBatch::new(&router, &place.data());
    let path = begin(&router);
    until_held(&router, &place, &path);
    let id = path.rsplit('/').next().unwrap();
    let second = post(&router, "/api/backup");
    assert_eq!(refusal(&second), (409, "TSR340".to_owned(), "rejected".to_owned()));
    assert!(second.json()["detail"].as_str().unwrap().contains(id), "{}", second.text());
    let running = &listed(&router)[..];
    let [running] = running else { panic!("{running:?}") };
    assert_eq!((&running["state"], &running["actions"]), (&json!("running"), &json!(["cancel"])));
    assert!(running.get("shards").is_none(), "{running}");
    assert!(router.get("/metrics").text().contains("tessera_backup_running 1.0"));
    let cancel = format!("{path}/cancel");
    for _ in 0..2 {
        let reply = post(&router, &cancel);
        if reply.status == 409 {
            break;
        }
        assert_eq!((reply.status, &reply.json()["actions"]), (200, &json!([])), "{}", reply.text());
    }
    let ended = until(&router, &path, "cancelled");
    assert_eq!((&ended["reason"], &ended["rows"]), (&Value::Null, &Value::Null), "{ended}");
    assert!(ended["ended_at"].is_string(), "{ended}");
    assert_eq!(place.names(), Vec::<String>::new());
    let late = post(&router, &cancel);
    assert_eq!(refusal(&late), (409, "TSR343".to_owned(), "rejected".to_owned()));
    assert_eq!(listed(&router)[0]["state"], "cancelled");
    let text = router.get("/metrics").text();
    for line in ["tessera_backup_running 0.0", "tessera_backups_total{outcome=\"cancelled\"} 1"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(!text.contains("tessera_backup_last_success"), "there was none");
    drop(router);
    drop(stuck);
}

#[test]
fn a_killed_router_leaves_nothing_that_looks_complete_and_the_next_one_calls_it_failed() {
    not_on_citus!(CITUS);
    let place = BackupPlace::new();
    let flags = ["--shards", "2", "--replicas", "0"];
    let mut router = place.start(&flags);
    router.write_user("ada", "n");
    let stuck = StuckBatch::new(&router, &place.data());
    let path = begin(&router);
    until_held(&router, &place, &path);
    router.kill();
    drop(stuck);
    let id = path.rsplit('/').next().unwrap();
    assert_eq!(place.names(), [format!("{id}-unfinished")]);
    if !is_servers() {
        meddle(&place.data(), "DROP TRIGGER endless");
    }
    let router = place.start(&flags);
    assert_eq!(place.names(), Vec::<String>::new());
    let left = show(&router, &path);
    assert_eq!((&left["state"], &left["ended_at"]), (&json!("failed"), &Value::Null), "{left}");
    assert!(left["reason"].as_str().unwrap().contains("the router ended"), "{left}");
    let again = begin(&router);
    let done = until(&router, &again, "done");
    assert_eq!(verified(&place.backups().join(done["id"].as_str().unwrap())), 1);
    let states: Vec<Value> = listed(&router).iter().map(|it| it["state"].clone()).collect();
    assert_eq!(states, ["done", "failed"], "the latest first");
}

#[test]
fn a_router_that_ends_cancels_its_backup_and_leaves_nothing_unfinished() {
    not_on_citus!(CITUS);
    let place = BackupPlace::new();
    let mut router = place.start(&["--shards", "1", "--replicas", "0"]);
    assert_eq!(router.write_user("ada", "n").status, 201);
    // On files, a batch that never ends would also prevent the router from stopping.
    let stuck = is_servers().then(|| StuckBatch::new(&router, &place.data()));
    let path = begin(&router);
    if stuck.is_some() {
        until_held(&router, &place, &path);
    }
    router.end();
    for name in place.names() {
        // The backup ended before the signal.
        assert!(stuck.is_none() && path.ends_with(&name), "{name}");
        assert_eq!(verified(&place.backups().join(&name)), 1);
    }
}

#[test]
fn a_router_without_a_folder_makes_no_backups() {
    let router = Router::start_with(OPERATE);
    for (method, path) in [
        ("POST", "/api/backup"),
        ("GET", "/api/backup"),
        ("GET", "/api/backup/20260101T000000Z-0000"),
        ("POST", "/api/backup/20260101T000000Z-0000/cancel"),
    ] {
        let reply = router.send(method, path, &[], None);
        assert_eq!((reply.status, &*reply.code()), (409, "TSR339"), "{path}: {}", reply.text());
        let body = reply.json();
        assert!(body["detail"].as_str().unwrap().contains("backup_dir"), "{body}");
        assert!(body["hint"].as_str().unwrap().contains("--backup-dir"), "{body}");
    }
    assert!(!router.get("/metrics").text().contains("tessera_backup"));
}

#[test]
fn a_cluster_of_citus_is_not_backed_up() {
    if !backend::is_citus() {
        return backend::skip("it is about Citus");
    }
    let place = BackupPlace::new();
    let router = place.start(&[]);
    let reply = post(&router, "/api/backup");
    assert_eq!((reply.status, &*reply.code()), (409, "TSR339"), "{}", reply.text());
    assert!(reply.text().contains("Citus"), "{}", reply.text());
    assert_eq!(place.names(), Vec::<String>::new());
}

#[test]
fn without_access_control_and_its_flag_no_backup_begins() {
    let place = BackupPlace::new();
    let backups = place.backups();
    let flags = ["--backup-dir", backups.to_str().unwrap()];
    let router = Router::start_in(&place.data(), &flags);
    for (path, status) in
        [("/api/backup".to_owned(), 405), (format!("/api/backup/{NO_BACKUP}/cancel"), 404)]
    {
        let reply = post(&router, &path);
        assert_eq!(reply.status, status, "{}", reply.text());
        assert!(reply.text().contains("--operate"), "{}", reply.text());
    }
    assert_eq!(listed(&router), Vec::<Value>::new());
}

#[test]
fn a_client_names_no_path() {
    let place = BackupPlace::new();
    let router = place.start(&[]);
    let outside = place.folder.path().join("outside");
    let outside = outside.to_str().unwrap();
    for (body, code) in [
        (json!({"to": outside}), "TSR102"),
        (json!({"path": outside}), "TSR102"),
        (json!({"backup_dir": outside}), "TSR102"),
        (json!({"id": "../outside"}), "TSR102"),
        (json!({"label": "monday"}), "TSR102"),
        (json!([outside]), "TSR101"),
        (json!(outside), "TSR101"),
    ] {
        let reply = router.post("/api/backup", &[], &body);
        assert_eq!((reply.status, &*reply.code()), (400, code), "{body}: {}", reply.text());
        assert_eq!(reply.json()["outcome"], "rejected");
        if code == "TSR102" {
            assert_eq!(reply.json()["hint"], "this body takes no members", "{body}");
        }
    }
    let large = json!({"to": "a".repeat(2 << 10)});
    assert_eq!(router.post("/api/backup", &[], &large).code(), "TSR108");
    assert_eq!(router.post("/api/backup?to=/tmp", &[], &json!({})).code(), "TSR100");
    let form = [("content-type", "application/x-www-form-urlencoded")];
    assert_eq!(router.send("POST", "/api/backup", &form, Some(b"to=a")).code(), "TSR107");
    let unfinished = format!("{NO_BACKUP}-unfinished");
    for id in [NO_BACKUP, &unfinished, "outside", "..", "%2e%2e", "..%2foutside"] {
        for (method, path) in
            [("GET", format!("/api/backup/{id}")), ("POST", format!("/api/backup/{id}/cancel"))]
        {
            let reply = router.send(method, &path, &[], None);
            let is_unknown = ["TSR342", "TSR111"].contains(&&*reply.code());
            assert!(reply.status == 404 && is_unknown, "{path}: {}", reply.text());
        }
    }
    assert_eq!(place.names(), Vec::<String>::new());
    assert!(!Path::new(outside).exists());
}

#[test]
fn backups_of_earlier_processes_are_listed() {
    not_on_citus!(CITUS);
    let place = BackupPlace::new();
    let mut router = place.start(&[]);
    router.write_user("ada", "n");
    let paths: Vec<String> = (0..2)
        .map(|_| {
            let path = begin(&router);
            until(&router, &path, "done");
            path
        })
        .collect();
    router.end();
    fs::create_dir(place.backups().join("monday")).unwrap();
    fs::create_dir(place.backups().join(NO_BACKUP)).unwrap();
    let router = place.start(&[]);
    let [second, first, empty] = &listed(&router)[..] else { panic!("{:?}", listed(&router)) };
    for (shown, path) in [(second, &paths[1]), (first, &paths[0])] {
        assert!(path.ends_with(shown["id"].as_str().unwrap()), "{shown}");
        assert_eq!((&shown["state"], &shown["rows"]), (&json!("done"), &json!(1)), "{shown}");
        // Only the process that made the backup knows these values.
        assert_eq!((&shown["seconds"], &shown["ended_at"]), (&Value::Null, &Value::Null));
    }
    assert_eq!((&empty["id"], &empty["state"]), (&json!(NO_BACKUP), &json!("failed")), "{empty}");
    let since = "tessera_backup_last_success_timestamp_seconds 1";
    assert!(router.get("/metrics").text().contains(since));
    fs::remove_dir_all(place.backups().join(second["id"].as_str().unwrap())).unwrap();
    let gone = router.get(&paths[1]);
    assert_eq!((gone.status, &*gone.code()), (404, "TSR342"), "{}", gone.text());
    assert_eq!(listed(&router).len(), 2);
}

#[test]
fn a_backup_that_cannot_be_written_fails_for_a_plain_reason() {
    not_on_citus!(CITUS);
    let place = BackupPlace::new();
    let router = place.start(&["--shards", "1", "--replicas", "0"]);
    fs::remove_dir(place.backups()).unwrap();
    fs::write(place.backups(), "").unwrap();
    let failed = until(&router, &begin(&router), "failed");
    let reason = failed["reason"].as_str().unwrap();
    assert!(reason.contains("the log of the router"), "{failed}");
    assert!(!reason.contains('/'), "{failed}");
    let unreadable = router.get("/api/backup");
    assert_eq!((unreadable.status, &*unreadable.code()), (409, "TSR339"));
    fs::remove_file(place.backups()).unwrap();
    until(&router, &begin(&router), "done");
    let text = router.get("/metrics").text();
    for outcome in ["failed", "done"] {
        let line = format!("tessera_backups_total{{outcome=\"{outcome}\"}} 1");
        assert!(text.contains(&line), "{text}");
    }
}

#[test]
fn a_folder_that_cannot_take_backups_is_refused_at_the_start() {
    files_only!("the data directory is one of files");
    let place = BackupPlace::new();
    let (folder, data) = (place.folder.path(), place.data());
    fs::write(folder.join("file"), "").unwrap();
    for (dir, why) in [
        ("file", "there is a file with this name"),
        ("file/backups", "a part of the path is a file"),
        ("data/backups", "it is in the data directory"),
        ("/proc/backups", "backup_dir"),
    ] {
        let dir = folder.join(dir);
        let flags = ["--backup-dir", dir.to_str().unwrap()];
        let (code, said) = refused_start(backend::command(&data, &flags));
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("backup_dir: ") && said.contains(why), "{said}");
        assert!(!data.exists(), "the folder is checked before any file is made");
        if dir.starts_with("/proc") {
            continue;
        }
        let examined = backend::command(&data, &flags).arg("--doctor").output().unwrap();
        let said = String::from_utf8(examined.stdout).unwrap();
        assert_eq!(examined.status.code(), Some(1), "{said}");
        assert!(said.contains("backup_dir") && said.contains(why), "{said}");
    }
    let mut empty = bare_command(folder);
    empty.args(["--backup-dir", ""]);
    assert!(refused_start(empty).1.contains("backup_dir"), "an empty name");
    let flags = ["--backup-dir", "backups"];
    let examined = backend::command(&data, &flags).arg("--doctor").output().unwrap();
    let said = String::from_utf8(examined.stdout).unwrap();
    assert!(said.contains("the router creates it for backups"), "{said}");
    assert!(!place.backups().exists(), "the doctor makes nothing");
}
