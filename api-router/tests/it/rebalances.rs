//! Tests of rebalances over HTTP: shards that take their share and are emptied under writes,
//! orders, and a router that is killed during a rebalance.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::backend::{is_servers, not_on_citus};
use crate::client::{refusal, user};
use crate::folders;
use crate::harness::{Reply, Router, eventually};
use crate::moves::{End, OPERATE, PATIENT};
use crate::new_databases::new_shard;

const RING: &[&str] = &["--operate", "--placement", "ring:160"];
pub(crate) const JSON: (&str, &str) = ("content-type", "application/json");
pub(crate) const WHY: &str = "Citus places rows itself";
const SLOTS: usize = 16_384;

pub(crate) fn post(router: &Router, path: &str, body: &Value) -> Reply {
    let headers = [JSON, ("x-deadline-ms", "60000")];
    router.send("POST", path, &headers, Some(body.to_string().as_bytes()))
}

/// Lets a new shard join: a file, or an empty database.
#[track_caller]
pub(crate) fn join(router: &Router, name: &str) {
    let reply = post(router, "/api/shards", &new_shard(name));
    assert_eq!(reply.status, 201, "{}", reply.text());
}

pub(crate) fn weigh(router: &Router, shard: &str, weight: u32) -> Reply {
    let body = json!({"weight": weight}).to_string();
    router.send("PATCH", &format!("/api/shards/{shard}"), &[JSON], Some(body.as_bytes()))
}

/// Begins a rebalance, once the replicas of all shards follow.
#[track_caller]
pub(crate) fn begin(router: &Router, path: &str, body: &Value) -> Value {
    let reply = eventually("it begins", || {
        let reply = post(router, path, body);
        (!reply.text().contains("must follow its primary")).then_some(reply)
    });
    assert_eq!(reply.status, 202, "{}", reply.text());
    let begun = reply.json();
    let location = format!("/api/rebalance/{}", begun["id"].as_str().unwrap());
    assert_eq!(reply.header("location"), Some(&*location));
    begun
}

fn show(router: &Router, begun: &Value) -> Value {
    let reply = router.get(&format!("/api/rebalance/{}", begun["id"].as_str().unwrap()));
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

fn order(router: &Router, begun: &Value, order: &str) -> Reply {
    let path = format!("/api/rebalance/{}/{order}", begun["id"].as_str().unwrap());
    router.send("POST", &path, &[], None)
}

/// Waits until a rebalance has ended in this way, and returns it.
#[track_caller]
pub(crate) fn until(router: &Router, begun: &Value, state: &str) -> Value {
    let what = format!("the state {state}");
    progress(router, begun, &what, |shown| {
        assert!(shown["state"] == state || shown["ended_at"].is_null(), "{shown}");
        shown["state"] == state
    })
}

/// Waits until a rebalance meets a condition, for as long as its moves make progress.
#[track_caller]
fn progress(router: &Router, begun: &Value, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let mut known = Value::Null;
    loop {
        let seen = eventually(what, || {
            let shown = show(router, begun);
            (is_so(&shown) || shown["changed_at"] != known).then_some(shown)
        });
        if is_so(&seen) {
            return seen;
        }
        known = seen["changed_at"].clone();
    }
}

/// Returns the owner of every slot, after checking that the map has each slot once.
#[track_caller]
pub(crate) fn owners(router: &Router) -> Vec<String> {
    let map = router.get("/api/shard-map").json();
    let mut owners = Vec::new();
    for range in map["ranges"].as_array().unwrap() {
        let (first, last) = (range[0].as_u64().unwrap(), range[1].as_u64().unwrap());
        assert_eq!(first, owners.len() as u64, "neither a gap nor an overlap: {map}");
        let owner = range[2].as_str().unwrap().to_owned();
        owners.extend((first..=last).map(|_| owner.clone()));
    }
    assert_eq!(owners.len(), SLOTS);
    owners
}

/// Returns the number of slots that changed owners, for each pair of old and new owner.
fn changed(before: &[String], after: &[String]) -> BTreeMap<(String, String), usize> {
    let mut changed = BTreeMap::new();
    let both = before.iter().zip(after).filter(|(old, new)| old != new);
    both.for_each(|(old, new)| *changed.entry((old.clone(), new.clone())).or_default() += 1);
    changed
}

fn count(owners: &[String], shard: &str) -> usize {
    owners.iter().filter(|owner| *owner == shard).count()
}

pub(crate) fn state(router: &Router, shard: &str) -> String {
    let shards = router.get("/api/shards").json()["shards"].clone();
    let found = shards.as_array().unwrap().iter().find(|found| found["shard"] == shard).cloned();
    found.map_or("gone".to_owned(), |found| found["state"].as_str().unwrap().to_owned())
}

/// Keys with rows, each with the name that the last write has given it.
struct Rows(Vec<(String, String)>);

impl Rows {
    fn write(router: &Router, count: usize) -> Self {
        let rows = (0..count).map(|number| (format!("user{number}"), "n0".to_owned()));
        let rows: Vec<(String, String)> = rows.collect();
        for (key, name) in &rows {
            assert_eq!(router.write_user(key, name).status, 201);
        }
        Self(rows)
    }

    /// Writes and reads rows, one after another, while `work` runs. No request fails, and every
    /// read returns what was written last.
    fn beside<T>(&mut self, router: &Router, work: impl FnOnce() -> T) -> T {
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let client = scope.spawn(|| {
                for turn in 1.. {
                    for (key, name) in &mut self.0 {
                        if ended.load(Ordering::Acquire) {
                            return;
                        }
                        *name = format!("{name}x{turn}").chars().rev().take(20).collect();
                        let headers = [("x-shard-key", &**key), PATIENT];
                        let written = router.post("/api/write", &headers, &user(key, name));
                        assert_eq!(written.status, 200, "{}", written.text());
                        check_row(router, key, name);
                    }
                }
            });
            let end = End(&ended);
            let done = work();
            drop(end);
            client.join().unwrap();
            done
        })
    }

    #[track_caller]
    fn check(&self, router: &Router) {
        self.0.iter().for_each(|(key, name)| check_row(router, key, name));
        let all = router.send(
            "GET",
            "/api/read?table=users&limit=1000",
            &[("x-consistency", "all"), PATIENT],
            None,
        );
        assert_eq!(all.json()["count"], self.0.len(), "each row once: {}", all.text());
    }
}

#[track_caller]
fn check_row(router: &Router, key: &str, name: &str) {
    let path = format!("/api/read?table=users&shardKey={key}&select=name");
    let read = router.send("GET", &path, &[("x-consistency", "all"), PATIENT], None);
    assert_eq!(read.json()["data"], json!([{"name": name}]), "{key}: {}", read.text());
}

#[test]
fn a_fourth_shard_draws_a_quarter_of_a_ring_under_writes_and_gives_it_back_when_it_is_drained() {
    not_on_citus!(WHY);
    let router = Router::start_with(RING);
    let mut rows = Rows::write(&router, 200);
    let before = owners(&router);
    join(&router, "shard4");
    let done = rows.beside(&router, || {
        let begun = begin(&router, "/api/rebalance", &json!({"by": "placement", "keep": 0}));
        assert_eq!(begun["placement"], "ring:160", "that of the cluster");
        until(&router, &begun, "done")
    });
    rows.check(&router);
    let after = owners(&router);
    let moved = changed(&before, &after);
    assert!(moved.keys().all(|(_, to)| to == "shard4"), "nothing between old shards: {moved:?}");
    let drawn = count(&after, "shard4");
    assert!((SLOTS / 5..SLOTS * 3 / 10).contains(&drawn), "about a quarter: {drawn}");
    assert_eq!((&done["slots"], &done["slots_moved"]), (&json!(drawn), &json!(drawn)));
    assert_eq!(done["failed_count"], 0, "{done}");
    assert_eq!(done["skew_measured"], done["skew_planned"], "{done}");
    assert!(done["skew_measured"].as_f64() < done["skew_before"].as_f64(), "{done}");
    assert!(done["rows"].as_u64() >= Some(1), "{done}");
    // The slots are where a ring of four shards places them.
    let plan = post(&router, "/api/rebalance", &json!({"by": "placement", "dry_run": true}));
    assert_eq!(plan.json()["moves"], json!([]), "{}", plan.text());
    let drained = rows.beside(&router, || {
        let begun = begin(&router, "/api/shards/shard4/drain", &json!({"keep": 0}));
        assert_eq!((&begun["by"], &begun["shard"]), (&json!("drain"), &json!("shard4")));
        until(&router, &begun, "done")
    });
    rows.check(&router);
    let back = changed(&after, &owners(&router));
    assert!(back.keys().all(|(from, _)| from == "shard4"), "{back:?}");
    assert_eq!(back.values().sum::<usize>(), drawn);
    assert_eq!(drained["slots_moved"], drawn);
    eventually("the shard has retired", || {
        ["gone", "retired"].contains(&&*state(&router, "shard4")).then_some(())
    });
}

#[test]
fn a_rebalance_rests_goes_on_and_is_cancelled_and_another_one_is_refused_meanwhile() {
    not_on_citus!(WHY);
    let router = Router::start_with(OPERATE);
    let mut rows = Rows::write(&router, 30);
    join(&router, "shard4");
    let begun = begin(&router, "/api/rebalance", &json!({"keep": 0}));
    let paused = order(&router, &begun, "pause");
    assert_eq!((paused.status, &paused.json()["state"]), (200, &json!("paused")));
    assert_eq!(paused.json()["actions"], json!(["resume", "cancel"]));
    for (path, body) in [
        ("/api/rebalance", json!({})),
        ("/api/rebalance", json!({"by": "placement", "placement": "modulo"})),
        ("/api/shards/shard1/drain", json!({})),
    ] {
        let second = post(&router, path, &body);
        let (status, code, _) = refusal(&second);
        assert_eq!((status, &*code), (409, "TSR338"), "{path}: {}", second.text());
        assert!(second.text().contains(begun["id"].as_str().unwrap()), "{}", second.text());
    }
    assert_eq!(state(&router, "shard1"), "serving");
    // While the rebalance is paused, none of its moves begins, and those that had begun are paused
    // as well.
    let open = || router.get("/api/moves?state=open").json()["moves"].as_array().unwrap().clone();
    let resting = eventually("its moves rest", || {
        let open = open();
        open.iter()
            .all(|begun| begun["paused"] == true || !begun["owned_at"].is_null())
            .then_some(open)
    });
    assert!(resting.iter().all(|open| open["rebalance"] == begun["id"]), "{resting:?}");
    rows.beside(&router, || {
        assert_eq!(order(&router, &begun, "resume").json()["state"], "running");
        progress(&router, &begun, "some slots have moved", |shown| {
            assert!(shown["ended_at"].is_null(), "{shown}");
            shown["moved_count"].as_u64() >= Some(2)
        });
        let cancelled = order(&router, &begun, "cancel");
        assert_eq!(cancelled.status, 200, "{}", cancelled.text());
        until(&router, &begun, "cancelled");
    });
    rows.check(&router);
    let ended = show(&router, &begun);
    let moved = count(&owners(&router), "shard4");
    assert_eq!(ended["slots_moved"], moved, "what has moved stays: {ended}");
    assert!((128..4_096).contains(&moved), "{moved}");
    assert!(ended["failed_count"].as_u64() >= Some(1), "{ended}");
    assert_eq!(ended["actions"], json!([]));
    for late in ["pause", "resume", "cancel"] {
        let reply = order(&router, &begun, late);
        assert_eq!((reply.status, &*reply.code()), (409, "TSR337"), "{}", reply.text());
    }
    let planned = post(&router, "/api/rebalance", &json!({"dry_run": true})).json();
    assert_eq!(planned["slots"], 4_096 - moved, "the rest: {planned}");
    let listed = router.get("/api/rebalance").json()["rebalances"].clone();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!((&listed[0]["id"], listed[0].get("moves")), (&begun["id"], None));
}

#[test]
fn a_drain_that_is_cancelled_leaves_the_shard_serving() {
    not_on_citus!(WHY);
    let router = Router::start_with(OPERATE);
    let begun = begin(&router, "/api/shards/shard2/drain", &json!({"keep": 0}));
    eventually("the shard gets no slots any more", || {
        (state(&router, "shard2") == "draining").then_some(())
    });
    let body = json!({"slots": "0", "to": "shard2"});
    let refused = post(&router, "/api/moves", &body);
    assert_eq!((refused.status, &*refused.code()), (409, "TSR326"), "{}", refused.text());
    assert_eq!(order(&router, &begun, "cancel").status, 200);
    until(&router, &begun, "cancelled");
    eventually("the shard gets slots again", || {
        (state(&router, "shard2") == "serving").then_some(())
    });
    owners(&router);
}

#[test]
fn a_router_that_is_killed_in_the_middle_goes_on_when_it_starts_again() {
    not_on_citus!(WHY);
    let folder = folders::temporary();
    let data = folder.path().join("data");
    let mut router = Router::start_in(&data, OPERATE);
    let rows = Rows::write(&router, 40);
    join(&router, "shard4");
    // The new shard gets a 64th of the slots, in six moves.
    for shard in ["shard1", "shard2", "shard3"] {
        assert_eq!(weigh(&router, shard, 21).status, 200);
    }
    let begun = begin(&router, "/api/rebalance", &json!({"keep": 0}));
    for moved in [1, 3] {
        progress(&router, &begun, "some slots have moved", |shown| {
            shown["moved_count"].as_u64() >= Some(moved)
        });
        router.kill();
        router = Router::start_in(&data, OPERATE);
        owners(&router);
    }
    let done = until(&router, &begun, "done");
    assert_eq!((&done["slots_moved"], &done["failed_count"]), (&json!(256), &json!(0)));
    rows.check(&router);
    let owners = owners(&router);
    for (shard, slots) in [("shard1", 5_376), ("shard2", 5_376), ("shard3", 5_376)] {
        assert_eq!(count(&owners, shard), slots, "{shard}");
    }
    assert_eq!(count(&owners, "shard4"), 256);
    let begun = begin(&router, "/api/shards/shard4/drain", &json!({"keep": 0}));
    progress(&router, &begun, "some slots have moved", |shown| {
        shown["moved_count"].as_u64() >= Some(1)
    });
    router.kill();
    router = Router::start_in(&data, OPERATE);
    until(&router, &begun, "done");
    assert_eq!(count(&self::owners(&router), "shard4"), 0);
    await_closed(&router, "shard4");
    rows.check(&router);
    check_files(router, &data);
}

/// Waits until a shard has retired and is closed: until then it is listed as retired.
#[track_caller]
fn await_closed(router: &Router, shard: &str) {
    eventually("the shard has retired", || (state(router, shard) == "gone").then_some(()));
}

/// Returns the owners after the moves of a plan.
fn planned(before: &[String], plan: &Value) -> Vec<String> {
    let mut owners = before.to_vec();
    for step in plan["moves"].as_array().unwrap() {
        for range in step["slots"].as_str().unwrap().split(',') {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let slots = first.parse::<usize>().unwrap()..=last.parse().unwrap();
            for owner in &mut owners[slots] {
                assert_eq!(*owner, step["from"], "{step}");
                *owner = step["to"].as_str().unwrap().to_owned();
            }
        }
    }
    owners
}

#[test]
fn a_rebalance_that_is_killed_after_each_of_its_moves_ends_with_the_map_of_its_plan() {
    not_on_citus!(WHY);
    let folder = folders::temporary();
    let data = folder.path().join("data");
    let mut router = Router::start_in(&data, OPERATE);
    let rows = Rows::write(&router, 150);
    join(&router, "shard4");
    // Six moves to the new shard, and as many back.
    for shard in ["shard1", "shard2", "shard3"] {
        assert_eq!(weigh(&router, shard, 20).status, 200);
    }
    for path in ["/api/rebalance", "/api/shards/shard4/drain"] {
        let plan = post(&router, path, &json!({"dry_run": true})).json();
        let moves = plan["moves"].as_array().unwrap().len() as u64;
        assert!(moves >= 5, "{plan}");
        let wanted = planned(&owners(&router), &plan);
        let begun = begin(&router, path, &json!({"keep": 0}));
        for moved in 0..moves {
            progress(&router, &begun, "so many moves are over", |shown| {
                shown["moved_count"].as_u64() >= Some(moved)
            });
            router.kill();
            router = Router::start_in(&data, OPERATE);
            owners(&router);
            rows.check(&router);
        }
        let done = until(&router, &begun, "done");
        assert_eq!((&done["moved_count"], &done["failed_count"]), (&json!(moves), &json!(0)));
        assert!(owners(&router) == wanted, "{path}: each slot is where the plan had it");
        rows.check(&router);
    }
    await_closed(&router, "shard4");
    check_files(router, &data);
}

/// Ends a router, and checks its files if it has some.
fn check_files(mut router: Router, data: &Path) {
    router.end();
    if is_servers() {
        return;
    }
    let checked = crate::commands::run(&["check", "--data-dir", data.to_str().unwrap()], "");
    assert_eq!(checked.code, Some(0), "{checked:?}");
}

#[test]
fn a_shard_whose_slots_are_kept_retires_only_after_that() {
    not_on_citus!(WHY);
    let weights = &["--operate", "--shards", "2", "--placement", "weighted", "--weights", "63,1"];
    let router = Router::start_with(weights);
    let begun = begin(&router, "/api/shards/shard2/drain", &json!({"keep": 600}));
    let waiting = progress(&router, &begun, "all slots have moved", |shown| {
        assert!(shown["ended_at"].is_null(), "{shown}");
        let reported = shown["reason"].as_str().is_some_and(|reason| reason.contains("still kept"));
        shown["slots_moved"] == 256 && reported
    });
    assert_eq!(waiting["stalled"], false);
    assert_eq!(state(&router, "shard2"), "draining");
    let removed = router.send("DELETE", "/api/shards/shard2", &[], None);
    assert_eq!((removed.status, &*removed.code()), (409, "TSR326"), "{}", removed.text());
    assert!(removed.text().contains("takes part in"), "{}", removed.text());
    let kept = router.get("/api/moves?state=open").json()["moves"].clone();
    for kept in kept.as_array().unwrap() {
        let path = format!("/api/moves/{}/settle", kept["id"].as_str().unwrap());
        assert_eq!(router.send("POST", &path, &[], None).status, 200);
    }
    let done = until(&router, &begun, "done");
    assert_eq!(done["reason"], Value::Null, "{done}");
    eventually("the shard has retired", || {
        ["gone", "retired"].contains(&&*state(&router, "shard2")).then_some(())
    });
}
