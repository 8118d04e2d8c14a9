//! Tests of indexes: after any interruption an index is on every shard or on none, and a unique one
//! refuses a second row of a shard key.

use std::path::Path;

use diesel::{Connection, RunQueryDsl, SqliteConnection};
use serde_json::{Value, json};

use crate::backend::{ask_primary, files_only, is_servers, not_on_citus};
use crate::client::{keys_on, refusal, refused, set, settle};
use crate::folders;
use crate::harness::{Reply, Router, eventually};

const CITUS: &str = "Tessera does not build indexes on Citus";
const PATH: &str = "/api/tables/orders/indexes";
const JSON: (&str, &str) = ("content-type", "application/json");

pub(crate) fn send(router: &Router, method: &str, path: &str, body: Option<&Value>) -> Reply {
    let body = body.map(Value::to_string);
    router.send(method, path, &[JSON], body.as_ref().map(String::as_bytes))
}

pub(crate) fn make(router: &Router, body: &Value) -> Reply {
    send(router, "POST", PATH, Some(body))
}

pub(crate) fn by_status() -> Value {
    json!({"name": "by_status", "columns": ["status", "amount"]})
}

fn one_note() -> Value {
    json!({"name": "one_note", "columns": ["note"], "unique": true})
}

/// Returns an index of the table `orders`; `None` if it is not listed.
pub(crate) fn listed(router: &Router, name: &str) -> Option<Value> {
    let reply = router.get(PATH);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let indexes = reply.json()["indexes"].as_array().unwrap().clone();
    indexes.into_iter().find(|index| index["name"] == name)
}

/// Waits until an index has a state, and returns it.
#[track_caller]
pub(crate) fn until(router: &Router, name: &str, state: &str) -> Value {
    eventually(&format!("the index {name} is {state}"), || {
        listed(router, name).filter(|index| index["state"] == state)
    })
}

/// Begins to build an index, and waits until it is ready.
#[track_caller]
fn built(router: &Router, body: &Value) -> Value {
    let reply = make(router, body);
    assert_eq!(reply.status, 202, "{}", reply.text());
    assert_eq!(reply.header("location"), Some(PATH));
    until(router, body["name"].as_str().unwrap(), "ready")
}

#[track_caller]
fn removed(router: &Router, name: &str) {
    let reply = send(router, "DELETE", &format!("{PATH}/{name}"), None);
    assert_eq!(reply.status, 202, "{}", reply.text());
    eventually("the index is gone", || listed(router, name).is_none().then_some(()));
}

pub(crate) fn order(router: &Router, key: &str, id: &str, note: &str) -> Reply {
    let data = json!({"order_id": id, "user_id": key, "amount": 1, "status": "open", "note": note});
    router.write(key, &json!({"table": "orders", "data": data}))
}

/// Returns the statements that have created the indexes of clients on a primary (counted from 0).
/// On files the router must have ended.
pub(crate) fn on_shard(data: &Path, shard: usize) -> Vec<String> {
    if is_servers() {
        let sql = "SELECT pg_get_indexdef(indexrelid) FROM pg_index JOIN pg_class ON oid = indexrelid \
            WHERE relname LIKE 'tessera\\_ix\\_%' AND indisvalid ORDER BY 1";
        return ask_primary(data, shard, sql);
    }
    in_file(&data.join(format!("shard{}-primary.db", shard + 1)))
}

/// Returns the statements of the indexes of clients in a file.
fn in_file(file: &Path) -> Vec<String> {
    #[derive(diesel::QueryableByName)]
    struct Found {
        #[diesel(sql_type = diesel::sql_types::Text)]
        sql: String,
    }
    let mut connection = SqliteConnection::establish(&file.to_string_lossy()).unwrap();
    let sql = "SELECT sql FROM sqlite_schema WHERE name LIKE 'tessera\\_ix\\_%' ESCAPE '\\'";
    let found: Vec<Found> = diesel::sql_query(sql).load(&mut connection).unwrap();
    found.into_iter().map(|found| found.sql).collect()
}

/// Executes a statement in a file of a router that has ended.
fn execute_in(file: &Path, sql: &str) {
    let mut connection = SqliteConnection::establish(&file.to_string_lossy()).unwrap();
    diesel::sql_query(sql).execute(&mut connection).unwrap();
}

#[test]
fn an_index_is_built_on_every_shard_and_dropped_from_every_shard() {
    not_on_citus!(CITUS);
    let folder = folders::temporary();
    let data = folder.path().join("data");
    let mut router = Router::start_in(&data, &[]);
    for n in 0..30 {
        assert_eq!(order(&router, &format!("u{n}"), "o1", "n").status, 201);
    }
    let index = built(&router, &by_status());
    assert_eq!(
        (&index["columns"], &index["unique"]),
        (&json!(["status", "amount"]), &json!(false))
    );
    assert_eq!(index["pause_ms"].is_u64(), !is_servers(), "{index}");
    let again = make(&router, &by_status());
    assert_eq!((again.status, &again.json()["index"]), (200, &index), "the same again");
    assert_eq!(again.json()["shards"], json!([]), "it has no further effect");
    for other in [
        json!({"name": "by_status", "columns": ["amount", "status"]}),
        json!({"name": "by_status", "columns": ["status", "amount"], "unique": true}),
    ] {
        assert_eq!(refusal(&make(&router, &other)), refused(409, "TSR344"));
    }
    let shown = eventually("the table shows its index", || {
        let indexes = router.get("/api/tables/orders").json()["indexes"].clone();
        (indexes[0]["state"] == "ready").then_some(indexes)
    });
    assert_eq!(shown, json!([index]));
    let all = router.get("/api/tables").json()["indexes"].clone();
    assert_eq!((&all[0]["table"], &all[0]["name"]), (&json!("orders"), &json!("by_status")));
    built(&router, &json!({"name": "by_time", "columns": ["created_at"]}));
    removed(&router, "by_time");
    let gone = send(&router, "DELETE", &format!("{PATH}/by_statu"), None);
    assert_eq!(refusal(&gone), refused(404, "TSR345"));
    assert_eq!(gone.json()["hint"], "did you mean `by_status`?");
    settle(&router);
    router.end();
    for shard in 0..3 {
        let found = on_shard(&data, shard);
        assert_eq!(found.len(), 1, "{found:?}");
        let key = found[0].replace(", ", ",");
        assert!(key.ends_with("(status,amount,shard_key,order_id)"), "{key}");
    }
    if !is_servers() {
        assert_eq!(in_file(&data.join("shard1-replica1.db")).len(), 1, "replicas have it");
    }
}

#[test]
fn a_unique_index_refuses_a_second_row_of_a_shard_key_and_no_row_of_another() {
    not_on_citus!(CITUS);
    let router = Router::start();
    built(&router, &one_note());
    assert_eq!(order(&router, "ada", "o1", "a").status, 201);
    assert_eq!(order(&router, "bob", "o1", "a").status, 201, "another shard key");
    let second = order(&router, "ada", "o2", "a");
    assert_eq!(refusal(&second), refused(409, "TSR304"));
    assert!(second.json()["detail"].as_str().unwrap().contains("`one_note`"), "{}", second.text());
    assert!(!second.text().contains("tessera_ix"), "{}", second.text());
    assert_eq!(order(&router, "ada", "o1", "a").status, 200, "the same row again");
    assert_eq!(order(&router, "ada", "o2", "b").status, 201);
    assert_eq!(refusal(&order(&router, "ada", "o2", "a")), refused(409, "TSR304"), "a change");
    let note = |id: &str, note: Value| json!({"order_id": id, "user_id": "cyd", "amount": 1, "note": note});
    let bulk = json!({"table": "orders", "records": [note("o1", json!("a")), note("o2", json!("a")),
        note("o3", json!("c")), note("o4", json!(null)), note("o5", json!(null))]});
    let reply = router.post("/api/bulk-write", &[], &bulk);
    let answer = reply.json();
    assert_eq!((reply.status, &answer["stored"]), (207, &json!(4)), "{}", reply.text());
    assert_eq!(answer["failed"][0]["index"], 1, "nulls are equal to nothing");
    let read = router.read("ada", "table=orders&select=order_id,note&order=order_id").json();
    assert_eq!(
        read["data"],
        json!([{"order_id": "o1", "note": "a"}, {"order_id": "o2", "note": "b"}])
    );
}

#[test]
fn a_transaction_refused_by_a_unique_index_names_the_row_whose_values_are_taken() {
    not_on_citus!(CITUS);
    let router = Router::start();
    built(&router, &one_note());
    assert_eq!(order(&router, "ada", "o1", "taken").status, 201);
    let row = |id: &str, note: &str| json!({"order_id": id, "user_id": "ada", "amount": 1, "status": "open", "note": note});
    let records = [row("o2", "a"), row("o3", "b"), row("o4", "taken"), row("o5", "c")];
    let body = json!({"table": "orders", "records": records});
    let details = |headers: &[(&str, &str)]| {
        let reply = router.post("/api/bulk-write", headers, &body);
        let answer = reply.json();
        assert_eq!(answer["stored"], 0, "{}", reply.text());
        let rows = answer["failed"].as_array().unwrap().clone();
        assert!(rows.iter().all(|row| row["error"]["code"] == "TSR304"), "{}", reply.text());
        rows.iter().map(|row| row["error"]["detail"].clone()).collect::<Vec<_>>()
    };
    let taken = "another row of this shard key has the same values in the unique index `one_note`";
    let undone = format!("undone with row 2 of the same transaction: {taken}");
    let whole = ("prefer", "tx=per-shard");
    let expected = [&*undone, &*undone, taken, &*undone];
    assert_eq!(details(&[whole]), expected);
    // The refusal is stored under the idempotency key, and repeated from there.
    for _ in 0..2 {
        assert_eq!(details(&[whole, ("idempotency-key", "once")]), expected);
    }
    let read = router.read("ada", "table=orders&select=order_id").json();
    assert_eq!(read["data"], json!([{"order_id": "o1"}]));
}

#[test]
fn a_text_that_is_too_long_for_an_index_of_a_server_is_refused_with_the_name_of_the_index() {
    not_on_citus!(CITUS);
    let router = Router::start();
    built(&router, &json!({"name": "by_note", "columns": ["note"]}));
    // Different characters in no order, so that the server cannot compress them below the limit.
    let mut state = 1_u64;
    let long: String = (0..6_000)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b'0' + (state >> 58) as u8)
        })
        .collect();
    let reply = order(&router, "ada", "o1", &long);
    if !is_servers() {
        assert_eq!(reply.status, 201, "{}", reply.text());
        return;
    }
    assert_eq!(refusal(&reply), refused(409, "TSR304"));
    let problem = reply.json();
    let detail = "the values of the row for the index `by_note` are longer than about 2 700 bytes, the most that \
        PostgreSQL indexes";
    assert_eq!(problem["detail"], detail);
    assert!(problem["hint"].is_string(), "{problem}");
    assert_eq!(order(&router, "ada", "o1", "short").status, 201);
}

#[test]
fn a_write_refused_by_a_unique_index_stays_refused_under_its_idempotency_key() {
    not_on_citus!(CITUS);
    let router = Router::start();
    built(&router, &one_note());
    assert_eq!(order(&router, "ada", "o1", "taken").status, 201);
    let data = json!({"order_id": "o2", "user_id": "ada", "amount": 1, "status": "open",
        "note": "taken"});
    let body = json!({"table": "orders", "data": data});
    let send = |idempotency: &str| {
        let headers = [("x-shard-key", "ada"), ("idempotency-key", idempotency)];
        router.post("/api/write", &headers, &body)
    };
    let first = send("first");
    assert_eq!(refusal(&first), refused(409, "TSR304"));
    assert_eq!(first.header("idempotency-replayed"), None);
    assert_eq!(order(&router, "ada", "o1", "free").status, 200, "the value is no longer taken");
    for _ in 0..2 {
        let again = send("first");
        assert_eq!(refusal(&again), refused(409, "TSR304"));
        assert_eq!(again.header("idempotency-replayed"), Some("true"));
        assert_eq!(again.json()["detail"], first.json()["detail"]);
    }
    assert_eq!(send("second").status, 201, "another request");
}

#[test]
fn an_index_that_rows_do_not_permit_is_on_no_shard_and_reports_the_shard_and_the_reason() {
    not_on_citus!(CITUS);
    let folder = folders::temporary();
    let data = folder.path().join("data");
    let mut router = Router::start_in(&data, &[]);
    let key = keys_on(&router, "shard3", 1).remove(0);
    for id in ["o1", "o2"] {
        assert_eq!(order(&router, &key, id, "secret").status, 201);
    }
    assert_eq!(make(&router, &one_note()).status, 202);
    let failed = until(&router, "one_note", "failed");
    assert_eq!(failed["reason"], "shard3: two rows of one shard key have the same values in note");
    assert_eq!(order(&router, &key, "o3", "secret").status, 201, "it refuses nothing");
    for id in ["o2", "o3"] {
        assert!(order(&router, &key, id, id).status < 300);
    }
    let index = built(&router, &one_note());
    assert!(index["reason"].is_null(), "{index}");
    assert_eq!(refusal(&order(&router, &key, "o4", "o3")), refused(409, "TSR304"));
    removed(&router, "one_note");
    assert_eq!(order(&router, &key, "o4", "o3").status, 201);
    settle(&router);
    router.end();
    assert!((0..3).all(|shard| on_shard(&data, shard).is_empty()));
}

#[test]
fn a_bad_index_is_refused_with_the_member_that_is_wrong_and_nothing_is_begun() {
    not_on_citus!(CITUS);
    let router = Router::shared();
    let name = |name: &str| json!({"name": name, "columns": ["status"]});
    let columns = |columns: Value| json!({"name": "i", "columns": columns});
    let long: Vec<String> = (0..9).map(|n| format!("c{n}")).collect();
    for (body, status, code, member) in [
        (json!({"columns": ["status"]}), 400, "TSR101", "name is missing"),
        (name("By status"), 400, "TSR101", "name must be"),
        (name("select"), 400, "TSR101", "name is a name"),
        (name("tessera_x"), 400, "TSR101", "name is a name"),
        (json!({"name": "i"}), 400, "TSR101", "columns is missing"),
        (columns(json!("status")), 400, "TSR101", "columns must be"),
        (columns(json!([])), 400, "TSR101", "columns must name 1 to 8"),
        (columns(json!(long)), 400, "TSR101", "columns must name 1 to 8"),
        (columns(json!(["statu"])), 400, "TSR311", "columns[0]"),
        (columns(json!(["status", "status"])), 400, "TSR101", "columns[1] is given twice"),
        (columns(json!(["slot"])), 400, "TSR101", "columns[0]"),
        (json!({"name": "i", "columns": ["note"], "unique": 1}), 400, "TSR101", "unique"),
        (
            json!({"name": "i", "columns": ["note"], "pause_max_ms": -1}),
            400,
            "TSR101",
            "pause_max_ms",
        ),
        (json!({"name": "i", "columns": ["note"], "uniqe": true}), 400, "TSR102", "uniqe"),
    ] {
        let reply = make(&router, &body);
        assert_eq!(refusal(&reply), refused(status, code), "{body}: {}", reply.text());
        assert!(reply.json()["detail"].as_str().unwrap().contains(member), "{}", reply.text());
    }
    let attributes = json!({"name": "i", "columns": ["attributes"]});
    let json = send(&router, "POST", "/api/tables/products/indexes", Some(&attributes));
    assert!(json.text().contains("json cannot be compared"), "{}", json.text());
    let nowhere = "/api/tables/nothing/indexes";
    assert_eq!(refusal(&send(&router, "POST", nowhere, Some(&name("i")))), refused(404, "TSR310"));
    assert_eq!(router.get(nowhere).status, 404);
    for preference in ["tx=per-shard", "tx=all"] {
        let headers = [JSON, ("prefer", preference)];
        let body = by_status().to_string();
        let reply = router.send("POST", PATH, &headers, Some(body.as_bytes()));
        assert_eq!(refusal(&reply), refused(400, "TSR113"), "{}", reply.text());
    }
    assert_eq!(router.get(PATH).json()["indexes"], json!([]));
}

#[test]
fn a_dry_run_reports_the_pause_and_changes_nothing_and_a_longer_pause_is_refused() {
    not_on_citus!(CITUS);
    let router = Router::start();
    let key = keys_on(&router, "shard2", 1).remove(0);
    assert_eq!(order(&router, &key, "o1", "n").status, 201);
    let mut body = by_status();
    body["pause_max_ms"] = json!(0);
    let headers = [JSON, ("prefer", "tx=rollback")];
    let text = body.to_string();
    let plan = router.send("POST", PATH, &headers, Some(text.as_bytes()));
    assert_eq!((plan.status, plan.header("preference-applied")), (200, Some("tx=rollback")));
    let shards = plan.json()["shards"].as_array().unwrap().clone();
    let names: Vec<&str> = shards.iter().map(|shard| shard["shard"].as_str().unwrap()).collect();
    assert_eq!(names, ["shard1", "shard2", "shard3"]);
    assert!(listed(&router, "by_status").is_none(), "nothing was begun");
    if is_servers() {
        assert!(shards.iter().all(|shard| shard["pause_ms"] == 0), "{}", plan.text());
        built(&router, &body);
        return;
    }
    assert_eq!((&shards[1]["rows"], &shards[0]["rows"]), (&json!(1), &json!(0)));
    assert!(shards.iter().all(|shard| shard["pause_ms"].as_u64().unwrap() > 0));
    let reply = make(&router, &body);
    assert_eq!(refusal(&reply), refused(409, "TSR346"), "{}", reply.text());
    assert!(reply.json()["detail"].as_str().unwrap().contains("pause_max_ms"));
    body["pause_max_ms"] = json!(1_000);
    built(&router, &body);
}

#[test]
fn a_table_has_sixteen_indexes_at_most() {
    not_on_citus!(CITUS);
    let router = Router::start();
    let index = |n: usize| json!({"name": format!("i{n}"), "columns": ["status"]});
    for n in 0..16 {
        assert_eq!(make(&router, &index(n)).status, 202);
    }
    assert_eq!(refusal(&make(&router, &index(16))), refused(413, "TSR108"));
    assert_eq!(make(&router, &index(3)).status, 200, "one that is there");
    (0..16).for_each(|n| drop(until(&router, &format!("i{n}"), "ready")));
}

#[test]
fn an_index_that_a_crash_has_cut_off_is_finished_by_the_next_start() {
    files_only!("nodes of files are held up by the lab");
    let folder = folders::temporary();
    let data = folder.path().join("data");
    let mut router = Router::start_in(&data, &["--lab"]);
    set(&router, "shard3-primary", "paused");
    assert_eq!(make(&router, &by_status()).status, 202);
    let half = eventually("two shards have it", || {
        listed(&router, "by_status").filter(|index| index["built"] == 2)
    });
    assert_eq!((&half["state"], &half["shards"]), (&json!("building"), &json!(3)));
    router.kill();
    router.wait();
    let mut router = Router::start_in(&data, &[]);
    until(&router, "by_status", "ready");
    router.end();
    assert!((0..3).all(|shard| on_shard(&data, shard).len() == 1));
    // The router also crashes while the index is dropped.
    let mut router = Router::start_in(&data, &["--lab"]);
    set(&router, "shard3-primary", "paused");
    let reply = send(&router, "DELETE", &format!("{PATH}/by_status"), None);
    assert_eq!((reply.status, &reply.json()["index"]["state"]), (202, &json!("dropping")));
    router.kill();
    router.wait();
    let mut router = Router::start_in(&data, &[]);
    eventually("the index is gone", || listed(&router, "by_status").is_none().then_some(()));
    router.end();
    assert!((0..3).all(|shard| on_shard(&data, shard).is_empty()));
}

#[test]
fn an_index_that_takes_longer_than_its_limit_is_on_no_shard_and_writes_continue() {
    files_only!("writes to servers do not wait for an index");
    let folder = folders::temporary();
    let data = folder.path().join("data");
    let mut router = Router::start_in(&data, &[]);
    let key = keys_on(&router, "shard3", 1).remove(0);
    assert_eq!(order(&router, &key, "o1", "n").status, 201);
    built(&router, &by_status());
    settle(&router);
    router.end();
    // An older copy of a shard is restored, and no build ends within the limit.
    for file in ["shard3-primary.db", "shard3-replica1.db"] {
        let file = data.join(file);
        let name = in_file(&file)[0].split(' ').nth(2).unwrap().to_owned();
        execute_in(&file, &format!("DROP INDEX {name}"));
    }
    execute_in(&data.join("catalog.db"), "UPDATE tessera_indexes SET pause_max_ms = 0");
    let mut router = Router::start_in(&data, &[]);
    let failed = until(&router, "by_status", "failed");
    let reason = failed["reason"].as_str().unwrap();
    let stopped = "shard3: the build of the index was stopped, because it took longer than \
        pause_max_ms = 0; request the index again with a higher pause_max_ms (at most 600000)";
    assert!(reason.starts_with(stopped), "{reason}");
    assert_eq!(order(&router, &key, "o2", "n").status, 201);
    settle(&router);
    router.end();
    assert!((0..3).all(|shard| on_shard(&data, shard).is_empty()));
    let mut router = Router::start_in(&data, &[]);
    let mut body = by_status();
    body["pause_max_ms"] = json!(600_000);
    built(&router, &body);
    router.end();
    assert!((0..3).all(|shard| on_shard(&data, shard).len() == 1));
}

#[test]
fn on_citus_an_index_is_refused_and_none_is_listed() {
    if !crate::citus::is_there() {
        return;
    }
    let router = Router::start();
    assert_eq!(refusal(&make(&router, &by_status())), refused(409, "TSR347"));
    assert_eq!(listed(&router, "by_status"), None);
}
