//! Tests of the commands that move slots: their options, and how they follow a move of a router.

use std::io::{BufRead, BufReader};
use std::pin::pin;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use serde_json::{Value, json};
use shard_manager::engine::move_record::{MovePhase, NewMove, move_name};
use shard_manager::keyspace::Slot;
use shard_manager::manager::Manager;
use shard_manager::moves::identity::MoveId;
use shard_manager::slot_set::SlotSet;
use shard_manager::topology::ShardNumber;

use crate::begun_move::begin;
use crate::cluster::{Cluster, Ended, block_on, contents, open, program, run, run_in, serve};

/// Longest wait for the end of a move.
const ENDED_MAX: Duration = Duration::from_secs(60);

const ID: &str = "5f0c1c1e-6c1e-4f7a-9b53-0a8f5b1f2d4e";
const GONE: &str = "0a8f5b1f-6c1e-4f7a-9b53-5f0c1c1e2d4e";

fn shown(phase: &str, goal: &str) -> Value {
    json!({
        "id": ID, "slots": "0-63", "slot_count": 64, "from": "shard1", "to": "shard4",
        "phase": phase, "goal": goal, "paused": false, "stalled": false, "rate": null, "rebalance": null,
        "keep": 900, "rows": 1_200, "bytes": 3_145_728, "longest_hold_ms": 12.5,
        "phase_ms": {"copying": 1_500.5},
        "rows_expected": 4_800, "seconds_left": if phase == "copying" { json!(18) } else { Value::Null },
        "changes_behind": 12, "lag_ms": 1_500.0,
        "reason": if phase == "failed" { json!("a row is too large") } else { Value::Null },
        "began_at": "2026-11-24T12:00:00.000Z", "changed_at": "2026-11-24T12:00:07.000Z",
        "owned_at": null, "ended_at": null, "actions": ["pause", "cancel"]
    })
}

/// Serves one move in this state; returns the URL.
fn serving(phase: &str, goal: &str) -> String {
    let one = shown(phase, goal);
    let list = json!({"success": true, "moves": [one]}).to_string();
    let paths = [
        (format!("/api/moves/{ID}"), 200, one.to_string()),
        (format!("/api/moves/{ID}/retry"), 202, one.to_string()),
        ("/api/moves".to_owned(), 200, list),
        (
            format!("/api/moves/{GONE}"),
            404,
            json!({"detail": "there is none", "code": "TSR331"}).to_string(),
        ),
    ];
    let leak = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
    let answers: Vec<_> =
        paths.into_iter().map(|(path, status, body)| (leak(path), status, leak(body))).collect();
    serve(Box::leak(answers.into_boxed_slice()))
}

#[test]
fn the_options_of_a_move_are_checked_before_anything_is_sent() {
    for (arguments, reason) in [
        (&["start", "--to", "shard2"][..], "--slots <SLOTS>"),
        (&["start", "--slots", "0", "--key", "k", "--to", "shard2"], "cannot be used with"),
        (&["start", "--slots", "0"], "--to <SHARD>"),
        (&["start", "--slots", "0", "--to", "shard2", "--rate", "fast"], "--rate"),
        (&["start", "--slots", "0", "--to", "shard2", "--keep", "-1"], "-1"),
        (&["wait"], "<ID>"),
    ] {
        run(&[&["move"], arguments].concat()).refused(reason);
    }
    let nowhere = std::env::temp_dir().join("there-is-no-cluster-here");
    run_in(&nowhere, &["move", "list"]).refused("there is no cluster here");
    assert!(!nowhere.exists());
}

#[test]
fn a_stopped_cluster_without_moves_shows_none_and_takes_no_orders() {
    let dir = Cluster::filled().stop();
    let dir = dir.path();
    assert_eq!(run_in(dir, &["move", "list", "--json"]).expect(0).json(), json!({"moves": []}));
    run_in(dir, &["move", "show", ID]).refused("TSR331");
    run_in(dir, &["move", "cancel", ID]).refused("TSR331");
    run_in(dir, &["move", "wait", ID]).refused("TSR331");
}

#[test]
fn moves_of_a_stopped_cluster_are_carried_out_by_the_command_that_waits_for_them() {
    let dir = Cluster::filled().stop();
    let dir = dir.path();
    let command = |words: &[&str]| run_in(dir, &[&["move"], words, &["--json"]].concat()).expect(0);
    let shown = |words: &[&str]| command(words).json();
    let to = ["--to", "shard2"];
    let moved = shown(&[&["start", "--slots", "0-3"], &to[..], &["--wait"]].concat());
    assert_eq!((&moved["phase"], &moved["ended_at"]), (&json!("keeping"), &Value::Null));
    let id = moved["id"].as_str().expect("an id");
    assert_eq!(shown(&["rollback", id])["goal"], "back");
    assert_eq!(shown(&["wait", id])["phase"], "rolled_back");

    let begun = shown(&[&["start", "--slots", "4-7", "--keep", "0"], &to[..]].concat());
    let id = begun["id"].as_str().expect("an id");
    assert_eq!(shown(&["wait", id, "--ended"])["phase"], "done");
    let owners = run_in(dir, &["shard", "list", "--json"]).expect(0).json();
    let slots = |index: usize| owners["shards"][index]["slots"].as_u64().expect("a number");
    assert_eq!((slots(0), slots(1)), (5_462 - 4, 5_461 + 4), "{owners}");
    run_in(dir, &["check"]).expect(0);
}

/// Begins a move that no mover carries out, once the replicas follow; returns its id.
pub(crate) async fn planned(manager: &Manager) -> MoveId {
    let (source, target) = (ShardNumber(0), ShardNumber(1));
    let slots: SlotSet = manager.map().slots_of(source).take(1).filter_map(Slot::new).collect();
    let new = NewMove { slots, source, target, rate: None, keep: Duration::ZERO };
    begin(manager, new).await
}

/// Waits until a move has ended, and returns its phase.
async fn ended(manager: &Manager, id: MoveId) -> MovePhase {
    let limit = Instant::now() + ENDED_MAX;
    loop {
        let phase = manager.moves().get(id).await.expect("it is listed").phase;
        if phase.has_ended() {
            return phase;
        }
        assert!(Instant::now() < limit, "it is {}", phase.name());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_stopped_cluster_stores_orders_for_a_move_and_the_next_router_carries_them_out() {
    let cluster = Cluster::filled();
    let id = block_on(planned(&cluster.manager));
    let name = move_name(id);
    let dir = cluster.stop();
    let stored =
        |order: &str| run_in(dir.path(), &["move", order, &name, "--json"]).expect(0).json();
    assert_eq!(stored("pause")["paused"], json!(true));
    assert_eq!(stored("show")["paused"], json!(true), "it is stored");
    assert_eq!(stored("resume")["paused"], json!(false));
    for order in ["rollback", "settle"] {
        run_in(dir.path(), &["move", order, &name]).refused("the target does not own the slots");
    }
    assert_eq!(stored("cancel")["goal"], json!("back"));
    assert_eq!(stored("show")["phase"], json!("planned"), "no router has carried it out");

    let cluster = Cluster { manager: open(dir.path(), 3, 1), dir };
    let manager = &cluster.manager;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let phase = runtime.expect("a runtime").block_on(async {
        match select(pin!(manager.shards().keep_up()), pin!(ended(manager, id))).await {
            Either::Left(_) => panic!("the task never ends"),
            Either::Right((phase, _)) => phase,
        }
    });
    assert_eq!(phase, MovePhase::Cancelled);
    let dir = cluster.stop();
    run_in(dir.path(), &["move", "pause", &name]).refused("the move has ended (cancelled)");
}

#[test]
fn commands_that_show_moves_and_shards_leave_the_files_of_a_stopped_cluster_unchanged() {
    let cluster = Cluster::filled();
    let name = move_name(block_on(planned(&cluster.manager)));
    let dir = cluster.stop();
    let dir = dir.path();
    let before = contents(dir);
    assert_eq!(before.len(), 7, "the catalog and six nodes: {:?}", before.keys());
    let shown = run_in(dir, &["move", "show", &name, "--json"]).expect(0).json();
    assert_eq!((&shown["from"], &shown["to"]), (&json!("shard1"), &json!("shard2")));
    assert_eq!(shown["actions"], json!(["pause", "cancel"]));
    let listed = run_in(dir, &["move", "list", "--json"]).expect(0).json();
    assert_eq!(listed, json!({"moves": [shown]}));
    run_in(dir, &["move", "show", GONE]).refused("TSR331");
    run_in(dir, &["shard", "list"]).expect(0);
    run_in(dir, &["rebalance", "list"]).expect(0);
    assert!(contents(dir) == before, "no file has changed");
}

#[test]
fn a_process_that_serves_no_requests_begins_no_moves() {
    let cluster = Cluster::filled();
    let refused = run_in(cluster.path(), &["move", "start", "--slots", "0", "--to", "shard2"]);
    refused.refused("serves no requests");
}

#[test]
fn a_move_of_a_slot_that_no_cluster_has_is_refused_with_the_last_slot_of_this_one() {
    let cluster = Cluster::filled();
    let refused = run_in(cluster.path(), &["move", "start", "--slots", "99999", "--to", "shard2"]);
    refused.refused("slots are 0 to 16383");
}

#[test]
fn a_wait_ends_with_the_move_and_its_exit_code_is_the_outcome() {
    for (phase, goal, arguments, code) in [
        ("keeping", "forward", &[][..], 0),
        ("done", "forward", &["--ended"], 0),
        ("done", "settle", &[], 0),
        ("cancelled", "back", &[], 0),
        ("rolled_back", "back", &[], 0),
        ("failed", "forward", &[], 1),
        ("cancelled", "forward", &[], 1),
        ("done", "back", &[], 1),
    ] {
        let url = serving(phase, goal);
        let wait = ["move", "wait", ID, "--url", &url, "--json"];
        let ended = run(&[&wait, arguments].concat()).expect(code);
        assert_eq!(ended.json(), shown(phase, goal));
        assert_eq!(ended.err.contains("the move is"), code == 1, "{ended:?}");
    }
}

#[test]
fn a_move_that_begins_with_wait_is_followed_until_the_target_owns_its_slots() {
    for (phase, code) in [("keeping", 0), ("failed", 1)] {
        let url = serving(phase, "forward");
        let start = ["move", "start", "--slots", "0-63", "--to", "shard4", "--wait"];
        let ended = run(&[&start[..], &["--url", &url, "--json"]].concat()).expect(code);
        assert_eq!(ended.json(), shown(phase, "forward"));
    }
}

#[test]
fn a_move_that_begins_names_the_command_that_waits_for_it_at_the_same_router() {
    let url = serving("copying", "forward");
    for arguments in [&["start", "--slots", "0-63", "--to", "shard4"][..], &["retry", ID]] {
        let begun = run(&[&["move"], arguments, &["--url", &url]].concat()).expect(0);
        let wait = format!("`shard-manager move wait {ID} --url {url}` waits for them");
        assert_eq!(begun.out.lines().last(), Some(&*wait), "{begun:?}");
    }
}

#[test]
fn an_interrupt_ends_the_wait_and_reports_that_the_move_continues() {
    let url = serving("copying", "forward");
    let mut command = program(&["move", "wait", ID, "--url", &url]);
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    let first = lines.next().expect("a line").expect("UTF-8");
    assert!(first.contains("copying 1,200 of about 4,800 rows, 3.00 MiB"), "{first}");
    assert!(first.contains(", about 18 s left, 12 in 1.5 s behind"), "{first}");
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-s", "INT", &pid]).status().unwrap().success());
    let rest: Vec<String> = lines.map(|line| line.expect("UTF-8")).collect();
    let again = format!("the move goes on: `shard-manager move wait {ID} --url {url}` waits again");
    assert!(rest.iter().any(|line| line.contains(&again)), "{rest:?}");
    let ended = Ended::of(&child.wait_with_output().expect("the program ends")).expect(2);
    assert_eq!(ended.out, "");
}

#[test]
fn moves_are_listed_and_shown_as_lines() {
    let url = serving("copying", "forward");
    let listed = run(&["move", "list", "--url", &url]).expect(0).out;
    let head = "id\tslots\tfrom\tto\tphase\trows\tbytes\tlag\tbegan\n";
    let row = format!(
        "{ID}\t0-63\tshard1\tshard4\tcopying\t1,200\t3.00 MiB\t12 in 1.5 s\t2026-11-24T12:00:00.000Z\n"
    );
    assert_eq!(listed, head.to_owned() + &row);
    let shown = run(&["move", "show", ID, "--url", &url]).expect(0).out;
    for line in [
        "slots         0-63 (64)",
        "rows expected about 4,800",
        "time left     about 18 s",
        "behind        12 in 1.5 s",
        "longest hold  12.5 ms",
        "orders        pause, cancel",
    ] {
        assert!(shown.lines().any(|known| known == line), "{line}: {shown}");
    }
    run(&["move", "show", GONE, "--url", &url]).refused("there is none (TSR331)");
    run(&["move", "cancel", "../health", "--url", &url]).refused("TSR331");
}
