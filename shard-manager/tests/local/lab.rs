//! Tests of `lab run --postgres` and `lab network --postgres`: servers and databases that they make
//! and remove.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::servers::{ClusterFolder, ask};

/// Runs the comparison with few users in a folder, and returns its report.
fn run_lab(work: &Path, main: Option<&str>) -> String {
    let args = ["run", "--users", "300", "--shards", "2", "--operations", "100"];
    run_experiment(work, &args, main)
}

/// Runs an experiment with servers in a folder, and returns its report.
fn run_experiment(work: &Path, args: &[&str], main: Option<&str>) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shard-manager"));
    command.arg("lab").args(args).args(["--postgres", "--json", "--clients", "2", "--work-dir"]);
    command.arg(work);
    command.env_remove("MAX_GEN_USERS").env_remove("MAINDB_URL").stdin(Stdio::null());
    if let Some(url) = main {
        command.env("MAINDB_URL", url);
    }
    let ended = command.output().expect("the program starts");
    assert!(ended.status.success(), "{ended:?}");
    let left = std::fs::read_dir(work).expect("readable").flatten();
    let left = left.filter(|entry| entry.file_name().to_string_lossy().starts_with("tessera-lab-"));
    assert_eq!(left.count(), 0, "the servers are removed");
    String::from_utf8(ended.stdout).expect("UTF-8")
}

#[test]
fn a_lab_compares_servers_of_its_own_and_a_database_on_the_server_of_maindb_url() {
    let place = ClusterFolder::new();
    let own = run_lab(place.parent.path(), None);
    for part in [r#""engine","value":"PostgreSQL "#, "shard2-primary", r#""bulk of 1,000""#] {
        assert!(own.contains(part), "{part}: {own}");
    }
    let cluster = place.up(1, 0);
    let primary = cluster.node("shard1-primary").expect("a primary");
    let databases = "SELECT string_agg(datname, ',' ORDER BY datname) FROM pg_database";
    let before = ask(primary, databases);
    let on_main = run_lab(place.parent.path(), Some(&primary.url("shard1")));
    assert!(on_main.contains("the server of MAINDB_URL"), "{on_main}");
    assert_eq!(ask(primary, databases), before, "the lab has dropped its database, and no other");
    let foreign = "SELECT count(*) FROM pg_tables WHERE schemaname = 'tessera'";
    assert_eq!(ask(primary, foreign), "0", "nothing was made in the database of the URL");
}

#[test]
fn a_network_that_is_slow_lossy_or_cut_loses_no_acknowledged_write_on_servers() {
    let place = ClusterFolder::new();
    let args = ["network", "--operations", "30", "--latency-ms", "10"];
    let report = run_experiment(place.parent.path(), &args, None);
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    let rows = report["tables"][0]["rows"].as_array().expect("rows");
    let number = |row: &serde_json::Value, column: usize| row[column].as_u64().expect("a number");
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
