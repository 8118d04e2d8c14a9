//! Tests of `lab`: the real program, with few keys and users. Measured times are not checked.

mod guarantees;
mod reads;
mod run;
mod sizes;
mod snapshot;
mod strategies;
mod tour;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::cluster::{Ended, program, run};
use crate::scratch;

/// Every experiment with sizes that take little time, and whether it has a work folder.
const SMALL: [(&[&str], bool); 11] = [
    (&["run", "--users", "200", "--shards", "2", "--operations", "50", "--clients", "2"], true),
    (&["strategies", "--keys", "200", "--set", "tenants"], false),
    (&["levels", "--replicas", "1", "--operations", "10", "--clients", "2"], true),
    (&["replicas", "--operations", "2"], true),
    (&["crash", "--kills", "1", "--acknowledged", "20"], true),
    (&["conflicts", "--clients", "2", "--rounds", "3"], true),
    (&["shards", "--counts", "1,2", "--users", "200", "--operations", "20"], true),
    (&["grow", "--users", "200", "--shards", "31", "--clients", "2", "--quiet-ms", "50"], true),
    (&["cache", "--users", "100", "--operations", "200", "--clients", "2"], true),
    (&["indexes", "--users", "200", "--shards", "2", "--operations", "10"], true),
    (&["network", "--operations", "10", "--clients", "2", "--latency-ms", "3"], true),
];

/// Every experiment with a work folder, with sizes that take long, if there are any to choose.
const LONG: [&[&str]; 11] = [
    &["run", "--users", "2000000"],
    &["levels", "--operations", "900000"],
    &["replicas", "--operations", "90000"],
    &["crash", "--kills", "1000", "--acknowledged", "900000"],
    &["conflicts", "--rounds", "90000"],
    &["shards", "--users", "2000000"],
    &["grow", "--users", "500", "--quiet-ms", "3000000"],
    &["cache", "--operations", "9000000"],
    &["indexes", "--operations", "900000"],
    &["network", "--operations", "90000"],
    &["tour", "--unattended"],
];

/// Returns the rows of the table whose title begins so.
fn rows(report: &Value, title: &str) -> Vec<Vec<Value>> {
    let tables = report["tables"].as_array().expect("tables");
    let begins = |table: &&Value| table["title"].as_str().is_some_and(|own| own.starts_with(title));
    let table = tables.iter().find(begins).unwrap_or_else(|| panic!("no {title}: {report:#}"));
    let row = |row: &Value| row.as_array().expect("a row").clone();
    table["rows"].as_array().expect("rows").iter().map(row).collect()
}

/// Returns the names of the folders of experiments in a folder.
fn left_in(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).expect("readable").flatten().map(|entry| entry.file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("tessera-lab-")).collect()
}

/// Waits until a folder shows what a running experiment has done; fails if the experiment ends
/// before that.
#[track_caller]
fn wait_until(experiment: &mut Child, is_done: impl Fn() -> bool) {
    while !is_done() {
        let ended = experiment.try_wait().expect("a child");
        assert!(ended.is_none() || is_done(), "the experiment has ended: {ended:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_unknown_experiment_is_refused_before_anything_starts() {
    run(&["lab", "strategy"]).refused("similar subcommand exists: 'strategies'");
}

#[test]
fn every_experiment_explains_itself_in_two_sentences_and_writes_a_report_with_charts() {
    for (args, has_work) in SMALL {
        let dir = scratch::folder();
        let (out, work) = (dir.path().join("out"), dir.path().to_str().expect("UTF-8"));
        let folder = out.to_str().expect("UTF-8");
        let work_args = ["--work-dir", work];
        let place = if has_work { &work_args[..] } else { &[] };
        let all = [&["lab"], args, &["--json", "--report", folder], place].concat();
        let report = run(&all).expect(0).json();
        let explanation = report["explanation"].as_str().expect("an explanation");
        let sentences = explanation.split(". ").count();
        assert!(sentences == 2 && explanation.ends_with('.'), "{args:?}: {explanation}");
        let read = |name: &str| fs::read_to_string(out.join(name)).expect(name);
        let stored: Value = serde_json::from_str(&read("report.json")).expect("JSON");
        assert_eq!(stored, report, "{args:?}");
        assert!(read("report.md").contains(explanation), "{args:?}");
        let page = read("report.html");
        assert!(page.contains("<figure>") && page.contains("<svg viewBox"), "{args:?}");
        let engine = &report["settings"][0];
        if has_work {
            assert_eq!(engine["name"], "engine", "{args:?}");
            let version = engine["value"].as_str().expect("a text");
            assert!(version.starts_with("SQLite 3."), "{args:?}: {version}");
        }
        assert_eq!(left_in(dir.path()), Vec::<String>::new(), "{args:?}");
    }
}

#[test]
fn every_experiment_that_is_interrupted_leaves_nothing() {
    for args in LONG {
        let dir = scratch::folder();
        let (work, state) = (dir.path().to_str().expect("UTF-8"), dir.path().join("state.json"));
        let mut command = program(&[&["lab"], args, &["--work-dir", work]].concat());
        if args[0] == "tour" {
            command.arg("--state").arg(state);
        }
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("the program starts");
        wait_until(&mut child, || !left_in(dir.path()).is_empty());
        let ended = interrupt(child);
        assert!(
            ended.err.contains("cancelled; the files and databases of the experiment are removed"),
            "{args:?}: {ended:#?}"
        );
        assert_eq!(left_in(dir.path()), Vec::<String>::new(), "{args:?}");
    }
}

#[test]
fn a_comparison_of_strategies_that_is_interrupted_leaves_no_report() {
    let dir = scratch::folder();
    let out = dir.path().join("out");
    let mut command = program(&["lab", "strategies", "--keys", "1000000", "--report"]);
    let child = command.arg(&out).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("the program starts");
    wait_until(&mut child, || out.exists());
    let ended = interrupt(child);
    assert!(ended.err.contains("cancelled"), "{ended:#?}");
    assert!(!out.exists());
}

/// Interrupts an experiment, which must end with exit code 2.
#[track_caller]
fn interrupt(experiment: Child) -> Ended {
    let signalled = Command::new("kill").args(["-INT", &experiment.id().to_string()]).status();
    assert!(signalled.expect("kill").success());
    Ended::of(&experiment.wait_with_output().expect("it ends")).expect(2)
}

#[test]
fn a_server_that_an_experiment_does_not_use_is_named_in_its_report() {
    let dir = scratch::folder();
    let work = dir.path().to_str().expect("UTF-8");
    let args = [&["lab"], SMALL[5].0, &["--json", "--work-dir", work]].concat();
    let with = |url: &str| {
        let output = program(&args).env("MAINDB_URL", url).output().expect("the program starts");
        Ended::of(&output).expect(0)
    };
    let note = "MAINDB_URL is set and was not used";
    let named = with("postgres://user:secret@db.example/main");
    assert!(named.out.contains(note) && !named.out.contains("secret"), "{named:#?}");
    let unnamed = with("");
    assert!(!unnamed.out.contains(note), "{unnamed:#?}");
}

#[test]
fn impossible_sizes_are_refused_before_a_server_is_started() {
    for (args, with) in [
        (&["shards", "--counts", "2,300"][..], "256 shards, not 300"),
        (&["grow", "--shards", "256"], "1 to 255 shards before, not 256"),
        (&["cache", "--users", "0"], "1 to 1000000 users, not 0"),
        (&["indexes", "--shards", "300"], "1 to 256 shards, not 300"),
        (&["run", "--shards", "64"], "at most 64 PostgreSQL servers, and these settings need 65"),
        (&["shards", "--counts", "2,65"], "at most 64 PostgreSQL servers"),
        (&["network", "--shards", "22", "--replicas", "2"], "these settings need 66"),
        (&["levels", "--replicas", "6"], "1 to 5 replicas, not 6"),
        (&["network", "--replicas", "0"], "1 to 5 replicas, not 0"),
        (&["replicas", "--operations", "0"], "0 is not in 1..=100000"),
        (&["crash", "--kills", "0"], "0 is not in 1..=1000"),
        (&["tour", "--unattended", "--chapter", "11"], "chapters 1 to 10, not 11"),
    ] {
        run(&[&["lab"], args, &["--postgres"]].concat()).refused(with);
    }
}
