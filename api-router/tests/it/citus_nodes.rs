//! Tests of operations on the nodes of a real Citus cluster: rebalances, drains, nodes that leave
//! and join again. Like those in `citus`, they need `TESSERA_CITUS_URL`, with two workers or more.
//!
//! Each test has its own database, and changes the nodes of that database only.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::backend::{ask_primary, url_of};
use crate::citus::is_there;
use crate::commands::ask;
use crate::databases::try_query;
use crate::folders;
use crate::harness::{Reply, Router, eventually};
use crate::moves::OPERATE;

/// Clients that write at the same time.
const WRITERS: usize = 4;
/// Keys of each client.
const KEYS: usize = 25;

fn post(router: &Router, path: &str, body: &Value) -> Reply {
    router.post(path, &[], body)
}

#[track_caller]
fn refused(reply: &Reply, status: u16, code: &str, part: &str) {
    assert_eq!((reply.status, &*reply.code()), (status, code), "{}", reply.text());
    let detail = reply.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains(part), "{detail}");
    assert_eq!(reply.json()["outcome"], "rejected", "{}", reply.text());
}

/// Waits until a rebalance has ended.
#[track_caller]
fn ended(router: &Router, id: &Value) -> Value {
    let path = format!("/api/rebalance/{}", id.as_str().unwrap());
    eventually("the rebalance has ended", || {
        let shown = router.get(&path).json();
        (!shown["ended_at"].is_null()).then_some(shown)
    })
}

/// Returns the nodes by name, as `/api/shards` shows them.
fn nodes(router: &Router) -> BTreeMap<String, Value> {
    let shard = router.get("/api/shards/shard1").json();
    let nodes = shard["citus"]["nodes"].as_array().unwrap().iter();
    nodes.map(|node| (node["node"].as_str().unwrap().to_owned(), node.clone())).collect()
}

/// Returns name, host and port of the worker with the greatest number, and the next number.
fn last_worker(data: &std::path::Path) -> (String, String, u32) {
    let sql = "SELECT concat_ws(' ', groupid, nodename || ':' || nodeport, current_database(),
        (SELECT last_value + is_called::integer FROM pg_dist_groupid_seq))
        FROM pg_dist_node WHERE groupid > 0 ORDER BY groupid DESC LIMIT 1";
    let row = ask_primary(data, 0, sql).remove(0);
    let words: Vec<&str> = row.split(' ').collect();
    let url = format!("postgres://{}/{}", words[1], words[2]);
    (format!("worker{}", words[0]), url, words[3].parse().unwrap())
}

/// Prevents the moves of a cluster from ending while `work` runs, by an open transaction that has
/// written to every shard.
fn while_no_move_can_end(data: &std::path::Path, work: impl FnOnce()) {
    const HELD: &str =
        "BEGIN; DELETE FROM public.users WHERE name = 'nobody'; SELECT pg_sleep(600)";
    let url = url_of(data, 0);
    let holders =
        "FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()";
    std::thread::scope(|scope| {
        scope.spawn(|| try_query(&url, HELD).expect_err("it is ended"));
        eventually("the transaction is open", || {
            let open = ask_primary(data, 0, &format!("SELECT count(*) {holders}"));
            (open == ["1"]).then_some(())
        });
        // The session must end even if the work fails; otherwise the scope would never end.
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        ask_primary(data, 0, &format!("SELECT pg_terminate_backend(pid) {holders}"));
        if let Err(failed) = worked {
            std::panic::resume_unwind(failed);
        }
    });
}

/// Writes until `work` has ended, and returns the last acknowledged value of each key, and the
/// number of writes that were not acknowledged.
fn while_clients_write(
    router: &Router,
    work: impl FnOnce(),
) -> (BTreeMap<String, String>, usize, usize) {
    let (is_over, failed, stored) =
        (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let write = |writer: usize| {
        let mut last = BTreeMap::new();
        for round in 0.. {
            if is_over.load(Ordering::SeqCst) {
                break;
            }
            let (key, name) = (format!("w{writer}k{:02}", round % KEYS), round.to_string());
            let reply = router.write_user(&key, &name);
            if (200..300).contains(&reply.status) {
                stored.fetch_add(1, Ordering::SeqCst);
                last.insert(key, name);
            } else {
                eprintln!("{}: {}", reply.status, reply.text());
                failed.fetch_add(1, Ordering::SeqCst);
            }
        }
        last
    };
    let last = std::thread::scope(|scope| {
        let writers: Vec<_> =
            (0..WRITERS).map(|writer| scope.spawn(move || write(writer))).collect();
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        is_over.store(true, Ordering::SeqCst);
        let last = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
        if let Err(failed) = worked {
            std::panic::resume_unwind(failed);
        }
        last
    });
    (last, failed.into_inner(), stored.into_inner())
}

#[test]
fn a_worker_leaves_and_joins_again_while_clients_write_and_no_acknowledged_write_is_lost() {
    if !is_there() {
        return;
    }
    let folder = folders::temporary();
    let data = folder.path().join("data");
    let router = Router::start_in(&data, OPERATE);
    let (leaving, url, next) = last_worker(&data);
    let joining = format!("worker{next}");
    let (last, failed, stored) = while_clients_write(&router, || {
        let command = |arguments: &[&str]| ask(&router, arguments, "").json(0);
        let plan = command(&["shard", "drain", &leaving, "--dry-run"]);
        assert_eq!((&plan["by"], &plan["epoch"]), (&json!("drain"), &Value::Null), "{plan}");
        let moves = plan["moves"].as_array().unwrap();
        assert!(!moves.is_empty() && plan["refusals"] == json!([]), "{plan}");
        assert!(moves.iter().all(|planned| planned["from"] == json!(leaving)), "{plan}");
        assert_eq!(nodes(&router)[&leaving]["state"], "serving", "a plan changes nothing");
        let done = command(&["shard", "drain", &leaving, "--wait"]);
        assert_eq!((&done["state"], &done["by"]), (&json!("done"), &json!("drain")), "{done}");
        assert_eq!((&done["shard"], &done["slots_moved"]), (&json!(leaving), &plan["slots"]));
        let drained = &nodes(&router)[&leaving];
        assert_eq!((&drained["state"], &drained["shards"]), (&json!("draining"), &json!(0)));
        assert_eq!(command(&["shard", "remove", &leaving])["retired"], json!(leaving));
        assert!(!nodes(&router).contains_key(&leaving));
        command(&["shard", "add", &joining, "--database", &url]);
        assert_eq!(nodes(&router)[&joining]["state"], "serving");
        let listed = command(&["shard", "list"])["nodes"].as_array().unwrap().clone();
        assert!(listed.iter().any(|node| node["node"] == json!(joining)), "{listed:?}");
        let again = post(&router, "/api/shards", &json!({"name": joining, "url": url}));
        assert_eq!(
            (again.status, &again.json()["number"]),
            (200, &json!(next)),
            "{}",
            again.text()
        );
        let done = command(&["rebalance", "--yes", "--wait"]);
        assert_eq!((&done["state"], &done["by"]), (&json!("done"), &json!("engine")), "{done}");
        assert!(nodes(&router)[&joining]["shards"].as_i64().unwrap() > 0);
        let settled = post(&router, "/api/rebalance", &json!({"by": "slots"}));
        assert_eq!((settled.status, &settled.json()["moves"]), (200, &json!([])));
    });
    assert!(stored > KEYS && failed == 0, "{stored} writes were stored and {failed} were not");
    eprintln!("{stored} writes were stored meanwhile, and {failed} failed");
    for (key, name) in last {
        assert_eq!(router.read(&key, "table=users").json()["data"][0]["name"], *name, "{key}");
    }
}

#[test]
fn a_drain_is_known_to_a_router_that_starts_after_a_crash_and_can_be_cancelled_there() {
    if !is_there() {
        return;
    }
    let folder = folders::temporary();
    let data = folder.path().join("data");
    let mut router = Router::start_in(&data, OPERATE);
    let (leaving, _, _) = last_worker(&data);
    while_no_move_can_end(&data, || {
        let begun = post(&router, &format!("/api/shards/{leaving}/drain"), &json!({}));
        assert_eq!(begun.status, 202, "{}", begun.text());
        let id = begun.json()["id"].clone();
        let path = begun.header("location").unwrap().to_owned();
        router.kill();
        router = Router::start_in(&data, OPERATE);
        let moving = eventually("a shard moves", || {
            let shown = router.get(&path).json();
            let moves = shown["moves"].as_array().unwrap();
            moves.iter().any(|step| step["state"] == "moving").then_some(shown)
        });
        assert_eq!((&moving["by"], &moving["shard"]), (&json!("drain"), &json!(leaving)));
        assert_eq!((&moving["state"], &moving["actions"]), (&json!("running"), &json!(["cancel"])));
        let listed = router.get("/api/rebalance").json()["rebalances"][0].clone();
        assert_eq!((&listed["id"], listed.get("moves")), (&id, None), "{listed}");
        for body in [json!({}), json!({"by": "size"})] {
            refused(&post(&router, "/api/rebalance", &body), 409, "TSR338", id.as_str().unwrap());
        }
        let plan = post(&router, "/api/rebalance", &json!({"dry_run": true})).json();
        assert!(plan["refusals"][0].as_str().unwrap().contains("goes on"), "{plan}");
        let paused = post(&router, &format!("{path}/pause"), &json!({}));
        refused(&paused, 409, "TSR329", "cannot pause a rebalance");
        let cancelled = post(&router, &format!("{path}/cancel"), &json!({}));
        assert_eq!(cancelled.status, 200, "{}", cancelled.text());
        let last = ended(&router, &id);
        assert_eq!(
            (&last["state"], &last["slots_moved"]),
            (&json!("cancelled"), &json!(0)),
            "{last}"
        );
        assert_eq!(nodes(&router)[&leaving]["state"], "serving", "it gets rows again");
        refused(&post(&router, &format!("{path}/cancel"), &json!({})), 409, "TSR337", "has ended");
    });
}

#[test]
fn a_rebalance_that_was_begun_by_sql_is_listed_and_ends_on_an_order() {
    if !is_there() {
        return;
    }
    let folder = folders::temporary();
    let data = folder.path().join("data");
    let router = Router::start_in(&data, OPERATE);
    let place = "(SELECT nodename, nodeport FROM pg_dist_node WHERE groupid > 0 ORDER BY groupid DESC LIMIT 1)";
    while_no_move_can_end(&data, || {
        let mark = format!(
            "SELECT citus_set_node_property(nodename, nodeport, 'shouldhaveshards', false) FROM {place} AS n"
        );
        ask_primary(&data, 0, &mark);
        let job =
            ask_primary(&data, 0, "SELECT citus_rebalance_start(drain_only => true)").remove(0);
        let listed = router.get("/api/rebalance").json()["rebalances"][0].clone();
        assert_eq!((&listed["id"], &listed["state"]), (&json!(job), &json!("running")));
        let cancelled = post(&router, &format!("/api/rebalance/{job}/cancel"), &json!({}));
        assert_eq!(cancelled.status, 200, "{}", cancelled.text());
        assert_eq!(ended(&router, &json!(job))["state"], "cancelled");
        std::thread::scope(|scope| {
            let url = url_of(&data, 0);
            let drain = format!("SELECT citus_drain_node(nodename, nodeport) FROM {place} AS n");
            scope.spawn(move || try_query(&url, &drain).expect_err("it is ended"));
            let shown = eventually("the session moves shards", || {
                let listed = router.get("/api/rebalance").json()["rebalances"][0].clone();
                listed["id"].as_str()?.starts_with("session-").then_some(listed)
            });
            let id = shown["id"].as_str().unwrap().to_owned();
            assert_eq!((&shown["state"], &shown["actions"]), (&json!("running"), &json!([])));
            let cancel = post(&router, &format!("/api/rebalance/{id}/cancel"), &json!({}));
            let process = id.trim_start_matches("session-");
            ask_primary(&data, 0, &format!("SELECT pg_terminate_backend({process})"));
            refused(&cancel, 409, "TSR329", &format!("pg_cancel_backend({process})"));
        });
    });
    let serve = format!(
        "SELECT citus_set_node_property(nodename, nodeport, 'shouldhaveshards', true) FROM {place} AS n"
    );
    ask_primary(&data, 0, &serve);
}

#[test]
fn what_citus_cannot_do_is_refused_by_name_and_changes_nothing() {
    if !is_there() {
        return;
    }
    let folder = folders::temporary();
    let data = folder.path().join("data");
    let router = Router::start_in(&data, OPERATE);
    let (worker, url, next) = last_worker(&data);
    let before =
        "SELECT count(*) || ' ' || (SELECT count(*) FROM pg_dist_background_job) FROM pg_dist_node";
    let known = ask_primary(&data, 0, before);
    let drain = format!("/api/shards/{worker}/drain");
    for (path, body, member) in [
        ("/api/rebalance", json!({"by": "load"}), "by: "),
        ("/api/rebalance", json!({"by": "placement"}), "by: "),
        ("/api/rebalance", json!({"rate": 20}), "rate: "),
        ("/api/rebalance", json!({"keep": 900, "dry_run": true}), "keep: "),
        (&*drain, json!({"keep": 0}), "keep: "),
    ] {
        refused(&post(&router, path, &body), 400, "TSR335", member);
    }
    let epoch = [("if-match", "\"1\"")];
    let bound = router.post("/api/rebalance", &epoch, &json!({}));
    refused(&bound, 400, "TSR335", "If-Match: ");
    let joining = format!("worker{next}");
    let late = format!("worker{}", next + 1);
    let database = url.rsplit_once('/').unwrap().1;
    let silent = format!("postgres://127.0.0.1:1/{database}");
    let (server, _) = url.rsplit_once('/').unwrap();
    for (body, status, code, part) in [
        (json!({"name": "shard4", "url": url}), 400, "TSR321", "name: Citus numbers its nodes"),
        (
            json!({"name": late, "url": silent}),
            400,
            "TSR321",
            &*format!("the next one is {joining}"),
        ),
        (json!({"name": joining, "url": url, "weight": 2}), 400, "TSR321", "weight: "),
        (json!({"name": joining}), 400, "TSR321", "is missing"),
        (
            json!({"name": joining, "url": "postgres://127.0.0.1:1/other"}),
            400,
            "TSR321",
            "must have the name",
        ),
        (json!({"name": joining, "url": silent}), 409, "TSR323", "127.0.0.1:1"),
        (json!({"name": joining, "url": format!("{server}/{database}")}), 409, "TSR326", &*worker),
    ] {
        refused(&post(&router, "/api/shards", &body), status, code, part);
    }
    let bound = router.post("/api/shards", &epoch, &json!({"name": joining, "url": url}));
    refused(&bound, 400, "TSR321", "If-Match: ");
    let delete = |name: &str| router.send("DELETE", &format!("/api/shards/{name}"), &[], None);
    refused(&delete(&worker), 409, "TSR326", "drain it first");
    refused(&delete("coordinator"), 409, "TSR326", "cannot be removed");
    refused(&delete(&joining), 404, "TSR320", &joining);
    refused(&post(&router, "/api/shards/worker999/drain", &json!({})), 404, "TSR320", "worker999");
    refused(&post(&router, "/api/rebalance/999/cancel", &json!({})), 404, "TSR336", "no such");
    let json_body = [("content-type", "application/json")];
    let weigh = router.send("PATCH", "/api/shards/shard1", &json_body, Some(br#"{"weight":2}"#));
    assert_eq!((weigh.status, &*weigh.code()), (409, "TSR329"), "{}", weigh.text());
    assert_eq!(ask_primary(&data, 0, before), known);
    assert!(nodes(&router).values().skip(1).all(|node| node["state"] == "serving"));
}

#[test]
fn a_need_that_is_not_met_is_named_before_anything_begins() {
    if !is_there() {
        return;
    }
    let folder = folders::temporary();
    let data = folder.path().join("data");
    let router = Router::start_in(&data, OPERATE);
    let (worker, _, _) = last_worker(&data);
    ask_primary(&data, 0, "CREATE TABLE public.loose (shard_key text)");
    let spread =
        "SELECT create_distributed_table('public.loose', 'shard_key', colocate_with => 'none')";
    ask_primary(&data, 0, spread);
    let drain = format!("/api/shards/{worker}/drain");
    let plan = post(&router, &drain, &json!({"dry_run": true})).json();
    let begun = post(&router, &drain, &json!({}));
    let state = nodes(&router)[&worker]["state"].clone();
    let others = "SELECT citus_set_node_property(nodename, nodeport, 'shouldhaveshards', $1)
        FROM pg_dist_node WHERE groupid > 0 AND 'worker' || groupid <> ";
    let mark = |gets: &str| {
        ask_primary(&data, 0, &format!("{}'{worker}'", others.replace("$1", gets)));
    };
    mark("false");
    let last = post(&router, &drain, &json!({}));
    mark("true");
    ask_primary(&data, 0, "DROP TABLE public.loose");
    assert!(!plan["moves"].as_array().unwrap().is_empty(), "{plan}");
    assert!(plan["refusals"][0].as_str().unwrap().contains("loose"), "{plan}");
    refused(&begun, 409, "TSR341", "add a primary key to");
    assert_eq!(state, "serving", "nothing was begun");
    refused(&last, 409, "TSR326", "no node except");
    let repaired = post(&router, &drain, &json!({"dry_run": true})).json();
    assert_eq!(repaired["refusals"], json!([]), "{repaired}");
}

#[test]
fn a_single_move_and_its_rollback_are_refused_with_the_function_of_citus_that_moves_rows() {
    if !is_there() {
        return;
    }
    let folder = folders::temporary();
    let data = folder.path().join("data");
    let router = Router::start_in(&data, OPERATE);
    let wished = json!({"key": "ada", "to": "shard1"});
    let rollback = "/api/moves/5f0c1c1e-6c1e-4f7a-9b53-0a8f5b1f2d4e/rollback";
    for (path, body) in [("/api/moves", wished), (rollback, json!({}))] {
        let function = "SELECT citus_move_shard_placement(";
        refused(&post(&router, path, &body), 409, "TSR329", function);
    }
}
