//! Tests of CORS: listed origins are permitted exactly, and all others are refused.

use super::guarded::{Guarded, admin};

const APP: &str = "https://app.example.com";
const READ: &str = "/api/read?table=users";

#[test]
fn a_page_of_a_listed_origin_is_served_and_no_other() {
    let listed = format!("{APP},http://localhost:5173");
    let guarded = Guarded::start("on", &["--cors-origins", &listed]);
    let admin = admin();
    let cross = [("origin", APP), ("sec-fetch-site", "cross-site")];
    let reply = guarded.send_with("GET", READ, Some(admin.reveal()), &cross, None);
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("access-control-allow-origin"), Some(APP));
    assert_eq!(reply.header("access-control-allow-credentials"), None);
    let shown = reply.header("access-control-expose-headers").unwrap();
    for name in ["content-range", "location", "ratelimit", "x-session-token"] {
        assert!(shown.split(", ").any(|header| header == name), "{name}: {shown}");
    }
    // The page may read a refusal, too.
    let refused = guarded.send_with("GET", READ, None, &cross, None);
    assert_eq!(refused.status, 401);
    assert_eq!(refused.header("access-control-allow-origin"), Some(APP));
    for origin in [
        "null",
        "https://app.example.com.evil.example",
        "https://evil-app.example.com",
        "https://app.example.com:444",
        "http://app.example.com",
        "https://APP.example.com",
        "https://app.example.com/",
    ] {
        let reply =
            guarded.send_with("GET", READ, Some(admin.reveal()), &[("origin", origin)], None);
        assert_eq!((reply.status, &*reply.code()), (403, "TSR403"), "{origin}: {}", reply.text());
        assert_eq!(reply.header("access-control-allow-origin"), None, "{origin}");
        assert!(varies(&reply), "{origin}");
    }
    assert!(varies(&guarded.send("GET", READ, Some(admin.reveal()))));
    let rebound = [("origin", APP), ("host", "evil.example")];
    let reply = guarded.send_with("GET", READ, Some(admin.reveal()), &rebound, None);
    assert_eq!(reply.status, 403, "the name of another host");
}

fn varies(reply: &crate::harness::Reply) -> bool {
    reply.headers.get_all("vary").iter().any(|value| value == "Origin")
}

#[test]
fn a_preflight_needs_no_key() {
    let guarded = Guarded::start("on", &["--cors-origins", APP]);
    let preflight = |origin: &str| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization,content-type"),
        ];
        guarded.router.send("OPTIONS", "/api/write", &headers, None)
    };
    let reply = preflight(APP);
    assert_eq!(reply.status, 204, "{}", reply.text());
    assert_eq!(reply.header("access-control-allow-origin"), Some(APP));
    assert!(reply.header("access-control-allow-methods").unwrap().contains("POST"));
    let allowed = reply.header("access-control-allow-headers").unwrap();
    for name in ["authorization", "content-encoding", "content-type", "tracestate"] {
        assert!(allowed.split(", ").any(|header| header == name), "{name}: {allowed}");
    }
    assert_eq!(reply.header("access-control-allow-credentials"), None);
    let foreign = preflight("https://other.example");
    assert_eq!((foreign.status, &*foreign.code()), (403, "TSR403"));
    assert_eq!(foreign.header("access-control-allow-origin"), None);
    let plain = guarded.router.send("OPTIONS", "/api/write", &[], None);
    assert_eq!(plain.status, 405, "no browser asks");
}
