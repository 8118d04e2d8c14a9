//! Tests of the commands that build, list and drop indexes, through a router and on stopped files.

use serde_json::{Value, json};

use crate::backend::{is_servers, not_on_citus};
use crate::commands::{Ended, run};
use crate::folders;
use crate::harness::Router;

#[test]
fn commands_build_list_and_drop_an_index_of_a_router_and_list_those_of_stopped_files() {
    not_on_citus!("Tessera does not build indexes on Citus");
    let folder = folders::temporary();
    let data = folder.path().join("data");
    let mut router = Router::start_in(&data, &[]);
    let url = router.url("");
    let command = |arguments: &[&str]| -> Ended {
        run(&[&["index"], arguments, &["--json", "--url", &url]].concat(), "")
    };
    let names = |listed: &Value| -> Vec<String> {
        let indexes = listed["indexes"].as_array().unwrap().iter();
        indexes.map(|index| index["name"].as_str().unwrap().to_owned()).collect()
    };
    let add = ["add", "orders", "by_status", "--columns", "status,amount"];
    let plan = command(&[&add[..], &["--dry-run"]].concat()).json(0);
    assert_eq!(plan["shards"].as_array().unwrap().len(), 3, "{plan}");
    assert_eq!(names(&command(&["list", "orders"]).json(0)), Vec::<String>::new());
    let built = command(&add).json(0);
    assert_eq!((&built["name"], &built["state"]), (&json!("by_status"), &json!("ready")));
    assert_eq!(built["columns"], json!(["status", "amount"]));
    assert_eq!(command(&add).json(0), built, "again it is there already");
    let unique = ["add", "orders", "one_note", "--columns", "note", "--unique"];
    assert_eq!(command(&unique).json(0)["unique"], true);
    let listed = command(&["list", "orders"]).json(0);
    assert_eq!(names(&listed), ["by_status", "one_note"]);
    assert_eq!(command(&["list", "users"]).json(0)["indexes"], json!([]));
    for (arguments, code) in [
        (&["add", "orders", "by_status", "--columns", "status"][..], "TSR344"),
        (&["add", "orders", "by_nothing", "--columns", "nothing"], "TSR311"),
        (&["add", "nowhere", "by_status", "--columns", "status"], "TSR310"),
        (&["drop", "orders", "by_amount"], "TSR345"),
        (&["list", "nowhere"], "TSR310"),
    ] {
        let refused = command(arguments);
        assert_eq!(refused.code, Some(2), "{arguments:?}: {refused:?}");
        assert!(refused.err.contains(code), "{arguments:?}: {refused:?}");
    }
    let dropped = command(&["drop", "orders", "one_note"]).json(0);
    assert_eq!(dropped["state"], "dropped");
    assert_eq!(names(&command(&["list", "orders"]).json(0)), ["by_status"]);
    if is_servers() {
        return;
    }
    let dir = data.to_str().unwrap();
    let in_files = || run(&["index", "list", "orders", "--json", "--data-dir", dir], "").json(0);
    let beside = in_files();
    assert_eq!(names(&beside), ["by_status"], "beside the router");
    router.end();
    assert_eq!(in_files(), beside);
    assert_eq!(beside["indexes"][0], built);
}
