//! Tests of the keys that were written last.

use analytics::{Sample, WRITES_MAX, writes_after};

use crate::{BEGIN, TestRecorder, millis, read, write};

/// Records the write of a key, at a different millisecond each time.
fn record(test: &TestRecorder, key: &str, number: u64) {
    let sample = Sample { key: Some(key), slot: Some(7), ..write(1, 201, millis(1)) };
    test.record(&sample, millis(number * 2));
}

fn settle(test: &TestRecorder, at: u64) {
    test.recorder.settle_at(test.recorder.started() + millis(at));
}

#[test]
fn the_keys_that_were_written_last_have_growing_numbers_and_their_shards() {
    let test = TestRecorder::of(2);
    record(&test, "a", 1);
    record(&test, "b", 2);
    settle(&test, 2_000);
    let writes = writes_after(&test.recorder, 0);
    let reported: Vec<_> = writes
        .iter()
        .map(|it| (it.number, &*it.key, it.shard.as_deref(), it.slot, it.second))
        .collect();
    let expected =
        [(1, "a", Some("shard2"), Some(7), BEGIN), (2, "b", Some("shard2"), Some(7), BEGIN)];
    assert_eq!(reported, expected);
    assert_eq!(writes_after(&test.recorder, 1).len(), 1);
    assert_eq!(writes_after(&test.recorder, 2), []);
    assert_eq!(writes_after(&test.recorder, u64::MAX), []);
}

#[test]
fn only_the_last_of_many_writes_are_kept() {
    let test = TestRecorder::of(2);
    let all = WRITES_MAX as u64 + 50;
    for number in 1..=all {
        record(&test, &format!("k{number}"), number);
        settle(&test, number * 2);
    }
    let writes = writes_after(&test.recorder, 0);
    assert_eq!(writes.len(), WRITES_MAX);
    assert_eq!((writes[0].number, &*writes[0].key), (51, "k51"));
    assert_eq!(&*writes[WRITES_MAX - 1].key, format!("k{all}"));
}

#[test]
fn reads_failed_writes_and_writes_without_a_key_are_not_kept() {
    let test = TestRecorder::of(2);
    let keyed = |sample| Sample { key: Some("k"), ..sample };
    test.record(&keyed(read(0, 200, millis(1))), millis(1));
    test.record(&keyed(write(0, 409, millis(1))), millis(3));
    test.record(&keyed(write(0, 503, millis(1))), millis(5));
    test.record(&write(0, 201, millis(1)), millis(7));
    let long = "k".repeat(257);
    test.record(&Sample { key: Some(&long), ..write(0, 201, millis(1)) }, millis(9));
    settle(&test, 2_000);
    assert_eq!(writes_after(&test.recorder, 0), []);
}
