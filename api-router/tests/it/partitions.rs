//! Tests of keyspaces by a column: five partitions, A to E, on three shards, and ranges of a
//! column.

use std::collections::BTreeSet;

use diesel::connection::SimpleConnection;
use diesel::{Connection, SqliteConnection};
use serde_json::{Value, json};

use crate::backend::{files_only, is_servers, not_on_citus};
use crate::client::refusal;
use crate::commands::{ask, run};
use crate::harness::{Reply, Router, command, refused_start};
use crate::moves::{begin, until};

const KEYSPACE: &str = "list(partition_key):A=30,B=20,C=15,D=25,E=10";
const PLACEMENT: &str = "partitions:A=30>shard1,B=20>shard1,C=15>shard3,D=25>shard2,E=10>shard3";
pub(crate) const FLAGS: [&str; 5] = ["--keyspace", KEYSPACE, "--placement", PLACEMENT, "--operate"];
const SHARDS: [(&str, &str); 5] =
    [("A", "shard1"), ("B", "shard1"), ("C", "shard3"), ("D", "shard2"), ("E", "shard3")];
const WHY: &str = "Citus is one shard to Tessera, and several are needed";

/// Returns the body of a write of a user in a partition.
fn user(id: &str, partition: &str) -> Value {
    let email = format!("{id}@example.com");
    let data =
        json!({"user_id": id, "name": "John Doe", "email": email, "partition_key": partition});
    json!({"table": "users", "data": data})
}

#[track_caller]
fn made(reply: &Reply) -> Value {
    assert_eq!(reply.status, 201, "{}", reply.text());
    reply.json()
}

/// Reads with this query, at the level that shows every acknowledged write.
#[track_caller]
fn rows(router: &Router, query: &str, key: Option<&str>) -> Value {
    let mut headers = vec![("x-consistency", "all")];
    headers.extend(key.map(|key| ("x-shard-key", key)));
    let reply = router.send("GET", &format!("/api/read?table=users{query}"), &headers, None);
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

fn partitions_of(read: &Value) -> Vec<&str> {
    let rows = read["data"].as_array().unwrap().iter();
    rows.map(|row| row["partition_key"].as_str().unwrap()).collect()
}

#[test]
fn requests_write_each_partition_to_its_shard_and_read_it_there() {
    not_on_citus!(WHY);
    let router = Router::start_with(&FLAGS);
    for (partition, shard) in SHARDS {
        for number in 0..5 {
            let id = format!("user_{partition}_{number}");
            let written = made(&router.write(&id, &user(&id, partition)));
            assert_eq!(written["shard"], shard, "{written}");
            assert_eq!(written["data"]["partition_key"], partition);
            let path = format!("/api/route?key={id}&partition={partition}");
            let route = router.get(&path).json();
            assert_eq!((&route["slot"], &route["shard"]), (&written["slot"], &json!(shard)));
            assert_eq!(
                (&route["column"], &route["partition"]["name"]),
                (&json!("partition_key"), &json!(partition))
            );
        }
    }
    // This read has a key and no partition.
    let read = rows(&router, "&limit=10", Some("user_C_3"));
    assert_eq!((&read["count"], &read["data"][0]["user_id"]), (&json!(1), &json!("user_C_3")));
    // With its partition it goes to one shard, and with another partition it finds nothing.
    let read = rows(&router, "&limit=10&partition_key=eq.C", Some("user_C_3"));
    assert_eq!((&read["count"], &read["shards"]), (&json!(1), &json!(["shard3"])));
    let read = rows(&router, "&limit=10&partition_key=eq.D", Some("user_C_3"));
    assert_eq!((&read["count"], &read["shards"]), (&json!(0), &json!(["shard2"])));
    for (partition, shard) in SHARDS {
        let read = rows(&router, &format!("&partition_key=eq.{partition}"), None);
        assert_eq!((&read["count"], &read["shards"]), (&json!(5), &json!([shard])), "{read}");
        assert!(partitions_of(&read).iter().all(|found| *found == partition), "{read}");
    }
    let read = rows(&router, "&partition_key=in.(A,D)", None);
    assert_eq!((&read["count"], &read["shards"]), (&json!(10), &json!(["shard1", "shard2"])));
    let read = rows(&router, "&partition_key=eq.nowhere", None);
    assert_eq!(read["count"], 0);
    let all = rows(&router, "", None);
    assert_eq!((&all["count"], all["shards"].as_array().unwrap().len()), (&json!(25), 3));
    let deny = |query: &str, headers: &[(&str, &str)]| {
        let headers = [&[("prefer", "fanout=deny")], headers].concat();
        router.send("GET", &format!("/api/read?table=users{query}"), &headers, None).code()
    };
    assert_eq!(deny("", &[]), "TSR104");
    assert_eq!(deny("&partition_key=eq.A", &[]), "no code");
    assert_eq!(deny("", &[("x-shard-key", "user_C_3")]), "no code");
    // Without a separate filter on the column, no shard can be left out.
    let read = rows(&router, "&or=(partition_key.eq.A,user_id.eq.user_E_0)", None);
    assert_eq!((&read["count"], read["shards"].as_array().unwrap().len()), (&json!(6), 3));
}

#[test]
fn the_same_id_in_two_partitions_is_two_rows_and_a_key_is_read_in_all_of_them() {
    not_on_citus!(WHY);
    let router = Router::start_with(&FLAGS);
    for (partition, _) in SHARDS {
        made(&router.write("ada", &user("ada", partition)));
    }
    let read = rows(&router, "&order=partition_key", Some("ada"));
    assert_eq!(partitions_of(&read), ["A", "B", "C", "D", "E"], "{read}");
    let named = rows(&router, "&user_id=eq.ada&order=partition_key", None);
    assert_eq!(named["data"], read["data"]);
    let one = rows(&router, "&user_id=eq.ada&partition_key=eq.E", None);
    assert_eq!((partitions_of(&one), &one["shards"]), (vec!["E"], &json!(["shard3"])));
    // A page of a key continues where the previous one ended, and a cursor is valid only for its
    // own read.
    let mut found = Vec::new();
    let mut query = "&limit=2".to_owned();
    loop {
        let page = rows(&router, &query, Some("ada"));
        found.extend(partitions_of(&page).into_iter().map(str::to_owned));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        query = format!("&limit=2&cursor={cursor}");
        let headers = [("x-shard-key", "bob")];
        let other = router.send("GET", &format!("/api/read?table=users{query}"), &headers, None);
        assert_eq!(other.code(), "TSR106");
    }
    let distinct: BTreeSet<&String> = found.iter().collect();
    assert_eq!((found.len(), distinct.len()), (5, 5), "{found:?}");
    // Of the five rows, only the one in the named partition is changed or removed.
    let change = json!({"table": "users", "op": "update",
        "data": {"user_id": "ada", "name": "Ada", "partition_key": "B"}});
    assert_eq!(router.write("ada", &change).status, 200);
    let remove = json!({"table": "users", "op": "delete",
        "data": {"user_id": "ada", "partition_key": "D"}});
    assert_eq!(router.write("ada", &remove).status, 200);
    let read = rows(&router, "&order=partition_key&select=partition_key,name", Some("ada"));
    let names: Vec<_> = read["data"].as_array().unwrap().iter().map(|row| &row["name"]).collect();
    assert_eq!(partitions_of(&read), ["A", "B", "C", "E"]);
    assert_eq!(names, ["John Doe", "Ada", "John Doe", "John Doe"]);
}

#[test]
fn rows_of_one_key_in_two_partitions_are_changed_together_and_separately() {
    not_on_citus!(WHY);
    let router = Router::start_with(&FLAGS);
    let row = |name: &str, part: &str| json!({"user_id": "ada", "name": name, "email": "e", "partition_key": part});
    let bulk = |op: &str, records: Value| {
        let body = json!({"table": "users", "op": op, "records": records});
        let reply = router.post("/api/bulk-write", &[], &body);
        assert_eq!(reply.json()["stored"], 2, "{op}: {}", reply.text());
    };
    let assert_names = |names: [&str; 2], why: &str| {
        let read = rows(&router, "&order=partition_key&select=name", Some("ada"));
        assert_eq!(read["data"], json!(names.map(|name| json!({"name": name}))), "{why}");
    };
    for (op, names) in [("insert", ["a", "b"]), ("update", ["c", "d"]), ("upsert", ["e", "f"])] {
        bulk(op, json!([row(names[0], "A"), row(names[1], "B")]));
        assert_names(names, op);
    }
    // Writes that arrive at the same time may be in one transaction.
    std::thread::scope(|scope| {
        for (part, op) in [("A", "update"), ("B", "update"), ("A", "upsert"), ("B", "upsert")] {
            let body = json!({"table": "users", "op": op, "data": row(part, part)});
            let router = &router;
            scope.spawn(move || assert_eq!(router.write("ada", &body).status, 200, "{op} {part}"));
        }
    });
    assert_names(["A", "B"], "single writes");
    let id = |part: &str| json!({"user_id": "ada", "partition_key": part});
    bulk("delete", json!([id("A"), id("B")]));
    assert_eq!(rows(&router, "", None)["count"], 0);
}

#[test]
fn pages_in_order_return_the_row_of_each_partition_once_although_key_id_and_value_are_equal() {
    not_on_citus!(WHY);
    let router = Router::start_with(&FLAGS);
    for (partition, _) in SHARDS {
        made(&router.write("ada", &user("ada", partition)));
    }
    let owned = |page: &Value| -> Vec<String> {
        partitions_of(page).into_iter().map(str::to_owned).collect()
    };
    let filters = ["", "&user_id=eq.ada", "&partition_key=in.(A,B,C,D,E)"];
    for (key, filter) in [None, Some("ada")].into_iter().flat_map(|key| filters.map(|f| (key, f))) {
        for order in ["name", "name.desc"] {
            let walk = format!("{filter}&order={order}");
            let mut query = format!("{walk}&limit=2");
            let mut found = Vec::new();
            loop {
                let page = rows(&router, &query, key);
                found.extend(owned(&page));
                let Some(cursor) = page["next_cursor"].as_str() else { break };
                query = format!("{walk}&limit=2&cursor={cursor}");
            }
            let distinct: BTreeSet<&String> = found.iter().collect();
            assert_eq!((found.len(), distinct.len()), (5, 5), "{key:?} {walk}: {found:?}");
            let page = |offset| rows(&router, &format!("{walk}&limit=1&offset={offset}"), key);
            let skipped: Vec<String> = (0..5).flat_map(|offset| owned(&page(offset))).collect();
            assert_eq!(skipped, found, "{key:?} {walk}");
        }
    }
}

#[test]
fn a_write_without_its_partition_or_with_an_unknown_one_is_refused_with_the_known_ones() {
    not_on_citus!(WHY);
    let router = Router::start_with(&FLAGS);
    made(&router.write("ada", &user("ada", "A")));
    let row = |op: &str, data: Value| json!({"table": "users", "op": op, "data": data});
    let id = json!({"user_id": "ada"});
    let whole = json!({"user_id": "ada", "name": "n", "email": "e"});
    let null = json!({"user_id": "ada", "name": "n", "email": "e", "partition_key": null});
    for (op, data) in [
        ("upsert", &whole),
        ("insert", &whole),
        ("upsert", &null),
        ("update", &whole),
        ("delete", &id),
    ] {
        let reply = router.write("ada", &row(op, data.clone()));
        assert_eq!(
            refusal(&reply),
            (400, "TSR355".to_owned(), "rejected".to_owned()),
            "{op} {data}"
        );
        let problem = reply.json();
        assert!(problem["detail"].as_str().unwrap().ends_with("there are: A, B, C, D, E"));
        assert!(problem["hint"].as_str().unwrap().contains("partition_key=eq.value"), "{problem}");
    }
    for name in ["F", "a", "", "A:"] {
        let reply = router.write("ada", &user("ada", name));
        assert_eq!(refusal(&reply), (400, "TSR356".to_owned(), "rejected".to_owned()), "{name}");
        let detail = reply.json()["detail"].clone();
        assert_eq!(
            detail,
            "partition_key does not name an existing partition; there are: A, B, C, D, E"
        );
    }
    // Of many rows only those without a partition are refused.
    let records =
        [("u1", "A"), ("u2", "X"), ("u3", "E")].map(|(id, part)| user(id, part)["data"].clone());
    let bulk = json!({"table": "users", "records": records});
    let answer = router.post("/api/bulk-write", &[], &bulk).json();
    assert_eq!((&answer["stored"], &answer["failed"][0]["index"]), (&json!(2), &json!(1)));
    assert_eq!(answer["failed"][0]["error"]["code"], "TSR356", "{answer}");
    let lines = "user_id,name,email,partition_key\nu4,n,e,D\nu5,n,e,\n";
    let csv = [("content-type", "text/csv")];
    let path = "/api/bulk-write?table=users";
    let answer = router.send("POST", path, &csv, Some(lines.as_bytes())).json();
    assert_eq!(
        (&answer["stored"], &answer["failed"][0]["error"]["code"]),
        (&json!(1), &json!("TSR355"))
    );
    assert_eq!(rows(&router, "", None)["count"], 4);
    let route = router.get("/api/route?key=ada");
    assert_eq!((route.status, route.code()), (400, "TSR355".to_owned()), "{}", route.text());
    let route = router.get("/api/route?key=ada&partition=Z");
    assert_eq!((route.status, route.code()), (400, "TSR356".to_owned()), "{}", route.text());
}

#[test]
fn an_update_and_a_delete_find_their_row_by_a_filter_and_cannot_move_it() {
    not_on_citus!(WHY);
    let router = Router::start_with(&FLAGS);
    made(&router.write("ada", &user("ada", "A")));
    let write = |filter: &str, body: Value| {
        router.post(&format!("/api/write{filter}"), &[("x-shard-key", "ada")], &body)
    };
    let update = |data: Value| json!({"table": "users", "op": "update", "data": data});
    let renamed = write("?partition_key=eq.A", update(json!({"user_id": "ada", "name": "Ada"})));
    assert_eq!(renamed.status, 200, "{}", renamed.text());
    assert_eq!(renamed.json()["data"]["partition_key"], "A");
    let moved = update(json!({"user_id": "ada", "partition_key": "B"}));
    assert_eq!(
        refusal(&write("?partition_key=eq.A", moved.clone())),
        (400, "TSR357".to_owned(), "rejected".to_owned())
    );
    // Without the filter, the body names a row that does not exist.
    assert_eq!(write("", moved).code(), "TSR302");
    for (filter, why) in [
        ("?partition_key=A", "a filter has an operator"),
        ("?partition_key=in.(A,B)", "a row is in one partition"),
        ("?user_id=eq.ada", "only the partition is a filter"),
    ] {
        let reply = write(filter, update(json!({"user_id": "ada", "name": "x"})));
        assert_eq!((reply.status, reply.code()), (400, "TSR100".to_owned()), "{why}");
    }
    let upsert = write("?partition_key=eq.A", user("ada", "A"));
    assert_eq!(upsert.code(), "TSR100", "a new row has its partition in data");
    let delete = json!({"table": "users", "op": "delete", "data": {"user_id": "ada"}});
    assert_eq!(write("?partition_key=eq.C", delete.clone()).code(), "TSR302");
    assert_eq!(write("?partition_key=eq.A", delete).status, 200);
    assert_eq!(rows(&router, "", None)["count"], 0);
}

#[test]
fn tables_without_the_column_are_spread_over_all_shards_and_repeats_are_recognised() {
    not_on_citus!(WHY);
    let router = Router::start_with(&FLAGS);
    let mut shards = BTreeSet::new();
    for number in 0..30 {
        let key = format!("key_{number}");
        let order = json!({"table": "orders", "data": {
            "order_id": number.to_string(), "user_id": key, "amount": 5, "status": "new"}});
        let written = made(&router.write(&key, &order));
        let route = router.get(&format!("/api/route?key={key}&table=orders")).json();
        assert_eq!(route["slot"], written["slot"]);
        shards.insert(written["shard"].to_string());
        let value = router.send(
            "PUT",
            &format!("/api/kv/{key}"),
            &[("content-type", "application/json")],
            Some(b"1"),
        );
        assert_eq!(value.status, 201);
        assert_eq!(router.get(&format!("/api/kv/{key}")).text(), "1");
    }
    assert_eq!(shards.len(), 3);
    let once = [("x-shard-key", "ada"), ("idempotency-key", "k1")];
    let first = router.post("/api/write", &once, &user("ada", "A"));
    let again = router.post("/api/write", &once, &user("ada", "A"));
    assert_eq!((first.status, again.status), (201, 201));
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(first.json()["version"], again.json()["version"]);
}

#[test]
fn sample_data_is_where_it_is_read_also_after_a_move_and_a_restart() {
    not_on_citus!(WHY);
    let folder = crate::folders::temporary();
    let dir = folder.path().join("data");
    let mut router = Router::start_in(&dir, &FLAGS);
    let generated =
        ask(&router, &["generate", "--users", "400", "--orders-per-user", "1"], "").json(0);
    let sizes = json!({"A": 120, "B": 80, "C": 60, "D": 100, "E": 40});
    assert_eq!((&generated["wanted"]["partitions"], &generated["stored"]), (&sizes, &json!(800)));
    let check = |router: &Router, moved: Option<&str>| {
        for (partition, shard) in SHARDS {
            let read = rows(router, &format!("&partition_key=eq.{partition}&limit=200"), None);
            assert_eq!(read["count"], sizes[partition], "{partition}");
            let mut shards = BTreeSet::from([shard]);
            shards.extend(moved.filter(|_| partition == "D"));
            assert_eq!(read["shards"], json!(shards), "{partition}");
        }
        assert_eq!(rows(router, "", Some("user_D_7"))["count"], 1);
    };
    check(&router, None);
    // A part of the partition D moves to the third shard: reads of D contact both shards.
    let place = router.get("/api/route?key=user_D_7&partition_key=D").json();
    let draft = json!({"slots": place["slot"].to_string(), "to": "shard3", "keep": 0});
    let begun = begin(&router, &draft);
    until(&router, &begun, "done");
    check(&router, Some("shard3"));
    let read = rows(&router, "&partition_key=eq.D", Some("user_D_7"));
    assert_eq!((&read["count"], &read["shards"]), (&json!(1), &json!(["shard3"])));
    let change = json!({"table": "users", "op": "update",
        "data": {"user_id": "user_D_7", "name": "moved", "partition_key": "D"}});
    let changed = router.write("user_D_7", &change);
    assert_eq!((changed.status, &changed.json()["shard"]), (200, &json!("shard3")));
    router.kill();
    let mut router = Router::start_in(&dir, &["--operate"]);
    check(&router, Some("shard3"));
    assert_eq!(rows(&router, "&name=eq.moved", None)["count"], 1);
    router.end();
    if is_servers() {
        return;
    }
    let data_dir = dir.to_str().unwrap();
    let checked = run(&["check", "--data-dir", data_dir], "");
    assert_eq!(checked.code, Some(0), "{checked:?}");
    let route =
        run(&["route", "user_D_7", "--partition", "D", "--data-dir", data_dir, "--json"], "");
    let route = route.json(0);
    assert_eq!((&route[0]["slot"], &route[0]["shard"]), (&place["slot"], &json!("shard3")));
}

#[test]
fn a_row_in_the_slot_of_another_partition_is_found_by_check() {
    files_only!("a file is changed by hand");
    let folder = crate::folders::temporary();
    let dir = folder.path().join("data");
    let mut router = Router::start_in(&dir, &[&FLAGS[..], &["--replicas", "0"]].concat());
    made(&router.write("ada", &user("ada", "A")));
    router.end();
    let data_dir = dir.to_str().unwrap();
    assert_eq!(run(&["check", "--data-dir", data_dir], "").code, Some(0));
    let changed = "UPDATE users SET partition_key='B'";
    let file = dir.join("shard1-primary.db");
    let mut connection = SqliteConnection::establish(&file.to_string_lossy()).unwrap();
    connection.batch_execute(changed).unwrap();
    drop(connection);
    let checked = run(&["check", "--data-dir", data_dir], "");
    assert_eq!(checked.code, Some(1), "{checked:?}");
    assert!(checked.out.contains("its key and partition say"), "{checked:?}");
}

#[test]
fn exported_rows_are_imported_into_their_partitions_through_a_router_and_without_one() {
    files_only!("a data directory is read and written");
    let folder = crate::folders::temporary();
    let dir = folder.path().join("data");
    let mut router = Router::start_in(&dir, &FLAGS);
    for (partition, _) in SHARDS {
        made(&router.write("ada", &user("ada", partition)));
    }
    router.end();
    let export = |format: &str| {
        let data_dir = dir.to_str().unwrap();
        let flags = ["export", "--table", "users", "--data-dir", data_dir, "--format", format];
        let exported = run(&flags, "");
        assert_eq!(exported.code, Some(0), "{exported:?}");
        exported.out
    };
    let other = folder.path().join("other");
    let mut router = Router::start_in(&other, &FLAGS);
    let import = ["import", "--table", "users"];
    assert_eq!(ask(&router, &import, &export("ndjson")).json(0)["stored"], 5);
    let shards = |router: &Router| {
        let read = rows(router, "&user_id=eq.ada&order=partition_key", None);
        assert_eq!(partitions_of(&read), ["A", "B", "C", "D", "E"], "{read}");
        let read = rows(router, "&partition_key=in.(C,E)", None);
        assert_eq!((&read["count"], &read["shards"]), (&json!(2), &json!(["shard3"])));
    };
    shards(&router);
    router.end();
    let data_dir = other.to_str().unwrap();
    let csv = [&import[..], &["--data-dir", data_dir, "--format", "csv", "--json"]].concat();
    assert_eq!(run(&csv, &export("csv")).json(0)["stored"], 5);
    assert_eq!(run(&csv, "user_id,name,email\nada,n,e\n").json(1)["stored"], 0);
    let generate = ["generate", "--users", "100", "--data-dir", data_dir, "--json"];
    assert_eq!(run(&generate, "").json(0)["wanted"]["partitions"]["D"], 25);
    let checked = run(&["check", "--data-dir", data_dir], "");
    assert_eq!(checked.code, Some(0), "{checked:?}");
    let router = Router::start_in(&other, &[]);
    assert_eq!(rows(&router, "&partition_key=eq.D&limit=50", None)["count"], 26);
}

#[test]
fn ranges_of_a_column_put_neighbours_together() {
    not_on_citus!(WHY);
    let router = Router::start_with(&["--keyspace", "range(year):1990,2010"]);
    let table = json!({"name": "films", "columns": [
        {"name": "title", "type": "text"}, {"name": "year", "type": "bigint"},
        {"name": "note", "type": "text", "null": true}], "id": ["title"], "routing": "title"});
    assert_eq!(router.post("/api/tables", &[], &table).status, 201);
    let film = |title: &str, year: Value| json!({"table": "films", "data": {"title": title, "year": year}});
    for (title, year, shard) in [
        ("M", 1931, "shard1"),
        ("Ran", 1985, "shard1"),
        ("Heat", 1995, "shard2"),
        ("Dune", 2021, "shard3"),
    ] {
        let written = made(&router.write(title, &film(title, json!(year))));
        assert_eq!(written["shard"], shard, "{title}");
    }
    let read = |query: &str| {
        let headers = [("x-consistency", "all")];
        router.send("GET", &format!("/api/read?table=films{query}"), &headers, None).json()
    };
    let old = read("&year=eq.1985");
    assert_eq!((&old["count"], &old["shards"]), (&json!(1), &json!(["shard1"])));
    let both = read("&year=in.(1931,2021)");
    assert_eq!((&both["count"], &both["shards"]), (&json!(2), &json!(["shard1", "shard3"])));
    assert_eq!(read("&title=eq.Heat")["count"], 1);
    assert_eq!(read("&year=gte.1985")["count"], 3);
    let missing = router.write("X", &json!({"table": "films", "data": {"title": "X"}}));
    assert_eq!((missing.status, missing.code()), (400, "TSR355".to_owned()));
    let users = made(&router.write_user("ada", "Ada"));
    let route = router.get("/api/route?key=ada&table=users").json();
    assert_eq!(route["slot"], users["slot"], "a table without the column");
    let route = router.get("/api/route?key=Heat&year=1995").json();
    assert_eq!(route["range"], json!({"from": "1990", "below": "2010"}));
    let mut update = film("Heat", json!(1997));
    update["op"] = json!("update");
    let changed = |year| router.post(&format!("/api/write?year=eq.{year}"), &[], &update).code();
    assert_eq!([changed(1995), changed(2021)], ["no code", "TSR357"], "only within a range");
}

#[test]
fn a_new_cluster_whose_placement_divides_a_partition_is_refused_with_the_reason() {
    not_on_citus!(WHY);
    let folder = crate::folders::temporary();
    let dir = folder.path().join("data");
    for (keyspace, placement, words) in [
        (KEYSPACE, "even", "puts the partition B"),
        (KEYSPACE, "ring:100", "puts the partition A"),
        (KEYSPACE, "partitions:A=30>shard1,Z=70>shard2", "other partitions"),
        ("range(year):10,20", "partitions:A=1>shard1", "keyspace range has none"),
        ("list(shard_key):A=1", "even", "the server sets shard_key"),
        ("list(a-b):A=1", "even", "is not the name of a column"),
    ] {
        let mut command = command(&dir);
        command.args(["--keyspace", keyspace, "--placement", placement]);
        let (code, said) = refused_start(command);
        assert!(code.is_some_and(|code| code != 0), "{keyspace} {placement}: {said}");
        assert!(said.contains(words), "{keyspace} {placement}: {said}");
    }
}
