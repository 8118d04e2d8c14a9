//! Tests of the tester while slots change hands: it detects a router that breaks one promise about
//! them, and never accuses a correct one.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::router::{bare_command, tester};
use crate::{for_each, report, sabotage};

/// Promises about slots, and the check that detects that one is broken.
const BROKEN: [(&str, &str); 2] = [("read_unowned", "C7"), ("refusal_lost", "C7")];
/// Maximum number of runs until a broken promise is found. One usually suffices.
const RUNS_MAX: u64 = 100;
/// Seconds of a run against a mutation, and against a correct router: in a second, about every slot
/// changes hands.
const BROKEN_TIME: &str = "1";
const CLEAN_TIME: &str = "4";

/// A router whose slots change hands all the time. Killed when it is dropped.
struct Router {
    child: Child,
    url: String,
    folder: TempDir,
}

impl Drop for Router {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Router {
    /// Starts the router with one mutation, or with none (an empty name).
    fn start(switch: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        let mut command = bare_command(&*sabotage::PROGRAM);
        command.env("TESSERA_SABOTAGE", switch).env("TESSERA_HAND_OVERS", "1");
        command.current_dir(folder.path()).stdin(Stdio::null()).stderr(log);
        command.args(["--bind", "127.0.0.1:0", "--log", "warn", "--data-dir", "data"]);
        command.args(["--shards", "2", "--replicas", "0"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let address = lines.find_map(|line| {
            let (_, address) = line.split_once("http://")?;
            Some(address.split('/').next()?.to_owned())
        });
        let Some(address) = address else {
            panic!("{}", fs::read_to_string(folder.path().join("log")).unwrap())
        };
        // Writing to a pipe without a reader would end the program.
        std::thread::spawn(move || lines.count());
        Self { child, url: format!("http://{address}"), folder }
    }

    /// Returns the exit code and the report of a run. The slots change hands until its end.
    fn judge(&self, seed: u64, run_time: &str) -> (Option<i32>, Value) {
        let mut command = tester();
        command.args(["--verify", "--json", "--host", &self.url, "--users", "8"]);
        command.args(["--run-time", run_time, "--seed", &seed.to_string()]);
        let ended = command.output().unwrap();
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap();
        assert!(!log.contains("no longer change hands"), "{log}");
        (ended.status.code(), report(&ended))
    }
}

/// Returns the names of the checks with violations.
fn found(report: &Value) -> Vec<&str> {
    let checks = report["verified"]["checks"].as_array().unwrap().iter();
    let broken = checks.filter(|check| check["violations"].as_u64() != Some(0));
    broken.map(|check| check["check"].as_str().unwrap()).collect()
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
fn a_router_whose_slots_change_hands_is_never_accused() {
    let router = Router::start("");
    let (code, report) = router.judge(1, CLEAN_TIME);
    assert!(found(&report).is_empty(), "{report:#}");
    assert_eq!(code, Some(0), "{report:#}");
}
