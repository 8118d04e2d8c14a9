//! Tests of rights that are not about rows, and of the routes that explain them.

use serde_json::{Value, json};

use super::guarded::{Guarded, admin, bound, powerless, reader, watcher};

const CHECK: &str = "/api/access/check";

#[test]
fn health_shows_details_only_to_those_who_may_see_analytics() {
    let guarded = Guarded::start("on", &[]);
    for path in ["/api/health", "/health", "/healthz"] {
        for text in [None, Some(powerless().reveal().to_owned())] {
            let answer = guarded.send("GET", path, text.as_deref());
            assert_eq!(answer.json(), json!({"success": true, "status": "ok"}), "{path}");
        }
        let answer = guarded.send("GET", path, Some(watcher().reveal())).json();
        assert!(answer["shards"].is_array(), "{answer}");
    }
}

#[test]
fn a_caller_can_read_its_identity_and_rights() {
    let guarded = Guarded::start("on", &[]);
    let me = |text: Option<&str>| guarded.send("GET", "/api/access/me", text).json();
    let anonymous = me(None);
    assert_eq!(
        (&anonymous["kind"], &anonymous["role"]),
        (&json!("anonymous"), &json!("anonymous"))
    );
    assert_eq!(anonymous["rights"]["grants"], json!([]));
    let key = bound();
    let shop = me(Some(key.reveal()));
    assert_eq!(shop["id"], key.id().to_string());
    assert_eq!((&shop["role"], &shop["tenants"]), (&json!("shop"), &json!(["acme"])), "{shop}");
    assert_eq!(shop["rights"]["grants"][0]["keys"], "$tenant", "{shop}");
    assert_eq!(shop["mode"], "on");
    assert!(!shop.to_string().contains(key.reveal()));
    let all = me(Some(admin().reveal()));
    assert!(all["rights"]["scopes"].as_array().unwrap().contains(&json!("keys")), "{all}");
}

fn check(guarded: &Guarded, body: &Value) -> Value {
    let reply = guarded.send_with("POST", CHECK, Some(admin().reveal()), &[], Some(body));
    assert_eq!(reply.status, 200, "{body}: {}", reply.text());
    reply.json()
}

#[test]
fn a_check_names_the_grant_or_what_lacks() {
    let guarded = Guarded::start("on", &[]);
    let shop = |operation: &str, table: &str, key: &str| {
        let body = json!({
            "role": "shop", "tenant": "acme", "operation": operation, "table": table, "key": key,
            "columns": ["name"],
        });
        check(&guarded, &body)
    };
    let allowed = shop("upsert", "users", "acme");
    assert_eq!(
        allowed,
        json!({"success": true, "allowed": true, "grant": 0, "keys": "$tenant", "columns": "*"})
    );
    for (operation, table, key, lacks) in
        [("read", "orders", "acme", "table"), ("read", "users", "acme2", "key")]
    {
        let denied = shop(operation, table, key);
        assert_eq!((&denied["allowed"], &denied["grant"]), (&json!(false), &Value::Null));
        assert_eq!(denied["lacks"], lacks, "{denied}");
    }
    let all = check(&guarded, &json!({"role": "reader", "operation": "read", "table": "users"}));
    assert_eq!((&all["allowed"], &all["keys"]), (&json!(true), &json!("*")), "{all}");
    let denied =
        check(&guarded, &json!({"role": "reader", "operation": "delete", "table": "users"}));
    assert_eq!(denied["lacks"], "operation", "{denied}");
    let document = guarded.send("GET", "/api-docs/openapi.json", None).json();
    let schemas = &document["components"]["schemas"];
    for (member, value) in [("keys", &allowed["keys"]), ("columns", &allowed["columns"])] {
        let schema = schemas["AccessDecision"]["properties"][member].to_string();
        assert!(value.is_string() && schema.contains("schemas/TextOrList"), "{schema}");
    }
    let kinds = schemas["TextOrList"]["oneOf"].as_array().unwrap().iter();
    let kinds: Vec<&Value> = kinds.map(|kind| &kind["type"]).collect();
    assert_eq!(kinds, ["string", "array"], "{schemas}");
    let unknown = check(&guarded, &json!({"role": "none", "operation": "read", "table": "users"}));
    assert_eq!(unknown["lacks"], "role", "{unknown}");
}

#[test]
fn a_check_that_cannot_be_understood_names_the_member() {
    let guarded = Guarded::start("on", &[]);
    let good = json!({"role": "shop", "operation": "read", "table": "users"});
    for (member, value, code) in [
        ("rolle", json!("shop"), "TSR102"),
        ("role", json!("Shop"), "TSR101"),
        ("role", json!(7), "TSR101"),
        ("operation", json!("drop"), "TSR101"),
        ("table", json!(null), "TSR101"),
        ("tenant", json!(""), "TSR101"),
        ("tenant", json!([1]), "TSR101"),
        ("key", json!(""), "TSR101"),
        ("columns", json!("name"), "TSR101"),
    ] {
        let mut body = good.clone();
        body.as_object_mut().unwrap().insert(member.to_owned(), value);
        let reply = guarded.send_with("POST", CHECK, Some(admin().reveal()), &[], Some(&body));
        assert_eq!((reply.status, &*reply.code()), (400, code), "{body}: {}", reply.text());
        assert!(reply.json()["detail"].as_str().unwrap().contains(member), "{}", reply.text());
    }
    for caller in [reader(), watcher(), bound()] {
        let reply = guarded.send_with("POST", CHECK, Some(caller.reveal()), &[], Some(&good));
        assert_eq!((reply.status, &*reply.code()), (403, "TSR403"), "{}", reply.text());
        assert!(
            reply.json()["detail"].as_str().unwrap().contains("scope keys"),
            "{}",
            reply.text()
        );
    }
}
