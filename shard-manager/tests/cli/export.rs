//! Tests of `export`.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::process::Stdio;

use serde_json::Value;
use shard_manager::engine::move_record::move_name;
use shard_manager::topology::ShardNumber;

use crate::cluster::{
    Cluster, block_on, file, meddle, program, run_in, write, write_long_users, write_users,
};
use crate::moves::planned;

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
}

#[test]
fn every_row_is_exported_once_beside_a_running_router() {
    let cluster = Cluster::filled();
    let ended = run_in(cluster.path(), &["export", "--table", "users"]).expect(0);
    let keys: BTreeSet<String> =
        lines(&ended.out).iter().map(|row| row["user_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!((keys.len(), ended.out.lines().count()), (60, 60));
    assert_eq!(ended.err, "60 rows of users\n");
    let first = ended.out.lines().next().unwrap();
    assert!(first.starts_with(r#"{"user_id":"#), "{first}");
    assert!(!first.contains("version"), "own columns only: {first}");
}

#[test]
fn an_export_can_be_imported_unchanged() {
    let cluster = Cluster::new(3, 0);
    let values = [r#""\u00e9\"\n""#, r#"{"a":[1,null]}"#, "17", "true"];
    let rows = values.iter().enumerate().map(|(number, value)| {
        (format!("k{number}"), format!(r#"{{"key":"k{number}","value":{value}}}"#))
    });
    write(&cluster.manager, "kv", rows);
    let before = run_in(cluster.path(), &["export", "--table", "kv"]).expect(0).out;
    let other = Cluster::new(5, 0);
    let rows = before.lines().zip(lines(&before));
    let rows = rows.map(|(line, row)| (row["key"].as_str().unwrap().to_owned(), line.to_owned()));
    write(&other.manager, "kv", rows);
    let after = run_in(other.path(), &["export", "--table", "kv"]).expect(0).out;
    let sorted = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    assert_eq!(sorted(&before), sorted(&after));
}

#[test]
fn csv_distinguishes_null_from_empty_and_quotes_where_necessary() {
    let cluster = Cluster::new(1, 0);
    let rows = [(r#""""#, "null"), (r#""a, \"b\"""#, r#""""#), (r#""line\r\nline""#, r#"" x""#)];
    let rows = rows.into_iter().enumerate().map(|(number, (name, partition))| {
        let row = format!(
            r#"{{"user_id":"u{number}","name":{name},"email":"e","partition_key":{partition}}}"#
        );
        (format!("u{number}"), row)
    });
    write(&cluster.manager, "users", rows);
    let ended =
        run_in(cluster.path(), &["export", "--table", "users", "--format", "csv"]).expect(0);
    assert!(ended.out.starts_with("user_id,name,email,partition_key\r\n"), "{ended:#?}");
    assert!(ended.out.contains("u0,\"\",e,\r\n"), "{ended:#?}");
    assert!(ended.out.contains("u1,\"a, \"\"b\"\"\",e,\"\"\r\n"), "{ended:#?}");
    assert!(ended.out.contains("u2,\"line\r\nline\",e,\" x\"\r\n"), "{ended:#?}");
}

#[test]
fn system_columns_are_exported_on_request() {
    let cluster = Cluster::new(1, 0);
    write_users(&cluster.manager, 0..1);
    let ended = run_in(cluster.path(), &["export", "--table", "users", "--system"]).expect(0);
    let row = &lines(&ended.out)[0];
    assert_eq!(row["shard_key"], "user_0");
    assert_eq!(row["version"], 1);
    assert!(row["updated_at"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn each_table_is_exported_to_a_file_of_its_own() {
    let cluster = Cluster::filled();
    let out = tempfile::tempdir().unwrap();
    let folder = out.path().join("new");
    let args = ["export", "--all", "--output", folder.to_str().unwrap(), "--json"];
    let exported = run_in(cluster.path(), &args).expect(0).json();
    assert_eq!(exported.as_array().unwrap().len(), 5);
    let users = fs::read_to_string(folder.join("users.ndjson")).unwrap();
    assert_eq!(users.lines().count(), 60);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 5, "no part is left");
}

#[test]
fn an_export_that_fails_keeps_the_previous_file() {
    let dir = Cluster::filled().stop();
    let out = tempfile::tempdir().unwrap();
    let users = out.path().join("users");
    fs::write(&users, "of yesterday").unwrap();
    let args = ["export", "--table", "users", "--output", users.to_str().unwrap()];
    meddle(
        &file(dir.path(), "shard3-primary"),
        "UPDATE tessera_counts SET rows = rows + 1 WHERE name = 'users'",
    );
    let ended = run_in(dir.path(), &args).expect(1);
    assert!(ended.err.contains("the export is not complete"), "{ended:#?}");
    fs::remove_file(file(dir.path(), "shard2-primary")).unwrap();
    run_in(dir.path(), &args).refused("missing or empty");
    assert_eq!(fs::read_to_string(&users).unwrap(), "of yesterday");
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 1, "no part is left");
}

#[test]
fn an_export_of_a_stopped_cluster_names_the_move_that_rests_and_the_remedy() {
    let cluster = Cluster::filled();
    let name = move_name(block_on(planned(&cluster.manager)));
    let map = cluster.manager.map();
    let slot = map.slots_of(ShardNumber(0)).next().unwrap();
    let dir = cluster.stop();
    meddle(
        &file(dir.path(), "shard1-primary"),
        &format!("UPDATE tessera_slots SET state = 'moved' WHERE slot = {slot}"),
    );
    let run = |args: &[&str]| run_in(dir.path(), &[&["export", "--table"], args].concat());
    run(&["users"]).refused(&format!("the slots {slot} are changing hands in the move {name}"));
    let remedy = format!("`shard-manager move wait {name} --data-dir {}`", dir.path().display());
    run(&["users"]).refused(&remedy);
    run(&["usres"]).refused("there is no table `usres`");
    run(&["users", "--output", "/nowhere/x"]).refused("/nowhere/x");
}

#[test]
fn a_closed_pipe_ends_the_export_quietly() {
    let cluster = Cluster::new(1, 0);
    write_long_users(&cluster.manager, 500, 2_000);
    let mut command = program(&["export", "--table", "users"]);
    command.env("TESSERA_DATA_DIR", cluster.path());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.stderr.is_empty(), "{ended:?}");
}

#[test]
fn wrong_usage_of_export_is_refused_in_one_line() {
    let cluster = Cluster::new(1, 0);
    let run = |args: &[&str]| run_in(cluster.path(), args);
    run(&["export", "--table", "usres"])
        .refused("there is no table `usres`; there are: kv, orders");
    run(&["export"]).refused("--table");
    run(&["export", "--table", "users", "--format", "xml"]).refused("xml");
    run(&["export", "--table", "users", "--output", "/nowhere/x"]).refused("/nowhere/x");
}
