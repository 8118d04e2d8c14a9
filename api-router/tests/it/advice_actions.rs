//! Tests of the actions of the advice: the request and the command of a finding carry it out
//! without changes, afterwards the advice has no findings and shows the effect, and a key that no
//! move helps is reported as such.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::advice::{Owners, advice, read};
use crate::backend::not_on_citus;
use crate::commands::PROGRAM;
use crate::harness::{Reply, Router, eventually, isolated};
use crate::moves::{OPERATE, begin_slow, order, place, until};

const WHY: &str = "Citus is one shard to Tessera, and places rows itself";

/// Sends the request of an action exactly as it is given.
pub(crate) fn send(router: &Router, action: &Value) -> Reply {
    let (method, path) = (action["method"].as_str().unwrap(), action["path"].as_str().unwrap());
    assert_eq!(action["url"], router.url(path), "{action}");
    let json = [("content-type", "application/json")];
    router.send(method, path, &json, Some(action["body"].to_string().as_bytes()))
}

/// Runs the command of an action in a shell that finds the real program under its name.
fn run_in_shell(action: &Value) -> Value {
    let folder = crate::folders::temporary();
    std::os::unix::fs::symlink(&*PROGRAM, folder.path().join("shard-manager")).unwrap();
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let line = format!("{} --json", action["command"].as_str().unwrap());
    let mut shell = isolated(Command::new("sh"), folder.path());
    let shell = shell.args(["-c", &line]).env("PATH", path).stdin(Stdio::null());
    let ended = shell.output().unwrap();
    assert!(ended.status.success(), "{line}: {ended:?}");
    serde_json::from_slice(&ended.stdout).unwrap()
}

/// Reads keys of three shards so that the first has 1.5 times its share and the second half of its
/// share. The excess belongs to one key, which is returned.
fn heat(router: &Router) -> String {
    let owners = Owners::of(router);
    let mut of_first = owners.keys("shard1", 101);
    let hot = of_first.pop().unwrap();
    let (second, third) = (owners.keys("shard2", 100), owners.keys("shard3", 100));
    read(router, &[(of_first, 6), (vec![hot.clone()], 300), (second, 3), (third, 6)]);
    hot
}

/// Removes the length of time for which requests were counted.
fn without_time(mut reported: Value) -> Value {
    reported["window_s"] = Value::Null;
    reported
}

/// Waits until the replicas follow, so that a move may begin.
fn until_ready(router: &Router) {
    eventually("the replicas follow", || {
        let json = [("content-type", "application/json")];
        let plan = json!({"by": "load", "dry_run": true}).to_string();
        let plan = router.send("POST", "/api/rebalance", &json, Some(plan.as_bytes())).json();
        (plan["refusals"] == json!([])).then_some(())
    });
}

fn is_near(reported: &Value, expected: f64) -> bool {
    reported.as_f64().is_some_and(|reported| (reported - expected).abs() < 1e-9)
}

/// Checks that the advice has no more findings, and that it shows the effect of one slot.
#[track_caller]
fn check_effect(reported: &Value) {
    assert_eq!(reported["verdict"], "balanced", "{reported}");
    assert_eq!((&reported["findings"], &reported["moves"]), (&json!([]), &json!([])), "{reported}");
    let moved = &reported["effect"]["moved"];
    assert_eq!((&moved["slots"], moved["moves"].as_array().unwrap().len()), (&json!(1), 1));
    assert!(is_near(&moved["skew_before"], 1.5) && is_near(&moved["skew_now"], 1.0), "{moved}");
}

#[test]
fn a_hot_slot_among_cool_ones_is_moved_by_the_request_of_its_finding_and_the_effect_is_shown() {
    not_on_citus!(WHY);
    let router = Router::start_with(OPERATE);
    let key = heat(&router);
    let (slot, _) = place(&router, &key);
    until_ready(&router);
    let reported = without_time(advice(&router, ""));
    assert_eq!(reported, without_time(advice(&router, "")), "the same once more");
    assert_eq!(reported["verdict"], "skewed", "{reported}");
    assert_eq!(reported["effect"], json!({"rebalance": null, "moved": null}));
    let hot = &reported["findings"][0];
    assert_eq!((&hot["kind"], &hot["key"]), (&json!("hot_key"), &json!(key)), "{reported}");
    assert_eq!((&hot["slot"], &hot["shard"]), (&json!(slot), &json!("shard1")));
    assert!(is_near(&hot["skew_after"], 1.0) && hot["no_action"].is_null(), "{hot}");
    let because = hot["because"].as_str().unwrap();
    assert!(because.contains("shard1 carries 1.50 of its fair share"), "{because}");
    let action = &hot["action"];
    let body = json!({"slots": slot.to_string(), "from": "shard1", "to": "shard2"});
    assert_eq!((&action["method"], &action["path"]), (&json!("POST"), &json!("/api/moves")));
    assert_eq!((&action["body"], &action["requires"]), (&body, &json!("--operate")));
    assert_eq!(action["allowed"], true);

    let begun = send(&router, action);
    assert_eq!(begun.status, 202, "{}", begun.text());
    let begun = begun.json();
    until(&router, &begun, "keeping");
    assert_eq!(place(&router, &key), (slot, "shard2".to_owned()));
    let reported = advice(&router, "");
    check_effect(&reported);
    assert_eq!(reported["effect"]["moved"]["moves"], json!([begun["id"]]));
    assert_eq!(reported["how"], "nothing has to be done");
}

#[test]
fn the_command_of_a_finding_does_what_its_request_does() {
    not_on_citus!(WHY);
    for (kind, by) in [("hot_key", None), ("uneven_shards", Some("load"))] {
        let router = Router::start_with(OPERATE);
        let key = heat(&router);
        until_ready(&router);
        let reported = advice(&router, "");
        let findings = reported["findings"].as_array().unwrap();
        let finding = findings.iter().find(|finding| finding["kind"] == kind).unwrap();
        let begun = run_in_shell(&finding["action"]);
        let Some(by) = by else {
            until(&router, &begun, "keeping");
            check_effect(&advice(&router, ""));
            continue;
        };
        let path = format!("/api/rebalance/{}", begun["id"].as_str().unwrap());
        let ended = eventually("the rebalance ends", || {
            let shown = router.get(&path).json();
            (!shown["ended_at"].is_null()).then_some(shown)
        });
        assert_eq!((&ended["state"], &ended["by"]), (&json!("done"), &json!(by)), "{ended}");
        assert_eq!(place(&router, &key).1, "shard2");
        let reported = advice(&router, "");
        check_effect(&reported);
        let effect = &reported["effect"]["rebalance"];
        assert_eq!(effect["id"], begun["id"]);
        for (skew, expected) in [("before", 1.5), ("planned", 1.0), ("measured", 1.0)] {
            assert!(is_near(&effect[format!("skew_{skew}")], expected), "{skew}: {effect}");
        }
    }
}

#[test]
fn a_hot_key_that_no_move_helps_has_a_reason_and_other_help_instead_of_an_action() {
    not_on_citus!(WHY);
    let router = Router::start_with(OPERATE);
    read(&router, &[(vec!["celebrity".to_owned()], 1_500)]);
    let reported = advice(&router, "");
    assert_eq!((&reported["verdict"], &reported["moves"]), (&json!("hot"), &json!([])));
    let findings = reported["findings"].as_array().unwrap();
    let kinds: Vec<&Value> = findings.iter().map(|finding| &finding["kind"]).collect();
    assert_eq!(kinds, ["hot_key", "uneven_shards"], "{reported}");
    for finding in findings {
        assert!(finding["action"].is_null() && finding["skew_after"].is_null(), "{finding}");
        assert!(finding["no_action"]["reason"].as_str().unwrap().contains("no move"), "{finding}");
    }
    assert_eq!(findings[0]["key"], "celebrity");
    let helps = findings[0]["no_action"]["helps"].to_string();
    assert!(helps.contains("cache") && helps.contains("split the key"), "{helps}");
}

#[test]
fn an_action_names_the_flag_that_a_router_lacks() {
    not_on_citus!(WHY);
    let router = Router::start();
    heat(&router);
    let reported = advice(&router, "");
    for finding in reported["findings"].as_array().unwrap() {
        let action = &finding["action"];
        assert_eq!((&action["requires"], &action["allowed"]), (&json!("--operate"), &json!(false)));
        let refused = send(&router, action);
        assert!([404, 405].contains(&refused.status), "{}", refused.text());
    }
}

#[test]
fn slots_that_move_already_are_left_alone() {
    not_on_citus!(WHY);
    let router = Router::start_with(OPERATE);
    let key = heat(&router);
    until_ready(&router);
    let begun = begin_slow(&router, &key, "shard2", 1);
    assert_eq!(order(&router, &begun, "pause").status, 200);
    let reported = advice(&router, "");
    assert_eq!((&reported["verdict"], &reported["moves"]), (&json!("skewed"), &json!([])));
    for finding in reported["findings"].as_array().unwrap() {
        let reason = finding["no_action"]["reason"].as_str().unwrap();
        assert!(finding["action"].is_null() && reason.contains("already"), "{finding}");
    }
    assert!(
        reported["because"].as_str().unwrap().contains("1 slot is being moved already"),
        "{reported}"
    );
    assert_eq!(order(&router, &begun, "cancel").status, 200);
    until(&router, &begun, "cancelled");
    let reported = advice(&router, "");
    assert_eq!(reported["findings"][0]["action"]["path"], "/api/moves", "it may move again");
}
