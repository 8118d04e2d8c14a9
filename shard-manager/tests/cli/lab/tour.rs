//! Tests of `lab tour`.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use super::left_in;
use crate::cluster::{Ended, program, run};
use crate::scratch;

/// Runs a tour whose reader types these lines.
fn read(dir: &Path, more: &[&str], typed: &str) -> Ended {
    let state = dir.join("state.json");
    let paths = [state.as_path(), dir].map(|path| path.to_str().expect("UTF-8"));
    let args = [&["lab", "tour", "--state", paths[0], "--work-dir", paths[1]], more].concat();
    let mut command = program(&args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("started");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(typed.as_bytes()).expect("the program reads");
    drop(stdin);
    Ended::of(&child.wait_with_output().expect("it ends"))
}

#[test]
fn an_unattended_tour_runs_all_ten_chapters_and_leaves_nothing() {
    let dir = scratch::folder();
    let work = dir.path().to_str().expect("UTF-8");
    let reported =
        run(&["lab", "tour", "--unattended", "--json", "--work-dir", work]).expect(0).json();
    let chapters = reported["chapters"].as_array().expect("chapters");
    assert_eq!(chapters.len(), 10);
    let seen = |number: usize| {
        let lines = chapters[number - 1]["seen"].as_array().expect("lines");
        lines.iter().filter_map(|line| line.as_str()).collect::<Vec<_>>().join("\n")
    };
    for (number, parts) in [
        (1, &["user_1: XXH3-64 is 0x"][..]),
        (2, &["slots 0 to 5461 belong to shard1", "user_1 is in slot"]),
        (3, &["stored: {", "the same insert again is refused: the row exists already"]),
        (4, &["shard1-replica1 is down", "30 rows were written meanwhile", "is back"]),
        (5, &["sees the old name, from a replica", "sees the new name, from the primary"]),
        (6, &["killed with kill -9", "every acknowledged row is there"]),
        (7, &["one: stored", "quorum: stored", "all: refused, all needs 2 replicas"]),
        (8, &["2048 of 16384 slots moved to it, 12.5 %", "all 600 rows are there"]),
        (9, &["of 2000 reads", "the advice is `hot`", "% of the reads are of user_"]),
        (10, &["300 rows in one bulk write", "2 were stored"]),
    ] {
        for part in parts {
            assert!(seen(number).contains(part), "{number}: {part}: {}", seen(number));
        }
    }
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!((&reported["seed"], &reported["machine"]["tessera"]), (&1.into(), &version.into()));
    assert!(reported["engine"].as_str().is_some_and(|engine| engine.starts_with("SQLite ")));
    assert_eq!(left_in(dir.path()), Vec::<String>::new());
}

#[test]
fn a_tour_that_was_left_is_taken_up_again_and_forgotten_at_its_end() {
    let dir = scratch::folder();
    let state = dir.path().join("state.json");
    let first = read(dir.path(), &[], "\nq\n").expect(0);
    assert!(first.out.contains("\n1. Hash a key\n") && first.out.contains("\n2. Find its shard\n"));
    assert!(!first.out.contains("\n3. "), "{first:#?}");
    assert_eq!(fs::read_to_string(&state).expect("a state"), r#"{"next_chapter":3}"#);
    let next = read(dir.path(), &[], "").expect(0);
    assert!(next.err.contains("continues with chapter 3"), "{next:#?}");
    assert!(next.out.contains("\n3. Write a row\n") && !next.out.contains("\n2. "), "{next:#?}");
    assert!(next.out.contains("implemented in shard-manager/cluster/src/lane/worker.rs and "));
    let last = read(dir.path(), &["--chapter", "10"], "").expect(0);
    assert!(last.out.contains("\n10. Many rows at once\n"), "{last:#?}");
    assert!(last.out.contains("\nseed 1; SQLite ") && last.out.contains("; Tessera "), "{last:#?}");
    assert!(!state.exists(), "the tour is over");
    assert_eq!(left_in(dir.path()), Vec::<String>::new());
}

#[test]
fn a_chapter_that_is_not_there_and_a_foreign_state_are_refused() {
    let dir = scratch::folder();
    run(&["lab", "tour", "--unattended", "--chapter", "11"]).refused("chapters 1 to 10, not 11");
    fs::write(dir.path().join("state.json"), r#"{"next_chapter":11}"#).expect("written");
    read(dir.path(), &[], "").refused("this is not the state of a tour");
}
