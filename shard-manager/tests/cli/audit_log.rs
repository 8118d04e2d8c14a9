//! Tests of `audit verify`: a log that is as it was written passes, and in any other the first
//! wrong line is named.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use shard_manager::access::audit::chain::{AuditChain, AuditEntry, AuditHead};
use shard_manager::access::audit::event::AuditKeys;
use shard_manager::access::audit::file_path;
use shard_manager::access::unix_time::UnixTime;

use crate::cluster::{Cluster, Ended, block_on, run};

const TIME: u64 = 1_800_000_000_000;

/// Log of three files, and the folder that it is in.
struct Log {
    _folder: tempfile::TempDir,
    path: PathBuf,
    head: AuditHead,
}

impl Log {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.log");
        let mut chain = AuditChain::begin(&[3; AuditChain::NAME_LEN]);
        let start = AuditEntry::Start { version: "1", torn_bytes: 0 };
        let files = [
            [start, AuditEntry::Lost(1), AuditEntry::Lost(2)],
            [AuditEntry::File, AuditEntry::End, start],
            [AuditEntry::File, AuditEntry::Lost(3), AuditEntry::End],
        ];
        for (number, entries) in (0..files.len()).rev().zip(files) {
            let mut text = String::new();
            for (entry, second) in entries.into_iter().zip(0..) {
                chain.push(&mut text, TIME + 1_000 * second, entry, &AuditKeys::None);
            }
            fs::write(file_path(&path, number), text).expect("it is written");
        }
        Self { _folder: folder, path, head: chain.head() }
    }

    /// Changes the lines of a file.
    fn change(&self, number: usize, change: impl FnOnce(&mut Vec<String>)) {
        let path = file_path(&self.path, number);
        let text = fs::read_to_string(&path).expect("text");
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        change(&mut lines);
        fs::write(&path, lines.join("\n") + "\n").expect("it is written");
    }

    fn verify(&self, flags: &[&str]) -> Ended {
        let path = self.path.to_str().expect("UTF-8");
        run(&[&["audit", "verify", path], flags].concat())
    }
}

/// Keeps the last line of a log in a new catalog; returns the stopped cluster.
fn catalog_with(head: AuditHead) -> tempfile::TempDir {
    let cluster = Cluster::new(1, 0);
    let now = UnixTime::from_seconds(1_800_000_000);
    block_on(cluster.manager.access().keep_audit_head(head, now)).expect("the catalog answers");
    cluster.stop()
}

fn with(dir: &Path) -> [&str; 3] {
    ["--json", "--data-dir", dir.to_str().expect("UTF-8")]
}

#[test]
fn a_log_that_is_as_it_was_written_passes() {
    let log = Log::new();
    let text = log.verify(&[]).expect(0).out;
    assert!(
        text.contains(
            "lines 1 to 9 of 3 file(s), 2027-01-15T08:00:00.000Z to 2027-01-15T08:00:02.000Z"
        ),
        "{text}"
    );
    assert!(text.contains("6 event(s) were lost"), "{text}");
    assert!(text.contains("no catalog was given"), "{text}");
    let report = log.verify(&["--json"]).expect(0).json();
    assert_eq!(
        (&report["ok"], &report["fault"], &report["lines"]),
        (&json!(true), &json!(null), &json!(9))
    );
    assert_eq!((&report["starts"], &report["crashes"]), (&json!(2), &json!(0)));
    assert_eq!(report["files"].as_array().map(Vec::len), Some(3));
    // The oldest file was removed in the course of time.
    fs::remove_file(file_path(&log.path, 2)).expect("it is removed");
    let report = log.verify(&["--json"]).expect(0).json();
    assert_eq!((&report["lines"], &report["first"]["seq"]), (&json!(6), &json!(4)));
}

#[test]
fn the_first_wrong_line_is_named_with_its_file() {
    type Change = fn(&mut Vec<String>);
    let changes: [(usize, Change, u64, &str); 6] = [
        (1, |lines| lines[1] = lines[1].replace("08:00:01", "09:00:01"), 2, "was changed"),
        (2, |lines| drop(lines.remove(1)), 2, "has the number 3 where 2 is due"),
        (0, |lines| lines.swap(1, 2), 2, "has the number 9 where 8 is due"),
        (1, |lines| lines[2] = "{}".to_owned(), 3, "is not a line"),
        (1, |lines| drop(lines.remove(0)), 1, "has the number 5 where 4 is due"),
        (2, |lines| drop(lines.remove(0)), 1, "is not the beginning of a file"),
    ];
    for (number, change, line, words) in changes {
        let log = Log::new();
        log.change(number, change);
        let report = log.verify(&["--json"]).expect(1).json();
        let fault = &report["fault"];
        assert_eq!(fault["line"], line, "{report}");
        assert_eq!(fault["file"], json!(file_path(&log.path, number)), "{report}");
        assert!(fault["fault"].as_str().is_some_and(|text| text.contains(words)), "{report}");
        let ended = log.verify(&[]).expect(1);
        assert!(
            ended.out.contains(words) && ended.err.contains("not as it was written"),
            "{ended:?}"
        );
    }
    // A whole file is missing between two others.
    let log = Log::new();
    fs::remove_file(file_path(&log.path, 1)).expect("it is removed");
    let report = log.verify(&["--json"]).expect(1).json();
    assert_eq!((&report["fault"]["line"], &report["lines"]), (&json!(1), &json!(3)), "{report}");
}

#[test]
fn a_line_without_an_end_is_a_note_at_the_end_and_a_fault_before_it() {
    let append = |log: &Log, number: usize| {
        let path = file_path(&log.path, number);
        let text = fs::read_to_string(&path).expect("text");
        fs::write(&path, text + "{\"seq\":10").expect("it is written");
    };
    let log = Log::new();
    append(&log, 0);
    assert_eq!(log.verify(&["--json"]).expect(0).json()["torn_bytes"], 9);
    assert!(log.verify(&[]).expect(0).out.contains("note: the last 9 bytes are not a whole line"));
    append(&log, 1);
    let report = log.verify(&["--json"]).expect(1).json();
    assert!(report["fault"]["fault"].as_str().is_some_and(|text| text.contains("incomplete")));
    // A line that never ends is not read into memory.
    fs::write(&log.path, vec![b'x'; 1 << 20]).expect("it is written");
    fs::remove_file(file_path(&log.path, 1)).expect("it is removed");
    fs::remove_file(file_path(&log.path, 2)).expect("it is removed");
    log.verify(&[]).expect(1);
}

#[test]
fn the_catalog_shows_that_the_end_was_cut_off_or_the_log_made_again() {
    let log = Log::new();
    let dir = catalog_with(log.head.clone());
    assert_eq!(log.verify(&with(dir.path())).expect(0).json()["catalog"], "equal");
    log.change(0, |lines| lines.truncate(1));
    assert_eq!(log.verify(&["--json"]).expect(0).json()["catalog"], "none");
    let report = log.verify(&with(dir.path())).expect(1).json();
    let fault = report["fault"]["fault"].as_str().expect("a fault");
    assert!(fault.contains("the catalog knows line 9") && fault.contains("cut off"), "{fault}");
    let log = Log::new();
    let mut other = AuditChain::begin(&[3; AuditChain::NAME_LEN]);
    other.push(&mut String::new(), TIME, AuditEntry::End, &AuditKeys::None);
    let dir = catalog_with(other.head());
    let report = log.verify(&with(dir.path())).expect(1).json();
    assert!(report["fault"]["fault"].as_str().is_some_and(|text| text.contains("written again")));
    let unknown = AuditHead { log: "0".repeat(32).into(), ..other.head() };
    let dir = catalog_with(unknown);
    assert_eq!(log.verify(&with(dir.path())).expect(0).json()["catalog"], "unknown_log");
}

#[test]
fn the_kept_line_is_never_an_earlier_one() {
    let log = Log::new();
    let cluster = Cluster::new(1, 0);
    let mut earlier = log.head.clone();
    earlier.point.number = 1;
    for head in [&log.head, &earlier] {
        let now = UnixTime::from_seconds(1_800_000_000);
        let kept = cluster.manager.access().keep_audit_head(head.clone(), now);
        block_on(kept).expect("the catalog answers");
    }
    // Beside the process that holds the directory.
    assert_eq!(log.verify(&with(cluster.path())).expect(0).json()["catalog"], "equal");
    let secrets = [(); 2].map(|()| {
        block_on(cluster.manager.access().audit_secret()).expect("the catalog answers").hash("k")
    });
    assert_eq!(secrets[0], secrets[1], "the secret is made once");
}

#[test]
fn a_log_or_a_catalog_that_is_not_there_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = folder.path().join("none");
    let missing = missing.to_str().expect("UTF-8");
    run(&["audit", "verify", missing]).refused("there is no audit log");
    run(&["audit", "verify"]).refused("<FILE>");
    let log = Log::new();
    log.verify(&["--data-dir", missing]).refused("there is no cluster here");
}
