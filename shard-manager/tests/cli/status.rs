//! Tests of `status` and `route`.

use std::fs;

use crate::cluster::{Cluster, file, meddle, run, run_in, run_reading, serve};

#[test]
fn a_running_cluster_is_shown_with_its_process_and_every_node() {
    let cluster = Cluster::filled();
    let status = run_in(cluster.path(), &["status", "--json"]).expect(0).json();
    assert_eq!(status["ok"], true);
    assert_eq!(status["router"]["running"], true);
    assert_eq!(status["router"]["pid"], std::process::id().to_string());
    assert_eq!(status["keyspace"], "hash");
    let shards = status["shards"].as_array().expect("shards");
    assert_eq!(shards.len(), 3);
    let rows: i64 = shards.iter().map(|shard| shard["nodes"][0]["rows"].as_i64().unwrap()).sum();
    assert_eq!(rows, 60);
    assert_eq!(shards[1]["nodes"][1]["node"], "shard2-replica1");
}

#[test]
fn a_cluster_that_was_stopped_is_shown_as_free_and_its_files_stay_as_they_are() {
    let dir = Cluster::filled().stop();
    let names = || {
        let mut names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before: Vec<_> =
        names().iter().map(|name| fs::read(dir.path().join(name)).unwrap()).collect();
    let names_before = names();
    let status = run_in(dir.path(), &["status", "--json"]).expect(0).json();
    assert_eq!(status["router"]["running"], false);
    assert_eq!(status["router"]["clean"], true);
    let bytes_are = status["bytes_are"].as_str().unwrap();
    assert!(bytes_are.contains("file and its write-ahead log"), "{bytes_are}");
    assert_eq!(status["shards"][0]["nodes"][1]["lag"], 0);
    assert_eq!(names(), names_before, "nothing is left beside the files");
    let after: Vec<_> =
        names().iter().map(|name| fs::read(dir.path().join(name)).unwrap()).collect();
    assert!(before == after, "no byte has changed");
}

#[test]
fn status_does_not_prevent_a_router_from_starting() {
    let dir = Cluster::filled().stop();
    // State left behind by a killed router: only then does the command take the lock, for an
    // instant.
    fs::write(dir.path().join("tessera.lock"), "1").unwrap();
    std::thread::scope(|scope| {
        let looks = scope.spawn(|| {
            for _ in 0..20 {
                run_in(dir.path(), &["status"]).expect(0);
            }
        });
        while !looks.is_finished() {
            let manager = crate::cluster::open(dir.path(), 3, 1);
            drop(manager);
        }
    });
}

#[test]
fn an_unclean_stop_of_the_router_is_reported() {
    let dir = Cluster::filled().stop();
    fs::write(dir.path().join("tessera.lock"), "1").unwrap();
    let status = run_in(dir.path(), &["status", "--json"]).expect(0).json();
    assert_eq!(status["router"]["running"], false);
    assert_eq!(status["router"]["clean"], false);
}

#[test]
fn a_missing_file_is_named_and_makes_the_command_fail() {
    let dir = Cluster::filled().stop();
    fs::remove_file(file(dir.path(), "shard2-primary")).unwrap();
    let ended = run_in(dir.path(), &["status"]).expect(1);
    assert!(ended.out.contains("shard2-primary\tDOWN"), "{ended:#?}");
    assert_eq!(ended.err, "with faults: shard2-primary\n");
}

#[test]
fn files_of_other_schemas_are_refused_with_what_to_do() {
    let dir = Cluster::filled().stop();
    let primary = file(dir.path(), "shard1-primary");
    meddle(&primary, "INSERT INTO __diesel_schema_migrations (version) VALUES ('99990101000000')");
    let ended = run_in(dir.path(), &["status"]).expect(1);
    assert!(ended.out.contains("newer than this program"), "{ended:#?}");
    meddle(&primary, "DELETE FROM __diesel_schema_migrations WHERE version > '20261121000001'");
    let ended = run_in(dir.path(), &["status"]).expect(1);
    assert!(ended.out.contains("shard-manager migrate"), "{ended:#?}");
    meddle(
        &dir.path().join("catalog.db"),
        "INSERT INTO __diesel_schema_migrations (version) VALUES ('99990101000000')",
    );
    run_in(dir.path(), &["status"]).refused("newer than this program");
}

#[test]
fn without_a_cluster_no_file_is_created() {
    let dir = tempfile::tempdir().unwrap();
    for command in ["status", "check", "migrate"] {
        run_in(dir.path(), &[command]).refused("there is no cluster here");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn wrong_use_is_one_line_and_exit_code_2() {
    run(&["status", "--nonsense"]).refused("--nonsense");
    run(&["route"]).refused("required");
    run(&["export", "--table", "users", "--all", "--output", "x"]).refused("cannot be used with");
    run(&["placement", "simulate", "--shards", "0"]).refused("1 to 4096 shards");
}

#[test]
fn status_of_a_router_is_shown_by_its_url() {
    let url = serve(&[
        (
            "/api/health",
            503,
            r#"{"success":false,"status":"down","epoch":4,"health":{},"shards":[]}"#,
        ),
        (
            "/api/shards",
            200,
            r#"{"success":true,"epoch":4,"shards":[{"shard":"shard1","weight":1,"slots":16384,
              "ranges":[[0,16383]],"nodes":[
              {"node":"shard1-primary","role":"primary","up":false,"latency_ms":0.1,"lag":0},
              {"node":"shard1-replica1","role":"replica","up":true,"latency_ms":0.1,"lag":12.5}],
              "tables":[{"table":"users","rows":7,"bytes":4096}]}]}"#,
        ),
    ]);
    let ended = run(&["status", "--url", &url]).expect(1);
    assert!(ended.out.contains("shard1-primary\tDOWN"), "{ended:#?}");
    assert!(ended.out.contains("12.5 ms"), "{ended:#?}");
    assert!(ended.out.contains("bytes     pages in use by all tables"), "{ended:#?}");
    run(&["status", "--url", "http://127.0.0.1:1"]).refused("no router answers");
}

#[test]
fn a_key_is_routed_as_the_library_routes_it() {
    let cluster = Cluster::filled();
    let routed = run_in(cluster.path(), &["route", "user_1", "ключ", "--json"]).expect(0).json();
    for (routed, key) in routed.as_array().unwrap().iter().zip(["user_1", "ключ"]) {
        let key = shard_manager::keyspace::ShardKey::parse(key).unwrap();
        let place = cluster.manager.map().place(key).unwrap();
        assert_eq!(routed["slot"], place.slot.number());
        assert_eq!(routed["shard"], cluster.manager.shard_name(place.shard));
        assert_eq!(routed["primary"], cluster.manager.status().nodes(place.shard).0);
        assert_eq!(routed["replicas"][0], cluster.manager.status().nodes(place.shard).1[0]);
    }
}

#[test]
fn keys_are_read_from_standard_input_too() {
    let cluster = Cluster::filled();
    let ended = run_reading(cluster.path(), &["route", "-"], "user_1\nuser_2\n\n").expect(0);
    assert_eq!(ended.out.lines().count(), 3, "{ended:#?}");
    assert!(ended.out.starts_with("key\tslot\tshard"), "{ended:#?}");
    let ended =
        run_reading(cluster.path(), &["route", "-", "--json"], "user_1\nuser_2\n").expect(0);
    assert_eq!(ended.json()[1]["key"], "user_2");
    let ended = run_reading(cluster.path(), &["route", "-", "--json"], "").expect(0);
    assert_eq!(ended.out, "[]\n");
    let text = "\u{feff}user_1\r\nuser_2\r\n";
    let ended = run_reading(cluster.path(), &["route", "-", "--json"], text).expect(0);
    assert_eq!(
        (&ended.json()[0]["key"], &ended.json()[1]["key"]),
        (&"user_1".into(), &"user_2".into())
    );
    run_in(cluster.path(), &["route", ""]).refused("at least one byte");
}

#[test]
fn a_bad_key_ends_the_list_of_those_before_it() {
    let cluster = Cluster::new(1, 0);
    for bad in ["a\u{7}b", &"k".repeat(300)] {
        let text = format!("user_1\nuser_2\n{bad}\nuser_3\n");
        let ended = run_reading(cluster.path(), &["route", "-", "--json"], &text).expect(2);
        assert_eq!(ended.json().as_array().unwrap().len(), 2);
        assert!(ended.err.starts_with("error: standard input: line 3: "), "{ended:#?}");
        let ended = run_reading(cluster.path(), &["route", "-"], &text).expect(2);
        assert_eq!(ended.out.lines().count(), 3, "{ended:#?}");
    }
    let ended = run_reading(cluster.path(), &["route", "-", "--json"], "\u{7}\n").expect(2);
    assert_eq!(ended.json(), serde_json::json!([]));
}

#[test]
fn a_router_routes_a_key_by_its_url() {
    let url = serve(&[(
        "/api/route",
        200,
        r#"{"key":"user_1","keyspace":"hash","slot":7,"shard":"shard1","primary":"shard1-primary",
          "replicas":["shard1-replica1"],"epoch":3,"moving":false}"#,
    )]);
    let routed = run(&["route", "user_1", "--url", &url, "--json"]).expect(0).json();
    assert_eq!(routed[0]["slot"], 7);
    assert_eq!(routed[0]["replicas"][0], "shard1-replica1");
}

#[test]
fn changes_that_a_crash_left_in_a_wal_are_read_and_stay_there() {
    let cluster = Cluster::filled();
    // A copy made beside the running router is in the state after a kill: some changes are only in
    // the WAL.
    let crashed = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(cluster.path()).unwrap() {
        let path = entry.unwrap().path();
        let is_shared_memory = path.extension().is_some_and(|extension| extension == "db-shm");
        // The control socket of the router cannot be copied.
        if path.is_file() && !is_shared_memory {
            fs::copy(&path, crashed.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    let files = || {
        let kept = ["shard1-primary.db", "shard1-primary.db-wal", "shard2-replica1.db-wal"];
        kept.map(|name| fs::read(crashed.path().join(name)).unwrap())
    };
    let before = files();
    assert!(before.iter().all(|bytes| !bytes.is_empty()), "there is something to lose");
    let status = run_in(crashed.path(), &["status", "--json"]).expect(0).json();
    let shards = status["shards"].as_array().unwrap();
    let rows = shards.iter().map(|shard| shard["nodes"][0]["rows"].as_i64().unwrap());
    assert_eq!(rows.sum::<i64>(), 60);
    run_in(crashed.path(), &["check"]);
    assert!(before == files(), "no byte has changed");
}

#[test]
fn the_shards_of_the_catalog_are_listed_beside_a_router_and_without_one() {
    let check = |dir: &std::path::Path| {
        let listing = run_in(dir, &["shard", "list", "--json"]).expect(0).json();
        assert_eq!(listing["epoch"], 1);
        let shards = listing["shards"].as_array().expect("shards");
        assert_eq!(shards.len(), 3);
        let second = serde_json::json!({
            "number": 1, "shard": "shard2", "state": "serving", "weight": 1, "slots": 5461, "address": null
        });
        assert_eq!(shards[1], second);
        let text = run_in(dir, &["shard", "list"]).expect(0).out;
        assert!(text.contains("shard3") && text.contains("serving"), "{text}");
    };
    let cluster = Cluster::filled();
    check(cluster.path());
    let status = run_in(cluster.path(), &["status", "--json"]).expect(0).json();
    assert_eq!(status["shards"][2]["number"], 2);
    assert_eq!(status["shards"][2]["state"], "serving");
    let dir = cluster.stop();
    check(dir.path());
    run_in(&dir.path().join("nowhere"), &["shard", "list"]).refused("there is no cluster here");
}
