//! Tests of headers that a route does not honour: they are refused, or their effect is reported.

use serde_json::json;

use crate::harness::{Reply, Router};
use crate::streams::{NDJSON, line};

/// Paths of routes that are not about rows, without `/api/route`, whose parameter names a key.
const WITHOUT_ROWS: [&str; 21] = [
    "/",
    "/live",
    "/ready",
    "/health",
    "/version",
    "/stats",
    "/api/health",
    "/api/shards",
    "/api/shards/shard1",
    "/api/shard-map",
    "/api/groups",
    "/api/distribution",
    "/api/advice",
    "/api/tables",
    "/api/tables/users",
    "/api/analytics/metrics",
    "/api/analytics/errors",
    "/metrics",
    "/errors",
    "/dashboard",
    "/api-docs/openapi.json",
];

/// Checks that a header is refused, with its name and a remedy.
fn assert_refused(reply: &Reply, name: &str, what: &str) {
    assert_eq!((reply.status, &*reply.code()), (400, "TSR113"), "{what}: {}", reply.text());
    let problem = reply.json();
    assert!(problem["detail"].as_str().unwrap().starts_with(name), "{what}: {problem}");
    assert!(problem["hint"].is_string() || name == "x-deadline-ms", "{what}: {problem}");
}

#[test]
fn a_range_is_refused_wherever_none_is_served() {
    let router = Router::shared();
    for path in [
        "/",
        "/live",
        "/api/health",
        "/api/read?table=users",
        "/api/kv/a",
        "/read?key=a",
        "/stats",
        "/api/route?key=a",
        "/api/shards",
        "/dashboard",
        "/swagger-ui/",
        "/api-docs/openapi.json",
        "/errors/TSR101",
        "/metrics",
    ] {
        let reply = router.send("GET", path, &[("range", "bytes=0-9")], None);
        assert_refused(&reply, "range", path);
    }
    let body = json!({"table": "users", "data": {"user_id": "u", "name": "N", "email": "e"}});
    let headers = [("x-shard-key", "u"), ("range", "0-9")];
    let reply = router.post("/api/write", &headers, &body);
    assert_refused(&reply, "range", "a write");
    assert_eq!(reply.json()["outcome"], "rejected");
    assert_eq!(router.get("/api/read?table=users").json()["count"], 0);
    // A missing path is reported first.
    let range = [("range", "0-9")];
    assert_eq!(router.send("GET", "/nowhere", &range, None).status, 404);
    assert_eq!(router.send("DELETE", "/api/health", &range, None).status, 405);
}

#[test]
fn an_idempotency_key_is_refused_where_none_is_stored() {
    let router = Router::start();
    let key = ("idempotency-key", "k");
    for path in [
        "/api/read?table=users",
        "/api/kv/a",
        "/read?key=a",
        "/api/route?key=a",
        "/stats",
        "/api/health",
        "/api/tables",
    ] {
        assert_refused(&router.send("GET", path, &[key], None), "idempotency-key", path);
    }
    let table = json!({"name": "notes", "columns": [{"name": "id", "type": "text"}], "id": ["id"]});
    assert_refused(&router.post("/api/tables", &[key], &table), "idempotency-key", "a table");
    assert_eq!(router.get("/api/tables/notes").status, 404, "nothing is made");
    let body = json!({"key": "a", "value": 1});
    assert_eq!(router.post("/write", &[key], &body).status, 200);
}

#[test]
fn a_staleness_is_refused_by_writes_and_taken_by_reads() {
    let router = Router::shared();
    let old = ("x-max-staleness-ms", "1000");
    let row = json!({"table": "users", "data": {"user_id": "u", "name": "N", "email": "e"}});
    let table = json!({"name": "notes", "columns": [{"name": "id", "type": "text"}], "id": ["id"]});
    let bulk = json!({"table": "users", "records": [row["data"]]});
    let pair = json!({"key": "a", "value": 1});
    for (path, body) in [
        ("/api/write", &row),
        ("/api/bulk-write", &bulk),
        ("/write", &pair),
        ("/api/tables", &table),
    ] {
        let reply = router.post(path, &[old, ("x-shard-key", "u")], body);
        assert_refused(&reply, "x-max-staleness-ms", path);
        assert_eq!(reply.json()["outcome"], "rejected");
    }
    let body = line("u");
    let path = "/api/bulk-write?table=users";
    let reply = router.send("POST", path, &[NDJSON, old], Some(body.as_bytes()));
    assert_refused(&reply, "x-max-staleness-ms", "a stream");
    assert_refused(&router.send("PUT", "/api/kv/a", &[old], Some(b"1")), old.0, "PUT");
    assert_refused(&router.send("DELETE", "/api/kv/a", &[old], None), old.0, "DELETE");
    assert_eq!(router.send("GET", "/api/read?table=users", &[old], None).json()["count"], 0);
}

#[test]
fn a_condition_on_a_version_is_refused_by_a_read_of_rows() {
    let router = Router::shared();
    let key = ("x-shard-key", "u");
    for path in ["/api/read?table=users", "/api/read?table=users&user_id=eq.u&limit=1"] {
        for condition in ["\"1\"", "*", "W/\"1\""] {
            let reply = router.send("GET", path, &[key, ("if-match", condition)], None);
            assert_refused(&reply, "if-match", path);
        }
        let reply = router.send("GET", path, &[key, ("if-none-match", "\"1\"")], None);
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    }
}

#[test]
fn a_key_is_named_to_route_by_its_parameter_alone() {
    let router = Router::shared();
    let reply = router.send("GET", "/api/route?key=a", &[("x-shard-key", "b")], None);
    assert_refused(&reply, "x-shard-key", "another key");
    assert_eq!(router.get("/api/route?key=a").json()["key"], "a");
}

#[test]
fn a_shard_key_is_refused_where_no_rows_of_a_key_are_served() {
    let router = Router::shared();
    let key = ("x-shard-key", "b");
    for path in WITHOUT_ROWS {
        assert_refused(&router.send("GET", path, &[key], None), key.0, path);
    }
    let table = json!({"name": "notes", "columns": [{"name": "id", "type": "text"}], "id": ["id"]});
    let reply = router.post("/api/tables", &[key], &table);
    assert_refused(&reply, key.0, "a table");
    assert_eq!(reply.json()["outcome"], "rejected");
    assert_eq!(router.get("/api/tables/notes").status, 404, "nothing is made");
    for path in ["/api/read?table=users", "/read?key=b", "/api/kv/b"] {
        let reply = router.send("GET", path, &[key], None);
        assert_ne!(reply.code(), "TSR113", "{path}: {}", reply.text());
    }
    // A missing path is reported first.
    assert_eq!(router.send("GET", "/nowhere", &[key], None).status, 404);
}

#[test]
fn headers_about_rows_are_refused_where_no_rows_are_served() {
    let router = Router::shared();
    let headers = [
        ("x-consistency", "quorum"),
        ("x-session-token", "no-token"),
        ("x-max-staleness-ms", "1000"),
        ("if-match", "\"7312\""),
    ];
    for path in WITHOUT_ROWS.into_iter().chain(["/api/route?key=a", "/errors/TSR101"]) {
        for header in headers {
            assert_refused(&router.send("GET", path, &[header], None), header.0, path);
        }
        let general =
            [("prefer", "handling=lenient, return=minimal"), ("if-none-match", "\"another\"")];
        let reply = router.send("GET", path, &general, None);
        assert_eq!(reply.status, router.get(path).status, "{path}: {}", reply.text());
    }
    let table = json!({"name": "notes", "columns": [{"name": "id", "type": "text"}], "id": ["id"]});
    for header in [headers[0], headers[3]] {
        let reply = router.post("/api/tables", &[header], &table);
        assert_eq!((reply.status, &*reply.code()), (400, "TSR113"), "{header:?}: {}", reply.text());
        assert_eq!(reply.json()["outcome"], "rejected");
    }
    assert_eq!(router.get("/api/tables/notes").status, 404, "nothing is made");
    // A missing path is reported first.
    assert_eq!(router.send("GET", "/nowhere", &headers, None).status, 404);
}

#[test]
fn a_deadline_that_cannot_be_one_is_refused_on_every_route() {
    let router = Router::shared();
    for path in [
        "/",
        "/live",
        "/ready",
        "/api/health",
        "/stats",
        "/api/route?key=a",
        "/api/shards",
        "/api/shards/shard1",
        "/api/shard-map",
        "/api/distribution",
        "/api/advice",
        "/api/tables",
        "/api/analytics/metrics",
        "/api/analytics/errors",
        "/metrics",
        "/errors",
        "/api/read?table=users",
        "/api/kv/a",
    ] {
        for deadline in ["soon", "0", "99", "60001", "-5", "1e3", ""] {
            let reply = router.send("GET", path, &[("x-deadline-ms", deadline)], None);
            assert_refused(&reply, "x-deadline-ms", path);
        }
    }
    for path in ["/api/health", "/stats", "/api/shards", "/api/distribution", "/api/advice"] {
        let reply = router.send("GET", path, &[("x-deadline-ms", "60000")], None);
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    }
}

#[test]
fn a_request_with_authorization_gets_the_header_x_access_off() {
    let router = Router::shared();
    let proof = ("authorization", "Bearer secret");
    for path in ["/", "/api/health", "/api/read?table=users", "/api/read?table=nope", "/nowhere"] {
        let reply = router.send("GET", path, &[proof], None);
        assert_eq!(reply.header("x-access"), Some("off"), "{path}");
        assert_eq!(router.get(path).header("x-access"), None, "{path}");
    }
    let api = router.get("/api-docs/openapi.json").json();
    for (path, item) in api["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            for (status, response) in operation["responses"].as_object().unwrap() {
                // Too large headers are refused before they are read.
                let declared = response["headers"].get("x-access").is_some();
                assert_eq!(declared, status != "431", "{method} {path} {status}");
            }
        }
    }
}

#[test]
fn a_single_write_is_a_transaction_of_its_shard_and_has_the_header_of_one() {
    let router = Router::shared();
    let row = json!({"table": "users", "data": {"user_id": "u", "name": "N", "email": "e"}});
    let whole = ("prefer", "tx=per-shard");
    let reply = router.post("/api/write", &[whole, ("x-shard-key", "u")], &row);
    assert_eq!((reply.status, reply.header("preference-applied")), (201, Some("tx=per-shard")));
    let reply = router.send("PUT", "/api/kv/a", &[whole], Some(b"1"));
    assert_eq!((reply.status, reply.header("preference-applied")), (201, Some("tx=per-shard")));
}

#[test]
fn the_number_of_rows_can_be_requested_without_a_body() {
    let router = Router::shared();
    (0..5).for_each(|n| drop(router.write_user(&format!("u{n}"), "N")));
    let count = [("prefer", "count=exact")];
    for (query, range) in [
        ("", "0-4/5"),
        ("&limit=2", "0-1/5"),
        ("&limit=2&offset=3", "3-4/5"),
        ("&limit=0", "*/5"),
        ("&offset=9", "*/5"),
        ("&name=eq.M", "*/0"),
        ("&shardKey=u1", "0-0/1"),
    ] {
        let path = format!("/api/read?table=users&order=user_id{query}");
        for method in ["HEAD", "GET"] {
            let reply = router.send(method, &path, &count, None);
            assert_eq!(reply.status, 200, "{method} {query}");
            assert_eq!(reply.header("content-range"), Some(range), "{method} {query}");
        }
        assert_eq!(router.send("HEAD", &path, &[], None).header("content-range"), None);
    }
    let page = router.get("/api/read?table=users&limit=2").json();
    let next = page["next_cursor"].as_str().unwrap();
    let path = format!("/api/read?table=users&limit=2&cursor={next}");
    for method in ["HEAD", "GET"] {
        let reply = router.send(method, &path, &count, None);
        assert_eq!(reply.header("content-range"), None, "{method}: a cursor has no position");
    }
}
