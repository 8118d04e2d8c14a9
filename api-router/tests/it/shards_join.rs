//! Tests of shards that join, get another weight and retire while requests are served.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::backend::files_only;
use crate::client::{refusal, user_op};
use crate::commands::run;
use crate::folders;
use crate::harness::{Reply, Router, eventually};

const OPERATE: &[&str] = &["--operate"];
const PATIENT: (&str, &str) = ("x-deadline-ms", "60000");
const JSON: (&str, &str) = ("content-type", "application/json");
const WHY: &str = "the databases of new shards are made in the tests of the engine";

fn change(router: &Router, method: &str, path: &str, body: Option<Value>) -> Reply {
    let body = body.map(|body| body.to_string());
    router.send(method, path, &[PATIENT, JSON], body.as_ref().map(String::as_bytes))
}

fn join(router: &Router, shard: Value) -> Reply {
    change(router, "POST", "/api/shards", Some(shard))
}

/// Returns a shard of the list, if it is there.
fn listed(router: &Router, name: &str) -> Option<Value> {
    let shards = router.get("/api/shards").json()["shards"].clone();
    shards.as_array().unwrap().iter().find(|shard| shard["shard"] == name).cloned()
}

fn start(data: &Path) -> Router {
    Router::start_in(data, OPERATE)
}

#[test]
fn a_shard_joins_while_rows_are_written_and_no_request_fails() {
    files_only!(WHY);
    let router = Router::start_with(OPERATE);
    let ended = AtomicBool::new(false);
    let written = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let (router, ended) = (&router, &ended);
                scope.spawn(move || {
                    let mut count = 0;
                    while !ended.load(Ordering::Acquire) || count < 20 {
                        let key = format!("u{writer}x{count}");
                        let path = "/api/write";
                        let reply = router.post(
                            path,
                            &[("x-shard-key", &key)],
                            &user_op("insert", &key, "n"),
                        );
                        assert_eq!(reply.status, 201, "{}", reply.text());
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        let joined = join(&router, json!({"name": "shard4", "weight": 2}));
        assert_eq!(joined.status, 201, "{}", joined.text());
        let answer = joined.json();
        assert_eq!((&answer["state"], &answer["slots"]), (&json!("serving"), &json!(0)));
        assert_eq!(joined.header("etag"), Some(&*format!("\"{}\"", answer["epoch"])));
        ended.store(true, Ordering::Release);
        writers.into_iter().map(|writer| writer.join().unwrap()).sum::<usize>()
    });
    let counted = [("prefer", "count=exact")];
    let count = router.send("GET", "/api/read?table=users&limit=1", &counted, None).json();
    assert_eq!(count["total"], written, "{count}");
    let shard = listed(&router, "shard4").unwrap();
    assert_eq!((&shard["weight"], &shard["slots"]), (&json!(2), &json!(0)), "{shard}");
    // The same request again succeeds; a different request for the same name is refused.
    assert_eq!(join(&router, json!({"name": "shard4", "weight": 2})).status, 200);
    let (status, code, _) = refusal(&join(&router, json!({"name": "shard4", "weight": 3})));
    assert_eq!((status, &*code), (409, "TSR326"));
    let health = router.get("/api/health");
    assert_eq!(health.status, 200, "{}", health.text());
    assert!(router.get("/metrics").text().contains("shard=\"shard4\""));
}

#[test]
fn a_shard_that_joined_is_there_after_a_crash_and_its_number_is_never_given_again() {
    files_only!(WHY);
    let folder = folders::temporary();
    let data = folder.path().join("data");
    let mut router = start(&data);
    let joined = join(&router, json!({"name": "east"}));
    assert_eq!((joined.status, &joined.json()["number"]), (201, &json!(3)), "{}", joined.text());
    router.kill();
    router.wait();
    let router = start(&data);
    assert_eq!(listed(&router, "east").unwrap()["state"], "serving");
    let weighed = change(&router, "PATCH", "/api/shards/east", Some(json!({"weight": 7})));
    assert_eq!((weighed.status, &weighed.json()["weight"]), (200, &json!(7)), "{}", weighed.text());
    let removed = change(&router, "DELETE", "/api/shards/east", None);
    assert_eq!((removed.status, &removed.json()["state"]), (200, &json!("retired")));
    eventually("the shard is closed", || {
        let shard = listed(&router, "east");
        shard.is_none_or(|shard| shard["state"] == "retired").then_some(())
    });
    let joined = join(&router, json!({"name": "west"}));
    assert_eq!((joined.status, &joined.json()["number"]), (201, &json!(4)), "{}", joined.text());
    assert_eq!(router.write_user("ada", "Ada").status, 201);
    assert_eq!(router.get("/api/read?table=users").status, 200);
    drop(router);
    let router = start(&data);
    assert_eq!(listed(&router, "west").unwrap()["state"], "serving");
    assert_eq!(router.get("/api/read?table=users").json()["data"].as_array().unwrap().len(), 1);
}

#[test]
fn a_join_that_is_killed_at_any_time_is_finished_by_a_start_or_the_same_request() {
    files_only!(WHY);
    let folder = folders::temporary();
    let data = folder.path().join("data");
    let mut router = start(&data);
    assert_eq!(router.write_user("ada", "Ada").status, 201);
    // The router is killed before, during and after the steps of the join.
    for delay in [0, 2, 5, 8, 12, 16, 20, 30] {
        let name = format!("after{delay}ms");
        let shard = json!({"name": name}).to_string();
        std::thread::scope(|scope| {
            let (router, shard) = (&router, shard.as_bytes());
            let path = "/api/shards";
            let asked = scope.spawn(move || router.try_send("POST", path, &[JSON], Some(shard)));
            std::thread::sleep(Duration::from_millis(delay));
            router.signal("KILL");
            // The router may have responded before it was killed.
            drop(asked.join().unwrap());
        });
        router.wait();
        router = start(&data);
        let after_start = listed(&router, &name);
        assert!(after_start.is_none_or(|shard| shard["state"] == "serving"), "{name}");
        let joined = join(&router, json!({"name": name}));
        assert!([200, 201].contains(&joined.status), "{name}: {}", joined.text());
        let rows = router.get("/api/read?table=users").json();
        assert_eq!(rows["count"], 1, "{name}: {rows}");
    }
    let shards = router.get("/api/shards").json()["shards"].clone();
    let mut numbers: Vec<u64> =
        shards.as_array().unwrap().iter().map(|shard| shard["number"].as_u64().unwrap()).collect();
    numbers.dedup();
    assert_eq!(numbers, (0..11).collect::<Vec<u64>>());
    assert_eq!(router.get("/api/health").status, 200);
}

#[test]
fn refused_changes_of_shards_name_the_reason_and_change_nothing() {
    files_only!(WHY);
    let router = Router::start_with(OPERATE);
    let before = router.get("/api/shards").json();
    let post = |body: Value| ("POST", "/api/shards", Some(body));
    let patch = |path: &'static str, body: Value| ("PATCH", path, Some(body));
    for ((method, path, body), status, code) in [
        (post(json!({"name": "4th"})), 400, "TSR321"),
        (post(json!({"name": "a/b"})), 400, "TSR321"),
        (post(json!({"name": "east", "weight": -1})), 400, "TSR321"),
        (post(json!({"name": "east", "weight": 1.5})), 400, "TSR321"),
        (post(json!({"name": "east", "url": "postgres://db:5432/app"})), 400, "TSR321"),
        (post(json!({"name": "shard1", "url": "postgres://db:5432/app"})), 400, "TSR321"),
        (post(json!({"weight": 1})), 400, "TSR101"),
        (patch("/api/shards/shard9", json!({"weight": 2})), 404, "TSR320"),
        (patch("/api/shards/shard1", json!({"weight": "2"})), 400, "TSR321"),
        (("DELETE", "/api/shards/shard9", None), 404, "TSR320"),
        (("DELETE", "/api/shards/shard1", None), 409, "TSR326"),
    ] {
        let reply = change(&router, method, path, body.clone());
        let found = refusal(&reply);
        assert_eq!(
            (found.0, &*found.1),
            (status, code),
            "{method} {path} {body:?}: {}",
            reply.text()
        );
    }
    let headers = [("if-match", "\"99\""), JSON];
    let late = router.send("POST", "/api/shards", &headers, Some(br#"{"name":"east"}"#));
    let (status, code, _) = refusal(&late);
    assert_eq!((status, &*code), (412, "TSR327"), "{}", late.text());
    assert_eq!(router.get("/api/shards").json()["epoch"], before["epoch"]);
    assert!(listed(&router, "east").is_none());
}

#[test]
fn without_the_flag_shards_are_not_changed() {
    let router = Router::start();
    for (method, path) in [("POST", "/api/shards"), ("DELETE", "/api/shards/shard1")] {
        let reply = change(&router, method, path, Some(json!({"name": "east"})));
        assert_eq!(reply.status, 405, "{}", reply.text());
        assert!(reply.text().contains("--operate"), "{}", reply.text());
    }
}

#[test]
fn commands_change_shards_through_the_socket_and_through_a_url() {
    files_only!(WHY);
    let folder = folders::temporary();
    let data = folder.path().join("data");
    let router = start(&data);
    let (dir, url) = (data.to_str().unwrap(), router.url(""));
    for (place, name) in [(["--data-dir", dir], "east"), (["--url", &url], "west")] {
        let shard = |arguments: &[&str]| {
            run(&[&["shard"], arguments, &["--json"], &place[..]].concat(), "")
        };
        assert_eq!(shard(&["add", name]).json(0), json!({"joined": name, "weight": 1}));
        let known = listed(&router, name).unwrap();
        assert_eq!((&known["state"], &known["weight"]), (&json!("serving"), &json!(1)));
        shard(&["weight", name, "4"]).json(0);
        assert_eq!(listed(&router, name).unwrap()["weight"], 4);
        let seen = shard(&["list"]).json(0)["shards"].clone();
        let seen = seen.as_array().unwrap().iter().find(|shard| shard["shard"] == name).cloned();
        let seen = seen.expect("the new shard");
        assert_eq!((&seen["weight"], &seen["slots"]), (&json!(4), &json!(0)));
        shard(&["remove", name]).json(0);
        assert!(listed(&router, name).is_none_or(|shard| shard["state"] == "retired"));
        for (arguments, code) in
            [(["remove", "shard1"], "TSR326"), (["remove", "nowhere"], "TSR320")]
        {
            let refused = shard(&arguments);
            assert_eq!(refused.code, Some(2), "{refused:?}");
            assert!(refused.err.contains(code), "{refused:?}");
        }
    }
}
