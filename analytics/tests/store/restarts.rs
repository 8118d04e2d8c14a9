//! Tests of a router that is restarted in the middle of a minute.

use std::path::PathBuf;
use std::time::Duration;

use analytics::store::{HistoryWriter, StoreAddress};
use analytics::{History, Labels, Operation, Recorder, Role, Sample, Step};
use tempfile::TempDir;

use crate::now;

fn recorder(started_s: u64) -> Recorder {
    let labels =
        Labels { routes: vec!["/api/read"], shards: vec!["shard1".to_owned()], slots: 16_384 };
    Recorder::without_thread(labels, started_s * 1_000)
}

/// Records one read in each of the first `seconds` seconds, and closes the seconds before
/// `settled`, so that their frames are in the history.
fn read(recorder: &Recorder, seconds: u64, settled: u64) {
    let worker = recorder.worker();
    for second in 0..seconds {
        let sample = Sample {
            route: 0,
            operation: Operation::Read,
            shard: Some(0),
            slot: Some(1),
            role: Some(Role::Replica),
            status: 200,
            fanout: 1,
            elapsed: Duration::from_millis(2),
            queue: Duration::ZERO,
            database: Duration::from_millis(1),
            key: Some("user_1"),
            trace: None,
        };
        worker.record(&sample, recorder.started() + Duration::from_secs(second));
    }
    recorder.settle_at(recorder.started() + Duration::from_secs(settled));
}

fn total(history: &History, step: Step) -> u64 {
    history.frames_after(step, 0, usize::MAX).iter().map(|frame| frame.total()).sum()
}

/// Returns a temporary folder, and the path and address of a history file in it.
fn store() -> (TempDir, PathBuf, StoreAddress) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("analytics.db");
    let address = StoreAddress::parse(path.to_str().unwrap()).unwrap().unwrap();
    (folder, path, address)
}

#[test]
fn unfinished_intervals_include_the_counts_from_before_and_after_a_restart() {
    let (_folder, _, address) = store();
    let began = now();
    // The earlier process ran for 20 s and was killed 5 s ago.
    let before = recorder(began - 25);
    read(&before, 20, 20);
    HistoryWriter::start(address.clone(), "router", before.history().clone()).unwrap().close();
    let after = recorder(began);
    let history_writer =
        HistoryWriter::start(address.clone(), "router", after.history().clone()).unwrap();
    // The writer stores new frames only after it has loaded all stored ones.
    history_writer.flush();
    assert!(history_writer.state().loaded >= 20, "{:?}", history_writer.state());
    assert_eq!(total(after.history(), Step::Second), 20);
    // A frame whose interval has not ended yet is not reported as finished.
    for step in [Step::TenSeconds, Step::Minute] {
        for frame in after.history().frames_after(step, 0, usize::MAX) {
            assert!(frame.end() <= now(), "{step:?} from {}", frame.start);
        }
    }
    history_writer.close();
    read(&after, 5, 130);
    for step in Step::ALL {
        assert_eq!(total(after.history(), step), 25, "{step:?}");
    }
    // Each minute has only one frame, although two processes have counted requests in it.
    let minutes = after.history().frames_after(Step::Minute, 0, usize::MAX);
    assert!((1..=2).contains(&minutes.len()), "{}", minutes.len());
}

#[test]
fn gaps_and_idle_times_are_stored() {
    let (_folder, _, address) = store();
    let began = now();
    let starts = [began - 600, began - 300, began - 100];
    for start in starts {
        // The recorder counts requests for a minute, has none for 20 s, and is then down.
        let recorder = recorder(start);
        read(&recorder, 60, 60);
        let history_writer =
            HistoryWriter::start(address.clone(), "router", recorder.history().clone()).unwrap();
        history_writer.flush();
        recorder.settle_at(recorder.started() + Duration::from_secs(80));
        history_writer.close();
    }
    let (history, _) = crate::stored_history(&address, "router");
    let expected = starts.map(|start| (start, start + 80));
    assert_eq!(history.counted_times().as_slice(), expected);
    // Another source is not affected.
    let (other, _) = crate::stored_history(&address, "north");
    assert!(other.counted_times().as_slice().is_empty());
}

/// Runs a statement on the file through a connection of its own, and returns the number of changed
/// rows.
fn change(path: &std::path::Path, statement: &str) -> usize {
    use diesel::{Connection, RunQueryDsl};
    let mut file = diesel::sqlite::SqliteConnection::establish(path.to_str().unwrap()).unwrap();
    diesel::sql_query(statement).execute(&mut file).unwrap()
}

/// Runs a recorder that counts for a minute, and stores its history.
fn serve(address: &StoreAddress, start: u64) {
    let recorder = recorder(start);
    read(&recorder, 60, 60);
    HistoryWriter::start(address.clone(), "router", recorder.history().clone()).unwrap().close();
}

#[test]
fn routers_that_share_a_store_have_a_history_each_and_one_of_them_gets_the_earlier_one() {
    let (_folder, _, address) = store();
    let began = now();
    let start = |recorder: &Recorder, name: &str| {
        let history = recorder.history().clone();
        HistoryWriter::start_renamed(address.clone(), name, "router", history).unwrap()
    };
    let stored = |name: &str| total(&crate::stored_history(&address, name).0, Step::Second);
    // An earlier version of the program has stored its history under a name that was the same for
    // all routers.
    serve(&address, began - 600);
    let (north, south) = (recorder(began - 200), recorder(began - 200));
    let north_writer = start(&north, "north:3000");
    north_writer.flush();
    let south_writer = start(&south, "south:3000");
    south_writer.flush();
    assert_eq!([&north, &south].map(|own| total(own.history(), Step::Second)), [60, 0]);
    // Both routers count requests in the same seconds.
    read(&north, 30, 30);
    read(&south, 50, 50);
    north_writer.close();
    south_writer.close();
    assert_eq!(["north:3000", "south:3000", "router"].map(stored), [90, 50, 0]);
    let (history, _) = crate::stored_history(&address, "north:3000");
    let counted = history.counted_times();
    assert_eq!(counted.as_slice(), [(began - 600, began - 540), (began - 200, began - 170)]);
    // The earlier version runs once more. A router that has a history of its own does not take over
    // the new one.
    serve(&address, began - 400);
    let again = recorder(began - 100);
    let writer = start(&again, "north:3000");
    writer.flush();
    assert_eq!(total(again.history(), Step::Second), 90);
    writer.close();
    assert_eq!(["north:3000", "south:3000", "router"].map(stored), [90, 50, 60]);
}

/// A clock that was far ahead is corrected. Rows that were written before must not take precedence
/// over new rows or block them.
#[test]
fn measured_times_are_stored_although_a_clock_was_set_back() {
    let (_folder, path, address) = store();
    let began = now();
    let starts = [began - 600, began - 400, began - 200];
    serve(&address, starts[0]);
    let ahead = "UPDATE tessera_history SET start = 99999999999 WHERE source = 'router/counted'";
    assert_eq!(change(&path, ahead), 1);
    serve(&address, starts[1]);
    let future = "DELETE FROM tessera_history WHERE start = 99999999999";
    assert_eq!(change(&path, future), 0, "it went when there was something better");
    serve(&address, starts[2]);
    let (history, _) = crate::stored_history(&address, "router");
    assert_eq!(history.counted_times().as_slice(), starts.map(|start| (start, start + 60)));
}

/// An older version of the program has written frames, but has not updated the stored measured
/// times.
#[test]
fn intervals_newer_than_the_recorded_times_count_as_measured() {
    let (_folder, path, address) = store();
    let began = now();
    let starts = [began - 600, began - 400, began - 200];
    serve(&address, starts[0]);
    serve(&address, starts[1]);
    change(
        &path,
        "CREATE TABLE aside AS SELECT * FROM tessera_history WHERE source LIKE '%/counted'",
    );
    serve(&address, starts[2]);
    change(&path, "DELETE FROM tessera_history WHERE source LIKE '%/counted'");
    assert_eq!(change(&path, "INSERT INTO tessera_history SELECT * FROM aside"), 1);
    let (history, _) = crate::stored_history(&address, "router");
    let counted = history.counted_times();
    let [first, (from, until)] = counted.as_slice() else { panic!("{counted:?}") };
    assert_eq!((*first, *from), ((starts[0], starts[0] + 60), starts[1]));
    assert!((starts[2] + 60..began).contains(until), "{until} {starts:?}");
}

/// An older version of the program has written frames but no measured times.
#[test]
fn a_store_without_measured_times_has_no_gaps() {
    let (_folder, path, address) = store();
    let began = now() - 100;
    let recorder = recorder(began);
    read(&recorder, 30, 70);
    HistoryWriter::start(address.clone(), "router", recorder.history().clone()).unwrap().close();
    let forget = "DELETE FROM tessera_history WHERE source LIKE '%/counted'";
    assert_eq!(change(&path, forget), 1);
    let (history, _) = crate::stored_history(&address, "router");
    let counted = history.counted_times();
    let [(from, until)] = counted.as_slice() else { panic!("{counted:?}") };
    assert!(*from <= began && *until >= began + 30, "{from} {until} {began}");
}
