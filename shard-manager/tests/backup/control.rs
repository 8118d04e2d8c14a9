//! Tests of the control socket, through which commands reach a running cluster.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};

use shard_manager::backup::restore::verify;
use shard_manager::backup::{ProgressObserver, Step};
use shard_manager::control::client::{ControlError, request_backup};
use shard_manager::control::{Request, SOCKET};
use shard_manager::engine::cluster_spec::ClusterSpec;

use crate::backup::ALONE;
use crate::cluster::{Cluster, open, shards};
use crate::command::{fail, succeed, text};
use crate::scratch;

#[test]
fn a_running_cluster_is_saved_by_the_command() {
    let cluster = Cluster::with_shards(2);
    let copies = scratch::folder();
    let copy = copies.path().join("new/copy");
    let reported =
        succeed(&["backup", "--data-dir", text(cluster.dir.path()), "--to", text(&copy), "--json"]);
    let reported: serde_json::Value = serde_json::from_str(&reported).expect("one document");
    let manifest = verify(&copy, &ALONE).expect("a whole copy");
    assert_eq!(reported, serde_json::to_value(manifest).expect("a document"));
    assert_eq!(fs::metadata(&copy).expect("a folder").permissions().mode() & 0o777, 0o700);
}

#[test]
fn only_its_owner_may_use_the_socket_and_it_goes_with_the_cluster() {
    let cluster = Cluster::with_shards(1);
    let socket = cluster.dir.path().join(SOCKET);
    let mode = fs::metadata(&socket).expect("a socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let dir = cluster.stop();
    assert!(!socket.exists());
    // A socket file left behind by a killed process is replaced.
    fs::write(&socket, "left").expect("a file");
    let manager = open(dir.path(), ClusterSpec::default()).expect("it starts");
    let copies = scratch::folder();
    let request = Request::Backup { to: copies.path().join("copy") };
    request_backup(dir.path(), &request, &ALONE).expect("the socket has a listener");
    manager.close();
    let nobody = request_backup(dir.path(), &request, &ALONE);
    assert!(matches!(nobody, Err(ControlError::NoListener)), "{nobody:?}");
}

#[test]
fn unreachable_and_vanished_routers_are_reported_differently() {
    let dir = Cluster::with_shards(1).stop();
    let copies = scratch::folder();
    // A socket that accepts no connections stands for one that this user is not permitted to open.
    let _socket = UnixDatagram::bind(dir.path().join(SOCKET)).expect("a socket");
    let copy = copies.path().join("copy");
    let reported = request_backup(dir.path(), &Request::Backup { to: copy.clone() }, &ALONE);
    assert!(matches!(reported, Err(ControlError::Unreachable(_))), "{reported:?}");
    let (code, reported) = fail(&["backup", "--data-dir", text(dir.path()), "--to", text(&copy)]);
    assert!(code == 2 && reported.contains("cannot be reached"), "{reported}");
}

#[test]
fn the_socket_works_in_a_folder_with_a_long_name() {
    let dir = scratch::folder();
    let home = dir.path().join("long/".repeat(40));
    let manager = open(&home, shards(1)).expect("it starts");
    let request = Request::Backup { to: dir.path().join("copy") };
    request_backup(&home, &request, &ALONE).expect("the socket has a listener");
    manager.close();
    assert!(!home.join(SOCKET).exists());
}

#[test]
fn a_cancelled_request_leaves_nothing_behind() {
    let cluster = Cluster::with_shards(2);
    let copies = scratch::folder();
    let request = Request::Backup { to: copies.path().join("copy") };
    let gave_up = AtomicBool::new(false);
    let step = |_: &Step| gave_up.store(true, Ordering::SeqCst);
    let cancelled = || gave_up.load(Ordering::SeqCst);
    let observer = ProgressObserver { step: &step, cancelled: &cancelled };
    let asked = request_backup(cluster.dir.path(), &request, &observer);
    match asked {
        // The backup may have finished before the cancellation arrived.
        Ok(_) => drop(verify(&copies.path().join("copy"), &ALONE).expect("a whole copy")),
        Err(ControlError::Refused(reported)) => {
            assert!(reported.contains("cancelled"), "{reported}");
            assert_eq!(fs::read_dir(copies.path()).expect("a folder").count(), 0);
        }
        Err(
            error @ (ControlError::NoListener
            | ControlError::Unreachable(_)
            | ControlError::Broken(_)),
        ) => panic!("{error}"),
    }
}

#[test]
fn an_invalid_command_is_answered_with_the_reason() {
    let cluster = Cluster::with_shards(1);
    let say = |line: &[u8]| {
        let mut stream = UnixStream::connect(cluster.dir.path().join(SOCKET)).expect("a socket");
        // A line that exceeds the limit is not read to its end.
        let _ = stream.write_all(line);
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        text
    };
    for line in
        ["{}\n", "hello\n", "{\"command\":\"drop\"}\n", "{\"command\":\"backup\",\"to\":1}\n"]
    {
        assert!(say(line.as_bytes()).contains("this is not a command"), "{line}");
    }
    let relative = "{\"command\":\"backup\",\"to\":\"copy\"}\n";
    assert!(say(relative.as_bytes()).contains("absolute"));
    let open = cluster.dir.path().join(SOCKET);
    let stream = UnixStream::connect(&open).expect("a socket");
    stream.shutdown(std::net::Shutdown::Write).expect("half closed");
    let mut text = String::new();
    (&stream).read_to_string(&mut text).expect("an answer");
    assert!(text.contains("no end"), "{text}");
}
