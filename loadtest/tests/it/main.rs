//! Tests of the program as users run it: they pass arguments, and check the output and the exit
//! code.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod cache;
mod check;
mod cluster;
mod database_session;
mod encrypted;
mod fake;
mod fences;
#[path = "../../../shard-manager/tests/support/free_port.rs"]
mod free_port;
mod growth;
mod http;
mod move_client;
mod move_stops;
mod moves;
#[path = "../../../shard-manager/tests/support/other_program.rs"]
mod other_program;
mod own_rows;
#[path = "../../../shard-manager/tests/support/prerequisites.rs"]
mod prerequisites;
#[expect(dead_code, reason = "stories of the router ask more of it")]
#[path = "../../../api-router/tests/it/redis.rs"]
mod redis;
mod reports;
mod router;
mod sabotage;
mod served_router;
mod servers;
mod slots;
#[expect(dead_code, reason = "other tests need more of it")]
#[path = "../../../shard-manager/tests/support/tcp_proxy.rs"]
mod tcp_proxy;
mod tenants;
mod verify;

use std::fmt::Debug;
use std::process::{Output, Stdio};
use std::sync::Mutex;

use fake::{Behaviour, Fake};

/// Runs the program against `host` for a second with few keys, so that reads find written rows.
fn loadtest(host: &str, more: &[&str]) -> Output {
    router::tester()
        // The program must ignore a proxy in the environment.
        .env("HTTP_PROXY", "http://127.0.0.1:9")
        .args(["--host", host, "--run-time", "1", "--users", "4", "--keys", "50"])
        .args(more)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn against(behaviour: Behaviour, more: &[&str]) -> (Option<i32>, String) {
    let fake = Fake::start(behaviour);
    let output = loadtest(&fake.host(), more);
    (output.status.code(), text(&output.stdout))
}

/// Repeats a run until its output contains `words`, and returns the exit code and output. On a busy
/// machine, a run of one second may send too few requests.
fn against_until(behaviour: Behaviour, more: &[&str], words: &str) -> (Option<i32>, String) {
    let mut last = String::new();
    for _ in 0..RUNS_MAX {
        let (code, stdout) = against(behaviour, more);
        if stdout.contains(words) {
            return (code, stdout);
        }
        last = stdout;
    }
    panic!("no run says: {words}; the last one says: {last}")
}

/// Repeats a run until `is_enough` accepts its result, and returns the result. On a busy machine,
/// too little may happen in a single run. `run` gets the number of earlier runs, and asserts what
/// must be true in every run.
fn until_enough<T: Debug>(mut run: impl FnMut(u64) -> T, is_enough: impl Fn(&T) -> bool) -> T {
    let mut last = None;
    for number in 0..RUNS_MAX {
        let found = run(number);
        if is_enough(&found) {
            return found;
        }
        last = Some(found);
    }
    panic!("too little happens in each of {RUNS_MAX} runs; the last one: {last:#?}")
}

/// Returns the number of operations that a run with `--verify` has checked.
fn operations(report: &serde_json::Value) -> u64 {
    report["verified"]["operations"].as_u64().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Maximum number of repetitions of a run.
const RUNS_MAX: u64 = 5;

/// Number of items that [`for_each`] checks at a time.
const AT_ONCE: usize = 3;

/// Checks all items, several at a time. Runs have fixed lengths, so several at a time take no
/// longer than one.
fn for_each<T: Send>(items: impl IntoIterator<Item = T, IntoIter: Send>, check: impl Fn(T) + Sync) {
    let items = Mutex::new(items.into_iter());
    // The closure releases the lock before the item is checked.
    let next = || items.lock().unwrap().next();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(item) = next() {
                    check(item);
                }
            });
        }
    });
}

/// Returns the report of a run with `--json`.
fn report(output: &Output) -> serde_json::Value {
    let stdout = text(&output.stdout);
    serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stdout} {}", text(&output.stderr)))
}

/// Returns the names of the checks with violations.
fn found(report: &serde_json::Value) -> Vec<&str> {
    let checks = report["verified"]["checks"].as_array().unwrap().iter();
    let broken = checks.filter(|check| check["violations"].as_u64() != Some(0));
    broken.map(|check| check["check"].as_str().unwrap()).collect()
}

#[test]
fn a_router_that_keeps_its_promises_passes() {
    let (code, stdout) = against_until(Behaviour::Honest, &[], "shard3 ");
    assert_eq!(code, Some(0), "{stdout}");
    let lines: Vec<_> = stdout.lines().collect();
    assert!(lines[0].contains(
        "4 users, 1s, mix default (70 % writes), 50 keys, uniform, seed 1 -> http://127.0.0.1:"
    ));
    assert!(lines[1].starts_with("  requests") && lines[1].ends_with("failed 0"), "{stdout}");
    assert!(lines[2].contains("p50") && lines[2].contains("p99.9"), "{stdout}");
    assert!(lines[4].contains("shard1 ") && lines[4].contains("shard3 "), "{stdout}");
    assert_eq!(lines.last(), Some(&"PASS: every request was answered as promised"));
}

#[test]
fn json_is_all_there_is_on_stdout() {
    let more = ["--json", "--writes", "50"];
    let (code, stdout) = against_until(Behaviour::DropsSomeWrites, &more, "no answer");
    assert_eq!(code, Some(1), "{stdout}");
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["passed"], false);
    assert_eq!(report["failures"][0]["code"], "no answer");
    assert!(report["operations"][0]["latency_ms"]["p999"].as_f64().unwrap() > 0.0, "{stdout}");
}

#[test]
fn writes_alone_and_reads_alone_pass() {
    for writes in ["0", "100"] {
        let (code, stdout) = against(Behaviour::Honest, &["--writes", writes]);
        assert_eq!(code, Some(0), "{stdout}");
    }
}

#[test]
fn a_refused_write_fails_and_its_code_is_named() {
    let words = "write  503 TSR201: primary of shard3 did not answer";
    let (code, stdout) = against_until(Behaviour::RefusesSomeWrites, &[], words);
    assert_eq!(code, Some(1), "{stdout}");
    assert!(stdout.contains("\nFAIL: "), "{stdout}");
}

#[test]
fn a_row_of_another_user_fails() {
    let words = "read   200 wrong row: asked for loadtest-v";
    let (code, stdout) = against_until(Behaviour::ReturnsAnotherUsersRow, &[], words);
    assert_eq!(code, Some(1), "{stdout}");
}

#[test]
fn an_acknowledged_row_that_is_gone_fails() {
    let words = "read   200 lost row: loadtest-v";
    let (code, stdout) = against_until(Behaviour::LosesRows, &[], words);
    assert_eq!(code, Some(1), "{stdout}");
}

#[test]
fn a_connection_cut_without_an_answer_fails() {
    let (code, stdout) = against_until(Behaviour::DropsSomeWrites, &[], "write  no answer: ");
    assert_eq!(code, Some(1), "{stdout}");
}

#[test]
fn a_router_that_is_not_there_or_not_ready_is_named() {
    let closed = fake::closed_host();
    let not_ready = Fake::start(Behaviour::NotReady);
    let silent = Fake::start(Behaviour::Silent);
    for (host, message) in [
        (closed.clone(), format!("no router answers at {closed} (")),
        (silent.host(), format!("no router answers at {} (timed out)", silent.host())),
        (not_ready.host(), format!("the router at {} is not ready (503)", not_ready.host())),
    ] {
        let output = loadtest(&host, &[]);
        assert_eq!(output.status.code(), Some(2));
        let stderr = text(&output.stderr);
        assert!(stderr.contains(&message), "{stderr}");
        assert!(output.stdout.is_empty());
    }
    let output = loadtest(&closed, &["--json"]);
    assert!(text(&output.stderr).contains("start one with `cargo run --release`"));
    assert!(output.stdout.is_empty());
}

#[test]
fn wrong_usage_is_refused() {
    for args in [
        &["--users", "0"][..],
        &["--run-time", "15 minutes"],
        &["--writes", "101"],
        &["--keys", "-1"],
        &["--mix", "z"],
        &["--rate", "-1"],
        &["--scenario", "nowhere"],
        &["--report-file", "report.pages"],
        &["extra"],
    ] {
        let output = router::tester().args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn an_option_that_goose_refuses_is_named() {
    let fake = Fake::start(Behaviour::Honest);
    for args in [["--threshold", "soon"], ["--report-file", "report.pages"]] {
        let output = loadtest(&fake.host(), &args);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(args.iter().all(|word| stderr.contains(word)), "{stderr}");
    }
}

#[test]
fn another_machine_is_refused_before_anything_is_sent() {
    // 192.0.2.0/24 is reserved for documentation, so the address belongs to no host.
    let output = loadtest("http://192.0.2.1:3000", &[]);
    assert_eq!(output.status.code(), Some(2));
    let stderr = text(&output.stderr);
    assert!(stderr.contains("http://192.0.2.1:3000 is not this machine"), "{stderr}");
    assert!(stderr.contains("--allow-remote"), "{stderr}");
}

/// Returns the report of a run of three seconds against a server that stalls for one second.
fn against_a_stall(more: &[&str]) -> serde_json::Value {
    let (code, stdout) = against(
        Behaviour::StallsOnce,
        &[&["--json", "--users", "1", "--run-time", "3", "--writes", "0"], more].concat(),
    );
    assert_eq!(code, Some(0), "{stdout}");
    serde_json::from_str(&stdout).unwrap()
}

/// Returns the report of a run with a rate of 200 requests per second. On a busy machine a run may
/// last longer, so that more requests are due, and fewer may be sent if the tester itself gets no
/// CPU time at the end.
fn at_a_rate_against_a_stall(more: &[&str]) -> serde_json::Value {
    let due = |report: &serde_json::Value| {
        ["requests", "dropped"].iter().map(|name| report[name].as_f64().unwrap()).sum::<f64>()
    };
    let run = |_| {
        let report = against_a_stall(&[&["--rate", "200"], more].concat());
        let most = 200.0 * report["elapsed_s"].as_f64().unwrap() + 50.0;
        assert!(due(&report) <= most, "{report}");
        report
    };
    until_enough(run, |report| due(report) >= 550.0)
}

#[test]
fn a_stall_of_a_second_is_hidden_by_the_closed_model_and_shown_by_the_open_one() {
    let p95 = |report: &serde_json::Value, times: &str| report[times]["p95"].as_f64().unwrap();
    // The single user sends thousands of requests per second, and waits once for a second. So only
    // one request of thousands is slow.
    let closed = against_a_stall(&[]);
    assert!(p95(&closed, "response_ms") < 500.0, "{closed}");
    assert!(closed["response_ms"]["max"].as_f64().unwrap() > 900.0, "{closed}");
    // A third of the requests were due during the stall. Half of these waited for half a second or
    // more.
    let open = at_a_rate_against_a_stall(&[]);
    assert!(p95(&open, "response_ms") > 500.0, "{open}");
}

#[test]
fn requests_beyond_the_concurrency_limit_are_dropped_and_counted() {
    let report = at_a_rate_against_a_stall(&["--in-flight", "10"]);
    assert!(report["dropped"].as_f64().unwrap() > 100.0, "{report}");
    assert!(report["warnings"].to_string().contains("due and not sent"), "{report}");
}

#[test]
fn goose_keeps_its_thresholds_and_writes_its_reports() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("goose.json");
    let (code, stdout) = against(
        Behaviour::Honest,
        &["--threshold", "rps>1000000", "--report-file", file.to_str().unwrap()],
    );
    assert_eq!(code, Some(1), "{stdout}");
    assert!(stdout.contains("threshold failed: rps>1000000 (was "), "{stdout}");
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let text = report.to_string();
    assert!(text.contains("\"write\"") && text.contains("\"read\""), "{text}");
}
