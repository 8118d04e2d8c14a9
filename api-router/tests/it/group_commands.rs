//! Tests of the commands that find a key by the group of its table.

use serde_json::{Value, json};

use crate::backend::{is_servers, not_on_citus};
use crate::commands::{ask, run};
use crate::folders;
use crate::groups::{SETTINGS, create, start};
use crate::harness::Router;
use crate::moves::until;

const WHY: &str = "Citus places rows itself, and has no groups";

/// Returns group, slot and shard of the only key in a response.
fn place(routed: &Value) -> (&Value, &Value, &Value) {
    (&routed[0]["group"], &routed[0]["slot"], &routed[0]["shard"])
}

#[test]
fn the_command_route_locates_a_key_by_the_group_of_its_table_also_without_a_router() {
    not_on_citus!(WHY);
    let folder = folders::temporary();
    let mut router = start(folder.path(), SETTINGS);
    create(&router, "clicks", None);
    let data_dir = folder.path().join("data").to_str().unwrap().to_owned();
    let files =
        |arguments: &[&str]| run(&[arguments, &["--json", "--data-dir", &data_dir]].concat(), "");
    let (clicks, main) = (["route", "us:7", "--table", "clicks"], ["route", "us:7"]);
    let in_group = ask(&router, &clicks, "").json(0);
    let real = router.get("/api/route?key=us:7&table=clicks").json();
    assert_eq!(place(&in_group), (&json!("events"), &real["slot"], &json!("shard3")));
    let in_main = ask(&router, &main, "").json(0);
    let real = router.get("/api/route?key=us:7").json();
    assert_eq!(place(&in_main), (&Value::Null, &real["slot"], &json!("shard1")));
    let unknown = ask(&router, &["route", "us:7", "--table", "clikcs"], "");
    assert_eq!(unknown.code, Some(2), "{unknown:?}");
    assert!(unknown.err.contains("there is no table `clikcs`"), "{unknown:?}");
    if is_servers() {
        return;
    }
    assert_eq!((files(&clicks).json(0), files(&main).json(0)), (in_group.clone(), in_main.clone()));
    router.end();
    assert_eq!((files(&clicks).json(0), files(&main).json(0)), (in_group, in_main));
    let unknown = files(&["route", "us:7", "--table", "clikcs"]);
    assert_eq!(unknown.code, Some(2), "{unknown:?}");
    assert!(unknown.err.contains("there is no table `clikcs`; there are: clicks"), "{unknown:?}");
    let elsewhere = files(&["route", "user_1", "--table", "clicks"]);
    assert_eq!(elsewhere.code, Some(2), "a key without a partition of the group: {elsewhere:?}");
}

/// Returns slot and shard of a key in the group `events`.
fn in_events(router: &Router, key: &str) -> (String, Value) {
    let route = router.get(&format!("/api/route?key={key}&table=clicks")).json();
    (route["slot"].to_string(), route["shard"].clone())
}

#[test]
fn a_move_by_key_takes_the_slot_of_the_key_in_the_group_of_the_table() {
    not_on_citus!(WHY);
    let folder = folders::temporary();
    let router = start(folder.path(), SETTINGS);
    create(&router, "clicks", None);
    let stored = router.write("us:7", &json!({"table": "clicks", "data": {"note": "n"}}));
    assert_eq!((stored.status, &stored.json()["shard"]), (201, &json!("shard3")));
    let (slot, _) = in_events(&router, "us:7");
    let draft = json!({"key": "us:7", "table": "clicks", "to": "shard2", "keep": 0});
    let begun = router.post("/api/moves", &[], &draft);
    assert_eq!((begun.status, &begun.json()["slots"]), (202, &json!(slot)), "{}", begun.text());
    until(&router, &begun.json(), "done");
    assert_eq!(in_events(&router, "us:7"), (slot.clone(), json!("shard2")));
    let command =
        ["move", "start", "--key", "us:7", "--table", "clicks", "--to", "shard3", "--keep", "0"];
    let begun = ask(&router, &command, "").json(0);
    assert_eq!(begun["slots"], slot);
    until(&router, &begun, "done");
    assert_eq!(in_events(&router, "us:7"), (slot, json!("shard3")));
    assert_eq!(router.read("us:7", "table=clicks").json()["data"][0]["note"], "n");
}

#[test]
fn a_move_by_key_that_names_its_table_badly_is_refused_by_the_name_of_the_member() {
    not_on_citus!(WHY);
    let folder = folders::temporary();
    let router = start(folder.path(), SETTINGS);
    create(&router, "clicks", None);
    let cases = [
        (json!({"key": "us:7", "table": "clikcs"}), "TSR330", "table: there is no table `clikcs`"),
        (json!({"slots": "0", "table": "users"}), "TSR330", "table is given with key only"),
        (json!({"key": "us:7", "table": 7}), "TSR101", "table must be a string"),
        (json!({"key": "user_1", "table": "clicks"}), "TSR330", "key: in keyspace list"),
        (json!({"key": "us:7", "table": "clicks", "to": "shard1"}), "TSR330", "group events"),
    ];
    for (mut draft, code, expected) in cases {
        if draft.get("to").is_none() {
            draft["to"] = json!("shard2");
        }
        let reply = router.post("/api/moves", &[], &draft);
        assert_eq!((reply.status, &*reply.code()), (400, code), "{draft}: {}", reply.text());
        assert!(reply.text().contains(expected), "{draft}: {}", reply.text());
    }
    let command = ["move", "start", "--key", "us:7", "--table", "clikcs", "--to", "shard2"];
    let by_command = ask(&router, &command, "");
    assert_eq!(by_command.code, Some(2), "{by_command:?}");
    assert!(by_command.err.contains("table: there is no table `clikcs`"), "{by_command:?}");
    let slots = ["move", "start", "--slots", "0", "--table", "users", "--to", "shard2"];
    assert_eq!(ask(&router, &slots, "").code, Some(2), "a table without a key");
    if !is_servers() {
        let data_dir = folder.path().join("data");
        let by_socket =
            run(&[&command[..], &["--data-dir", data_dir.to_str().unwrap()]].concat(), "");
        assert_eq!(by_socket.code, Some(2), "{by_socket:?}");
        assert!(by_socket.err.contains("table: there is no table `clikcs`"), "{by_socket:?}");
    }
}
