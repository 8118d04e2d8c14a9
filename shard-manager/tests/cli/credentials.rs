//! Tests of the credential that commands send to a router.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};

use crate::cluster::{Ended, program};
use crate::scratch;

const KEY: &str = "tsr_canary";

/// Answers every request with a status and a body; returns the URL and the heads of the requests.
fn listen(status: &'static str, body: &'static str) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let (heads, received) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a client");
            let lines = BufReader::new(stream.try_clone().expect("a handle")).lines();
            let lines = lines.map(|line| line.expect("UTF-8")).take_while(|line| !line.is_empty());
            let head: Vec<String> = lines.collect();
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
            // The test has ended if there is no receiver.
            let _ = heads.send(head.join("\n").to_ascii_lowercase());
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (url, received)
}

fn key_file(dir: &Path, text: &str, mode: u32) -> PathBuf {
    let path = dir.join("router.key");
    let _ = fs::remove_file(&path);
    fs::write(&path, text).expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
    path
}

fn run_with(args: &[&str], variables: &[(&str, &str)]) -> Ended {
    let mut command = program(args);
    command.envs(variables.iter().copied());
    Ended::of(&command.output().expect("the program starts"))
}

#[test]
fn a_key_comes_from_the_file_or_else_from_the_variable() {
    let dir = scratch::folder();
    let file = key_file(dir.path(), &format!("{KEY}\n"), 0o600);
    let file = file.to_str().expect("UTF-8");
    let (url, heads) = listen("403 Forbidden", r#"{"code":"TSR403","detail":"operate lacks"}"#);
    let head = || heads.recv().expect("a request");
    for args in [&["status"][..], &["route", "user_1"], &["placement", "show"]] {
        let args = [args, &["--url", &url, "--key-file", file]].concat();
        // The variable is not looked at, however bad it is.
        run_with(&args, &[("TESSERA_KEY", " ")]).refused("refuses: operate lacks");
        assert!(head().contains(&format!("authorization: bearer {KEY}")), "{args:?}");
    }
    run_with(&["status", "--url", &url], &[("TESSERA_KEY", "tsr_other")]).refused("operate lacks");
    assert!(head().contains("authorization: bearer tsr_other"));
    let ended = run_with(&["import", "--table", "users", "--url", &url, "--key-file", file], &[]);
    ended.refused("operate lacks (TSR403)");
    assert!(head().contains(&format!("authorization: bearer {KEY}")));
    run_with(&["status", "--url", &url], &[]).refused("operate lacks");
    assert!(!head().contains("authorization"));
}

#[test]
fn a_refusal_by_access_control_explains_how_to_send_a_key() {
    let (url, _heads) = listen("401 Unauthorized", r#"{"code":"TSR401","detail":"who are you"}"#);
    let remedy =
        "who are you (TSR401); name a file with an API key by --key-file, or set TESSERA_KEY";
    run_with(&["status", "--url", &url], &[]).refused(remedy);
    let ended = run_with(&["status", "--url", &url], &[("TESSERA_KEY", KEY)]);
    assert!(!ended.err.contains("TESSERA_KEY"), "{ended:?}");
}

#[test]
fn a_key_is_not_sent_where_others_could_read_it() {
    let dir = scratch::folder();
    let variable = [("TESSERA_KEY", KEY)];
    // 192.0.2.0/24 is reserved for documentation: no host has such an address.
    for args in [
        &["status", "--url", "http://192.0.2.1:3000"][..],
        &["import", "--table", "users", "--url", "http://192.0.2.1:3000"],
        &["generate", "--url", "http://192.0.2.1:3000"],
    ] {
        let refused = "http://192.0.2.1:3000: a key is sent only by https or to this machine";
        run_with(args, &variable).refused(refused);
    }
    for (mode, text, cause) in [
        (0o644, KEY, "others may read the secret (mode 644): set the mode to 600"),
        (0o600, " \n", "has no key in it"),
        (0o600, "tsr_a\ntsr_b", "has more than one key in it"),
    ] {
        let file = key_file(dir.path(), text, mode);
        let file = file.to_str().expect("UTF-8");
        let ended = run_with(&["status", "--url", "http://127.0.0.1:1", "--key-file", file], &[]);
        assert!(ended.err.contains(file) && !ended.err.contains("tsr_"), "{ended:?}");
        ended.refused(cause);
    }
    run_with(&["status", "--url", "http://127.0.0.1:1"], &[("TESSERA_KEY", "")])
        .refused("the environment variable TESSERA_KEY has no key in it");
}

#[test]
fn no_redirect_is_followed_with_a_key() {
    let (target, heads) = listen("200 OK", "{}");
    let location = format!("302 Found\r\nLocation: {target}/api/health");
    let (url, _others) = listen(location.leak(), "");
    let ended = run_with(&["status", "--url", &url], &[("TESSERA_KEY", KEY)]);
    ended.refused("302 Found; with a key no redirect is followed");
    assert!(heads.try_recv().is_err(), "nothing was sent to the target");
}

#[test]
fn a_proxy_of_the_environment_gets_no_key() {
    let (proxy, of_proxy) = listen("502 Bad Gateway", "{}");
    let (url, heads) = listen("403 Forbidden", r#"{"code":"TSR403","detail":"operate lacks"}"#);
    let variables = [("TESSERA_KEY", KEY), ("HTTP_PROXY", &*proxy), ("http_proxy", &*proxy)];
    run_with(&["status", "--url", &url], &variables).refused("operate lacks");
    assert!(heads.recv().expect("a request").contains(KEY));
    assert!(of_proxy.try_recv().is_err(), "the proxy got a request");
}
