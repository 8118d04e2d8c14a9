//! Test of the alert for a move that makes no progress: from an unreachable replica, through the
//! router that carries out the move, to a rule of the service.

use std::time::Duration;

use serde_json::{Value, json};

use crate::http::{self, Answer};
use crate::ringing::{alerts, await_state, service_of};
use crate::router::Router;
use crate::{eventually, eventually_within};

/// Longest wait for the alert: a move is stalled after a minute without progress.
const FIRES_WITHIN: Duration = Duration::from_secs(120);
const REASON: &str = "it waits until a majority of each shard's nodes follows its primary";
const RULE: &str =
    "[[alert]]\nname = \"stuck\"\nkind = \"move_stalled\"\nfor = \"0s\"\nclear_for = \"0s\"\n";

fn send(router: &Router, method: &str, path: &str, body: &Value) -> Answer {
    let headers = [("Content-Type", "application/json"), ("x-shard-key", "ada")];
    // Only requests for rows have the header with the shard key.
    let headers = if path == "/api/write" { &headers[..] } else { &headers[..1] };
    http::send(router.address, (method, path), headers, &body.to_string()).unwrap()
}

/// Sets the state of a node. The state is in effect when the function returns.
fn set(router: &Router, node: &str, state: &str) {
    let reply = send(router, "PUT", &format!("/api/lab/nodes/{node}"), &json!({"state": state}));
    assert_eq!((reply.status, &reply.json()["state"]), (200, &json!(state)), "{}", reply.text());
}

/// Writes so many rows that copying them takes more than one round, and begins a move whose rate is
/// so low that it pauses for seconds after each round. Returns the path of the move, and the name
/// of its target.
fn begin_slow(router: &Router) -> (String, &'static str) {
    let note = "v".repeat(1 << 20);
    for row in 0..8 {
        let order = format!("order_{row}");
        let data = json!({"order_id": order, "user_id": "ada", "amount": 1, "note": note});
        let reply = send(router, "POST", "/api/write", &json!({"table": "orders", "data": data}));
        assert!(reply.status < 300, "{}", reply.text());
    }
    let from = http::get(router.address, "/api/route?key=ada").json()["shard"].clone();
    let to = if from == "shard1" { "shard2" } else { "shard1" };
    // A move begins only when the replicas follow their primaries.
    let begun = eventually("the move begins", || {
        let body = json!({"key": "ada", "to": to, "rate": 1});
        let reply = send(router, "POST", "/api/moves", &body);
        (reply.status == 202).then(|| reply.json())
    });
    (format!("/api/moves/{}", begun["id"].as_str().unwrap()), to)
}

fn order(router: &Router, path: &str, order: &str) {
    let address = router.address;
    let reply = http::send(address, ("POST", &*format!("{path}/{order}")), &[], "").unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
}

#[test]
fn an_alert_fires_while_a_move_makes_no_progress_and_is_resolved_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--lab", "--operate", "--replicas", "1"];
    let router = Router::serve(&folder.path().join("router"), "127.0.0.1:0", &arguments);
    let (_folder, service) = service_of(&router.url(), RULE);
    assert_eq!(await_state(&service, "quiet")["alerts"], json!([]));
    let (path, to) = begin_slow(&router);
    // The move is paused, so that it cannot finish before the replica of its target is unreachable.
    order(&router, &path, "pause");
    let replica = format!("{to}-replica1");
    set(&router, &replica, "cut");
    order(&router, &path, "resume");
    let show = || http::get(router.address, &path).json();
    let firing = eventually_within(FIRES_WITHIN, "the alert fires", || {
        Some(alerts(&service)).filter(|reported| reported["rules"][0]["state"] == "firing")
    });
    let alert = &firing["alerts"][0];
    assert_eq!((&alert["rule"], &alert["unit"]), (&json!("stuck"), &json!("stalled")));
    let stalled = show();
    assert_eq!((&stalled["stalled"], &stalled["paused"]), (&json!(true), &json!(false)));
    assert_eq!((&stalled["reason"], &stalled["owned_at"]), (&json!(REASON), &Value::Null));
    let metrics = http::get(router.address, "/metrics").text();
    assert!(metrics.contains("tessera_move_stalled 1"), "{metrics}");
    set(&router, &replica, "running");
    let arrived =
        eventually("the move goes on", || Some(show()).filter(|shown| shown["phase"] == "keeping"));
    assert_eq!(arrived["stalled"], false, "{arrived}");
    let recent = await_state(&service, "quiet")["recent"].clone();
    assert_eq!((&recent[0]["rule"], &recent[0]["state"]), (&json!("stuck"), &json!("resolved")));
}
