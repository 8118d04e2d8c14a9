//! Tests of the commands that plan, begin, order and show rebalances, through the socket, through a
//! URL and on stopped files.

use serde_json::{Value, json};

use crate::backend::{files_only, is_servers, not_on_citus};
use crate::commands::{Ended, run};
use crate::folders;
use crate::harness::{Router, eventually};
use crate::moves::OPERATE;
use crate::new_databases::new_url;
use crate::rebalances::{begin, join};

const NOWHERE: &str = "9b3e6c0a-52d4-4c5e-8f53-6d1b0c8f2a71";
const WHY: &str = "Citus places rows itself";

/// Returns the number of slots of a shard.
fn slots(router: &Router, shard: &str) -> Value {
    router.get(&format!("/api/shards/{shard}")).json()["slots"].clone()
}

#[test]
fn commands_rebalance_and_drain_through_the_socket_and_through_a_url() {
    not_on_citus!(WHY);
    let folder = folders::temporary();
    let data = folder.path().join("data");
    let mut router = Router::start_in(&data, OPERATE);
    let (dir, url) = (data.to_str().unwrap().to_owned(), router.url(""));
    for (place_of, shard) in [(["--data-dir", &dir], "east"), (["--url", &url], "west")] {
        if is_servers() && place_of[0] == "--data-dir" {
            // The socket is in a data directory, which servers do not have.
            continue;
        }
        let command = |arguments: &[&str]| -> Ended {
            run(&[arguments, &["--json"], &place_of[..]].concat(), "")
        };
        // The new shard gets a small share, so that few slots move.
        for known in ["shard1", "shard2", "shard3"] {
            command(&["shard", "weight", known, "64"]).json(0);
        }
        let database = new_url();
        let database = database.iter().flat_map(|url| ["--database", url]);
        command(&[&["shard", "add", shard], &database.collect::<Vec<_>>()[..]].concat()).json(0);
        let plan = eventually("the replicas follow", || {
            let plan = command(&["rebalance", "--dry-run"]).json(0);
            (plan["refusals"] == json!([])).then_some(plan)
        });
        assert_eq!((&plan["by"], &plan["slots"]), (&json!("slots"), &json!(84)), "{plan}");
        let unconfirmed = command(&["rebalance"]);
        assert_eq!(unconfirmed.code, Some(2), "{unconfirmed:?}");
        assert!(unconfirmed.err.contains("84 slots") && unconfirmed.err.contains("--yes"));
        assert_eq!(slots(&router, shard), 0, "nothing was begun");
        let done = command(&["rebalance", "--yes", "--wait", "--keep", "0", "--rate", "50"]);
        let done = done.json(0);
        assert_eq!((&done["state"], &done["slots_moved"]), (&json!("done"), &json!(84)));
        assert_eq!(slots(&router, shard), 84);
        let id = done["id"].as_str().unwrap();
        assert_eq!(command(&["rebalance", "show", id]).json(0), done);
        let listed = command(&["rebalance", "list"]).json(0);
        assert_eq!(listed["rebalances"][0]["id"], done["id"]);
        assert_eq!(command(&["rebalance", "--yes"]).json(0)["moves"], json!([]), "settled");
        for (arguments, code) in [
            (&["rebalance", "pause", id][..], "TSR337"),
            (&["rebalance", "show", NOWHERE], "TSR336"),
            (&["rebalance", "cancel", "../shards"], "TSR336"),
            (&["rebalance", "--dry-run", "--by", "rows"], "TSR335"),
            (&["rebalance", "--dry-run", "--placement", "ring"], "TSR335"),
            (&["rebalance", "--yes", "--keep", "86401"], "TSR335"),
            (&["shard", "drain", "shard9"], "TSR320"),
        ] {
            let refused = command(arguments);
            assert_eq!(refused.code, Some(2), "{arguments:?}: {refused:?}");
            assert!(refused.err.contains(code), "{arguments:?}: {refused:?}");
        }
        let plan = command(&["shard", "drain", shard, "--dry-run"]).json(0);
        assert_eq!((&plan["shard"], &plan["slots"]), (&json!(shard), &json!(84)), "{plan}");
        let drained = command(&["shard", "drain", shard, "--keep", "0", "--wait"]).json(0);
        assert_eq!((&drained["state"], &drained["slots_moved"]), (&json!("done"), &json!(84)));
        let shards = command(&["shard", "list"]).json(0)["shards"].clone();
        let mut shards = shards.as_array().unwrap().iter();
        assert!(shards.all(|listed| listed["shard"] != shard || listed["state"] == "retired"));
    }
    router.end();
    if !is_servers() {
        check_stopped(&dir);
    }
}

/// Shows and plans rebalances of the files of a router that has ended.
fn check_stopped(dir: &str) {
    let stopped = |arguments: &[&str]| {
        run(&[&["rebalance"], arguments, &["--json", "--data-dir", dir]].concat(), "")
    };
    let listed = stopped(&["list"]).json(0)["rebalances"].clone();
    assert_eq!(listed.as_array().unwrap().len(), 4);
    let shown = stopped(&["show", listed[0]["id"].as_str().unwrap()]).json(0);
    assert_eq!((&shown["state"], &shown["by"]), (&json!("done"), &json!("drain")));
    let planned = stopped(&["--dry-run", "--by", "placement", "--placement", "modulo"]).json(0);
    assert!(planned["slots"].as_u64() > Some(0), "{planned}");
    let refused = stopped(&["--by", "placement", "--placement", "modulo"]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.err.contains("add --yes to begin"), "{refused:?}");
}

#[test]
fn a_plan_on_stopped_files_names_the_rebalance_in_progress_and_no_replicas() {
    files_only!("a cluster is stopped and its files are read");
    let folder = folders::temporary();
    let data = folder.path().join("data");
    let mut router = Router::start_in(&data, OPERATE);
    join(&router, "shard4");
    let begun = begin(&router, "/api/rebalance", &json!({}));
    let id = begun["id"].as_str().unwrap();
    let paused = router.send("POST", &format!("/api/rebalance/{id}/pause"), &[], None);
    assert_eq!(paused.status, 200, "{}", paused.text());
    router.end();
    let dir = data.to_str().unwrap();
    let plan = run(&["rebalance", "--dry-run", "--json", "--data-dir", dir], "").json(0);
    let refusals = plan["refusals"].as_array().unwrap();
    assert_eq!(refusals.len(), 1, "{plan}");
    let refusal = refusals[0].as_str().unwrap();
    assert!(refusal.contains(id) && refusal.contains("goes on"), "{refusal}");
}

#[test]
fn a_hypothetical_cluster_is_planned_without_a_cluster() {
    let plan = run(&["rebalance", "--simulate", "shards=1000,add=1,bytes=10T", "--json"], "");
    let plan = plan.json(0);
    for (member, value) in [("slots", 16), ("moves", 16), ("givers", 16), ("shards_after", 1_001)] {
        assert_eq!(plan[member], value, "{member}: {plan}");
    }
    assert!(plan["bytes"].as_u64() > Some(9_000_000_000), "{plan}");
    assert!(plan["seconds"].as_f64() > Some(0.0) && plan["skew_planned"].as_f64() > Some(1.0));
    for (cluster, named) in [
        ("shards=0,add=1,bytes=1", "shards and add: there may be 1 to 4096 shards, not 0"),
        ("shards=4096,add=1,bytes=1", "shards and add: there may be 1 to 4096 shards, not 4097"),
    ] {
        let refused = run(&["rebalance", "--simulate", cluster], "");
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.err.contains(named), "{refused:?}");
    }
    for rate in ["0", "10001"] {
        let small = ["rebalance", "--simulate", "shards=3,add=1,bytes=30G", "--rate", rate];
        let refused = run(&small, "");
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.err.contains("rate must be a whole number"), "{refused:?}");
    }
    let unread = run(&["rebalance", "--simulate", "shards=many"], "");
    assert_eq!(unread.code, Some(2), "{unread:?}");
    assert!(unread.err.contains("shards=1000,add=1,bytes=10T"), "{unread:?}");
}
