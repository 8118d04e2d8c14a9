//! Tests of `lab cache`, `lab indexes` and `lab network`.

use serde_json::{Value, json};

use super::{left_in, rows};
use crate::cluster::run;
use crate::redis_server::Server;
use crate::scratch;

/// Carries out an experiment in a folder, which must be empty afterwards.
fn carry_out(experiment: &str, more: &[&str]) -> Value {
    let dir = scratch::folder();
    let work = dir.path().to_str().expect("UTF-8");
    let args = [&["lab", experiment, "--json", "--work-dir", work], more].concat();
    let report = run(&args).expect(0).json();
    assert_eq!(left_in(dir.path()), Vec::<String>::new());
    let explanation = report["explanation"].as_str().expect("an explanation");
    assert!(explanation.ends_with('.') && !explanation.contains("NaN"), "{explanation}");
    report
}

fn number(cell: &Value) -> f64 {
    cell.as_f64().unwrap_or_else(|| panic!("no number: {cell}"))
}

#[test]
fn a_cache_answers_more_reads_of_keys_that_are_read_often_and_none_is_stale() {
    let args = ["--users", "400", "--operations", "1500", "--clients", "2", "--seed", "3"];
    let report = carry_out("cache", &args);
    let found = rows(&report, "Reads of users, with concurrent writes");
    let names: Vec<Value> = found.iter().map(|row| json!([row[0], row[1]])).collect();
    let expected = [["none", "even"], ["none", "skewed"], ["memory", "even"], ["memory", "skewed"]];
    assert_eq!(names, expected.map(|pair| json!(pair)));
    for pair in [[0, 2], [1, 3]].map(|[none, memory]| [&found[none], &found[memory]]) {
        assert_eq!((&pair[0][2], &pair[0][6]), (&pair[1][2], &pair[1][6]), "the same operations");
        assert_eq!(number(&pair[0][2]) + number(&pair[0][6]), 1_500.0);
        assert_eq!(pair[0][3], 0, "without a cache nothing is a hit");
    }
    for row in &found {
        assert_eq!(number(&row[3]) + number(&row[5]), number(&row[2]), "{row:?}");
        assert_eq!(row[7], 0, "stale: {row:?}");
    }
    let [even, skewed] = [2, 3].map(|index: usize| number(&found[index][4]));
    assert!(even > 0.0 && skewed > even, "{found:#?}");
    run(&["lab", "cache", "--users", "0"]).refused("1 to 1000000 users, not 0");
    run(&["lab", "cache", "--redis", "localhost"]).refused("begins with redis://");
    run(&["lab", "cache", "--redis", "redis://127.0.0.1:1"]).refused("127.0.0.1:1");
}

#[test]
fn redis_answers_reads_too_and_none_is_stale() {
    let Some(redis) = Server::start(&[]) else { return };
    let url = format!("redis://127.0.0.1:{}/0", redis.port());
    let args = ["--users", "200", "--operations", "800", "--clients", "2", "--redis", &url];
    let report = carry_out("cache", &args);
    let found = rows(&report, "Reads of users, with concurrent writes");
    let of_redis: Vec<_> = found.iter().filter(|row| row[0] == "Redis").collect();
    assert_eq!(of_redis.len(), 2, "{found:#?}");
    for row in of_redis {
        assert!(number(&row[3]) > 0.0 && row[7] == 0, "{row:?}");
    }
    assert!(!report.to_string().contains("Redis was not tried"), "{report:#}");
    assert_eq!(redis.keys(), Vec::<String>::new(), "its entries are removed");
}

#[test]
fn a_query_finds_its_row_with_and_without_an_index_on_each_number_of_users() {
    let args = ["--users", "300,900", "--operations", "20", "--clients", "2", "--shards", "2"];
    let found = rows(&carry_out("indexes", &args), "A user by e-mail address");
    let names: Vec<Value> = found.iter().map(|row| json!([row[0], row[1]])).collect();
    let expected =
        [json!([300, "none"]), json!([300, "email"]), json!([900, "none"]), json!([900, "email"])];
    assert_eq!(names, expected);
    for row in &found {
        assert_eq!((&row[3], &row[6]), (&json!(20), &json!(20)), "{row:?}");
        assert_eq!(row[2].is_number(), row[1] == "email", "built in: {row:?}");
    }
    for (more, with) in [
        (&["--users", "5,0"][..], "1 to 10000000 users, not 0"),
        (&["--shards", "300"], "1 to 256 shards, not 300"),
        (&["--users", "x"], "it is not a number"),
        (&["--users", &["1"; 13].join(",")], "1 to 12 numbers, not 13"),
    ] {
        run(&[&["lab", "indexes"], more].concat()).refused(with);
    }
}

#[test]
fn cuts_refuse_writes_of_the_shard_that_is_gone_and_lose_no_acknowledged_one() {
    let args = ["--operations", "60", "--clients", "2", "--latency-ms", "3"];
    let carried_out =
        || rows(&carry_out("network", &args), "Requests while the network is disturbed");
    let is_whole = |found: &[Vec<Value>]| {
        let stored = found[..3].iter().all(|row| number(&row[1]) == 60.0);
        stored && found.iter().all(|row| number(&row[8]) == 0.0)
    };
    // A machine that stands still for longer than a request waits refuses some.
    let mut found = carried_out();
    for _ in 0..2 {
        if !is_whole(&found) {
            found = carried_out();
        }
    }
    let names: Vec<&str> = found.iter().filter_map(|row| row[0].as_str()).collect();
    let expected =
        ["calm", "3 ms delay", "a replica of each shard cut off", "primary of shard1 cut off"];
    assert_eq!(names, expected);
    for row in &found[..3] {
        let stored_refused_and_reads = [&row[1], &row[2], &row[3], &row[7], &row[8]];
        assert_eq!(stored_refused_and_reads.map(number), [60.0, 0.0, 0.0, 60.0, 0.0], "{row:?}");
    }
    let cut = &found[3];
    let [stored, refused, unknown] = [1, 2, 3].map(|column: usize| number(&cut[column]));
    assert_eq!(stored + refused + unknown, 60.0, "{cut:?}");
    assert!(stored > 0.0 && refused > 0.0, "one of two shards: {cut:?}");
    assert_eq!(number(&cut[8]), 0.0, "replicas answer reads: {cut:?}");
    assert!(cut[11].as_str().is_some_and(|cause| cause.contains("shard1")), "{cut:?}");
    for (more, with) in [
        (&["--replicas", "0"][..], "1 to 5 replicas, not 0"),
        (&["--shards", "257"], "1 to 256 shards, not 257"),
        (&["--latency-ms", "5000"], "5000 is not in 1..=1000"),
        (&["--latency-ms", &["1"; 9].join(",")], "up to 8 latencies, not 9"),
    ] {
        run(&[&["lab", "network"], more].concat()).refused(with);
    }
}
