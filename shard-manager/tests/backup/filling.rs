//! Tests of the commands that fill a cluster with rows: demo data and import.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use shard_manager::engine::cluster_spec::ClusterSpec;

use crate::cluster::{execute, ints, open, shards, texts};
use crate::command::{fail, fail_in_one_line, program, run, succeed, text};
use crate::scratch;

/// User-defined columns of all rows of a table on all shards, in order.
fn rows(dir: &Path, table: &str, columns: &str) -> Vec<String> {
    let sql = format!("SELECT json_array({columns}) AS value FROM {table}");
    let mut rows: Vec<String> = primaries(dir).iter().flat_map(|file| texts(file, &sql)).collect();
    rows.sort();
    rows
}

fn primaries(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).expect("a data directory");
    let files = entries.map(|entry| entry.expect("an entry").path());
    files.filter(|file| file.to_string_lossy().ends_with("-primary.db")).collect()
}

const USERS: &str = "user_id,name,email,partition_key";
const ORDERS: &str = "order_id,user_id,amount,status,note";

fn made(dir: &Path, count: usize) {
    open(dir, shards(count)).expect("a new cluster").close();
}

fn generate(dir: &Path, more: &[&str]) -> serde_json::Value {
    let mut arguments = vec!["generate", "--data-dir", text(dir), "--json"];
    arguments.extend_from_slice(more);
    serde_json::from_str(&succeed(&arguments)).expect("one document")
}

#[test]
fn equal_seeds_generate_equal_rows_on_any_cluster_and_other_seeds_other_rows() {
    let dir = scratch::folder();
    let folder = |name: &str| dir.path().join(name);
    made(&folder("three"), 3);
    made(&folder("five"), 5);
    made(&folder("other"), 3);
    let plan = ["--users", "500", "--orders-per-user", "2", "--seed", "7"];
    generate(&folder("three"), &plan);
    generate(&folder("five"), &plan);
    generate(&folder("other"), &["--users", "500", "--orders-per-user", "2", "--seed", "8"]);
    for (table, columns) in [("users", USERS), ("orders", ORDERS)] {
        let three = rows(&folder("three"), table, columns);
        assert_eq!(three, rows(&folder("five"), table, columns));
        assert_ne!(three, rows(&folder("other"), table, columns));
    }
    // Generating the same rows again adds nothing and loses nothing.
    generate(&folder("three"), &plan);
    assert_eq!(rows(&folder("three"), "orders", ORDERS).len(), 1_000);
}

#[test]
fn users_are_distributed_by_weight_and_have_unique_ids_and_emails() {
    let dir = scratch::folder();
    let reported = generate(dir.path(), &["--users", "1001", "--orders-per-user", "3"]);
    assert_eq!(reported["stored"], 1001 * 4);
    let users = rows(dir.path(), "users", "user_id");
    assert_eq!(users.len(), 1001);
    assert!(users.contains(&r#"["user_A_0"]"#.to_owned()), "{:?}", &users[..3]);
    assert!(rows(dir.path(), "orders", "order_id").contains(&r#"["order_A_0_0"]"#.to_owned()));
    let mails: BTreeSet<String> = rows(dir.path(), "users", "email").into_iter().collect();
    assert_eq!(mails.len(), 1001);
    let keys = rows(dir.path(), "users", "partition_key");
    for (key, share) in [("A", 300), ("B", 200), ("C", 150), ("D", 250), ("E", 100)] {
        let users = keys.iter().filter(|found| **found == format!(r#"["{key}"]"#)).count();
        assert!(users.abs_diff(share) <= 1, "{users} of {key}");
        assert_eq!(reported["wanted"]["partitions"][key], users);
    }
    for file in primaries(dir.path()) {
        let stray = "SELECT count(*) AS value FROM orders WHERE user_id <> shard_key";
        assert_eq!(ints(&file, stray), [0], "an order lies under the key of its user");
    }
    open(dir.path(), ClusterSpec::default()).expect("a router can start over it").close();
}

/// A child process that is killed when the test ends.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        // The process may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn many_users_take_no_more_memory_than_few() {
    // Allowed memory: one chunk of rows per shard, the rows being stored, and SQLite's caches,
    // which grow with the files. For this many users, a list of their numbers alone would take
    // more, and a list of one million users with their orders more than 512 MiB.
    let to_the_end = std::env::var_os("LONG_TESTS").is_some();
    let (users, enough, kib_max) =
        if to_the_end { (1_000_000, 2_000_000, 256 << 10) } else { (20_000_000, 10_000, 96 << 10) };
    let dir = scratch::folder();
    made(dir.path(), 3);
    let child = program()
        .args(["generate", "--users", &users.to_string(), "--data-dir", text(dir.path())])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let mut child = Running(child);
    let sql = "SELECT sum(rows) AS value FROM tessera_counts WHERE name IN ('users','orders')";
    let stored = || primaries(dir.path()).iter().map(|file| ints(file, sql)[0]).sum::<i64>();
    let status = format!("/proc/{}/status", child.0.id());
    let mut peak = 0;
    loop {
        let ended = child.0.try_wait().expect("a status");
        let is_enough = stored() >= enough;
        assert!(is_enough || ended.is_none(), "it ends when all are stored");
        let reported = fs::read_to_string(&status).unwrap_or_default();
        let line = reported.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib: Option<u64> =
            line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok());
        peak = peak.max(kib.unwrap_or(0));
        assert!(peak < kib_max, "{peak} KiB for {users} users");
        if is_enough {
            break;
        }
        std::thread::yield_now();
    }
    assert!(peak > 0, "it was looked at");
}

#[test]
fn an_environment_variable_limits_the_number_of_generated_rows() {
    let dir = scratch::folder();
    let with = |cap: &str| {
        let arguments = ["generate", "--users", "50", "--data-dir", text(dir.path())];
        program().args(arguments).env("MAX_GEN_USERS", cap).output().expect("the program starts")
    };
    let refused = with("many");
    assert_eq!(refused.status.code(), Some(2));
    assert!(fs::read_dir(dir.path()).expect("a folder").next().is_none(), "nothing was made");
    let capped = with("20");
    assert!(capped.status.success());
    assert!(String::from_utf8_lossy(&capped.stderr).contains("caps 50 users at 20"));
    assert_eq!(rows(dir.path(), "users", USERS).len(), 20);
    let free = with("60");
    assert!(free.status.success());
    assert!(!String::from_utf8_lossy(&free.stderr).contains("caps"));
    assert_eq!(rows(dir.path(), "users", USERS).len(), 50, "a cap is never how many are made");
}

#[test]
fn wrong_usage_is_refused_with_a_clear_message() {
    let dir = scratch::folder();
    let (home, nowhere) = (text(dir.path()), dir.path().join("nowhere"));
    let uses: [(&[&str], &str); 8] = [
        (&["generate", "--weights", "A=0", "--data-dir", text(&nowhere)], "`A=0` is not a share"),
        (&["generate", "--weights", "A=1,A=2", "--data-dir", text(&nowhere)], "two shares"),
        (&["generate", "--weights", "", "--data-dir", text(&nowhere)], "is not a share"),
        (&["generate", "--url", "ftp://x", "--users", "1"], "begins with http://"),
        (&["generate", "--url", "http://127.0.0.1:1", "--users", "1"], "does not answer"),
        (&["import", "--table", "users", "--input", home, "--data-dir", home], "directory"),
        (&["import", "--table", "users", "--input", "/dev/null", "--data-dir", home], "not a data"),
        (&["import", "--table", "users", "--input", text(&nowhere)], "No such file"),
    ];
    fail_in_one_line(&uses);
    assert!(!nowhere.exists());
    let (code, output) = fail(&["generate", "--url", "http://x", "--data-dir", home]);
    assert!(code == 2 && output.contains("cannot be used with"), "{output}");
}

/// Inserts orders that cover every kind of value.
fn strange_orders(dir: &Path) {
    generate(dir, &["--users", "40", "--orders-per-user", "3"]);
    for file in primaries(dir) {
        execute(
            &file,
            "UPDATE orders SET note='' WHERE order_id LIKE '%_0';
             UPDATE orders SET note='a \"quoted\", and'||char(10)||'broken line' WHERE order_id LIKE '%_1';
             UPDATE orders SET status=NULL, note='Grüße 🎈 \\ /' WHERE order_id LIKE '%_2_%';",
        );
    }
}

#[test]
fn exported_lines_are_imported_unchanged() {
    let dir = scratch::folder();
    let from = dir.path().join("from");
    strange_orders(&from);
    let expected = rows(&from, "orders", ORDERS);
    let object = "json_object('order_id',order_id,'user_id',user_id,'amount',amount,'status',status,'note',note)";
    let quoted = |column: &str| {
        format!(
            "CASE WHEN {column} IS NULL THEN '' ELSE '\"'||replace({column},'\"','\"\"')||'\"' END"
        )
    };
    let record = format!(
        "order_id||','||user_id||','||amount||','||{}||','||{}",
        quoted("status"),
        quoted("note")
    );
    for (format, line, first) in
        [("ndjson", object, ""), ("csv", record.as_str(), "order_id,user_id,amount,status,note\n")]
    {
        let sql = format!("SELECT {line} AS value FROM orders");
        let lines = primaries(&from).iter().flat_map(|file| texts(file, &sql)).collect::<Vec<_>>();
        let (input, to) = (dir.path().join(format!("orders.{format}")), dir.path().join(format));
        fs::write(&input, format!("{first}{}\n\n", lines.join("\n"))).expect("a file");
        made(&to, 2);
        let reported = succeed(&[
            "import",
            "--table",
            "orders",
            "--format",
            format,
            "--input",
            text(&input),
            "--data-dir",
            text(&to),
            "--json",
        ]);
        let reported: serde_json::Value = serde_json::from_str(&reported).expect("one document");
        assert_eq!((&reported["stored"], &reported["failed"]), (&120.into(), &0.into()));
        assert_eq!(rows(&to, "orders", ORDERS), expected, "{format}");
    }
}

#[test]
fn failing_rows_are_printed_and_counted_and_the_others_are_stored() {
    let dir = scratch::folder();
    let (home, input) = (dir.path().join("data"), dir.path().join("users.ndjson"));
    made(&home, 2);
    let mut lines = String::new();
    for number in 1..=50 {
        lines += &match number % 3 {
            0 => format!("{{\"user_id\":\"u{number}\",\"name\":7,\"email\":\"e\"}}\n"),
            _ => format!("{{\"user_id\":\"u{number}\",\"name\":\"n\",\"email\":\"e\"}}\n"),
        };
    }
    fs::write(&input, lines + "no json\n").expect("a file");
    let arguments =
        ["import", "--table", "users", "--input", text(&input), "--data-dir", text(&home)];
    let (code, output) = fail(&arguments);
    assert_eq!(code, 1, "{output}");
    assert_eq!(output.lines().filter(|line| line.starts_with("line ")).count(), 10, "{output}");
    assert!(output.contains("line 3: name: expected text"), "{output}");
    assert!(output.contains("34 of 51 rows are stored, and 17 were refused"), "{output}");
    assert_eq!(rows(&home, "users", "user_id").len(), 34);
    let insert = run(&[&arguments[..], &["--op", "insert"]].concat());
    let output = String::from_utf8_lossy(&insert.stderr).into_owned();
    assert_eq!(insert.status.code(), Some(1));
    assert!(
        output.contains("line 1: the row exists already") && output.contains("0 of 51"),
        "{output}"
    );
}

#[test]
fn an_unreadable_input_reports_up_to_which_line_rows_are_stored() {
    let dir = scratch::folder();
    let (home, input) = (dir.path().join("data"), dir.path().join("users.ndjson"));
    made(&home, 1);
    let mut lines = String::from("{\"user_id\":\"u1\",\"name\":\"n\",\"email\":\"e\"}\n\n");
    lines += &" ".repeat(3 << 20);
    fs::write(&input, lines).expect("a file");
    let arguments =
        ["import", "--table", "users", "--input", text(&input), "--data-dir", text(&home)];
    let (code, output) = fail(&arguments);
    assert_eq!(code, 2, "{output}");
    assert!(output.contains("line 3: a row of more than 2 MiB"), "{output}");
    assert!(output.contains("1 rows before line 3 are stored and stay"), "{output}");
    assert_eq!(rows(&home, "users", "user_id").len(), 1);
    fs::write(&input, "user_id,mail\n").expect("a file");
    let (code, output) = fail(&[&arguments[..], &["--format", "csv"]].concat());
    assert_eq!((code, output.lines().count()), (2, 1), "{output}");
    assert!(output.contains("users has no column `mail`"), "{output}");
}

#[test]
fn after_ctrl_c_the_reported_rows_are_stored() {
    let dir = scratch::folder();
    made(dir.path(), 2);
    let count = || -> i64 {
        let sql = "SELECT sum(rows) AS value FROM tessera_counts";
        primaries(dir.path()).iter().map(|file| ints(file, sql)[0]).sum()
    };
    let child = program()
        .args(["generate", "--users", "3000000", "--orders-per-user", "0"])
        .args(["--json", "--data-dir", text(dir.path())])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    while count() == 0 {
        std::thread::yield_now();
    }
    let pid = child.id().to_string();
    let sent = std::process::Command::new("kill").args(["-s", "INT", &pid]).status();
    assert!(sent.expect("a signal").success());
    let output = child.wait_with_output().expect("it ends");
    let reported = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{reported}");
    let stored = count();
    let line = format!("cancelled; {stored} of 3000000 rows are stored, and stay");
    assert!(reported.contains(&line), "{reported} and not {stored}");
    let reported: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one document");
    assert_eq!(
        (&reported["stored"], &reported["cancelled"]),
        (&stored.into(), &true.into()),
        "{reported}"
    );
    let shards = reported["shards"].as_object().expect("shards").values();
    assert_eq!(shards.map(|rows| rows.as_i64().expect("a number")).sum::<i64>(), stored);
    assert!(reported.get("users").is_none(), "the number of users is not known: {reported}");
}
