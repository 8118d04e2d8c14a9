//! Tests of `backup --url`, which requests a backup from a router and waits for it.

use std::process::{Command, Stdio};

use serde_json::json;

use crate::backend::not_on_citus;
use crate::backup_place::{BackupPlace, CITUS, StuckBatch, listed, until_held, verified};
use crate::commands::{PROGRAM, run};
use crate::harness::{Router, eventually, isolated};
use crate::moves::OPERATE;

#[test]
fn the_command_waits_for_the_backup_of_a_router() {
    not_on_citus!(CITUS);
    let place = BackupPlace::new();
    let router = place.start(&[]);
    router.write_user("ada", "n");
    let url = router.url("");
    let done = run(&["backup", "--url", &url, "--json"], "").json(0);
    assert_eq!((&done["state"], &done["rows"]), (&json!("done"), &json!(1)), "{done}");
    assert_eq!(verified(&place.backups().join(done["id"].as_str().unwrap())), 1);
    let said = run(&["backup", "--url", &url], "");
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains("holds 1 rows of 3 shards as of"), "{said:?}");
    assert_eq!(listed(&router).len(), 2);
    let both = run(&["backup", "--url", &url, "--to", "/tmp/there"], "");
    assert!(both.code == Some(2) && both.err.contains("cannot be used with"), "{both:?}");
    let without = Router::start_with(OPERATE);
    let refused = run(&["backup", "--url", &without.url("")], "");
    assert!(refused.code == Some(2) && refused.err.contains("TSR339"), "{refused:?}");
}

#[test]
fn an_interrupted_command_cancels_its_backup() {
    not_on_citus!(CITUS);
    let place = BackupPlace::new();
    let router = place.start(&["--shards", "1", "--replicas", "0"]);
    let stuck = StuckBatch::new(&router, &place.data());
    let mut command = isolated(Command::new(&*PROGRAM), place.folder.path());
    command.args(["backup", "--url", &router.url("")]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = eventually("it has begun", || listed(&router).into_iter().next());
    until_held(&router, &place, &format!("/api/backup/{}", begun["id"].as_str().unwrap()));
    let sent = Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(2), "{said}");
    assert!(said.contains("cancelled"), "{said}");
    assert_eq!(listed(&router)[0]["state"], "cancelled");
    assert_eq!(place.names(), Vec::<String>::new());
    drop(router);
    drop(stuck);
}
