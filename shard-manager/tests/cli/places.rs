//! Tests of the flags and the variable that name the cluster of a command.

use crate::cluster::{run, run_in, serve};

#[test]
fn a_router_and_a_data_directory_are_not_named_together() {
    let both = ["--url", "http://127.0.0.1:9", "--data-dir", "./data"];
    for command in [
        &["move", "start", "--slots", "400", "--to", "shard2"][..],
        &["move", "list"],
        &["index", "list", "orders"],
        &["rebalance", "--yes"],
        &["rebalance", "list"],
        &["status"],
        &["route", "user_1"],
        &["shard", "list"],
        &["shard", "drain", "shard2"],
        &["placement", "show"],
    ] {
        let refusal = "argument '--url <URL>' cannot be used with '--data-dir <DIR>'";
        run(&[command, &both].concat()).refused(refusal);
        let (url, data_dir) = both.split_at(2);
        let refusal = "argument '--data-dir <DIR>' cannot be used with '--url <URL>'";
        run(&[command, data_dir, url].concat()).refused(refusal);
    }
}

#[test]
fn a_router_is_used_although_the_variable_names_a_data_directory() {
    let url = serve(&[("/api/moves", 200, r#"{"success":true,"moves":[]}"#)]);
    let nowhere = std::env::temp_dir().join("there-is-no-cluster-here");
    let listed = run_in(&nowhere, &["move", "list", "--url", &url, "--json"]).expect(0);
    assert_eq!(listed.json(), serde_json::json!({"moves": []}));
}
