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
use std::process::Child;
use std::time::Duration;

use serde_json::Value;

use crate::cluster;

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
    cluster::run(&["lab", "strategy"]).refused("similar subcommand exists: 'strategies'");
}
