//! Tests of the commands that wait for a rebalance or a drain of a router.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shard_manager::engine::rebalance_draft::{DraftMembers, RebalanceDraft};
use shard_manager::engine::rebalance_view::RebalanceBegun;
use shard_manager::manager::Rebalances;

use crate::cluster::{Cluster, Ended, block_on, contents, interrupt, program, run, run_in, serve};
use crate::terminal::Screen;

const ID: &str = "9b3e6c0a-52d4-4c5e-8f53-6d1b0c8f2a71";
/// Bar of the running rebalance, and as much of its message as fits in a line of 80 columns.
const BAR: &str = " rebalance ██████████░░░░░░░░░░ running    64 of 128 slots, 1 of 2 moves";
/// Commands that wait for a rebalance, without the URL.
const WAITS: [&[&str]; 3] = [
    &["rebalance", "wait", ID],
    &["rebalance", "--yes", "--wait"],
    &["shard", "drain", "shard4", "--wait"],
];

fn moved(state: &str) -> Value {
    json!({
        "from": "shard4", "to": "shard1", "slots": "0-63", "slot_count": 64, "rows": 600,
        "bytes": 1_572_864, "state": state, "move": null, "copied_rows": 600,
        "copied_bytes": 1_572_864, "reason": null
    })
}

/// A rebalance in this state.
fn shown(state: &str) -> Value {
    let is_running = state == "running";
    json!({
        "id": ID, "by": "drain", "placement": null, "shard": "shard4", "state": state,
        "stalled": false, "rate": null, "keep": 900, "slots": 128, "slots_moved": 64,
        "needed_slots": 128, "move_count": 2, "moved_count": 1, "failed_count": 0, "rows": 1_200,
        "bytes": 3_145_728, "planned_rows": 1_200, "planned_bytes": 3_145_728, "skew_before": 1.5,
        "skew_planned": 1.0, "skew_measured": null,
        "reason": if state == "failed" { json!("the disk is full") } else { Value::Null },
        "began_at": "2026-11-24T12:00:00.000Z", "changed_at": "2026-11-24T12:00:07.000Z",
        "ended_at": if is_running { Value::Null } else { json!("2026-11-24T12:00:07.000Z") },
        "actions": if is_running { json!(["pause", "cancel"]) } else { json!([]) },
        "moves": [moved("moved"), moved("planned")]
    })
}

/// Serves one rebalance in this state, which is also the response to a plan and to its begin;
/// returns the URL.
fn serving(state: &str) -> String {
    let one = shown(state);
    let mut begun = one.clone();
    begun["epoch"] = json!(3);
    begun["seconds"] = json!(1.2);
    begun["shards"] = json!([]);
    begun["note"] = Value::Null;
    begun["refusals"] = json!([]);
    let leak = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
    let begun = leak(begun.to_string());
    let answers = vec![
        (leak(format!("/api/rebalance/{ID}")), 200, leak(one.to_string())),
        ("/api/rebalance", 202, begun),
        ("/api/shards/shard4/drain", 202, begun),
    ];
    serve(Box::leak(answers.into_boxed_slice()))
}

#[test]
fn a_wait_for_a_rebalance_ends_with_it_and_its_exit_code_is_the_outcome() {
    for (state, code) in [("done", 0), ("cancelled", 1), ("failed", 1)] {
        let url = serving(state);
        for wait in WAITS {
            let ended = run(&[wait, &["--url", &url, "--json"]].concat()).expect(code);
            assert_eq!(ended.json(), shown(state), "{wait:?}");
            let has_reason = ended.err.contains(&format!("the rebalance is {state}"));
            assert_eq!(has_reason, code == 1, "{wait:?}: {ended:?}");
        }
    }
}

#[test]
fn a_rebalance_that_begins_names_the_command_that_waits_for_it_at_the_same_router() {
    let url = serving("running");
    for begin in [&["rebalance", "--yes"][..], &["shard", "drain", "shard4"]] {
        let begun = run(&[begin, &["--url", &url]].concat()).expect(0);
        let wait = format!("`shard-manager rebalance wait {ID} --url {url}` waits for its end");
        assert_eq!(begun.out.lines().last(), Some(&*wait), "{begun:?}");
    }
}

#[test]
fn commands_that_show_rebalances_leave_the_files_of_a_stopped_cluster_unchanged() {
    let cluster = Cluster::new(2, 0);
    let draft = RebalanceDraft::drain("shard2".to_owned(), &DraftMembers::default());
    let draft = draft.expect("within bounds");
    let deadline = Instant::now() + Duration::from_secs(60);
    let begun = block_on(Rebalances::of(&cluster.manager).begin(&draft, None, deadline));
    let RebalanceBegun::Begun(begun) = begun.expect("it begins") else {
        panic!("a drain retires its shard")
    };
    let dir = cluster.stop();
    let dir = dir.path();
    let before = contents(dir);
    let shown = run_in(dir, &["rebalance", "show", &begun.id, "--json"]).expect(0).json();
    assert_eq!((&shown["by"], &shown["shard"]), (&json!("drain"), &json!("shard2")));
    let moves = shown["moves"].as_array().expect("its moves");
    assert_eq!(Some(moves.len() as u64), shown["move_count"].as_u64());
    let listed = run_in(dir, &["rebalance", "list", "--json"]).expect(0).json();
    let listed = listed["rebalances"].as_array().expect("rebalances");
    assert_eq!((listed.len(), &listed[0]["id"]), (1, &shown["id"]));
    assert_eq!(listed[0].get("moves"), None, "a list has no moves");
    for id in [ID, "no-id"] {
        run_in(dir, &["rebalance", "show", id]).refused("TSR336");
    }
    assert!(contents(dir) == before, "no file has changed");
}

#[test]
fn an_interrupt_ends_the_wait_and_the_rebalance_or_drain_goes_on() {
    let url = serving("running");
    for wait in WAITS {
        let mut command = program(&[wait, &["--url", &url]].concat());
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let first = lines.next().expect("a line").expect("UTF-8");
        let progress = "running 64 of 128 slots, 1 of 2 moves, 1,200 rows, 3.00 MiB";
        assert!(first.contains(ID) && first.contains(progress), "{wait:?}: {first}");
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-s", "INT", &pid]).status().unwrap().success());
        let rest: Vec<String> = lines.map(|line| line.expect("UTF-8")).collect();
        let again = format!("`shard-manager rebalance wait {ID} --url {url}` waits again");
        let said = rest.iter().find(|line| line.contains("the rebalance goes on"));
        assert!(said.is_some_and(|line| line.contains(&again)), "{wait:?}: {rest:?}");
        let ended = Ended::of(&child.wait_with_output().expect("the program ends")).expect(2);
        assert_eq!(ended.out, "", "{wait:?}");
    }
}

#[test]
fn a_terminal_has_a_bar_of_the_slots_that_have_moved_instead_of_lines() {
    let url = serving("running");
    for wait in WAITS {
        let command = program(&[wait, &["--url", &url]].concat());
        let (mut screen, child) = Screen::start(command);
        let shown = screen.read_until(|shown| shown.contains(BAR));
        assert!(shown.contains(BAR), "{wait:?}: {shown:?}");
        assert!(!shown.contains(ID), "{wait:?}: a line would begin with the id: {shown:?}");
        interrupt(child);
        let rest = screen.read_to_end();
        let again =
            format!("the rebalance goes on: `shard-manager rebalance wait {ID} --url {url}`");
        assert!(rest.contains(&again), "{wait:?}: {rest:?}");
    }
}

#[test]
fn a_bar_is_gone_when_the_rebalance_has_ended_and_its_outcome_is_the_output() {
    let url = serving("done");
    for wait in WAITS {
        let command = program(&[wait, &["--url", &url]].concat());
        let (mut screen, child) = Screen::start(command);
        let shown = screen.read_to_end();
        assert!(!shown.contains(ID), "{wait:?}: {shown:?}");
        // The last thing is to clear the line of the bar.
        let last = shown.rsplit('\r').next().unwrap_or_default();
        assert!(!last.contains("slots"), "{wait:?}: {shown:?}");
        let ended = Ended::of(&child.wait_with_output().expect("the program ends")).expect(0);
        for line in ["state         done", "slots         64 of 128"] {
            assert!(ended.out.lines().any(|known| known == line), "{wait:?}: {line}: {ended:?}");
        }
    }
}

#[test]
fn with_json_a_terminal_stays_empty_and_the_output_is_the_rebalance() {
    let url = serving("done");
    for wait in WAITS {
        let command = program(&[wait, &["--url", &url, "--json"]].concat());
        let (mut screen, child) = Screen::start(command);
        assert_eq!(screen.read_to_end(), "", "{wait:?}");
        let ended = Ended::of(&child.wait_with_output().expect("the program ends")).expect(0);
        assert_eq!(ended.json(), shown("done"), "{wait:?}");
    }
}
