//! Tests of experiments with `--postgres`: servers and databases that they make and remove, and
//! their results.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use shard_manager::local::{LocalCluster, LocalNode};

use crate::servers::{ClusterFolder, ask};

/// Message of an experiment that Ctrl-C has ended.
const CANCELLED: &str = "cancelled; the files and databases of the experiment are removed";

/// Experiments whose number of clients cannot be chosen.
const WITHOUT_CLIENTS: [&str; 3] = ["replicas", "crash", "tour"];

/// Comparison with few users.
const SMALL_RUN: [&str; 7] = ["run", "--users", "300", "--shards", "2", "--operations", "100"];

/// Runs the comparison with few users in a folder, and returns its report and its messages.
fn run_lab(work: &Path, main: Option<&str>) -> (String, String) {
    let ended = run_experiment(work, &SMALL_RUN, main);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (text(ended.stdout), text(ended.stderr))
}

/// Runs an experiment with servers in a folder, which has no servers afterwards.
fn run_experiment(work: &Path, args: &[&str], main: Option<&str>) -> Output {
    let mut command = program(work, args);
    command.arg("--json");
    if !args.contains(&"--clients") && !WITHOUT_CLIENTS.contains(&args[0]) {
        command.args(["--clients", "2"]);
    }
    if let Some(url) = main {
        command.env("MAINDB_URL", url);
    }
    let ended = command.output().expect("the program starts");
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(left_in(work), Vec::<PathBuf>::new(), "the servers are removed");
    ended
}

/// Runs an experiment with servers, and returns its report.
fn report_of(args: &[&str]) -> Value {
    let place = ClusterFolder::new();
    let ended = run_experiment(place.parent.path(), args, None);
    let report: Value = serde_json::from_slice(&ended.stdout).expect("JSON");
    let engine = &report["settings"][0];
    assert_eq!(engine["name"], "engine", "{report:#}");
    assert!(engine["value"].as_str().is_some_and(|text| text.starts_with("PostgreSQL ")));
    let explanation = report["explanation"].as_str().expect("an explanation");
    assert!(!explanation.contains("file"), "{explanation}");
    report
}

/// Returns the rows of the table of this index.
fn rows(report: &Value, table: usize) -> &[Value] {
    let rows = report["tables"][table]["rows"].as_array();
    rows.unwrap_or_else(|| panic!("no table {table}: {report:#}"))
}

/// Returns the command of an experiment with servers in a folder.
fn program(work: &Path, args: &[&str]) -> Command {
    let mut command = program_with_files(work, args);
    command.arg("--postgres");
    command
}

/// Returns the command of an experiment with files in a folder.
fn program_with_files(work: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shard-manager"));
    command.arg("lab").args(args).arg("--work-dir").arg(work);
    for name in ["MAX_GEN_USERS", "MAINDB_URL", "REDIS_URL"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// Returns the folders of experiments in a folder.
fn left_in(work: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(work).expect("readable").flatten();
    let is_of_lab = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("tessera-lab-"))
    };
    entries.map(|entry| entry.path()).filter(is_of_lab).collect()
}

#[test]
fn a_lab_compares_servers_of_its_own_and_a_database_on_the_server_of_maindb_url() {
    let place = ClusterFolder::new();
    let (own, _) = run_lab(place.parent.path(), None);
    for part in [r#""engine","value":"PostgreSQL "#, "shard2-primary", r#""bulk of 1,000""#] {
        assert!(own.contains(part), "{part}: {own}");
    }
    let cluster = place.up(1, 0);
    let primary = cluster.node("shard1-primary").expect("a primary");
    ask(primary, "CREATE DATABASE tessera_lab_killed");
    let databases = "SELECT string_agg(datname, ',' ORDER BY datname) FROM pg_database";
    let before = ask(primary, databases);
    let (on_main, messages) = run_lab(place.parent.path(), Some(&primary.url("shard1")));
    assert!(on_main.contains("the server of MAINDB_URL"), "{on_main}");
    assert!(!own.contains("files") && !on_main.contains("files"), "reasons speak of servers");
    let left = "drop them: DROP DATABASE tessera_lab_killed;";
    let named: Vec<&str> = messages.lines().filter(|line| line.contains(left)).collect();
    assert_eq!(named.len(), 1, "{messages}");
    assert_eq!(ask(primary, databases), before, "the lab has dropped its database, and no other");
    let mut beside_files = program_with_files(place.parent.path(), &SMALL_RUN);
    beside_files.env("MAINDB_URL", primary.url("shard1")).arg("--json");
    let ended = beside_files.output().expect("the program starts");
    let beside_files = String::from_utf8(ended.stdout).expect("UTF-8");
    for part in ["shards: SQLite ", "while the shards are files", "also compares these engines"] {
        assert!(beside_files.contains(part), "{part}: {beside_files}");
    }
    assert_eq!(left_in(place.parent.path()), Vec::<PathBuf>::new(), "the files are removed");
    assert_eq!(ask(primary, databases), before, "this database is dropped as well");
    let foreign = "SELECT count(*) FROM pg_tables WHERE schemaname = 'tessera'";
    assert_eq!(ask(primary, foreign), "0", "nothing was made in the database of the URL");
}

#[test]
fn a_network_that_is_slow_lossy_or_cut_loses_no_acknowledged_write_on_servers() {
    let args = ["network", "--operations", "30", "--latency-ms", "10"];
    let number = |row: &Value, column: usize| row[column].as_u64().expect("a number");
    let is_whole = |report: &Value| {
        let stored = rows(report, 0)[..4].iter().map(|row| number(row, 1));
        stored.eq([30_u64; 4])
    };
    // A machine that stands still for longer than a write waits refuses some.
    let mut report = report_of(&args);
    for _ in 0..2 {
        if !is_whole(&report) {
            report = report_of(&args);
        }
    }
    let rows = rows(&report, 0);
    let names: Vec<&str> = rows.iter().filter_map(|row| row[0].as_str()).collect();
    let (gone, cut) = ("a replica of each shard cut off", "primary of shard1 cut off");
    assert_eq!(names, ["calm", "10 ms delay", "1 of 100 chunks lost", gone, cut]);
    for row in &rows[..4] {
        assert_eq!((number(row, 1), number(row, 2) + number(row, 3)), (30, 0), "{row:#}");
    }
    let late = rows[1][5].as_f64().expect("a time");
    assert!(late >= 10.0, "an answer cannot be earlier than its delay: {late} ms");
    let cut = &rows[4];
    assert!(number(cut, 1) > 0 && number(cut, 2) + number(cut, 3) > 0, "one of two: {cut:#}");
}

#[test]
fn the_same_queries_are_answered_with_each_number_of_servers() {
    let args = ["shards", "--counts", "1,2", "--users", "300", "--operations", "50"];
    let report = report_of(&args);
    let rows = rows(&report, 0);
    assert_eq!(rows.len(), 12, "six queries, two numbers");
    for pair in rows.chunks(2) {
        assert_eq!((&pair[0][1], &pair[1][1]), (&json!(1), &json!(2)), "{pair:?}");
        assert_eq!((&pair[0][0], &pair[0][2]), (&pair[1][0], &pair[1][2]), "the same requests");
    }
}

#[test]
fn a_server_joins_under_traffic_and_is_removed_and_nothing_is_lost() {
    // A client sends its next request at once: a second one would take the time of the moves.
    let args = ["grow", "--users", "300", "--shards", "7", "--quiet-ms", "1000", "--clients", "1"];
    let report = report_of(&args);
    let phases = rows(&report, 0);
    assert_eq!(phases.len(), 5);
    assert!(phases.iter().all(|row| row[2].as_u64() > Some(0) && row[3] == 0), "{phases:?}");
    let moved = rows(&report, 1);
    assert_eq!(moved[0][2], moved[1][2], "it gives back what it took: {moved:?}");
    assert_eq!(moved[0][2], 2_048, "an eighth of the slots: {moved:?}");
    assert_eq!(report["settings"][4], json!({"name": "quiet", "value": "1000 ms"}));
}

#[test]
fn a_query_finds_its_row_with_and_without_an_index_on_servers() {
    let args = ["indexes", "--users", "200,400", "--operations", "20", "--shards", "2"];
    let report = report_of(&args);
    let rows = rows(&report, 0);
    let names: Vec<Value> = rows.iter().map(|row| json!([row[0], row[1]])).collect();
    let expected = [(200, "none"), (200, "email"), (400, "none"), (400, "email")];
    assert_eq!(names, expected.map(|(users, index)| json!([users, index])));
    for row in rows {
        assert_eq!((&row[3], &row[6]), (&json!(20), &json!(20)), "{row:?}");
    }
}

#[test]
fn no_read_from_a_cache_before_servers_is_stale() {
    let args = ["cache", "--users", "200", "--operations", "600"];
    let report = report_of(&args);
    let rows = rows(&report, 0);
    let names: Vec<Value> = rows.iter().map(|row| json!([row[0], row[1]])).collect();
    let expected = [["none", "even"], ["none", "skewed"], ["memory", "even"], ["memory", "skewed"]];
    assert_eq!(names, expected.map(|pair| json!(pair)));
    for row in rows {
        let number = |column: usize| row[column].as_u64().expect("a number");
        assert_eq!((number(2) + number(6), number(7)), (600, 0), "{row:?}");
    }
}

#[test]
fn the_last_write_loses_changes_which_if_match_and_insert_refuse_on_servers() {
    let report = report_of(&["conflicts", "--rounds", "10"]);
    let found = rows(&report, 0).iter().map(|row| json!([row[0], row[2], row[3], row[4]]));
    let expected = [
        json!(["last write", 20, 0, 10]),
        json!(["If-Match", 10, 10, 0]),
        json!(["insert", 10, 10, 0]),
    ];
    assert_eq!(found.collect::<Vec<_>>(), expected);
}

#[test]
fn levels_refuse_exactly_what_they_cannot_promise_while_servers_are_cut_off() {
    let report = report_of(&["levels", "--operations", "5", "--replicas", "1"]);
    let writes = rows(&report, 0).iter().map(|row| json!([row[0], row[1], row[2], row[3]]));
    let expected = [
        json!([0, "one", 5, 0]),
        json!([0, "quorum", 5, 0]),
        json!([0, "all", 5, 0]),
        json!([1, "one", 5, 0]),
        json!([1, "quorum", 0, 5]),
        json!([1, "all", 0, 5]),
    ];
    assert_eq!(writes.collect::<Vec<_>>(), expected);
}

#[test]
fn only_reads_at_one_without_a_token_are_stale_while_replicas_on_servers_lag() {
    let report = report_of(&["replicas", "--operations", "20"]);
    let rows = rows(&report, 0);
    assert_eq!(rows.len(), 12, "three delays, four kinds of reads");
    for row in rows {
        let text = |column: usize| row[column].as_str().expect("a text");
        let stale = row[3].as_f64().expect("a share");
        match (text(0), text(1)) {
            ("200 ms", "one") => assert!(stale > 0.0, "{row:?}"),
            (_, "one") => {}
            (_, _) => assert_eq!(stale, 0.0, "{row:?}"),
        }
        assert_eq!(row[2], 20, "{row:?}");
    }
}

#[test]
fn no_acknowledged_row_is_lost_when_all_servers_are_killed_in_the_middle_of_writes() {
    let report = report_of(&["crash", "--kills", "2", "--acknowledged", "60"]);
    let rows = rows(&report, 0);
    assert_eq!(rows.len(), 2);
    for row in rows {
        assert!(row[1].as_u64() >= Some(60) && row[1] == row[2] && row[3] == 0, "{row:?}");
    }
    let explanation = report["explanation"].as_str().expect("an explanation");
    assert!(explanation.contains("write-ahead log of its server"), "{explanation}");
}

#[test]
fn chapters_of_the_tour_about_failures_and_growing_show_their_subject_on_servers() {
    let place = ClusterFolder::new();
    let args = ["tour", "--unattended", "--chapter", "4"];
    let ended = run_experiment(place.parent.path(), &args, None);
    let tour: Value = serde_json::from_slice(&ended.stdout).expect("JSON");
    assert!(tour["engine"].as_str().is_some_and(|engine| engine.starts_with("PostgreSQL ")));
    let seen = |number: u64| {
        let chapters = tour["chapters"].as_array().expect("chapters");
        let chapter = chapters.iter().find(|chapter| chapter["number"] == number);
        let lines = chapter.and_then(|chapter| chapter["seen"].as_array()).expect("lines");
        lines.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n")
    };
    for (number, parts) in [
        (4, &["shard1-replica1 is down", "30 rows were written meanwhile", "is back"][..]),
        (5, &["sees the old name, from a replica", "sees the new name, from the primary"]),
        (6, &["its servers were killed with kill -9", "every acknowledged row is there"]),
        (7, &["one: stored", "quorum: stored", "all: refused"]),
        (8, &["2048 of 16384 slots moved to it, 12.5 %", "all 600 rows are there"]),
        (9, &["the advice is `hot`"]),
        (10, &["300 rows in one bulk write", "2 were stored"]),
    ] {
        for part in parts {
            assert!(seen(number).contains(part), "{number}: {part}: {}", seen(number));
        }
    }
}

#[test]
fn an_interrupted_experiment_stops_its_servers_and_leaves_nothing() {
    let long: [&[&str]; 6] = [
        &["conflicts", "--rounds", "100000"],
        &["levels", "--operations", "1000"],
        &["grow", "--users", "100000"],
        &["replicas", "--operations", "100000"],
        &["crash", "--kills", "1000", "--acknowledged", "900000"],
        &["tour", "--unattended"],
    ];
    for args in long {
        stop_early(args);
    }
}

#[test]
fn ctrl_c_while_servers_are_created_ends_the_experiment_and_leaves_no_server() {
    let place = ClusterFolder::new();
    let work = place.parent.path();
    let mut command = program(work, &["levels", "--operations", "1000"]);
    // The signal reaches the whole process group, as from a terminal.
    let child = command.process_group(0).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("the program starts");
    let nodes = wait_for(&mut child, work, |nodes| !nodes.is_empty());
    signal(&format!("-{}", child.id()));
    let ended = child.wait_with_output().expect("it ends");
    assert_eq!(ended.status.code(), Some(2), "{ended:?}");
    let messages = String::from_utf8(ended.stderr).expect("UTF-8");
    assert!(messages.contains(CANCELLED) && !messages.contains("initdb"), "{messages}");
    assert_eq!(left_in(work), Vec::<PathBuf>::new());
    assert_stopped(&nodes);
}

/// Interrupts an experiment once it has started a server.
#[track_caller]
fn stop_early(args: &[&str]) {
    let place = ClusterFolder::new();
    let work = place.parent.path();
    let mut command = program(work, args);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("the program starts");
    let nodes = wait_for(&mut child, work, |nodes| nodes.iter().any(LocalNode::is_running));
    interrupt(&child);
    let ended = child.wait_with_output().expect("it ends");
    assert_eq!(ended.status.code(), Some(2), "{ended:?}");
    let messages = String::from_utf8(ended.stderr).expect("UTF-8");
    assert!(messages.contains(CANCELLED), "{messages}");
    assert_eq!(left_in(work), Vec::<PathBuf>::new());
    assert_stopped(&nodes);
}

/// Requires that the server of none of these nodes accepts connections.
#[track_caller]
fn assert_stopped(nodes: &[LocalNode]) {
    for node in nodes {
        let connected = TcpStream::connect(("127.0.0.1", node.port));
        assert!(connected.is_err(), "the server of {} is stopped", node.name);
    }
}

#[test]
fn an_interrupted_run_drops_its_database_on_the_server_of_maindb_url() {
    let place = ClusterFolder::new();
    let work = place.parent.path();
    let cluster = place.up(1, 0);
    let primary = cluster.node("shard1-primary").expect("a primary");
    let databases = "SELECT string_agg(datname, ',' ORDER BY datname) FROM pg_database";
    let before = ask(primary, databases);
    let mut command = program(work, &["run", "--users", "2000000", "--shards", "1"]);
    command.env("MAINDB_URL", primary.url("shard1"));
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("the program starts");
    let mut messages = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut begun = String::new();
    // The database has been created, and users are generated into it.
    while !begun.contains("2 of 4") {
        let read = messages.read_line(&mut begun).expect("UTF-8");
        assert!(read > 0, "the experiment has ended: {begun}");
    }
    let (_, named) = begun.split_once("the one database is ").expect("it is named");
    let (name, _) = named.split_once(',').expect("a sentence");
    assert!(name.starts_with("tessera_lab_"), "{begun}");
    let count = format!("SELECT count(*) FROM pg_database WHERE datname = '{name}'");
    assert_eq!(ask(primary, &count), "1", "{begun}");
    interrupt(&child);
    let mut ended = String::new();
    messages.read_to_string(&mut ended).expect("UTF-8");
    assert_eq!(child.wait().expect("it ends").code(), Some(2), "{ended}");
    assert!(ended.contains(CANCELLED), "{ended}");
    assert_eq!(ask(primary, databases), before, "its database is dropped, and no other");
    assert_eq!(left_in(work), Vec::<PathBuf>::new());
}

/// Interrupts an experiment, as Ctrl-C does.
#[track_caller]
fn interrupt(experiment: &Child) {
    signal(&experiment.id().to_string());
}

/// Sends SIGINT to a process, or to a process group, whose id is negative.
#[track_caller]
fn signal(id: &str) {
    let signalled = Command::new("kill").args(["-INT", "--", id]).status();
    assert!(signalled.expect("kill runs").success());
}

/// Waits until the nodes of an experiment fulfil a condition, and returns them. An experiment whose
/// servers are not listed yet has no nodes.
#[track_caller]
fn wait_for(
    experiment: &mut Child,
    work: &Path,
    is_reached: impl Fn(&[LocalNode]) -> bool,
) -> Vec<LocalNode> {
    loop {
        let clusters = left_in(work).into_iter();
        let mut clusters = clusters.filter_map(|dir| LocalCluster::open(&dir.join("servers")).ok());
        let nodes = clusters.next().map(|cluster| cluster.nodes().to_vec()).unwrap_or_default();
        if is_reached(&nodes) {
            return nodes;
        }
        let ended = experiment.try_wait().expect("a child");
        assert!(ended.is_none(), "the experiment has ended: {ended:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
