//! Tests of bad input: the response is a 4xx that names the faulty part of the request, and the
//! router continues to serve.

use serde_json::{Value, json};

use crate::harness::{Reply, Router};

const JSON: (&str, &str) = ("content-type", "application/json");

fn send(router: &Router, path: &str, body: &[u8]) -> Reply {
    router.send("POST", path, &[JSON, ("x-shard-key", "u")], Some(body))
}

fn assert_refused(reply: &Reply, status: u16, code: &str, about: &str) {
    assert_eq!((reply.status, &*reply.code()), (status, code), "{about}: {}", reply.text());
    assert_eq!(reply.json()["outcome"], "rejected", "{about}: {}", reply.text());
}

fn assert_nothing_stored(router: &Router) {
    for table in ["users", "orders", "products", "transactions", "kv"] {
        let answer = router.get(&format!("/api/read?table={table}")).json();
        assert_eq!(answer["count"], 0, "{table}: {answer}");
    }
}

/// Returns a user's row with one member replaced or added, as text, so that it may be
/// invalid JSON.
fn with(member: &str, json: &str) -> String {
    let mut members = vec![("user_id", r#""u""#), ("name", r#""N""#), ("email", r#""e""#)];
    members.retain(|(name, _)| *name != member);
    members.push((member, json));
    let members: Vec<String> =
        members.iter().map(|(name, json)| format!("\"{name}\":{json}")).collect();
    format!(r#"{{"table":"users","data":{{{}}}}}"#, members.join(","))
}

#[test]
fn a_body_that_is_no_json_object_is_refused() {
    let router = Router::shared();
    let bodies: [&[u8]; 20] = [
        b"",
        b" ",
        b"null",
        b"true",
        b"7",
        b"\"text\"",
        b"[]",
        b"[{}]",
        b"{",
        b"}",
        b"{\"table\"}",
        b"{\"table\":}",
        b"{'table':'users'}",
        b"{\"table\":\"users\",}",
        b"{} {}",
        b"{}x",
        b"\xef\xbb\xbf{}",
        b"{\"table\":\"us\xffers\"}",
        b"{\"\xc3\x28\":1}",
        b"\x00",
    ];
    for body in bodies {
        for path in ["/api/write", "/api/bulk-write"] {
            let reply = send(&router, path, body);
            assert_refused(&reply, 400, "TSR101", &String::from_utf8_lossy(body));
        }
    }
    assert_nothing_stored(&router);
}

#[test]
fn a_problem_does_not_repeat_a_whole_body() {
    let router = Router::shared();
    let long = "x".repeat(1 << 20);
    let bodies = [
        format!("\"{long}\""),
        format!("{{\"{long}\":1}}"),
        format!("{{\"table\":\"{long}\",\"data\":{{}}}}"),
        format!("{{\"table\":\"users\",\"op\":\"{long}\",\"data\":{{}}}}"),
        format!("{{\"table\":\"users\",\"data\":\"{long}\"}}"),
        format!("{{\"table\":\"users\",\"data\":{{\"{long}\":1}}}}"),
        format!("{{\"table\":\"users\",\"shardKey\":\"{long}\",\"data\":{{}}}}"),
        format!("{{\"table\":\"users\",\"rows\":\"{long}\"}}"),
    ];
    for body in &bodies {
        for path in ["/api/write", "/api/bulk-write"] {
            let reply = send(&router, path, body.as_bytes());
            let (start, size) = (&body[..40.min(body.len())], reply.body.len());
            assert!((400..500).contains(&reply.status), "{path} {start}: {}", reply.status);
            assert!(size < 2_000, "{path} {start}: a problem of {size} bytes");
        }
    }
}

#[test]
fn members_that_are_missing_unknown_double_or_of_the_wrong_type_are_named() {
    let router = Router::shared();
    let cases = [
        (r#"{"data":{}}"#, 400, "TSR101", "table"),
        (r#"{"table":"users"}"#, 400, "TSR101", "data"),
        (r#"{"table":7,"data":{}}"#, 400, "TSR101", "table"),
        (r#"{"table":null,"data":{}}"#, 400, "TSR101", "table"),
        (r#"{"table":"users","data":[]}"#, 400, "TSR101", "data"),
        (r#"{"table":"users","data":null}"#, 400, "TSR101", "data"),
        (r#"{"table":"users","data":{},"op":1}"#, 400, "TSR101", "op"),
        (r#"{"table":"users","data":{},"op":"UPSERT"}"#, 400, "TSR101", "op"),
        (r#"{"table":"users","data":{},"shardKey":1}"#, 400, "TSR101", "shardKey"),
        (r#"{"table":"users","data":{},"shardKey":""}"#, 400, "TSR101", "shardKey"),
        (r#"{"table":"users","table":"orders","data":{}}"#, 400, "TSR101", "table"),
        (r#"{"table":"users","data":{},"d\u0061ta":{}}"#, 400, "TSR101", "data"),
        (r#"{"table":"users","data":{"user_id":"u","user_id":"u"}}"#, 400, "TSR101", "user_id"),
        (r#"{"table":"users","data":{"name":"a","n\u0061me":"b"}}"#, 400, "TSR101", "name"),
        (r#"{"table":"users","data":{},"dta":{}}"#, 400, "TSR102", "data"),
        (r#"{"table":"users","data":{},"if_version":1}"#, 400, "TSR102", "if_version"),
        (r#"{"tabel":"users","data":{}}"#, 400, "TSR102", "table"),
        (r#"{"table":"user","data":{}}"#, 404, "TSR310", "users"),
        (r#"{"table":"nothing_like_it","data":{}}"#, 404, "TSR310", "nothing_like_it"),
        (r#"{"table":"users","data":{"nmae":"x"}}"#, 400, "TSR311", "name"),
        (r#"{"table":"users","data":{"":"x"}}"#, 400, "TSR311", "users"),
        (r#"{"table":"users","data":{"version":1}}"#, 400, "TSR102", "If-Match"),
        (r#"{"table":"users","data":{"created_at":"x"}}"#, 400, "TSR102", "created_at"),
        (r#"{"table":"users","data":{"updated_at":null}}"#, 400, "TSR102", "updated_at"),
        (r#"{"table":"users","data":{"slot":1}}"#, 400, "TSR102", "slot"),
        (r#"{"table":"users","data":{"shard_key":"u"}}"#, 400, "TSR102", "shard_key"),
        (
            r#"{"table":"users","op":"delete","data":{"user_id":"u","name":"N"}}"#,
            400,
            "TSR101",
            "name",
        ),
    ];
    for (body, status, code, named) in cases {
        let reply = send(&router, "/api/write", body.as_bytes());
        assert_refused(&reply, status, code, body);
        let problem = reply.json();
        let text = format!("{} {}", problem["detail"], problem["hint"]);
        assert!(text.contains(named), "{body}: {text}");
    }
    assert_nothing_stored(&router);
}

#[test]
fn values_that_do_not_fit_their_column_are_refused() {
    let router = Router::shared();
    let number = |json: &str| {
        format!(r#"{{"table":"orders","data":{{"order_id":"o","user_id":"u","amount":{json}}}}}"#)
    };
    let texts = ["7", "true", "{}", "[]", "null", "[\"N\"]", "1.5"];
    for json in texts {
        let reply = send(&router, "/api/write", with("name", json).as_bytes());
        assert_refused(&reply, 400, "TSR312", json);
        assert!(reply.json()["detail"].as_str().unwrap().starts_with("name"), "{}", reply.text());
    }
    let numbers = [
        "\"7\"",
        "true",
        "null",
        "{}",
        "1.0",
        "1.5",
        "1e3",
        "-0.1",
        "9223372036854775808",
        "-9223372036854775809",
        "123456789012345678901234567890",
        "1e999",
        "\"NaN\"",
    ];
    for json in numbers {
        let reply = send(&router, "/api/write", number(json).as_bytes());
        assert_refused(&reply, 400, "TSR312", json);
        assert!(reply.json()["detail"].as_str().unwrap().starts_with("amount"), "{}", reply.text());
    }
    for json in [
        "NaN",
        "Infinity",
        "-Infinity",
        "+1",
        "01",
        "1.",
        ".5",
        "0x10",
        "1_000",
        "undefined",
        "--1",
    ] {
        assert_refused(&send(&router, "/api/write", number(json).as_bytes()), 400, "TSR101", json);
    }
    assert_nothing_stored(&router);
}

#[test]
fn lone_surrogates_are_refused_wherever_they_stand() {
    let router = Router::shared();
    let product = |json: &str| {
        format!(
            r#"{{"table":"products","data":{{"product_id":"u","name":"N","price":1,"stock":1,"attributes":{json}}}}}"#
        )
    };
    for lone in [r"\ud800", r"\udc00", r"\ud800\ud800", r"\ud83d x", r"\udbff\u0041"] {
        let cases = [
            (with("name", &format!("\"{lone}\"")), "TSR312"),
            (with("user_id", &format!("\"{lone}\"")), "TSR312"),
            (format!(r#"{{"table":"users","data":{{"{lone}":1}}}}"#), "TSR101"),
            (format!(r#"{{"table":"users","{lone}":1,"data":{{}}}}"#), "TSR101"),
            (format!(r#"{{"table":"{lone}","data":{{}}}}"#), "TSR101"),
            (format!(r#"{{"table":"users","op":"{lone}","data":{{}}}}"#), "TSR101"),
            (format!(r#"{{"table":"users","shardKey":"{lone}","data":{{}}}}"#), "TSR101"),
            (product(&format!("\"{lone}\"")), "TSR312"),
            (product(&format!("{{\"{lone}\":1}}")), "TSR312"),
            (product(&format!("[[{{\"a\":[\"{lone}\"]}}]]")), "TSR312"),
        ];
        for (body, code) in &cases {
            let reply = send(&router, "/api/write", body.as_bytes());
            // The parser may find an invalid name before the checks of the row do; either code is
            // about the body.
            assert_refused(&reply, 400, code, body);
        }
    }
    assert_nothing_stored(&router);
}

#[test]
fn the_character_zero_is_refused_wherever_it_stands() {
    let router = Router::shared();
    let product = |json: &str| {
        format!(
            r#"{{"table":"products","data":{{"product_id":"u","name":"N","price":1,"stock":1,"attributes":{json}}}}}"#
        )
    };
    let cases = [
        (with("name", r#""a\u0000b""#), 400, "TSR312"),
        (with("partition_key", r#""\u0000""#), 400, "TSR312"),
        (product(r#""\u0000""#), 400, "TSR312"),
        (product(r#"{"a\u0000":1}"#), 400, "TSR312"),
        (product(r#"{"a":[{"b":"\u0000"}]}"#), 400, "TSR312"),
        (r#"{"table":"users","shardKey":"a\u0000","data":{}}"#.to_owned(), 400, "TSR101"),
        (r#"{"table":"users\u0000","data":{}}"#.to_owned(), 404, "TSR310"),
        (r#"{"table":"users","data":{"name\u0000":"x"}}"#.to_owned(), 400, "TSR311"),
        (r#"{"table":"users","op":"upsert\u0000","data":{}}"#.to_owned(), 400, "TSR101"),
        (r#"{"table":"users","data\u0000":{}}"#.to_owned(), 400, "TSR102"),
        (with("name", "\"a\0b\""), 400, "TSR101"),
    ];
    for (body, status, code) in &cases {
        assert_refused(&send(&router, "/api/write", body.as_bytes()), *status, code, body);
    }
    let kept = send(&router, "/api/write", product(r#""\\u0000""#).as_bytes());
    assert_eq!(
        kept.status,
        201,
        "an escaped backslash before u0000 is not U+0000: {}",
        kept.text()
    );
    for (query, code) in [
        ("table=users&shardKey=%00", "TSR100"),
        ("table=users&name=eq.%00", "TSR312"),
        ("table=users&name%00=eq.a", "TSR311"),
        ("table=users&select=name%00", "TSR311"),
        ("table=users&order=name%00", "TSR311"),
        ("table=users&limit=1%00", "TSR106"),
    ] {
        let reply = router.get(&format!("/api/read?{query}"));
        assert_eq!((reply.status, &*reply.code()), (400, code), "{query}: {}", reply.text());
    }
    assert_eq!(router.get("/api/read?table=users%00").code(), "TSR310");
}

#[test]
fn a_query_string_that_is_not_utf8_is_refused() {
    let router = Router::shared();
    for query in [
        "table=%ff",
        "table=users&name=eq.%c3%28",
        "table=users&%ff=eq.1",
        "table=users&shardKey=%ed%a0%80",
    ] {
        let reply = router.get(&format!("/api/read?{query}"));
        assert_eq!((reply.status, &*reply.code()), (400, "TSR100"), "{query}: {}", reply.text());
    }
    // A percent sign that begins no escape stands for itself.
    router.write_user("u", "100%");
    assert_eq!(router.get("/api/read?table=users&name=eq.100%").json()["count"], 1);
}

#[test]
fn nesting_is_cut_off_before_it_costs_anything() {
    let router = Router::shared();
    let deep = 100_000;
    let (open, close) = ("[".repeat(deep), "]".repeat(deep));
    let objects = "{\"a\":".repeat(deep);
    let cases = [
        open.clone(),
        format!("{open}{close}"),
        format!("{objects}1{}", "}".repeat(deep)),
        format!(r#"{{"table":"users","data":{{"name":{open}{close}}}}}"#),
        format!(r#"{{"table":"kv","data":{{"key":"u","value":{open}{close}}}}}"#),
    ];
    for (index, body) in cases.iter().enumerate() {
        for path in ["/api/write", "/api/bulk-write"] {
            assert_refused(
                &send(&router, path, body.as_bytes()),
                413,
                "TSR108",
                &index.to_string(),
            );
        }
    }
    let kv = |levels: usize| {
        let value = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        format!(r#"{{"table":"kv","data":{{"key":"u","value":{value}}}}}"#)
    };
    // Two levels are the body's own.
    assert_eq!(send(&router, "/api/write", kv(62).as_bytes()).status, 201);
    assert_eq!(send(&router, "/api/write", kv(63).as_bytes()).status, 413);
    let brackets_in_text = with("name", &format!("\"{open}\\\"{open}\""));
    assert_eq!(send(&router, "/api/write", brackets_in_text.as_bytes()).status, 201);
}

#[test]
fn sql_is_only_text() {
    let router = Router::shared();
    router.write_user("victim", "Ada");
    let attacks = [
        "x'; DROP TABLE users; --",
        "\" OR \"\"=\"",
        "1) UNION SELECT * FROM tessera_log --",
        "users; ATTACH DATABASE 'x' AS y",
        "name/**/",
        "*",
        "sqlite_version()",
        "rowid",
        "?1",
        "$1",
    ];
    for attack in attacks {
        let encoded: String = attack.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let key = json!({"table": "users", "shardKey": attack,
            "data": {"user_id": attack, "name": attack, "email": attack, "partition_key": attack}});
        assert_eq!(router.post("/api/write", &[], &key).status, 201, "{attack}");
        let read = router
            .get(&format!("/api/read?table=users&shardKey={encoded}&name=eq.{encoded}"))
            .json();
        assert_eq!(
            (&read["count"], &read["data"][0]["email"]),
            (&json!(1), &json!(attack)),
            "{read}"
        );
        let columns = Value::Object([(attack.to_owned(), json!(1))].into_iter().collect());
        let refused = [
            (json!({"table": attack, "data": {}}), "TSR310"),
            (json!({"table": "users", "op": attack, "data": {}}), "TSR101"),
            (json!({"table": "users", "data": columns}), "TSR311"),
        ];
        for (body, code) in &refused {
            assert_eq!(router.write("u", body).code(), *code, "{body}");
        }
        for (query, codes) in [
            (format!("table={encoded}"), vec!["TSR310"]),
            (format!("table=users&select={encoded}"), vec!["TSR311", "no code"]),
            (format!("table=users&select={encoded}:name"), vec!["TSR100"]),
            (format!("table=users&order={encoded}"), vec!["TSR311"]),
            (format!("table=users&order=name.{encoded}"), vec!["TSR100"]),
            (format!("table=users&{encoded}=eq.1"), vec!["TSR311"]),
            (format!("table=users&name={encoded}"), vec!["TSR100"]),
            (format!("table=users&name=in.{encoded}"), vec!["TSR100"]),
            (format!("table=users&limit={encoded}"), vec!["TSR106"]),
            (format!("table=users&version=eq.{encoded}"), vec!["TSR312"]),
        ] {
            let reply = router.get(&format!("/api/read?{query}"));
            let is_star = attack == "*" && query.contains("select=%2A") && !query.contains(':');
            let is_alias = query.contains(":name") && attack == "rowid";
            if is_star || is_alias {
                assert_eq!(reply.status, 200, "{query}");
                continue;
            }
            assert!((400..500).contains(&reply.status), "{query}: {}", reply.text());
            assert!(codes.contains(&&*reply.code()), "{query}: {}", reply.text());
        }
        assert_eq!(router.get(&format!("/api/shards/{encoded}")).code(), "TSR111");
        assert_eq!(router.get(&format!("/errors/{encoded}")).code(), "TSR111");
    }
    let read = router.read("victim", "table=users").json();
    assert_eq!(read["data"][0]["name"], "Ada");
    assert_eq!(router.get("/api/read?table=users").json()["count"], attacks.len() + 1);
}

#[test]
fn headers_are_checked_and_named() {
    let router = Router::shared();
    let long = "k".repeat(257);
    let token = "t".repeat(4_097);
    let cases = [
        ("x-shard-key", ""),
        ("x-shard-key", &*long),
        ("x-shard-key", "a\tb"),
        ("x-shard-key", "é"),
        ("x-deadline-ms", "99"),
        ("x-deadline-ms", "60001"),
        ("x-deadline-ms", "0"),
        ("x-deadline-ms", "-5"),
        ("x-deadline-ms", "1.5"),
        ("x-deadline-ms", "abc"),
        ("x-deadline-ms", ""),
        ("x-deadline-ms", "99999999999999999999999"),
        ("x-consistency", "ONE"),
        ("x-consistency", "two"),
        ("x-session-token", &*token),
        ("x-session-token", "nonsense"),
        ("x-max-staleness-ms", "soon"),
        ("x-max-staleness-ms", "-1"),
        ("x-request-id", "a b"),
    ];
    for (name, value) in cases {
        let raw = format!(
            "GET /api/read?table=users HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{name}: {value}\r\n\r\n"
        );
        let answer = String::from_utf8_lossy(&router.raw(raw.as_bytes())).into_owned();
        assert!(
            answer.starts_with("HTTP/1.1 400 ") && answer.contains("\"TSR113\""),
            "{name}: {value}: {answer}"
        );
        assert!(answer.contains(&format!("\"detail\":\"{name}")), "{answer}");
    }
    for (name, one, two) in [
        ("x-shard-key", "a", "b"),
        ("x-shard-key", "a", "a"),
        ("x-deadline-ms", "500", "500"),
        ("x-consistency", "one", "all"),
        ("x-request-id", "a", "b"),
        ("x-request-id", "a", "a"),
    ] {
        let headers = [(name, one), (name, two)];
        let reply = router.send("GET", "/api/read?table=users", &headers, None);
        assert_eq!((reply.status, &*reply.code()), (400, "TSR113"), "{name}: {}", reply.text());
    }
    let kinds = "content-type: application/json\r\ncontent-type: text/csv\r\ncontent-length: 2";
    for (method, path) in [
        ("POST", "/api/write"),
        ("POST", "/api/bulk-write"),
        ("PUT", "/api/kv/twice"),
        ("POST", "/api/tables"),
    ] {
        let raw = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{kinds}\r\n\r\n{{}}"
        );
        let answer = String::from_utf8_lossy(&router.raw(raw.as_bytes())).into_owned();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{path}: {answer}");
        assert!(answer.contains("\"detail\":\"content-type must be given once\""), "{answer}");
    }
    for ms in ["100", "60000"] {
        let reply = router.send("GET", "/api/read?table=users", &[("x-deadline-ms", ms)], None);
        // The shortest deadline is accepted, but a busy machine may exceed it.
        let is_late = [(503, "TSR003"), (504, "TSR004")].contains(&(reply.status, &*reply.code()));
        let late = ms == "100" && is_late;
        assert!(reply.status == 200 || late, "{}", reply.text());
    }
}
