//! Tests of `placement`.

use shard_manager::assembly::{self, EmbeddedCluster};
use shard_manager::engine::cluster_spec::ClusterSpec;
use shard_manager::keyspace::Keyspace;
use shard_manager::table_group::GroupSpec;

use crate::cluster::{Cluster, run, run_in, serve};
use crate::scratch;

#[test]
fn every_slot_is_shown_with_its_owner() {
    let dir = Cluster::new(3, 0).stop();
    let shown = run_in(dir.path(), &["placement", "show", "--json"]).expect(0).json();
    assert_eq!(shown["shards"][0]["ranges"][0], serde_json::json!([0, 5461]));
    let slots = shown["shards"].as_array().unwrap().iter().map(|s| s["slots"].as_u64().unwrap());
    assert_eq!(slots.sum::<u64>(), 16_384);
    let ended = run_in(dir.path(), &["placement", "show"]).expect(0);
    assert!(ended.out.contains("shard2\t1\t5461\t33.33 %\t5462-10922"), "{ended:#?}");
    assert!(!ended.out.contains('█'), "bars are for those who look");
    let ended = run_in(dir.path(), &["placement", "show", "--ranges"]).expect(0);
    assert_eq!(ended.out.lines().count(), 4, "{ended:#?}");
}

/// A stopped cluster of three shards, with a table group on the last one.
pub(crate) fn with_a_group() -> tempfile::TempDir {
    let ledger = GroupSpec {
        name: "ledger".to_owned(),
        keyspace: Some(Keyspace::Modulo),
        shards: Some(vec!["shard3".to_owned()]),
        tables: vec!["transactions".to_owned()],
        ..GroupSpec::default()
    };
    let wanted = ClusterSpec {
        shards: Some(3),
        replicas: Some(0),
        groups: vec![ledger],
        ..ClusterSpec::default()
    };
    let dir = scratch::folder();
    let cluster = EmbeddedCluster { data_dir: dir.path().to_owned(), wanted };
    let manager = assembly::open(&cluster).expect("the cluster starts");
    Cluster { manager, dir }.stop()
}

#[test]
fn every_table_group_is_shown_with_its_owners() {
    let dir = with_a_group();
    let shown = run_in(dir.path(), &["placement", "show", "--json"]).expect(0).json();
    assert_eq!(shown["shards"][2]["ranges"], serde_json::json!([[10_923, 16_383]]));
    let (main, ledger) = (&shown["groups"][0], &shown["groups"][1]);
    assert_eq!((&main["name"], &main["shards"]), (&"main".into(), &shown["shards"]));
    assert_eq!((&ledger["name"], &ledger["keyspace"]), (&"ledger".into(), &"modulo".into()));
    assert_eq!(ledger["slots"], serde_json::json!([16_384, 32_767]));
    let all = serde_json::json!([{
        "shard": "shard3", "weight": 1, "slots": 16_384, "share": 1.0, "ranges": [[16_384, 32_767]]
    }]);
    assert_eq!(ledger["shards"], all);
    let ended = run_in(dir.path(), &["placement", "show"]).expect(0);
    for line in
        ["group main: keyspace hash, placement even", "shard3\t1\t5461\t33.33 %\t10923-16383"]
    {
        assert!(ended.out.lines().any(|shown| shown == line), "{line}: {ended:#?}");
    }
    let rest = ended.out.split("\ngroup ledger: keyspace modulo, placement ").nth(1);
    let own = "shard3\t1\t16384\t100.00 %\t16384-32767";
    assert_eq!(rest.and_then(|rest| rest.lines().last()), Some(own), "{ended:#?}");
    let ended = run_in(dir.path(), &["placement", "show", "--ranges"]).expect(0);
    let lines: Vec<&str> = ended.out.lines().collect();
    assert_eq!(lines[0], "first\tlast\tshard\tgroup");
    assert_eq!(lines[3..], ["10923\t16383\tshard3\tmain", "16384\t32767\tshard3\tledger"]);
}

#[test]
fn the_table_groups_of_a_router_are_shown_by_its_url() {
    let url = serve(&[
        (
            "/api/shard-map",
            200,
            r#"{"epoch":9,"slots":16384,"hash":"xxh3_64","keyspace":"hash","placement":"even",
              "ranges":[[0,16383,"a"]],"groups":[
              {"name":"main","keyspace":"hash","placement":"even","shards":["a","b"],
               "slots":[0,16383],"ranges":[[0,16383,"a"]]},
              {"name":"ledger","keyspace":"modulo","placement":"modulo","shards":["b"],
               "slots":[16384,32767],"ranges":[[16384,32767,"b"]]}]}"#,
        ),
        ("/api/shards", 200, r#"{"shards":[{"shard":"a","weight":2},{"shard":"b","weight":1}]}"#),
    ]);
    let shown = run(&["placement", "show", "--url", &url, "--json"]).expect(0).json();
    assert_eq!(shown["shards"][1]["slots"], 0, "it has slots of another group only");
    assert_eq!(shown["groups"][0]["shards"], shown["shards"]);
    let ledger = serde_json::json!({
        "name": "ledger", "keyspace": "modulo", "placement": "modulo", "slots": [16_384, 32_767],
        "shards": [{
            "shard": "b", "weight": 1, "slots": 16_384, "share": 1.0, "ranges": [[16_384, 32_767]]
        }]
    });
    assert_eq!(shown["groups"][1], ledger);
}

#[test]
fn the_map_of_a_router_is_shown_by_its_url() {
    let url = serve(&[
        (
            "/api/shard-map",
            200,
            r#"{"epoch":9,"slots":16384,"hash":"xxh3_64","keyspace":"hash","placement":"even",
              "ranges":[[0,8191,"a"],[8192,16383,"b"]]}"#,
        ),
        ("/api/shards", 200, r#"{"shards":[{"shard":"a","weight":2},{"shard":"b","weight":1}]}"#),
    ]);
    let shown = run(&["placement", "show", "--url", &url, "--json"]).expect(0).json();
    assert_eq!(shown["epoch"], 9);
    assert_eq!(shown["shards"][0]["share"], 0.5);
    assert_eq!(shown["shards"][1]["ranges"][0], serde_json::json!([8192, 16383]));
    assert_eq!(shown.get("groups"), None, "all tables are in one group");
}

#[test]
fn placements_are_compared_by_what_would_move() {
    let args = ["placement", "simulate", "--weights", "1,1,2", "--add", "--remove", "shard3"];
    let compared = run(&[&args[..], &["--json"]].concat()).expect(0).json();
    assert_eq!(compared["unit"], "slots");
    let algorithms = compared["algorithms"].as_array().unwrap();
    let named = |name| algorithms.iter().find(|found| found["algorithm"] == name).unwrap();
    assert_eq!(named("weighted")["before"]["shards"][2]["slots"], 8192);
    assert_eq!(named("weighted")["before"]["skew"], 1.0);
    assert!(named("even")["before"]["skew"].as_f64().unwrap() > 1.3, "even knows no weights");
    for algorithm in algorithms {
        let changes = algorithm["changes"].as_array().unwrap();
        assert_eq!(changes.len(), 2);
        assert_eq!(changes[0]["needed"], 0.2);
        assert_eq!(changes[1]["change"], "remove shard3");
        let after = changes[1]["after"]["shards"].as_array().unwrap();
        let slots: u64 = after.iter().map(|shard| shard["slots"].as_u64().unwrap()).sum();
        assert_eq!((after.len(), slots), (2, 16_384), "{algorithm:#}");
    }
}

#[test]
fn a_rebalance_of_the_real_map_moves_no_more_than_the_weights_demand() {
    let dir = Cluster::new(4, 0).stop();
    let dir = dir.path().to_str().unwrap();
    let args = ["placement", "simulate", "--data-dir", dir, "--placement", "ring:7", "--json"];
    let compared = run(&args).expect(0).json();
    let algorithms = compared["algorithms"].as_array().unwrap();
    let names: Vec<&str> = algorithms.iter().map(|a| a["algorithm"].as_str().unwrap()).collect();
    assert_eq!(names[0], "ring:7");
    assert_eq!(names[1..=3], ["even", "weighted", "modulo"]);
    assert!(names.contains(&"rendezvous") && names.contains(&"jump"), "{names:?}");
    let rebalance = algorithms.iter().find(|found| found["algorithm"] == "rebalance").unwrap();
    for change in rebalance["changes"].as_array().unwrap() {
        let (needed, share) =
            (change["needed"].as_f64().unwrap(), change["share"].as_f64().unwrap());
        assert!(share <= needed + 4.0 / 16_384.0, "{change:#}");
        assert!(change["after"]["skew"].as_f64().unwrap() < 1.001, "{change:#}");
    }
}

/// A stopped cluster of three shards on a ring.
fn on_a_ring(ring: &str) -> tempfile::TempDir {
    let wanted = ClusterSpec {
        placement: Some(ring.parse().expect("a placement")),
        shards: Some(3),
        replicas: Some(0),
        ..ClusterSpec::default()
    };
    let dir = scratch::folder();
    let cluster = EmbeddedCluster { data_dir: dir.path().to_owned(), wanted };
    let manager = assembly::open(&cluster).expect("the cluster starts");
    Cluster { manager, dir }.stop()
}

#[test]
fn a_simulation_of_a_ring_and_a_plan_for_its_new_shard_move_the_same_number_of_slots() {
    for (ring, weight) in [("ring:160", "1"), ("ring:16", "2")] {
        let dir = on_a_ring(ring);
        let dir = dir.path();
        let path = dir.to_str().unwrap();
        let simulate = ["placement", "simulate", "--data-dir", path, "--placement", ring];
        let compared = run(&[&simulate[..], &["--add", weight, "--json"]].concat());
        let compared = compared.expect(0).json();
        let simulated = &compared["algorithms"][0];
        assert_eq!(simulated["algorithm"], ring);
        let change = &simulated["changes"][0];
        // The name of a shard determines its points on the ring: the simulation uses the next one.
        assert_eq!(change["after"]["shards"][3]["shard"], "shard4");
        run_in(dir, &["shard", "add", "shard4", "--weight", weight]).expect(0);
        let plan = run_in(dir, &["rebalance", "--by", "placement", "--dry-run", "--json"]);
        let plan = plan.expect(0).json();
        assert_eq!((&plan["by"], &plan["placement"]), (&"placement".into(), &ring.into()));
        assert_eq!(plan["slots"], change["slots"], "{ring}: {plan}");
        assert_eq!(plan["shards"][3]["slots_after"], change["slots"], "{ring}: {plan}");
        let share = plan["slots"].as_f64().unwrap() / 16_384.0;
        assert!((share - change["share"].as_f64().unwrap()).abs() < 1e-9, "{ring}: {change:#}");
        let moves = plan["moves"].as_array().unwrap();
        assert!(moves.iter().all(|step| step["to"] == "shard4"), "{ring}: {plan}");
        let skew = change["after"]["skew"].as_f64().unwrap();
        assert!((plan["skew_planned"].as_f64().unwrap() - skew).abs() < 1e-9, "{ring}: {plan}");
    }
}

#[test]
fn a_placement_that_names_a_shard_that_would_go_is_refused() {
    let placement = "partitions:A=1>shard1,B=1>shard2";
    let args = ["placement", "simulate", "--shards", "2", "--placement", placement];
    run(&[&args[..], &["--add"]].concat()).expect(0);
    run(&[&args[..], &["--remove", "shard2"]].concat()).refused("shard2");
    run(&["placement", "simulate", "--placement", "circle"]).refused("circle");
}

#[test]
fn keys_of_a_file_are_counted_instead_of_slots() {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys");
    let text: String = (0..10_000).map(|number| format!("user_{number}\n")).collect();
    std::fs::write(&keys, text).unwrap();
    let keys = keys.to_str().unwrap();
    let args = ["placement", "simulate", "--shards", "4", "--keys", keys, "--json"];
    let compared = run(&args).expect(0).json();
    assert_eq!((&compared["unit"], &compared["total"]), (&"keys".into(), &10_000.into()));
    let shares = compared["algorithms"][0]["before"]["shards"].as_array().unwrap();
    let sum: u64 = shares.iter().map(|share| share["load"].as_u64().unwrap()).sum();
    assert_eq!(sum, 10_000);
}

#[test]
fn a_change_of_a_shard_that_is_not_there_is_refused() {
    run(&["placement", "simulate", "--remove", "shard9"]).refused("there is no shard shard9");
    run(&["placement", "simulate", "--reweight", "shard1"]).refused("NAME=WEIGHT");
    run(&["placement", "simulate", "--keys", "/nowhere"]).refused("/nowhere");
    run(&["placement", "simulate", "--shards", "1", "--remove", "shard1"]).refused("1 to 4096");
    run(&["placement", "simulate", "--shards", "5000"]).refused("1 to 4096 shards, not 4097");
}

#[test]
fn more_shards_than_a_router_serves_can_be_tried() {
    for shards in ["256", "300"] {
        let compared = run(&["placement", "simulate", "--shards", shards, "--json"]);
        let compared = compared.expect(0).json();
        assert_eq!(compared["left_out"], serde_json::json!([]));
        assert_eq!(compared["algorithms"][0]["changes"][0]["change"], "add a shard");
    }
}

#[test]
fn impossible_changes_are_omitted_unless_requested() {
    let args = ["placement", "simulate", "--weights", "10000,5000"];
    let ended = run(&args).expect(0);
    assert!(ended.out.contains("note: ring:160 is left out: "), "{ended:#?}");
    assert!(ended.out.contains("rendezvous"), "{ended:#?}");
    let compared = run(&[&args[..], &["--json"]].concat()).expect(0).json();
    assert_eq!(compared["left_out"].as_array().unwrap().len(), 1);
    assert_eq!(compared["left_out"][0]["what"], "ring:160");
    run(&[&args[..], &["--placement", "ring"]].concat()).refused("points");
    // A default change that is impossible is not reported as an error of the operator.
    let most = vec!["1"; 4096].join(",");
    let args = ["placement", "simulate", "--weights", &most, "--json"];
    let compared = run(&args).expect(0).json();
    assert_eq!(compared["left_out"][0]["what"], "add a shard");
    assert_eq!(compared["algorithms"][0]["changes"][0]["change"], "remove shard4096");
    run(&[&args[..], &["--add"]].concat()).refused("not 4097");
}

#[test]
fn a_file_of_keys_may_come_from_elsewhere_and_a_line_of_it_is_no_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys");
    let path = file.to_str().unwrap();
    let count = |text: &[u8]| {
        std::fs::write(&file, text).unwrap();
        run(&["placement", "simulate", "--keys", path, "--keyspace", "range:5", "--json"])
    };
    let compared = count(b"\xef\xbb\xbf1\r\n\r\n2\r\n7").expect(0).json();
    assert_eq!(compared["total"], 3);
    count(b"1\n\xff\n").refused("line 2: the line is not UTF-8");
    count(b"1\nx\n").refused("line 2: in keyspace range");
    let long = |bytes: usize| [&b"1\n"[..], &vec![b'7'; bytes]].concat();
    count(&long(257)).refused("line 2: a shard key has at most 256 bytes, this one has 257");
    // A line without an end is read only until it exceeds the limit.
    count(&long(8 << 20)).refused("line 2: a shard key has at most 256 bytes, this line has more");
}
