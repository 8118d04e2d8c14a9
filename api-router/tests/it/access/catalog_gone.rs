//! Tests of access control while the catalog cannot be reached.

use serde_json::{Value, json};

use super::catalog_keys::{KEYS, send};
use super::files::logging;
use super::guarded::{Guarded, admin, now, with_access, write_files};
use crate::backend::{self, not_on_citus, servers_only};
use crate::harness::{Reply, Router, eventually};
use crate::tcp_proxy::{ProxyMode, TcpProxy};

const READ: &str = "/api/read?table=users&shardKey=acme";
/// Time for which keys are used without the catalog, in seconds, as the value of the flag.
const STALE_MAX: &str = "20";
/// Validity of a key that expires before that, in seconds.
const LIFE_S: u64 = 8;

fn read(guarded: &Guarded, key: &str) -> Reply {
    guarded.send("GET", READ, Some(key))
}

/// Creates a key and returns it.
fn create(guarded: &Guarded, body: &Value) -> String {
    let path = "/api/access/keys";
    let made = guarded.send_with("POST", path, Some(admin().reveal()), &[], Some(body));
    assert_eq!(made.status, 201, "{}", made.text());
    made.json()["key"].as_str().unwrap().to_owned()
}

/// Returns the age of keys and roles in seconds.
fn age(guarded: &Guarded) -> Option<u64> {
    let metrics = guarded.send("GET", "/metrics", Some(admin().reveal())).text();
    let mut lines = metrics.lines();
    let age = lines.find_map(|line| line.strip_prefix("tessera_access_age_seconds "))?;
    Some(age.parse::<f64>().unwrap() as u64)
}

/// Starts a router that reaches the server of the catalog through a proxy.
fn behind_proxy(flags: &[&str]) -> (Guarded, TcpProxy) {
    let data = crate::folders::temporary();
    let folder = data.path().to_owned();
    write_files(&folder);
    let data_dir = folder.join("data");
    let mut command = backend::command(&data_dir, flags);
    with_access(&mut command, &folder, "on");
    let url = backend::url_of(&data_dir, 0);
    let (before, after) = url.rsplit_once(':').unwrap();
    let (port, database) = after.split_once('/').unwrap();
    let proxy = TcpProxy::to(port.parse().unwrap());
    command.env("MAINDB_URL", format!("{before}:{}/{database}", proxy.port));
    (Guarded { router: Router::start_command(command).owning(data), folder }, proxy)
}

#[test]
fn keys_remain_valid_without_the_catalog_until_they_expire_or_reach_the_maximum_age() {
    servers_only!("the catalog of files is a file");
    not_on_citus!("its coordinator is the catalog and the shard");
    let (guarded, proxy) = behind_proxy(&["--access-stale-max-s", STALE_MAX]);
    let lasting = create(&guarded, &json!({"role": "reader"}));
    let end = chrono::DateTime::from_timestamp((now() + LIFE_S) as i64, 0).unwrap().to_rfc3339();
    let ending = create(&guarded, &json!({"role": "reader", "expires_at": end}));
    assert_eq!((read(&guarded, &lasting).status, read(&guarded, &ending).status), (200, 200));
    assert!(age(&guarded).unwrap() < LIFE_S);

    proxy.set(ProxyMode::Cut);
    assert_eq!(read(&guarded, &lasting).status, 200);
    let expired = eventually("the end of a key", || {
        let reply = read(&guarded, &ending);
        (reply.status == 401).then_some(reply)
    });
    assert!(expired.text().contains("expired"), "{}", expired.text());
    // During the outage nothing confirms the keys, so their age grows.
    eventually("keys of some age", || age(&guarded).filter(|age| *age >= 5));
    let stale = eventually("keys that are too old", || {
        let reply = read(&guarded, &lasting);
        (reply.status == 503).then_some(reply)
    });
    assert_eq!(stale.code(), "TSR006", "{}", stale.text());
    let refused = send(&guarded, "POST", KEYS, Some(&json!({"role": "reader"})));
    assert_eq!(refused.json()["outcome"], "rejected", "{}", refused.text());
    assert_eq!(guarded.send("GET", "/live", None).status, 200);

    proxy.set(ProxyMode::Open);
    eventually("the catalog", || (read(&guarded, &lasting).status == 200).then_some(()));
    assert_eq!(read(&guarded, &ending).status, 401);
}

/// Makes the catalog unreachable between changes of keys, roles and denials, and checks the
/// outcomes that their responses report. Returns the id of a key that the catalog has.
fn check_outcomes(guarded: &Guarded, lose_catalog: impl FnOnce()) -> String {
    let reader = json!({"role": "reader"});
    let made = send(guarded, "POST", KEYS, Some(&reader));
    assert_eq!(made.status, 201, "{}", made.text());
    let id = made.json()["id"].as_str().unwrap().to_owned();
    let one = format!("{KEYS}/{id}");
    let rotate = format!("{one}/rotate");
    let unknown_role = json!({"role": "missing"});
    for (method, path, body) in [
        ("POST", KEYS, Some(&unknown_role)),
        ("DELETE", "/api/access/keys/000000000000", None),
        ("DELETE", "/api/access/roles/missing", None),
        ("DELETE", "/api/access/denials?tenant=missing", None),
    ] {
        let refused = send(guarded, method, path, body);
        assert_eq!(refused.json()["outcome"], "rejected", "{method} {path}: {}", refused.text());
    }
    let read = send(guarded, "GET", "/api/access/keys/000000000000", None);
    assert_eq!((read.status, &read.json()["outcome"]), (404, &Value::Null), "{}", read.text());

    lose_catalog();
    let overlap = json!({"overlap_s": 0});
    let role = json!({"role": "packer", "grants": []});
    let denial = json!({"tenant": "acme"});
    for (method, path, body) in [
        ("POST", KEYS, Some(&reader)),
        ("POST", &*rotate, Some(&overlap)),
        ("DELETE", &*one, None),
        ("PUT", "/api/access/roles/packer", Some(&role)),
        ("POST", "/api/access/denials", Some(&denial)),
    ] {
        let failed = send(guarded, method, path, body);
        let problem = failed.json();
        let found = (failed.status, &problem["outcome"]);
        assert_eq!(found, (503, &json!("unknown")), "{method} {path}: {problem}");
    }
    id
}

#[test]
fn a_change_of_keys_that_the_catalog_may_have_stored_has_an_unknown_outcome() {
    not_on_citus!("its coordinator is the catalog and the shard");
    if backend::is_servers() {
        let (guarded, proxy) = behind_proxy(&[]);
        check_outcomes(&guarded, || proxy.set(ProxyMode::Cut));
        return;
    }
    let folder = crate::folders::temporary();
    let log = folder.path().join("log");
    let guarded = logging(folder.path(), &log, &[]);
    let (catalog, moved) = (folder.path().join("data/catalog.db"), folder.path().join("moved"));
    let id = check_outcomes(&guarded, || std::fs::rename(&catalog, &moved).unwrap());
    std::fs::rename(&moved, &catalog).unwrap();
    let found = send(&guarded, "GET", &format!("{KEYS}/{id}"), None);
    assert_eq!(found.json()["state"], "usable", "{}", found.text());
    let logged = eventually("a failed change in the log", || {
        let text = std::fs::read_to_string(&log).unwrap();
        text.contains("/api/access/keys/{id}").then_some(text)
    });
    assert!(!logged.contains(&format!("keys/{id}")), "a path is in the log");
}

#[test]
fn a_header_about_rows_is_refused_by_changes_of_keys_roles_and_denials() {
    let guarded = Guarded::start("on", &[]);
    let admin = admin();
    let body = json!({"role": "reader"});
    for (method, path) in [
        ("POST", KEYS),
        ("PUT", "/api/access/roles/packer"),
        ("POST", "/api/access/denials"),
        ("POST", "/api/access/check"),
    ] {
        for header in [
            ("x-consistency", "quorum"),
            ("x-session-token", "no-token"),
            ("x-max-staleness-ms", "1000"),
            ("if-match", "\"1\""),
        ] {
            let refused =
                guarded.send_with(method, path, Some(admin.reveal()), &[header], Some(&body));
            assert_eq!(refused.code(), "TSR113", "{method} {path}: {}", refused.text());
            let problem = refused.json();
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.starts_with(header.0), "{detail}");
            let outcome = if path.ends_with("/check") { Value::Null } else { json!("rejected") };
            assert_eq!(problem["outcome"], outcome, "{method} {path}: {problem}");
        }
    }
}
