//! Tests of checks: a result names the grant that allows a request, or the part that no grant
//! allows.

use std::sync::Arc;

use access::check::{CheckAnswer, CheckRequest};
use access::grant::{ColumnSet, KeyRule};
use access::rights::CompiledRole;
use access::role::AccessRole;
use serde_json::{Value, json};

fn shop() -> Arc<CompiledRole> {
    let role = json!({"role": "shop", "grants": [
        {"tables": ["users"], "may": ["read", "insert"], "keys": "$tenant:*", "columns": ["id", "name"]},
        {"tables": ["users", "orders"], "may": ["read"], "keys": "*", "columns": ["id"]},
        {"tables": ["orders"], "may": ["insert", "update"], "keys": ["b", "a"]},
    ]});
    Arc::new(CompiledRole::new(AccessRole::parse(&role.to_string()).unwrap()))
}

fn decide(request: &Value) -> CheckAnswer {
    CheckRequest::parse(&request.to_string()).unwrap().decide(Some(&shop()))
}

#[test]
fn the_grant_that_allows_a_request_is_named() {
    for (tenant, operation, table, key, columns, grant) in [
        (json!("acme"), "read", "users", json!("acme:1"), json!(["name"]), 0),
        (json!(["other", "acme"]), "read", "users", json!("acme:1"), json!(["id"]), 0),
        (json!("acme"), "read", "users", json!("other"), json!(["id"]), 1),
        (json!([]), "read", "orders", json!("x"), json!([]), 1),
        (json!([]), "upsert", "orders", json!("a"), json!(["any"]), 2),
    ] {
        let request = json!({"role": "shop", "tenant": tenant, "operation": operation,
            "table": table, "key": key, "columns": columns});
        let answer = decide(&request);
        assert!(matches!(answer, CheckAnswer::Allowed { grant: found, .. } if found == grant));
    }
    let answer =
        decide(&json!({"role": "shop", "tenant": "acme", "operation": "read", "table": "users"}));
    let columns = ColumnSet::Named(["id".into(), "name".into()].into());
    let keys = KeyRule::TenantPrefix { separator: ':' };
    assert_eq!(answer, CheckAnswer::Allowed { grant: 0, keys, columns });
}

#[test]
fn an_answer_is_json_as_documented() {
    let request = |changes: Value| {
        let mut request =
            json!({"role": "shop", "tenant": "acme", "operation": "read", "table": "users"});
        request.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        serde_json::from_str::<Value>(&decide(&request).to_json()).unwrap()
    };
    let own = json!({"allowed": true, "grant": 0, "keys": "$tenant:*", "columns": ["id", "name"]});
    assert_eq!(request(json!({"key": "acme:1"})), own);
    let keys = json!({"table": "orders", "operation": "update", "key": "a"});
    let literal = json!({"allowed": true, "grant": 2, "keys": ["a", "b"], "columns": "*"});
    assert_eq!(request(keys), literal);
    for (changes, lacks) in [
        (json!({"table": "secrets"}), "table"),
        (json!({"operation": "delete"}), "operation"),
        (json!({"columns": ["email"]}), "column"),
        (json!({"table": "orders", "operation": "update", "key": "c"}), "key"),
        (json!({"key": "acme2:1", "columns": ["name"]}), "key"),
        (json!({"tenant": "acme:x"}), "tenant"),
    ] {
        let answer = request(changes.clone());
        assert_eq!((&answer["allowed"], &answer["lacks"]), (&json!(false), &json!(lacks)));
        assert!(answer["detail"].as_str().is_some_and(|text| !text.is_empty()), "{changes}");
    }
    let any = json!({"role": "gone", "operation": "read", "table": "users"}).to_string();
    let answer = CheckRequest::parse(&any).unwrap().decide(None);
    assert!(answer.to_json().contains(r#""lacks":"role""#));
}

#[test]
fn an_error_names_the_member() {
    let good = json!({"role": "shop", "tenant": "acme", "operation": "read", "table": "users",
        "key": "acme:1", "columns": ["id"]});
    assert!(CheckRequest::parse(&good.to_string()).is_ok());
    for (member, value) in [
        ("role", json!("Shop")),
        ("role", json!(1)),
        ("tenant", json!("")),
        ("tenant", json!(17)),
        ("tenant", json!(["a", null])),
        ("operation", json!("drop")),
        ("operation", json!(["read"])),
        ("table", json!("users; --")),
        ("key", json!("")),
        ("key", json!("a\0")),
        ("columns", json!("id")),
        ("columns", json!(["Id"])),
        ("columns", json!(vec!["id"; 257])),
    ] {
        let mut request = good.clone();
        request[member] = value.clone();
        let error = CheckRequest::parse(&request.to_string()).unwrap_err();
        assert_eq!(error.member, member, "{value}: {error}");
        request[member] = Value::Null;
        let error = CheckRequest::parse(&request.to_string()).unwrap_err();
        assert_eq!(error.member, member, "null: {error}");
    }
    for (json, word) in [
        (r#"{"role":"a","operation":"read","table":"t","colums":["id"]}"#, "`colums`"),
        (r#"{"role":"a","role":"b","operation":"read","table":"t"}"#, "`role`"),
        (r#"["a","acme","read","t"]"#, "object"),
    ] {
        let error = CheckRequest::parse(json).unwrap_err();
        assert_eq!(error.member, "the check");
        assert!(error.fault.contains(word), "{error}");
    }
    for member in ["role", "operation", "table"] {
        let mut request = good.clone();
        request.as_object_mut().unwrap().remove(member);
        assert_eq!(CheckRequest::parse(&request.to_string()).unwrap_err().member, member);
    }
}
