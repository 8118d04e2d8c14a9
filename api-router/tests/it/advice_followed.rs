//! Stories of doing what the advice says: each thing that it names is there, and does what it is named for.

use std::fmt::Write as _;
use std::process::Command;

use serde_json::{Value, json};

use crate::advice::{Owners, advice, read};
use crate::commands::{ask, rows, run};
use crate::harness::{Router, sightless};

/// Rows of the cluster that is to be relieved.
const USERS: usize = 40;

/// The commands that a text names, between backticks.
fn commands(text: &str) -> Vec<Vec<&str>> {
    text.split('`').skip(1).step_by(2).map(|words| words.split(' ').collect()).collect()
}

/// A cluster whose first shard carries more than the others, in its folder, and the requests that made it so.
fn lopsided(data: &std::path::Path) -> (Router, Vec<(Vec<String>, usize)>) {
    let router = Router::start_in(data, &[]);
    for number in 0..USERS {
        assert_eq!(router.write_user(&format!("user_{number}"), "Ada").status, 201);
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

/// `manual:FIRST-LAST=SHARD,…`, as the owners of slots spell it.
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

#[test]
fn a_new_cluster_that_is_made_as_advised_has_the_rows_and_is_balanced() {
    crate::ground::files_only!("the rows of servers are exported by these");
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let (router, requests) = lopsided(&data);
    let told = advice(&router, "");
    assert_eq!(told["verdict"], "skewed", "{told}");
    let how = told["how"].as_str().unwrap();
    assert!(how.contains("--placement manual:FIRST-LAST=SHARD"), "{how}");
    assert_eq!(commands(how), [["shard-manager", "export"], ["shard-manager", "import"]]);

    let mut owners = Owners::of(&router);
    owners.follow(&told);
    let made = Router::start_with(&["--placement", &manual(&owners)]);
    assert!(Owners::of(&made).0 == owners.0, "each slot is where it was advised to be");
    let file = folder.path().join("users.ndjson");
    let (data, file) = (data.to_str().unwrap(), file.to_str().unwrap());
    let place = ["--table", "users", "--output", file, "--data-dir", data];
    let exported = run(&[&["export"][..], &place].concat(), "");
    assert_eq!(exported.code, Some(0), "{exported:#?}");
    let imported = ask(&made, &["import", "--table", "users", "--input", file], "").json(0);
    assert_eq!((&imported["stored"], &imported["failed"]), (&json!(USERS), &json!(0)));
    assert_eq!(rows(&made, "users"), json!(USERS));

    read(&made, &requests);
    let told = advice(&made, "");
    assert_eq!((&told["verdict"], &told["moves"]), (&json!("balanced"), &json!([])), "{told}");
}

#[test]
fn what_the_advice_names_is_there() {
    crate::ground::not_on_citus!("Citus has words of its own");
    let folder = tempfile::tempdir().unwrap();
    let (router, _) = lopsided(&folder.path().join("data"));
    let told: Value = advice(&router, "");
    let how = told["how"].as_str().unwrap();
    let named = commands(how);
    assert!(!named.is_empty(), "{how}");
    for words in named {
        assert_eq!((words[0], words.len()), ("shard-manager", 2), "{how}");
        let helped = run(&[words[1], "--help"], "");
        assert_eq!(helped.code, Some(0), "{words:?}: {helped:#?}");
    }
    // The flag, and the form of what stands behind it.
    let program = env!("CARGO_BIN_EXE_api-router");
    let mut help = sightless(Command::new(program), folder.path());
    let help = String::from_utf8(help.arg("--help").output().unwrap().stdout).unwrap();
    let flags = how.split(' ').filter(|word| word.starts_with("--"));
    for flag in flags {
        assert!(help.contains(flag), "{flag}: {how}");
    }
    let form = how.split(' ').find(|word| word.starts_with("manual:")).unwrap();
    let form = form.trim_end_matches("…").trim_end_matches(',');
    assert!(help.contains(form), "{form}");
}
