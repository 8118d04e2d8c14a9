//! Tests of problems: the whole body of every code that a client can cause, and that no body
//! contains a secret.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};

use serde_json::{Value, json};

use crate::code_needs::{needing_more, tests_of_them};
use crate::harness::{Reply, Router};
use crate::problem_texts::problems_of_moves;

/// Id of a move that does not exist.
const NO_MOVE: &str = "5f0c1c1e-6c1e-4f7a-9b53-0a8f5b1f2d4e";
const JSON: (&str, &str) = ("content-type", "application/json");

/// Returns the body with a constant request id, the only member that differs each time.
fn redacted(reply: &Reply) -> Value {
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    let mut body = reply.json();
    assert_eq!(body["request_id"].as_str(), reply.header("x-request-id"));
    body["request_id"] = json!("[id]");
    body
}

pub(crate) fn post(router: &Router, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    let mut all = vec![JSON];
    all.extend_from_slice(headers);
    router.send("POST", path, &all, Some(body.as_bytes()))
}

fn write(router: &Router, body: &str) -> Reply {
    post(router, "/api/write", &[("x-shard-key", "u")], body)
}

fn read(router: &Router, headers: &[(&str, &str)], query: &str) -> Reply {
    router.send("GET", &format!("/api/read?{query}"), headers, None)
}

/// Sends a write whose body never comes, and returns the response after the deadline.
fn late(router: &Router) -> Reply {
    let mut stream = router.connect();
    stream
        .write_all(b"POST /api/write HTTP/1.1\r\nhost: localhost\r\nx-deadline-ms: 100\r\nx-request-id: late\r\n\
            connection: close\r\nx-shard-key: u\r\ncontent-length: 10\r\n\r\n{")
        .unwrap();
    let mut lines = BufReader::new(stream);
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    let status = line.split(' ').nth(1).unwrap().parse().unwrap();
    let mut headers = ureq::http::HeaderMap::new();
    loop {
        line.clear();
        lines.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        let name: ureq::http::HeaderName = name.parse().unwrap();
        headers.insert(name, value.parse().unwrap());
    }
    let length = headers["content-length"].to_str().unwrap().parse().unwrap();
    let mut body = vec![0; length];
    lines.read_exact(&mut body).unwrap();
    Reply { status, headers, body }
}

/// Sends one request for each code that a client can cause, and returns the responses in the order
/// of the codes.
pub(crate) fn problems(router: &Router) -> Vec<(&'static str, u16, Reply)> {
    router.write_user("there", "Ada");
    let user = r#"{"table":"users","op":"OP","data":{"user_id":"there","name":"N","email":"e"}}"#;
    let there = [("x-shard-key", "there")];
    let other = [("x-shard-key", "there"), ("idempotency-key", "once")];
    post(router, "/api/write", &other, &user.replace("OP", "update"));
    let stale = [("x-shard-key", "there"), ("if-match", "\"0\"")];
    let long = format!(r#"{{"table":"users","data":{{"name":"{}"}}}}"#, "n".repeat(2 << 20));
    vec![
        ("TSR004", 504, late(router)),
        ("TSR100", 400, read(router, &[], "table=users&user_id=u")),
        ("TSR101", 400, write(router, "{")),
        ("TSR102", 400, write(router, r#"{"table":"users","dta":{}}"#)),
        ("TSR103", 400, write(router, &user.replace("OP", "upsert"))),
        (
            "TSR104",
            400,
            post(router, "/api/write", &[], r#"{"table":"users","data":{"name":"N"}}"#),
        ),
        ("TSR105", 400, read(router, &[("prefer", "handling=strict, fly=high")], "table=users")),
        ("TSR106", 400, read(router, &[], "table=users&limit=1001")),
        ("TSR107", 406, read(router, &[("accept", "text/html")], "table=users")),
        (
            "TSR107",
            415,
            router.send("POST", "/api/write", &[("content-type", "text/csv")], Some(b"a,b")),
        ),
        ("TSR108", 413, write(router, &long)),
        ("TSR108", 413, write(router, &"[".repeat(65))),
        ("TSR109", 422, post(router, "/api/write", &other, &user.replace("OP", "upsert"))),
        ("TSR111", 404, router.get("/nowhere")),
        ("TSR112", 405, router.get("/api/write")),
        ("TSR113", 400, read(router, &[("x-deadline-ms", "5")], "table=users")),
        ("TSR301", 409, post(router, "/api/write", &there, &user.replace("OP", "insert"))),
        ("TSR302", 404, write(router, r#"{"table":"users","op":"update","data":{"user_id":"u"}}"#)),
        ("TSR303", 412, post(router, "/api/write", &stale, &user.replace("OP", "update"))),
        ("TSR310", 404, read(router, &[], "table=user")),
        ("TSR311", 400, read(router, &[], "table=users&select=nmae")),
        ("TSR312", 400, write(router, r#"{"table":"users","data":{"user_id":"u","name":7}}"#)),
        ("TSR320", 404, router.send("DELETE", "/api/shards/nowhere", &[], None)),
        ("TSR321", 400, post(router, "/api/shards", &[], r#"{"name":"s","weight":-1}"#)),
        ("TSR326", 409, router.send("DELETE", "/api/shards/shard2", &[], None)),
        (
            "TSR327",
            412,
            router.send("DELETE", "/api/shards/shard2", &[("if-match", "\"9\"")], None),
        ),
        ("TSR328", 400, post(router, "/api/slots/fence", &[], r#"{"slots":"0","seconds":61}"#)),
        ("TSR330", 400, post(router, "/api/moves", &[], r#"{"slots":"0-64","to":"shard2"}"#)),
        ("TSR331", 404, post(router, &format!("/api/moves/{NO_MOVE}/pause"), &[], "")),
        ("TSR335", 400, post(router, "/api/rebalance", &[], r#"{"by":"rows"}"#)),
        ("TSR336", 404, post(router, &format!("/api/rebalance/{NO_MOVE}/pause"), &[], "")),
        (
            "TSR334",
            409,
            post(router, "/api/moves", &[], r#"{"slots":"0","from":"shard2","to":"shard1"}"#),
        ),
        ("TSR339", 409, post(router, "/api/backup", &[], "")),
        ("TSR350", 400, router.get("/api/distribution?group=mian")),
        ("TSR403", 403, read(router, &[("origin", "http://evil.example")], "table=users")),
    ]
}

/// Returns every problem of [`problems`] and of [`problems_of_moves`].
fn all_problems(router: &Router) -> Vec<(&'static str, u16, Reply)> {
    let mut all = problems(router);
    all.extend(problems_of_moves(router));
    all
}

#[test]
fn every_code_is_produced_or_needs_a_fault() {
    let router = Router::start_with(&["--operate"]);
    let produced: BTreeSet<&str> = all_problems(&router)
        .into_iter()
        .map(|(code, status, reply)| {
            assert_eq!((reply.status, &*reply.code()), (status, code), "{}", reply.text());
            code
        })
        .collect();
    let all: BTreeSet<&str> =
        api_router::problem::Code::ALL.iter().map(|code| code.name()).collect();
    let needing = needing_more();
    assert_eq!(produced.union(&needing).copied().collect::<BTreeSet<_>>(), all);
    assert!(produced.is_disjoint(&needing));
    let shown = tests_of_them();
    needing.iter().for_each(|code| assert!(shown.contains(code), "{code} is produced nowhere"));
}

#[test]
fn an_operator_finds_every_code_in_the_guide() {
    let guide = include_str!("../../docs/src/errors.md");
    let rows = guide.lines().filter(|line| line.starts_with("| TSR"));
    let reported: String = rows.map(|row| row.split('|').nth(1).unwrap()).collect();
    for code in api_router::problem::Code::ALL {
        assert!(reported.contains(code.name()), "{} is in no row", code.name());
    }
}

#[test]
fn every_problem_has_the_members_of_the_contract() {
    let router = Router::start_with(&["--operate"]);
    for (code, status, reply) in all_problems(&router) {
        let body = redacted(&reply);
        assert_eq!(body["type"], format!("/errors/{code}"));
        assert_eq!(
            (&body["code"], &body["status"], &body["success"]),
            (&json!(code), &json!(status), &json!(false))
        );
        for (one, other) in [("title", "message"), ("title", "error"), ("detail", "details")] {
            assert!(body[one].as_str().is_some_and(|text| !text.is_empty()), "{body}");
            assert_eq!(body[one], body[other], "{body}");
        }
        assert!(
            body["hint"].is_null() || body["hint"].as_str().is_some_and(|hint| !hint.is_empty()),
            "{body}"
        );
        assert_eq!(body["retryable"], json!(status >= 500), "{body}");
        let known = [
            "type",
            "title",
            "status",
            "detail",
            "code",
            "message",
            "details",
            "hint",
            "success",
            "error",
            "shard",
            "outcome",
            "retryable",
            "request_id",
        ];
        for member in body.as_object().unwrap().keys() {
            assert!(known.contains(&&**member), "{member}: {body}");
        }
        assert_eq!(reply.header("retry-after").is_some(), status == 503 || status == 429, "{body}");
        let page = router.get(&format!("/errors/{code}"));
        assert_eq!(page.status, 200);
        assert!(
            page.text().contains(code) && page.text().contains(body["title"].as_str().unwrap()),
            "{}",
            page.text()
        );
    }
}

#[test]
fn no_body_has_sql_a_path_or_an_address() {
    let router = Router::start_with(&["--operate"]);
    let mut bodies: Vec<String> =
        all_problems(&router).iter().map(|(_, _, reply)| reply.text()).collect();
    for path in [
        "/api/health",
        "/api/shards",
        "/api/shard-map",
        "/api/route?key=u",
        "/api/read?table=users",
        "/",
        "/api/analytics/errors?limit=1000",
        "/api/analytics/metrics",
        "/api-docs/openapi.json",
        "/ready",
    ] {
        let reply = router.get(path);
        assert_eq!(reply.status, 200, "{path}");
        bodies.push(reply.text());
    }
    for code in api_router::problem::Code::ALL {
        bodies.push(router.get(&format!("/errors/{}", code.name())).text());
    }
    let bulk = r#"{"table":"users","op":"insert","records":[{"user_id":"there","name":"N","email":"e"},{},{"user_id":1}]}"#;
    bodies.push(post(&router, "/api/bulk-write", &[], bulk).text());
    let forbidden = [
        "SELECT",
        "INSERT INTO",
        "UPDATE ",
        "DELETE FROM",
        "UNIQUE",
        "PRIMARY KEY",
        "PRAGMA",
        "tessera_",
        "json_each",
        "diesel",
        "/tmp",
        crate::folders::MEMORY,
        "/work",
        "/home",
        ".db",
        ".rs:",
        ".sqlite",
        "src/",
        "127.0.0.1",
        "panicked",
        "Error {",
        "Some(",
    ];
    for body in bodies {
        for word in forbidden {
            assert!(!body.contains(word), "{word}: {body}");
        }
    }
}

#[test]
fn only_failed_writes_have_an_outcome() {
    let router = Router::start_with(&["--operate"]);
    for (code, _, reply) in all_problems(&router) {
        let body = reply.json();
        let is_write = ![
            "TSR100", "TSR105", "TSR106", "TSR111", "TSR113", "TSR310", "TSR311", "TSR350",
            "TSR403",
        ]
        .contains(&code)
            && reply.status != 406;
        let expected = if is_write { json!("rejected") } else { Value::Null };
        assert_eq!(body["outcome"], expected, "{body}");
    }
    // A write has this outcome however early it is refused.
    for headers in [
        ("origin", "http://evil.example"),
        ("x-deadline-ms", "1"),
        ("accept", "text/html"),
        ("if-match", "\"1\""),
        ("prefer", "handling=strict,x"),
        ("x-request-id", "a b"),
    ] {
        for path in ["/api/write", "/api/bulk-write"] {
            let reply = post(&router, path, &[headers], "{}");
            assert_eq!(reply.json()["outcome"], "rejected", "{headers:?}: {}", reply.text());
        }
    }
}

#[test]
fn the_body_of_a_refused_read() {
    let router = Router::shared();
    insta::assert_json_snapshot!(redacted(&read(&router, &[], "table=users&order=nmae")), @r#"
    {
      "code": "TSR311",
      "detail": "users has no column `nmae`",
      "details": "users has no column `nmae`",
      "error": "No such column",
      "hint": "did you mean `name`?",
      "message": "No such column",
      "request_id": "[id]",
      "retryable": false,
      "status": 400,
      "success": false,
      "title": "No such column",
      "type": "/errors/TSR311"
    }
    "#);
}

#[test]
fn the_body_of_a_refused_write() {
    let router = Router::shared();
    insta::assert_json_snapshot!(redacted(&write(&router, r#"{"table":"users","data":{"user_id":"u","name":"N","emial":"e"}}"#)), @r#"
    {
      "code": "TSR311",
      "detail": "users has no column `emial`",
      "details": "users has no column `emial`",
      "error": "No such column",
      "hint": "did you mean `email`?",
      "message": "No such column",
      "outcome": "rejected",
      "request_id": "[id]",
      "retryable": false,
      "status": 400,
      "success": false,
      "title": "No such column",
      "type": "/errors/TSR311"
    }
    "#);
}

#[test]
fn the_body_of_a_write_that_a_shard_refused() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let router = Router::shared();
    router.write_user("u", "Ada");
    insta::assert_json_snapshot!(redacted(&write(
        &router,
        r#"{"table":"users","op":"insert","data":{"user_id":"u","name":"N","email":"e"}}"#
    )), @r#"
    {
      "code": "TSR301",
      "detail": "the row exists already",
      "details": "the row exists already",
      "error": "Exists already",
      "hint": "use op upsert or update to change it",
      "message": "Exists already",
      "outcome": "rejected",
      "request_id": "[id]",
      "retryable": false,
      "shard": "shard2",
      "status": 409,
      "success": false,
      "title": "Exists already",
      "type": "/errors/TSR301"
    }
    "#);
}

#[test]
fn the_body_of_a_write_that_came_too_late() {
    let router = Router::shared();
    insta::assert_json_snapshot!(redacted(&late(&router)), @r#"
    {
      "code": "TSR004",
      "detail": "the body did not arrive in time",
      "details": "the body did not arrive in time",
      "error": "Deadline passed",
      "hint": null,
      "message": "Deadline passed",
      "outcome": "rejected",
      "request_id": "[id]",
      "retryable": true,
      "status": 504,
      "success": false,
      "title": "Deadline passed",
      "type": "/errors/TSR004"
    }
    "#);
}

#[test]
fn the_body_of_a_bulk_write_that_was_stored_in_part() {
    let router = Router::shared();
    let records = json!([
        {"user_id": "a", "name": "N", "email": "e"},
        {"user_id": "a", "name": "N", "email": "e"},
        {"name": "N"},
    ]);
    let body = json!({"table": "users", "op": "insert", "records": records});
    let mut answer = router.post("/api/bulk-write", &[], &body).json();
    answer["elapsed_ms"] = json!("[time]");
    insta::assert_json_snapshot!(answer, @r#"
    {
      "accepted": 3,
      "elapsed_ms": "[time]",
      "failed": [
        {
          "error": {
            "code": "TSR301",
            "detail": "the row exists already",
            "details": "the row exists already",
            "error": "Exists already",
            "hint": "use op upsert or update to change it",
            "message": "Exists already",
            "outcome": "rejected",
            "retryable": false,
            "shard": "shard1",
            "status": 409,
            "success": false,
            "title": "Exists already",
            "type": "/errors/TSR301"
          },
          "index": 1,
          "outcome": "rejected",
          "retryable": false,
          "shard": "shard1"
        },
        {
          "error": {
            "code": "TSR104",
            "detail": "the row names no shard key",
            "details": "the row names no shard key",
            "error": "Shard key needed",
            "hint": "give it a shard_key",
            "message": "Shard key needed",
            "outcome": "rejected",
            "retryable": false,
            "status": 400,
            "success": false,
            "title": "Shard key needed",
            "type": "/errors/TSR104"
          },
          "index": 2,
          "outcome": "rejected",
          "retryable": false,
          "shard": null
        }
      ],
      "failed_total": 2,
      "shards": [
        {
          "rows": 1,
          "shard": "shard1"
        }
      ],
      "stored": 1,
      "success": false
    }
    "#);
}
