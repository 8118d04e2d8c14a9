//! Tests of `--faults move,rollback`: promises are kept while slots move between shards.

use std::process::{Command, Output};

use serde_json::Value;

use crate::router::{MANAGER, PROGRAM, tester};
use crate::verify::assert_paced;
use crate::{found, operations, report, sabotage, text, until_enough};

/// Kinds of faults of a router with shards in files, and of its cache: all that need no servers,
/// except moves of slots and joins and drains of shards.
pub(crate) const OTHERS_OF_FILES: &str =
    "router-kill,router-freeze,router-restart,fence,redis-flush,redis-freeze,redis-kill";

/// Mutations (deliberate faults of the router) that break moves, each with the checks of which at
/// least one must detect it.
const BROKEN: [(&str, &[&str]); 6] = [
    ("no_fence", &["C3", "C6", "C7", "C9"]),
    ("forget_last_changes", &["C3", "C6", "C7", "C9"]),
    ("commit_by_clock", &["C3", "C6", "C7", "C9"]),
    ("copy_forgets_deletes", &["C3", "C7", "moves"]),
    ("idempotency_stays", &["C1"]),
    ("version_not_raised", &["C1", "C3"]),
];
/// Number of operations within which a broken promise must be found.
const OPERATIONS_MAX: u64 = 100_000;
/// Length of a run against a mutation, in seconds.
const BROKEN_TIME: &str = "6";

/// Maximum rate of a run with all faults, in requests per second.
pub(crate) const RATE: &str = "500";
/// Length of the first long run, in seconds. Each further run is longer than the one before by this
/// time.
const LONG_S: u64 = 120;
/// Number of slots that must move in a long run: a quarter of all slots.
const QUARTER: u64 = 16_384 / 4;

/// Returns the command of a run with the given faults against a new router with two shards.
fn under_moves(router: &std::path::Path, (seed, seconds): (u64, &str), faults: &str) -> Command {
    let mut command = tester();
    command.args(["--verify", "--chaos", "--users", "8", "--json", "--faults", faults]);
    command.args(["--run-time", seconds, "--seed", &seed.to_string(), "--router"]).arg(router);
    command.args(["--router-options", "--shards 2 --replicas 1"]);
    command
}

/// Returns the sentence about the moves of a run.
pub(crate) fn moves(report: &Value) -> String {
    let notes = report["verified"]["notes"].as_array().unwrap();
    let mut notes = notes.iter().filter_map(Value::as_str);
    notes.find(|note| note.starts_with("moves: ")).unwrap().to_owned()
}

/// Returns the number in the sentence that precedes `words`.
pub(crate) fn number(sentence: &str, words: &str) -> u64 {
    let (before, _) = sentence.split_once(words).unwrap_or_else(|| panic!("{words}: {sentence}"));
    before.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Asserts that every promise was kept in a run and that every move has ended, and returns the
/// run's report.
#[track_caller]
pub(crate) fn assert_kept(output: &Output) -> Value {
    let report = report(output);
    assert_eq!(output.status.code(), Some(0), "{} {report:#}", text(&output.stderr));
    assert_eq!(number(&moves(&report), " without an end"), 0, "{report:#}");
    report
}

#[test]
fn no_promise_is_broken_while_slots_move_and_return() {
    let run = |_| {
        let output = under_moves(&PROGRAM, (1, "10"), "move,rollback").output().unwrap();
        let report = assert_kept(&output);
        assert_eq!(number(&moves(&report), " failed"), 0, "{report:#}");
        report
    };
    until_enough(run, |report| {
        let moves = moves(report);
        let reached = |words: &str, least: u64| number(&moves, words) >= least;
        operations(report) > 500
            && reached(" begun", 5)
            && [" done", " rolled back", " rows copied"].iter().all(|words| reached(words, 1))
    });
}

#[test]
fn no_promise_is_broken_while_the_process_that_moves_slots_is_killed_and_frozen() {
    let faults = "move,rollback,router-kill,router-freeze,router-restart,fence";
    let run = |_| {
        let mut command = under_moves(&PROGRAM, (2, "12"), faults);
        assert_kept(&command.arg("--shard-manager").arg(&*MANAGER).output().unwrap())
    };
    until_enough(run, |report| operations(report) > 500 && number(&moves(report), " begun") >= 1);
}

/// Repeats runs, each with another seed and longer than the one before, until a quarter of all
/// slots has moved in one of them. A slow machine moves fewer slots in the same time.
///
/// `run` gets the seed and the length in seconds. Every run must respect the rate and report the
/// longest wait of rows. The last run must also have phases of concentrated load on moving slots,
/// and walks by cursor.
pub(crate) fn until_a_quarter_has_moved(run: impl Fn(u64, &str) -> Output) {
    let kept = |turn: u64| {
        let seed = turn + 1;
        let report = assert_kept(&run(seed, &(LONG_S * seed).to_string()));
        assert_paced(&report, RATE);
        let moves = moves(&report);
        eprintln!("seed {seed}: {} requests/s, {moves}", report["requests_per_s"]);
        assert!(moves.contains(", and rows waited "), "{moves}");
        report
    };
    until_enough(kept, |report| {
        let moves = moves(report);
        let operations = report["operations"].as_array().unwrap();
        number(&moves, " of 16384 slots") >= QUARTER
            && number(&moves, " operations were on slots that moved only") >= 1
            && operations.iter().any(|operation| operation["name"] == "scatter")
    });
}

#[test]
#[ignore = "takes minutes: cargo test -p loadtest --test it a_quarter_of_the_slots -- --ignored --nocapture --test-threads 1"]
fn a_quarter_of_the_slots_of_files_moves_beside_all_other_faults() {
    let faults = format!("move,rollback,{OTHERS_OF_FILES}");
    until_a_quarter_has_moved(|seed, seconds| {
        let mut command = under_moves(&PROGRAM, (seed, seconds), &faults);
        command.args(["--cache", "--rate", RATE, "--shard-manager"]).arg(&*MANAGER);
        command.output().unwrap()
    });
}

#[test]
fn slots_of_a_single_shard_cannot_move() {
    let mut command = tester();
    command.args(["--verify", "--chaos", "--faults", "move", "--router"]).arg(&*PROGRAM);
    let output = command.args(["--router-options", "--shards 1"]).output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("slots move between two shards at least"), "{stderr}");
}

#[test]
fn a_broken_promise_about_moves_is_found_within_100_000_operations() {
    // The runs follow one another, because each moves as many slots as the machine allows.
    for (switch, checks) in BROKEN {
        let mut operations = 0;
        for seed in 1.. {
            let run = (seed, BROKEN_TIME);
            let mut command = under_moves(&sabotage::PROGRAM, run, "move,rollback");
            // The tester keeps the directory of a router that has broken a promise, so the
            // directory is made in a folder that is removed here.
            let kept = tempfile::tempdir().unwrap();
            command.env("TMPDIR", kept.path()).env("TESSERA_SABOTAGE", switch);
            let output = command.output().unwrap();
            let report = report(&output);
            operations += report["verified"]["operations"].as_u64().unwrap();
            let found = found(&report);
            let is_found = found.iter().any(|name| {
                let check = name.split(' ').next().unwrap();
                checks.contains(&check)
            });
            if is_found {
                assert_eq!(output.status.code(), Some(1), "{switch}: {report:#}");
                eprintln!("{switch}: {found:?} in {operations} operations");
                break;
            }
            let in_time = operations <= OPERATIONS_MAX;
            assert!(in_time, "{switch}: {found:?} in {operations} operations: {report:#}");
        }
    }
}
