//! Tests of the advice for table groups: it names the group that it is about, and its requests and
//! commands act on that group alone.

use std::fs;
use std::ops::RangeInclusive;

use serde_json::{Value, json};
use shard_manager::slot_set::SlotSet;

use crate::advice::{Owners, advice, read_from};
use crate::advice_actions::send;
use crate::backend::not_on_citus;
use crate::commands::ask;
use crate::folders;
use crate::groups::create;
use crate::harness::{Router, eventually};

const WHY: &str = "Citus places rows itself, and has no groups";

/// Two groups with two shards each, one of which belongs to both.
const SETTINGS: &str = r#"
[groups.main]
shards = ["shard1", "shard2"]

[groups.events]
tables = ["clicks"]
shards = ["shard2", "shard3"]
"#;
const FLAGS: [&str; 5] = ["--shards", "3", "--replicas", "0", "--operate"];
/// Slots of the groups, in their order.
const SLOTS: [(&str, RangeInclusive<u16>); 2] = [("main", 0..=16_383), ("events", 16_384..=32_767)];

/// Starts a router whose groups both have a shard with three times the requests of the other one.
fn lopsided(folder: &std::path::Path) -> Router {
    fs::write(folder.join("tessera.toml"), SETTINGS).unwrap();
    let router = Router::start_in(&folder.join("data"), &FLAGS);
    assert_eq!(create(&router, "clicks", None), "events");
    let map = router.get("/api/shard-map").json();
    let tables = [("users", "shard1", "shard2"), ("clicks", "shard2", "shard3")];
    for ((table, fuller, other), group) in tables.into_iter().zip([0, 1]) {
        let owners = Owners::of_ranges(&map["groups"][group]["ranges"]);
        read_from(&router, table, &[(owners.keys(fuller, 100), 9), (owners.keys(other, 100), 3)]);
    }
    router
}

/// Checks that a plan or a rebalance moves slots, and only slots of one group.
#[track_caller]
fn check_moves(reported: &Value, (group, slots): &(&str, RangeInclusive<u16>)) {
    assert_eq!(reported["group"], *group, "{reported}");
    let moves = reported["moves"].as_array().unwrap();
    assert!(!moves.is_empty(), "{reported}");
    for step in moves {
        let moved: SlotSet = step["slots"].as_str().unwrap().parse().unwrap();
        assert!(moved.iter().all(|slot| slots.contains(&slot.number())), "{step}");
    }
}

/// Returns the action of the finding that the shards of a group have uneven load.
#[track_caller]
fn uneven(router: &Router, group: &str) -> Value {
    let reported = advice(router, &format!("?group={group}"));
    assert_eq!((&reported["group"], &reported["verdict"]), (&json!(group), &json!("skewed")));
    let findings = reported["findings"].as_array().unwrap().iter();
    let mut uneven = findings.filter(|finding| finding["kind"] == "uneven_shards");
    uneven.next().unwrap_or_else(|| panic!("{reported}"))["action"].clone()
}

#[test]
fn advice_names_its_group_and_its_requests_and_commands_act_on_that_group_alone() {
    not_on_citus!(WHY);
    let folder = folders::temporary();
    let router = lopsided(folder.path());
    assert_eq!(advice(&router, "")["group"], "main");
    for own in &SLOTS {
        let action = uneven(&router, own.0);
        assert_eq!(action["body"], json!({"by": "load", "group": own.0}));
        let flags = format!("rebalance --by load --group {} --yes", own.0);
        assert!(action["command"].as_str().unwrap().contains(&flags), "{action}");
        let command = ["rebalance", "--by", "load", "--group", own.0, "--dry-run"];
        check_moves(&ask(&router, &command, "").json(0), own);
    }
    let begun = send(&router, &uneven(&router, "events"));
    assert_eq!(begun.status, 202, "{}", begun.text());
    let begun = begun.json();
    check_moves(&begun, &SLOTS[1]);
    let path = format!("/api/rebalance/{}", begun["id"].as_str().unwrap());
    let ended = eventually("the rebalance ends", || {
        let shown = router.get(&path).json();
        (!shown["ended_at"].is_null()).then_some(shown)
    });
    assert_eq!((&ended["state"], &ended["group"]), (&json!("done"), &json!("events")), "{ended}");
    let measured = ended["skew_measured"].as_f64().unwrap();
    assert!(measured <= 1.1, "the skew of the group, not that of main: {ended}");
    let followed = advice(&router, "?group=events");
    assert_eq!((&followed["verdict"], &followed["findings"]), (&json!("balanced"), &json!([])));
    assert_eq!(followed["effect"]["moved"]["slots"], ended["slots"], "{followed}");
    let main = advice(&router, "?group=main");
    assert_eq!((&main["verdict"], &main["effect"]["moved"]), (&json!("skewed"), &Value::Null));
    assert_eq!(main["effect"]["rebalance"]["group"], "events");
}

#[test]
fn a_rebalance_of_one_group_takes_its_placement_and_refuses_a_group_that_is_none() {
    not_on_citus!(WHY);
    let folder = folders::temporary();
    fs::write(folder.path().join("tessera.toml"), SETTINGS).unwrap();
    let router = Router::start_in(&folder.path().join("data"), &FLAGS);
    let plan = |group: &str, placement: &str| {
        let draft =
            json!({"by": "placement", "placement": placement, "group": group, "dry_run": true});
        router.post("/api/rebalance", &[], &draft)
    };
    for (own, outside) in SLOTS.iter().zip(["shard3", "shard1"]) {
        check_moves(&plan(own.0, "ring:160").json(), own);
        let refused = plan(own.0, &format!("manual:0-16383={outside}"));
        assert_eq!((refused.status, &*refused.code()), (400, "TSR335"), "{}", refused.text());
        let first = json!({"by": "placement", "group": own.0, "dry_run": true});
        let first = router.post("/api/rebalance", &[], &first).json();
        assert_eq!((&first["group"], &first["slots"]), (&json!(own.0), &json!(0)), "{first}");
    }
    let unknown = plan("evnts", "ring:160");
    assert_eq!((unknown.status, &*unknown.code()), (400, "TSR350"), "{}", unknown.text());
    assert!(unknown.text().contains("group: there is no table group `evnts`"));
    let unknown = ask(&router, &["rebalance", "--group", "evnts", "--dry-run"], "");
    assert_eq!(unknown.code, Some(2), "{unknown:?}");
    assert!(unknown.err.contains("TSR350"), "{unknown:?}");
    let drain = json!({"group": "events", "dry_run": true});
    let drain = router.post("/api/shards/shard3/drain", &[], &drain);
    assert_eq!((drain.status, &*drain.code()), (400, "TSR102"), "{}", drain.text());
}
