//! Tests of writes that do not name the shard key: the router takes it from the routing column of
//! the row.

use serde_json::{Value, json};

use crate::harness::{Reply, Router};

/// Creates a table that is routed by its id, and has another column.
fn make(router: &Router, name: &str, kind: &str) {
    let columns = json!([{"name": "id", "type": kind}, {"name": "n", "type": "bigint"}]);
    let table = json!({"name": name, "columns": columns, "id": ["id"], "routing": "id"});
    let reply = router.post("/api/tables", &[], &table);
    assert_eq!(reply.status, 201, "{}", reply.text());
}

fn write(router: &Router, table: &str, headers: &[(&str, &str)], id: &Value) -> Reply {
    router.post("/api/write", headers, &json!({"table": table, "data": {"id": id, "n": 1}}))
}

fn hint(reply: &Reply) -> String {
    reply.json()["hint"].as_str().unwrap_or("no hint").to_owned()
}

/// Returns each type of a routing column: a value, another spelling of it, and how it is stored.
fn spellings() -> [(&'static str, Value, Value, &'static str); 5] {
    let uuid = "0198c3f2-7f4e-7cc3-9b6d-7e1f5a3c2b10";
    let instant = "2026-11-21T10:00:00.000000Z";
    [
        ("text", json!("042"), json!("042"), "042"),
        ("bigint", json!(42), json!(42), "42"),
        ("uuid", json!(uuid), json!(uuid.to_uppercase()), uuid),
        ("timestamp", json!(instant), json!("2026-11-21T11:00:00+01:00"), instant),
        ("boolean", json!(true), json!(true), "true"),
    ]
}

#[test]
fn a_write_takes_its_shard_key_from_the_routing_column_of_the_row() {
    let router = Router::start();
    for (kind, value, other, stored) in spellings() {
        let table = format!("of_{kind}");
        make(&router, &table, kind);
        let route = router.get(&format!("/api/route?key={stored}")).json();
        let made = write(&router, &table, &[], &value);
        assert_eq!(made.status, 201, "{kind}: {}", made.text());
        assert_eq!(made.json()["shard"], route["shard"], "{kind}");
        assert_eq!(made.header("x-shard-slot"), Some(&*route["slot"].to_string()), "{kind}");
        // All spellings of the key and all kinds of writes lead to the same row.
        assert_eq!(write(&router, &table, &[], &other).status, 200, "{kind}");
        let bulk = json!({"table": table, "records": [{"id": other, "n": 2}]});
        assert_eq!(router.post("/api/bulk-write", &[], &bulk).status, 201, "{kind}");
        let read = router.read(stored, &format!("table={table}")).json();
        assert_eq!((&read["count"], &read["data"][0]["n"]), (&json!(1), &json!(2)), "{kind}");
        let remove = json!({"table": table, "op": "delete", "data": {"id": other}});
        assert_eq!(router.post("/api/write", &[], &remove).status, 200, "{kind}");
    }
    let order = json!({"table": "orders", "data": {"order_id": "o", "user_id": "u", "amount": 1}});
    assert_eq!(router.post("/api/write", &[], &order).status, 201);
    assert_eq!(router.read("u", "table=orders").json()["count"], 1);
}

#[test]
fn a_shard_key_that_is_spelled_otherwise_than_it_is_stored_is_refused_with_the_spelling_to_send() {
    let router = Router::start();
    for (kind, key, stored) in [
        ("bigint", "042", "42"),
        ("bigint", "+42", "42"),
        ("uuid", "0198C3F2-7F4E-7CC3-9B6D-7E1F5A3C2B10", "0198c3f2-7f4e-7cc3-9b6d-7e1f5a3c2b10"),
        ("timestamp", "2026-11-21T11:00:00+01:00", "2026-11-21T10:00:00.000000Z"),
    ] {
        let table = format!("of_{kind}");
        if router.get(&format!("/api/tables/{table}")).status == 404 {
            make(&router, &table, kind);
        }
        let id = if kind == "bigint" { json!(42) } else { json!(key) };
        let absent = json!({"table": table, "data": {"n": 1}});
        let bulk =
            json!({"table": table, "rows": [{"shard_key": key, "data": {"id": id, "n": 1}}]});
        let refused = [
            write(&router, &table, &[("x-shard-key", key)], &id).json(),
            router.post("/api/write", &[("x-shard-key", key)], &absent).json(),
            router.post("/api/bulk-write", &[], &bulk).json()["failed"][0]["error"].clone(),
        ];
        for problem in refused {
            assert_eq!(problem["code"], "TSR103", "{kind} {key}: {problem}");
            let hint = problem["hint"].as_str().unwrap();
            assert!(hint.contains(&format!("send `{stored}` as the shard key")), "{key}: {hint}");
        }
        let accepted = write(&router, &table, &[("x-shard-key", stored)], &id);
        assert!(accepted.status < 300, "{kind} {stored}: {}", accepted.text());
        assert_eq!(router.get(&format!("/api/read?table={table}")).json()["count"], 1, "{kind}");
    }
}

#[test]
fn a_write_without_a_shard_key_is_refused_with_the_ways_to_send_it() {
    let router = Router::start();
    let columns = json!([{"name": "id", "type": "text"}]);
    let table = json!({"name": "anywhere", "columns": columns, "id": ["id"]});
    assert_eq!(router.post("/api/tables", &[], &table).status, 201);
    let write = |body: &Value| router.post("/api/write", &[], body);
    let nowhere = write(&json!({"table": "anywhere", "data": {"id": "a"}}));
    assert_eq!((nowhere.status, &*nowhere.code()), (400, "TSR104"), "{}", nowhere.text());
    assert!(hint(&nowhere).contains("x-shard-key"), "{}", nowhere.text());
    let silent = write(&json!({"table": "users", "data": {"name": "N", "email": "e"}}));
    assert_eq!((silent.status, &*silent.code()), (400, "TSR104"), "{}", silent.text());
    assert!(hint(&silent).contains("user_id"), "{}", silent.text());
    for unfit in [json!(null), json!(7), json!(["a"]), json!({})] {
        let reply = write(
            &json!({"table": "users", "data": {"user_id": unfit, "name": "N", "email": "e"}}),
        );
        assert_eq!((reply.status, &*reply.code()), (400, "TSR312"), "{unfit}: {}", reply.text());
        assert_eq!(reply.json()["outcome"], "rejected");
    }
    for no_key in ["", "a\u{7}b", &"k".repeat(257)] {
        let data = json!({"user_id": no_key, "name": "N", "email": "e"});
        let reply = write(&json!({"table": "users", "data": data}));
        assert_eq!((reply.status, &*reply.code()), (400, "TSR101"), "{no_key:?}");
    }
    assert_eq!(router.get("/api/read?table=users").json()["count"], 0);
}
