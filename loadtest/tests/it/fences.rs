//! Tests of `--faults fence`: promises are kept while writes of random slots wait.

use crate::report;
use crate::router::{MANAGER, PROGRAM, tester};

#[test]
fn no_promise_is_broken_while_slots_are_fenced() {
    let mut command = tester();
    command.args(["--verify", "--chaos", "--users", "8", "--json", "--seed", "4"]);
    command.args(["--run-time", "8", "--faults", "fence", "--router"]).arg(&*PROGRAM);
    command.args(["--router-options", "--shards 2 --replicas 1"]);
    let report = report(&command.arg("--shard-manager").arg(&*MANAGER).output().unwrap());
    assert_eq!(report["passed"], true, "{report:#}");
    assert!(report["verified"]["operations"].as_u64().unwrap() > 500, "{report:#}");
    let faults = report["faults"].as_array().unwrap();
    let ended = faults.iter().filter_map(|fault| fault["what"].as_str()?.strip_prefix("over: "));
    let ended: Vec<&str> = ended.collect();
    assert!(
        !ended.is_empty() && ended.iter().all(|what| what.contains(" fenced for ")),
        "{report:#}"
    );
    let waited = |what: &&str| {
        let (_, rest) = what.split_once("ms (")?;
        rest.split(' ').next()?.parse::<u64>().ok()
    };
    let waited: u64 = ended.iter().map(|what| waited(what).expect("the number of rows")).sum();
    assert!(waited > 0, "{report:#}");
}
