//! Tests of callers that share a shard: one of them cannot fill its queue while another one waits.

use std::thread;

use serde_json::{Value, json};

use super::guarded::{Guarded, admin, bound};
use crate::backend::not_on_citus;
use crate::client::user_op;
use crate::harness::{Reply, eventually};

/// Size of a large row in bytes. Seventeen of them are less than half of the 64 MiB of a queue, and
/// eighteen are more.
const LARGE: usize = 1_900_000;

fn write(guarded: &Guarded, text: &str, name: &str) -> Reply {
    let credentials = format!("Bearer {text}");
    let headers = [
        ("authorization", &*credentials),
        ("content-type", "application/json"),
        ("x-deadline-ms", "60000"),
    ];
    let body = user_op("upsert", "acme", name).to_string();
    guarded.router.send("POST", "/api/write", &headers, Some(body.as_bytes()))
}

/// Changes the state of the primary of the only shard.
fn set(guarded: &Guarded, wish: &Value) {
    let admin = admin();
    let (path, text) = ("/api/lab/nodes/shard1-primary", Some(admin.reveal()));
    let reply = guarded.send_with("PUT", path, text, &[], Some(wish));
    assert_eq!(reply.status, 200, "{}", reply.text());
}

fn metrics(guarded: &Guarded) -> String {
    guarded.send("GET", "/metrics", Some(admin().reveal())).text()
}

fn until_waiting(guarded: &Guarded, count: usize) {
    let line = format!("tessera_lane_waiting{{shard=\"shard1\"}} {count}");
    let has = || {
        let text = metrics(guarded);
        text.lines().any(|found| found == line || found == format!("{line}.0")).then_some(())
    };
    eventually("writes that wait", has);
}

#[test]
fn a_caller_with_over_half_of_a_queue_is_refused_while_another_waits() {
    not_on_citus!("a shard has several queues there");
    let guarded = Guarded::start("on", &["--lab", "--shards", "1"]);
    let (many, few) = (bound(), admin());
    let large = "x".repeat(LARGE);
    set(&guarded, &json!({"state": "paused"}));
    thread::scope(|threads| {
        // The lane processes the first, and the others wait.
        let flood: Vec<_> = (0..18)
            .map(|_| {
                let (guarded, many, large) = (&guarded, &many, &large);
                threads.spawn(move || write(guarded, many.reveal(), large))
            })
            .collect();
        until_waiting(&guarded, 18);
        let other = {
            let (guarded, few) = (&guarded, &few);
            threads.spawn(move || write(guarded, few.reveal(), "small"))
        };
        until_waiting(&guarded, 19);
        let refused = write(&guarded, many.reveal(), &large);
        assert_eq!((refused.status, &*refused.code()), (429, "TSR429"), "{}", refused.text());
        assert_eq!(refused.header("retry-after"), Some("1"));
        let answer = refused.json();
        assert_eq!((&answer["outcome"], &answer["shard"]), (&json!("rejected"), &json!("shard1")));
        let text = metrics(&guarded);
        assert!(text.contains("tessera_access_limited_total{limit=\"lane\"} 1\n"), "{text}");
        set(&guarded, &json!({"state": "running"}));
        for written in flood.into_iter().chain([other]) {
            let reply = written.join().unwrap();
            assert_eq!(reply.status / 100, 2, "{}", reply.text());
        }
    });
    let again = write(&guarded, many.reveal(), &large);
    assert_eq!(again.status / 100, 2, "no other request waits: {}", again.text());
}
