//! Tests of `--verify`: the real router keeps its promises, even while it is killed and frozen.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::router::{PROGRAM, tester};
use crate::{for_each, operations, report, text, until_enough};

/// Runs the verifying workload against a new router while faults are injected into it, and checks
/// the history.
fn under_chaos(seed: u32, seconds: u32, more: &[&str]) -> Output {
    let (seed, seconds) = (seed.to_string(), seconds.to_string());
    let mut command = tester();
    command.args(["--verify", "--chaos", "--users", "8"]);
    command.args(["--seed", &seed, "--run-time", &seconds, "--router"]).arg(&*PROGRAM);
    command.args(["--router-options", "--replicas 2"]).args(more).output().unwrap()
}

#[test]
fn nothing_acknowledged_is_lost_when_the_router_is_killed_and_frozen() {
    let long = std::env::var("LONG_TESTS").is_ok_and(|value| value == "1");
    let (seeds, seconds) = if long { (1..=20, 30) } else { (1..=2, 6) };
    for_each(seeds, |seed| {
        let run = |_| {
            let output = under_chaos(seed, seconds, &["--json"]);
            let report = report(&output);
            assert_eq!(output.status.code(), Some(0), "seed {seed}: {report:#}");
            report
        };
        let report = until_enough(run, |report| {
            operations(report) > 500 && report["faults"].as_array().unwrap().len() >= 2
        });
        let notes = report["verified"]["notes"].to_string();
        assert!(notes.contains("rows of all shards were written within"), "seed {seed}: {notes}");
    });
}

/// Asserts that a run with `--verify` has not exceeded its maximum rate. This must be true on a
/// slow machine, too.
#[track_caller]
pub(crate) fn assert_paced(report: &Value, rate: &str) {
    let rate: f64 = rate.parse().unwrap();
    assert_eq!(report["model"], "closed");
    assert_eq!(report["target_per_s"].as_f64(), Some(rate));
    let number = |name: &str| report[name].as_f64().unwrap();
    // The tester catches up at most a tenth of a second, and the reported time is rounded.
    let most = rate * (number("elapsed_s") + 0.2) + 1.0;
    assert!(number("requests") <= most, "more than {most}: {report:#}");
}

#[test]
fn a_verified_run_keeps_to_its_maximum_rate_while_the_router_is_killed_and_frozen() {
    let run = |_| {
        let output = under_chaos(5, 4, &["--rate", "40", "--json"]);
        let report = report(&output);
        assert_eq!(output.status.code(), Some(0), "{report:#}");
        assert_paced(&report, "40");
        assert!(report["told"].as_str().unwrap().starts_with("8 users, at most 40 requests/s, "));
        report
    };
    until_enough(run, |report| report["requests"].as_u64().unwrap() >= 40);
}

#[test]
fn a_history_is_judged_the_same_when_it_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let run = |turn: u64| {
        let file = dir.path().join(format!("history-{turn}.ndjson"));
        let output = under_chaos(3, 2, &["--history", file.to_str().unwrap()]);
        let stdout = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{stdout} {}", text(&output.stderr));
        (file, stdout)
    };
    let (file, stdout) = until_enough(run, |(file, _)| {
        std::fs::read_to_string(file).unwrap().contains(r#""is":"fault""#)
    });
    assert!(stdout.ends_with("PASS: no guarantee was violated\n"), "{stdout}");
    let reported = stdout.lines().find(|line| line.contains("verified ")).unwrap();
    let count = reported.split_whitespace().nth(1).unwrap();

    let check = tester().arg("check").arg(&file).output();
    let check = check.unwrap();
    let stdout = text(&check.stdout);
    assert_eq!(check.status.code(), Some(0), "{stdout}");
    assert!(stdout.contains(&format!("{count} operations")), "{count}: {stdout}");
    assert!(stdout.contains("fault at "), "{stdout}");
}

#[test]
fn a_router_that_does_not_come_back_has_broken_a_promise() {
    // On a busy machine a run may end before a fault that ends the router.
    let output = until_enough(
        |_| run_of_one_start(),
        |output| {
            let stdout = text(&output.stdout);
            let is_ended = ["kill -9", "SIGTERM and restart"].iter().any(|it| stdout.contains(it));
            is_ended || output.status.code() != Some(0)
        },
    );
    let stdout = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{stdout} {}", text(&output.stderr));
    assert!(stdout.contains("promised: after the last fault everything works again"), "{stdout}");
    assert!(text(&output.stderr).contains("a router's directory is kept: "));
}

/// Runs the verifying workload with a router program that can be started only once.
fn run_of_one_start() -> Output {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("starts-once");
    let script = format!(
        "#!/bin/sh\n[ -e started ] && exit 1\n: > started\nexec {} \"$@\"\n",
        PROGRAM.display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = tester();
    command.args(["--verify", "--chaos", "--users", "2"]).env("TMPDIR", dir.path());
    command.args(["--run-time", "3", "--router"]).arg(&program).output().unwrap()
}

#[test]
fn a_tester_that_is_ended_leaves_no_router_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = tester();
    command.env("TMPDIR", dir.path());
    command.args(["--verify", "--chaos", "--run-time", "60", "--router"]).arg(&*PROGRAM);
    let mut tester = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    // After the first line of progress, the router is running and receives faults.
    let mut stderr = BufReader::new(tester.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.contains("requests"), "{line}");
    let pid = tester.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(tester.wait().unwrap().code(), Some(2));
    // The folder is removed only after the process that writes to it has ended.
    assert_eq!(dir.path().read_dir().unwrap().count(), 0);
}

#[test]
fn a_program_or_file_that_cannot_be_used_is_reported_before_the_run() {
    for (args, message) in [
        (&["--router", "/nonexistent/api-router"][..], "there is no router at /nonexistent/"),
        (&["--history", "/nonexistent/history"], "/nonexistent/history cannot be written"),
        (
            &["--router-options", "--no-such-option"],
            "the router is not ready: it has ended, exit status: 2",
        ),
    ] {
        let mut command = tester();
        command.args(["--verify", "--chaos"]);
        if args[0] != "--router" {
            command.arg("--router").arg(&*PROGRAM);
        }
        let output = command.args(args).output().unwrap();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(message), "{args:?}: {stderr}");
    }
}
