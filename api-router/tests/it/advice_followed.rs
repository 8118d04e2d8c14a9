//! Tests of following the advice: each command and setting that the advice names exists, and a
//! cluster created as advised is balanced.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::advice::{Owners, advice, read};
use crate::commands::{ask, rows, run};
use crate::harness::{Router, isolated};

/// Number of rows of the overloaded cluster.
const USERS: usize = 40;

/// Returns the commands that a text names, between backticks.
fn commands(text: &str) -> Vec<Vec<&str>> {
    text.split('`').skip(1).step_by(2).map(|words| words.split(' ').collect()).collect()
}

/// Returns a cluster whose first shard has more load than the others, in its folder, and the
/// requests of that load.
fn lopsided(data: &Path) -> (Router, Vec<(Vec<String>, usize)>) {
    let router = Router::start_in(data, &[]);
    for number in 0..USERS {
        let user = format!("user_{number}");
        let data = json!({"user_id": user, "name": "", "email": "a, \"b\"\n"});
        let written = router.write(&user, &json!({"table": "users", "data": data}));
        assert_eq!(written.status, 201, "{}", written.text());
    }
    let owners = Owners::of(&router);
    let requests = vec![
        (owners.keys("shard1", 300), 4),
        (owners.keys("shard2", 100), 2),
        (owners.keys("shard3", 100), 2),
    ];
    read(&router, &requests);
    (router, requests)
}

/// Returns the placement `manual:FIRST-LAST=SHARD,…` with these owners of slots.
fn manual(owners: &Owners) -> String {
    let mut spelled = String::from("manual:");
    let mut first = 0;
    for run in owners.0.chunk_by(|a, b| a == b) {
        let comma = if first == 0 { "" } else { "," };
        let _ = write!(spelled, "{comma}{first}-{}={}", first + run.len() - 1, run[0]);
        first += run.len();
    }
    spelled
}

/// Exports the rows of users as the advice says, into separate files.
fn export(data: &Path, how: &str, folder: &Path) -> Vec<PathBuf> {
    let file = |name: &str| folder.join(name);
    if crate::backend::is_servers() {
        assert_eq!(commands(how), [["shard-manager", "import"]]);
        let form = "COPY TABLE (shard_key, COLUMN, …) TO STDOUT WITH (FORMAT csv, HEADER)";
        assert!(how.contains(form), "{how}");
        let columns = "user_id, name, email, partition_key";
        let copy = form.replace("TABLE", "users").replace("COLUMN, …", columns);
        let reported = crate::backend::copy_primaries(data, &copy).into_iter();
        let written = reported.enumerate().map(|(shard, rows)| {
            let file = file(&format!("users{shard}.csv"));
            std::fs::write(&file, rows).unwrap();
            file
        });
        return written.collect();
    }
    let named = ["rebalance", "export", "import"].map(|command| ["shard-manager", command]);
    assert_eq!(commands(how), named);
    let file = file("users.ndjson");
    let (data, output) = (data.to_str().unwrap(), file.to_str().unwrap());
    let exported = run(&["export", "--table", "users", "--output", output, "--data-dir", data], "");
    assert_eq!(exported.code, Some(0), "{exported:#?}");
    vec![file]
}

#[test]
fn a_new_cluster_that_is_made_as_advised_has_the_rows_and_is_balanced() {
    crate::backend::not_on_citus!("Citus has words of its own");
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    let (router, requests) = lopsided(&data);
    let reported = advice(&router, "");
    assert_eq!(reported["verdict"], "skewed", "{reported}");
    let how = reported["how"].as_str().unwrap();
    assert!(how.contains("--placement manual:FIRST-LAST=SHARD"), "{how}");

    let mut owners = Owners::of(&router);
    owners.follow(&reported);
    let made = Router::start_with(&["--placement", &manual(&owners)]);
    assert!(Owners::of(&made).0 == owners.0, "each slot is where it was advised to be");
    let mut stored = 0;
    for file in export(&data, how, folder.path()) {
        let input = file.to_str().unwrap();
        let imported = ask(&made, &["import", "--table", "users", "--input", input], "").json(0);
        assert_eq!(imported["failed"], 0, "{imported}");
        stored += imported["stored"].as_u64().unwrap();
    }
    assert_eq!(stored, USERS as u64);
    assert_eq!(rows(&made, "users"), json!(USERS));
    let reported = made.read("user_7", "table=users").json();
    let row = &reported["data"][0];
    assert_eq!((&row["user_id"], &row["name"]), (&json!("user_7"), &json!("")), "{reported}");
    assert_eq!((&row["email"], &row["partition_key"]), (&json!("a, \"b\"\n"), &json!(null)));

    read(&made, &requests);
    let reported = advice(&made, "");
    assert_eq!(
        (&reported["verdict"], &reported["moves"]),
        (&json!("balanced"), &json!([])),
        "{reported}"
    );
}

#[test]
fn what_the_advice_names_is_there() {
    crate::backend::not_on_citus!("Citus has words of its own");
    let folder = crate::folders::temporary();
    let (router, _) = lopsided(&folder.path().join("data"));
    let reported: Value = advice(&router, "");
    let how = reported["how"].as_str().unwrap();
    let named = commands(how);
    assert!(!named.is_empty(), "{how}");
    for words in named {
        assert_eq!((words[0], words.len()), ("shard-manager", 2), "{how}");
        let helped = run(&[words[1], "--help"], "");
        assert_eq!(helped.code, Some(0), "{words:?}: {helped:#?}");
    }
    // The help contains the flag and the form of its value.
    let program = env!("CARGO_BIN_EXE_api-router");
    let mut help = isolated(Command::new(program), folder.path());
    let help = String::from_utf8(help.arg("--help").output().unwrap().stdout).unwrap();
    let flags = how.split(' ').filter(|word| word.starts_with("--"));
    for flag in flags {
        assert!(help.contains(flag), "{flag}: {how}");
    }
    let form = how.split(' ').find(|word| word.starts_with("manual:")).unwrap();
    let form = form.trim_end_matches("…").trim_end_matches(',');
    assert!(help.contains(form), "{form}");
}
