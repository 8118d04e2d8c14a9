//! Tests of `lab levels`, `replicas`, `crash` and `conflicts`.

use std::path::Path;

use serde_json::{Value, json};

use super::{left_in, rows};
use crate::cluster::run;
use crate::scratch;

/// Carries out an experiment in a folder, which must be empty afterwards.
fn carry_out(dir: &Path, experiment: &str, more: &[&str]) -> Value {
    let dir_text = dir.to_str().expect("UTF-8");
    let args = [&["lab", experiment, "--json", "--work-dir", dir_text], more].concat();
    let report = run(&args).expect(0).json();
    assert_eq!(left_in(dir), Vec::<String>::new());
    let explanation = report["explanation"].as_str().expect("an explanation");
    assert!(explanation.ends_with('.'), "{explanation}");
    report
}

#[test]
fn levels_refuse_exactly_what_they_cannot_promise_while_replicas_are_gone() {
    let dir = scratch::folder();
    let report = carry_out(dir.path(), "levels", &["--operations", "40"]);
    let writes = rows(&report, "Levels").into_iter();
    let writes: Vec<_> = writes.map(|row| row[..4].to_vec()).map(Value::from).collect();
    let (all, none) = ([40, 0], [0, 40]);
    let expected = [
        (0, "one", all),
        (0, "quorum", all),
        (0, "all", all),
        (1, "one", all),
        (1, "quorum", all),
        (1, "all", none),
        (2, "one", all),
        (2, "quorum", none),
        (2, "all", none),
    ];
    let expected =
        expected.map(|(gone, level, [stored, refused])| json!([gone, level, stored, refused]));
    assert_eq!(writes, expected);
    run(&["lab", "levels", "--replicas", "6"]).refused("1 to 5 replicas, not 6");
    run(&["lab", "levels", "--replicas", "0"]).refused("1 to 5 replicas, not 0");
}

#[test]
fn only_reads_at_one_without_a_token_are_stale_while_replicas_lag() {
    let dir = scratch::folder();
    let report = carry_out(dir.path(), "replicas", &["--operations", "20"]);
    let rows = rows(&report, "Reads after a write");
    assert_eq!(rows.len(), 12);
    for row in &rows {
        let (delay, reading) =
            (row[0].as_str().expect("a delay"), row[1].as_str().expect("a read"));
        let stale = row[3].as_f64().expect("a share");
        match (delay, reading) {
            ("200 ms", "one") => assert!(stale > 0.0, "{row:?}"),
            (_, "one") => {}
            (_, _) => assert_eq!(stale, 0.0, "{row:?}"),
        }
        assert_eq!(row[2], 20);
    }
}

#[test]
fn no_acknowledged_row_is_lost_by_kills_in_the_middle_of_writes() {
    let dir = scratch::folder();
    let report = carry_out(dir.path(), "crash", &["--kills", "2", "--acknowledged", "60"]);
    let rows = rows(&report, "Rows after each kill");
    assert_eq!(rows.len(), 2);
    for row in &rows {
        assert!(row[1].as_u64() >= Some(60) && row[1] == row[2] && row[3] == 0, "{row:?}");
    }
}

#[test]
fn the_last_write_loses_changes_which_if_match_and_insert_refuse() {
    let dir = scratch::folder();
    let report = carry_out(dir.path(), "conflicts", &["--clients", "3", "--rounds", "10"]);
    let found: Vec<Value> =
        rows(&report, "Concurrent changes of one row").into_iter().map(Value::from).collect();
    let expected = [
        json!(["last write", 30, 30, 0, 20, null]),
        json!(["If-Match", 30, 10, 20, 0, "the row is not of the version that the request names"]),
        json!(["insert", 30, 10, 20, 0, "the row exists already"]),
    ];
    assert_eq!(found, expected);
    run(&["lab", "conflicts", "--clients", "1"]).refused("1 is not in 2..=64");
}
