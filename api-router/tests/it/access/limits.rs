//! Tests of the limits of callers: requests over a limit are refused for a time, and other callers
//! are not affected.

use std::io::Write;

use serde_json::json;

use super::guarded::{Guarded, admin, single, slow};
use crate::harness::{Reply, eventually};

const READ: &str = "/api/read?table=users&shardKey=a";

/// Sends a request once; unlike elsewhere, a refusal because of a limit is returned.
fn read(guarded: &Guarded, text: &str) -> Reply {
    let credentials = format!("Bearer {text}");
    guarded.router.send("GET", READ, &[("authorization", &credentials)], None)
}

#[test]
fn a_caller_over_its_rate_is_refused_until_time_has_passed() {
    let guarded = Guarded::start("on", &[]);
    let (slow, admin) = (slow(), admin());
    let first = read(&guarded, slow.reveal());
    assert_eq!(first.status, 200, "{}", first.text());
    assert_eq!(first.header("ratelimit-policy"), Some("\"requests\";q=3;w=3"));
    assert!(first.header("ratelimit").unwrap().starts_with("\"requests\";r=2;t="));
    let refused = (0..10_000)
        .map(|_| read(&guarded, slow.reveal()))
        .find(|reply| reply.status != 200)
        .expect("the limit is reached");
    assert_eq!((refused.status, &*refused.code()), (429, "TSR429"), "{}", refused.text());
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(refused.header("ratelimit-policy"), Some("\"requests\";q=3;w=3"));
    assert!(refused.header("ratelimit").unwrap().starts_with("\"requests\";r=0;t="));
    assert!(refused.json()["detail"].as_str().unwrap().contains("requests_per_s"));
    let other = read(&guarded, admin.reveal());
    assert_eq!((other.status, other.header("ratelimit")), (200, None));
    // Routes that need no right are not limited.
    for _ in 0..20 {
        assert_eq!(guarded.send("GET", "/live", Some(slow.reveal())).status, 200);
    }
    let row = json!({"table": "users", "data": {"user_id": "a", "name": "N", "email": "e"}});
    let credentials = format!("Bearer {}", slow.reveal());
    let write = || guarded.router.post("/api/write", &[("authorization", &*credentials)], &row);
    let refused =
        (0..10_000).map(|_| write()).find(|reply| reply.status == 429).expect("still limited");
    assert_eq!(refused.json()["outcome"], "rejected", "{}", refused.text());
    eventually("a read after the limit", || {
        (read(&guarded, slow.reveal()).status == 200).then_some(())
    });
    let metrics = guarded.send("GET", "/metrics", Some(admin.reveal())).text();
    assert!(
        metrics.contains("tessera_access_limited_total{limit=\"requests_per_s\"}"),
        "{metrics}"
    );
}

/// A request counts as concurrent until it ends, even if its client closes the connection before.
#[test]
fn a_caller_has_only_so_many_requests_at_once() {
    let guarded = Guarded::start("on", &[]);
    let single = single();
    let head = format!(
        "POST /api/write HTTP/1.1\r\nhost: localhost\r\nx-shard-key: a\r\nx-deadline-ms: 60000\r\n\
         authorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{{",
        single.reveal()
    );
    let begin = || {
        let mut open = guarded.router.connect();
        open.write_all(head.as_bytes()).unwrap();
        open.set_nonblocking(true).unwrap();
        open
    };
    let mut open = begin();
    let refused = eventually("a refused read", || {
        let reply = read(&guarded, single.reveal());
        // The read may have been the one permitted request, so that the other request was refused.
        if reply.status != 429 && open.peek(&mut [0]).is_ok() {
            open = begin();
        }
        Some(reply).filter(|reply| reply.status == 429)
    });
    assert!(
        refused.json()["detail"].as_str().unwrap().contains("concurrent"),
        "{}",
        refused.text()
    );
    drop(open);
    eventually("a place that is given back", || {
        (read(&guarded, single.reveal()).status == 200).then_some(())
    });
    for _ in 0..20 {
        assert_eq!(read(&guarded, single.reveal()).status, 200, "a place is given back");
    }
}
