//! Tests of `GET /api/distribution`: how evenly rows are distributed over the shards.

use serde_json::{Value, json};

use crate::client::keys_on;
use crate::harness::Router;
use crate::tables::{made, write};

#[test]
fn the_distribution_has_rows_bytes_and_skew() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let router = Router::start();
    let empty = router.get("/api/distribution?table=users").json();
    assert_eq!((&empty["rows"], &empty["skew"]), (&json!(0), &json!(1.0)));
    assert_eq!(empty["shards"][0]["share"], 0.0);
    let records: Vec<Value> = (0..300)
        .map(|n| json!({"user_id": format!("user_{n}"), "name": "N", "email": "e"}))
        .collect();
    let bulk = json!({"table": "users", "records": records});
    let stored = router.post("/api/bulk-write", &[], &bulk).json();
    let key = keys_on(&router, "shard1", 1).remove(0);
    made(
        &router,
        &json!({"name": "events", "columns": [{"name": "id", "type": "bigint"}], "id": ["id"]}),
    );
    (0..7).for_each(|id| drop(write(&router, "events", &key, &json!({"id": id}))));
    let users = router.get("/api/distribution?table=users").json();
    assert_eq!(
        (&users["table"], &users["rows"], &users["missing"]),
        (&json!("users"), &json!(300), &json!([]))
    );
    let parts: Vec<i64> = stored["shards"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| part["rows"].as_i64().unwrap())
        .collect();
    let most = *parts.iter().max().unwrap();
    assert_eq!(users["skew"].as_f64().unwrap(), (most as f64 / 100.0 * 1e4).round() / 1e4);
    for (part, rows) in users["shards"].as_array().unwrap().iter().zip(&parts) {
        assert_eq!(part["rows"], *rows);
        let share = part["share"].as_f64().unwrap();
        assert!(
            (share - *rows as f64 / 300.0).abs() < 1e-4 && part["bytes"].as_i64() > Some(0),
            "{part}"
        );
    }
    let events = router.get("/api/distribution?table=events").json();
    assert_eq!((&events["skew"], &events["shards"][0]["share"]), (&json!(3.0), &json!(1.0)));
    let all = router.get("/api/distribution").json();
    assert_eq!((&all["table"], &all["rows"]), (&Value::Null, &json!(307)));
    let nope = router.get("/api/distribution?table=uesrs");
    assert_eq!((nope.status, &*nope.code()), (404, "TSR310"), "{}", nope.text());
    assert_eq!(router.get("/api/distribution?tabel=users").code(), "TSR100");
}
