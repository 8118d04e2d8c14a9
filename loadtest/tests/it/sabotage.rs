//! Tests of the load tester itself: it detects a router that breaks one promise, and never accuses
//! a correct router.
//!
//! Every second correct router has a cache. The router is built once with its feature `sabotage`,
//! into a separate folder beside the other programs, so that it is not mistaken for the real one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use serde_json::Value;

use crate::http::send;
use crate::redis::Redis;
use crate::router::{bare_command, tester};
use crate::served_router::ServedRouter;
use crate::{for_each, found};

/// Number of operations within which a broken promise must be found.
const OPERATIONS_MAX: u64 = 100_000;
/// Length of a run against a correct router, and maximum length of a run against a mutation (a
/// deliberate fault of the router), in seconds. Runs against a mutation are repeated with other
/// seeds until the broken promise is found or [`OPERATIONS_MAX`] is exceeded.
const RUN_TIME: u64 = 3;
/// Mutation that has an effect only while banks are opened. Many short runs find it sooner than a
/// few long ones: about half of the runs of one second do.
const OF_THE_OPENING: &str = "quorum_without_waiting";
const OPENING_RUN_TIME: u64 = 1;
/// Seeds of the runs against correct routers.
const CLEAN_SEEDS: u64 = 10;

/// Returns the length, in seconds, of the run with this seed against a mutation. Most mutations are
/// found within a second, and the others in the longer runs that follow.
fn run_time(switch: &str, seed: u64) -> u64 {
    if switch == OF_THE_OPENING { OPENING_RUN_TIME } else { seed.min(RUN_TIME) }
}

/// Mutations, each with the lag of the replicas during the run, in milliseconds, and the check that
/// detects the mutation.
const BROKEN: [(&str, u64, &str); 17] = [
    ("ack_before_commit", 0, "C3"),
    ("lost_batch", 0, "C7"),
    ("no_token_wait", 200, "C4"),
    ("token_before_commit", 30, "C4"),
    ("no_staleness_bound", 1_000, "C5"),
    ("quorum_from_any", 200, "C3"),
    (OF_THE_OPENING, 300, "C8"),
    ("no_idempotency", 0, "C1"),
    ("idempotency_other_answer", 0, "C1"),
    ("bulk_report_all_ok", 0, "C9"),
    ("torn_transaction", 0, "C8"),
    ("ignore_if_version", 0, "C9"),
    ("version_from_one", 0, "C1"),
    ("resurrect", 0, "C3"),
    ("duplicate_pages", 0, "C7"),
    ("wrong_row", 0, "C2"),
    (OF_CACHE, 200, "C4"),
];

/// The mutation that requires a cache.
const OF_CACHE: &str = "cache_set_without_version";
/// Options with which the router caches every response, and may return stale data except to
/// sessions that have seen newer rows.
const CACHE_OPTIONS: [&str; 4] = ["--cache-bound-ms", "30000", "--cache-min-uses", "1"];

/// Options of cargo that build the router. Because all packages and a test are named, cargo chooses
/// the same features of libraries as for the workspace's tests, and does not compile the libraries
/// again.
const BUILD: [&str; 7] =
    ["--workspace", "--features", "sabotage", "--bin", "api-router", "--test", "cache"];

/// Prefixes of the environment variables with which cargo describes the package whose tests it
/// runs.
const PACKAGE_VARIABLES: [&str; 2] = ["CARGO_PKG_", "CARGO_MANIFEST_"];

/// Router with the feature `sabotage`; cargo builds it on first use.
pub(crate) static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
    let target = Path::new(env!("CARGO_BIN_EXE_loadtest")).parent().unwrap().parent().unwrap();
    let folder = target.join("sabotage");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet"]).args(BUILD).arg("--target-dir").arg(&folder);
    build.arg("--config").arg(format!("build.build-dir={:?}", target.display().to_string()));
    build.current_dir(env!("CARGO_MANIFEST_DIR"));
    // Cargo sets these variables for the tests of this package. If they were passed on, build
    // scripts that read them would run again, and most of the build with them, here and when the
    // router is built the next time.
    for (name, _) in std::env::vars_os() {
        if PACKAGE_VARIABLES.iter().any(|of| name.to_string_lossy().starts_with(of)) {
            build.env_remove(name);
        }
    }
    assert!(build.status().unwrap().success(), "the sabotaged router is made");
    folder.join("debug/api-router")
});

/// Router with two replicas per shard.
struct Router {
    served: ServedRouter,
    _redis: Option<Redis>,
}

impl Router {
    /// Starts the router with one mutation, or with none (an empty name), and with a cache if
    /// `redis` is given.
    fn start(switch: &str, redis: Option<Redis>) -> Self {
        let mut command = bare_command(&*PROGRAM);
        command.env("TESSERA_SABOTAGE", switch).args(["--replicas", "2", "--lab"]);
        if let Some(redis) = &redis {
            command.args(CACHE_OPTIONS).env("REDIS_URL", redis.url());
        }
        let served = ServedRouter::start(tempfile::tempdir().unwrap(), command);
        let router = Self { served, _redis: redis };
        let health = router.ask("GET", "/api/health", "");
        let reported = if switch.is_empty() { "[]".to_owned() } else { format!("[\"{switch}\"]") };
        assert!(health.contains(&format!("\"sabotage\":{reported}")), "{health}");
        router
    }

    /// Sends one request; returns the complete response.
    fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let answer = send(&self.served.host, method, path, body);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
        answer
    }

    /// Makes all replicas lag by this time.
    fn delay_replicas(&self, milliseconds: u64) {
        let nodes = self.ask("GET", "/api/lab/nodes", "");
        let names = nodes.split('"').filter(|text| text.contains("-replica"));
        for name in names {
            let hold = format!("{{\"delay_ms\":{milliseconds}}}");
            self.ask("PUT", &format!("/api/lab/nodes/{name}"), &hold);
        }
    }
}

/// Returns the exit code and the report of a run against a new router.
fn judge(
    (switch, lag_ms): (&str, u64),
    (seed, run_time): (u64, u64),
    redis: Option<Redis>,
) -> (Option<i32>, Value) {
    let router = Router::start(switch, redis);
    router.delay_replicas(lag_ms);
    let host = router.served.url();
    let (seed, run_time) = (seed.to_string(), run_time.to_string());
    let mut command = tester();
    command.args(["--verify", "--json", "--host", &host]);
    let ended = command.args(["--run-time", &run_time, "--seed", &seed]).output().unwrap();
    let (reported, errors) = (crate::text(&ended.stdout), crate::text(&ended.stderr));
    let report =
        serde_json::from_str(&reported).unwrap_or_else(|_| panic!("{switch}: {reported}{errors}"));
    (ended.status.code(), report)
}

#[test]
fn a_broken_promise_is_found_within_100_000_operations() {
    for_each(BROKEN, |(switch, lag_ms, check)| {
        let mut operations = 0;
        for seed in 1.. {
            let redis = (switch == OF_CACHE).then(Redis::start);
            let run = (seed, run_time(switch, seed));
            let (code, report) = judge((switch, lag_ms), run, redis);
            operations += report["verified"]["operations"].as_u64().unwrap();
            let found = found(&report);
            let in_time = operations <= OPERATIONS_MAX;
            assert!(in_time, "{switch}: not {check}, but {found:?} in {operations}: {report:#}");
            if found.iter().any(|name| name.split(' ').next() == Some(check)) {
                assert_eq!(code, Some(1), "{switch}: {report:#}");
                eprintln!("{switch}: {found:?} in {operations} operations");
                break;
            }
        }
    });
}

#[test]
fn a_correct_router_has_no_violations() {
    for_each(1..=CLEAN_SEEDS, |seed| {
        // These are the lags that are used with mutations.
        let lag_ms = [0, 30, 200, 300, 1_000][seed as usize / 2 % 5];
        let redis = (seed % 2 == 0).then(Redis::start);
        let (code, report) = judge(("", lag_ms), (seed, RUN_TIME), redis);
        let found = found(&report);
        assert!(found.is_empty(), "seed {seed}, {lag_ms} ms behind: {report:#}");
        assert_eq!(code, Some(0), "seed {seed}, {lag_ms} ms behind: {report:#}");
    });
}
