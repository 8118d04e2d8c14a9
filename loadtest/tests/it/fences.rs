//! Tests of `--faults fence`: promises are kept while writes to random slots wait.

use serde_json::Value;

use crate::router::{MANAGER, PROGRAM, tester};
use crate::{operations, report, until_enough};

/// Runs the verifying workload while slots are fenced.
fn under_fences() -> Value {
    let mut command = tester();
    command.args(["--verify", "--chaos", "--users", "8", "--json", "--seed", "4"]);
    command.args(["--run-time", "8", "--faults", "fence", "--router"]).arg(&*PROGRAM);
    command.args(["--router-options", "--shards 2 --replicas 1"]);
    report(&command.arg("--shard-manager").arg(&*MANAGER).output().unwrap())
}

/// Returns the number of rows that have waited because of fences in a run.
fn waited(report: &Value) -> u64 {
    let faults = report["faults"].as_array().unwrap();
    let ended = faults.iter().filter_map(|fault| fault["what"].as_str()?.strip_prefix("over: "));
    let number = |what: &str| {
        assert!(what.contains(" fenced for "), "{report:#}");
        let (_, rest) = what.split_once("ms (")?;
        rest.split(' ').next()?.parse::<u64>().ok()
    };
    ended.map(|what| number(what).expect("the number of rows")).sum()
}

#[test]
fn no_promise_is_broken_while_slots_are_fenced() {
    let run = |_| {
        let report = under_fences();
        assert_eq!(report["passed"], true, "{report:#}");
        report
    };
    until_enough(run, |report| operations(report) > 500 && waited(report) > 0);
}
