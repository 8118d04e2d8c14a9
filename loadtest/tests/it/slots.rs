//! Tests of the load tester itself while slots change owners: it detects a router that breaks one
//! promise about slots, and never accuses a correct router.

use serde_json::Value;

use crate::router::{bare_command, tester};
use crate::served_router::ServedRouter;
use crate::{for_each, found, report, sabotage};

/// Mutations that break a promise about slots, and the check that detects each.
const BROKEN: [(&str, &str); 3] =
    [("read_unowned", "C7"), ("scatter_unchecked", "C7"), ("refusal_lost", "C7")];
/// Number of runs within which a broken promise must be found. One run is usually enough: during a
/// third of the time, the slots of a sixteenth of the rows have no owner, and every walk over all
/// rows takes several reads.
const RUNS_MAX: u64 = 100;
/// Length of a run against a mutation, in seconds. In one second, almost every slot changes its
/// owner. The next constant is the length of a run against a correct router.
const BROKEN_TIME: &str = "1";
const CLEAN_TIME: &str = "4";

/// Router whose slots change owners all the time.
struct Router(ServedRouter);

impl Router {
    /// Starts the router with one mutation, or with none (an empty name).
    fn start(switch: &str) -> Self {
        let mut command = bare_command(&*sabotage::PROGRAM);
        command.env("TESSERA_SABOTAGE", switch).env("TESSERA_HAND_OVERS", "1");
        command.args(["--log", "warn", "--shards", "2", "--replicas", "0"]);
        Self(ServedRouter::start(tempfile::tempdir().unwrap(), command))
    }

    /// Returns the exit code and the report of a run. Slots change owners until the run ends.
    fn judge(&self, seed: u64, run_time: &str) -> (Option<i32>, Value) {
        let mut command = tester();
        command.args(["--verify", "--json", "--host", &self.0.url(), "--users", "8"]);
        command.args(["--run-time", run_time, "--seed", &seed.to_string()]);
        let ended = command.output().unwrap();
        let log = self.0.log();
        assert!(!log.contains("no longer change hands"), "{log}");
        (ended.status.code(), report(&ended))
    }
}

#[test]
fn a_broken_promise_about_slots_is_found() {
    for_each(BROKEN, |(switch, check)| {
        let router = Router::start(switch);
        let mut runs = (1..=RUNS_MAX).map(|seed| (seed, router.judge(seed, BROKEN_TIME)));
        let is_found = |(_, (_, report)): &(u64, (Option<i32>, Value))| {
            found(report).iter().any(|name| name.split(' ').next() == Some(check))
        };
        let (seed, (code, report)) =
            runs.find(is_found).unwrap_or_else(|| panic!("{switch}: nothing was found"));
        assert_eq!(code, Some(1), "{switch}: {report:#}");
        eprintln!("{switch}: {:?} in run {seed}", found(&report));
    });
}

#[test]
fn a_correct_router_has_no_violations_while_slots_move() {
    let router = Router::start("");
    let (code, report) = router.judge(1, CLEAN_TIME);
    assert!(found(&report).is_empty(), "{report:#}");
    assert_eq!(code, Some(0), "{report:#}");
}
