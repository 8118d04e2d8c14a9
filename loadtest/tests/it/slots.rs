//! Tests of the tester while slots change owners: it detects a router that breaks one promise about
//! them, and never accuses a correct one.

use serde_json::Value;

use crate::cache::hits;
use crate::redis::Redis;
use crate::router::{bare_command, tester};
use crate::served_router::ServedRouter;
use crate::{for_each, found, report, sabotage};

/// Mutations that break a promise about slots, and the check that detects each.
const BROKEN: [(&str, &str); 4] =
    [("read_unowned", "C7"), ("scatter_unchecked", "C7"), ("refusal_lost", "C7"), (OF_CACHE, "C4")];
/// The mutation that requires a cache, and slots that return to a former owner.
const OF_CACHE: &str = "cache_keeps_slot";
/// Settings of a Redis that answers every invalidation and removes nothing: its `UNLINK` is
/// `TOUCH`, which has the same arguments and the same answer. One router invalidates every entry
/// that it makes obsolete, so that it could not find an entry of a former owner otherwise.
const LOSES_INVALIDATIONS: [&str; 6] =
    ["--rename-command", "UNLINK", "", "--rename-command", "TOUCH", "UNLINK"];
/// Maximum number of runs until a broken promise is found. One usually suffices: for a third of the
/// time slots of a sixteenth of the rows have no owner, and every walk over all rows takes several
/// reads.
const RUNS_MAX: u64 = 100;
/// Seconds of a run against a mutation, and against a correct router: in a second, about every slot
/// changes its owner. With a cache a slot must return, and a row be visited three times meanwhile.
const BROKEN_TIME: &str = "1";
const CLEAN_TIME: &str = "4";

/// A router whose slots change owners all the time.
struct Router {
    served: ServedRouter,
    _redis: Option<Redis>,
}

impl Router {
    /// Starts the router with one mutation, or with none (an empty name), and with a cache if
    /// `redis` is given.
    fn start(switch: &str, redis: Option<Redis>) -> Self {
        let mut command = bare_command(&*sabotage::PROGRAM);
        command.env("TESSERA_SABOTAGE", switch).env("TESSERA_HAND_OVERS", "1");
        command.args(["--log", "warn", "--shards", "2", "--replicas", "0"]);
        if let Some(redis) = &redis {
            command.args(sabotage::CACHE_OPTIONS).env("REDIS_URL", redis.url());
        }
        let served = ServedRouter::start(tempfile::tempdir().unwrap(), command);
        Self { served, _redis: redis }
    }

    /// Returns the exit code and the report of a run. The slots change owners until its end.
    fn judge(&self, seed: u64, run_time: &str) -> (Option<i32>, Value) {
        let mut command = tester();
        command.args(["--verify", "--json", "--host", &self.served.url(), "--users", "8"]);
        command.args(["--run-time", run_time, "--seed", &seed.to_string()]);
        let ended = command.output().unwrap();
        let log = self.served.log();
        assert!(!log.contains("no longer change hands"), "{log}");
        (ended.status.code(), report(&ended))
    }
}

#[test]
fn a_broken_promise_about_slots_is_found() {
    for_each(BROKEN, |(switch, check)| {
        let has_cache = switch == OF_CACHE;
        let redis = has_cache.then(|| Redis::start_with(&LOSES_INVALIDATIONS));
        let run_time = if has_cache { CLEAN_TIME } else { BROKEN_TIME };
        let router = Router::start(switch, redis);
        let mut runs = (1..=RUNS_MAX).map(|seed| (seed, router.judge(seed, run_time)));
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
    assert_clean(&Router::start("", None), 1);
}

#[test]
fn a_correct_router_has_no_violations_while_slots_move_and_its_cache_loses_all_invalidations() {
    let router = Router::start("", Some(Redis::start_with(&LOSES_INVALIDATIONS)));
    let mut runs = (1..=RUNS_MAX).map(|seed| assert_clean(&router, seed));
    assert!(runs.any(|report| hits(&report) > 0), "nothing came from the cache");
}

/// Asserts that a run finds no violation, and returns its report.
fn assert_clean(router: &Router, seed: u64) -> Value {
    let (code, report) = router.judge(seed, CLEAN_TIME);
    assert!(found(&report).is_empty(), "seed {seed}: {report:#}");
    assert_eq!(code, Some(0), "seed {seed}: {report:#}");
    report
}
