//! Tests of `loadtest check FILE`.

use std::io::Write;
use std::process::Command;

use tempfile::NamedTempFile;

const HEADER: &str = r#"{"format":1,"run":"r1","started":"2026-11-21T10:00:00.000Z","hosts":["http://127.0.0.1:3000"]}"#;
const WRITES: [&str; 2] = [
    r#"{"is":"write","key":"kv/a","session":1,"request":1,"start":1000000,"end":2000000,"value":"1:1","version":7,"shard":"shard1","role":"primary","host":0}"#,
    r#"{"is":"write","key":"kv/a","session":2,"request":1,"start":1003000000,"end":1004500000,"value":"2:1","version":9,"attempts":2,"shard":"shard1","role":"primary","host":0}"#,
];
const STALE: &str = r#"{"is":"read","key":"kv/a","session":3,"request":5,"start":1005000000,"end":1006000000,"value":"1:1","version":7,"level":"quorum","shard":"shard1","role":"replica","host":0}"#;

/// Runs the command on a history of these lines, and returns exit code, stdout and stderr.
fn check(lines: &[&str], more: &[&str]) -> (Option<i32>, String, String) {
    let mut file = NamedTempFile::new().unwrap();
    for line in lines {
        writeln!(file, "{line}").unwrap();
    }
    let program = env!("CARGO_BIN_EXE_loadtest");
    let output = Command::new(program).arg("check").arg(file.path()).args(more).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_history_that_keeps_its_promises_passes() {
    let (code, stdout, stderr) = check(&[HEADER, WRITES[0], WRITES[1]], &[]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    assert!(stdout.starts_with("history r1: 2 operations, 1 rows\n  C1  identity"), "{stdout}");
    let lane = "  C10 changes at one: 2 ok; none on shard1 for 1.00 s, from 0.00 s";
    assert!(stdout.contains(lane), "{stdout}");
    assert!(stdout.ends_with("PASS: no guarantee was violated\n"), "{stdout}");
}

#[test]
fn a_broken_promise_is_reported_with_its_records() {
    let (code, stdout, _) = check(&[HEADER, WRITES[0], WRITES[1], STALE], &[]);
    assert_eq!(code, Some(1), "{stdout}");
    let story = "
C3 linearizability: kv/a: version 7 was read although version 9 was known before
  promised: a strong read shows all that was acknowledged or strongly read before it began
  1.003000 .. 1.004500 s  session 2  write 2:1 of kv/a at one -> ok, version 9, sent 2 times, shard1 primary via http://127.0.0.1:3000, request r1-2-1
  1.005000 .. 1.006000 s  session 3  read of kv/a at quorum -> ok 1:1, version 7, shard1 replica via http://127.0.0.1:3000, request r1-3-5
";
    assert!(stdout.contains(story), "{stdout}");
    assert!(stdout.ends_with("FAIL: guarantees were violated\n"), "{stdout}");
}

#[test]
fn losses_that_level_one_allows_have_an_exit_code_of_their_own() {
    let fault = |start: u64, what: &str| {
        format!(r#"{{"is":"fault","start":{start},"what":"{what}promotion in shard1"}}"#)
    };
    let faults = [fault(1_004_700_000, ""), fault(1_004_900_000, "over: ")];
    let (code, stdout, _) =
        check(&[HEADER, WRITES[0], WRITES[1], &faults[0], &faults[1], STALE], &[]);
    assert_eq!(code, Some(3), "{stdout}");
    let story =
        "\nlost at level one after a promotion: C3 linearizability: kv/a: version 7 was read";
    assert!(stdout.contains(story), "{stdout}");
    let last = stdout.lines().last().unwrap();
    let lost =
        "LOST: lost at level one after a promotion: acknowledged changes were found gone 1 times";
    assert!(last.starts_with(lost), "{stdout}");
}

#[test]
fn json_is_all_there_is_on_stdout() {
    let (code, stdout, _) = check(&[HEADER, WRITES[0], WRITES[1], STALE], &["--json"]);
    assert_eq!(code, Some(1), "{stdout}");
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["passed"], false);
    assert_eq!(report["checks"][2]["check"], "C3");
    assert_eq!(report["checks"][2]["violations"], 1);
    let records = &report["violations"][0]["records"];
    assert_eq!(records[0]["request_id"], "r1-2-1");
    assert_eq!(records[1]["level"], "quorum");
    assert_eq!(report["availability"][0]["shard"], "shard1");
}

#[test]
fn a_file_that_is_no_history_is_refused_by_line_with_exit_code_2() {
    for (lines, said) in [
        (&[HEADER, WRITES[0], "{"][..], "line 3: EOF while parsing"),
        (&[], "line 1: empty; a header is expected"),
        (&[r#"{"format":2}"#], "line 1: this is format 2 of a history; format 1 is understood"),
    ] {
        let (code, stdout, stderr) = check(lines, &[]);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
        assert!(stderr.contains(said), "{stderr}");
    }
    let mut missing = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    let output = missing.args(["check", "/no/such/file"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("/no/such/file"));
}
