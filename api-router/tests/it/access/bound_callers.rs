//! Tests of callers that are bound to keys: neither a scope nor an error tells them of the keys of
//! others.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::catalog_keys::{create, send, served};
use super::guarded::{Guarded, admin};

/// Defines a role that is bound to these keys, and returns a key of it for the tenant `acme`.
fn bound_key(guarded: &Guarded, keys: &str, scopes: &Value) -> String {
    let may = ["read", "insert", "update", "delete"];
    let grants = json!([{"tables": ["users", "kv"], "may": may, "keys": keys}]);
    let role = json!({"role": "confined", "grants": grants, "scopes": scopes});
    served(send(guarded, "PUT", "/api/access/roles/confined", Some(&role)), 200);
    create(guarded, &json!({"role": "confined", "tenants": ["acme"]})).1
}

fn user(id: &str) -> Value {
    json!({"user_id": id, "name": "N", "email": "e"})
}

#[test]
fn a_caller_that_is_bound_to_keys_sees_no_keys_of_others_by_a_scope() {
    let guarded = Guarded::start("on", &[]);
    let bound = bound_key(&guarded, "$tenant", &json!(["lab", "frames"]));
    let foreign = json!({"table": "users", "data": user("zeta")});
    served(send(&guarded, "POST", "/api/write", Some(&foreign)), 201);
    for path in ["/api/lab/writes", "/api/analytics/frames"] {
        let refused = guarded.send("GET", path, Some(&bound));
        assert_eq!((refused.status, &*refused.code()), (403, "TSR403"), "{}", refused.text());
        let detail = refused.json()["detail"].to_string();
        assert!(detail.contains("bound to keys") && !refused.text().contains("zeta"), "{detail}");
        assert_eq!(guarded.send("GET", path, Some(admin().reveal())).status, 200, "{path}");
    }
    let trial = guarded.send("GET", "/api/lab/placements", Some(&bound));
    assert_eq!(trial.status, 200, "it shows no stored keys: {}", trial.text());
}

#[test]
fn a_write_under_a_foreign_key_is_refused_alike_whether_its_partition_exists() {
    let guarded = Guarded::start("on", &["--keyspace", "list:acme=1,zeta=1"]);
    let key = bound_key(&guarded, "$tenant:*", &json!([]));
    let bearer = format!("Bearer {key}");
    let ask = |method: &str, path: &str, body: &Value| {
        guarded.send_with(method, path, Some(&key), &[], Some(body))
    };
    let own = ask("POST", "/api/write", &json!({"table": "users", "data": user("acme:1")}));
    assert_eq!(own.status, 201, "{}", own.text());
    let mut details = BTreeSet::new();
    for foreign in ["zeta:1", "other:1", "other"] {
        let row = json!({"table": "users", "data": user(foreign)});
        let put = ask("PUT", &format!("/api/kv/{foreign}"), &json!(1));
        for refused in [put, ask("POST", "/api/write", &row)] {
            let found = (refused.status, &*refused.code());
            assert_eq!(found, (403, "TSR403"), "{foreign}: {}", refused.text());
            details.insert(refused.json()["detail"].to_string());
        }
        let records = json!({"table": "users", "records": [user(foreign), user("acme:2")]});
        let bulk = ask("POST", "/api/bulk-write", &records);
        let headers = [("authorization", &*bearer), ("content-type", "application/x-ndjson")];
        let line = user(foreign).to_string();
        let path = "/api/bulk-write?table=users";
        let stream = guarded.router.send("POST", path, &headers, Some(line.as_bytes()));
        for reply in [bulk, stream] {
            assert_eq!(reply.status, 207, "{foreign}: {}", reply.text());
            let answer = reply.json();
            assert_eq!(answer["failed_total"], 1, "{answer}");
            let failed = &answer["failed"][0];
            let found = (&failed["error"]["code"], &failed["shard"]);
            assert_eq!(found, (&json!("TSR403"), &Value::Null), "{answer}");
            details.insert(failed["error"]["detail"].to_string());
        }
    }
    // There is one for each of the two tables.
    assert_eq!(details.len(), 2, "{details:?}");
    assert!(details.iter().all(|detail| !detail.contains("zeta")), "{details:?}");
}
