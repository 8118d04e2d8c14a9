//! Tests of the list of recent writes.

use std::collections::BTreeMap;

use analytics::{BULK_KEYS_MAX, Sample, SampledRows, WRITES_MAX, list_sampled_rows, writes_after};

use crate::{BEGIN, TestRecorder, millis, read, write};

/// Records a write of a key. Each number has a millisecond of its own.
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

/// Lists rows of a bulk write that a shard has stored.
fn store(test: &TestRecorder, (shard, rows): (u16, u64), keys: &[&str], at: u64) {
    let keys = (10..).zip(keys).map(|(slot, key)| (*key, slot)).collect();
    let now = test.recorder.started() + millis(at);
    list_sampled_rows(&test.recorder, &SampledRows { shard, rows, keys }, now);
}

#[test]
fn each_listed_key_of_bulk_writes_stands_for_an_equal_part_of_the_rows_of_its_shard() {
    let test = TestRecorder::of(2);
    record(&test, "single", 1);
    settle(&test, 10);
    store(&test, (0, 9), &["a", "b"], 20);
    store(&test, (1, 1), &["z"], 20);
    store(&test, (1, 5), &[], 20);
    store(&test, (0, 2), &["b", "c", "d", "e"], 30);
    let writes = writes_after(&test.recorder, 0);
    let listed: Vec<_> = writes
        .iter()
        .map(|it| (it.number, &*it.key, it.shard.as_deref(), it.slot, it.rows))
        .collect();
    let expected = [
        (1, "single", Some("shard2"), Some(7), 1),
        (2, "a", Some("shard1"), Some(10), 3),
        (3, "b", Some("shard1"), Some(11), 3),
        (4, "c", Some("shard1"), Some(11), 3),
        (5, "d", Some("shard1"), Some(12), 2),
        (6, "z", Some("shard2"), Some(10), 1),
    ];
    assert_eq!(listed, expected, "at most {BULK_KEYS_MAX} keys of a shard");
    assert!(writes.iter().all(|it| it.second == BEGIN), "{writes:?}");
    assert_eq!(writes_after(&test.recorder, 6), []);
    store(&test, (0, 5), &["f"], 40);
    let later = writes_after(&test.recorder, 6);
    assert_eq!((later.len(), later[0].number, later[0].rows), (1, 7, 5));
}

#[test]
fn rows_of_bulk_writes_are_counted_once_within_the_limits_of_a_second_and_of_the_list() {
    let test = TestRecorder::of(WRITES_MAX);
    let shards = WRITES_MAX as u16 / 2;
    for (second, rows) in [(0, 1), (1, 2)] {
        for shard in 0..shards {
            store(&test, (shard, rows), &["k"], second * 1_000);
        }
    }
    let mut listed: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for write in writes_after(&test.recorder, 0) {
        listed.entry(write.shard.clone()).or_default().push((write.second, write.rows));
    }
    assert_eq!(listed.len(), usize::from(shards));
    assert!(listed.values().all(|of_shard| *of_shard == [(BEGIN, 1), (BEGIN + 1, 2)]));
    for number in 0..1_000 {
        store(&test, (0, 1), &[&format!("k{number}")], number * 1_000);
    }
    assert_eq!(writes_after(&test.recorder, 0).len(), WRITES_MAX);
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
