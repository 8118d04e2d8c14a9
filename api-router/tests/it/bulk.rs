//! Tests of `POST /api/bulk-write`: both forms of the body, an outcome for each row, limits, order.

use serde_json::{Value, json};

use crate::client::{settle, tokenless};
use crate::harness::{Reply, Router};

fn bulk(router: &Router, body: &Value) -> Reply {
    router.post("/api/bulk-write", &[], body)
}

fn user(key: &str) -> Value {
    json!({"user_id": key, "name": format!("name of {key}"), "email": "e"})
}

fn users(keys: impl Iterator<Item = String>) -> Vec<Value> {
    keys.map(|key| user(&key)).collect()
}

/// Returns index, code, outcome and `retryable` of each failed row.
fn failures(answer: &Value) -> Vec<(u64, String, String, bool)> {
    let failed = answer["failed"].as_array().unwrap().iter();
    failed
        .map(|row| {
            assert_eq!(row["error"]["outcome"], row["outcome"], "{row}");
            assert_eq!(row["error"]["retryable"], row["retryable"], "{row}");
            assert!(!row["error"]["detail"].as_str().unwrap().is_empty(), "{row}");
            (
                row["index"].as_u64().unwrap(),
                row["error"]["code"].as_str().unwrap().to_owned(),
                row["outcome"].as_str().unwrap().to_owned(),
                row["retryable"].as_bool().unwrap(),
            )
        })
        .collect()
}

fn rejected(expected: &[(u64, &str)]) -> Vec<(u64, String, String, bool)> {
    let rows = expected.iter();
    rows.map(|(index, code)| (*index, (*code).to_owned(), "rejected".to_owned(), false)).collect()
}

#[test]
fn rows_of_both_shapes_are_stored_where_their_keys_belong() {
    let router = Router::shared();
    let rows: Vec<Value> = (0..30)
        .map(|n| json!({"shard_key": format!("r{n}"), "data": user(&format!("r{n}"))}))
        .collect();
    let shapes = [
        json!({"table": "users", "op": "upsert", "rows": rows}),
        json!({"table": "users", "records": users((0..30).map(|n| format!("s{n}")))}),
        json!({"table": "users", "data": users((0..30).map(|n| format!("t{n}")))}),
    ];
    for body in shapes {
        let reply = bulk(&router, &body);
        assert_eq!(reply.status, 201, "{}", reply.text());
        let answer = reply.json();
        assert_eq!(answer["success"], true);
        assert_eq!((&answer["accepted"], &answer["stored"]), (&json!(30), &json!(30)));
        assert_eq!((&answer["failed_total"], &answer["failed"]), (&json!(0), &json!([])));
        assert!(answer["elapsed_ms"].is_u64(), "{answer}");
        let rows = answer["shards"].as_array().unwrap().iter().map(|s| s["rows"].as_u64().unwrap());
        assert_eq!(rows.sum::<u64>(), 30);
        assert_eq!(reply.header("x-epoch"), Some("1"));
        assert!(reply.header("x-request-id").is_some() && reply.header("server-timing").is_some());
    }
    for key in ["r0", "s17", "t29"] {
        let read = router.read(key, "table=users").json();
        let route = router.get(&format!("/api/route?key={key}")).json();
        assert_eq!(read["data"][0]["name"], format!("name of {key}"));
        assert_eq!(read["shards"], json!([route["shard"]]));
    }
}

#[test]
fn every_failed_row_is_listed_by_its_index() {
    let router = Router::shared();
    router.write_user("there", "Ada");
    let rows = json!([
        {"shard_key": "ok1", "data": user("ok1")},
        {"shard_key": "other", "data": user("x")},
        {"shard_key": "a", "data": {"user_id": "a", "name": "no email"}},
        {"shard_key": "b", "data": {"user_id": "b", "name": 5, "email": "e"}},
        {"shard_key": "there", "data": user("there")},
        {"data": {"name": "no key", "email": "e"}},
        {"shard_key": "c", "data": {"user_id": "c", "nmae": "N", "email": "e"}},
        {"shard_key": "", "data": user("d")},
        {"shard_key": "e", "data": user("e"), "extra": 1},
        {"shard_key": "f"},
        "no object",
        null,
        {"shard_key": 7, "data": user("7")},
        {"shard_key": "ok2", "data": user("ok2")},
        {"shard_key": "g", "data": {"user_id": "g", "name": "\u{0}", "email": "e"}},
        {"shard_key": "h", "data": {"user_id": "h", "name": "N", "email": "e", "version": 1}},
    ]);
    let reply = bulk(&router, &json!({"table": "users", "op": "insert", "rows": rows}));
    assert_eq!(reply.status, 207, "{}", reply.text());
    let answer = reply.json();
    assert_eq!(answer["success"], false);
    assert_eq!((&answer["accepted"], &answer["stored"]), (&json!(16), &json!(2)));
    assert_eq!(answer["failed_total"], 14);
    let expected = [
        (1, "TSR103"),
        (2, "TSR101"),
        (3, "TSR312"),
        (4, "TSR301"),
        (5, "TSR104"),
        (6, "TSR311"),
        (7, "TSR101"),
        (8, "TSR102"),
        (9, "TSR101"),
        (10, "TSR101"),
        (11, "TSR101"),
        (12, "TSR101"),
        (14, "TSR312"),
        (15, "TSR102"),
    ];
    assert_eq!(failures(&answer), rejected(&expected));
    let home = router.get("/api/route?key=there").json();
    assert_eq!(answer["failed"][3]["shard"], home["shard"]);
    assert_eq!(router.read("there", "table=users").json()["data"][0]["name"], "Ada");
    let kept = router.get("/api/read?table=users&select=user_id&order=user_id").json();
    assert_eq!(kept["data"], json!([{"user_id": "ok1"}, {"user_id": "ok2"}, {"user_id": "there"}]));
}

#[test]
fn a_routing_column_that_is_no_text_is_named_in_the_error() {
    let router = Router::shared();
    let records = r#"[{"user_id":["a"],"name":"N","email":"e"},{"user_id":{},"name":"N","email":"e"},
        {"user_id":7,"name":"N","email":"e"},{"user_id":"\ud800","name":"N","email":"e"},
        {"user_id":true,"name":"N","email":"e"}]"#;
    let body = format!(r#"{{"table":"users","records":{records}}}"#);
    let headers = [("content-type", "application/json")];
    let reply = router.send("POST", "/api/bulk-write", &headers, Some(body.as_bytes()));
    assert_eq!(reply.status, 207, "{}", reply.text());
    let expected = [0, 1, 2, 3, 4].map(|index| (index, "TSR312"));
    assert_eq!(failures(&reply.json()), rejected(&expected), "{}", reply.text());
    for row in reply.json()["failed"].as_array().unwrap() {
        assert!(row["error"]["detail"].as_str().unwrap().contains("user_id"), "{row}");
    }
}

#[test]
fn the_header_is_only_the_default_key() {
    let router = Router::shared();
    let records = json!([
        {"order_id": "o1", "user_id": "own", "amount": 1},
        {"order_id": "o2", "amount": 2},
    ]);
    let body = json!({"table": "orders", "records": records});
    let reply = router.post("/api/bulk-write", &[("x-shard-key", "fallback")], &body);
    assert_eq!(reply.status, 201, "{}", reply.text());
    let own = router.read("own", "table=orders&select=order_id,user_id").json();
    assert_eq!(own["data"], json!([{"order_id": "o1", "user_id": "own"}]));
    let fallback = router.read("fallback", "table=orders&select=order_id,user_id").json();
    assert_eq!(fallback["data"], json!([{"order_id": "o2", "user_id": "fallback"}]));

    let wrapped = json!([{"data": {"order_id": "o3", "amount": 3}},
        {"shard_key": "third", "data": {"order_id": "o4", "amount": 4}}]);
    let body = json!({"table": "orders", "rows": wrapped});
    assert_eq!(router.post("/api/bulk-write?shardKey=q", &[], &body).status, 201);
    assert_eq!(router.read("q", "table=orders").json()["data"][0]["order_id"], "o3");
    assert_eq!(router.read("third", "table=orders").json()["data"][0]["order_id"], "o4");
}

#[test]
fn rows_of_one_key_are_applied_in_the_order_given() {
    let router = Router::shared();
    let rows: Vec<Value> = (0..600)
        .map(|n| {
            let key = format!("k{}", n % 3);
            json!({"shard_key": key, "data": {"user_id": key, "name": format!("{n}"), "email": "e"}})
        })
        .collect();
    let reply = bulk(&router, &json!({"table": "users", "rows": rows}));
    assert_eq!(reply.json()["stored"], 600, "{}", reply.text());
    for (key, last) in [("k0", "597"), ("k1", "598"), ("k2", "599")] {
        let read = router.read(key, "table=users").json();
        assert_eq!((&read["count"], &read["data"][0]["name"]), (&json!(1), &json!(last)));
    }
    // The first insert of an id succeeds, the others fail.
    let rows: Vec<Value> =
        (0..5).map(|n| json!({"user_id": "x", "name": format!("{n}"), "email": "e"})).collect();
    let answer = bulk(&router, &json!({"table": "users", "op": "insert", "records": rows})).json();
    assert_eq!(failures(&answer), rejected(&[1, 2, 3, 4].map(|index| (index, "TSR301"))));
    assert_eq!(router.read("x", "table=users").json()["data"][0]["name"], "0");
}

#[test]
fn every_operation_works_in_bulk() {
    let router = Router::shared();
    let rows = users((0..4).map(|n| format!("u{n}")));
    let ids: Vec<Value> = (0..5).map(|n| json!({"user_id": format!("u{n}")})).collect();
    let body = |op: &str, rows: &[Value]| json!({"table": "users", "op": op, "records": rows});
    assert_eq!(bulk(&router, &body("insert", &rows)).status, 201);
    let renamed: Vec<Value> =
        (0..5).map(|n| json!({"user_id": format!("u{n}"), "name": "renamed"})).collect();
    let answer = bulk(&router, &body("update", &renamed)).json();
    assert_eq!(failures(&answer), rejected(&[(4, "TSR302")]));
    let read = router.get("/api/read?table=users&name=eq.renamed&select=email").json();
    assert_eq!(
        read["data"],
        json!([{"email": "e"}, {"email": "e"}, {"email": "e"}, {"email": "e"}])
    );
    let answer = bulk(&router, &body("delete", &ids)).json();
    assert_eq!(failures(&answer), rejected(&[(4, "TSR302")]));
    assert_eq!(router.get("/api/read?table=users").json()["count"], 0);
}

#[test]
fn ten_thousand_rows_are_taken_and_one_more_is_not() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let router = Router::start();
    let mut rows = users((0..10_001).map(|n| format!("user_{n}")));
    let reply = bulk(&router, &json!({"table": "users", "records": rows}));
    assert_eq!((reply.status, &*reply.code()), (413, "TSR108"), "{}", reply.text());
    assert_eq!(reply.json()["outcome"], "rejected");
    let hint = reply.json()["hint"].as_str().unwrap_or_default().to_owned();
    assert!(hint.contains("several requests") && hint.contains("application/x-ndjson"), "{hint}");
    assert_eq!(router.get("/api/read?table=users&limit=1").json()["count"], 0);
    rows.pop();
    let headers = [("x-deadline-ms", "60000")];
    let reply =
        router.post("/api/bulk-write", &headers, &json!({"table": "users", "records": rows}));
    assert_eq!(reply.status, 201, "{}", reply.text());
    let answer = reply.json();
    assert_eq!((&answer["accepted"], &answer["stored"]), (&json!(10_000), &json!(10_000)));
    assert_eq!(answer["shards"].as_array().unwrap().len(), 3);
    for key in ["user_0", "user_4999", "user_9999"] {
        assert_eq!(router.read(key, "table=users").json()["count"], 1, "{key}");
    }
}

#[test]
fn the_first_thousand_failures_are_listed_and_all_are_counted() {
    let router = Router::start();
    let rows: Vec<Value> =
        (0..1_500).map(|n| json!({"user_id": format!("u{n}"), "name": n})).collect();
    let answer = bulk(&router, &json!({"table": "users", "records": rows})).json();
    assert_eq!((&answer["failed_total"], &answer["stored"]), (&json!(1_500), &json!(0)));
    let failed = failures(&answer);
    let expected: Vec<(u64, &str)> = (0..1_000).map(|index| (index, "TSR312")).collect();
    assert_eq!(failed, rejected(&expected));
}

#[test]
fn a_body_that_is_no_bulk_write_is_refused_as_a_whole() {
    let router = Router::shared();
    let row = json!({"shard_key": "a", "data": user("a")});
    let cases = [
        (json!({"rows": [row]}), 400, "TSR101"),
        (json!({"table": "users"}), 400, "TSR101"),
        (json!({"table": "users", "rows": []}), 400, "TSR101"),
        (json!({"table": "users", "rows": {}}), 400, "TSR101"),
        (json!({"table": "users", "rows": [row], "records": []}), 400, "TSR101"),
        (json!({"table": "users", "rows": [row], "op": "replace"}), 400, "TSR101"),
        (json!({"table": "users", "rows": [row], "op": 1}), 400, "TSR101"),
        (json!({"table": "users", "rows": [row], "shardKey": "a"}), 400, "TSR102"),
        (json!({"table": "users", "row": [row]}), 400, "TSR102"),
        (json!({"table": "user", "rows": [row]}), 404, "TSR310"),
        (json!([row]), 400, "TSR101"),
    ];
    for (body, status, code) in cases {
        let reply = bulk(&router, &body);
        assert_eq!((reply.status, &*reply.code()), (status, code), "{body}: {}", reply.text());
        assert_eq!(reply.json()["outcome"], "rejected");
    }
    assert_eq!(router.get("/api/read?table=users").json()["count"], 0);
}

#[test]
fn a_bulk_write_without_rows_names_each_member_that_may_have_them() {
    let router = Router::shared();
    let row = user("a");
    for body in [json!({"table": "users"}), json!({"table": "users", "data": [row], "rows": []})] {
        let detail = bulk(&router, &body).json()["detail"].clone();
        assert_eq!(detail, "exactly one of rows, records and data must be given", "{body}");
    }
}

#[test]
fn members_of_a_json_body_are_refused_as_parameters_and_headers() {
    let router = Router::shared();
    let body = json!({"table": "users", "records": [user("a")]});
    let reply = router.post("/api/bulk-write?table=users&op=upsert", &[], &body);
    assert_eq!((reply.status, &*reply.code()), (400, "TSR100"), "{}", reply.text());
    for (name, value) in [("if-match", "\"1\""), ("if-none-match", "*")] {
        let reply = router.post("/api/bulk-write", &[(name, value)], &body);
        assert_eq!((reply.status, &*reply.code()), (400, "TSR113"), "{}", reply.text());
    }
    assert_eq!(router.get("/api/read?table=users").json()["count"], 0);
}

/// Millions of items or members are refused at the first one over the limit, before all are in
/// memory.
#[test]
fn lists_and_objects_without_end_are_refused_early() {
    let router = Router::shared();
    let json = [("content-type", "application/json")];
    let numbers = format!(r#"{{"table":"users","rows":[{}0]}}"#, "0,".repeat(5_000_000));
    let reply = router.send("POST", "/api/bulk-write", &json, Some(numbers.as_bytes()));
    assert_eq!((reply.status, &*reply.code()), (413, "TSR108"), "{}", reply.text());
    let members = format!("{{{}\"b\":0}}", "\"a\":0,".repeat(2_000_000));
    let reply = router.send("POST", "/api/bulk-write", &json, Some(members.as_bytes()));
    assert_eq!((reply.status, &*reply.code()), (400, "TSR101"), "{}", reply.text());
}

/// A bulk write to one shard is recorded as a request of that shard; one to several shards has no
/// shard.
#[test]
fn a_bulk_write_to_one_shard_counts_as_that_shards_request() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let router = Router::start();
    let rows = |keys: &[&str]| {
        let row = |key: &&str| json!({"user_id": key, "name": "N", "email": "e"});
        json!({"table": "users", "records": keys.iter().map(row).collect::<Vec<_>>()})
    };
    assert_eq!(router.post("/api/bulk-write", &[], &rows(&["a", "a"])).status, 201);
    let many: Vec<String> = (0..50).map(|n| format!("k{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(router.post("/api/bulk-write", &[], &rows(&many)).status, 201);
    let metrics = router.get("/api/analytics/metrics").json()["metrics"].clone();
    let shard = router.get("/api/route?key=a").json()["shard"].as_str().unwrap().to_owned();
    assert_eq!((&metrics["total"], &metrics["unassigned"]), (&json!(2), &json!(1)), "{metrics}");
    assert_eq!(metrics["shardDistribution"][shard], 1, "{metrics}");
}

#[test]
fn a_json_null_in_csv_is_stored_as_null_on_every_node() {
    let router = Router::start();
    let first = "product_id,name,price,stock,attributes";
    let lines = format!("{first}\np1,N,1,1,null\np2,N,1,1, null \np3,N,1,1,\n");
    let csv = [("content-type", "text/csv")];
    let path = "/api/bulk-write?table=products";
    let reply = router.send("POST", path, &csv, Some(lines.as_bytes()));
    assert_eq!((reply.status, &reply.json()["stored"]), (201, &json!(3)), "{}", reply.text());
    settle(&router);
    for level in ["one", "all"] {
        let headers = [("x-consistency", level)];
        let query = "table=products&attributes=is.null&order=product_id&select=product_id";
        let read = tokenless(&router).read_with(None, &headers, query).json();
        let ids = json!([{"product_id": "p1"}, {"product_id": "p2"}, {"product_id": "p3"}]);
        assert_eq!(read["data"], ids, "{level}");
    }
}
