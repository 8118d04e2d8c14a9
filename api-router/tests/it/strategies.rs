//! Tests of all keyspaces and placements: clusters with each of them work, also after a restart.

use std::collections::BTreeSet;

use diesel::connection::SimpleConnection;
use diesel::{Connection, SqliteConnection};
use serde_json::{Value, json};

use crate::harness::{Reply, Router, command, refused_start};

/// A keyspace, keys with a slot in it, keys without one, and words of their refusal.
struct KeyspaceCase {
    keyspace: &'static str,
    keys: &'static [&'static str],
    unroutable: &'static [&'static str],
    reason: &'static str,
}

const CASES: [KeyspaceCase; 7] = [
    KeyspaceCase {
        keyspace: "hash",
        keys: &["a", ":", "@:", "Ω", "0"],
        unroutable: &[],
        reason: "",
    },
    KeyspaceCase {
        keyspace: "modulo",
        keys: &["user_1", "007", "7", "Ω9", "-1"],
        unroutable: &["user", ":", "@:", "Ω", "٣"],
        reason: "ends in a decimal integer",
    },
    KeyspaceCase {
        keyspace: "range:1000,2000,3000",
        keys: &["-5", "0", "999", "1000", "0002000", "170141183460469231731687303715884105727"],
        unroutable: &["user_5", ":", "Ω", "+5", "170141183460469231731687303715884105728"],
        reason: "an integer of at most 128 bits",
    },
    KeyspaceCase {
        keyspace: "range-text:g,n",
        keys: &["a", "g", "zebra", ":", "@:", "Ω", "7"],
        unroutable: &[],
        reason: "",
    },
    KeyspaceCase {
        keyspace: "list:A=30,B=20,D=25,C=15,E=10",
        keys: &["A:1", "B:", "C:a:b", "D:Ω", "E:@:"],
        unroutable: &["F:1", "A", ":", "@:", "7", "a:1"],
        reason: "there are: A, B, D, C, E",
    },
    KeyspaceCase {
        keyspace: "matrix:id",
        keys: &["@alice:example.org", "@bob:example.org:8448", "@Ω:Ω", "@a:1"],
        unroutable: &["alice", "@:", "@a:", "@:a", ":", "7"],
        reason: "@user:server",
    },
    KeyspaceCase {
        keyspace: "matrix:server",
        keys: &["@alice:example.org", "@bob:example.org", "@Ω:Ω", "@a:1"],
        unroutable: &["alice", "@:", "@a:", "@:a", ":", "7"],
        reason: "@user:server",
    },
];

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn write(router: &Router, key: &str) -> Reply {
    let body = json!({"table": "kv", "shardKey": key, "data": {"key": key, "value": {"is": key}}});
    router.post("/api/write", &[], &body)
}

fn read(router: &Router, key: &str) -> Reply {
    router.get(&format!("/api/read?table=kv&shardKey={}", encoded(key)))
}

fn route(router: &Router, key: &str) -> Reply {
    router.get(&format!("/api/route?key={}", encoded(key)))
}

/// Returns a key of the maximum length that has a slot in the keyspace.
fn longest(keyspace: &str) -> String {
    let (start, fill) = match keyspace.split(':').next().unwrap() {
        "list" => ("A:", "x"),
        "matrix" => ("@a:", "x"),
        "range" => ("-", "0"),
        _ => ("", "9"),
    };
    format!("{start}{}", fill.repeat(256 - start.len()))
}

fn assert_reads(router: &Router, key: &str, at: &str) {
    let rows = read(router, key).json();
    assert_eq!(
        (&rows["count"], &rows["data"][0]["value"]),
        (&json!(1), &json!({"is": key})),
        "{at}"
    );
    let place = route(router, key).json();
    assert_eq!(rows["shards"], json!([place["shard"]]), "{at}");
}

#[test]
fn a_cluster_of_each_keyspace_takes_rows_and_has_them_after_a_restart() {
    for KeyspaceCase { keyspace, keys, .. } in CASES {
        let folder = crate::folders::temporary();
        let dir = folder.path().join("data");
        let mut router = Router::start_in(&dir, &["--keyspace", keyspace, "--replicas", "0"]);
        let mut keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        keys.push(longest(keyspace));
        for key in &keys {
            let written = write(&router, key);
            assert_eq!(written.status, 201, "{keyspace} {key}: {}", written.text());
            assert_eq!(written.json()["slot"], route(&router, key).json()["slot"], "{key}");
            assert_reads(&router, key, &format!("{keyspace} {key}"));
        }
        let map = router.get("/api/shard-map").json();
        assert_eq!(map["keyspace"], keyspace.split(['-', ':']).next().unwrap());
        router.end();

        let router = Router::start_in(&dir, &["--keyspace", keyspace]);
        assert_eq!(router.get("/api/shard-map").json(), map, "{keyspace}");
        for key in &keys {
            assert_reads(&router, key, &format!("{keyspace} {key} after a restart"));
        }
    }
}

#[test]
fn a_key_without_a_place_is_refused_with_a_sentence_and_leaves_nothing_behind() {
    for KeyspaceCase { keyspace, unroutable, reason, .. } in CASES {
        let router = Router::start_with(&["--keyspace", keyspace, "--replicas", "0"]);
        for key in unroutable {
            for reply in [write(&router, key), read(&router, key), route(&router, key)] {
                let problem = reply.json();
                assert_eq!(reply.status, 400, "{keyspace} {key}: {problem}");
                let detail = problem["detail"].as_str().unwrap();
                assert!(
                    detail.contains("key") && detail.contains(reason),
                    "{keyspace} {key}: {detail}"
                );
            }
            assert_eq!(write(&router, key).json()["outcome"], "rejected");
            assert_eq!(route(&router, key).code(), "TSR100");
            let record = json!({"key": key, "value": 1});
            let bulk = json!({"table": "kv", "records": [record]});
            assert_ne!(router.post("/api/bulk-write", &[], &bulk).status, 201, "{keyspace} {key}");
        }
        assert_eq!(router.get("/api/read?table=kv").json()["count"], 0, "{keyspace}");
    }
}

#[test]
fn a_route_explains_its_steps() {
    let report = |keyspace: &str, key: &str| {
        let router = Router::start_with(&["--keyspace", keyspace, "--replicas", "0"]);
        let mut route = route(&router, key).json();
        let members = route.as_object_mut().unwrap();
        for known in ["key", "keyspace", "shard", "primary", "replicas", "epoch", "moving"] {
            assert!(members.remove(known).is_some(), "{known}");
        }
        route
    };
    assert_eq!(report("hash", "user_123"), json!({"hash": "0x6b32cffc057a0d5d", "slot": 3421}));
    assert_eq!(report("modulo", "user_016385"), json!({"integer": "016385", "slot": 1}));
    assert_eq!(
        report("range:10,20", "15"),
        json!({"range": {"from": "10", "below": "20"}, "slot": 5462})
    );
    assert_eq!(
        report("range-text:g,n", "a"),
        json!({"range": {"from": null, "below": "g"}, "slot": 0})
    );
    assert_eq!(
        report("list:A=30,B=20,C=15,D=25,E=10", "A:1"),
        json!({"partition": {"name": "A", "slots": [0, 4915]}, "hash": "0x6d1f2a2ca6f368ee", "slot": 4566})
    );
    assert_eq!(
        report("matrix:server", "@alice:example.org"),
        json!({"server": "example.org", "hash": "0x4037554f7ebcbf45", "slot": 16_197})
    );
}

#[test]
fn users_of_a_server_stay_together_under_matrix_server() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let shards = |mode: &str| -> BTreeSet<String> {
        let router = Router::start_with(&["--keyspace", mode, "--replicas", "0"]);
        let shard =
            |n| route(&router, &format!("@user{n}:example.org")).json()["shard"].to_string();
        (0..40).map(shard).collect()
    };
    assert_eq!(shards("matrix:server").len(), 1);
    assert_eq!(shards("matrix:id").len(), 3);
}

#[test]
fn partitions_lie_on_the_shards_that_the_operator_chose() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let router = Router::start_with(&[
        "--keyspace",
        "list:A=30,B=20,D=25,C=15,E=10",
        "--placement",
        "partitions:A=30>shard1,B=20>shard1,D=25>shard2,C=15>shard3,E=10>shard3",
        "--replicas",
        "0",
    ]);
    for (partition, shard) in
        [("A", "shard1"), ("B", "shard1"), ("C", "shard3"), ("D", "shard2"), ("E", "shard3")]
    {
        for number in 0..20 {
            let key = format!("{partition}:{number}");
            let written = write(&router, &key).json();
            assert_eq!(written["shard"], shard, "{key}: {written}");
        }
    }
    let map = router.get("/api/shard-map").json();
    let ranges = json!([[0, 8191, "shard1"], [8192, 12_287, "shard2"], [12_288, 16_383, "shard3"]]);
    assert_eq!((&map["placement"], &map["ranges"]), (&json!("partitions"), &ranges));
}

#[test]
fn a_cluster_whose_placement_means_nothing_in_its_keyspace_is_refused_if_new_and_warned_of_if_not()
{
    crate::backend::files_only!("the catalog of an older cluster is made by hand");
    let folder = crate::folders::temporary();
    let dir = folder.path().join("data");
    let placement = "partitions:A=2>shard3,B=1>shard1";
    for keyspace in ["hash", "list:A=2,C=1"] {
        let mut command = command(&dir);
        command.args(["--keyspace", keyspace, "--placement", placement]);
        let (code, said) = refused_start(command);
        assert!(code.is_some_and(|code| code != 0), "{keyspace}: {said}");
        assert!(said.contains("keyspace list") && said.contains(placement), "{keyspace}: {said}");
    }
    let flags = ["--keyspace", "list:A=2,B=1", "--placement", placement];
    Router::start_in(&dir, &flags).end();
    // Earlier versions could create such clusters.
    let mut catalog =
        SqliteConnection::establish(&dir.join("catalog.db").to_string_lossy()).unwrap();
    let sql = r#"UPDATE tessera_cluster SET keyspace='hash', parameters='{"seed":0}'"#;
    catalog.batch_execute(sql).unwrap();
    drop(catalog);
    let log = folder.path().join("log");
    let file = std::fs::File::create(&log).unwrap();
    let mut router = Router::start_logging(command(&dir), file.into());
    assert_eq!(write(&router, "anything").status, 201);
    router.end();
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(said.contains("contradict each other") && said.contains(placement), "{said}");
}

#[test]
fn a_cluster_of_each_placement_is_the_same_after_a_restart() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    for placement in [
        "weighted",
        "modulo",
        "ring:100",
        "rendezvous",
        "jump",
        "manual:0-99=shard2,100-16383=shard1",
    ] {
        let folder = crate::folders::temporary();
        let dir = folder.path().join("data");
        let flags = ["--placement", placement, "--replicas", "0"];
        let mut router = Router::start_in(&dir, &flags);
        let map = router.get("/api/shard-map").json();
        assert_eq!(map["placement"], placement.split(':').next().unwrap());
        let keys: Vec<String> = (0..12).map(|number| format!("user_{number}")).collect();
        keys.iter().for_each(|key| assert_eq!(write(&router, key).status, 201));
        router.end();
        let router = Router::start_in(&dir, &flags);
        assert_eq!(router.get("/api/shard-map").json(), map, "{placement}");
        keys.iter().for_each(|key| assert_reads(&router, key, placement));
    }
}

#[test]
fn weights_count_on_a_ring_and_in_a_rendezvous() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    for placement in ["ring", "rendezvous"] {
        let router = Router::start_with(&[
            "--placement",
            placement,
            "--weights",
            "6,1,1",
            "--replicas",
            "0",
        ]);
        let shards = router.get("/api/shards").json()["shards"].clone();
        let slots = |index: usize| shards[index]["slots"].as_u64().unwrap();
        assert!((11_500..13_100).contains(&slots(0)), "{placement}: {shards}");
        assert_eq!(shards[0]["weight"], 6);
        assert_eq!(router.get("/api/shard-map").json()["placement"], placement);
    }
}

#[test]
fn a_start_with_another_keyspace_is_refused_and_names_both() {
    let folder = crate::folders::temporary();
    let dir = folder.path().join("data");
    let made = ["--keyspace", "list:A=2,B=1", "--placement", "ring:100", "--replicas", "0"];
    Router::start_in(&dir, &made).end();
    for (flags, words) in [
        (["--keyspace", "hash"], ["keyspace hash", "list:A=2,B=1"]),
        (["--keyspace", "list:A=1,B=1"], ["list:A=1,B=1", "list:A=2,B=1"]),
    ] {
        let mut refused = command(&dir);
        refused.args(flags);
        let (code, said) = refused_start(refused);
        assert_eq!(code, Some(2), "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{flags:?}: {said}");
    }
    // Another placement describes a new cluster, and does not move the slots of this one.
    for placement in ["ring:101", "jump"] {
        let mut router = Router::start_in(&dir, &["--placement", placement]);
        let map: Value = router.get("/api/shard-map").json();
        assert_eq!(map["placement_parameters"], json!({"vnodes": 100}), "{placement}");
        router.end();
    }
    let router = Router::start_in(&dir, &[]);
    let map: Value = router.get("/api/shard-map").json();
    assert_eq!(map["parameters"], json!({"partitions": [["A", 2], ["B", 1]], "seed": 0}));
    assert_eq!(map["placement_parameters"], json!({"vnodes": 100}));
}

#[test]
fn settings_that_describe_another_cluster_are_warned_of_and_not_in_force() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    let mut router = Router::start_in(&data, &["--weights", "50,25,25"]);
    assert_eq!(router.write_user("ada", "Ada").status, 201);
    let map = router.get("/api/shard-map").json();
    router.end();
    let mut differing = vec![
        (
            ["--placement", "even"],
            vec!["placement is even", "weighted", "rebalance --by placement --placement 'even'`"],
        ),
        (["--weights", "25,50,25"], vec!["weights is 25,50,25", "50,25,25", "shard weight NAME"]),
    ];
    if !crate::backend::is_servers() {
        let more = vec!["shards is 5", "the cluster has 3", "shard add NAME"];
        differing.push((["--shards", "5"], more));
        let fewer = vec!["shards is 2", "the cluster has 3", "shard drain NAME"];
        differing.push((["--shards", "2"], fewer));
        differing.push((["--weights", "50,25"], vec!["weights is 50,25,", "50,25,25"]));
    }
    for (flags, words) in differing {
        let log = folder.path().join("log");
        let file = std::fs::File::create(&log).unwrap();
        let mut router = Router::start_logging(crate::backend::command(&data, &flags), file.into());
        assert_eq!(router.get("/api/shard-map").json(), map, "{flags:?}");
        assert_eq!(router.read("ada", "table=users").json()["count"], 1, "{flags:?}");
        router.end();
        let said = std::fs::read_to_string(&log).unwrap();
        let warned: Vec<&str> =
            said.lines().filter(|line| line.contains("describe only new clusters")).collect();
        assert_eq!(warned.len(), 1, "{flags:?}: {said}");
        assert!(words.iter().all(|word| warned[0].contains(word)), "{flags:?}: {said}");
    }
}
