//! Test of the alert for a failed rebalance: from a damaged copy of a row, through the router whose
//! move fails, to a rule of the service.

use std::path::Path;

use diesel::connection::SimpleConnection;
use diesel::sql_types::BigInt;
use diesel::{Connection, RunQueryDsl, SqliteConnection};
use serde_json::{Value, json};

use crate::eventually;
use crate::http::{self, Answer};
use crate::ringing::{alerts, await_state, service_of};
use crate::router::Router;

const RULE: &str =
    "[[alert]]\nname = \"failed\"\nkind = \"rebalance_failed\"\nfor = \"0s\"\nclear_for = \"0s\"\n";
/// Placement in which the first shard has 64 slots too many, which are the slots of one move.
const PLACEMENT: &str = "manual:0-8255=shard1,8256-16383=shard2";
const ROWS: usize = 8;

fn post(router: &Router, path: &str, body: &Value) -> Answer {
    let headers = [("Content-Type", "application/json"), ("x-deadline-ms", "60000")];
    http::send(router.address, ("POST", path), &headers, &body.to_string()).unwrap()
}

/// Begins a rebalance, and returns its path.
fn begin(router: &Router, body: &Value) -> String {
    let reply = post(router, "/api/rebalance", body);
    assert_eq!(reply.status, 202, "{}", reply.text());
    format!("/api/rebalance/{}", reply.json()["id"].as_str().unwrap())
}

/// Waits until a rebalance has ended, and returns it.
fn ended(router: &Router, path: &str) -> Value {
    eventually("the rebalance ends", || {
        let shown = http::get(router.address, path).json();
        Some(shown).filter(|shown| !shown["ended_at"].is_null())
    })
}

/// Finds a key whose slot is in these ranges of slots.
fn key_in(router: &Router, slots: &str) -> String {
    let has = |range: &str, slot: u64| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u64, u64) = (first.parse().unwrap(), last.parse().unwrap());
        (first..=last).contains(&slot)
    };
    let is_there = |key: &String| {
        let route = http::get(router.address, &format!("/api/route?key={key}")).json();
        let slot = route["slot"].as_u64().unwrap();
        slots.split(',').any(|range| has(range, slot))
    };
    let mut keys = (0..100_000).map(|number| format!("key_{number}"));
    keys.find(is_there).expect("one of many keys has one of the slots")
}

/// Writes so many rows of a key that copying them takes more than one round.
fn write_large(router: &Router, key: &str) {
    let note = "v".repeat(1 << 20);
    let headers = [("Content-Type", "application/json"), ("x-shard-key", key)];
    for row in 0..ROWS {
        let order = format!("order_{row}");
        let data = json!({"order_id": order, "user_id": key, "amount": 1, "note": note});
        let body = json!({"table": "orders", "data": data}).to_string();
        let reply = http::send(router.address, ("POST", "/api/write"), &headers, &body).unwrap();
        assert!(reply.status < 300, "{}", reply.text());
    }
}

/// Waits until the target's database file has rows, and damages them directly in the file.
fn damage_copy(file: &Path) {
    let mut target = SqliteConnection::establish(file.to_str().unwrap()).unwrap();
    target.batch_execute("PRAGMA busy_timeout=10000").unwrap();
    eventually("a row is copied", || {
        let copied = diesel::dsl::sql::<BigInt>("SELECT count(*) FROM orders");
        let copied: i64 = copied.get_result(&mut target).unwrap();
        (copied > 0).then_some(())
    });
    target.batch_execute("UPDATE orders SET note = 'damaged'").unwrap();
}

/// Returns the number of rows of a key that a query with this filter finds.
fn count(router: &Router, key: &str, filter: &str) -> usize {
    let path = format!("/api/read?table=orders&shardKey={key}&select=order_id{filter}");
    let read = http::get(router.address, &path);
    assert_eq!(read.status, 200, "{}", read.text());
    read.json()["data"].as_array().unwrap().len()
}

#[test]
fn an_alert_fires_when_a_move_of_a_rebalance_fails_and_is_resolved_by_the_next_rebalance() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let place = ["--data-dir", data.to_str().unwrap(), "--placement", PLACEMENT];
    let size = ["--shards", "2", "--replicas", "0", "--operate"];
    let arguments = [&place[..], &size].concat();
    let router = Router::serve(&folder.path().join("router"), "127.0.0.1:0", &arguments);
    let (_folder, service) = service_of(&router.url(), RULE);
    assert_eq!(await_state(&service, "quiet")["alerts"], json!([]));
    let plan = post(&router, "/api/rebalance", &json!({"dry_run": true})).json();
    assert_eq!((&plan["slots"], &plan["refusals"]), (&json!(64), &json!([])), "{plan}");
    let key = key_in(&router, plan["moves"][0]["slots"].as_str().unwrap());
    write_large(&router, &key);
    let path = begin(&router, &json!({"rate": 1, "keep": 0}));
    damage_copy(&data.join("shard2-primary.db"));
    let failed = ended(&router, &path);
    assert_eq!((&failed["state"], &failed["failed_count"]), (&json!("failed"), &json!(1)));
    let reason = failed["reason"].as_str().unwrap();
    let start = "1 of 1 moves did not take place, the first because: the copy of orders differs";
    assert!(reason.starts_with(start), "{reason}");
    let firing = await_state(&service, "firing");
    let alert = &firing["alerts"][0];
    assert_eq!((&alert["rule"], &alert["shard"]), (&json!("failed"), &json!(null)));
    assert_eq!((&alert["value"], &alert["unit"]), (&json!(1.0), &json!("failed")));
    assert_eq!(alerts(&service)["rules"][0]["state"], "firing", "it goes on after the end");
    let path = begin(&router, &json!({"keep": 0}));
    let recent = await_state(&service, "quiet")["recent"].clone();
    assert_eq!((&recent[0]["rule"], &recent[0]["state"]), (&json!("failed"), &json!("resolved")));
    assert_eq!(ended(&router, &path)["state"], "done");
    assert_eq!((count(&router, &key, ""), count(&router, &key, "&note=eq.damaged")), (ROWS, 0));
}
