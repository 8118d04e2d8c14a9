//! Tests of tables that clients create: a table exists on every shard or on none, even if a step
//! fails, and can be used at once.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use serde_json::{Value, json};
use shard_manager::store::sqlite::digest::digest;

use crate::backend::{ask_primary, is_servers};
use crate::client::{
    Seen, delay, keys_on, lab, refusal, refused, set, set_replicas, settle, tokenless,
};
use crate::harness::{PATIENCE, Reply, Router};

pub(crate) fn students(name: &str) -> Value {
    json!({"name": name, "columns": [{"name": "id", "type": "text"},
        {"name": "grade", "type": "text", "null": true}], "id": ["id"], "routing": "id"})
}

/// Requests a table. Many requests at once wait for each other, on a busy machine for long.
pub(crate) fn make(router: &Router, table: &Value) -> Reply {
    router.post("/api/tables", &[("x-deadline-ms", "25000")], table)
}

/// Creates a table that must not exist yet.
pub(crate) fn made(router: &Router, table: &Value) {
    let reply = make(router, table);
    assert_eq!(reply.status, 201, "{table}: {}", reply.text());
}

pub(crate) fn names(router: &Router) -> BTreeSet<String> {
    let reply = router.get("/api/tables");
    assert_eq!(reply.status, 200, "{}", reply.text());
    let tables = reply.json()["tables"].as_array().unwrap().clone();
    tables.iter().map(|table| table["name"].as_str().unwrap().to_owned()).collect()
}

pub(crate) fn built_in() -> BTreeSet<String> {
    ["kv", "orders", "products", "transactions", "users"].map(str::to_owned).into()
}

pub(crate) fn write(router: &Router, table: &str, key: &str, data: &Value) -> Reply {
    let reply = router.write(key, &json!({"table": table, "data": data}));
    assert!(reply.status < 300, "{table} {key}: {}", reply.text());
    reply
}

fn rows(router: &Router, query: &str) -> Vec<Value> {
    let reply = router.get(&format!("/api/read?{query}"));
    assert_eq!(reply.status, 200, "{query}: {}", reply.text());
    reply.json()["data"].as_array().unwrap().clone()
}

/// Returns the tables that the primary of a shard knows.
fn declared(data: &Path, shard: usize) -> Vec<String> {
    let sql = "SELECT name || column_list || id || coalesce(routing, '') FROM tessera.tessera_tables ORDER BY name";
    ask_primary(data, shard, sql)
}

/// Checks that every shard has the same tables; on files also that the primary and its replica have
/// the same rows, when no process has them open.
fn assert_shards_agree(data: &Path) {
    if is_servers() {
        assert_eq!(declared(data, 1), declared(data, 0));
        return assert_eq!(declared(data, 2), declared(data, 0));
    }
    let tables = |node: &str| digest(&data.join(format!("{node}.db"))).unwrap().tables;
    let named = |node: &str| tables(node).into_iter().map(|(name, ..)| name).collect::<Vec<_>>();
    for shard in ["shard1", "shard2", "shard3"] {
        assert_eq!(named(&format!("{shard}-primary")), named("shard1-primary"), "{shard}");
        let replica = tables(&format!("{shard}-replica1"));
        assert_eq!(replica, tables(&format!("{shard}-primary")), "{shard}");
    }
}

#[test]
fn a_table_is_made_on_every_shard_and_used_at_once() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    let mut router = Router::start_in(&data, &[]);
    let reply = make(&router, &students("students"));
    let shape = json!({"name": "students", "columns": [
        {"name": "id", "type": "text", "null": false}, {"name": "grade", "type": "text", "null": true}],
        "id": ["id"], "routing": "id"});
    assert_eq!(reply.json(), json!({"success": true, "table": shape, "indexes": []}));
    assert_eq!(reply.status, 201);
    for n in 0..20 {
        let id = format!("s{n:02}");
        let grade = if n % 2 == 0 { json!("A") } else { json!(null) };
        assert_eq!(write(&router, "students", &id, &json!({"id": id, "grade": grade})).status, 201);
        assert_eq!(router.read(&id, "table=students").json()["count"], 1);
    }
    let records: Vec<Value> =
        (20..60).map(|n| json!({"id": format!("s{n}"), "grade": "B"})).collect();
    let bulk = json!({"table": "students", "records": records});
    assert_eq!(router.post("/api/bulk-write", &[], &bulk).status, 201);
    assert_eq!(rows(&router, "table=students&grade=eq.A").len(), 10);
    let sorted = rows(&router, "table=students&order=grade.desc,id&select=id,grade&limit=12");
    assert_eq!(sorted[10], json!({"id": "s20", "grade": "B"}), "after those without a grade");
    assert_eq!(names(&router).len(), 6);
    assert_eq!(router.get("/api/tables/students").json()["table"], shape);
    let shards = router.get("/api/shards").json()["shards"].as_array().unwrap().clone();
    let counted = shards.iter().flat_map(|shard| shard["tables"].as_array().unwrap());
    let counted = counted.filter(|table| table["table"] == "students");
    assert_eq!(counted.map(|table| table["rows"].as_i64().unwrap()).sum::<i64>(), 60);
    router.end();
    assert_shards_agree(&data);
    let router = Router::start_in(&data, &[]);
    assert_eq!(router.get("/api/tables/students").json()["table"], shape);
    let level = [("x-consistency", "all")];
    let reply = tokenless(&router).read_with(None, &level, "table=students&limit=100");
    assert_eq!(reply.json()["count"], 60);
}

#[test]
fn the_same_table_again_is_there_and_another_shape_is_refused() {
    let router = Router::start();
    made(&router, &students("students"));
    let again = make(&router, &students("students"));
    assert_eq!((again.status, &again.json()["table"]["name"]), (200, &json!("students")));
    let mut silent = students("students");
    silent["columns"][0]["null"] = json!(false);
    assert_eq!(make(&router, &silent).status, 200, "what is not said is the default");
    let mut other = students("students");
    other["columns"][1]["type"] = json!("bigint");
    let reply = make(&router, &other);
    assert_eq!(refusal(&reply), refused(409, "TSR301"), "{}", reply.text());
    let detail = reply.json()["detail"].as_str().unwrap().to_owned();
    assert_eq!(
        detail,
        "the table `students` exists with another definition: its column grade is text"
    );
    let mut unrouted = students("students");
    unrouted["routing"] = json!(null);
    let reply = make(&router, &unrouted);
    assert_eq!(refusal(&reply), refused(409, "TSR301"), "{}", reply.text());
    assert!(reply.text().contains("its routing column is id"), "{}", reply.text());
    let users = router.get("/api/tables/users").json()["table"].clone();
    assert_eq!(make(&router, &users).status, 200, "what came with it is a table like any other");
    assert_eq!(refusal(&make(&router, &students("users"))), refused(409, "TSR301"));
}

#[test]
fn a_table_that_is_not_there_is_not_found() {
    let router = Router::start();
    made(&router, &students("students"));
    let reply = router.get("/api/tables/studnets");
    assert_eq!((reply.status, &*reply.code()), (404, "TSR310"), "{}", reply.text());
    assert_eq!(reply.json()["hint"], "did you mean `students`?");
    assert_eq!(reply.json()["outcome"], Value::Null, "nothing was to be written");
    for name in ["tessera_idempotency", "tessera_tables", "sqlite_schema", "x'--", "%00", "%ff"] {
        let reply = router.get(&format!("/api/tables/{name}"));
        assert_eq!(reply.status, 404, "{name}: {}", reply.text());
    }
    assert_eq!(router.get("/api/tables?nonsense=1").code(), "TSR100");
}

#[test]
fn exactly_one_of_many_concurrent_requests_makes_a_table() {
    let router = Router::start();
    for differ in [false, true] {
        let name = if differ { "differ" } else { "same" };
        let statuses: Vec<u16> = thread::scope(|scope| {
            let one = |n: usize| {
                let mut table = students(name);
                if differ {
                    table["columns"][1]["name"] = json!(format!("grade{n}"));
                }
                make(&router, &table).status
            };
            let clients: Vec<_> = (0..12).map(|n| scope.spawn(move || one(n))).collect();
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        let others = if differ { 409 } else { 200 };
        assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 1, "{statuses:?}");
        assert_eq!(statuses.iter().filter(|status| **status == others).count(), 11, "{statuses:?}");
    }
    assert_eq!(names(&router).len(), 7);
}

#[test]
fn rows_are_written_and_read_while_tables_are_made() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    let mut router = Router::start_in(&data, &[]);
    thread::scope(|scope| {
        let router = &router;
        for client in 0..3 {
            scope.spawn(move || {
                for n in 0..60 {
                    let key = format!("u{client}-{n}");
                    assert_eq!(router.write_user(&key, "N").status, 201);
                    assert_eq!(router.read(&key, "table=users").json()["count"], 1);
                }
            });
        }
        scope.spawn(move || {
            for n in 0..12 {
                let name = format!("t{n}");
                made(router, &students(&name));
                for key in ["a", "b", "c", "d"] {
                    write(router, &name, key, &json!({"grade": "A"}));
                }
                assert_eq!(rows(router, &format!("table={name}")).len(), 4);
            }
        });
    });
    settle(&router);
    router.end();
    assert_shards_agree(&data);
}

#[test]
fn a_table_may_have_a_composite_id_and_every_type_and_no_routing_column() {
    let router = Router::start();
    made(
        &router,
        &json!({"name": "marks", "id": ["course", "term"], "columns": [
        {"name": "course", "type": "text"}, {"name": "term", "type": "bigint"},
        {"name": "mark", "type": "double", "null": true}, {"name": "passed", "type": "boolean"},
        {"name": "at", "type": "timestamp"}, {"name": "notes", "type": "json", "null": true},
        {"name": "paper", "type": "uuid"}]}),
    );
    assert_eq!(router.get("/api/tables/marks").json()["table"]["routing"], Value::Null);
    let mark = |term: i64, mark: &Value| {
        json!({"course": "maths", "term": term, "mark": mark, "passed": true,
        "at": "2026-11-21T10:00:00.5+01:00", "notes": {"a": [1, null, "é"]},
        "paper": "018F0E2A-0000-7000-8000-000000000001"})
    };
    for (term, value) in [(1, json!(1.5)), (2, json!(null)), (i64::MAX, json!(-0.1))] {
        assert_eq!(write(&router, "marks", "ada", &mark(term, &value)).status, 201);
    }
    assert_eq!(write(&router, "marks", "ada", &mark(1, &json!(2.5))).status, 200, "the same row");
    assert_eq!(write(&router, "marks", "bob", &mark(1, &json!(4))).status, 201, "of another key");
    let found = router.read("ada", "table=marks&order=term").json()["data"].clone();
    assert_eq!(found.as_array().unwrap().len(), 3);
    let mut expected = mark(1, &json!(2.5));
    expected["at"] = json!("2026-11-21T09:00:00.500000Z");
    expected["paper"] = json!("018f0e2a-0000-7000-8000-000000000001");
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(found[0][name], *value, "{name}");
    }
    assert_eq!((&found[1]["mark"], &found[2]["term"]), (&Value::Null, &json!(i64::MAX)));
    assert_eq!(rows(&router, "table=marks&term=eq.1&order=mark.desc").len(), 2);
    assert_eq!(
        rows(&router, "table=marks&passed=eq.true&paper=eq.018f0e2a-0000-7000-8000-000000000001")
            .len(),
        4
    );
    let gone = json!({"table": "marks", "op": "delete", "data": {"course": "maths", "term": 2}});
    assert_eq!(router.write("ada", &gone).status, 200);
    assert_eq!(rows(&router, "table=marks").len(), 3);
    let reply = router.write("ada", &json!({"table": "marks", "data": {"course": "maths"}}));
    assert_eq!(reply.code(), "TSR101", "{}", reply.text());
}

#[test]
fn when_a_shard_does_not_come_the_table_is_made_nowhere_and_later_it_can_be() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let router = lab(&[]);
    set(&router, "shard2-primary", "cut");
    let reply = make(&router, &students("students"));
    assert_eq!(refusal(&reply), refused(503, "TSR201"), "{}", reply.text());
    assert_eq!((&reply.json()["shard"], names(&router)), (&json!("shard2"), built_in()));
    set(&router, "shard2-primary", "paused");
    let soon = [("x-deadline-ms", "150")];
    let reply = router.post("/api/tables", &soon, &students("students"));
    assert_eq!(refusal(&reply), refused(504, "TSR004"), "{}", reply.text());
    assert_eq!(names(&router), built_in());
    set(&router, "shard2-primary", "running");
    made(&router, &students("students"));
    write(&router, "students", &keys_on(&router, "shard2", 1)[0], &json!({}));
}

fn first_shard_has(data: &Path, table: &str) -> bool {
    if is_servers() {
        return declared(data, 0).iter().any(|declared| declared.starts_with(table));
    }
    let shard1 = data.join("shard1-primary.db");
    digest(&shard1).unwrap().tables.iter().any(|(name, ..)| name == table)
}

#[test]
fn a_router_that_is_killed_while_it_makes_a_table_finishes_it_when_it_starts() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    let mut router = Router::start_in(&data, &["--lab"]);
    set(&router, "shard2-primary", "paused");
    thread::scope(|scope| {
        let asked = &router;
        let body = students("students").to_string();
        scope.spawn(move || {
            let headers = [("content-type", "application/json"), ("x-deadline-ms", "60000")];
            let reply = asked.exchange("POST", "/api/tables", &headers, Some(body.as_bytes()));
            assert!(reply.is_err(), "no client got a response");
        });
        // The intent is durable before the first shard creates the table.
        let began = std::time::Instant::now();
        while !first_shard_has(&data, "students") {
            assert!(began.elapsed() < PATIENCE, "the first shard does not make it");
        }
        router.signal("KILL");
    });
    router.wait();
    let mut router = Router::start_in(&data, &["--lab"]);
    assert!(names(&router).contains("students"));
    assert_eq!(make(&router, &students("students")).status, 200);
    for shard in ["shard1", "shard2", "shard3"] {
        write(&router, "students", &keys_on(&router, shard, 1)[0], &json!({}));
    }
    settle(&router);
    router.end();
    assert_shards_agree(&data);
}

/// Creates ten tables, or fewer if the router ends, and returns the names of the acknowledged ones.
fn make_many(router: &Router, tag: &str, reported: &mpsc::Sender<()>) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for n in 0..10 {
        let name = format!("{tag}_{n}");
        let body = students(&name).to_string();
        let headers = [("content-type", "application/json"), ("x-deadline-ms", "25000")];
        let reply = router.exchange("POST", "/api/tables", &headers, Some(body.as_bytes()));
        let Ok(reply) = reply else { break };
        assert_eq!(reply.status, 201, "{name}: {}", reply.text());
        acknowledged.push(name);
        let _ = reported.send(());
    }
    acknowledged
}

#[test]
fn after_each_kill_a_table_is_on_all_shards_or_on_none_and_those_acknowledged_are_there() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    let mut expected = built_in();
    for round in 0..6 {
        let mut router = Router::start_in(&data, &[]);
        let there = names(&router);
        let lost: Vec<_> = expected.difference(&there).collect();
        assert!(lost.is_empty(), "acknowledged and gone: {lost:?}");
        expected = there;
        thread::scope(|scope| {
            let (sender, reported) = mpsc::channel();
            let router = &router;
            let clients: Vec<_> = (0..3)
                .map(|client| {
                    let (tag, sender) = (format!("t{round}_{client}"), sender.clone());
                    scope.spawn(move || make_many(router, &tag, &sender))
                })
                .collect();
            (0..3 + round * 3).for_each(|_| reported.recv_timeout(PATIENCE).unwrap());
            router.signal("KILL");
            expected.extend(clients.into_iter().flat_map(|client| client.join().unwrap()));
        });
        router.wait();
    }
    let mut router = Router::start_in(&data, &[]);
    let there = names(&router);
    assert!(expected.is_subset(&there), "{expected:?} {there:?}");
    for name in there.difference(&built_in()) {
        for key in ["a", "b", "c", "d"] {
            write(&router, name, key, &json!({"grade": "A"}));
        }
    }
    settle(&router);
    router.end();
    assert_shards_agree(&data);
}

#[test]
fn a_new_table_is_read_at_once_though_its_replicas_stand_still_or_come_late() {
    crate::backend::not_on_citus!("nothing is read from replicas there");
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    let mut router = Router::start_in(&data, &["--lab"]);
    set_replicas(&router, "paused");
    made(&router, &students("students"));
    let read = |router: &Router| {
        let reply = tokenless(router).read_with(None, &[], "table=students");
        assert_eq!(reply.status, 200, "{}", reply.text());
        let body = reply.json();
        (body["count"].as_u64().unwrap(), body["served_by"].as_str().unwrap().to_owned())
    };
    assert_eq!(read(&router), (0, "primary".into()));
    write(&router, "students", "ada", &json!({"grade": "A"}));
    assert_eq!(read(&router), (1, "primary".into()));
    router.kill();
    // Its replicas do not have the table when they start, and serve no reads until they have it.
    let mut router = Router::start_in(&data, &["--lab"]);
    assert_eq!(read(&router).0, 1);
    settle(&router);
    assert_eq!(read(&router), (1, "replica".into()));
    for shard in ["shard1", "shard2", "shard3"] {
        delay(&router, &format!("{shard}-replica1"), 60_000);
    }
    made(&router, &students("pupils"));
    write(&router, "pupils", "ada", &json!({}));
    assert_eq!(Seen::of(&router.get("/api/read?table=users")).served_by, "primary");
    assert_eq!(tokenless(&router).read_with(Some("ada"), &[], "table=pupils").json()["count"], 1);
    for shard in ["shard1", "shard2", "shard3"] {
        delay(&router, &format!("{shard}-replica1"), 0);
    }
    settle(&router);
    router.end();
    assert_shards_agree(&data);
}

#[test]
fn updates_of_a_table_called_excluded_are_shown_by_every_node() {
    let router = Router::start();
    made(&router, &students("excluded"));
    for (op, grade) in [("insert", "A"), ("upsert", "B"), ("update", "C")] {
        let data = json!({"id": "s", "grade": grade});
        let reply = router.write("s", &json!({"table": "excluded", "op": op, "data": data}));
        assert!(reply.status < 300, "{op}: {}", reply.text());
        settle(&router);
        for level in ["one", "all"] {
            let headers = [("x-consistency", level)];
            let query = "table=excluded&select=grade";
            let read = tokenless(&router).read_with(Some("s"), &headers, query).json();
            assert_eq!(read["data"], json!([{"grade": grade}]), "{op} {level}");
        }
    }
}
