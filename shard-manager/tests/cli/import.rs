//! Tests of `import`.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use shard_manager::access::rights::Rights;
use shard_manager::declaration::Declaration;
use shard_manager::store::sqlite::offline_view::{DirView, Holder};
use shard_manager::table::Column;
use shard_manager::value::ColumnType;

use crate::cluster::{
    Cluster, block_on, interrupt, program, run, run_in, run_reading, serve, write,
};

/// A cluster with a table whose rows do not contain their shard key.
fn with_notes(shards: usize) -> Cluster {
    let cluster = Cluster::new(shards, 0);
    let declared = Declaration {
        name: "notes".to_owned(),
        columns: vec![
            Column::new("number", ColumnType::Bigint, false),
            Column::new("note", ColumnType::Json, true),
        ],
        id: vec!["number".to_owned()],
        routing: None,
    };
    let table = declared.check().expect("a good table");
    let deadline = Instant::now() + Duration::from_secs(600);
    block_on(cluster.manager.schema(Rights::ALL).create_table(table, deadline))
        .expect("the table is made");
    cluster
}

#[test]
fn rows_that_do_not_contain_their_key_can_be_exported_and_imported() {
    let cluster = with_notes(3);
    let rows = (0..40).map(|number| {
        let note = if number % 2 == 0 { "null" } else { r#"{"data":{"a":"\""}}"# };
        (format!("key {}", number % 7), format!(r#"{{"number":{number},"note":{note}}}"#))
    });
    write(&cluster.manager, "notes", rows);
    let exported = |dir: &std::path::Path, format: &str| -> BTreeSet<String> {
        let lines = run_in(dir, &["export", "--table", "notes", "--format", format]).expect(0).out;
        assert!(lines.lines().next().is_some_and(|line| line.contains("shard_key")));
        lines.lines().map(str::to_owned).collect()
    };
    for format in ["ndjson", "csv"] {
        let args = ["export", "--table", "notes", "--format", format];
        let lines = run_in(cluster.path(), &args).expect(0).out;
        let dir = with_notes(2).stop();
        let args = ["import", "--table", "notes", "--format", format, "--json"];
        let args = [&args[..], &["--data-dir", dir.path().to_str().unwrap()]].concat();
        let stored = run_reading(dir.path(), &args, &lines).expect(0).json();
        assert_eq!((&stored["stored"], &stored["failed"]), (&40.into(), &0.into()));
        assert_eq!(exported(dir.path(), format), exported(cluster.path(), format), "{format}");
    }
}

#[test]
fn members_beside_the_data_of_a_line_are_applied_or_refused() {
    let dir = Cluster::filled().stop();
    let args = ["import", "--table", "users", "--data-dir", dir.path().to_str().unwrap()];
    let row = r#""data":{"user_id":"user_1","name":"n","email":"e"}"#;
    let lines = [
        format!(r#"{{{row},"if_version":999999}}"#),
        format!(r#"{{{row},"if_verison":1}}"#),
        format!(r#"{{{row},"shard_key":"user_2"}}"#),
        format!(r#"{{{row}}}"#),
    ];
    let ended = run_reading(dir.path(), &args, &lines.join("\n")).expect(1);
    assert!(ended.out.starts_with("1 rows of users are stored, 3 failed"), "{ended:#?}");
    for reported in
        ["line 1: ", "line 2: `if_verison` is not allowed", "line 3: user_id contradicts"]
    {
        assert!(ended.err.contains(reported), "{reported}: {ended:#?}");
    }
}

#[test]
fn an_import_without_a_response_of_the_router_does_not_report_rows_as_stored() {
    let url = serve(&[("/api/bulk-write", 502, "{}")]);
    let ended = run(&["import", "--table", "users", "--url", &url]);
    ended.refused("all, some or none of the rows may be stored; sent again as upserts");
    let ended = run(&["import", "--table", "users", "--url", "http://127.0.0.1:1"]);
    assert!(!ended.err.contains("stored"), "{ended:#?}");
    ended.refused("the router does not answer");
}

#[test]
fn ctrl_c_ends_an_import_into_a_router_that_waits_for_its_input() {
    let router = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", router.local_addr().unwrap());
    let mut command = program(&["import", "--table", "users", "--url", &url]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let _stdin = child.stdin.take().unwrap();
    let _client = router.accept().unwrap();
    let said = interrupt(child);
    assert!(said.contains("error: cancelled"), "{said}");
}

#[test]
fn ctrl_c_ends_an_import_that_waits_for_its_input() {
    let dir = Cluster::new(2, 0).stop();
    let pipe = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for input in ["-", pipe.to_str().unwrap()] {
        let args = ["import", "--table", "users", "--input", input, "--data-dir"];
        let mut command = program(&args);
        command.arg(dir.path()).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        // The cluster keeps holding the directory; the other end of the pipe is never opened.
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"{\"user_id\":\"u\",\"name\":\"n\",\"email\":\"e\"}\n").unwrap();
        let holder = || DirView::open(dir.path()).unwrap().holder().unwrap();
        while !matches!(holder(), Holder::Process { .. }) {
            assert!(child.try_wait().unwrap().is_none(), "it ended before the signal");
            std::thread::yield_now();
        }
        let said = interrupt(child);
        assert!(said.contains("error: cancelled; 0 rows before line 1 are stored"), "{said}");
        drop(stdin);
    }
    fs::remove_file(&pipe).unwrap();
}
