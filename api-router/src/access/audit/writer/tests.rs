//! Tests of the writer and its files: restarts, crashes, full files, a full disk and a full queue
//! leave a log whose chain is whole.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use shard_manager::access::audit::check::{ChainCheck, ChainSummary, HeadComparison};
use shard_manager::access::audit::event::{AuditCaller, AuditOutcome};
use shard_manager::access::audit::{AuditLevel, file_path};

use super::super::AuditLog;
use super::super::file::RotationLimits;
use super::*;

const LIMITS: RotationLimits = RotationLimits { bytes_max: 2_000, files_max: 3 };

fn event(request: &str) -> AuditEvent {
    AuditEvent {
        time_ms: unix_ms(),
        level: AuditLevel::Writes,
        outcome: AuditOutcome::Served,
        request: request.into(),
        trace: None,
        caller: AuditCaller::Unknown,
        address: None,
        method: "POST".into(),
        route: "/api/write",
        target: None,
        table: None,
        key: None,
        status: Some(201),
        code: None,
        refused_rows: 0,
        count: 1,
    }
}

/// Opens the log at a path, as a router does when it starts.
fn start(path: &Path) -> AuditWriter {
    let (file, resumed) = AuditFile::open(path, LIMITS).expect("the log opens");
    let (sink, counts) = (AuditSink::File(file), Arc::default());
    let writer = AuditWriter::new(sink, resumed, AuditKeys::None, counts);
    let mut writer = writer.expect("there are random bytes");
    writer.begin().expect("the start is written");
    writer
}

fn write(writer: &mut AuditWriter, requests: &[&str]) {
    requests.iter().for_each(|request| writer.take(event(request)));
    writer.write_batch();
}

/// Reads all files of a log, the oldest first, and checks their chain.
fn check(path: &Path, head: Option<AuditHead>) -> (ChainSummary, HeadComparison) {
    let mut check = ChainCheck::new(head.map(|head| vec![head]));
    for number in (0..9).rev() {
        let Ok(text) = fs::read_to_string(file_path(path, number)) else { continue };
        check.begin_file();
        for line in text.lines() {
            check.push(line.as_bytes()).unwrap_or_else(|fault| panic!("{line}: {fault}"));
        }
    }
    let compared = check.finish().expect("the log is whole");
    (check.summary().clone(), compared)
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn a_restart_continues_the_chain() {
    let folder = folder();
    let path = folder.path().join("audit.log");
    let mut first = start(&path);
    write(&mut first, &["a", "b"]);
    first.end(None);
    let mut second = start(&path);
    write(&mut second, &["c"]);
    let head = second.head();
    assert_eq!(head.as_ref().map(|head| head.point.number), Some(6));
    let (summary, compared) = check(&path, head);
    assert_eq!((summary.lines, summary.starts, summary.crashes), (6, 2, 0));
    assert_eq!(compared, HeadComparison::Equal);
    let mode = fs::metadata(&path).expect("a file").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
}

#[test]
fn a_line_that_a_crash_cut_is_removed_and_reported() {
    let folder = folder();
    let path = folder.path().join("audit.log");
    let mut first = start(&path);
    write(&mut first, &["a"]);
    drop(first);
    let mut file = OpenOptions::new().append(true).open(&path).expect("the file opens");
    file.write_all(b"{\"seq\":3,\"ti").expect("it is written");
    drop(file);
    write(&mut start(&path), &["b"]);
    let (summary, _) = check(&path, None);
    assert_eq!((summary.lines, summary.starts, summary.crashes), (4, 2, 1));
    let text = fs::read_to_string(&path).expect("text");
    assert!(text.contains("\"torn_bytes\":12"), "{text}");
}

#[test]
fn full_files_are_renamed_and_the_oldest_is_removed() {
    let folder = folder();
    let path = folder.path().join("audit.log");
    let mut writer = start(&path);
    for number in 0..100 {
        write(&mut writer, &[&number.to_string()]);
    }
    let head = writer.head();
    let names = fs::read_dir(folder.path()).expect("a folder").count();
    assert_eq!(names, LIMITS.files_max);
    let (summary, compared) = check(&path, head);
    assert_eq!(compared, HeadComparison::Equal);
    assert!(summary.first.is_some_and(|first| first.seq > 1), "old lines are gone");
    // A router that was killed while it renamed files leaves a gap in the numbers, and no current
    // file.
    drop(writer);
    fs::rename(file_path(&path, 1), file_path(&path, 2)).expect("it is renamed");
    fs::rename(&path, file_path(&path, 1)).expect("it is renamed");
    let mut writer = start(&path);
    for number in 0..100 {
        write(&mut writer, &[&number.to_string()]);
    }
    let (summary, _) = check(&path, writer.head());
    assert!(summary.last.is_some_and(|last| last.seq > 200));
}

#[test]
fn two_routers_cannot_write_one_log() {
    let folder = folder();
    let path = folder.path().join("audit.log");
    let mut writer = start(&path);
    for number in 0..50 {
        write(&mut writer, &[&number.to_string()]);
        let refused = AuditFile::open(&path, LIMITS).expect_err("the log is locked");
        assert!(refused.to_string().contains("another router writes it"), "{refused}");
    }
}

#[test]
fn a_file_that_others_may_change_is_refused() {
    let folder = folder();
    let path = folder.path().join("audit.log");
    start(&path).end(None);
    for (mode, is_refused) in [(0o640, false), (0o644, true), (0o620, true), (0o602, true)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("the mode is set");
        assert_eq!(AuditFile::open(&path, LIMITS).is_err(), is_refused, "{mode:o}");
    }
}

#[test]
fn a_damaged_last_line_begins_another_log() {
    let folder = folder();
    let path = folder.path().join("audit.log");
    start(&path).end(None);
    let text = fs::read_to_string(&path).expect("text").replace("\"end\"", "\"END\"");
    fs::write(&path, &text).expect("it is written");
    let mut writer = start(&path);
    write(&mut writer, &["a"]);
    assert_eq!(fs::read_to_string(file_path(&path, 1)).expect("the old file"), text);
    let (_, last) = (fs::remove_file(file_path(&path, 1)), writer.head());
    assert_eq!(check(&path, last).0.lines, 2);
}

#[test]
fn a_full_disk_loses_events_and_reports_how_many() {
    let folder = folder();
    let path = folder.path().join("audit.log");
    let mut writer = start(&path);
    write(&mut writer, &["a"]);
    let swap = |writer: &mut AuditWriter, handle| match &mut writer.sink {
        AuditSink::File(file) => file.replace_handle(handle),
        AuditSink::Stderr => unreachable!("the sink is a file"),
    };
    let full = OpenOptions::new().write(true).open("/dev/full").expect("the device");
    let good = swap(&mut writer, full);
    write(&mut writer, &["b", "c"]);
    write(&mut writer, &["d"]);
    assert_eq!(writer.counts.dropped.load(Ordering::Relaxed), 3);
    assert!(writer.counts.fault.lock().expect("a lock").is_some());
    // Half of a line may have been written before the disk was full.
    let mut file = OpenOptions::new().append(true).open(&path).expect("the file opens");
    file.write_all(b"{\"seq\":").expect("it is written");
    swap(&mut writer, good);
    write(&mut writer, &["e"]);
    assert!(writer.counts.fault.lock().expect("a lock").is_none());
    let (summary, _) = check(&path, writer.head());
    assert_eq!((summary.requests, summary.lost), (2, 3));
}

#[test]
fn a_full_queue_loses_events_and_delays_none() {
    let folder = folder();
    let path = folder.path().join("audit.log");
    let (log, queue) = AuditLog::with_queue(AuditLevel::All, 2);
    (0..5).for_each(|number| log.record(event(&number.to_string())));
    assert_eq!((log.now().lines, log.now().dropped), (0, 3));
    let (file, resumed) = AuditFile::open(&path, LIMITS).expect("the log opens");
    let counts = Arc::clone(&log.counts);
    let writer = AuditWriter::new(AuditSink::File(file), resumed, AuditKeys::None, counts);
    let mut writer = writer.expect("there are random bytes");
    writer.begin().expect("the start is written");
    let thread = std::thread::spawn(move || writer.run(&queue));
    let head = log.end();
    thread.join().expect("the thread ends");
    assert!(head.is_none(), "this log was made without files");
    assert_eq!((log.now().lines, log.now().dropped), (2, 3));
    let (summary, _) = check(&path, None);
    assert_eq!((summary.requests, summary.lost), (2, 3));
    log.record(event("later"));
    assert_eq!(log.now().dropped, 4, "an event after the end is counted, too");
}
