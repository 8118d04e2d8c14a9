//! Tests of the operator's commands that send requests to a running router.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::backend::files_only;
use crate::harness::{Router, isolated};
use crate::other_program::program;

/// Program of the command line, which belongs to another package.
pub(crate) static PROGRAM: LazyLock<PathBuf> =
    LazyLock::new(|| program(env!("CARGO_BIN_EXE_api-router"), "shard-manager"));

/// Program of the analytics service, which belongs to another package.
pub(crate) static ANALYTICS: LazyLock<PathBuf> =
    LazyLock::new(|| program(env!("CARGO_BIN_EXE_api-router"), "analytics"));

/// Result of a command.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    #[track_caller]
    pub(crate) fn json(self, code: i32) -> Value {
        assert_eq!(self.code, Some(code), "{self:#?}");
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

/// Runs a command that reads this text from its standard input.
pub(crate) fn run(arguments: &[&str], text: &str) -> Ended {
    let mut command = isolated(Command::new(&*PROGRAM), &std::env::temp_dir());
    command.env_remove("MAX_GEN_USERS").args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // A command that does not read its input may already have ended.
        scope.spawn(move || drop(stdin.write_all(text.as_bytes())));
        let ended = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ended { code: ended.status.code(), out: text(ended.stdout), err: text(ended.stderr) }
    })
}

/// Runs a command with JSON output against a router.
pub(crate) fn ask(router: &Router, arguments: &[&str], text: &str) -> Ended {
    run(&[arguments, &["--json", "--url", &router.url("/")]].concat(), text)
}

/// Returns the number of rows of a table.
pub(crate) fn rows(router: &Router, table: &str) -> Value {
    let headers = [("prefer", "count=exact"), ("x-consistency", "all")];
    let path = format!("/api/read?table={table}&limit=1");
    let reply = router.send("GET", &path, &headers, None);
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["total"].clone()
}

#[test]
fn users_are_made_through_a_router_as_its_keyspace_demands() {
    for keyspace in ["hash", "modulo", "range:100,200", "list:A=3,B=1", "matrix:server"] {
        let router = Router::start_with(&["--keyspace", keyspace]);
        let arguments = ["generate", "--users", "300", "--orders-per-user", "2"];
        for _ in 0..2 {
            let reported = ask(&router, &arguments, "").json(0);
            assert_eq!(
                (&reported["stored"], &reported["failed"]),
                (&json!(900), &json!(0)),
                "{keyspace}"
            );
        }
        // Run again with the existing rows, the command leaves the same number of rows.
        assert_eq!((rows(&router, "users"), rows(&router, "orders")), (json!(300), json!(600)));
    }
    let router = Router::start_with(&["--keyspace", "list:A=3,B=1"]);
    let refused = ask(&router, &["generate", "--users", "9", "--weights", "C=1"], "");
    assert_eq!(refused.code, Some(2), "{refused:#?}");
    assert!(refused.err.contains("has no partition C; there are: A, B"), "{refused:#?}");
}

#[test]
fn the_same_users_are_made_with_and_without_a_router() {
    files_only!("the command line works on data directories");
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    let straight = ["generate", "--users", "200", "--json", "--data-dir", data.to_str().unwrap()];
    assert_eq!(run(&straight, "").json(0)["stored"], 400);
    let router = Router::start_in(&data, &[]);
    let reported = ask(&router, &["generate", "--users", "200"], "").json(0);
    assert_eq!(reported["stored"], 400);
    assert_eq!((rows(&router, "users"), rows(&router, "orders")), (json!(200), json!(200)));
}

#[test]
fn rows_are_imported_through_a_router_and_failed_ones_are_listed() {
    let router = Router::start();
    let lines: String = (0..500)
        .map(|number| match number {
            7 => "{\"user_id\":\"u7\",\"name\":7,\"email\":\"e\"}\n".to_owned(),
            _ => format!("{{\"user_id\":\"u{number}\",\"name\":\"n\",\"email\":\"e\"}}\n"),
        })
        .collect();
    let reported = ask(&router, &["import", "--table", "users"], &lines).json(1);
    assert_eq!((&reported["stored"], &reported["failed"]), (&json!(499), &json!(1)));
    assert_eq!(reported["first_failed"][0]["index"], 7);
    let records: String = (0..500).map(|number| format!("\"u{number}\",\"n, m\",e\n")).collect();
    let records = format!("user_id,name,email\n{records}");
    let csv = ["import", "--table", "users", "--format", "csv"];
    assert_eq!(ask(&router, &csv, &records).json(0)["stored"], 500);
    let insert = [&csv[..], &["--op", "insert"]].concat();
    assert_eq!(ask(&router, &insert, &records).json(1)["failed"], 500);
    assert_eq!(rows(&router, "users"), 500);
    let refused = ask(&router, &["import", "--table", "usres"], &lines);
    assert_eq!(refused.code, Some(2), "{refused:#?}");
    assert!(refused.err.contains("there is no table `usres`"), "{refused:#?}");
}

#[test]
fn what_is_exported_beside_one_router_goes_in_through_another() {
    files_only!("the command line works on data directories");
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    let from = Router::start_in(&data, &[]);
    let table = json!({
        "name": "notes", "id": ["number"],
        "columns": [{"name": "number", "type": "bigint", "null": false}, {"name": "note", "type": "json"}],
    });
    let make = |router: &Router| {
        let reply = router.send("POST", "/api/tables", &[], Some(table.to_string().as_bytes()));
        assert_eq!(reply.status, 201, "{}", reply.text());
    };
    make(&from);
    let lines: String = (0..50)
        .map(|number| {
            let data = json!({"number": number, "note": {"data": [null, "\""]}});
            json!({"shard_key": format!("key {}", number % 7), "data": data}).to_string() + "\n"
        })
        .collect();
    assert_eq!(ask(&from, &["import", "--table", "notes"], &lines).json(0)["stored"], 50);
    for format in ["ndjson", "csv"] {
        let what = ["--table", "notes", "--format", format];
        let place = ["--data-dir", data.to_str().unwrap()];
        let exported = run(&[&["export"], &what[..], &place[..]].concat(), "");
        assert_eq!(exported.code, Some(0), "{exported:#?}");
        let to = Router::start_with(&["--shards", "5"]);
        make(&to);
        let import = [&["import"], &what[..]].concat();
        assert_eq!(ask(&to, &import, &exported.out).json(0)["stored"], 50);
        assert_eq!(rows(&to, "notes"), 50);
    }
}

#[test]
fn a_router_and_its_files_give_the_same_rows() {
    files_only!("the command line works on data directories");
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    let router = Router::start_in(&data, &["--keyspace", "list:A=3,B=1"]);
    assert_eq!(ask(&router, &["generate", "--users", "40"], "").json(0)["stored"], 80);
    let place = ["--json", "--data-dir", data.to_str().unwrap()];
    let both = |arguments: &[&str], text: &str| {
        let looked = run(&[arguments, &place[..]].concat(), text).json(0);
        (ask(&router, arguments, text).json(0), looked)
    };
    let (asked, looked) = both(&["route", "A:user_1", "-"], "B:user_1\nB:user_2\n");
    assert_eq!(asked, looked);
    assert_eq!(asked.as_array().unwrap().len(), 3);
    let (asked, looked) = both(&["placement", "show"], "");
    assert_eq!(asked, looked);
    let (asked, looked) = both(&["status"], "");
    assert_eq!((&asked["ok"], &looked["ok"]), (&json!(true), &json!(true)));
    for member in ["epoch", "router/running", "shards/2/slots", "shards/1/nodes/0/rows"] {
        let pointer = format!("/{member}");
        assert_eq!(asked.pointer(&pointer), looked.pointer(&pointer), "{member}");
        assert!(asked.pointer(&pointer).is_some(), "{member}");
    }
}
