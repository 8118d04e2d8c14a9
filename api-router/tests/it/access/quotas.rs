//! Tests of limits that count rows and shards, of quotas that routers share and that outlive them,
//! and of the day on which a key was last used.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};
use shard_manager::access::unix_time::UnixTime;

use super::catalog_keys::{KEYS, await_status, begin, command_line, create, send, served, status};
use super::guarded::{Guarded, admin, now, start_in};
use crate::backend::{files_only, servers_only};
use crate::harness::{Reply, Router, eventually};

const READ: &str = "/api/read?table=users&shardKey=acme";
/// A request that counts no rows.
const NO_ROWS: &str = "/api/tables";

/// Creates a role with these limits and all rights on rows, and returns a key of it.
fn key_with(guarded: &Guarded, limits: &Value) -> String {
    let may = ["read", "insert", "update", "delete"];
    let grants = json!([{"tables": ["*"], "may": may, "keys": "*"}]);
    let role = json!({"role": "limited", "grants": grants, "limits": limits});
    served(send(guarded, "PUT", "/api/access/roles/limited", Some(&role)), 200);
    create(guarded, &json!({"role": "limited"})).1
}

fn ask(router: &Router, method: &str, path: &str, key: &str) -> Reply {
    router.send(method, path, &[("authorization", &format!("Bearer {key}"))], None)
}

fn post(router: &Router, path: &str, key: &str, body: &Value) -> Reply {
    router.post(path, &[("authorization", &format!("Bearer {key}"))], body)
}

fn users(count: usize) -> Vec<Value> {
    let user = |id: usize| json!({"user_id": format!("u{id}"), "name": "N", "email": "e"});
    (0..count).map(user).collect()
}

/// Returns a member of a limit in a header such as `"rows";r=1;t=2, "day";r=3;t=4`.
#[track_caller]
fn member(reply: &Reply, header: &str, limit: &str, member: &str) -> u64 {
    let text = reply.header(header).unwrap_or_else(|| panic!("no {header}: {}", reply.text()));
    let name = format!("\"{limit}\"");
    let item = text.split(", ").find(|item| item.starts_with(&name));
    let found = item.and_then(|item| item.split(';').find_map(|part| part.strip_prefix(member)));
    let value = found.and_then(|value| value.strip_prefix('='));
    value.unwrap_or_else(|| panic!("no {limit} {member} in {text}")).parse().unwrap()
}

fn today() -> u32 {
    UnixTime::from_seconds(now()).day()
}

#[test]
fn a_caller_whose_rows_exceed_the_rate_is_refused_before_any_work() {
    let guarded = Guarded::start("on", &["--limit-routers", "2"]);
    let key = key_with(&guarded, &json!({"rows_per_s": 4}));
    // Two routers share the rate.
    let bulk = post(
        &guarded.router,
        "/api/bulk-write",
        &key,
        &json!({"table": "users", "records": users(400)}),
    );
    assert_eq!(bulk.status, 201, "a bulk write is carried out as a whole: {}", bulk.text());
    assert_eq!(bulk.header("ratelimit-policy"), Some("\"rows\";q=2;w=1"));
    assert_eq!(member(&bulk, "ratelimit", "rows", "r"), 0);
    let refused = ask(&guarded.router, "GET", READ, &key);
    assert_eq!((refused.status, &*refused.code()), (429, "TSR429"), "{}", refused.text());
    assert!(refused.json()["detail"].as_str().unwrap().contains("rows_per_s"));
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=200).contains(&wait), "{wait}");
    let row = json!({"table": "users", "data": users(1)[0]});
    let refused = post(&guarded.router, "/api/write", &key, &row);
    assert_eq!((refused.status, &refused.json()["outcome"]), (429, &json!("rejected")));
    assert_eq!(guarded.send("GET", READ, Some(admin().reveal())).status, 200);
    let metrics = guarded.send("GET", "/metrics", Some(admin().reveal())).text();
    assert!(metrics.contains("tessera_access_limited_total{limit=\"rows_per_s\"} 2"), "{metrics}");
}

/// The rate is so low that only its burst is available during the test.
#[test]
fn each_row_that_is_read_or_written_counts() {
    let guarded = Guarded::start("on", &[]);
    let key = key_with(&guarded, &json!({"rows_per_day": 1_000_000}));
    let router = &guarded.router;
    let (mut left, day) = (1_000_000, today());
    let mut costs = |reply: Reply, rows: u64| {
        assert!(reply.status < 300, "{}", reply.text());
        let remaining = member(&reply, "ratelimit", "day", "r");
        // Midnight during the test begins a new quota.
        assert!(remaining == left - rows || today() != day, "{remaining} {left} {rows}");
        left = remaining;
    };
    costs(
        post(router, "/api/bulk-write", &key, &json!({"table": "users", "records": users(7)})),
        7,
    );
    costs(post(router, "/api/write", &key, &json!({"table": "users", "data": users(1)[0]})), 1);
    costs(post(router, "/write", &key, &json!({"key": "k", "value": 1})), 1);
    costs(ask(router, "GET", "/api/kv/k", &key), 1);
    costs(ask(router, "GET", "/read?key=k", &key), 1);
    costs(ask(router, "GET", "/api/read?table=users", &key), 7);
    costs(ask(router, "GET", "/api/read?table=users&limit=3", &key), 3);
    costs(ask(router, "GET", "/api/read?table=users&shardKey=nothing", &key), 1);
    let credentials = format!("Bearer {key}");
    let counted = [("authorization", &*credentials), ("prefer", "count=exact")];
    let reply = router.send("GET", "/api/read?table=users&limit=2", &counted, None);
    let shards = reply.json()["shards"].as_array().unwrap().len() as u64;
    costs(reply, 2 + shards);
    costs(ask(router, "GET", NO_ROWS, &key), 0);
    let lines: String = users(9).iter().map(|user| format!("{user}\n")).collect();
    let stream = [("authorization", &*credentials), ("content-type", "application/x-ndjson")];
    let path = "/api/bulk-write?table=users";
    costs(router.send("POST", path, &stream, Some(lines.as_bytes())), 9);
    costs(ask(router, "DELETE", "/api/kv/k", &key), 1);
}

#[test]
fn a_request_to_several_shards_counts_for_each_of_them() {
    let guarded = Guarded::start("on", &["--shards", "3"]);
    let key = key_with(&guarded, &json!({"requests_per_s": 1, "burst": 1_000}));
    let began = Instant::now();
    let mut spent = 0;
    let mut costs = |headers: &[(&str, &str)], path: &str, cost: u64| {
        let credentials = format!("Bearer {key}");
        let all = [headers, &[("authorization", &*credentials)]].concat();
        let reply = guarded.router.send("GET", path, &all, None);
        assert_eq!(reply.status, 200, "{}", reply.text());
        let shards = reply.json()["shards"].as_array().unwrap().len() as u64;
        spent += cost * shards;
        let remaining = member(&reply, "ratelimit", "requests", "r");
        // One request becomes available in each second.
        let most = 1_000 - spent + began.elapsed().as_secs() + 1;
        assert!((1_000 - spent..=most).contains(&remaining), "{path}: {remaining} {spent}");
    };
    for _ in 0..3 {
        costs(&[], "/api/read?table=users", 1);
        costs(&[], READ, 1);
    }
    costs(&[("x-consistency", "quorum")], READ, 2);
    costs(&[("x-consistency", "quorum")], "/api/read?table=users", 2);
    assert!(spent >= 12, "reads without a key go to all shards: {spent}");
}

#[test]
fn a_streamed_body_over_its_rate_is_slowed_and_not_broken() {
    let guarded = Guarded::start("on", &[]);
    let key = key_with(&guarded, &json!({"rows_per_s": 2_000}));
    let lines: String = users(5_000).iter().map(|user| format!("{user}\n")).collect();
    let credentials = format!("Bearer {key}");
    let headers = [("authorization", &*credentials), ("content-type", "application/x-ndjson")];
    let path = "/api/bulk-write?table=users";
    let reply = guarded.router.send("POST", path, &headers, Some(lines.as_bytes()));
    assert_eq!((reply.status, &reply.json()["stored"]), (201, &json!(5_000)), "{}", reply.text());
}

#[test]
fn a_streamed_body_that_waits_for_its_rate_ends_when_its_key_is_revoked() {
    let guarded = Guarded::start("on", &[]);
    let key = key_with(&guarded, &json!({"rows_per_s": 1}));
    let (id, body) = (&key[4..16], users(5_000));
    let lines: String = body.iter().map(|user| format!("{user}\n")).collect();
    let mut stream = begin(&guarded, &key, "POST /api/bulk-write?table=users HTTP/1.1");
    // The router waits for the rest of the body until this deadline, as nothing more is sent.
    let head = format!(
        "content-type: application/x-ndjson\r\nx-deadline-ms: 60000\r\ncontent-length: {}\r\n\r\n",
        lines.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    // The rest is never sent, because a fast router would read a small body completely.
    stream.write_all(&lines.as_bytes()[..lines.len() / 10]).unwrap();
    let first = "/api/read?table=users&shardKey=u0";
    eventually("the first rows", || {
        let rows = guarded.send("GET", first, Some(admin().reveal())).text();
        rows.contains("\"u0\"").then_some(())
    });
    served(send(&guarded, "DELETE", &format!("{KEYS}/{id}"), None), 200);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    assert!(answer.contains("\"outcome\":\"partial\""), "{answer}");
    let stored = answer.split("\"stored\":").nth(1).unwrap();
    let stored: usize = stored.split([',', '}']).next().unwrap().parse().unwrap();
    assert!((1..5_000).contains(&stored), "{answer}");
}

#[test]
fn a_streamed_body_ends_when_the_quota_of_the_day_is_used_up() {
    let guarded = Guarded::start("on", &[]);
    let key = key_with(&guarded, &json!({"rows_per_day": 5}));
    let lines: String = users(20_000).iter().map(|user| format!("{user}\n")).collect();
    let credentials = format!("Bearer {key}");
    let headers = [("authorization", &*credentials), ("content-type", "application/x-ndjson")];
    let path = "/api/bulk-write?table=users";
    let reply = guarded.router.send("POST", path, &headers, Some(lines.as_bytes()));
    let answer = reply.json();
    assert_eq!((reply.status, &answer["outcome"]), (429, &json!("partial")), "{}", reply.text());
    assert_eq!(answer["stored"], answer["next_index"], "rows before it are stored");
    assert!(reply.header("retry-after").is_some());
}

/// Reads until the quota of the day is used up. Returns the number of rows, and the refusal.
fn use_up(router: &Router, key: &str) -> (usize, Reply) {
    let replies = (0..10_000).map(|_| ask(router, "GET", READ, key));
    replies.enumerate().find(|(_, reply)| reply.status != 200).expect("the quota is reached")
}

#[test]
fn a_quota_of_a_day_outlives_a_restart() {
    let folder = crate::folders::temporary();
    let folder = folder.path();
    let mut guarded = Guarded::start_in(folder);
    let key = key_with(&guarded, &json!({"rows_per_day": 10}));
    let day = today();
    let (count, refused) = use_up(&guarded.router, &key);
    assert_eq!((refused.status, &*refused.code()), (429, "TSR429"), "{}", refused.text());
    assert!(refused.json()["detail"].as_str().unwrap().contains("rows_per_day"));
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=86_400).contains(&wait), "{wait}");
    guarded.router.end();
    guarded.router.wait();
    let router = start_in(folder);
    let after = status(&router, NO_ROWS, &key);
    // Midnight during the test begins a new quota.
    assert!((count, after) == (10, 429) || today() != day, "{count} {after}");
    let reply = ask(&router, "GET", READ, admin().reveal());
    assert_eq!((reply.status, reply.header("ratelimit")), (200, None));
}

/// Sends requests from an address of this machine.
fn status_from(guarded: &Guarded, source: [u8; 4]) -> String {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect(&guarded.router.address().into()).unwrap();
    let mut stream = std::net::TcpStream::from(socket);
    let request = format!("GET {READ} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}

#[test]
fn callers_without_credentials_are_limited_by_address() {
    let guarded = Guarded::start("on", &[]);
    let grants = json!([{"tables": ["users"], "may": ["read"], "keys": "*"}]);
    let limits = json!({"requests_per_s": 1, "burst": 5, "rows_per_s": 1_000});
    let role = json!({"role": "anonymous", "grants": grants, "limits": limits});
    served(send(&guarded, "PUT", "/api/access/roles/anonymous", Some(&role)), 200);
    let first = [127, 0, 0, 1];
    let refused = (0..10_000).map(|_| status_from(&guarded, first)).find(|status| status != "200");
    assert_eq!(refused.as_deref(), Some("429"));
    assert_eq!(status_from(&guarded, [127, 0, 0, 2]), "200", "another address has its own limits");
}

fn day_of_use(folder: &Path, id: &str) -> Value {
    let listed = command_line(folder, &["key", "list", "--format", "json"]);
    let listed: Value = serde_json::from_str(&listed.out).unwrap();
    let mut keys = listed.as_array().unwrap().iter();
    keys.find(|key| key["id"] == id).unwrap()["used_on"].clone()
}

#[test]
fn the_day_on_which_a_key_was_last_used_is_listed() {
    files_only!("the commands take the folder of the data");
    let folder = crate::folders::temporary();
    let folder = folder.path();
    let guarded = Guarded::start_in(folder);
    let (id, key) = create(&guarded, &json!({"role": "reader"}));
    let shown = || served(send(&guarded, "GET", &format!("{KEYS}/{id}"), None), 200);
    assert_eq!(shown()["used_on"], Value::Null);
    let before = UnixTime::format_day(today());
    assert_eq!(status(&guarded.router, READ, &key), 200);
    let after = UnixTime::format_day(today());
    let is_day = |day: &Value| *day == json!(before) || *day == json!(after);
    assert!(is_day(&shown()["used_on"]), "{}", shown());
    let Guarded { mut router, .. } = guarded;
    router.end();
    router.wait();
    let listed = day_of_use(folder, &id);
    assert!(is_day(&listed), "{listed}");
}

#[test]
fn routers_share_quotas_and_days_of_use_but_not_rates() {
    servers_only!("files have one router");
    let folder = crate::folders::temporary();
    let folder = folder.path();
    let guarded = Guarded::start_in(folder);
    let other = start_in(folder);
    let key = key_with(&guarded, &json!({"rows_per_day": 50}));
    await_status(&other, READ, &key, 200);
    let mut day = 0;
    eventually("a quota that both routers have used up together", || {
        if day != today() {
            // Repeated after a midnight. Each router alone reads at most 31 rows, fewer than the
            // quota.
            day = today();
            for router in [&guarded.router, &other] {
                (0..30).for_each(|_| drop(ask(router, "GET", READ, &key)));
            }
        }
        let refused = |router| status(router, NO_ROWS, &key) == 429;
        (refused(&guarded.router) && refused(&other)).then_some(())
    });
    let key = key_with(&guarded, &json!({"requests_per_s": 1, "burst": 3}));
    let reached = || {
        let limited = |router| ask(router, "GET", READ, &key).status == 429;
        (0..10_000).any(|_| limited(&guarded.router))
    };
    eventually("a rate that only one router has reached", || {
        (reached() && ask(&other, "GET", READ, &key).status == 200).then_some(())
    });
    let (id, key) = create(&guarded, &json!({"role": "reader"}));
    await_status(&other, READ, &key, 200);
    let Guarded { mut router, .. } = guarded;
    // A router stores the days of use when it ends.
    let shown = || {
        let reply = ask(&router, "GET", &format!("{KEYS}/{id}"), admin().reveal());
        reply.json()["used_on"].clone()
    };
    let mut other = other;
    other.end();
    other.wait();
    assert!(shown().is_string(), "only the other router got requests: {}", shown());
    router.end();
}
