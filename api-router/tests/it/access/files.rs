//! Tests of the files of access control: changes come into force while the router runs, and a
//! broken file changes nothing.

use std::fs::File;
use std::path::Path;

use super::guarded::{
    Guarded, ROLES, admin, bound, key, line, lines, reader, with_access, write_files, write_private,
};
use crate::backend;
use crate::harness::{Router, eventually};

const READ: &str = "/api/read?table=users";

/// Sends requests until one is answered with this status. After each other response, the router
/// gets the signal to check its files.
fn await_status(guarded: &Guarded, text: &str, status: u16) {
    eventually(&format!("status {status}"), || {
        let is_so = guarded.send("GET", READ, Some(text)).status == status;
        if !is_so {
            guarded.router.signal("HUP");
        }
        is_so.then_some(())
    });
}

#[test]
fn keys_and_roles_are_read_again_while_the_router_runs() {
    let guarded = Guarded::start("on", &[]);
    let (reader, new) = (reader(), key(50));
    let file = guarded.folder.join("keys");
    assert_eq!(guarded.send("GET", READ, Some(reader.reveal())).status, 200);
    // One key is revoked, another one is new.
    let without: String = lines()
        .lines()
        .filter(|line| !line.starts_with(reader.id().as_str()))
        .collect::<Vec<_>>()
        .join("\n");
    write_private(&file, format!("{without}\n{}\n", line(&new, "reader", &[], None)));
    await_status(&guarded, reader.reveal(), 401);
    await_status(&guarded, new.reveal(), 200);
    // Keys whose role is gone lose their rights. An earlier signal may still get the files read.
    let path = "/api/read?table=users&shardKey=acme";
    assert_eq!(guarded.send("GET", path, Some(bound().reveal())).status, 200);
    write_private(
        &guarded.folder.join("roles.json"),
        ROLES.replace(r#""role":"shop""#, r#""role":"store""#),
    );
    await_status(&guarded, bound().reveal(), 403);
}

#[test]
fn a_broken_file_keeps_what_was_in_force_and_is_logged_once() {
    let folder = crate::folders::temporary();
    let log = folder.path().join("log");
    let guarded = logging(folder.path(), &log, &[]);
    let file = guarded.folder.join("keys");
    write_private(&file, lines() + "broken\n");
    let logged = |words: &str| std::fs::read_to_string(&log).unwrap().matches(words).count();
    // The file is checked without a signal, too.
    eventually("the warning", || (logged("the old ones stay") > 0).then_some(()));
    assert_eq!(logged("access_keys_file"), 1);
    let bad = format!("line {}", lines().lines().count() + 1);
    assert!(logged(&bad) >= 1, "{}", std::fs::read_to_string(&log).unwrap());
    assert_eq!(guarded.send("GET", READ, Some(admin().reveal())).status, 200);
    write_private(&file, lines() + &line(&key(51), "reader", &[], None));
    await_status(&guarded, key(51).reveal(), 200);
}

/// Keys that cannot be read again are used for a time, and then requests are refused with TSR006.
#[test]
fn keys_that_are_too_old_are_used_no_longer() {
    let guarded = Guarded::start("on", &["--access-stale-max-s", "15"]);
    let reader = reader();
    std::fs::remove_file(guarded.folder.join("keys")).unwrap();
    assert_eq!(guarded.send("GET", READ, Some(reader.reveal())).status, 200);
    await_status(&guarded, reader.reveal(), 503);
    let reply = guarded.send("GET", READ, Some(reader.reveal()));
    assert_eq!((reply.status, &*reply.code()), (503, "TSR006"), "{}", reply.text());
    assert_eq!(reply.header("retry-after"), Some("1"));
    assert_eq!(guarded.send("GET", READ, None).status, 503, "anonymous rights are old, too");
    assert_eq!(guarded.send("GET", "/live", None).status, 200);
    assert_eq!(guarded.send("GET", "/ready", None).status, 200);
    write_private(&guarded.folder.join("keys"), lines());
    await_status(&guarded, reader.reveal(), 200);
}

/// Starts a guarded router that writes its log to a file.
pub(super) fn logging(folder: &Path, log: &Path, flags: &[&str]) -> Guarded {
    write_files(folder);
    let mut command = backend::command(&folder.join("data"), flags);
    with_access(&mut command, folder, "on");
    let router = Router::start_logging(command, File::create(log).unwrap().into());
    Guarded { router, folder: folder.to_owned() }
}
