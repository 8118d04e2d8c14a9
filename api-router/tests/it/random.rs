//! Property tests: no JSON body and no query string, however odd, causes a 5xx response or breaks
//! the connection.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Map, Value, json};

use crate::harness::{Reply, Router};

/// Returns a runner with the same cases in every run.
fn runner(cases: u32) -> TestRunner {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

/// Checks that a response can be used by a client: JSON, no 5xx, and a problem if it is not a
/// success.
fn check(reply: &Reply) -> Result<(), TestCaseError> {
    prop_assert!((200..500).contains(&reply.status), "{}: {}", reply.status, reply.text());
    let body: Value = serde_json::from_slice(&reply.body)
        .map_err(|error| TestCaseError::fail(format!("{error}: {}", reply.text())))?;
    prop_assert_eq!(&body["success"], &json!(reply.status < 300 && reply.status != 207));
    if reply.status >= 400 {
        prop_assert!(body["code"].as_str().is_some_and(|code| code.starts_with("TSR")), "{}", body);
        prop_assert_eq!(&body["status"], &json!(reply.status));
    }
    Ok(())
}

fn any_json() -> impl Strategy<Value = Value> + Clone {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            vec((word(), inner), 0..6).prop_map(|members| Value::from(Map::from_iter(members))),
        ]
    })
}

/// Returns a strategy for words with a meaning in the API, and other words.
fn word() -> impl Strategy<Value = String> + Clone {
    let known = vec![
        "table",
        "op",
        "data",
        "rows",
        "records",
        "shardKey",
        "shard_key",
        "users",
        "orders",
        "products",
        "kv",
        "upsert",
        "insert",
        "update",
        "delete",
        "user_id",
        "order_id",
        "name",
        "email",
        "amount",
        "price",
        "stock",
        "attributes",
        "value",
        "key",
        "version",
        "slot",
        "u",
        "",
        "\0",
        "'",
        "\"",
        "select",
        "order",
        "limit",
    ];
    prop_oneof![3 => select(known).prop_map(str::to_owned), 1 => any::<String>()]
}

/// Returns a strategy for JSON values that resemble a request, with odd parts.
fn any_body() -> impl Strategy<Value = Value> {
    let member = |likely: Vec<Value>| {
        let (likely, odd) = (select(likely).prop_map(Some), any_json().prop_map(Some));
        prop_oneof![4 => likely, 1 => odd, 1 => Just(None)]
    };
    let row =
        || vec((word(), any_json()), 0..5).prop_map(|members| Value::from(Map::from_iter(members)));
    let data = prop_oneof![row(), vec(row(), 0..4).prop_map(Value::from), any_json()];
    let names = select(vec!["data", "rows", "records"]);
    let request = (
        member(["users", "orders", "products", "kv"].map(Value::from).to_vec()),
        member(["upsert", "insert", "update", "delete"].map(Value::from).to_vec()),
        names,
        data,
    );
    let request = request.prop_map(|(table, op, name, data)| {
        let mut body = json!({ name: data });
        for (name, value) in [("table", table), ("op", op)] {
            if let Some(value) = value {
                body[name] = value;
            }
        }
        body
    });
    prop_oneof![4 => request, 1 => any_json()]
}

#[test]
fn no_json_body_ever_breaks_a_write() {
    let router = Router::shared();
    let headers = [("x-shard-key", "u"), ("content-type", "application/json")];
    let tested = runner(500).run(&any_body(), |body| {
        for path in ["/api/write", "/api/bulk-write"] {
            let sent = router.try_send("POST", path, &headers, Some(body.to_string().as_bytes()));
            check(&sent.map_err(|error| TestCaseError::fail(error.to_string()))?)?;
        }
        Ok(())
    });
    tested.unwrap();
}

#[test]
fn no_bytes_ever_break_a_write() {
    let router = Router::shared();
    let valid = r#"{"table":"products","data":{"product_id":"u","name":"\ud83d\ude00 é","price":-1,"stock":0,"attributes":{"a":[1.5e3,null]}}}"#;
    let edits = vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 0..6);
    let headers = [("x-shard-key", "u"), ("content-type", "application/json")];
    let tested = runner(500).run(&edits, |edits| {
        let mut bytes = valid.as_bytes().to_vec();
        for (at, byte, kind) in edits {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        let sent = router.try_send("POST", "/api/write", &headers, Some(&bytes));
        check(&sent.map_err(|error| TestCaseError::fail(error.to_string()))?)
    });
    tested.unwrap();
}

#[test]
fn no_query_string_ever_breaks_a_read() {
    let router = Router::shared();
    router.write_user("u", "Ada");
    let piece = prop_oneof![
        6 => word().prop_map(|word| encoded(word.as_bytes())),
        1 => vec(any::<u8>(), 0..6).prop_map(|bytes| encoded(&bytes)),
        6 => select(vec!["eq.", "in.", "(", ")", ",", ".", ":", "\"", "%5C", "=", "&", "*", "+", "desc", "-1", "1e9", "%"])
            .prop_map(|mark| mark.replace('"', "%22")),
    ];
    let parameter = (
        prop_oneof![4 => select(vec!["table=users", "select=", "order=", "limit=", "name=eq.", "user_id=in.(", "shardKey="])
            .prop_map(str::to_owned), 1 => Just(String::new())],
        vec(piece, 0..5),
    );
    let parameter = parameter.prop_map(|(name, pieces)| format!("{name}{}", pieces.concat()));
    let query = (any::<bool>(), vec(parameter, 0..5)).prop_map(|(table, parameters)| {
        format!("{}{}", if table { "table=users&" } else { "" }, parameters.join("&"))
    });
    let tested = runner(800).run(&query, |query| {
        for path in ["/api/read", "/api/route"] {
            let request = format!("{path}?{query}");
            let sent = router.try_send("GET", &request, &[], None);
            check_read(&sent.map_err(|error| TestCaseError::fail(format!("{request}: {error}")))?)?;
        }
        Ok(())
    });
    tested.unwrap();
    assert_eq!(router.read("u", "table=users").json()["count"], 1);
}

/// Checks the response to a read. Those of `/api/route` have no member `success`.
fn check_read(reply: &Reply) -> Result<(), TestCaseError> {
    if reply.status == 200 && reply.json()["keyspace"] == "hash" {
        return Ok(());
    }
    check(reply)
}

fn encoded(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("%{byte:02X}")).collect()
}
