//! Tests of the audit log over HTTP: its levels, the callers and requests that it records, the
//! secrets it never contains, and its chain after a crash.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::guarded::{Guarded, admin, bound, key, powerless, reader, with_access, write_files};
use crate::backend::{self, files_only};
use crate::commands;
use crate::harness::{Router, eventually};

/// Shard key that the key `bound` may use, and one that it may not.
const OWN: &str = "acme";
const FOREIGN: &str = "other";

struct Audited {
    guarded: Guarded,
    log: PathBuf,
}

impl Audited {
    fn start(mode: &str, flags: &[&str]) -> Self {
        let mut log = PathBuf::new();
        let mut folder = PathBuf::new();
        let router = Router::start_owning(|data_dir| {
            data_dir.parent().unwrap().clone_into(&mut folder);
            log = folder.join("audit.log");
            command(&folder, mode, flags)
        });
        Self { guarded: Guarded { router, folder }, log }
    }

    /// Returns the lines about requests, once there is one with each of these ids.
    fn lines(&self, ids: &[&str]) -> Vec<Value> {
        eventually(&format!("lines of {ids:?}"), || {
            let lines = requests(&self.log);
            let has = |id: &&str| lines.iter().any(|line| line["request"] == **id);
            ids.iter().all(has).then_some(lines)
        })
    }

    /// Sends a request with an id.
    fn send(&self, id: &str, method: &str, path: &str, text: Option<&str>, body: Option<&Value>) {
        let named = [("x-request-id", id)];
        self.guarded.send_with(method, path, text, &named, body);
    }

    /// Ends the router by an orderly shutdown.
    fn end(&mut self) {
        self.guarded.router.end();
    }
}

fn command(folder: &Path, mode: &str, flags: &[&str]) -> std::process::Command {
    write_files(folder);
    let mut command = backend::command(&folder.join("data"), flags);
    with_access(&mut command, folder, mode);
    command.arg("--audit-log").arg(folder.join("audit.log"));
    command
}

/// Returns the lines of a log that are about requests.
fn requests(log: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(log).unwrap();
    let lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    let lines = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["event"] == "request").collect()
}

fn row(key: &str) -> Value {
    json!({"table": "users", "data": {"user_id": key, "name": "canary-name", "email": "e"}})
}

/// Sends one request of each kind, and a last one that is recorded at every level.
fn send_each_kind(audited: &Audited) {
    let (admin, bound) = (admin(), bound());
    let role = json!({"role": "packer", "grants": []});
    let bound = Some(bound.reveal());
    audited.send("read", "GET", "/api/read?table=users&shardKey=acme", bound, None);
    audited.send("write", "POST", "/api/write", bound, Some(&row(OWN)));
    audited.send("denied", "POST", "/api/write", bound, Some(&row(FOREIGN)));
    audited.send("unknown", "GET", "/api/shards", Some(key(99).reveal()), None);
    audited.send("anonymous", "GET", "/api/shards", None, None);
    audited.send("live", "GET", "/live", None, None);
    audited.send("me", "GET", "/api/access/me", bound, None);
    audited.send("scope", "GET", "/api/shards", Some(admin.reveal()), None);
    audited.send("admin", "PUT", "/api/access/roles/packer", Some(admin.reveal()), Some(&role));
}

#[test]
fn each_level_has_its_requests_and_those_of_the_levels_before_it() {
    let mut expected: Vec<&str> = Vec::new();
    for (level, ids) in [
        ("admin", &["admin"][..]),
        ("denied", &["denied", "unknown", "anonymous"]),
        ("writes", &["write"]),
        ("all", &["read", "scope"]),
    ] {
        expected.extend(ids);
        let audited = Audited::start("on", &["--audit", level]);
        send_each_kind(&audited);
        let lines = audited.lines(&expected);
        let mut found: Vec<&str> =
            lines.iter().map(|line| line["request"].as_str().unwrap()).collect();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "{level}");
    }
}

#[test]
fn a_line_has_the_caller_the_action_and_the_outcome() {
    let audited = Audited::start("on", &["--audit", "all", "--audit-keys", "plain"]);
    send_each_kind(&audited);
    let lines = audited.lines(&["admin", "denied", "unknown", "read", "write"]);
    let line = |id: &str| lines.iter().find(|line| line["request"] == id).unwrap();
    let members = |id: &str, names: &[&str]| {
        names.iter().map(|name| line(id)[*name].clone()).collect::<Vec<_>>()
    };
    let texts = |texts: &[&str]| texts.iter().map(|text| json!(text)).collect::<Vec<_>>();
    let (bound, admin) = (bound().id().to_string(), admin().id().to_string());
    let who = ["caller", "id", "role", "address", "method", "route", "outcome"];
    let write = ["key", &*bound, "shop", "127.0.0.1", "POST", "/api/write"];
    assert_eq!(members("write", &who), texts(&[&write[..], &["served"]].concat()));
    assert_eq!(members("denied", &who), texts(&[&write[..], &["refused"]].concat()));
    let what = ["table", "key", "code"];
    assert_eq!(members("denied", &what), texts(&["users", FOREIGN, "TSR403"]));
    assert_eq!(members("read", &what), [json!("users"), json!(OWN), Value::Null]);
    assert_eq!((&line("write")["status"], &line("denied")["status"]), (&json!(201), &json!(403)));
    assert_eq!(line("write")["tenants"], json!(["acme"]));
    let claimed = ["caller", "claimed_key", "code", "outcome"];
    let id = key(99).id().to_string();
    assert_eq!(members("unknown", &claimed), texts(&["unknown", &id, "TSR401", "refused"]));
    assert_eq!(line("anonymous")["caller"], "anonymous");
    let changed = ["id", "route", "target", "outcome"];
    let expected = [&*admin, "/api/access/roles/{name}", "packer", "served"];
    assert_eq!(members("admin", &changed), texts(&expected));
}

#[test]
fn shard_keys_are_hashed_or_left_out() {
    let keys = |flags: &[&str]| {
        let audited = Audited::start("on", &[&["--audit", "writes"], flags].concat());
        for (id, key) in [("one", OWN), ("two", OWN)] {
            audited.send(id, "POST", "/api/write", Some(bound().reveal()), Some(&row(key)));
        }
        let lines = audited.lines(&["one", "two"]);
        assert!(lines.iter().all(|line| line.get("key").is_none()), "{lines:?}");
        lines.iter().map(|line| line["key_hash"].clone()).collect::<Vec<_>>()
    };
    let hashed = keys(&[]);
    assert_eq!((hashed[0].as_str().map(str::len), &hashed[0]), (Some(32), &hashed[1]));
    assert_eq!(keys(&["--audit-keys", "none"]), [Value::Null, Value::Null]);
}

#[test]
fn observing_reports_what_would_be_refused() {
    let audited = Audited::start("observe", &[]);
    audited.send("weak", "GET", "/api/shards", Some(powerless().reveal()), None);
    audited.send("wrong", "GET", "/api/shards", Some(key(99).reveal()), None);
    audited.send("good", "GET", "/api/shards", Some(admin().reveal()), None);
    let lines = audited.lines(&["weak", "wrong"]);
    assert_eq!(lines.len(), 2, "{lines:?}");
    for (line, code) in lines.iter().zip(["TSR403", "TSR401"]) {
        let reported = (&line["outcome"], &line["status"], &line["code"]);
        assert_eq!(reported, (&json!("would_refuse"), &json!(200), &json!(code)));
    }
}

#[test]
fn rows_of_a_bulk_that_were_refused_are_counted() {
    let audited = Audited::start("on", &[]);
    let rows = [OWN, FOREIGN, "third"].map(|key| row(key)["data"].clone());
    let body = json!({"table": "users", "records": rows});
    audited.send("bulk", "POST", "/api/bulk-write", Some(bound().reveal()), Some(&body));
    let lines = audited.lines(&["bulk"]);
    let reported = (&lines[0]["outcome"], &lines[0]["refused_rows"], &lines[0]["table"]);
    assert_eq!(reported, (&json!("partly_refused"), &json!(2), &json!("users")), "{lines:?}");
}

#[test]
fn equal_refusals_share_lines_and_each_is_counted() {
    let audited = Audited::start("on", &[]);
    let powerless = powerless();
    let refused = 300;
    for _ in 0..refused {
        audited.send("same", "GET", "/api/shards", Some(powerless.reveal()), None);
    }
    let count =
        |lines: &[Value]| lines.iter().map(|line| line["count"].as_u64().unwrap_or(1)).sum::<u64>();
    let lines = eventually("every refusal in the log", || {
        let lines = requests(&audited.log);
        (count(&lines) == refused).then_some(lines)
    });
    assert!(lines.len() < refused as usize, "{} lines", lines.len());
}

#[test]
fn long_text_and_control_characters_stay_in_their_line() {
    let audited = Audited::start("on", &["--audit", "all", "--audit-keys", "plain"]);
    let admin = admin();
    let long = "x".repeat(30_000);
    let paths = [
        ("table", format!("/api/read?table=a%0A%7B%22seq%22%3A1%7D%0D%1B%5B2J{long}")),
        ("key", format!("/api/kv/{long}")),
        ("role", format!("/api/access/roles/{long}")),
        ("odd", "/api/access/roles/a%0Ab%22%5C".to_owned()),
    ];
    for (id, path) in &paths {
        audited.send(id, "GET", path, Some(admin.reveal()), None);
    }
    let mut huge = row(OWN);
    huge["table"] = json!("\u{9b}2J\n".repeat(1 << 18));
    audited.send("body", "POST", "/api/write", Some(admin.reveal()), Some(&huge));
    let agent = [("user-agent", &*long), ("x-request-id", "agent")];
    audited.guarded.send_with("GET", "/api/shards", Some(admin.reveal()), &agent, None);
    audited.send("last", "GET", "/api/shards", Some(admin.reveal()), None);
    audited.lines(&["last"]);
    let text = std::fs::read_to_string(&audited.log).unwrap();
    for line in text.lines() {
        assert!(line.len() < 2_000, "{} bytes", line.len());
        assert!(!line.chars().any(char::is_control), "{line:?}");
        serde_json::from_str::<Value>(line).unwrap();
    }
    let lines = requests(&audited.log);
    let table = lines.iter().find(|line| line["request"] == "table").unwrap();
    let table = table["table"].as_str().unwrap();
    assert!(table.starts_with("a\n{\"seq\":1}\r\u{1b}[2Jxxx") && table.ends_with('…'), "{table}");
    assert_eq!(verify(&audited.log, None).code, Some(0));
}

/// Runs `audit verify`, with the catalog of a folder or without.
fn verify(log: &Path, data_dir: Option<&Path>) -> commands::Ended {
    let mut arguments = vec!["audit", "verify", log.to_str().unwrap(), "--json"];
    if let Some(data_dir) = data_dir {
        arguments.extend(["--data-dir", data_dir.to_str().unwrap()]);
    }
    commands::run(&arguments, "")
}

#[test]
fn a_killed_router_leaves_a_log_that_is_continued() {
    let folder = crate::folders::temporary();
    let folder = folder.path();
    let log = folder.join("audit.log");
    for number in 0..3 {
        let router = Router::start_command(command(folder, "on", &["--audit", "writes"]));
        let mut audited =
            Audited { guarded: Guarded { router, folder: folder.to_owned() }, log: log.clone() };
        let id = number.to_string();
        audited.send(&id, "POST", "/api/write", Some(bound().reveal()), Some(&row(OWN)));
        audited.lines(&[&id]);
        if number == 2 {
            audited.end();
        } else {
            audited.guarded.router.kill();
            // After a crash, only a part of the last line may be stored.
            let mut file = std::fs::OpenOptions::new().append(true).open(&log).unwrap();
            file.write_all(b"{\"seq\":9,\"time\":\"20").unwrap();
            let report = verify(&log, None).json(0);
            assert_eq!(report["torn_bytes"], 19, "{report}");
        }
    }
    let report = verify(&log, None).json(0);
    let reported =
        (&report["starts"], &report["crashes"], &report["requests"], &report["torn_bytes"]);
    assert_eq!(reported, (&json!(3), &json!(2), &json!(3), &json!(0)), "{report}");
    let mode = std::fs::metadata(&log).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
}

#[test]
fn the_catalog_knows_where_the_log_ended() {
    files_only!("the command takes the folder of the data");
    let folder = crate::folders::temporary();
    let folder = folder.path();
    let (log, data_dir) = (folder.join("audit.log"), folder.join("data"));
    let router = Router::start_command(command(folder, "on", &["--audit", "writes"]));
    let mut audited =
        Audited { guarded: Guarded { router, folder: folder.to_owned() }, log: log.clone() };
    for id in ["one", "two"] {
        audited.send(id, "POST", "/api/write", Some(bound().reveal()), Some(&row(OWN)));
    }
    audited.end();
    let report = verify(&log, Some(&data_dir)).json(0);
    assert_eq!((&report["catalog"], &report["requests"]), (&json!("equal"), &json!(2)), "{report}");
    let whole = std::fs::read_to_string(&log).unwrap();
    let cut: Vec<&str> = whole.lines().take(2).collect();
    std::fs::write(&log, cut.join("\n") + "\n").unwrap();
    assert_eq!(verify(&log, None).json(0)["lines"], 2, "the end is known to the catalog only");
    let report = verify(&log, Some(&data_dir)).json(1);
    assert!(report["fault"]["fault"].as_str().unwrap().contains("cut off"), "{report}");
}

#[test]
fn no_secret_reaches_the_audit_log() {
    let audited = Audited::start("on", &["--audit", "all", "--audit-keys", "plain"]);
    let (admin, unknown) = (admin(), key(77));
    let token = super::guarded::Signer::new().sign(&super::guarded::claims());
    let forged = super::guarded::Signer::of_seed(9).sign(&super::guarded::claims());
    let texts = [admin.reveal(), unknown.reveal(), &*token, &*forged];
    for text in texts {
        for path in ["/api/read?table=users", "/api/shards", "/nowhere", "/api/kv/acme"] {
            audited.guarded.send("GET", path, Some(text));
            audited.guarded.send("GET", &format!("{path}?access_token={text}"), None);
            audited.guarded.send_with("GET", path, None, &[("authorization", text)], None);
        }
        audited.guarded.send_with("POST", "/api/write", Some(text), &[], Some(&row(OWN)));
        let one = format!("/api/access/keys/{text}");
        let rotate = format!("{one}/rotate");
        for (method, path) in [("GET", &one), ("DELETE", &one), ("POST", &rotate)] {
            audited.guarded.send(method, path, Some(admin.reveal()));
        }
    }
    let body = json!({"role": "reader"});
    let made = audited.guarded.send_with(
        "POST",
        "/api/access/keys",
        Some(admin.reveal()),
        &[],
        Some(&body),
    );
    let made = made.json()["key"].as_str().unwrap().to_owned();
    audited.send("last", "GET", "/api/shards", Some(reader().reveal()), None);
    audited.lines(&["last"]);
    let log = std::fs::read_to_string(&audited.log).unwrap();
    assert!(log.contains(admin.id().as_str()) && log.contains(unknown.id().as_str()), "{log}");
    let target = format!("\"target\":\"{}\"", unknown.id());
    assert_eq!(log.matches(&target).count(), 3, "{log}");
    for text in texts.into_iter().chain([&*made]) {
        // The last characters of a key are its secret, and those of a token its signature.
        assert!(!log.contains(&text[text.len() - 40..]), "a secret is in the audit log");
    }
    assert!(!log.contains(&admin.digest().to_hex()), "a digest is in the audit log");
    assert!(!log.contains("canary-name"), "a body is in the audit log");
}

#[test]
fn metrics_count_lines_and_losses() {
    let audited = Audited::start("on", &[]);
    audited.send("one", "GET", "/api/shards", Some(powerless().reveal()), None);
    audited.lines(&["one"]);
    // A line is counted after it was written.
    let metrics = eventually("the line is counted", || {
        let metrics = audited.guarded.send("GET", "/metrics", Some(admin().reveal())).text();
        (!metrics.contains("tessera_audit_lines_total{} 0\n")).then_some(metrics)
    });
    for line in ["tessera_audit_lines_total{} 1\n", "tessera_audit_dropped_total{} 0\n"] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
}
