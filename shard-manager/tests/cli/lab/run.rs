//! Tests of `lab run`: with few users, on files.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use super::{left_in, rows, wait_until};
use crate::cluster::{Ended, program, run};
use crate::scratch;

const USERS: &str = "500";

fn args<'a>(dir: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let dir = dir.to_str().expect("UTF-8");
    let all = ["lab", "run", "--json", "--work-dir", dir, "--operations", "100", "--clients", "2"];
    [&all[..], more].concat()
}

#[test]
fn users_are_generated_distributed_and_queried_on_both_sides_and_removed() {
    let dir = scratch::folder();
    let more = ["--users", USERS, "--shards", "4", "--seed", "3"];
    let report = run(&args(dir.path(), &more)).expect(0).json();
    assert_eq!(rows(&report, "Nodes").len(), 5, "one database and four shards");
    let shards = rows(&report, "Distribution");
    let stored: Vec<u64> = shards.iter().map(|row| row[1].as_u64().expect("rows")).collect();
    assert_eq!((stored.len(), stored.iter().sum::<u64>()), (4, 1_000), "users and orders");
    let queries = rows(&report, "One database and shards");
    let names: Vec<&str> = queries.iter().filter_map(|row| row[0].as_str()).collect();
    let expected = ["point read", "range", "count", "order with limit", "insert", "bulk of 1,000"];
    assert_eq!(names, expected);
    for row in &queries {
        let requests =
            if ["point read", "insert"].map(Some).contains(&row[0].as_str()) { 100 } else { 1 };
        assert_eq!((&row[2], &row[6]), (&requests.into(), &requests.into()), "{row:?}");
        assert!(row.last().and_then(|why| why.as_str()).is_some_and(|why| why.ends_with('.')));
    }
    let again = run(&args(dir.path(), &more)).expect(0).json();
    assert_eq!(rows(&again, "Distribution"), shards, "equal seeds give equal rows");
    assert_eq!(left_in(dir.path()), Vec::<String>::new());
}

#[test]
fn the_variable_max_gen_users_sets_the_number_of_users_and_the_flag_has_precedence() {
    let dir = scratch::folder();
    let run_with = |value: &str, more: &[&str]| {
        let mut command = program(&args(dir.path(), more));
        command.env("MAX_GEN_USERS", value);
        Ended::of(&command.output().expect("the program starts"))
    };
    let stored = |more: &[&str]| -> u64 {
        let report = run_with("400", more).expect(0).json();
        let shards = rows(&report, "Distribution");
        shards.iter().map(|row| row[1].as_u64().expect("rows")).sum()
    };
    assert_eq!(stored(&[]), 800, "users and orders");
    assert_eq!(stored(&["--users", "300"]), 600);
    run_with("many", &[]).refused("MAX_GEN_USERS must be a whole number, not `many`");
    run_with("0", &[]).refused("MAX_GEN_USERS must be from 1 to 100000000, not 0");
    assert_eq!(left_in(dir.path()), Vec::<String>::new());
}

#[test]
fn an_interrupted_run_and_the_next_one_after_a_kill_leave_nothing() {
    let dir = scratch::folder();
    let more = ["--users", "2000000"];
    let mut child = program(&args(dir.path(), &more));
    let mut killed = child.stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("started");
    wait_until(&mut killed, || has_databases(dir.path()));
    killed.kill().expect("killed");
    killed.wait().expect("ended");
    let left = left_in(dir.path());
    assert_eq!(left.len(), 1, "a killed process removes nothing: {left:?}");
    let mut child = program(&args(dir.path(), &more));
    let mut asked = child.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("started");
    wait_until(&mut asked, || !left_in(dir.path()).contains(&left[0]) && has_databases(dir.path()));
    let signalled =
        std::process::Command::new("kill").args(["-INT", &asked.id().to_string()]).status();
    assert!(signalled.expect("kill").success());
    let ended = Ended::of(&asked.wait_with_output().expect("it ends")).expect(2);
    assert!(
        ended.err.contains("cancelled; the files and databases of the experiment are removed"),
        "{ended:#?}"
    );
    assert_eq!(left_in(dir.path()), Vec::<String>::new());
}

/// Returns true if an experiment in the folder has made its one database, `tessera_lab_RUN`, and
/// those of its shards.
fn has_databases(dir: &Path) -> bool {
    let has_both = |folder: String| {
        let one = folder.replace("tessera-lab-", "tessera_lab_");
        let files = [(&*one, "shard1-primary.db"), ("shards", "shard3-primary.db")];
        files.iter().all(|(data, file)| dir.join(&folder).join(data).join(file).exists())
    };
    left_in(dir).into_iter().any(has_both)
}

#[test]
fn impossible_settings_are_named_before_anything_is_made() {
    let dir = scratch::folder();
    for (more, with) in [
        (&["--shards", "257"][..], "1 to 256 shards, not 257"),
        (&["--users", "0"], "0 is not in 1..="),
        (&["--seconds", "0"], "0 is not in 1..=3600"),
    ] {
        run(&args(dir.path(), more)).refused(with);
        assert_eq!(left_in(dir.path()), Vec::<String>::new());
    }
    let file = dir.path().join("file");
    fs::write(&file, "").expect("written");
    run(&args(&file, &[])).refused("no folder can be created");
}
