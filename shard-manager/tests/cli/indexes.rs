//! Tests of the commands that build, list and drop indexes: their options, and how they follow an
//! index of a router.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::cluster::{Ended, program, run, run_in, serve};

const COLUMNS: [&str; 2] = ["--columns", "status,amount"];

fn index(state: &str) -> Value {
    let mut index = json!({
        "name": "by_status", "columns": ["status", "amount"], "unique": false, "state": state,
        "pause_max_ms": 2_000
    });
    match state {
        "building" => {
            index["built"] = json!(1);
            index["shards"] = json!(3);
        }
        "ready" => index["pause_ms"] = json!(12),
        _ => index["reason"] = json!("two rows of a shard key are equal"),
    }
    index
}

/// Serves one index in this state to requests of every kind; returns the URL.
fn serving(state: &str) -> String {
    let one = index(state);
    let plan = json!([{"shard": "shard1", "rows": 7, "pause_ms": 3}]);
    let answer = json!({"success": true, "index": one, "indexes": [one], "shards": plan});
    let answer: &'static str = Box::leak(answer.to_string().into_boxed_str());
    let answers = vec![
        ("/api/tables/orders/indexes", 200, answer),
        ("/api/tables/orders/indexes/by_status", 202, answer),
        (
            "/api/tables/nope/indexes",
            404,
            r#"{"detail":"there is no table `nope`","code":"TSR310"}"#,
        ),
    ];
    serve(Box::leak(answers.into_boxed_slice()))
}

#[test]
fn the_options_of_an_index_are_checked_before_anything_is_sent() {
    let nobody = ["--url", "http://127.0.0.1:9"];
    for (arguments, reason) in [
        (&["add", "orders", "by_status"][..], "--columns <COLUMNS>"),
        (&["add", "orders"], "<NAME>"),
        (&["add", "orders", "by_status", "--columns", "a", "--pause-max-ms", "soon"], "soon"),
        (
            &["add", "orders", "i", "--columns", "a", "--dry-run", "--no-wait"],
            "cannot be used with",
        ),
        (&["add", "../keys", "i", "--columns", "a"], "cannot be the name of a table"),
        (&["drop", "orders", "i/../../keys"], "cannot be the name of an index"),
        (&["drop", "orders"], "<NAME>"),
    ] {
        run(&[&["index"], arguments, &nobody].concat()).refused(reason);
    }
    run(&[&["index", "add", "orders", "i", "--columns", "a"], &nobody[..]].concat())
        .refused("no router answers");
    let nowhere = std::env::temp_dir().join("there-is-no-cluster-here");
    run_in(&nowhere, &["index", "list", "orders"]).refused("there is no cluster here");
    assert!(!nowhere.exists());
}

#[test]
fn an_index_that_is_built_ends_the_wait_and_one_that_has_failed_has_a_reason() {
    for (state, code) in [("ready", 0), ("failed", 1), ("dropping", 1)] {
        let url = serving(state);
        let add = ["index", "add", "orders", "by_status", "--url", &url, "--json"];
        let ended = run(&[&add[..], &COLUMNS].concat()).expect(code);
        assert_eq!(ended.json(), index(state));
        assert_eq!(ended.err.contains("two rows of a shard key are equal"), code == 1, "{ended:?}");
    }
    let url = serving("building");
    let add = ["index", "add", "orders", "by_status", "--url", &url, "--json", "--no-wait"];
    assert_eq!(run(&[&add[..], &COLUMNS].concat()).expect(0).json(), index("building"));
}

#[test]
fn an_interrupt_ends_the_wait_and_reports_that_the_router_continues_the_index() {
    let url = serving("building");
    for arguments in [
        &["add", "orders", "by_status", "--columns", "status"][..],
        &["drop", "orders", "by_status"],
    ] {
        let mut command = program(&[&["index"], arguments, &["--url", &url]].concat());
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let first = lines.next().expect("a line").expect("UTF-8");
        assert_eq!(first, "by_status: building (1 of 3 shards)");
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-s", "INT", &pid]).status().unwrap().success());
        let rest: Vec<String> = lines.map(|line| line.expect("UTF-8")).collect();
        let list = format!("`shard-manager index list orders --url {url}` shows it");
        let reason = format!("continues to work on the index: {list}");
        assert!(rest.iter().any(|line| line.contains(&reason)), "{rest:?}");
        let ended = Ended::of(&child.wait_with_output().expect("the program ends")).expect(2);
        assert_eq!(ended.out, "");
    }
}

#[test]
fn indexes_are_listed_and_planned_as_lines() {
    let url = serving("building");
    let listed = run(&["index", "list", "orders", "--url", &url]).expect(0).out;
    let head = "index\tcolumns\tunique\tstate\twrites waited\treason\n";
    let row = "by_status\tstatus, amount\tno\tbuilding (1 of 3 shards)\t-\t-\n";
    assert_eq!(listed, head.to_owned() + row);
    let plan = ["index", "add", "orders", "by_status", "--dry-run", "--url", &url];
    let planned = run(&[&plan[..], &COLUMNS].concat()).expect(0).out;
    assert_eq!(planned, "shard\trows\twrites would wait\nshard1\t7\t3 ms\n");
    let refused = run(&["index", "list", "nope", "--url", &url]);
    refused.refused("there is no table `nope` (TSR310)");
}
