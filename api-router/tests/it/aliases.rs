//! Tests of the alias routes: command lines for a smaller sharding proxy work unchanged, except for
//! the port.

use std::process::Command;

use serde_json::{Value, json};

use crate::client::{refusal, refused, settle};
use crate::harness::{Reply, Router};
use crate::prerequisites::{Prerequisite, skip};

fn write(router: &Router, headers: &[(&str, &str)], body: &str) -> Reply {
    router.send("POST", "/write", headers, Some(body.as_bytes()))
}

/// Runs a command line from the proxy's documentation against this router.
fn shell(router: &Router, line: &str) -> Value {
    let line = line.replace("127.0.0.1:3000", &router.address().to_string());
    let output = Command::new("sh").args(["-c", &line]).env("NO_PROXY", "*").output().unwrap();
    assert!(output.status.success(), "{line}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_command_lines_of_the_proxy_work_as_they_are_written() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    if Command::new("curl").arg("--version").output().is_err() {
        return skip(Prerequisite::Curl, "curl is not installed");
    }
    let router = Router::start();
    let shard = router.get("/api/route?key=user_123").json()["shard"].clone();
    let written = shell(
        &router,
        r#"curl -s -X POST http://127.0.0.1:3000/write -d '{"key":"user_123","value":"John Doe"}'"#,
    );
    assert_eq!(written, json!({"message": "Write successful", "shard": shard}));
    // curl keeps no session token: the replica that the next command reads from must have the row.
    settle(&router);
    let read = shell(&router, "curl -s 'http://127.0.0.1:3000/read?key=user_123'");
    assert_eq!(read, json!({"key": "user_123", "value": "John Doe", "shard": shard}));
    let stats = shell(&router, "curl -s http://127.0.0.1:3000/stats");
    assert_eq!(stats["shards"].as_array().unwrap().len(), 3, "{stats}");
}

#[test]
fn a_pair_is_written_whatever_type_its_body_claims() {
    let router = Router::shared();
    for (n, kind) in
        ["application/x-www-form-urlencoded", "text/plain", "application/json", "", "nonsense"]
            .into_iter()
            .enumerate()
    {
        let reply =
            write(&router, &[("content-type", kind)], &json!({"key": "k", "value": n}).to_string());
        assert_eq!((reply.status, &reply.json()["message"]), (200, &json!("Write successful")));
        assert_eq!(router.get("/read?key=k").json()["value"], n, "{kind}");
    }
    let packed = write(&router, &[("content-encoding", "gzip")], r#"{"key":"k","value":1}"#);
    assert_eq!(refusal(&packed), refused(415, "TSR107"));
    let plain = write(&router, &[("content-encoding", "Identity")], r#"{"key":"k","value":1}"#);
    assert_eq!(plain.status, 200, "{}", plain.text());
}

#[test]
fn a_pair_is_an_alias_of_a_value_under_a_key() {
    let router = Router::shared();
    let written = write(&router, &[], r#"{"key":"a b/é","value":{"n":[1, 2.50]}}"#);
    assert_eq!(written.status, 200, "{}", written.text());
    let value = router.get("/api/kv/a%20b/%C3%A9");
    assert_eq!(
        (&*value.text(), value.header("etag")),
        (r#"{"n":[1,2.50]}"#, written.header("etag"))
    );
    let read = router.get("/read?key=a+b%2F%C3%A9");
    let shard = written.json()["shard"].as_str().unwrap().to_owned();
    assert_eq!(
        read.text(),
        format!(r#"{{"key":"a b/é","value":{{"n":[1,2.50]}},"shard":"{shard}"}}"#)
    );
    for reply in [&written, &read] {
        for name in [
            "x-shard",
            "x-shard-slot",
            "x-served-by",
            "x-epoch",
            "x-session-token",
            "etag",
            "server-timing",
        ] {
            assert!(reply.header(name).is_some(), "{name}");
        }
    }
    for value in ["null", "false", "\"\"", "9223372036854775808"] {
        write(&router, &[], &format!(r#"{{"value":{value},"key":"k"}}"#));
        assert!(router.get("/read?key=k").text().contains(&format!("\"value\":{value},")));
    }
}

#[test]
fn only_preferences_that_the_write_of_a_pair_honours_are_named_as_applied() {
    let router = Router::shared();
    for (wish, applied) in [
        ("return=representation", None),
        ("return=minimal", Some("return=minimal")),
        ("return=representation, tx=per-shard", Some("tx=per-shard")),
    ] {
        let reply = write(&router, &[("prefer", wish)], r#"{"key":"k","value":1}"#);
        assert_eq!((reply.status, reply.header("preference-applied")), (200, applied), "{wish}");
    }
}

#[test]
fn a_pair_keeps_the_conditions_and_levels_of_other_writes() {
    let router = Router::start();
    let body = r#"{"key":"k","value":1}"#;
    let once = [("idempotency-key", "once"), ("x-consistency", "all"), ("x-shard-key", "k")];
    let first = write(&router, &once, body);
    assert_eq!(write(&router, &once, body).header("idempotency-replayed"), Some("true"));
    assert_eq!(refusal(&write(&router, &[("if-none-match", "*")], body)), refused(409, "TSR301"));
    assert_eq!(refusal(&write(&router, &[("if-match", "\"0\"")], body)), refused(412, "TSR303"));
    let tag = [("if-none-match", first.header("etag").unwrap())];
    let same = router.send("GET", "/read?key=k", &tag, None);
    assert_eq!((same.status, same.body.len()), (304, 0));
}

#[test]
fn a_malformed_pair_is_refused_with_its_member() {
    // The metrics of a shared router may count the writes of an earlier test.
    let router = Router::start();
    let large = format!(r#"{{"key":"k","value":"{}"}}"#, "v".repeat(1 << 20));
    let long = format!(r#"{{"key":"{}","value":1}}"#, "k".repeat(257));
    for (body, status, code, named) in [
        ("", 400, "TSR101", "JSON"),
        ("[]", 400, "TSR101", "object"),
        ("key=user_123&value=John", 400, "TSR101", "JSON"),
        (r#"{"value":1}"#, 400, "TSR101", "key is missing"),
        (r#"{"key":"k"}"#, 400, "TSR101", "value is missing"),
        (r#"{"key":7,"value":1}"#, 400, "TSR101", "key must be a string"),
        (r#"{"key":"","value":1}"#, 400, "TSR101", "key: "),
        (r#"{"key":"a\u0000","value":1}"#, 400, "TSR101", "key: "),
        (&long, 400, "TSR101", "key: "),
        (r#"{"key":"k","key":"l","value":1}"#, 400, "TSR101", "key is given twice"),
        (r#"{"key":"k","value":1,"ttl":5}"#, 400, "TSR102", "ttl"),
        (r#"{"key":"k","value":"\u0000"}"#, 400, "TSR312", "U+0000"),
        (&large, 413, "TSR108", "value is larger than 1 MiB"),
    ] {
        let reply = write(&router, &[], body);
        let shown: String = body.chars().take(60).collect();
        assert_eq!(refusal(&reply), refused(status, code), "{shown}: {}", reply.text());
        assert!(reply.text().contains(named), "{shown}: {}", reply.text());
    }
    let other = write(&router, &[("x-shard-key", "other")], r#"{"key":"k","value":1}"#);
    assert_eq!(refusal(&other), refused(400, "TSR103"));
    for (query, status, code) in [
        ("", 400, "TSR100"),
        ("?key=", 400, "TSR100"),
        ("?key=a&key=b", 400, "TSR100"),
        ("?key=%00", 400, "TSR100"),
        ("?kee=a", 400, "TSR100"),
        ("?key=k", 404, "TSR302"),
    ] {
        let reply = router.get(&format!("/read{query}"));
        assert_eq!((reply.status, &*reply.code()), (status, code), "{query}: {}", reply.text());
    }
    assert_eq!(router.get("/api/analytics/metrics").json()["metrics"]["writes"], 14);
}

#[test]
fn the_distribution_counts_the_rows_of_all_tables_and_none_of_our_own() {
    let router = Router::start();
    let stats = || router.get("/stats").json();
    let empty = stats();
    assert_eq!(empty["total_rows"], 0, "{empty}");
    for n in 0..30 {
        let key = format!("k{n}");
        // With an idempotency key, a record is stored beside the row, in one of Tessera's own
        // tables.
        let body = json!({"key": key, "value": n}).to_string();
        assert_eq!(write(&router, &[("idempotency-key", "once")], &body).status, 200);
        assert_eq!(router.write_user(&key, "Name").status, 201);
    }
    assert_eq!(router.send("DELETE", "/api/kv/k0", &[], None).status, 200);
    let full = stats();
    let members: Vec<&String> = full.as_object().unwrap().keys().collect();
    assert_eq!(members, ["shards", "total_rows"]);
    assert_eq!(full["total_rows"], 59, "{full}");
    let sum = |member: &str| {
        let shards = full["shards"].as_array().unwrap().iter();
        shards.map(|shard| shard[member].as_i64().unwrap()).sum::<i64>()
    };
    assert_eq!((sum("rows"), sum("slots")), (59, 16_384), "{full}");
    // The response of the longer path has the same numbers.
    let shards = router.get("/api/shards").json()["shards"].as_array().unwrap().clone();
    for (short, long) in full["shards"].as_array().unwrap().iter().zip(&shards) {
        let tables = long["tables"].as_array().unwrap().iter();
        let rows: i64 = tables.map(|table| table["rows"].as_i64().unwrap()).sum();
        assert_eq!((&short["shard"], &short["slots"]), (&long["shard"], &long["slots"]));
        assert_eq!(short["rows"], rows, "{short}");
    }
}
