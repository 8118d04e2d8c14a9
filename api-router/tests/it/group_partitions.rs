//! Tests of a table group in partitions by a column, beside the group `main`, whose keys are
//! hashed.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::backend::{is_servers, not_on_citus};
use crate::commands::{ask, run};
use crate::folders;
use crate::harness::{Reply, Router};
use crate::moves::until;

const SETTINGS: &str = r#"
[groups.accounts]
tables = ["accounts", "logins"]
keyspace = "list(region):eu=2,us=1"
placement = "partitions:eu=2>shard2,us=1>shard3"
shards = ["shard2", "shard3"]
"#;

/// Number of keys, each of which has a row in both partitions.
const KEYS: u64 = 8;
const REGIONS: [(&str, &str); 2] = [("eu", "shard2"), ("us", "shard3")];
const WHY: &str = "Citus places rows itself, and has no groups";

fn start(folder: &Path, settings: &str) -> Router {
    fs::write(folder.join("tessera.toml"), settings).unwrap();
    Router::start_in(&folder.join("data"), &["--shards", "3", "--operate"])
}

/// Creates the tables of the group: one with the partition column, and one without it.
fn create_tables(router: &Router) {
    let id = json!({"name": "id", "type": "text"});
    let region = json!({"name": "region", "type": "text"});
    let note = json!({"name": "note", "type": "text", "null": true});
    for (name, columns) in [("accounts", json!([id, region, note])), ("logins", json!([id, note]))]
    {
        let table = json!({"name": name, "columns": columns, "id": ["id"], "routing": "id"});
        let made = router.post("/api/tables", &[], &table);
        assert_eq!(made.status, 201, "{}", made.text());
        assert_eq!(made.json()["table"]["group"], "accounts");
    }
}

fn account(key: &str, region: &str) -> Value {
    json!({"table": "accounts", "data": {"id": key, "region": region}})
}

fn user(key: &str) -> Value {
    json!({"table": "users", "data": {"user_id": key, "name": "n", "email": "e"}})
}

#[track_caller]
fn made(reply: &Reply) -> Value {
    assert_eq!(reply.status, 201, "{}", reply.text());
    reply.json()
}

#[track_caller]
fn refused(reply: &Reply, code: &str) -> String {
    assert_eq!((reply.status, &*reply.code()), (400, code), "{}", reply.text());
    reply.text()
}

/// Reads a table at the level at which every acknowledged write is shown; returns the number of
/// rows and the shards that were read.
#[track_caller]
fn count(router: &Router, query: &str, key: Option<&str>) -> (Value, Value) {
    let mut headers = vec![("x-consistency", "all")];
    headers.extend(key.map(|key| ("x-shard-key", key)));
    let reply = router.send("GET", &format!("/api/read?table={query}"), &headers, None);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let read = reply.json();
    (read["count"].clone(), read["shards"].clone())
}

/// Returns slot, shard and partition of a key.
fn route(router: &Router, query: &str) -> (u64, Value, Value) {
    let reply = router.get(&format!("/api/route?{query}"));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let answer = reply.json();
    let slot = answer["slot"].as_u64().unwrap();
    (slot, answer["shard"].clone(), answer["partition"].clone())
}

/// Stores rows of each key in both groups, and checks their reported locations.
fn store(router: &Router) {
    for number in 0..KEYS {
        let key = format!("key_{number}");
        for (region, shard) in REGIONS {
            let stored = made(&router.write(&key, &account(&key, region)));
            let found = route(router, &format!("key={key}&table=accounts&partition={region}"));
            assert_eq!((&json!(found.0), &found.1), (&stored["slot"], &json!(shard)));
            let slots = if region == "eu" { [16_384, 27_306] } else { [27_307, 32_767] };
            assert_eq!(found.2, json!({"name": region, "slots": slots}));
            assert!((slots[0]..=slots[1]).contains(&found.0), "{found:?}");
            let same = route(router, &format!("key={key}&table=accounts&region={region}"));
            assert_eq!(same, found, "the column names the partition as well");
        }
        let login = json!({"table": "logins", "data": {"id": key}});
        let login = made(&router.write(&key, &login));
        let written = made(&router.write(&key, &user(&key)));
        let main = route(router, &format!("key={key}"));
        assert_eq!((&json!(main.0), &main.1), (&written["slot"], &written["shard"]));
        assert_eq!(login["slot"], main.0 + 16_384, "both tables are hashed over their group");
        assert_eq!(route(router, &format!("key={key}&table=logins")).0, main.0 + 16_384);
    }
    // A repeated write is recognised, because its record is stored on the shard of the row.
    let once = [("x-shard-key", "once"), ("idempotency-key", "k")];
    let first = made(&router.post("/api/write", &once, &account("once", "us")));
    let again = router.post("/api/write", &once, &account("once", "us"));
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(made(&again)["version"], first["version"]);
    let records = json!([{"id": "bulk", "region": "eu"}, {"id": "bulk", "region": "asia"}]);
    let bulk = json!({"table": "accounts", "records": records});
    let answer = router.post("/api/bulk-write", &[], &bulk).json();
    assert_eq!((&answer["stored"], &answer["failed"][0]["index"]), (&json!(1), &json!(1)));
    assert_eq!(answer["failed"][0]["error"]["code"], "TSR356", "{answer}");
}

/// Checks reads of the rows of `store`. The partition `eu` is on these shards.
fn read(router: &Router, eu: &Value) {
    let both = json!(["shard2", "shard3"]);
    let rows = KEYS + 1;
    let in_eu = count(router, "accounts&region=eq.eu&limit=100", None);
    assert_eq!(in_eu, (json!(rows), eu.clone()));
    let in_us = count(router, "accounts&region=eq.us&limit=100", None);
    assert_eq!(in_us, (json!(rows), json!(["shard3"])));
    assert_eq!(count(router, "accounts&limit=100", None), (json!(2 * rows), both.clone()));
    assert_eq!(count(router, "accounts&region=in.(eu,us)&limit=100", None).0, 2 * rows);
    assert_eq!(count(router, "accounts&region=eq.asia", None).0, 0);
    for number in 1..KEYS {
        let key = format!("key_{number}");
        assert_eq!(count(router, "accounts", Some(&key)).0, 2, "{key}");
        assert_eq!(count(router, &format!("accounts&id=eq.{key}"), None).0, 2, "{key}");
        let one = count(router, "accounts&region=eq.us", Some(&key));
        assert_eq!(one, (json!(1), json!(["shard3"])), "{key}");
    }
    assert_eq!(count(router, "logins&limit=100", None), (json!(KEYS), both));
    let all = json!(["shard1", "shard2", "shard3"]);
    assert_eq!(count(router, "users&limit=100", None), (json!(KEYS), all));
    let denied = |query: &str, key: &[(&str, &str)]| {
        let headers = [&[("prefer", "fanout=deny")], key].concat();
        router.send("GET", &format!("/api/read?table={query}"), &headers, None).code()
    };
    assert_eq!(denied("accounts", &[]), "TSR104");
    assert_eq!(denied("accounts&region=eq.eu", &[]), "no code");
    assert_eq!(denied("accounts", &[("x-shard-key", "key_1")]), "no code");
    assert_eq!(denied("users", &[("x-shard-key", "key_1")]), "no code");
}

#[test]
fn a_group_has_partitions_beside_hashed_tables_also_after_a_move_and_a_kill() {
    not_on_citus!(WHY);
    let folder = folders::temporary();
    let mut router = start(folder.path(), SETTINGS);
    create_tables(&router);
    store(&router);
    read(&router, &json!(["shard2"]));
    // A slot of the partition can move to the other shard of the group, but to no shard outside it.
    let (slot, ..) = route(&router, "key=key_0&table=accounts&partition=eu");
    let draft = |to: &str| json!({"slots": slot.to_string(), "to": to, "keep": 0});
    refused(&router.post("/api/moves", &[], &draft("shard1")), "TSR330");
    let begun = router.post("/api/moves", &[], &draft("shard3"));
    assert_eq!(begun.status, 202, "{}", begun.text());
    until(&router, &begun.json(), "done");
    read(&router, &json!(["shard2", "shard3"]));
    let change =
        json!({"table": "accounts", "op": "update", "data": {"id": "key_0", "note": "moved"}});
    let headers = [("x-shard-key", "key_0")];
    let changed = router.post("/api/write?region=eq.eu", &headers, &change);
    assert_eq!((changed.status, &changed.json()["shard"]), (200, &json!("shard3")));
    // Each group has its own placement: a rebalance by placement would move that slot back.
    let plan = json!({"by": "placement", "dry_run": true});
    let plan = router.post("/api/rebalance", &[], &plan).json();
    assert_eq!((&plan["slots"], &plan["moves"][0]["to"]), (&json!(1), &json!("shard2")), "{plan}");
    router.kill();
    let mut router = start(folder.path(), "");
    read(&router, &json!(["shard2", "shard3"]));
    assert_eq!(count(&router, "accounts&note=eq.moved", Some("key_0")).0, 1);
    router.end();
    if !is_servers() {
        let dir = folder.path().join("data");
        let checked = run(&["check", "--data-dir", dir.to_str().unwrap()], "");
        assert_eq!(checked.code, Some(0), "{checked:?}");
    }
}

#[test]
fn a_move_by_key_names_the_partition_where_the_key_alone_has_no_slot() {
    not_on_citus!(WHY);
    let folder = folders::temporary();
    let router = start(folder.path(), SETTINGS);
    create_tables(&router);
    made(&router.write("ada", &account("ada", "eu")));
    made(&router.write("ada", &account("ada", "us")));
    let in_partition = "key=ada&table=accounts&partition=eu";
    let (slot, ..) = route(&router, in_partition);
    let cases = [
        (json!({"key": "ada", "table": "accounts"}), "partition: region is missing"),
        (json!({"key": "ada", "table": "accounts", "partition": "asia"}), "there are: eu, us"),
        (json!({"key": "ada", "table": "logins", "partition": "eu"}), "depends on no column"),
        (json!({"key": "ada", "partition": "eu"}), "depends on no column"),
        (json!({"slots": "16384", "partition": "eu"}), "partition is given with key only"),
    ];
    for (mut draft, expected) in cases {
        draft["to"] = json!("shard3");
        let text = refused(&router.post("/api/moves", &[], &draft), "TSR330");
        assert!(text.contains(expected), "{draft}: {text}");
    }
    let draft =
        json!({"key": "ada", "table": "accounts", "partition": "eu", "to": "shard3", "keep": 0});
    let begun = router.post("/api/moves", &[], &draft);
    assert_eq!((begun.status, &begun.json()["slots"]), (202, &json!(slot.to_string())));
    until(&router, &begun.json(), "done");
    assert_eq!(route(&router, in_partition).1, "shard3");
    // The command names the partition as well, and takes the slot back.
    let unnamed = ["move", "start", "--key", "ada", "--table", "accounts", "--to", "shard2"];
    let ended = ask(&router, &unnamed, "");
    assert!(ended.code == Some(2) && ended.err.contains("--partition"), "{ended:?}");
    let command = ["move", "start", "--key", "ada", "--table", "accounts", "--partition", "eu"];
    let command = [&command[..], &["--to", "shard2", "--keep", "0"]].concat();
    let begun = ask(&router, &command, "").json(0);
    assert_eq!(begun["slots"], slot.to_string());
    until(&router, &begun, "done");
    assert_eq!(route(&router, in_partition).1, "shard2");
    assert_eq!(count(&router, "accounts", Some("ada")).0, 2);
}

#[test]
fn the_partition_is_required_in_the_tables_of_its_group_only() {
    not_on_citus!(WHY);
    let folder = folders::temporary();
    let router = start(folder.path(), SETTINGS);
    create_tables(&router);
    let missing = json!({"table": "accounts", "data": {"id": "ada"}});
    assert!(refused(&router.write("ada", &missing), "TSR355").contains("there are: eu, us"));
    refused(&router.write("ada", &account("ada", "asia")), "TSR356");
    made(&router.write("ada", &account("ada", "eu")));
    made(&router.write("ada", &user("ada")));
    let unlocated = refused(&router.get("/api/route?key=ada&table=accounts"), "TSR355");
    assert!(unlocated.contains("add &partition=VALUE"), "{unlocated}");
    let located = ask(&router, &["route", "ada", "--table", "accounts"], "");
    assert!(located.code == Some(2) && located.err.contains("--partition"), "{located:?}");
    refused(&router.get("/api/route?key=ada&table=accounts&partition=asia"), "TSR356");
    refused(&router.get("/api/route?key=ada&table=users&region=eu"), "TSR100");
    refused(&router.get("/api/route?key=ada&partition=eu"), "TSR100");
    // A table of the group without the column has no partitions, not even those that exist.
    for (name, value) in [("partition", "eu"), ("partition", "asia"), ("region", "eu")] {
        let reply = router.get(&format!("/api/route?key=ada&table=logins&{name}={value}"));
        let text = refused(&reply, "TSR100");
        let expected = format!("{name}: the slot of this key depends on no column");
        assert!(text.contains(&expected), "{text}");
    }
    assert_eq!(router.get("/api/route?key=ada&table=logins").status, 200);
    let write = |filter: &str, table: &str, op: &str, data: Value| {
        let body = json!({"table": table, "op": op, "data": data});
        router.post(&format!("/api/write?{filter}"), &[("x-shard-key", "ada")], &body)
    };
    let other = json!({"user_id": "ada", "name": "m"});
    refused(&write("region=eq.eu", "users", "update", other), "TSR100");
    let moved = json!({"id": "ada", "region": "us"});
    refused(&write("region=eq.eu", "accounts", "update", moved), "TSR357");
    let delete = json!({"id": "ada"});
    assert_eq!(write("region=eq.us", "accounts", "delete", delete.clone()).code(), "TSR302");
    assert_eq!(write("region=eq.eu", "accounts", "delete", delete).status, 200);
    assert_eq!(count(&router, "accounts", Some("ada")).0, 0);
    assert_eq!(count(&router, "users", Some("ada")).0, 1);
}
