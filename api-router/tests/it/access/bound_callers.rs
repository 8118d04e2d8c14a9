//! Tests of callers that are bound to keys: neither a scope nor an error shows them the keys of
//! others.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::catalog_keys::{create, send, served};
use super::guarded::{Guarded, admin};
use crate::backend::not_on_citus;
use crate::harness::eventually;

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

#[test]
fn a_key_is_located_in_a_table_only_by_a_caller_with_a_grant_of_that_table_for_it() {
    let guarded = Guarded::start("on", &[]);
    let grants = json!([
        {"tables": ["users"], "may": ["read"], "keys": "$tenant"},
        {"tables": ["products"], "may": ["read"], "keys": "*"}]);
    let role = json!({"role": "shopper", "grants": grants});
    served(send(&guarded, "PUT", "/api/access/roles/shopper", Some(&role)), 200);
    let key = create(&guarded, &json!({"role": "shopper", "tenants": ["acme"]})).1;
    let cases = [
        ("key=acme&table=users", 200),
        ("key=acme2&table=users", 403),
        ("key=acme2&table=products", 200),
        ("key=acme2", 200),
    ];
    for (query, expected) in cases {
        let route = guarded.send("GET", &format!("/api/route?{query}"), Some(&key));
        assert_eq!(route.status, expected, "{query}: {}", route.text());
    }
}

/// Defines a role of these columns of a table, for all keys, and returns a key of it.
fn partial_key(guarded: &Guarded, table: &str, columns: &[&str]) -> String {
    let may = ["read", "insert", "update"];
    let grants = json!([{"tables": [table], "may": may, "keys": "*", "columns": columns}]);
    let role = json!({"role": "partial", "grants": grants});
    served(send(guarded, "PUT", "/api/access/roles/partial", Some(&role)), 200);
    create(guarded, &json!({"role": "partial"})).1
}

#[test]
fn a_hidden_partition_column_is_named_neither_by_a_route_nor_by_a_hint() {
    not_on_citus!("Citus is one shard to Tessera, and several are needed");
    // A read of a key goes to all shards if there are more than 100 partitions.
    let others: String = (0..100).map(|number| format!(",P{number}=1")).collect();
    let keyspace = format!("list(partition_key):A=1{others}");
    let placement = format!("partitions:A=1{others}").replace("=1", "=1>shard1");
    let flags = ["--keyspace", &keyspace, "--placement", &placement];
    let guarded = Guarded::start("on", &flags);
    let key = partial_key(&guarded, "users", &["user_id", "name", "email"]);
    let row = json!({"table": "users", "data": user("ada")});
    for (method, path, code) in [
        ("GET", "/api/route?key=ada", "TSR403"),
        ("GET", "/api/route?key=ada&partition=Z", "TSR403"),
        ("GET", "/api/route?key=ada&partition=A", "TSR403"),
        ("GET", "/api/route?key=ada&table=users&partition=A", "TSR403"),
        ("GET", "/api/route?key=ada&table=users", "TSR403"),
        ("GET", "/api/route?key=ada&x=1", "TSR100"),
        ("POST", "/api/write?x=1", "TSR100"),
    ] {
        let body = Some(&row).filter(|_| method == "POST");
        let refused = guarded.send_with(method, path, Some(&key), &[], body);
        assert_eq!(refused.code(), code, "{path}: {}", refused.text());
        assert!(!refused.text().contains("partition_key"), "{path}: {}", refused.text());
    }
    // A table without the column has no partitions to hide.
    let grants = json!([{"tables": ["kv"], "may": ["read"], "keys": "*"}]);
    let role = json!({"role": "valued", "grants": grants});
    served(send(&guarded, "PUT", "/api/access/roles/valued", Some(&role)), 200);
    let valued = create(&guarded, &json!({"role": "valued"})).1;
    let cases = [
        ("/api/route?key=ada&table=kv&partition=A", 400),
        ("/api/route?key=ada&table=kv&partition=Z", 400),
        ("/api/route?key=ada&table=kv", 200),
    ];
    for (path, expected) in cases {
        let route = guarded.send("GET", path, Some(&valued));
        assert_eq!(route.status, expected, "{path}: {}", route.text());
        assert!(!route.text().contains("partition_key"), "{path}: {}", route.text());
    }
    let read = "/api/read?table=users&shardKey=ada";
    let denied = [("prefer", "fanout=deny")];
    let read = guarded.send_with("GET", read, Some(&key), &denied, None);
    assert_eq!(read.code(), "TSR104", "{}", read.text());
    assert!(!read.text().contains("partition_key"), "{}", read.text());
    let cases = [("/api/route?key=ada&partition_key=A", 200), ("/api/route?key=ada", 400)];
    for (path, expected) in cases {
        let shown = guarded.send("GET", path, Some(admin().reveal()));
        assert_eq!(shown.status, expected, "{}", shown.text());
        assert!(shown.text().contains("partition_key"), "{path}: {}", shown.text());
    }
}

#[test]
fn a_unique_index_of_hidden_columns_refuses_a_row_without_its_name() {
    not_on_citus!("Tessera does not build indexes on Citus");
    let guarded = Guarded::start("on", &[]);
    let key = partial_key(&guarded, "orders", &["order_id", "amount"]);
    let indexes = "/api/tables/orders/indexes";
    let index = json!({"name": "canary_pair", "columns": ["note", "amount"], "unique": true});
    served(send(&guarded, "POST", indexes, Some(&index)), 202);
    eventually("the index is ready", || {
        let listed = served(send(&guarded, "GET", indexes, None), 200);
        (listed["indexes"][0]["state"] == "ready").then_some(())
    });
    for (id, amount) in [("o1", 1), ("o2", 2)] {
        let data = json!({"order_id": id, "user_id": "ada", "amount": amount, "note": "a"});
        let order = json!({"table": "orders", "op": "insert", "data": data});
        served(send(&guarded, "POST", "/api/write", Some(&order)), 201);
    }
    let data = json!({"order_id": "o2", "amount": 1});
    let change = json!({"table": "orders", "op": "update", "shardKey": "ada", "data": data});
    let refused = guarded.send_with("POST", "/api/write", Some(&key), &[], Some(&change));
    assert_eq!((refused.status, &*refused.code()), (409, "TSR304"), "{}", refused.text());
    assert!(!refused.text().contains("canary"), "{}", refused.text());
    let named = send(&guarded, "POST", "/api/write", Some(&change));
    assert_eq!(named.status, 409, "{}", named.text());
    assert!(named.text().contains("canary_pair"), "{}", named.text());
}

#[test]
fn the_creation_of_a_hidden_table_shows_nothing_but_that_its_name_is_taken() {
    let guarded = Guarded::start("on", &[]);
    let scopes = json!(["tables"]);
    let grants = json!([
        {"tables": ["users"], "may": ["read"], "keys": "*"},
        {"tables": ["partial"], "may": ["read"], "keys": "*", "columns": ["id"]}]);
    let role = json!({"role": "maker", "grants": grants, "scopes": scopes});
    served(send(&guarded, "PUT", "/api/access/roles/maker", Some(&role)), 200);
    let key = create(&guarded, &json!({"role": "maker"})).1;
    let ask =
        |table: &Value| guarded.send_with("POST", "/api/tables", Some(&key), &[], Some(table));
    for name in ["salaries", "partial"] {
        let columns = json!([
            {"name": "id", "type": "text"},
            {"name": "canary_column", "type": "text", "default": "canary_value"}]);
        let table = json!({"name": name, "columns": columns, "id": ["id"]});
        served(send(&guarded, "POST", "/api/tables", Some(&table)), 201);
        let other = |columns: Value| json!({"name": name, "columns": columns, "id": ["id"]});
        let mut details = BTreeSet::new();
        for differing in [
            other(json!([{"name": "id", "type": "text"}])),
            other(json!([{"name": "id", "type": "bigint"}, {"name": "x", "type": "text"}])),
        ] {
            let refused = ask(&differing);
            assert_eq!((refused.status, &*refused.code()), (409, "TSR301"), "{}", refused.text());
            assert!(!refused.text().contains("canary"), "{}", refused.text());
            details.insert(refused.json()["detail"].to_string());
            let shown = send(&guarded, "POST", "/api/tables", Some(&differing));
            assert!(shown.text().contains("canary_column"), "{}", shown.text());
        }
        assert_eq!(details.len(), 1, "{details:?}");
    }
}

#[test]
fn the_creation_of_an_existing_table_shows_no_index_that_is_hidden() {
    not_on_citus!("Tessera does not build indexes on Citus");
    let guarded = Guarded::start("on", &[]);
    let grants = json!([{"tables": ["users"], "may": ["read"], "keys": "*"}]);
    let role = json!({"role": "maker", "grants": grants, "scopes": ["tables"]});
    served(send(&guarded, "PUT", "/api/access/roles/maker", Some(&role)), 200);
    let key = create(&guarded, &json!({"role": "maker"})).1;
    let columns = json!([{"name": "id", "type": "text"}, {"name": "grade", "type": "text"}]);
    let table = json!({"name": "salaries", "columns": columns, "id": ["id"]});
    served(send(&guarded, "POST", "/api/tables", Some(&table)), 201);
    let indexes = "/api/tables/salaries/indexes";
    let index = json!({"name": "canary_index", "columns": ["grade"]});
    served(send(&guarded, "POST", indexes, Some(&index)), 202);
    let shown = || served(send(&guarded, "POST", "/api/tables", Some(&table)), 200);
    eventually("the index is known", || {
        (shown()["indexes"][0]["name"] == "canary_index").then_some(())
    });
    let hidden = guarded.send_with("POST", "/api/tables", Some(&key), &[], Some(&table));
    assert_eq!(served(hidden, 200)["indexes"], json!([]));
}
