//! Tests of `POST /api/write`: operations, columns that a write leaves unchanged, shard keys that
//! must agree, and values that are read back.

use serde_json::{Value, json};

use crate::harness::{Reply, Router};

fn assert_problem(reply: &Reply, status: u16, code: &str) {
    assert_eq!((reply.status, &*reply.code()), (status, code), "{}", reply.text());
    assert_eq!(reply.json()["outcome"], "rejected", "{}", reply.text());
}

/// Returns the only row of a key.
fn only_row(router: &Router, table: &str, key: &str) -> Value {
    let reply = router.read(key, &format!("table={table}"));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let answer = reply.json();
    assert_eq!(answer["count"], 1, "{answer}");
    answer["data"][0].clone()
}

fn user(op: &str, data: Value) -> Value {
    json!({"table": "users", "op": op, "data": data})
}

#[test]
fn a_write_can_be_read_back_at_once() {
    let router = Router::shared();
    let data = json!({"user_id": "user_123", "name": "John Doe", "email": "john@example.com",
        "partition_key": "A"});
    let written = router.write("user_123", &json!({"table": "users", "data": data}));
    assert_eq!(written.status, 201, "{}", written.text());
    let answer = written.json();
    assert_eq!(answer["success"], true);
    assert_eq!(answer["version"], answer["data"]["version"]);
    for (column, value) in data.as_object().unwrap() {
        assert_eq!(answer["data"][column], *value);
    }
    assert_eq!(only_row(&router, "users", "user_123"), answer["data"]);
    let members: Vec<String> = answer.as_object().unwrap().keys().cloned().collect();
    assert_eq!(members, ["data", "epoch", "shard", "slot", "success", "version"]);
}

#[test]
fn the_headers_of_a_write_name_shard_slot_and_times() {
    let router = Router::shared();
    let written = router.write_user("user_123", "John");
    let (answer, route) = (written.json(), router.get("/api/route?key=user_123").json());
    assert_eq!(written.header("content-type"), Some("application/json"));
    assert_eq!(written.header("x-shard"), answer["shard"].as_str());
    assert_eq!(written.header("x-shard-slot"), Some("3421"));
    assert_eq!(answer["slot"], 3421);
    assert_eq!(written.header("x-epoch"), Some("1"));
    assert_eq!(answer["epoch"], 1);
    assert_eq!(written.header("x-served-by"), Some("primary"));
    assert_eq!(written.header("etag"), Some(&*format!("\"{}\"", answer["version"])));
    assert!(written.header("x-session-token").is_some());
    assert_eq!(written.header("idempotency-replayed"), None);
    assert_eq!(written.header("preference-applied"), None);
    assert_eq!((&answer["shard"], &answer["slot"]), (&route["shard"], &route["slot"]));
    let id = written.header("x-request-id").unwrap();
    assert!(
        (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()),
        "{id}"
    );
    let timing = written.header("server-timing").unwrap();
    let names: Vec<&str> =
        timing.split(", ").map(|part| part.split_once(";dur=").unwrap().0).collect();
    assert_eq!(names, ["route", "queue", "db", "merge"]);
    for part in timing.split(", ") {
        let (_, time) = part.split_once(";dur=").unwrap();
        assert!(time.parse::<f64>().unwrap() >= 0.0, "{timing}");
    }
}

#[test]
fn a_request_id_of_the_client_is_kept() {
    let router = Router::shared();
    let headers = [("x-request-id", "my-id-1"), ("x-shard-key", "a")];
    assert_eq!(
        router.send("GET", "/api/read?table=users", &headers, None).header("x-request-id"),
        Some("my-id-1")
    );
    let refused = router.send("GET", "/api/read?table=nope", &headers, None);
    assert_eq!(refused.header("x-request-id"), Some("my-id-1"));
    assert_eq!(refused.json()["request_id"], "my-id-1");
    let bad = router.send("GET", "/api/health", &[("x-request-id", "two words")], None);
    assert_eq!((bad.status, &*bad.code()), (400, "TSR113"));
}

#[test]
fn each_operation_keeps_its_promise() {
    let router = Router::shared();
    let full = json!({"user_id": "u", "name": "Ada", "email": "a@example.com"});
    let id = json!({"user_id": "u"});
    let changed = json!({"user_id": "u", "name": "Bo"});

    assert_problem(&router.write("u", &user("update", changed.clone())), 404, "TSR302");
    assert_problem(&router.write("u", &user("delete", id.clone())), 404, "TSR302");
    assert_eq!(router.write("u", &user("insert", full.clone())).status, 201);
    assert_problem(&router.write("u", &user("insert", full.clone())), 409, "TSR301");
    assert_eq!(router.write("u", &user("update", changed)).status, 200);
    assert_eq!(only_row(&router, "users", "u")["name"], "Bo");
    assert_eq!(router.write("u", &user("upsert", full.clone())).status, 200);
    assert_eq!(only_row(&router, "users", "u")["name"], "Ada");
    let removed = router.write("u", &user("delete", id.clone()));
    assert_eq!((removed.status, &removed.json()["data"]["name"]), (200, &json!("Ada")));
    assert_eq!(router.read("u", "table=users").json()["count"], 0);
    assert_problem(&router.write("u", &user("delete", id)), 404, "TSR302");
    assert_eq!(router.write("u", &user("upsert", full)).status, 201);
}

#[test]
fn a_row_that_is_written_in_parts_grows_up_to_its_limit_and_not_beyond() {
    let router = Router::start();
    let column = |name: &str| json!({"name": name, "type": "text", "null": name != "id"});
    let columns = ["id", "one", "two", "three"].map(column);
    let table = json!({"name": "scrolls", "columns": columns, "id": ["id"], "routing": "id"});
    assert_eq!(router.post("/api/tables", &[], &table).status, 201);
    let write = |op: &str, column: &str, text: &str| {
        let mut data = json!({"id": "s"});
        data[column] = json!(text);
        router.write("s", &json!({"table": "scrolls", "op": op, "data": data}))
    };
    let half = "x".repeat(3 << 19);
    assert_eq!(write("upsert", "one", &half).status, 201);
    assert_eq!(write("upsert", "two", &half[..half.len() - 100]).status, 200);
    let read = || {
        let headers = [("x-shard-key", "s"), ("x-consistency", "all")];
        router.send("GET", "/api/read?table=scrolls", &headers, None).json()["data"][0].clone()
    };
    let before = read();
    assert_eq!(before["one"].as_str(), Some(&*half));
    for op in ["upsert", "update"] {
        let refused = write(op, "two", &half);
        assert_problem(&refused, 413, "TSR108");
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("more than 3 MiB"), "{detail}");
        assert_problem(&write(op, "three", &half), 413, "TSR108");
    }
    assert!(read() == before, "a refused write changes nothing");
    assert_eq!(write("update", "one", "short").status, 200);
    assert_eq!(write("upsert", "three", &half[..half.len() - 100]).status, 200);
}

#[test]
fn a_refused_write_changes_nothing() {
    let router = Router::shared();
    router.write_user("u", "Ada");
    let before = only_row(&router, "users", "u");
    let refused = [
        user("insert", json!({"user_id": "u", "name": "X", "email": "x"})),
        user("upsert", json!({"user_id": "u", "name": null})),
        user("upsert", json!({"user_id": "u", "name": "X", "nonsense": 1})),
        user("upsert", json!({"user_id": "v", "name": "X", "email": "x"})),
        user("replace", json!({"user_id": "u", "name": "X"})),
    ];
    for body in refused {
        assert!(router.write("u", &body).status >= 400, "{body}");
    }
    assert_eq!(only_row(&router, "users", "u"), before);
}

#[test]
fn an_upsert_keeps_the_columns_that_it_does_not_name() {
    let router = Router::shared();
    let made =
        json!({"user_id": "u", "name": "Ada", "email": "a@example.com", "partition_key": "P"});
    router.write("u", &user("upsert", made));
    let changed = router.write("u", &user("upsert", json!({"user_id": "u", "name": "Bo"})));
    assert_eq!(changed.status, 200);
    let row = only_row(&router, "users", "u");
    assert_eq!(
        (&row["name"], &row["email"], &row["partition_key"]),
        (&json!("Bo"), &json!("a@example.com"), &json!("P"))
    );
}

#[test]
fn absent_is_not_null() {
    let router = Router::shared();
    let made = json!({"user_id": "u", "name": "Ada", "email": "e", "partition_key": "P"});
    router.write("u", &user("upsert", made));
    router.write("u", &user("update", json!({"user_id": "u", "email": "f"})));
    assert_eq!(only_row(&router, "users", "u")["partition_key"], "P");
    router.write("u", &user("update", json!({"user_id": "u", "partition_key": null})));
    assert_eq!(only_row(&router, "users", "u")["partition_key"], Value::Null);
}

#[test]
fn a_new_row_needs_every_column_that_may_not_be_null() {
    let router = Router::shared();
    for (missing, data) in [
        ("email", json!({"user_id": "u", "name": "Ada"})),
        ("name", json!({"user_id": "u", "email": "e"})),
    ] {
        for op in ["upsert", "insert"] {
            let reply = router.write("u", &user(op, data.clone()));
            assert_problem(&reply, 400, "TSR101");
            let detail = reply.json()["detail"].as_str().unwrap().to_owned();
            assert!(detail.contains(missing), "{detail}");
        }
    }
    let no_id = json!({"table": "orders", "data": {"user_id": "u", "amount": 1}});
    let reply = router.write("u", &no_id);
    assert_problem(&reply, 400, "TSR101");
    assert!(reply.text().contains("order_id"), "{}", reply.text());
}

#[test]
fn a_routing_column_that_is_left_out_is_the_shard_key() {
    let router = Router::shared();
    let written = router.write("u", &user("insert", json!({"name": "Ada", "email": "e"})));
    assert_eq!((written.status, &written.json()["data"]["user_id"]), (201, &json!("u")));
    assert_eq!(router.write("u", &user("delete", json!({}))).status, 200);
}

#[test]
fn the_version_of_a_row_only_grows_also_over_a_delete() {
    let router = Router::shared();
    let id = json!({"user_id": "u"});
    let mut last = 0;
    for round in 0..3 {
        for (op, data) in [
            ("insert", json!({"user_id": "u", "name": format!("n{round}"), "email": "e"})),
            ("upsert", json!({"user_id": "u", "name": "same", "email": "e"})),
            ("upsert", json!({"user_id": "u", "name": "same", "email": "e"})),
            ("update", json!({"user_id": "u", "partition_key": "p"})),
            ("delete", id.clone()),
        ] {
            let reply = router.write("u", &user(op, data));
            let version = reply.json()["version"].as_i64().unwrap();
            assert!(version > last, "{op}: {version} after {last}");
            last = version;
        }
    }
}

#[test]
fn created_at_stays_and_updated_at_moves() {
    let router = Router::shared();
    let first = router.write_user("u", "Ada").json()["data"].clone();
    assert_eq!(first["created_at"], first["updated_at"]);
    let second = router.write_user("u", "Bo").json()["data"].clone();
    assert_eq!(second["created_at"], first["created_at"]);
    assert!(second["updated_at"].as_str().unwrap() > first["updated_at"].as_str().unwrap());
    for instant in [&first["created_at"], &second["updated_at"]] {
        let text = instant.as_str().unwrap();
        let shape: String =
            text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape, "0000-00-00T00:00:00.000000Z");
    }
}

#[test]
fn return_minimal_omits_the_row_and_is_reported_as_applied() {
    let router = Router::shared();
    let body = user("upsert", json!({"user_id": "u", "name": "Ada", "email": "e"}));
    for prefer in ["return=minimal", "handling=lenient, return=minimal", "unknown=1,return=minimal"]
    {
        let headers = [("x-shard-key", "u"), ("prefer", prefer)];
        let reply = router.post("/api/write", &headers, &body);
        assert!(reply.status < 300, "{}", reply.text());
        assert_eq!(reply.header("preference-applied"), Some("return=minimal"));
        let answer = reply.json();
        assert_eq!(answer.get("data"), None);
        assert!(answer["version"].is_i64() && answer["shard"].is_string(), "{answer}");
    }
    assert_eq!(only_row(&router, "users", "u")["name"], "Ada");
}

/// According to RFC 7240, a value may be quoted, and if a preference is given twice, the first one
/// counts.
#[test]
fn preferences_are_parsed_as_in_their_rfc() {
    let router = Router::shared();
    let body = user("upsert", json!({"user_id": "u", "name": "Ada", "email": "e"}));
    for (prefer, minimal) in [
        ("Return=Minimal", true),
        ("return=\"minimal\"", true),
        ("return=minimal, return=representation", true),
        ("return=representation, return=minimal", false),
        ("return=representation", false),
    ] {
        let reply = router.post("/api/write", &[("x-shard-key", "u"), ("prefer", prefer)], &body);
        assert_eq!(reply.json().get("data").is_none(), minimal, "{prefer}: {}", reply.text());
    }
}

#[test]
fn the_shard_key_may_stand_in_header_query_or_body() {
    let router = Router::shared();
    let data = |key: &str| json!({"user_id": key, "name": "N", "email": "e"});
    let in_query = router.post("/api/write?shardKey=q", &[], &user("insert", data("q")));
    assert_eq!(in_query.status, 201, "{}", in_query.text());
    let mut body = user("insert", data("Zoë 😀"));
    body["shardKey"] = json!("Zoë 😀");
    assert_eq!(router.post("/api/write", &[], &body).status, 201);
    let read = router.get("/api/read?table=users&shardKey=Zo%C3%AB+%F0%9F%98%80").json();
    assert_eq!(read["data"][0]["user_id"], "Zoë 😀");
    let mut agreed = user("upsert", data("q"));
    agreed["shardKey"] = json!("q");
    let headers = [("x-shard-key", "q")];
    assert_eq!(router.post("/api/write?shardKey=q", &headers, &agreed).status, 200);
}

#[test]
fn shard_keys_that_differ_are_refused_wherever_they_stand() {
    let router = Router::shared();
    let data = json!({"user_id": "a", "name": "N", "email": "e"});
    let mut named_b = user("upsert", data.clone());
    named_b["shardKey"] = json!("b");
    let plain = user("upsert", data.clone());
    let conflicts = [
        router.post("/api/write", &[("x-shard-key", "a")], &named_b),
        router.post("/api/write?shardKey=a", &[], &named_b),
        router.post("/api/write?shardKey=b", &[("x-shard-key", "a")], &plain),
        router.post("/api/write?shardKey=b", &[], &plain),
        router.write("b", &plain),
        router.post("/api/write", &[], &named_b),
        router.write("b", &user("delete", json!({"user_id": "a"}))),
        router.write(
            "b",
            &json!({"table": "transactions",
            "data": {"tx_id": "t", "account": "a", "amount": 1}}),
        ),
        router.send("GET", "/api/read?table=users&shardKey=b", &[("x-shard-key", "a")], None),
    ];
    for (index, reply) in conflicts.iter().enumerate() {
        assert_eq!((reply.status, &*reply.code()), (400, "TSR103"), "{index}: {}", reply.text());
    }
    assert_eq!(router.get("/api/read?table=users").json()["count"], 0);
}

#[test]
fn a_write_without_a_shard_key_is_refused() {
    let router = Router::shared();
    let body = user("upsert", json!({"name": "N", "email": "e"}));
    assert_problem(&router.post("/api/write", &[], &body), 400, "TSR104");
}

#[test]
fn orders_live_with_their_user() {
    let router = Router::shared();
    let home = router.write_user("user_7", "Ada").json();
    for order in ["o1", "o2", "o3"] {
        // The routing column may be left out, and is then the shard key.
        let data = json!({"order_id": order, "amount": 100});
        let reply = router.write("user_7", &json!({"table": "orders", "data": data}));
        assert_eq!(reply.status, 201, "{}", reply.text());
        let answer = reply.json();
        assert_eq!((&answer["shard"], &answer["slot"]), (&home["shard"], &home["slot"]));
        assert_eq!(answer["data"]["user_id"], "user_7");
    }
    let read = router.read("user_7", "table=orders&select=order_id&order=order_id").json();
    assert_eq!(read["data"], json!([{"order_id": "o1"}, {"order_id": "o2"}, {"order_id": "o3"}]));
    assert_eq!(router.read("o1", "table=orders").json()["count"], 0);
    let other = json!({"order_id": "o1", "user_id": "user_8", "amount": 5});
    assert_eq!(router.write("user_8", &json!({"table": "orders", "data": other})).status, 201);
    assert_eq!(router.get("/api/read?table=orders&order_id=eq.o1").json()["count"], 2);
}

#[test]
fn whole_numbers_come_back_to_the_last_digit() {
    let router = Router::shared();
    for text in ["0", "-1", "9007199254740993", "9223372036854775807", "-9223372036854775808"] {
        let body = format!(
            r#"{{"table":"orders","data":{{"order_id":"o","user_id":"u","amount":{text}}}}}"#
        );
        let headers = [("x-shard-key", "u"), ("content-type", "application/json")];
        let reply = router.send("POST", "/api/write", &headers, Some(body.as_bytes()));
        let expected = format!("\"amount\":{text},");
        assert!(reply.status < 300 && reply.text().contains(&expected), "{}", reply.text());
        let found = router.get(&format!("/api/read?table=orders&amount=eq.{text}"));
        assert!(found.text().contains(&expected), "{}", found.text());
        assert_eq!(found.json()["count"], 1);
    }
}

#[test]
fn texts_come_back_as_they_were() {
    let router = Router::shared();
    let texts = [
        "",
        " ",
        "null",
        "O'Brien",
        "\"quoted\" \\ back/slash",
        "tab\tline\nreturn\r",
        "\u{1}\u{1f}\u{7f}\u{80}",
        "Zoë 日本語 עברית",
        "😀👩‍👩‍👧",
        "\u{2028}\u{feff}\u{fffd}\u{10ffff}",
        "%00%27",
        "'; DROP TABLE users; --",
    ];
    for text in texts {
        let data = json!({"user_id": "u", "name": text, "email": "", "partition_key": text});
        let reply = router.write("u", &user("upsert", data));
        assert!(reply.status < 300, "{text:?}: {}", reply.text());
        assert_eq!(reply.json()["data"]["name"], text);
        let row = only_row(&router, "users", "u");
        assert_eq!((&row["name"], &row["partition_key"]), (&json!(text), &json!(text)));
        assert_eq!(row["email"], "");
    }
    let escaped = br#"{"table":"users","data":{"user_id":"u","name":"\ud83d\ude00\u0041\/"}}"#;
    let headers = [("x-shard-key", "u"), ("content-type", "application/json")];
    assert_eq!(router.send("POST", "/api/write", &headers, Some(escaped)).status, 200);
    assert_eq!(only_row(&router, "users", "u")["name"], "😀A/");
}

#[test]
fn json_is_kept_as_given_but_for_white_space() {
    let router = Router::shared();
    let kept = [
        (
            r#"{"b": 1, "a": [1.0, 1e2, -0, 12345678901234567890123]}"#,
            r#"{"b":1,"a":[1.0,1e2,-0,12345678901234567890123]}"#,
        ),
        (r#"{"a": 1, "a": 2}"#, r#"{"a":1,"a":2}"#),
        ("\"two  spaces \\\" \\u00e9 é\"", "\"two  spaces \\\" \\u00e9 é\""),
        (" [ true , false , null , { } , [ ] ] ", "[true,false,null,{},[]]"),
        ("0.10", "0.10"),
    ];
    for (given, stored) in kept {
        let body = format!(
            r#"{{"table":"products","data":{{"product_id":"p","name":"N","price":1,"stock":0,"attributes":{given}}}}}"#
        );
        let headers = [("x-shard-key", "p"), ("content-type", "application/json")];
        let reply = router.send("POST", "/api/write", &headers, Some(body.as_bytes()));
        assert!(reply.status < 300, "{}", reply.text());
        let read = router.read("p", "table=products").text();
        assert!(read.contains(&format!("\"attributes\":{stored},")), "{given} became {read}");
    }
    let null = json!({"table": "products", "data": {"product_id": "p", "attributes": null}});
    assert_eq!(router.write("p", &null).json()["data"]["attributes"], Value::Null);
    let kv = json!({"table": "kv", "data": {"key": "k", "value": null}});
    let stored = router.write("k", &kv);
    assert_eq!((stored.status, &stored.json()["data"]["value"]), (201, &Value::Null));
}
