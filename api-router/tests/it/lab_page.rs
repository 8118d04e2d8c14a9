//! Tests of the requests of the lab page: placement trials, the recorded keys of writes, and the
//! experiment about levels.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::lab;
use crate::harness::{Reply, Router, eventually};

/// Returns the response for a valid placement.
fn trial(router: &Router, query: &str) -> Value {
    let reply = router.get(&format!("/api/lab/placements?{query}"));
    assert_eq!(reply.status, 200, "{query}: {}", reply.text());
    reply.json()
}

/// Returns the number of slots of each shard, counted from runs that cover all slots in order.
fn slots_of(runs: &Value) -> BTreeMap<String, u64> {
    let mut slots = BTreeMap::new();
    let mut next = 0;
    for run in runs.as_array().unwrap() {
        let (first, last) = (run[0].as_u64().unwrap(), run[1].as_u64().unwrap());
        assert_eq!(first, next, "{run}");
        next = last + 1;
        *slots.entry(run[2].as_str().unwrap().to_owned()).or_default() += next - first;
    }
    assert_eq!(next, 16_384);
    slots
}

#[test]
fn a_simulated_placement_has_the_owners_of_all_slots_before_and_after_a_change() {
    let router = Router::shared();
    for placement in ["even", "weighted", "modulo", "ring:8", "rendezvous", "jump", "rebalance"] {
        for change in ["add", "add:3", "remove:shard2", "weight:shard1=2"] {
            if placement == "jump" && change == "remove:shard2" {
                continue;
            }
            let query = format!(
                "placement={placement}&weights=1,1,2&change={change}&kind=numeric&keys=500"
            );
            let answer = trial(&router, &query);
            assert_eq!((&answer["success"], &answer["total"]), (&json!(true), &json!(500)));
            let states = [&answer["before"], &answer["moved"]["after"]];
            for state in states {
                let slots = slots_of(&state["runs"]);
                let shards = state["shards"].as_array().unwrap();
                for shard in shards {
                    let name = shard["shard"].as_str().unwrap();
                    assert_eq!(
                        shard["slots"],
                        json!(slots.get(name).copied().unwrap_or(0)),
                        "{query}"
                    );
                }
                let load: u64 = shards.iter().map(|shard| shard["load"].as_u64().unwrap()).sum();
                assert_eq!(load, 500, "{query}");
                assert!(state["skew"].as_f64().unwrap() >= 0.99, "{query}");
            }
            let moved = answer["moved"]["load"].as_u64().unwrap() as f64 / 500.0;
            assert!((answer["moved"]["share"].as_f64().unwrap() - moved).abs() < 1e-9, "{query}");
        }
    }
    let ring = trial(&router, "placement=ring:8");
    assert_eq!(ring["ring"]["total"], 24);
    assert_eq!(ring["ring"]["points"].as_array().unwrap().len(), 24);
    assert_eq!(ring["moved"], Value::Null);
    assert_eq!(trial(&router, "placement=ring:1000")["ring"]["points"], json!([]));
}

/// The lab page and the router agree on the place of a key.
#[test]
fn a_sample_key_is_placed_where_a_cluster_of_this_strategy_has_it() {
    let router = Router::shared();
    let map = router.get("/api/shard-map").json();
    let sample = "sample=user_1%0A%40ada%3As1%0Ano+number";
    let answer = trial(
        &router,
        &format!("keyspace={}&{sample}", map["keyspace"].as_str().unwrap_or("hash")),
    );
    for place in answer["sample"].as_array().unwrap() {
        let key = place["key"].as_str().unwrap().replace('@', "%40").replace(' ', "%20");
        let route = router.get(&format!("/api/route?key={key}")).json();
        assert_eq!(place["slot"], route["slot"], "{place}");
        assert_eq!(place["reason"], Value::Null);
    }
    let modulo = trial(&router, &format!("keyspace=modulo&{sample}"));
    assert_eq!(modulo["sample"][0]["slot"], 1);
    assert!(modulo["sample"][2]["reason"].as_str().unwrap().contains("integer"), "{modulo}");
    assert_eq!(modulo["sample"][2]["shard"], Value::Null);
}

#[test]
fn an_option_that_cannot_be_used_is_named_in_a_problem() {
    let router = Router::shared();
    let weights = format!("weights={}", ["1"; 65].join(","));
    let sample = format!("sample={}", "k%0A".repeat(101));
    for (query, name) in [
        ("placement=best", "placement"),
        ("placement=ring:10000&weights=9", "placement"),
        ("placement=", "placement"),
        ("weights=", "weights"),
        ("weights=1,x", "weights"),
        ("weights=0,0", "weights"),
        (&*weights, "weights"),
        ("change=grow", "change"),
        ("change=add:99999999999999999999", "change"),
        ("change=remove:nobody", "change"),
        ("change=remove:shard1&weights=1", "change"),
        ("keyspace=magic", "keyspace"),
        ("keyspace=range", "keyspace"),
        ("keyspace=modulo&kind=matrix", "keyspace"),
        ("kind=names", "kind"),
        ("keyspace=hash&placement=partitions:A=1%3Eshard1", "placement"),
        ("keyspace=list(a):A=2,B=1&placement=even", "placement"),
        ("keys=0", "keys"),
        ("keys=20001", "keys"),
        ("keys=-1", "keys"),
        (&*sample, "sample"),
        ("weight=1", "weight"),
        ("weights=1&weights=2", "weights"),
        ("keyspace=%ff", "UTF-8"),
    ] {
        let reply = router.get(&format!("/api/lab/placements?{query}"));
        assert_eq!((reply.status, &*reply.code()), (400, "TSR100"), "{query}: {}", reply.text());
        let detail = reply.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(name), "{query}: {detail}");
    }
    let reply = router.send("POST", "/api/lab/placements", &[], Some(b"{}"));
    assert_eq!((reply.status, &*reply.code()), (405, "TSR112"));
}

#[test]
fn a_problem_lists_all_names_where_a_name_is_unknown_and_none_elsewhere() {
    let router = Router::shared();
    let detail = |query: &str| {
        let reply = router.get(&format!("/api/lab/placements?{query}"));
        reply.json()["detail"].as_str().unwrap().to_owned()
    };
    let keyspaces = detail("keyspace=foo");
    assert!(keyspaces.contains("range, range-text, list"), "{keyspaces}");
    let placements = detail("placement=foo");
    assert!(placements.ends_with("manual, rebalance"), "{placements}");
    for query in ["placement=ring:9999999", "placement=manual:0-5=shard1"] {
        assert!(!detail(query).contains("rebalance"), "{query}: {}", detail(query));
    }
}

#[test]
fn keys_that_were_written_are_listed_once_with_the_shards_that_have_them() {
    let router = Router::start();
    let keys: Vec<String> = (0..20).map(|number| format!("user_{number}")).collect();
    let (mut after, mut seen) = (0, BTreeMap::new());
    for key in &keys {
        // A second write within the same millisecond may not be recorded, so this one is awaited.
        eventually("the key is listed", || {
            assert!(router.write_user(key, "Ada").status < 300);
            let answer = router.get(&format!("/api/lab/writes?after={after}")).json();
            for write in answer["writes"].as_array().unwrap() {
                assert!(write["number"].as_u64().unwrap() > after, "{write}");
                after = write["number"].as_u64().unwrap();
                seen.insert(write["key"].as_str().unwrap().to_owned(), write.clone());
            }
            assert_eq!(answer["last"], json!(after));
            seen.contains_key(key).then_some(())
        });
    }
    assert_eq!(seen.len(), keys.len());
    for (key, write) in &seen {
        let route = router.get(&format!("/api/route?key={key}")).json();
        assert_eq!((&write["slot"], &write["shard"]), (&route["slot"], &route["shard"]), "{write}");
    }
    let answer = router.get("/api/lab/writes").json();
    let shards = router.get("/api/shards").json()["shards"].as_array().unwrap().len();
    assert_eq!(answer["shards"].as_array().unwrap().len(), shards);
    assert_eq!(answer["keyspace"], "hash");
}

#[test]
fn rows_of_bulk_writes_are_listed_by_a_few_keys_that_stand_for_all_rows_of_their_shard() {
    let router = Router::start();
    let user = |prefix: &str, number: usize| {
        let id = format!("{prefix}_{number}");
        json!({"user_id": id, "name": "Ada", "email": format!("{id}@example.com")})
    };
    let records: Vec<Value> = (0..40).map(|number| user("json", number)).collect();
    let lines: Vec<String> = (0..60).map(|number| user("line", number).to_string()).collect();
    let mut after = 0;
    for (path, format, body) in [
        (
            "/api/bulk-write",
            "application/json",
            json!({"table": "users", "records": records}).to_string(),
        ),
        ("/api/bulk-write?table=users", "application/x-ndjson", lines.join("\n")),
    ] {
        let reply = router.send("POST", path, &[("content-type", format)], Some(body.as_bytes()));
        assert_eq!(reply.status, 201, "{format}: {}", reply.text());
        let answer = router.get(&format!("/api/lab/writes?after={after}")).json();
        after = answer["last"].as_u64().unwrap();
        let mut listed: BTreeMap<String, u64> = BTreeMap::new();
        for write in answer["writes"].as_array().unwrap() {
            let key = write["key"].as_str().unwrap();
            assert!(body.contains(&format!("\"{key}\"")), "{write}");
            let route = router.get(&format!("/api/route?key={key}")).json();
            assert_eq!((&write["slot"], &write["shard"]), (&route["slot"], &route["shard"]));
            let shard = write["shard"].as_str().unwrap().to_owned();
            *listed.entry(shard).or_default() += write["rows"].as_u64().unwrap();
        }
        let stored = reply.json();
        let stored = stored["shards"].as_array().unwrap().iter().map(|shard| {
            (shard["shard"].as_str().unwrap().to_owned(), shard["rows"].as_u64().unwrap())
        });
        assert_eq!(listed, stored.collect(), "{format}");
    }
}

#[test]
fn what_was_refused_or_read_is_not_listed_as_written() {
    let router = Router::start();
    assert_eq!(
        router.send("POST", "/api/write", &[("x-shard-key", "bad")], Some(b"{")).status,
        400
    );
    assert_eq!(router.get("/api/read?table=users&shardKey=reader").status, 200);
    assert!(router.write_user("good", "Ada").status < 300);
    let answer = eventually("the write is listed", || {
        let answer = router.get("/api/lab/writes").json();
        (answer["last"] != json!(0)).then_some(answer)
    });
    let keys: Vec<&Value> =
        answer["writes"].as_array().unwrap().iter().map(|it| &it["key"]).collect();
    assert_eq!(keys, [&json!("good")]);
    for query in ["after=x", "after=-1", "since=1"] {
        let reply = router.get(&format!("/api/lab/writes?{query}"));
        assert_eq!((reply.status, &*reply.code()), (400, "TSR100"), "{query}");
    }
    let silent = Router::start_with(&["--analytics", "off"]);
    let reply = silent.get("/api/lab/writes");
    assert_eq!((reply.status, &*reply.code()), (404, "TSR111"), "{}", reply.text());
}

fn play(router: &Router, body: &Value) -> Reply {
    let body = body.to_string();
    let headers = [("content-type", "application/json")];
    router.send("POST", "/api/lab/levels", &headers, Some(body.as_bytes()))
}

/// Starts a router that creates its temporary folders in this one.
fn with_temporary(folder: &Path) -> Router {
    Router::start_owning(|data_dir| {
        let mut command: Command = crate::backend::command(data_dir, &["--lab"]);
        command.env("TMPDIR", folder);
        command
    })
}

fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[test]
fn the_experiment_about_levels_runs_on_a_cluster_that_leaves_nothing_behind() {
    let folder = crate::folders::temporary();
    let router = with_temporary(folder.path());
    router.write_user("mine", "Ada");
    let reply = play(&router, &json!({"replicas": 1, "operations": 6, "clients": 2}));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let answer = reply.json();
    assert_eq!((&answer["shards"], &answer["replicas"]), (&json!(3), &json!(1)));
    let levels = answer["levels"].as_array().unwrap();
    let reported: Vec<_> = levels
        .iter()
        .map(|one| {
            let number = |name: &str| one[name].as_u64().unwrap();
            let level = one["level"].as_str().unwrap();
            (number("replicas_gone"), level, number("writes"), number("writes_refused"))
        })
        .collect();
    let expected = [
        (0, "one", 6, 0),
        (0, "quorum", 6, 0),
        (0, "all", 6, 0),
        (1, "one", 6, 0),
        (1, "quorum", 0, 6),
        (1, "all", 0, 6),
    ];
    assert_eq!(reported, expected, "{answer}");
    assert!(levels[0]["write_p50_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(levels[5]["write_p50_ms"], Value::Null);
    assert!(levels[5]["first_refusal"].is_string());
    let text = |name: &str| answer[name].as_str().unwrap();
    assert!(text("engine").starts_with("SQLite "), "{answer}");
    let version = format!("Tessera {}", env!("CARGO_PKG_VERSION"));
    assert!(text("machine").contains(&version), "{answer}");
    assert_eq!(answer["seed"], 1);
    assert_eq!(entries(folder.path()), 0, "the folder is removed");
    let read = router.get("/api/read?table=users").json();
    assert_eq!(read["data"].as_array().unwrap().len(), 1, "the own cluster is untouched");
}

#[test]
fn one_experiment_runs_at_a_time_and_ends_with_its_client() {
    let folder = crate::folders::temporary();
    let router = with_temporary(folder.path());
    let body = json!({"replicas": 2, "operations": 500, "clients": 1}).to_string();
    let mut first = router.connect();
    let head = "POST /api/lab/levels HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json";
    write!(first, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    eventually("the first one has its folder", || (entries(folder.path()) == 1).then_some(()));
    let second = play(&router, &json!({}));
    assert_eq!((second.status, &*second.code()), (409, "TSR348"), "{}", second.text());
    drop(first);
    eventually("it is removed after its client has gone", || {
        (entries(folder.path()) == 0).then_some(())
    });
    eventually("the next one may run", || {
        (play(&router, &json!({"operations": 1})).status == 200).then_some(())
    });
}

#[test]
fn an_experiment_that_fails_to_start_is_reported_without_naming_folders() {
    let folder = crate::folders::temporary();
    let gone = folder.path().join("gone");
    let router = with_temporary(&gone);
    let reply = play(&router, &json!({}));
    assert_eq!((reply.status, &*reply.code()), (503, "TSR349"), "{}", reply.text());
    assert!(!reply.text().contains("gone"), "{}", reply.text());
}

#[test]
fn a_router_that_ends_ends_its_experiment() {
    let folder = crate::folders::temporary();
    let router = with_temporary(folder.path());
    let body = json!({"replicas": 2, "operations": 500, "clients": 1}).to_string();
    let mut stream = router.connect();
    let head = "POST /api/lab/levels HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close";
    write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    eventually("it runs", || (entries(folder.path()) == 1).then_some(()));
    router.signal("TERM");
    let mut answer = String::new();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("TSR349"), "{answer}");
    eventually("its folder is removed", || (entries(folder.path()) == 0).then_some(()));
}

#[test]
fn a_size_of_an_experiment_that_is_out_of_bounds_is_refused() {
    let router = lab(&[]);
    for (body, status, code) in [
        (json!({"replicas": 0}), 400, "TSR101"),
        (json!({"replicas": 3}), 400, "TSR101"),
        (json!({"operations": 501}), 400, "TSR101"),
        (json!({"operations": "5"}), 400, "TSR101"),
        (json!({"operations": -1}), 400, "TSR101"),
        (json!({"clients": 9}), 400, "TSR101"),
        (json!({"clients": 1.5}), 400, "TSR101"),
        (json!({"shards": 3}), 400, "TSR102"),
        (json!([]), 400, "TSR101"),
        (json!({"replicas": " ".repeat(2_000)}), 413, "TSR108"),
    ] {
        let reply = play(&router, &body);
        assert_eq!((reply.status, &*reply.code()), (status, code), "{body}: {}", reply.text());
    }
    let plain = Router::shared();
    let reply = play(&plain, &json!({}));
    assert_eq!((reply.status, &*reply.code()), (404, "TSR111"), "{}", reply.text());
}
