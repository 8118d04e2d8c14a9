//! Tests of removing rows: a run removes its own rows, and no others.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

use crate::fake::{Behaviour, Fake};
use crate::http::send;
use crate::router::{PROGRAM, bare_command, tester};
use crate::served_router::ServedRouter;
use crate::{for_each, loadtest, text};

/// A router with embedded shards.
struct Router(ServedRouter);

impl Router {
    fn start(keyspace: &str) -> Self {
        let mut command = bare_command(&*PROGRAM);
        command.args(["--log", "error", "--replicas", "0", "--keyspace", keyspace]);
        Self(ServedRouter::start(tempfile::tempdir().unwrap(), command))
    }

    fn url(&self) -> String {
        self.0.url()
    }

    /// Sends a request; returns status and body.
    fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = send(&self.0.host, method, path, &body);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    /// Returns all rows of a table.
    fn rows(&self, table: &str) -> Value {
        let path = format!("/api/read?table={table}&limit=1000");
        let (status, answer) = self.ask("GET", &path, &Value::Null);
        assert_eq!(status, 200, "{table}: {answer}");
        answer["data"].clone()
    }

    /// Returns the ids of the tester's users.
    fn own(&self) -> Vec<String> {
        let rows = self.rows("loadtest_users");
        let rows = rows.as_array().unwrap().iter();
        rows.map(|row| row["user_id"].as_str().unwrap().to_owned()).collect()
    }

    fn store(&self, table: &str, key: &str, row: &Value) {
        let body = json!({"table": table, "shardKey": key, "data": row});
        let (status, answer) = self.ask("POST", "/api/write", &body);
        assert_eq!(status, 201, "{answer}");
    }
}

fn said(output: &Output) -> String {
    text(&output.stdout) + &text(&output.stderr)
}

/// Starts a run, and returns when it has printed its first line of progress.
fn under_way(host: &str) -> Child {
    let mut command = tester();
    command.args(["--host", host, "--run-time", "600"]);
    command.args(["--users", "2", "--keys", "50", "--mix", "a"]);
    let mut tester = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(tester.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("requests") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "the run ends before it began");
    }
    // The output is read to its end, because writing to a pipe without a reader would end the
    // program.
    std::thread::spawn(move || stderr.lines().count());
    tester
}

fn signal(tester: &Child, name: &str) {
    let sent = Command::new("kill").args([name, &tester.id().to_string()]).status();
    assert!(sent.unwrap().success());
}

#[test]
fn rows_of_others_stay_as_they_are_and_a_run_leaves_none_of_its_own() {
    let keyspaces = [
        ("hash", "user_0"),
        ("modulo", "user_0"),
        ("range:1000,2000,3000", "7"),
        ("range-text:g,n", "user_0"),
        ("list:A=30,B=20,D=25", "A:user_0"),
        ("matrix:id", "@user_0:example.org"),
        ("matrix:server", "@user_0:example.org"),
    ];
    for_each(keyspaces, |(keyspace, key)| {
        let router = Router::start(keyspace);
        router.store(
            "users",
            key,
            &json!({"user_id": key, "name": "Ada", "email": "ada@example.org"}),
        );
        router.store("transactions", key, &json!({"tx_id": "t1", "account": key, "amount": 5}));
        router.store("kv", key, &json!({"key": key, "value": 1}));
        let tables = ["users", "transactions", "kv"];
        let before = tables.map(|table| router.rows(table));
        for mode in [&["--mix", "f"][..], &["--mix", "kv", "--yes"], &["--verify"]] {
            let output = loadtest(&router.url(), mode);
            assert_eq!(output.status.code(), Some(0), "{keyspace} {mode:?}: {}", said(&output));
            assert_eq!(tables.map(|table| router.rows(table)), before, "{keyspace} {mode:?}");
        }
        for table in ["loadtest_users", "loadtest_transactions"] {
            assert_eq!(router.rows(table), json!([]), "{keyspace}");
        }
    });
}

#[test]
fn rows_of_a_killed_run_disturb_no_other_and_are_removed_on_demand() {
    let router = Router::start("hash");
    let mut tester = under_way(&router.url());
    tester.kill().unwrap();
    tester.wait().unwrap();
    let left = router.own();
    assert_eq!(left.len(), 50);

    let output = loadtest(&router.url(), &["--mix", "b"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let reported = "loadtest_users has rows of another run, which is under way or was killed";
    assert!(said(&output).contains(reported), "{}", said(&output));
    assert_eq!(router.own(), left, "what may be under way is left alone");

    let output = loadtest(&router.url(), &["--mix", "b", "--keep"]);
    assert!(said(&output).contains("are kept in loadtest_users"), "{}", said(&output));
    assert_eq!(router.own().len(), 100);

    let output = loadtest(&router.url(), &["--clean"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("100 rows removed from loadtest_users"), "{}", said(&output));
    assert_eq!(router.own(), Vec::<String>::new());
}

#[test]
fn a_run_that_is_ended_removes_its_rows_first() {
    for (name, code) in [("-INT", 0), ("-TERM", 2)] {
        let fake = Fake::start(Behaviour::Honest);
        let mut tester = under_way(&fake.host());
        assert_eq!(fake.rows(), 50);
        signal(&tester, name);
        assert_eq!(tester.wait().unwrap().code(), Some(code), "{name}");
        assert_eq!(fake.rows(), 0, "{name}");
    }
}

#[test]
fn a_table_with_rows_of_others_is_left_alone_without_agreement() {
    let fake = Fake::start(Behaviour::HasForeignRows);
    let refused = loadtest(&fake.host(), &[]);
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    let reported = "loadtest: loadtest_users has rows that are not the load tester's";
    assert!(
        said(&refused).contains(reported) && said(&refused).contains("--yes"),
        "{}",
        said(&refused)
    );
    assert_eq!(fake.rows(), 0);
    let agreed = loadtest(&fake.host(), &["--yes"]);
    assert_eq!(agreed.status.code(), Some(0), "{}", said(&agreed));
    assert_eq!(fake.rows(), 0);
}

#[test]
fn rows_that_cannot_be_removed_are_reported() {
    let fake = Fake::start(Behaviour::KeepsRows);
    let output = loadtest(&fake.host(), &[]);
    assert_eq!(output.status.code(), Some(0), "the answers were right: {}", said(&output));
    let reported = "rows of this run are left in loadtest_users: removing rows of loadtest_users was answered 503";
    assert!(said(&output).contains(reported), "{}", said(&output));
}
