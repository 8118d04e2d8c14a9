//! Tests of plans of rebalances over HTTP, and of requests that are refused before anything begins.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::advice::{Owners, advice, read};
use crate::backend::{files_only, is_servers, not_on_citus, servers_only, url_of};
use crate::client::{lab, refusal, set};
use crate::databases::OpenSession;
use crate::folders;
use crate::harness::{Router, command, eventually, isolated};
use crate::moves::{self, OPERATE, begin_slow, other, place};
use crate::prerequisites::{Prerequisite, skip};
use crate::rebalances::{JSON, WHY, begin, join, owners, post, state, until, weigh};

const NOWHERE: &str = "9b3e6c0a-52d4-4c5e-8f53-6d1b0c8f2a71";
/// Paths of changes that take slots of the second shard, once the first one is heavier.
const CHANGES: [&str; 2] = ["/api/rebalance", "/api/shards/shard2/drain"];

fn epoch(router: &Router) -> u64 {
    router.get("/api/shard-map").json()["epoch"].as_u64().unwrap()
}

#[test]
fn a_plan_lists_the_moves_and_binds_the_rebalance_by_its_epoch() {
    not_on_citus!(WHY);
    let router = Router::start_with(OPERATE);
    for number in 0..60 {
        assert_eq!(router.write_user(&format!("user{number}"), "a name").status, 201);
    }
    join(&router, "shard4");
    let before = owners(&router);
    let plan = eventually("the replicas follow", || {
        let plan = post(&router, "/api/rebalance", &json!({"dry_run": true})).json();
        (plan["refusals"] == json!([])).then_some(plan)
    });
    for (member, value) in [
        ("by", json!("slots")),
        ("slots", json!(4_096)),
        ("needed_slots", json!(4_096)),
        ("skew_planned", json!(1.0)),
        ("note", Value::Null),
        ("epoch", json!(epoch(&router))),
    ] {
        assert_eq!(plan[member], value, "{member}: {plan}");
    }
    assert!((1.3..1.4).contains(&plan["skew_before"].as_f64().unwrap()), "{plan}");
    assert!(plan["bytes"].as_u64() >= Some(1) && plan["seconds"].as_f64() > Some(0.0), "{plan}");
    let moves = plan["moves"].as_array().unwrap();
    assert!(plan["seconds"].as_f64() >= Some(0.6 * moves.len() as f64), "{plan}");
    let rows: u64 = moves.iter().map(|step| step["rows"].as_u64().unwrap()).sum();
    assert_eq!(plan["rows"], rows, "{plan}");
    // Servers estimate their rows later.
    assert!(is_servers() || (12..=15).contains(&rows), "a quarter of each shard: {plan}");
    assert!(moves.iter().all(|step| step["to"] == "shard4"), "{plan}");
    assert!(moves.iter().all(|step| step["slot_count"].as_u64() <= Some(64)), "{plan}");
    let newcomer = &plan["shards"][3];
    assert_eq!((&newcomer["slots"], &newcomer["slots_after"]), (&json!(0), &json!(4_096)));
    // A change of the shard map makes the plan invalid.
    assert_eq!(weigh(&router, "shard4", 2).status, 200);
    let bound = format!("\"{}\"", plan["epoch"]);
    for path in ["/api/rebalance", "/api/shards/shard1/drain"] {
        for body in ["{}", "{\"dry_run\": true}"] {
            let headers = [JSON, ("if-match", &*bound)];
            let stale = router.send("POST", path, &headers, Some(body.as_bytes()));
            let (status, code, _) = refusal(&stale);
            assert_eq!((status, &*code), (412, "TSR327"), "{path} {body}: {}", stale.text());
        }
    }
    let url = format!("http://{}", router.address());
    let none = json!({"success": true, "url": url, "rebalances": []});
    assert_eq!(router.get("/api/rebalance").json(), none);
    assert_eq!(owners(&router), before, "nothing was begun");
    let heavier = post(&router, "/api/rebalance", &json!({"dry_run": true})).json();
    assert_eq!(heavier["slots"], 6_553, "two fifths: {heavier}");
}

#[test]
fn a_placement_that_moves_most_slots_has_a_warning_that_proposes_slots() {
    not_on_citus!(WHY);
    let router = Router::start_with(OPERATE);
    join(&router, "shard4");
    let body = json!({"by": "placement", "placement": "modulo", "dry_run": true});
    let plan = post(&router, "/api/rebalance", &body).json();
    assert!(plan["slots"].as_u64() > Some(12_000), "{plan}");
    assert_eq!(plan["needed_slots"], 4_096);
    let note = plan["note"].as_str().unwrap();
    assert!(note.contains("modulo") && note.contains("by slots, 4096"), "{note}");
}

#[test]
fn the_last_shard_and_shards_without_a_weight_are_refused_before_anything_begins() {
    not_on_citus!(WHY);
    let router = Router::start_with(&["--operate", "--shards", "1"]);
    let last = post(&router, "/api/shards/shard1/drain", &json!({}));
    let (status, code, _) = refusal(&last);
    assert_eq!((status, &*code), (409, "TSR326"), "{}", last.text());
    let reason = if is_servers() { "holds the catalog" } else { "could own the slots" };
    assert!(last.text().contains(reason), "{}", last.text());
    let unknown = post(&router, "/api/shards/shard9/drain", &json!({}));
    assert_eq!((unknown.status, &*unknown.code()), (404, "TSR320"), "{}", unknown.text());
    join(&router, "shard2");
    assert_eq!(weigh(&router, "shard2", 0).status, 200);
    let none = weigh(&router, "shard1", 0);
    assert_eq!((none.status, &*none.code()), (400, "TSR321"), "weights of 0: {}", none.text());
    let drained = post(&router, "/api/shards/shard1/drain", &json!({}));
    assert_eq!((drained.status, &*drained.code()), (409, "TSR326"), "{}", drained.text());
    assert_eq!(
        (weigh(&router, "shard2", 1).status, weigh(&router, "shard1", 0).status),
        (200, 200)
    );
    let heaviest = post(&router, "/api/shards/shard2/drain", &json!({}));
    assert_eq!((heaviest.status, &*heaviest.code()), (409, "TSR326"), "{}", heaviest.text());
    assert!(heaviest.text().contains("could own the slots"), "{}", heaviest.text());
    assert_eq!(
        (weigh(&router, "shard1", 1).status, weigh(&router, "shard2", 0).status),
        (200, 200)
    );
    assert_eq!(
        (state(&router, "shard1"), state(&router, "shard2")),
        ("serving".into(), "serving".into())
    );
    assert_eq!(router.get("/api/rebalance").json()["rebalances"], json!([]));
    let even = post(&router, "/api/rebalance", &json!({}));
    assert_eq!((even.status, &even.json()["moves"]), (200, &json!([])), "{}", even.text());
}

#[test]
fn a_description_that_cannot_be_used_names_its_member_and_begins_nothing() {
    not_on_citus!(WHY);
    let router = Router::start_with(OPERATE);
    for (body, status, code, member) in [
        (json!({"by": "rows"}), 400, "TSR335", "by"),
        (json!({"by": 7}), 400, "TSR101", "by"),
        (json!({"placement": "ring"}), 400, "TSR335", "placement"),
        (json!({"by": "placement", "placement": "circle"}), 400, "TSR335", "circle"),
        (json!({"by": "placement", "placement": "manual:0-16383=east"}), 400, "TSR335", "east"),
        (
            json!({"by": "placement", "placement": "partitions:a=1>shard1,b=1>shard2"}),
            400,
            "TSR335",
            "keyspace",
        ),
        (json!({"dry_run": "yes"}), 400, "TSR101", "dry_run"),
        (json!({"rate": 0}), 400, "TSR335", "rate"),
        (json!({"rate": 10_001}), 400, "TSR335", "rate"),
        (json!({"rate": "2"}), 400, "TSR335", "rate"),
        (json!({"keep": -1}), 400, "TSR335", "keep"),
        (json!({"keep": 86_401}), 400, "TSR335", "keep"),
        (json!({"slots": "0-63"}), 400, "TSR102", "slots"),
    ] {
        let reply = post(&router, "/api/rebalance", &body);
        let (found, named, _) = refusal(&reply);
        assert_eq!((found, &*named), (status, code), "{body}: {}", reply.text());
        let problem = reply.json();
        assert!(problem["detail"].as_str().unwrap().contains(member), "{body}: {problem}");
        assert_eq!(problem["outcome"], "rejected", "{body}");
    }
    let drain = post(&router, "/api/shards/shard1/drain", &json!({"by": "slots"}));
    assert_eq!((drain.status, &*drain.code()), (400, "TSR102"), "{}", drain.text());
    for body in ["", "{", "[]"] {
        let reply = router.send("POST", "/api/rebalance", &[JSON], Some(body.as_bytes()));
        assert_eq!(reply.code(), "TSR101", "{body}");
    }
    for id in [NOWHERE, "7", "%20"] {
        let reply = router.get(&format!("/api/rebalance/{id}"));
        assert_eq!((reply.status, &*reply.code()), (404, "TSR336"), "{}", reply.text());
        for order in ["pause", "resume", "cancel"] {
            let path = format!("/api/rebalance/{id}/{order}");
            let reply = router.send("POST", &path, &[], None);
            assert_eq!((reply.status, &*reply.code()), (404, "TSR336"), "{}", reply.text());
        }
    }
    let path = format!("/api/rebalance/{NOWHERE}/rollback");
    let reply = router.send("POST", &path, &[], None);
    assert_eq!((reply.status, &*reply.code()), (404, "TSR111"), "{}", reply.text());
    assert_eq!(router.get("/api/rebalance").json()["rebalances"], json!([]));
}

#[test]
fn without_the_flag_no_rebalance_begins_and_rebalances_are_listed() {
    not_on_citus!(WHY);
    let router = Router::start();
    assert_eq!(router.get("/api/rebalance").json()["rebalances"], json!([]));
    for path in ["/api/rebalance", "/api/shards/shard1/drain"] {
        let reply = post(&router, path, &json!({}));
        assert!([404, 405].contains(&reply.status), "{}", reply.text());
        assert!(reply.text().contains("--operate"), "{}", reply.text());
    }
}

#[test]
fn a_plan_names_the_rebalance_in_progress_as_a_reason_why_it_cannot_begin() {
    not_on_citus!(WHY);
    let router = Router::start_with(OPERATE);
    join(&router, "shard4");
    let begun = begin(&router, "/api/rebalance", &json!({"keep": 0}));
    let id = begun["id"].as_str().unwrap();
    let order = |name: &str| {
        let reply = router.send("POST", &format!("/api/rebalance/{id}/{name}"), &[], None);
        assert_eq!(reply.status, 200, "{}", reply.text());
    };
    order("pause");
    for path in ["/api/rebalance", "/api/shards/shard2/drain"] {
        let plan = post(&router, path, &json!({"dry_run": true}));
        assert_eq!(plan.status, 200, "{}", plan.text());
        let refusal = plan.json()["refusals"][0].as_str().unwrap().to_owned();
        assert!(refusal.contains(id) && refusal.contains("goes on"), "{path}: {refusal}");
    }
    order("cancel");
    until(&router, &begun, "cancelled");
    plan(&router, &json!({"dry_run": true}));
}

/// Returns the plan of a rebalance that could begin now.
fn plan(router: &Router, body: &Value) -> Value {
    eventually("the replicas follow", || {
        let plan = post(router, "/api/rebalance", body).json();
        (plan["refusals"] == json!([])).then_some(plan)
    })
}

fn number(found: &Value) -> f64 {
    found.as_f64().unwrap()
}

#[test]
fn a_rebalance_by_load_carries_out_the_advice_and_measures_its_effect() {
    not_on_citus!(WHY);
    let router = Router::start_with(OPERATE);
    let quiet = post(&router, "/api/rebalance", &json!({"by": "load"}));
    assert_eq!((quiet.status, &quiet.json()["moves"]), (200, &json!([])), "too little to say");
    let known = Owners::of(&router);
    let requests = [
        (known.keys("shard1", 300), 4),
        (known.keys("shard2", 100), 2),
        (known.keys("shard3", 100), 2),
    ];
    read(&router, &requests);
    let advised = advice(&router, "");
    assert_eq!(advised["verdict"], "skewed", "{advised}");
    let planned = plan(&router, &json!({"by": "load", "dry_run": true}));
    assert_eq!(planned["note"], advised["because"], "{planned}");
    let mut followed = known;
    followed.follow(&advised);
    let begun = begin(&router, "/api/rebalance", &json!({"by": "load", "keep": 0}));
    let done = until(&router, &begun, "done");
    assert!(Owners::of(&router).0 == followed.0, "each slot is where the advice had it");
    let [before, planned, measured] =
        ["skew_before", "skew_planned", "skew_measured"].map(|skew| number(&done[skew]));
    assert!((before - number(&advised["skew"])).abs() < 0.01, "{done}");
    assert!((measured - planned).abs() < 0.01 && measured < 1.1, "{done}");
    assert_eq!(advice(&router, "")["verdict"], "balanced");
}

#[test]
fn a_rebalance_by_size_moves_bytes_and_measures_them_when_the_old_rows_are_deleted() {
    not_on_citus!(WHY);
    // The first shard has few slots and nearly all bytes.
    let placement = "manual:0-127=shard1,128-16383=shard2";
    let flags = &["--operate", "--shards", "2", "--placement", placement];
    let router = Router::start_with(flags);
    let mut drawn = 1_u64;
    // The text is random, so that no server can compress it much.
    let note: String = std::iter::repeat_with(|| {
        drawn =
            drawn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'0' + (drawn >> 58) as u8)
    })
    .map(|letter| if letter == '\\' { '~' } else { letter })
    .take(512 << 10)
    .collect();
    for key in Owners::of(&router).keys("shard1", 40) {
        let row = json!({"order_id": key, "user_id": key, "amount": 1, "note": note});
        let written = router.write(&key, &json!({"table": "orders", "data": row}));
        assert_eq!(written.status, 201, "{}", written.text());
    }
    let planned = plan(&router, &json!({"by": "size", "dry_run": true}));
    assert!(number(&planned["skew_before"]) > 1.8, "nearly all is on one shard: {planned}");
    assert!(number(&planned["skew_planned"]) < 1.1, "{planned}");
    let begun = begin(&router, "/api/rebalance", &json!({"by": "size", "keep": 0}));
    let done = until(&router, &begun, "done");
    let measured = number(&done["skew_measured"]);
    // A server keeps the space of deleted rows until it is vacuumed.
    let gained = if is_servers() { 0.3 } else { 0.5 };
    assert!(measured < number(&done["skew_before"]) - gained, "{done}");
    let open = router.get("/api/moves?state=open").json();
    assert_eq!(open["moves"], json!([]), "the old rows are deleted: {open}");
}

#[test]
fn without_analytics_a_rebalance_by_load_is_refused_and_by_slots_is_planned() {
    not_on_citus!(WHY);
    let router = Router::start_with(&["--operate", "--analytics", "off"]);
    let refused = post(&router, "/api/rebalance", &json!({"by": "load", "dry_run": true}));
    assert_eq!((refused.status, &*refused.code()), (400, "TSR335"), "{}", refused.text());
    let planned = post(&router, "/api/rebalance", &json!({"dry_run": true}));
    assert_eq!((planned.status, &planned.json()["slots"]), (200, &json!(0)), "settled");
}

/// Waits until the plan of each change has these refusals and no others; then checks that the
/// change itself is refused with the first one, and that nothing was begun.
#[track_caller]
fn check_refused(router: &Router, sentences: &[&str]) {
    let before = owners(router);
    for path in CHANGES {
        eventually("the plan has these refusals", || {
            let plan = post(router, path, &json!({"dry_run": true}));
            assert_eq!(plan.status, 200, "{path}: {}", plan.text());
            (plan.json()["refusals"] == json!(sentences)).then_some(())
        });
        let refused = post(router, path, &json!({}));
        let (status, code, outcome) = refusal(&refused);
        let found = (status, &*code, &*outcome);
        assert_eq!(found, (409, "TSR326", "rejected"), "{path}: {}", refused.text());
        assert_eq!(refused.json()["detail"], sentences[0], "{path}");
    }
    assert_eq!(router.get("/api/rebalance").json()["rebalances"], json!([]));
    assert_eq!(router.get("/api/moves").json()["moves"], json!([]));
    assert_eq!(state(router, "shard2"), "serving");
    assert!(owners(router) == before, "nothing was begun");
}

#[test]
fn a_plan_names_each_shard_whose_replicas_do_not_follow_and_nothing_begins_until_they_do() {
    files_only!("a replica of the servers does not belong to one test");
    let router = lab(&["--operate", "--replicas", "1"]);
    assert_eq!(weigh(&router, "shard1", 2).status, 200);
    let [first, second] = ["shard1", "shard2"].map(|shard| {
        format!(
            "replicas of {shard} must follow its primary, and 0 of 1 do: a failover could undo \
             the move"
        )
    });
    set(&router, "shard2-replica1", "cut");
    check_refused(&router, &[&second]);
    set(&router, "shard1-replica1", "cut");
    check_refused(&router, &[&first, &second]);
    set(&router, "shard2-replica1", "running");
    check_refused(&router, &[&first]);
    set(&router, "shard1-replica1", "running");
    plan(&router, &json!({"dry_run": true}));
}

/// Starts a router whose files are on a small disk of their own; `None` if this machine does not
/// let a test mount one.
fn on_a_small_disk(folder: &Path, size: &str, flags: &[&str]) -> Option<Router> {
    let disk = folder.join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mount = format!("mount -t tmpfs -o size={size} tessera '{}'", disk.display());
    let apart = |script: &str| {
        let mut apart = isolated(Command::new("unshare"), folder);
        apart.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]);
        apart
    };
    if !apart(&mount).output().is_ok_and(|trial| trial.status.success()) {
        return None;
    }
    let inner = command(&disk.join("data"));
    let mut outer = apart(&format!("{mount} && exec \"$@\""));
    outer.arg(inner.get_program()).args(inner.get_args()).args(flags);
    Some(Router::start_command(outer))
}

#[test]
fn a_drain_whose_rows_need_more_room_than_the_disk_has_is_refused_by_plan_and_begin() {
    files_only!("the disk is that of the servers");
    let folder = folders::temporary();
    let flags = ["--shards", "2", "--replicas", "0", "--operate"];
    let Some(router) = on_a_small_disk(folder.path(), "40m", &flags) else {
        return skip(Prerequisite::Mount, "this machine does not let a test mount a small disk");
    };
    let drain = |dry_run: bool| post(&router, CHANGES[1], &json!({"dry_run": dry_run}));
    let says_it = |said: &str| {
        said.starts_with("the rows of the slots need about ")
            && said.contains(" bytes on the disk of shard1, which has ")
            && said.ends_with(" left: free some, or move fewer slots")
    };
    let large = "x".repeat(500_000);
    let said = Owners::of(&router).keys("shard2", 70).iter().find_map(|key| {
        let written = router.write_user(key, &large);
        assert_eq!(written.status, 201, "half of the disk is free: {}", written.text());
        drain(true).json()["refusals"][0].as_str().map(str::to_owned)
    });
    assert!(said.as_deref().is_some_and(says_it), "{said:?}");
    let refused = drain(false);
    let (status, code, outcome) = refusal(&refused);
    assert_eq!((status, &*code, &*outcome), (409, "TSR326", "rejected"), "{}", refused.text());
    assert!(refused.json()["detail"].as_str().is_some_and(says_it), "{}", refused.text());
    assert_eq!(router.get("/api/rebalance").json()["rebalances"], json!([]));
    assert_eq!(state(&router, "shard2"), "serving");
}

#[test]
fn a_plan_counts_the_routers_that_are_too_old_and_nothing_begins_while_they_are_connected() {
    servers_only!("no other router opens the files of a cluster");
    not_on_citus!(WHY);
    let folder = folders::temporary();
    let data = folder.path().join("data");
    let router = Router::start_in(&data, OPERATE);
    assert_eq!(weigh(&router, "shard1", 2).status, 200);
    let old = OpenSession::named(&url_of(&data, 0), "tessera follower");
    check_refused(
        &router,
        &["routers that are too old to take part in a move are connected to the catalog (1): end \
           them, or start them with the version of this router"],
    );
    drop(old);
    plan(&router, &json!({"dry_run": true}));
}

#[test]
fn a_placement_that_gives_slots_to_a_draining_shard_has_no_plan() {
    not_on_citus!(WHY);
    let router = Router::start_with(OPERATE);
    let begun = begin(&router, "/api/shards/shard2/drain", &json!({"keep": 0}));
    eventually("the shard gets no slots any more", || {
        (state(&router, "shard2") == "draining").then_some(())
    });
    let placement = |dry_run: bool| {
        let placement = "manual:0-16383=shard2";
        let body = json!({"by": "placement", "placement": placement, "dry_run": dry_run});
        post(&router, "/api/rebalance", &body)
    };
    let refused = placement(true);
    assert_eq!((refused.status, &*refused.code()), (400, "TSR335"), "{}", refused.text());
    let sentence = "the placement gives slots to shard2, which is draining";
    assert_eq!(refused.json()["detail"], sentence);
    let refused = placement(false);
    assert_eq!((refused.status, &*refused.code()), (409, "TSR338"), "{}", refused.text());
    let cancel = format!("/api/rebalance/{}/cancel", begun["id"].as_str().unwrap());
    let cancelled = router.send("POST", &cancel, &[], None);
    assert_eq!(cancelled.status, 200, "{}", cancelled.text());
    until(&router, &begun, "cancelled");
    let listed = router.get("/api/rebalance").json()["rebalances"].clone();
    assert_eq!(listed.as_array().unwrap().len(), 1, "the drain alone: {listed}");
}

#[test]
fn a_plan_leaves_out_the_slots_of_an_open_move_and_says_so() {
    not_on_citus!(WHY);
    let router = Router::start_with(OPERATE);
    let to = other(&place(&router, "ada").1);
    let begun = begin_slow(&router, "ada", to, 1);
    assert_eq!(moves::order(&router, &begun, "pause").status, 200);
    assert_eq!(weigh(&router, to, 0).status, 200);
    let planned = plan(&router, &json!({"dry_run": true}));
    let slots = planned["slots"].as_u64().unwrap();
    assert!(slots >= 5_461, "all slots of the target: {planned}");
    assert_eq!(planned["needed_slots"], slots + 1, "the one that moves to it, too: {planned}");
    let steps = planned["moves"].as_array().unwrap();
    assert!(steps.iter().all(|step| step["from"] == to), "{planned}");
    let note =
        "1 more slots have to move, but move already: plan again when those moves have ended";
    assert_eq!(planned["note"], note);
    assert_eq!(moves::order(&router, &begun, "cancel").status, 200);
    moves::until(&router, &begun, "cancelled");
}
