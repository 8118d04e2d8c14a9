//! Tests of the sessions of browsers: a login, what its cookie permits, and attacks on both.

use serde_json::json;
use shard_manager::access::session::{BrowserSession, SessionSecret};
use shard_manager::access::unix_time::UnixTime;

use super::guarded::{Guarded, Signer, admin, claims, expired, key, now, powerless, watcher};
use crate::backend::{files_only, servers_only};
use crate::harness::{Reply, Router, eventually};

const LOGIN: &str = "/api/session";
const READ: &str = "/api/read?table=users";
const ME: &str = "/api/access/me";
const CLEARED: &str = "tessera_session=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict";

fn login_with(guarded: &Guarded, text: &str, headers: &[(&str, &str)]) -> Reply {
    guarded.send_with("POST", LOGIN, None, headers, Some(&json!({ "key": text })))
}

/// Logs in, and returns the name and value of the cookie that a browser then sends.
fn login(guarded: &Guarded, text: &str) -> String {
    let reply = login_with(guarded, text, &[]);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let cookie = reply.header("set-cookie").unwrap();
    cookie.split(';').next().unwrap().to_owned()
}

fn send(guarded: &Guarded, method: &str, path: &str, cookie: &str) -> Reply {
    guarded.send_with(method, path, None, &[("cookie", cookie)], None)
}

/// Checks that a session is refused as invalid, and that the response deletes its cookie.
fn refused(guarded: &Guarded, cookie: &str) {
    for path in [READ, "/metrics", "/api/analytics/metrics", ME, "/api/health"] {
        let reply = send(guarded, "GET", path, cookie);
        assert_eq!((reply.status, &*reply.code()), (401, "TSR401"), "{path}: {}", reply.text());
        assert_eq!(reply.header("set-cookie"), Some(CLEARED), "{path}");
        assert!(reply.header("www-authenticate").unwrap().contains("invalid_token"), "{path}");
    }
    // A page that everyone may load is not refused because of a cookie.
    assert_eq!(send(guarded, "GET", "/dashboard", cookie).status, 200);
    assert_eq!(send(guarded, "GET", "/live", cookie).status, 200);
}

#[test]
fn a_key_is_exchanged_for_a_cookie_that_reads() {
    let guarded = Guarded::start("on", &[]);
    let reply = login_with(&guarded, admin().reveal(), &[("sec-fetch-site", "same-origin")]);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let answer = reply.json();
    assert_eq!(
        (&answer["id"], &answer["role"]),
        (&json!(admin().id().to_string()), &json!("admin"))
    );
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    let cookie = reply.header("set-cookie").unwrap();
    for part in ["; Path=/", "; Max-Age=3600", "; HttpOnly", "; SameSite=Strict"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(cookie.starts_with("tessera_session=") && !cookie.contains("Secure"), "{cookie}");
    assert!(!reply.text().contains(admin().reveal()) && !cookie.contains(admin().reveal()));
    let cookie = cookie.split(';').next().unwrap();
    for (method, path) in [
        ("GET", READ),
        ("HEAD", READ),
        ("GET", "/metrics"),
        ("GET", "/api/access/keys"),
        ("GET", "/api/analytics/metrics"),
    ] {
        assert_eq!(send(&guarded, method, path, cookie).status, 200, "{method} {path}");
    }
    let caller = send(&guarded, "GET", ME, &format!("theme=dark; {cookie}; x=1")).json();
    assert_eq!((&caller["kind"], &caller["role"]), (&json!("key"), &json!("admin")));
    let out = send(&guarded, "DELETE", LOGIN, cookie);
    assert_eq!((out.status, out.header("set-cookie")), (204, Some(CLEARED)));
    assert_eq!(guarded.send("DELETE", LOGIN, None).status, 204, "without a session, too");
    // The header takes precedence, so that a valid key is not refused because of an old cookie.
    let headers = [("cookie", "tessera_session=x")];
    let both = guarded.send_with("GET", READ, Some(admin().reveal()), &headers, None);
    assert_eq!(both.status, 200, "{}", both.text());
    let both = guarded.send_with("GET", READ, Some("tsr_x"), &[("cookie", cookie)], None);
    assert_eq!(both.status, 401, "a bad key is not replaced by a session");
}

/// A page of another origin can make a browser send cookies, so a session permits no changes.
#[test]
fn a_session_changes_nothing() {
    let guarded = Guarded::start("on", &[]);
    let cookie = login(&guarded, admin().reveal());
    let row = json!({"table": "users", "data": {"user_id": "u", "name": "N", "email": "e"}});
    for (method, path) in [
        ("POST", "/api/write"),
        ("PUT", "/api/kv/a"),
        ("DELETE", "/api/kv/a"),
        ("POST", "/api/bulk-write"),
        ("POST", "/write"),
        ("POST", "/api/tables"),
        ("POST", "/api/access/keys"),
        ("DELETE", &*format!("/api/access/keys/{}", admin().id())),
        ("POST", "/api/access/check"),
    ] {
        let reply = guarded.send_with(method, path, None, &[("cookie", &cookie)], Some(&row));
        let found = (reply.status, &*reply.code());
        assert_eq!(found, (403, "TSR403"), "{method} {path}: {}", reply.text());
        assert!(reply.text().contains("Authorization: Bearer"), "{}", reply.text());
    }
    let patch = guarded.send_with("PATCH", "/api/kv/a", None, &[("cookie", &cookie)], Some(&row));
    assert_eq!(patch.status, 405, "{}", patch.text());
    assert_eq!(send(&guarded, "GET", "/api/kv/a", &cookie).status, 404, "nothing was stored");
}

#[test]
fn a_session_that_was_not_made_here_is_refused() {
    let guarded = Guarded::start("on", &[]);
    let cookie = login(&guarded, admin().reveal());
    let (name, text) = cookie.split_once('=').unwrap();
    let parts: Vec<&str> = text.split('.').collect();
    let [id, ends, generation, code] = parts[..] else { panic!("{text}") };
    let later = ends.parse::<u64>().unwrap() + 3_600;
    let session =
        |key, expires_at| BrowserSession { key, expires_at: UnixTime::from_seconds(expires_at) };
    let other = SessionSecret::new(&[7; SessionSecret::LEN], generation.parse().unwrap());
    for forged in [
        String::new(),
        "x".to_owned(),
        admin().reveal().to_owned(),
        format!("{id}.{later}.{generation}.{code}"),
        format!("{}.{ends}.{generation}.{code}", watcher().id()),
        format!("{id}.{ends}.0.{code}"),
        format!("{id}.{ends}.{generation}."),
        format!("{id}.{ends}.{generation}.{code}="),
        format!("{id}.0{ends}.{generation}.{code}"),
        // This cookie is sealed with the secret of another cluster.
        other.seal(&session(admin().id(), now() + 60)),
        "x".repeat(5_000),
    ] {
        refused(&guarded, &format!("{name}={forged}"));
    }
    // Another site of the same domain may have added a second cookie.
    refused(&guarded, &format!("{cookie}; {name}=x"));
    let reply = send(&guarded, "GET", READ, &format!("__Host-{cookie}"));
    assert_eq!((reply.status, reply.header("set-cookie")), (401, None), "it has no session");
    assert_eq!(send(&guarded, "GET", READ, &cookie).status, 200);
}

/// A browser sends the cookies of all pages of a host, and those of others may have any bytes.
#[test]
fn a_session_is_read_beside_cookies_of_any_bytes() {
    let guarded = Guarded::start("on", &[]);
    let cookie = login(&guarded, admin().reveal());
    let read = |cookies: &[&[u8]]| {
        let head =
            format!("GET {READ} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncookie: ");
        let request = [head.as_bytes(), &cookies.concat()[..], &b"\r\n\r\n"[..]].concat();
        String::from_utf8_lossy(&guarded.router.raw(&request)).into_owned()
    };
    for other in ["name=J\u{f6}rg".as_bytes(), b"name=J\xf6rg"] {
        for cookies in [[other, b"; ", cookie.as_bytes()], [cookie.as_bytes(), b"; ", other]] {
            let served = read(&cookies);
            assert!(served.starts_with("HTTP/1.1 200 "), "{served}");
        }
        let forged = read(&[other, b"; ", cookie.as_bytes(), b"x"]);
        assert!(forged.starts_with("HTTP/1.1 401 "), "{forged}");
        assert!(forged.contains("invalid_token"), "it is not anonymous: {forged}");
    }
}

#[test]
fn a_session_ends_with_its_key() {
    let guarded = Guarded::start("on", &[]);
    let admin = admin();
    let made = guarded.send_with(
        "POST",
        "/api/access/keys",
        Some(admin.reveal()),
        &[],
        Some(&json!({"role": "reader"})),
    );
    let made = made.json();
    let text = made["key"].as_str().unwrap();
    let id = &text["tsr_".len().."tsr_".len() + 12];
    let cookie = login(&guarded, text);
    assert_eq!(send(&guarded, "GET", READ, &cookie).status, 200);
    let path = format!("/api/access/keys/{id}");
    assert_eq!(guarded.send("DELETE", &path, Some(admin.reveal())).status, 200);
    refused(&guarded, &cookie);
    assert_eq!(login_with(&guarded, text, &[]).status, 401);
}

#[test]
fn a_session_has_the_rights_of_its_key() {
    let guarded = Guarded::start("on", &[]);
    let cookie = login(&guarded, powerless().reveal());
    for path in [READ, "/metrics", "/api/analytics/metrics", "/api/access/keys"] {
        let reply = send(&guarded, "GET", path, &cookie);
        assert_eq!((reply.status, &*reply.code()), (403, "TSR403"), "{path}: {}", reply.text());
    }
    let cookie = login(&guarded, watcher().reveal());
    assert_eq!(send(&guarded, "GET", "/api/analytics/metrics", &cookie).status, 200);
    assert_eq!(send(&guarded, "GET", READ, &cookie).status, 403);
    let details = send(&guarded, "GET", "/api/health", &cookie).json();
    assert!(details["shards"].is_array() || details["nodes"].is_array(), "{details}");
}

#[test]
fn only_a_key_in_force_begins_a_session() {
    let guarded = Guarded::start("on", &[]);
    let token = Signer::new().sign(&claims());
    for text in ["", "x", "tsr_", key(99).reveal(), expired().reveal(), &token] {
        let reply = login_with(&guarded, text, &[]);
        assert_eq!((reply.status, &*reply.code()), (401, "TSR401"), "{}", reply.text());
        assert_eq!(reply.header("set-cookie"), None);
        assert!(text.is_empty() || !reply.text().contains(text), "{}", reply.text());
    }
    let of_token = login_with(&guarded, &token, &[]);
    assert!(of_token.text().contains("begins with an API key"), "{}", of_token.text());
    for (body, code) in [
        (json!({}), "TSR101"),
        (json!({"key": 1}), "TSR101"),
        (json!({"key": admin().reveal(), "for": "1d"}), "TSR102"),
        (json!([]), "TSR101"),
    ] {
        let reply = guarded.send_with("POST", LOGIN, None, &[], Some(&body));
        assert_eq!((reply.status, &*reply.code()), (400, code), "{body}: {}", reply.text());
    }
    let plain = guarded.router.send(
        "POST",
        LOGIN,
        &[("content-type", "text/plain")],
        Some(json!({"key": admin().reveal()}).to_string().as_bytes()),
    );
    assert_eq!(plain.status, 415, "a form of another page cannot send JSON: {}", plain.text());
}

#[test]
fn no_foreign_page_begins_a_session() {
    let guarded = Guarded::start("on", &["--cors-origins", "https://app.example.com"]);
    for headers in [
        &[("origin", "https://evil.example")][..],
        &[("origin", "null")],
        &[("sec-fetch-site", "cross-site")],
        &[("origin", "https://app.example.com.evil.example")],
    ] {
        let reply = login_with(&guarded, admin().reveal(), headers);
        let found = (reply.status, &*reply.code());
        assert_eq!(found, (403, "TSR403"), "{headers:?}: {}", reply.text());
        assert_eq!(reply.header("set-cookie"), None);
    }
    // Nor may a page of another origin read with the session of the browser.
    let cookie = login(&guarded, admin().reveal());
    let headers = [("cookie", &*cookie), ("origin", "https://evil.example")];
    assert_eq!(guarded.send_with("GET", READ, None, &headers, None).status, 403);
    let headers = [("cookie", &*cookie), ("origin", "https://app.example.com")];
    let listed = guarded.send_with("GET", READ, None, &headers, None);
    assert_eq!(listed.header("access-control-allow-credentials"), None, "its page sees nothing");
}

#[test]
fn failed_logins_are_limited() {
    let guarded = Guarded::start("on", &[]);
    let body = json!({"key": key(99).reveal()}).to_string();
    let headers = [("content-type", "application/json")];
    let limited = eventually("a login that is limited", || {
        let reply = guarded.router.send("POST", LOGIN, &headers, Some(body.as_bytes()));
        (reply.status == 429).then_some(reply)
    });
    assert!(limited.header("retry-after").is_some(), "{}", limited.text());
    let good = json!({"key": admin().reveal()}).to_string();
    let reply = guarded.router.send("POST", LOGIN, &headers, Some(good.as_bytes()));
    assert_eq!(reply.status, 200, "a good key does not feel it: {}", reply.text());
}

#[test]
fn without_access_control_a_login_is_not_needed() {
    let router = Router::start();
    let body = json!({"key": admin().reveal()}).to_string();
    let headers = [("content-type", "application/json"), ("cookie", "tessera_session=x")];
    let reply = router.send("POST", LOGIN, &headers, Some(body.as_bytes()));
    assert_eq!((reply.status, &*reply.code()), (404, "TSR111"), "{}", reply.text());
    assert!(reply.text().contains("--access on"), "{}", reply.text());
    assert_eq!(router.send("GET", READ, &headers, None).status, 200);
}

#[test]
fn observed_requests_may_log_in_and_change_no_keys_by_it() {
    let guarded = Guarded::start("observe", &[]);
    let cookie = login(&guarded, admin().reveal());
    assert_eq!(send(&guarded, "GET", "/api/access/keys", &cookie).status, 200);
    let body = json!({"role": "admin"});
    let reply =
        guarded.send_with("POST", "/api/access/keys", None, &[("cookie", &cookie)], Some(&body));
    assert_eq!(reply.status, 401, "{}", reply.text());
    assert_eq!(send(&guarded, "GET", READ, "tessera_session=x").status, 200);
}

/// A restart keeps the sessions, because the catalog has their secret.
#[test]
fn sessions_outlive_a_restart() {
    files_only!("the folder is served again");
    let folder = crate::folders::temporary();
    let start = || Guarded::start_in(folder.path());
    let mut guarded = start();
    let cookie = login(&guarded, admin().reveal());
    guarded.router.end();
    guarded.router.wait();
    let guarded = start();
    assert_eq!(send(&guarded, "GET", READ, &cookie).status, 200);
}

#[test]
fn all_routers_of_a_cluster_know_a_session() {
    servers_only!("files have one router");
    let folder = crate::folders::temporary();
    let start = || Guarded::start_in(folder.path());
    let (one, other) = (start(), start());
    let cookie = login(&one, admin().reveal());
    eventually("the session on the other router", || {
        (send(&other, "GET", READ, &cookie).status == 200).then_some(())
    });
}
