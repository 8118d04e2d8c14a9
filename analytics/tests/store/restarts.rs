//! Stories of a router that is started anew in the middle of a minute.

use std::time::Duration;

use analytics::store::{Keeper, StoreAddress};
use analytics::{History, Labels, Operation, Recorder, Role, Sample, Step};

use crate::now;

fn recorder(started_s: u64) -> Recorder {
    let labels =
        Labels { routes: vec!["/api/read"], shards: vec!["shard1".to_owned()], slots: 16_384 };
    Recorder::by_hand(labels, started_s * 1_000)
}

/// One read in each of these seconds since the start; all that has ended is in the history then.
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

#[test]
fn slots_that_had_not_ended_hold_what_was_counted_before_and_after() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("analytics.db");
    let address = StoreAddress::parse(path.to_str().unwrap()).unwrap().unwrap();
    let began = now();
    // Killed 5 s ago, after 20 s.
    let before = recorder(began - 25);
    read(&before, 20, 20);
    Keeper::start(address.clone(), "router", before.history().clone()).unwrap().close();
    let after = recorder(began);
    let keeper = Keeper::start(address.clone(), "router", after.history().clone()).unwrap();
    // It writes only what it has after all that was kept is given back.
    keeper.flush();
    assert!(keeper.state().given_back >= 20, "{:?}", keeper.state());
    assert_eq!(total(after.history(), Step::Second), 20);
    // What has not ended yet is not told as if it had.
    for step in [Step::TenSeconds, Step::Minute] {
        for frame in after.history().frames_after(step, 0, usize::MAX) {
            assert!(frame.end() <= now(), "{step:?} from {}", frame.start);
        }
    }
    keeper.close();
    read(&after, 5, 130);
    for step in Step::ALL {
        assert_eq!(total(after.history(), step), 25, "{step:?}");
    }
    // Each slot once: those of a minute have all that those of ten seconds have.
    let minutes = after.history().frames_after(Step::Minute, 0, usize::MAX);
    assert!((1..=2).contains(&minutes.len()), "{}", minutes.len());
}

#[test]
fn that_nobody_counted_is_remembered_and_so_is_that_there_was_nothing_to_count() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("analytics.db");
    let address = StoreAddress::parse(path.to_str().unwrap()).unwrap().unwrap();
    let began = now();
    let starts = [began - 600, began - 300, began - 100];
    for start in starts {
        // Counts for a minute, has nothing to count for another, and is down.
        let recorder = recorder(start);
        read(&recorder, 60, 60);
        let keeper = Keeper::start(address.clone(), "router", recorder.history().clone()).unwrap();
        keeper.flush();
        recorder.settle_at(recorder.started() + Duration::from_secs(80));
        keeper.close();
    }
    let (history, _) = crate::given_back(&address, "router");
    let expected = starts.map(|start| (start, start + 80));
    assert_eq!(history.counted().as_slice(), expected);
    // Another source is another matter.
    let (other, _) = crate::given_back(&address, "north");
    assert!(other.counted().as_slice().is_empty());
}

/// An older program has written slots only.
#[test]
fn a_store_that_does_not_say_when_somebody_counted_has_no_gap_within_it() {
    use diesel::{Connection, RunQueryDsl};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("analytics.db");
    let address = StoreAddress::parse(path.to_str().unwrap()).unwrap().unwrap();
    let began = now() - 100;
    let recorder = recorder(began);
    read(&recorder, 30, 70);
    Keeper::start(address.clone(), "router", recorder.history().clone()).unwrap().close();
    let mut file = diesel::sqlite::SqliteConnection::establish(path.to_str().unwrap()).unwrap();
    let forget = "DELETE FROM tessera_history WHERE source LIKE '%/counted'";
    assert_eq!(diesel::sql_query(forget).execute(&mut file).unwrap(), 1);
    let (history, _) = crate::given_back(&address, "router");
    let counted = history.counted();
    let [(from, until)] = counted.as_slice() else { panic!("{counted:?}") };
    assert!(*from <= began && *until >= began + 30, "{from} {until} {began}");
}
