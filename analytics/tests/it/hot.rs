//! Tests of hot keys: the error bounds of Space-Saving hold under load.

use std::collections::HashMap;

use analytics::{HotKey, MetricsQuery, Sample, Window};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand_distr::{Distribution, Zipf};

use crate::{TestRecorder, millis, read, seconds, write};

/// Records a request for each key, two in each ms. At most one detail is recorded per ms, so every
/// second request has the text of its key.
fn request_keys<'k>(test: &TestRecorder, keys: impl Iterator<Item = &'k str>) {
    for (number, key) in (0..).zip(keys) {
        let shard = (key.len() % 2) as u16;
        let sample =
            Sample { key: Some(key), slot: Some(key.len() as u16), ..read(shard, 200, millis(1)) };
        test.record(&sample, millis(number / 2));
    }
}

#[test]
fn the_most_requested_keys_are_listed_with_shard_slot_share_and_kind() {
    let test = TestRecorder::of(2);
    for request in 0..100_u64 {
        let at = millis(request * 10);
        let hot = Sample { key: Some("ada"), slot: Some(9), ..read(1, 200, millis(1)) };
        test.record(&hot, at);
        if request % 2 == 0 {
            test.record(&Sample { key: Some("bob"), ..write(0, 201, millis(1)) }, at + millis(2));
        }
        // A request without a key also counts in the total from which shares are computed.
        test.record(&Sample { shard: None, ..read(0, 200, millis(1)) }, at + millis(4));
    }
    let keys = test.figures("1m", seconds(2)).hot_keys;
    let ada = HotKey {
        key: "ada".into(),
        shard: Some("shard2".into()),
        slot: Some(9),
        requests: 100,
        error: 0,
        share: 0.4,
        reads: 100,
        writes: 0,
    };
    let bob = HotKey {
        key: "bob".into(),
        shard: Some("shard1".into()),
        slot: None,
        requests: 50,
        reads: 0,
        writes: 50,
        share: 0.2,
        ..ada.clone()
    };
    assert_eq!(keys, [ada.clone(), bob]);
    // The result is the same after the end of the interval of ten seconds, and after the end of the
    // minute.
    assert_eq!(test.figures("5m", seconds(20)).hot_keys[0], ada);
    assert_eq!(test.figures("24h", seconds(70)).hot_keys[0], ada);
    // When the requests are no longer in the window, the keys are no longer hot.
    assert_eq!(test.figures("1m", seconds(140)).hot_keys, []);
    // A query for one shard returns only the hot keys of this shard.
    let query = MetricsQuery {
        shard: Some("shard2".into()),
        window: Window::default(),
        ..Default::default()
    };
    let keys = test.query_metrics(&query, seconds(20)).hot_keys;
    assert_eq!((keys.len(), &*keys[0].key, keys[0].share), (1, "ada", 1.0));
}

#[test]
fn a_hot_key_is_found_among_a_hundred_thousand_others() {
    let test = TestRecorder::of(2);
    let names: Vec<String> = (0..100_000).map(|number| format!("key-{number}")).collect();
    let zipf = Zipf::new(100_000.0, 1.1).unwrap();
    let mut random = SmallRng::seed_from_u64(7);
    let mut counts: HashMap<&str, u64> = HashMap::new();
    // All requests lie in one interval of ten seconds.
    let requested: Vec<&str> =
        (0..19_000).map(|_| &*names[zipf.sample(&mut random) as usize - 1]).collect();
    requested.iter().for_each(|key| *counts.entry(key).or_default() += 1);
    request_keys(&test, requested.into_iter());
    let reported = test.figures("1m", millis(9_900)).hot_keys;
    let mut wanted: Vec<(&&str, &u64)> = counts.iter().collect();
    wanted.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    for (key, count) in wanted.into_iter().take(8) {
        let reported = reported.iter().find(|reported| reported.key == **key);
        let reported =
            reported.unwrap_or_else(|| panic!("{key} with {count} requests is not listed"));
        assert!(
            reported.requests >= *count && reported.requests - reported.error <= *count,
            "{reported:?}: {count}"
        );
        assert_eq!(reported.reads, reported.requests - reported.error);
    }
}

#[test]
fn a_key_that_becomes_hot_late_in_a_burst_is_listed_although_the_queues_were_not_drained() {
    let test = TestRecorder::of(2);
    // There are more keys than a queue has room for details.
    let names: Vec<String> = (0..300).map(|number| format!("key-{number}")).collect();
    let keys = names.iter().map(String::as_str).chain(std::iter::repeat_n("hot", 200));
    for (ms, key) in (0..).zip(keys) {
        test.record(&Sample { key: Some(key), ..read(0, 200, millis(1)) }, millis(ms));
    }
    let hot = test.figures("1m", seconds(2)).hot_keys.remove(0);
    assert_eq!((&*hot.key, hot.requests), ("hot", 200));
}

#[test]
fn keys_that_are_too_long_count_and_are_not_listed() {
    let test = TestRecorder::of(2);
    let long = "k".repeat(257);
    request_keys(&test, std::iter::repeat_n(&*long, 100).chain(["short"]));
    let metrics = test.figures("1m", seconds(1));
    let keys: Vec<&str> = metrics.hot_keys.iter().map(|hot| &*hot.key).collect();
    assert_eq!((metrics.total, keys), (101, vec!["short"]));
}

#[test]
fn at_most_twenty_keys_are_listed_for_any_window() {
    let test = TestRecorder::of(2);
    let names: Vec<String> = (0..60).map(|number| format!("key-{number}")).collect();
    let keys = (0..120_000).map(|request| &*names[request / 500 % 60]);
    request_keys(&test, keys);
    assert_eq!(test.figures("5m", seconds(61)).hot_keys.len(), 20);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 40,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(5),
        ..ProptestConfig::default()
    })]

    /// A count is never below the true count, never above it by more than the error, and the error
    /// is at most 1/512 of all requests. At least half of the requests are for keys that occur only
    /// once.
    #[test]
    fn counts_are_true_within_their_error(
        hot in vec(0_usize..12, 500..3_000),
        cold in 1_usize..6,
    ) {
        let test = TestRecorder::of(2);
        let mut counts: HashMap<String, u64> = HashMap::new();
        let mut keys = Vec::new();
        for (number, hot) in hot.iter().enumerate() {
            keys.push(format!("hot-{}", hot * hot % 12));
            keys.extend((0..cold).map(|which| format!("cold-{number}-{which}")));
        }
        keys.iter().for_each(|key| *counts.entry(key.clone()).or_default() += 1);
        request_keys(&test, keys.iter().map(|key| &**key));
        let at = millis(keys.len() as u64 / 2);
        // Only cases within the first interval of ten seconds are checked, because each interval
        // has an error of its own.
        prop_assume!(at < seconds(10));
        let reported = test.figures("1m", at).hot_keys;
        for hot in &reported {
            let truth = counts[&hot.key];
            prop_assert!(hot.requests >= truth, "{:?} is below {}", hot, truth);
            prop_assert!(hot.requests - hot.error <= truth, "{:?} is above {}", hot, truth);
            prop_assert!(hot.error <= keys.len() as u64 / 512, "{:?} of {}", hot, keys.len());
            prop_assert_eq!(hot.reads + hot.writes, hot.requests - hot.error);
        }
        // Every one of the twelve most frequent keys is listed if its count is well above the
        // error.
        let mut heavy: Vec<u64> = counts.values().copied().collect();
        heavy.sort_unstable_by(|a, b| b.cmp(a));
        let sure = keys.len() as u64 / 512 * 2 + 1;
        for (key, count) in counts.iter().filter(|(_, count)| **count > sure) {
            if heavy.iter().filter(|other| **other >= *count).count() <= 12 {
                prop_assert!(reported.iter().any(|hot| hot.key == *key), "{} with {}", key, count);
            }
        }
    }
}
