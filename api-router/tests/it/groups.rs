//! Tests of table groups: settings, tables and rows of a group, and the responses about groups.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::folders;
use crate::harness::{Router, bare_command, refused_start};

/// One group on a single shard, and one that is spread over two.
pub(crate) const SETTINGS: &str = r#"
[groups.main]
shards = ["shard1"]

[groups.ledger]
tables = ["transactions"]
shards = ["shard2"]

[groups.events]
tables = ["clicks"]
keyspace = "list:eu=1,us=1"
placement = "partitions:eu=1>shard2,us=1>shard3"
shards = ["shard2", "shard3"]
"#;

const FLAGS: [&str; 3] = ["--shards", "3", "--operate"];

pub(crate) fn start(folder: &Path, settings: &str) -> Router {
    fs::write(folder.join("tessera.toml"), settings).unwrap();
    Router::start_in(&folder.join("data"), &FLAGS)
}

fn table(name: &str, group: Option<&str>) -> Value {
    let columns =
        json!([{"name": "id", "type": "text"}, {"name": "note", "type": "text", "null": true}]);
    let mut table = json!({"name": name, "columns": columns, "id": ["id"], "routing": "id"});
    if let Some(group) = group {
        table["group"] = group.into();
    }
    table
}

/// Creates a table, and returns its group.
pub(crate) fn create(router: &Router, name: &str, group: Option<&str>) -> Value {
    let made = router.post("/api/tables", &[], &table(name, group));
    assert_eq!(made.status, 201, "{}", made.text());
    made.json()["table"]["group"].clone()
}

/// Stores a row, and returns its slot and shard.
fn store(router: &Router, table: &str, key: &str, data: Value) -> (u64, Value) {
    let stored = router.write(key, &json!({"table": table, "data": data}));
    assert_eq!(stored.status, 201, "{}", stored.text());
    let stored = stored.json();
    let route = router.get(&format!("/api/route?key={key}&table={table}")).json();
    assert_eq!((&route["slot"], &route["shard"]), (&stored["slot"], &stored["shard"]));
    (stored["slot"].as_u64().unwrap(), stored["shard"].clone())
}

/// Checks that reads return the rows that the test has stored.
fn find_all(router: &Router) {
    for (table, rows) in [("users", 1), ("transactions", 1), ("clicks", 2), ("notes", 1)] {
        let read = router.get(&format!("/api/read?table={table}")).json();
        assert_eq!(read["count"], rows, "{table}: {read}");
    }
    let read = router.read("us:7", "table=clicks").json();
    assert_eq!(read["data"][0]["id"], "us:7");
}

#[test]
fn tables_of_a_group_have_its_shards_slots_and_keyspace_also_after_a_kill() {
    crate::backend::not_on_citus!("Citus places rows itself, and has no groups");
    let folder = folders::temporary();
    let mut router = start(folder.path(), SETTINGS);
    assert_eq!(create(&router, "clicks", None), "events");
    assert_eq!(create(&router, "notes", Some("ledger")), "ledger");
    let again = router.post("/api/tables", &[], &table("notes", None));
    assert_eq!((again.status, &again.json()["table"]["group"]), (200, &json!("ledger")));
    let other = router.post("/api/tables", &[], &table("notes", Some("main")));
    assert_eq!(other.status, 409, "{}", other.text());
    assert!(other.text().contains("belongs to another table group"), "{}", other.text());
    let user = json!({"name": "n", "email": "e"});
    let (slot, shard) = store(&router, "users", "user_1", user);
    assert_eq!((slot < 16_384, shard), (true, json!("shard1")));
    let paid = store(&router, "transactions", "user_1", json!({"tx_id": "t", "amount": 1}));
    assert_eq!(paid, (slot + groups(&router, "ledger"), json!("shard2")));
    assert_eq!(store(&router, "notes", "user_1", json!({})), paid, "keys of a group lie together");
    assert_eq!(store(&router, "clicks", "eu:1", json!({})).1, "shard2");
    assert_eq!(store(&router, "clicks", "us:7", json!({})).1, "shard3");
    let stray = router.write("user_1", &json!({"table": "clicks", "data": {}}));
    assert_eq!((stray.status, &*stray.code()), (400, "TSR113"), "{}", stray.text());
    find_all(&router);
    router.kill();
    let router = start(folder.path(), "");
    find_all(&router);
    assert_eq!(router.get("/api/groups").json()["groups"].as_array().unwrap().len(), 3);
}

/// Returns the number of the first slot of a group.
fn groups(router: &Router, name: &str) -> u64 {
    let answer = router.get("/api/groups").json();
    let all = answer["groups"].as_array().unwrap();
    let group = all.iter().find(|group| group["name"] == name).unwrap();
    group["slots"][0].as_u64().unwrap()
}

#[test]
fn the_router_lists_groups_with_their_slots_shards_and_tables() {
    crate::backend::not_on_citus!("Citus places rows itself, and has no groups");
    let folder = folders::temporary();
    let router = start(folder.path(), SETTINGS);
    let events = router.get("/api/groups").json()["groups"][1].clone();
    let expected = json!({
        "name": "events", "keyspace": "list", "hash": "xxh3_64", "parameters": events["parameters"],
        "placement": "partitions", "placement_parameters": events["placement_parameters"],
        "shards": ["shard2", "shard3"], "slots": [16_384, 32_767], "tables": [],
    });
    assert_eq!(events, expected);
    let map = router.get("/api/shard-map").json();
    assert_eq!((&map["slots"], &map["ranges"]), (&json!(16_384), &json!([[0, 16_383, "shard1"]])));
    let ranges = json!([[16_384, 24_575, "shard2"], [24_576, 32_767, "shard3"]]);
    assert_eq!(map["groups"][1]["ranges"], ranges);
    assert_eq!(map["groups"][2]["ranges"], json!([[32_768, 49_151, "shard2"]]));
    let tables = router.get("/api/tables").json();
    let group = |name: &str| {
        let all = tables["tables"].as_array().unwrap();
        all.iter().find(|table| table["name"] == name).unwrap()["group"].clone()
    };
    assert_eq!((group("users"), group("transactions")), (json!("main"), json!("ledger")));
    let shards = |query: &str| {
        let answer = router.get(&format!("/api/distribution?{query}")).json();
        let parts = answer["shards"].as_array().unwrap().iter();
        parts.map(|part| part["shard"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(shards("table=transactions"), ["shard2"]);
    assert_eq!(shards("group=events"), ["shard2", "shard3"]);
    assert_eq!(shards(""), ["shard1", "shard2", "shard3"]);
    for group in ["main", "ledger", "events"] {
        let advice = router.get(&format!("/api/advice?by=size&group={group}"));
        assert_eq!(advice.status, 200, "{}", advice.text());
    }
    let unknown = [
        router.post("/api/tables", &[], &table("t", Some("ledgre"))),
        router.get("/api/distribution?group=ledgre"),
        router.get("/api/advice?by=size&group=ledgre"),
    ];
    for reply in unknown {
        assert_eq!((reply.status, &*reply.code()), (400, "TSR350"), "{}", reply.text());
        assert!(reply.text().contains("did you mean `ledger`"), "{}", reply.text());
    }
    let outside = router.post("/api/moves", &[], &json!({"slots": "16384", "to": "shard1"}));
    assert_eq!((outside.status, &*outside.code()), (400, "TSR330"), "{}", outside.text());
    assert!(outside.text().contains("shard1 is not a shard of group events"), "{}", outside.text());
    let beyond = router.post("/api/moves", &[], &json!({"slots": "49152", "to": "shard1"}));
    assert!(beyond.text().contains("slots are 0 to 49151"), "{}", beyond.text());
    let drained = router.post("/api/shards/shard3/drain", &[], &json!({"dry_run": true}));
    assert_eq!(drained.status, 200, "{}", drained.text());
    let drained = router.post("/api/shards/shard2/drain", &[], &json!({"dry_run": true}));
    assert_eq!((drained.status, &*drained.code()), (409, "TSR326"), "{}", drained.text());
    assert!(drained.text().contains("group ledger has no serving shard"), "{}", drained.text());
}

#[test]
fn a_placement_that_assigns_slots_of_a_group_to_another_shard_begins_nothing() {
    crate::backend::not_on_citus!("Citus places rows itself, and has no groups");
    let folder = folders::temporary();
    let router = start(folder.path(), SETTINGS);
    for dry_run in [true, false] {
        let body = json!({
            "by": "placement", "group": "ledger", "placement": "manual:0-16383=shard1",
            "dry_run": dry_run,
        });
        let refused = router.post("/api/rebalance", &[], &body);
        assert_eq!((refused.status, &*refused.code()), (400, "TSR335"), "{}", refused.text());
        let named = "shard1, which is not a shard of group ledger";
        assert!(refused.text().contains(named), "{}", refused.text());
    }
    assert_eq!(router.get("/api/rebalance").json()["rebalances"], json!([]));
}

#[test]
fn a_router_without_groups_reports_a_single_group() {
    let router = Router::shared();
    assert_eq!(router.get("/api/shard-map").json().get("groups"), None);
    let tables = router.get("/api/tables").json();
    let mut tables = tables["tables"].as_array().unwrap().iter();
    assert!(tables.all(|table| table.get("group").is_none()));
    let groups = router.get("/api/groups").json()["groups"].clone();
    assert_eq!((groups.as_array().unwrap().len(), &groups[0]["name"]), (1, &json!("main")));
    let route = router.get("/api/route?key=a&table=users").json();
    assert_eq!((&route["group"], &route["slot"]), (&json!("main"), &json!(3_615)));
    let unknown = router.get("/api/route?key=a&table=usres");
    assert_eq!((unknown.status, &*unknown.code()), (404, "TSR310"));
}

#[test]
fn settings_of_groups_that_cannot_be_are_refused_with_a_sentence() {
    let cases = [
        ("groups = 1", "groups (from"),
        ("[groups.Bad]", "`Bad` is not the name of a group"),
        ("[groups.a]\ntabels = []", "tabels"),
        ("[groups.a]\nkeyspace = \"geo\"", "groups.a.keyspace"),
        ("[groups.a]\nplacement = 7", "groups.a.placement"),
        ("[groups.a]\nshards = []", "group a has no shard"),
        ("[groups.main]\nkeyspace = \"hash\"", "keyspace cannot be set for the group main"),
        ("[groups.a]\ntables = [\"t\"]\n[groups.b]\ntables = [\"t\"]", "both name the table t"),
        ("[groups.a]\n[groups.b]\n[groups.c]\n[groups.d]", "at most 4 groups"),
        (
            "[groups.a]\nkeyspace = \"list(region):eu=2,us=1\"",
            "the placement of group a cannot be used: placement even puts the partition eu",
        ),
        ("[groups.a]\nshards = [\"shard9\"]", "there are: shard1, shard2, shard3"),
    ];
    for (settings, expected) in cases {
        let folder = folders::temporary();
        fs::write(folder.path().join("tessera.toml"), settings).unwrap();
        let mut command = bare_command(folder.path());
        command.args(["--bind", "127.0.0.1:0"]);
        let (_, said) = refused_start(command);
        assert!(said.contains(expected), "{settings}: {said}");
    }
}
