//! Tests of the commands that find a key by the group of its table.

use serde_json::{Value, json};

use crate::backend::{is_servers, not_on_citus};
use crate::commands::{ask, run};
use crate::folders;
use crate::groups::{SETTINGS, create, start};

const WHY: &str = "Citus places rows itself, and has no groups";

/// Returns group, slot and shard of the only key.
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
