//! Tests of defaults: a new row may leave out columns that have one, its id and its shard key among
//! them.
//!
//! **Not here:** the form of a declaration without defaults (`declarations`).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::client::{refusal, refused, tokenless};
use crate::harness::{Reply, Router};
use crate::tables::{made, make};

/// Declares a table whose id, shard key and other columns have defaults.
fn notes() -> Value {
    json!({"name": "notes", "id": ["id"], "routing": "id", "columns": [
        {"name": "id", "type": "uuid", "default": {"fn": "uuid"}},
        {"name": "state", "type": "text", "default": "new"},
        {"name": "stars", "type": "bigint", "null": true, "default": 3},
        {"name": "tags", "type": "json", "default": ["a", null]},
        {"name": "noted_at", "type": "timestamp", "default": {"fn": "now"}},
        {"name": "mark", "type": "text", "null": true, "default": {"fn": "uuid"}}]})
}

/// Declares a table of parts whose id is generated, and whose rows need a shard key.
fn parts() -> Value {
    json!({"name": "parts", "id": ["id"], "columns": [
        {"name": "id", "type": "text", "default": {"fn": "uuid"}},
        {"name": "name", "type": "text"}]})
}

fn post(router: &Router, headers: &[(&str, &str)], body: &Value) -> Reply {
    let reply = router.post("/api/write", headers, body);
    assert!(reply.status < 300, "{body}: {}", reply.text());
    reply
}

/// Returns the version of a UUID in its hyphenated form.
fn uuid_version(value: &Value) -> char {
    let text = value.as_str().unwrap();
    assert_eq!((text.len(), text.matches('-').count()), (36, 4), "{text}");
    text.chars().nth(14).unwrap()
}

/// Returns the rows of a table (at most 1000), as they are on the primaries.
fn rows(router: &Router, table: &str) -> Vec<Value> {
    let level = [("x-consistency", "all")];
    let reply = tokenless(router).read_with(None, &level, &format!("table={table}&limit=1000"));
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["data"].as_array().unwrap().clone()
}

#[test]
fn an_insert_without_an_id_gets_a_new_uuid_and_returns_the_row() {
    let router = Router::start();
    made(&router, &notes());
    let mut ids = BTreeSet::new();
    for op in ["insert", "upsert", "insert"] {
        let reply = post(&router, &[], &json!({"table": "notes", "op": op, "data": {}}));
        assert_eq!(reply.status, 201, "{}", reply.text());
        let row = reply.json()["data"].clone();
        assert_eq!(uuid_version(&row["id"]), '7');
        assert_eq!(uuid_version(&row["mark"]), '7');
        assert_eq!((&row["state"], &row["stars"]), (&json!("new"), &json!(3)));
        assert_eq!(row["tags"], json!(["a", null]));
        assert_eq!(row["noted_at"], row["created_at"], "one moment");
        let id = row["id"].as_str().unwrap().to_owned();
        let found = router.read(&id, "table=notes").json()["data"].clone();
        assert_eq!(found, json!([row]), "the id is the shard key");
        ids.insert(id);
    }
    assert_eq!(ids.len(), 3);
    let kept = ids.first().unwrap();
    let given = json!({"table": "notes", "op": "insert", "data": {"id": kept}});
    let again = router.post("/api/write", &[], &given);
    assert_eq!(refusal(&again), refused(409, "TSR301"), "{}", again.text());
}

#[test]
fn an_upsert_keeps_what_is_stored_and_fills_in_defaults_for_a_new_row_only() {
    let router = Router::start();
    made(&router, &notes());
    made(&router, &parts());
    let id = "018f0e2a-0000-7000-8000-000000000001";
    let write = |data: Value| post(&router, &[], &json!({"table": "notes", "data": data}));
    let first = write(json!({"id": id, "state": "old", "stars": null}));
    let first = first.json()["data"].clone();
    assert_eq!((&first["state"], &first["stars"]), (&json!("old"), &Value::Null), "null is given");
    let kept = write(json!({"id": id, "tags": {}})).json()["data"].clone();
    assert_eq!((&kept["state"], &kept["tags"]), (&json!("old"), &json!({})));
    assert_eq!((&kept["noted_at"], &kept["mark"]), (&first["noted_at"], &first["mark"]));
    let update = json!({"table": "notes", "op": "update", "data": {"id": id, "state": "done"}});
    let changed = post(&router, &[], &update).json()["data"].clone();
    assert_eq!((&changed["state"], &changed["stars"]), (&json!("done"), &Value::Null));
    for op in ["update", "delete"] {
        let without = json!({"table": "notes", "op": op, "data": {}});
        let reply = router.post("/api/write", &[], &without);
        assert_eq!(refusal(&reply), refused(400, "TSR104"), "{}", reply.text());
        let reply = router.write("ada", &json!({"table": "parts", "op": op, "data": {}}));
        assert_eq!(refusal(&reply), refused(400, "TSR101"), "{}", reply.text());
        assert!(reply.text().contains("id is missing"), "{}", reply.text());
    }
}

#[test]
fn a_repeated_insert_without_an_id_makes_one_row() {
    let router = Router::start();
    made(&router, &notes());
    made(&router, &parts());
    let headers = [("idempotency-key", "first")];
    let body = json!({"table": "notes", "op": "insert", "data": {"state": "sent"}});
    let first = post(&router, &headers, &body);
    let again = post(&router, &headers, &body);
    assert_eq!(first.header("idempotency-replayed"), None);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(again.json()["data"], first.json()["data"]);
    assert_eq!(uuid_version(&first.json()["data"]["id"]), '8', "a hash of the key");
    let other = post(&router, &[("idempotency-key", "second")], &body);
    assert_ne!(other.json()["data"]["id"], first.json()["data"]["id"]);
    assert_eq!(rows(&router, "notes").len(), 2);
    let records = [json!({"name": "a"}), json!({"name": "b"})];
    let bulk = json!({"table": "parts", "op": "insert", "records": records});
    let headers = [("x-shard-key", "ada"), ("idempotency-key", "third")];
    for _ in 0..2 {
        let reply = router.post("/api/bulk-write", &headers, &bulk);
        assert_eq!(reply.status, 201, "{}", reply.text());
    }
    assert_eq!(rows(&router, "parts").len(), 2);
}

#[test]
fn a_bulk_write_leaves_the_row_of_a_single_write_with_the_same_key_as_it_is() {
    let router = Router::start();
    made(&router, &parts());
    let headers = [("x-shard-key", "ada"), ("idempotency-key", "same")];
    let single = json!({"table": "parts", "data": {"name": "single"}});
    let first = post(&router, &headers, &single).json()["data"]["id"].clone();
    let bulk = json!({"table": "parts", "records": [{"name": "bulk"}]});
    let reply = router.post("/api/bulk-write", &headers, &bulk);
    assert_eq!(reply.status, 201, "{}", reply.text());
    let stored = rows(&router, "parts");
    let name = |row: &Value| row["name"].as_str().unwrap().to_owned();
    let (kept, added): (Vec<&Value>, Vec<&Value>) =
        stored.iter().partition(|row| row["id"] == first);
    assert_eq!(kept.into_iter().map(name).collect::<Vec<_>>(), ["single"]);
    assert_eq!(added.into_iter().map(name).collect::<Vec<_>>(), ["bulk"]);
}

#[test]
fn an_upsert_with_a_generated_id_whose_record_has_expired_leaves_the_stored_row_as_it_is() {
    let router = Router::start();
    made(&router, &parts());
    let single = json!({"table": "parts", "data": {"name": "repeated"}});
    let bulk = json!({"table": "parts", "records": [{"name": "repeated"}]});
    // The generated id depends on the idempotency key, and the record belongs to a shard key: rows
    // of another shard key with these ids are like rows whose record has expired.
    for (path, key, body) in [("write", "first", &single), ("bulk-write", "second", &bulk)] {
        let path = format!("/api/{path}");
        let send = |shard_key: &str| {
            let headers = [("x-shard-key", shard_key), ("idempotency-key", key)];
            router.post(&path, &headers, body)
        };
        let known = rows(&router, "parts");
        assert_eq!(send("bob").status, 201, "{path}");
        let id = rows(&router, "parts").into_iter().find(|row| !known.contains(row)).unwrap();
        let stored = json!({"table": "parts", "data": {"id": id["id"], "name": "stored"}});
        post(&router, &[("x-shard-key", "ada")], &stored);
        let repeated = send("ada");
        assert!(repeated.text().contains("TSR301"), "{path}: {}", repeated.text());
        assert_ne!(repeated.status, 201, "{path}");
    }
    let stored = rows(&router, "parts");
    let mut names: Vec<&str> = stored.iter().map(|row| row["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["repeated", "repeated", "stored", "stored"]);
}

#[test]
fn a_refused_if_match_of_an_upsert_with_a_generated_id_is_explained_by_the_generated_id() {
    let router = Router::start();
    made(&router, &notes());
    let body = json!({"table": "notes", "data": {}});
    for condition in ["*", "\"1\""] {
        let headers = [("idempotency-key", "once"), ("if-match", condition)];
        let reply = router.post("/api/write", &headers, &body);
        assert_eq!(refusal(&reply), refused(400, "TSR113"), "{}", reply.text());
        let detail = reply.json()["detail"].as_str().unwrap().to_owned();
        let parts = ["if-match must be left out", "with Idempotency-Key whose id is generated"];
        assert!(parts.iter().all(|part| detail.contains(part)), "{detail}");
    }
    assert_eq!(rows(&router, "notes"), Vec::<Value>::new());
}

#[test]
fn rows_of_every_bulk_format_may_leave_out_columns_that_have_a_default() {
    let router = Router::start();
    made(&router, &notes());
    made(&router, &parts());
    let wrapped = json!({"table": "notes", "rows": [{"data": {"state": "a"}}, {"data": {}}]});
    let reply = router.post("/api/bulk-write", &[], &wrapped);
    assert_eq!(reply.status, 201, "{}", reply.text());
    let bodies = [
        ("application/x-ndjson", "notes", "{\"state\":\"b\"}\n{}\n"),
        ("text/csv", "notes", "state,stars\nc,\nd,5\n"),
        ("text/csv", "parts", "name,shard_key\nbolt,ada\nnut,bob\n"),
    ];
    for (format, table, body) in bodies {
        let path = format!("/api/bulk-write?table={table}");
        let reply = router.send("POST", &path, &[("content-type", format)], Some(body.as_bytes()));
        assert!(!reply.text().contains("\"rejected\""), "{}", reply.text());
    }
    let notes = rows(&router, "notes");
    let mut states: Vec<&str> = notes.iter().map(|row| row["state"].as_str().unwrap()).collect();
    states.sort_unstable();
    assert_eq!(states, ["a", "b", "c", "d", "new", "new"]);
    let stars = |state: &str| &notes.iter().find(|row| row["state"] == state).unwrap()["stars"];
    assert_eq!((stars("c"), stars("d")), (&Value::Null, &json!(5)), "an empty field is null");
    let ids: BTreeSet<String> = notes.iter().map(|row| row["id"].to_string()).collect();
    assert_eq!((ids.len(), rows(&router, "parts").len()), (6, 2));
}

#[test]
fn defaults_are_part_of_the_shape_of_a_table_and_outlive_a_restart() {
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    let mut router = Router::start_in(&data, &[]);
    let reply = make(&router, &notes());
    assert_eq!(reply.status, 201, "{}", reply.text());
    let shape = reply.json()["table"].clone();
    let declared = notes();
    for (shown, asked) in
        shape["columns"].as_array().unwrap().iter().zip(declared["columns"].as_array().unwrap())
    {
        assert_eq!(shown["default"], asked["default"], "{shown}");
    }
    assert_eq!(make(&router, &shape).status, 200, "what is shown declares the table");
    let mut other = notes();
    other["columns"][2]["default"] = json!(4);
    let reply = make(&router, &other);
    assert_eq!(refusal(&reply), refused(409, "TSR301"), "{}", reply.text());
    assert!(reply.text().contains("its column stars has the default 3"), "{}", reply.text());
    router.end();
    let router = Router::start_in(&data, &[]);
    assert_eq!(router.get("/api/tables/notes").json()["table"], shape);
    let row = post(&router, &[], &json!({"table": "notes", "data": {}})).json()["data"].clone();
    assert_eq!(row["state"], "new");
}

#[test]
fn a_default_that_its_column_cannot_have_is_refused_by_name() {
    let router = Router::start();
    let declare = |column: Value, routing: Value| {
        let columns = json!([{"name": "id", "type": "text"}, column]);
        let id = if column["name"] == "key" { json!(["key"]) } else { json!(["id"]) };
        make(&router, &json!({"name": "t", "columns": columns, "id": id, "routing": routing}))
    };
    let cases = [
        (json!({"name": "n", "type": "bigint", "default": "7"}), Value::Null, "does not fit"),
        (json!({"name": "n", "type": "uuid", "default": "x"}), Value::Null, "does not fit"),
        (
            json!({"name": "n", "type": "uuid", "default": {"fn": "random"}}),
            Value::Null,
            "names an unknown",
        ),
        (
            json!({"name": "n", "type": "bigint", "default": {"fn": "now"}}),
            Value::Null,
            "does not fit a bigint",
        ),
        (
            json!({"name": "key", "type": "timestamp", "default": {"fn": "now"}}),
            Value::Null,
            "cannot",
        ),
        (json!({"name": "n", "type": "text", "default": "x"}), json!("n"), "cannot be a constant"),
        (json!({"name": "n", "type": "text", "default": null}), Value::Null, "cannot be null"),
    ];
    for (column, routing, fault) in cases {
        let reply = declare(column.clone(), routing);
        assert_eq!(refusal(&reply), refused(400, "TSR101"), "{column}: {}", reply.text());
        let detail = reply.json()["detail"].as_str().unwrap().to_owned();
        let expected = format!("columns[1].default {fault}");
        assert!(detail.starts_with(&expected), "{column}: {detail}");
    }
    let none = json!({"name": "n", "type": "text", "null": true, "default": null});
    assert_eq!(declare(none, Value::Null).status, 201, "null stands for none");
}
