//! Tests of keys, roles and denials of the catalog: their routes, the command line beside a running
//! router, and the mode that the catalog remembers.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;

use serde_json::{Value, json};

use super::guarded::{Guarded, Signer, admin, bound, claims, start_in, watcher, write_files};
use crate::backend::{self, files_only, servers_only};
use crate::commands;
use crate::harness::{Reply, Router, eventually, refused_start};

pub(super) const KEYS: &str = "/api/access/keys";
const DENIALS: &str = "/api/access/denials";
const READ: &str = "/api/read?table=users&shardKey=acme";

/// A role that manages keys, and is bound to the keys of a tenant.
fn manager_role() -> Value {
    json!({"role": "manager", "scopes": ["keys"], "grants": [
        {"tables": ["users"], "may": ["read", "insert"], "keys": "$tenant"}]})
}

/// Returns a role that may do these things with the rows of `users` under these keys.
fn role_for_users(role: &str, keys: &str, may: Value) -> Value {
    json!({"role": role, "grants": [{"tables": ["users"], "may": may, "keys": keys}]})
}

pub(super) fn send(guarded: &Guarded, method: &str, path: &str, body: Option<&Value>) -> Reply {
    guarded.send_with(method, path, Some(admin().reveal()), &[], body)
}

#[track_caller]
pub(super) fn served(reply: Reply, status: u16) -> Value {
    assert_eq!(reply.status, status, "{}", reply.text());
    reply.json()
}

/// Creates a key, and returns its id and its text.
pub(super) fn create(guarded: &Guarded, body: &Value) -> (String, String) {
    let made = served(send(guarded, "POST", KEYS, Some(body)), 201);
    (made["id"].as_str().unwrap().to_owned(), made["key"].as_str().unwrap().to_owned())
}

pub(super) fn status(router: &Router, path: &str, key: &str) -> u16 {
    let credentials = format!("Bearer {key}");
    router.send("GET", path, &[("authorization", &credentials)], None).status
}

#[track_caller]
pub(super) fn await_status(router: &Router, path: &str, key: &str, expected: u16) {
    let what = format!("{expected} for {path}");
    eventually(&what, || (status(router, path, key) == expected).then_some(()));
}

#[test]
fn a_key_is_created_rotated_and_revoked_over_http() {
    let guarded = Guarded::start("on", &[]);
    let (id, key) = create(&guarded, &json!({"role": "reader", "name": "Reports"}));
    assert_eq!(status(&guarded.router, READ, &key), 200, "in force before the answer");
    let listed = served(send(&guarded, "GET", KEYS, None), 200);
    assert!(!listed.to_string().contains(&key), "{listed}");
    let found = |id: &str| served(send(&guarded, "GET", &format!("{KEYS}/{id}"), None), 200);
    let one = found(&id);
    assert_eq!((&one["state"], &one["name"]), (&json!("usable"), &json!("Reports")), "{one}");
    assert_eq!(one["made_by"], format!("key {}", admin().id()), "{one}");
    assert_eq!((&one["read_only"], &one["key"]), (&json!(false), &Value::Null), "{one}");
    let in_file = found(bound().id().as_str());
    assert_eq!((&in_file["read_only"], &in_file["tenants"]), (&json!(true), &json!(["acme"])));

    let body = json!({"overlap_s": 0});
    let rotated = send(&guarded, "POST", &format!("{KEYS}/{id}/rotate"), Some(&body));
    let rotated = served(rotated, 201);
    let (next_id, next) = (rotated["id"].as_str().unwrap(), rotated["key"].as_str().unwrap());
    assert_eq!(
        (status(&guarded.router, READ, &key), status(&guarded.router, READ, next)),
        (401, 200)
    );
    let revoked = send(&guarded, "DELETE", &format!("{KEYS}/{next_id}"), None);
    assert_eq!(served(revoked, 200)["state"], "revoked");
    assert_eq!(status(&guarded.router, READ, next), 401, "in force before the answer");
    for (method, path, code) in [
        ("DELETE", format!("{KEYS}/{next_id}"), (409, "TSR409")),
        ("POST", format!("{KEYS}/{next_id}/resume"), (409, "TSR409")),
        ("DELETE", format!("{KEYS}/{}", bound().id()), (409, "TSR409")),
        ("DELETE", format!("{KEYS}/000000000000"), (404, "TSR111")),
        ("GET", format!("{KEYS}/short"), (404, "TSR111")),
        ("GET", format!("{KEYS}/{key}"), (404, "TSR111")),
    ] {
        let reply = send(&guarded, method, &path, None);
        assert_eq!((reply.status, &*reply.code()), code, "{method} {path}: {}", reply.text());
        assert!(!reply.text().contains(&key), "{}", reply.text());
    }
}

#[test]
fn a_bad_body_is_refused_and_names_the_member() {
    let guarded = Guarded::start("on", &[]);
    let role = "/api/access/roles/packer";
    for (method, path, body, code, member) in [
        ("POST", KEYS, json!({"role": "reader", "rolle": 1}), "TSR102", "rolle"),
        ("POST", KEYS, json!({"name": "x"}), "TSR101", "role"),
        ("POST", KEYS, json!({"role": "nobody"}), "TSR101", "role"),
        ("POST", KEYS, json!({"role": "shop"}), "TSR101", "stands only in access_roles_file"),
        ("POST", KEYS, json!({"role": "reader", "name": "\u{7}"}), "TSR101", "name"),
        ("POST", KEYS, json!({"role": "reader", "tenants": "acme"}), "TSR101", "tenants"),
        ("POST", KEYS, json!({"role": "reader", "tenants": [""]}), "TSR101", "tenants"),
        ("POST", KEYS, json!({"role": "reader", "expires_at": "soon"}), "TSR101", "expires_at"),
        (
            "POST",
            KEYS,
            json!({"role": "reader", "expires_at": "2001-01-01T00:00:00Z"}),
            "TSR101",
            "expires_at",
        ),
        ("PUT", role, json!({"role": "packer", "grant": []}), "TSR102", "grant"),
        ("PUT", role, json!({"role": "other", "grants": []}), "TSR101", "role"),
        (
            "PUT",
            role,
            json!({"role": "packer", "grants": [{"tables": ["users"], "may": ["read"]}]}),
            "TSR101",
            "keys",
        ),
        (
            "PUT",
            "/api/access/roles/admin",
            json!({"role": "admin", "grants": []}),
            "TSR101",
            "role",
        ),
        ("PUT", "/api/access/roles/shop", json!({"role": "shop", "grants": []}), "TSR409", "role"),
        ("POST", DENIALS, json!({"tenant": "acme", "till": "x"}), "TSR102", "till"),
        ("POST", DENIALS, json!({"jti": "1"}), "TSR101", "issuer"),
        ("POST", DENIALS, json!({"tenant": "acme", "until": "soon"}), "TSR101", "until"),
        (
            "POST",
            DENIALS,
            json!({"tenant": "a", "until": "2001-01-01T00:00:00Z"}),
            "TSR101",
            "future",
        ),
    ] {
        let reply = send(&guarded, method, path, Some(&body));
        assert_eq!(&*reply.code(), code, "{body}: {}", reply.text());
        assert!(reply.json()["detail"].as_str().unwrap().contains(member), "{}", reply.text());
    }
    let reply = send(&guarded, "DELETE", "/api/access/denials?tenent=acme", None);
    assert_eq!(&*reply.code(), "TSR100", "{}", reply.text());
    let reply = send(&guarded, "DELETE", "/api/access/denials?tenant=nobody", None);
    assert_eq!((reply.status, &*reply.code()), (404, "TSR111"), "{}", reply.text());
}

#[test]
fn roles_of_the_catalog_give_rights_at_once_and_those_of_the_file_stay() {
    let guarded = Guarded::start("on", &[]);
    let path = "/api/access/roles/packer";
    let role = |may: Value| role_for_users("packer", "*", may);
    let put = send(&guarded, "PUT", path, Some(&role(json!(["insert"]))));
    assert_eq!(served(put, 200)["source"], "catalog");
    let (id, key) = create(&guarded, &json!({"role": "packer"}));
    assert_eq!(status(&guarded.router, READ, &key), 403);
    served(send(&guarded, "PUT", path, Some(&role(json!(["insert", "read"])))), 200);
    assert_eq!(status(&guarded.router, READ, &key), 200);
    let removed = send(&guarded, "DELETE", path, None);
    assert_eq!((removed.status, &*removed.code()), (409, "TSR409"), "{}", removed.text());
    served(send(&guarded, "DELETE", &format!("{KEYS}/{id}"), None), 200);
    served(send(&guarded, "DELETE", path, None), 200);
    assert_eq!(send(&guarded, "GET", path, None).status, 404);
    let roles = served(send(&guarded, "GET", "/api/access/roles", None), 200);
    let shop = roles["roles"].as_array().unwrap().iter().find(|role| role["name"] == "shop");
    assert_eq!(shop.unwrap()["source"], "file", "{roles}");
}

/// Revokes administrators over HTTP until one is left, whose key cannot be revoked, and who cannot
/// be denied.
#[test]
fn the_last_administrator_stays_in_the_catalog() {
    let guarded = Guarded::start("on", &[]);
    let body = json!({"role": "admin", "tenants": ["acme"]});
    let (first, last) = (create(&guarded, &body), create(&guarded, &body));
    served(send(&guarded, "DELETE", &format!("{KEYS}/{}", first.0), None), 200);
    let path = format!("{KEYS}/{}", last.0);
    let denial = json!({"tenant": "acme"});
    // Refused to another administrator, whose key is in a file, and to the owner of the key.
    for text in [admin().reveal(), &*last.1] {
        for (method, path, body) in [("DELETE", &*path, None), ("POST", DENIALS, Some(&denial))] {
            let reply = guarded.send_with(method, path, Some(text), &[], body);
            assert_eq!((reply.status, &*reply.code()), (403, "TSR403"), "{}", reply.text());
            assert!(reply.text().contains("only the command line"), "{}", reply.text());
        }
    }
    for (method, body) in [("PUT", Some(json!({"role": "admin", "grants": []}))), ("DELETE", None)]
    {
        let path = "/api/access/roles/admin";
        let reply = guarded.send_with(method, path, Some(&last.1), &[], body.as_ref());
        assert!(matches!(reply.status, 400 | 409), "{method}: {}", reply.text());
        assert!(reply.text().contains("built-in"), "{method}: {}", reply.text());
    }
    assert_eq!(status(&guarded.router, READ, &last.1), 200, "it goes on working");
    // The new key is valid at once, so the old key may be replaced.
    let rotated = send(&guarded, "POST", &format!("{path}/rotate"), Some(&json!({"overlap_s": 0})));
    let next = served(rotated, 201)["key"].as_str().unwrap().to_owned();
    assert_eq!(status(&guarded.router, READ, &next), 200);
}

/// A caller cannot get or give rights that it does not have, in any of these ways.
#[test]
fn no_caller_grants_rights_that_it_does_not_have() {
    let guarded = Guarded::start("on", &[]);
    served(send(&guarded, "PUT", "/api/access/roles/manager", Some(&manager_role())), 200);
    let (_, key) = create(&guarded, &json!({"role": "manager", "tenants": ["acme"]}));
    let (chief, _) = create(&guarded, &json!({"role": "reader"}));
    let denial = json!({"tenant": "acme2"});
    served(send(&guarded, "POST", DENIALS, Some(&denial)), 201);
    let rotate = format!("{KEYS}/{chief}/rotate");
    let all = json!([{"tables": ["*"], "may": ["read"], "keys": "*"}]);
    let shorter = json!({"tenant": "acme2", "until": "2999-01-01T00:00:00Z"});
    for (method, path, body) in [
        ("POST", KEYS, Some(json!({"role": "admin"}))),
        ("POST", KEYS, Some(json!({"role": "reader"}))),
        ("POST", KEYS, Some(json!({"role": "manager", "tenants": ["acme2"]}))),
        ("POST", KEYS, Some(json!({"role": "manager", "tenants": ["acme", "acme2"]}))),
        ("POST", &*rotate, Some(json!({"overlap_s": 60}))),
        ("POST", &*format!("{KEYS}/{chief}/resume"), None),
        ("PUT", "/api/access/roles/big", Some(json!({"role": "big", "grants": all}))),
        ("PUT", "/api/access/roles/manager", Some(manager_role())),
        ("DELETE", "/api/access/denials?tenant=acme2", None),
        ("POST", DENIALS, Some(shorter)),
    ] {
        let reply = guarded.send_with(method, path, Some(&key), &[], body.as_ref());
        let found = (reply.status, &*reply.code());
        assert_eq!(found, (403, "TSR403"), "{method} {path} {body:?}: {}", reply.text());
        let is_of_denial = reply.text().contains("every right");
        assert_eq!(is_of_denial, path.starts_with(DENIALS), "{method} {path}: {}", reply.text());
    }
    let own = json!({"role": "manager", "tenants": ["acme"]});
    let reply = guarded.send_with("POST", KEYS, Some(&key), &[], Some(&own));
    assert_eq!(reply.status, 201, "{}", reply.text());
}

/// In the mode `observe`, callers without the scope get no keys, which would still be valid in the
/// mode `on`.
#[test]
fn observed_callers_without_the_scope_change_no_keys() {
    let guarded = Guarded::start("observe", &[]);
    let body = json!({"role": "admin"});
    for (text, status) in [(None, 401), (Some(watcher()), 403), (Some(admin()), 201)] {
        let text = text.as_ref().map(|key| key.reveal());
        let reply = guarded.send_with("POST", KEYS, text, &[], Some(&body));
        assert_eq!(reply.status, status, "{}", reply.text());
    }
}

#[test]
fn denied_tenants_and_tokens_are_refused_at_once() {
    let guarded = Guarded::start("on", &[]);
    let token = Signer::new().sign(&claims());
    let bound = bound();
    let both =
        || (status(&guarded.router, READ, &token), status(&guarded.router, READ, bound.reveal()));
    assert_eq!(both(), (200, 200));
    for (denial, query, expected) in [
        (json!({"tenant": "acme"}), "tenant=acme", (401, 401)),
        (
            json!({"issuer": super::guarded::ISSUER, "sub": "ann"}),
            "issuer=https://issuer.example&sub=ann",
            (401, 200),
        ),
    ] {
        served(send(&guarded, "POST", DENIALS, Some(&denial)), 201);
        let listed = served(send(&guarded, "GET", DENIALS, None), 200);
        assert_eq!(listed["denials"], json!([denial]));
        assert_eq!(both(), expected, "{denial}");
        served(send(&guarded, "DELETE", &format!("{DENIALS}?{query}"), None), 200);
        assert_eq!(both(), (200, 200), "{denial}");
    }
}

/// Begins a request whose headers and body are sent later.
pub(super) fn begin(guarded: &Guarded, key: &str, head: &str) -> std::net::TcpStream {
    let mut stream = guarded.router.connect();
    let text = format!(
        "{head}\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {key}\r\n"
    );
    stream.write_all(text.as_bytes()).unwrap();
    stream
}

/// Returns the other headers of a streamed body, and its first line.
fn first_line() -> String {
    let line = "{\"user_id\":\"acme\",\"name\":\"N\",\"email\":\"e\"}\n";
    format!(
        "content-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\nx-deadline-ms: 60000\r\n\r\n\
         {:x}\r\n{line}\r\n",
        line.len()
    )
}

/// Waits until the first line of a streamed body is stored.
fn await_first_line(guarded: &Guarded) {
    eventually("the first line", || {
        let rows = guarded.send("GET", READ, Some(admin().reveal())).text();
        rows.contains("\"acme\"").then_some(())
    });
}

#[test]
fn a_streamed_body_ends_when_its_key_is_revoked() {
    let guarded = Guarded::start("on", &[]);
    let (id, key) = create(&guarded, &json!({"role": "service"}));
    let head = "POST /api/bulk-write?table=users HTTP/1.1";
    let mut stream = begin(&guarded, &key, head);
    stream.write_all(first_line().as_bytes()).unwrap();
    await_first_line(&guarded);
    served(send(&guarded, "DELETE", &format!("{KEYS}/{id}"), None), 200);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    for part in ["\"TSR401\"", "\"outcome\":\"partial\"", "\"next_index\":1", "\"stored\":1"] {
        assert!(answer.contains(part), "{part} is not in {answer}");
    }
}

#[test]
fn a_streamed_body_ends_when_its_grants_are_reduced() {
    let guarded = Guarded::start("on", &[]);
    let path = "/api/access/roles/packer";
    let role = |may: Value| role_for_users("packer", "*", may);
    served(send(&guarded, "PUT", path, Some(&role(json!(["insert", "update"])))), 200);
    let (_, key) = create(&guarded, &json!({"role": "packer"}));
    let mut stream = begin(&guarded, &key, "POST /api/bulk-write?table=users HTTP/1.1");
    stream.write_all(first_line().as_bytes()).unwrap();
    await_first_line(&guarded);
    served(send(&guarded, "PUT", path, Some(&role(json!(["insert"])))), 200);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("\"TSR403\"") && answer.contains("\"partial\""), "{answer}");
}

#[test]
fn a_streamed_body_without_credentials_that_loses_its_rights_reports_the_rows_it_stored() {
    let guarded = Guarded::start("on", &[]);
    let path = "/api/access/roles/anonymous";
    let role = |may: Value| role_for_users("anonymous", "*", may);
    served(send(&guarded, "PUT", path, Some(&role(json!(["insert", "update"])))), 200);
    let mut stream = guarded.router.connect();
    let head = "POST /api/bulk-write?table=users HTTP/1.1\r\nhost: localhost\r\nconnection: close";
    stream.write_all(format!("{head}\r\n{}", first_line()).as_bytes()).unwrap();
    await_first_line(&guarded);
    served(send(&guarded, "PUT", path, Some(&role(json!(["insert"])))), 200);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    for part in ["\"TSR403\"", "\"outcome\":\"partial\"", "\"next_index\":1", "\"stored\":1"] {
        assert!(answer.contains(part), "{part} is not in {answer}");
    }
}

/// Waits until the router serves a request about rows.
fn await_active_request(guarded: &Guarded) {
    eventually("the request", || {
        let metrics = guarded.send("GET", "/metrics", Some(admin().reveal())).text();
        let mut lines = metrics.lines();
        let active = lines.find_map(|line| line.strip_prefix("http_server_active_requests "));
        active.is_some_and(|active| active.parse::<f64>() == Ok(1.0)).then_some(())
    });
}

#[test]
fn a_json_body_is_refused_if_its_key_loses_rights_while_it_arrives() {
    let guarded = Guarded::start("on", &[]);
    let path = "/api/access/roles/packer";
    let role = |may: Value| role_for_users("packer", "*", may);
    let body = r#"{"table":"users","records":[{"user_id":"late","name":"N","email":"e"}]}"#;
    for (is_revoked, prefer) in [(true, "tx=per-shard"), (true, ""), (false, "")] {
        served(send(&guarded, "PUT", path, Some(&role(json!(["insert", "update"])))), 200);
        let (id, key) = create(&guarded, &json!({"role": "packer"}));
        let mut stream = begin(&guarded, &key, "POST /api/bulk-write HTTP/1.1");
        let head = format!(
            "content-type: application/json\r\ncontent-length: {}\r\nprefer: {prefer}\r\n\
             x-deadline-ms: 60000\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        await_active_request(&guarded);
        let expected = if is_revoked {
            served(send(&guarded, "DELETE", &format!("{KEYS}/{id}"), None), 200);
            ["HTTP/1.1 401", "\"TSR401\""]
        } else {
            served(send(&guarded, "PUT", path, Some(&role(json!(["insert"])))), 200);
            ["HTTP/1.1 403", "\"TSR403\""]
        };
        stream.write_all(body.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        for part in expected.into_iter().chain(["\"outcome\":\"rejected\""]) {
            assert!(answer.contains(part), "{part} is not in {answer}");
        }
    }
    let rows = guarded.send("GET", READ, Some(admin().reveal())).text();
    assert!(!rows.contains("late"), "{rows}");
}

#[test]
fn a_stream_of_events_ends_when_its_key_is_revoked() {
    let guarded = Guarded::start("on", &[]);
    let role = json!({"role": "viewer", "grants": [], "scopes": ["analytics"]});
    served(send(&guarded, "PUT", "/api/access/roles/viewer", Some(&role)), 200);
    let (id, key) = create(&guarded, &json!({"role": "viewer"}));
    let mut stream = begin(&guarded, &key, "GET /api/analytics/stream HTTP/1.1");
    stream.write_all(b"\r\n").unwrap();
    let mut answer = BufReader::new(stream);
    let mut line = String::new();
    while !line.starts_with("data: ") {
        line.clear();
        assert!(answer.read_line(&mut line).unwrap() > 0, "the stream ended at once");
    }
    served(send(&guarded, "DELETE", &format!("{KEYS}/{id}"), None), 200);
    let mut rest = Vec::new();
    answer.read_to_end(&mut rest).expect("the stream ends in order");
}

pub(super) fn command_line(folder: &Path, arguments: &[&str]) -> commands::Ended {
    let data_dir = folder.join("data");
    let place = ["--data-dir", data_dir.to_str().unwrap()];
    commands::run(&[arguments, &place].concat(), "")
}

#[test]
fn the_command_line_changes_keys_of_a_running_router() {
    files_only!("the commands take the folder of the data");
    let folder = crate::folders::temporary();
    let folder = folder.path();
    write_files(folder);
    let mut router = start_in(folder);
    let made = command_line(folder, &["key", "create", "--role", "reader"]);
    assert_eq!(made.code, Some(0), "{made:?}");
    let key = made.out.trim().to_owned();
    await_status(&router, READ, &key, 200);
    router.end();
    router.wait();
    let router = start_in(folder);
    assert_eq!(status(&router, READ, &key), 200, "a restart keeps keys");
    let id = &key["tsr_".len().."tsr_".len() + 12];
    assert_eq!(command_line(folder, &["key", "revoke", id]).code, Some(0));
    await_status(&router, READ, &key, 401);
}

#[test]
fn a_cluster_with_access_control_is_not_served_without_it() {
    files_only!("the commands take the folder of the data");
    let folder = crate::folders::temporary();
    let folder = folder.path();
    write_files(folder);
    let mut router = start_in(folder);
    router.end();
    router.wait();
    let refused = |mode: &str| {
        let mut command = backend::command(&folder.join("data"), &[]);
        command.args(["--access", mode]);
        refused_start(command)
    };
    for mode in ["off", "observe"] {
        let (code, said) = refused(mode);
        let names = said.contains("--access on") && said.contains("shard-manager access off");
        assert!(code.is_some_and(|code| code != 0) && names, "{mode}: {code:?} {said}");
    }
    let off = command_line(folder, &["access", "off"]);
    assert_eq!(off.code, Some(0), "{off:?}");
    let router = Router::start_in(&folder.join("data"), &[]);
    assert_eq!(router.get("/api/read?table=users").status, 200);
}

#[test]
fn changes_on_one_router_are_in_force_on_another() {
    servers_only!("files have one router");
    let folder = crate::folders::temporary();
    let folder = folder.path();
    let guarded = Guarded::start_in(folder);
    let other = start_in(folder);
    let role = |may: Value| role_for_users("packer", "$tenant", may);
    let path = "/api/access/roles/packer";
    served(send(&guarded, "PUT", path, Some(&role(json!(["read"])))), 200);
    let (id, key) = create(&guarded, &json!({"role": "packer", "tenants": ["acme"]}));
    await_status(&other, READ, &key, 200);
    served(send(&guarded, "PUT", path, Some(&role(json!(["insert"])))), 200);
    await_status(&other, READ, &key, 403);
    served(send(&guarded, "PUT", path, Some(&role(json!(["read"])))), 200);
    await_status(&other, READ, &key, 200);
    served(send(&guarded, "POST", DENIALS, Some(&json!({"tenant": "acme"}))), 201);
    await_status(&other, READ, &key, 401);
    served(send(&guarded, "DELETE", &format!("{DENIALS}?tenant=acme"), None), 200);
    await_status(&other, READ, &key, 200);
    served(send(&guarded, "DELETE", &format!("{KEYS}/{id}"), None), 200);
    await_status(&other, READ, &key, 401);
}
