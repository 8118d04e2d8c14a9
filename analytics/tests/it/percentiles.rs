//! Histograms: merged is the same as one, and close to the truth.

use std::time::Duration;

use analytics::{EncodedHistogram, LatencyHistogram};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::{exact, latencies, seconds};

const QUANTILES: [f64; 6] = [0.0, 0.5, 0.9, 0.99, 0.999, 1.0];

fn histogram(latencies: impl IntoIterator<Item = Duration>) -> LatencyHistogram {
    let mut histogram = LatencyHistogram::new();
    latencies.into_iter().for_each(|latency| histogram.record(latency));
    histogram
}

fn assert_close(got: Duration, want: Duration, share: f64) {
    let off = got.abs_diff(want).as_secs_f64();
    assert!(off <= want.as_secs_f64() * share, "{got:?} is not within {share} of {want:?}");
}

fn micros() -> impl Strategy<Value = Duration> {
    // Every order of magnitude is as likely as the next, up to 60 s.
    (0.0..7.778_f64).prop_map(|log| Duration::from_micros(10_f64.powf(log) as u64))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 40,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(2),
        ..ProptestConfig::default()
    })]

    #[test]
    fn merged_slots_answer_as_one_histogram_and_within_a_thousandth_of_the_truth(
        slots in vec(vec(micros(), 0..60), 1..6),
    ) {
        let mut merged = LatencyHistogram::new();
        for slot in &slots {
            merged.merge_encoded(&histogram(slot.iter().copied()).encode());
        }
        let mut all = slots.concat();
        let whole = histogram(all.iter().copied());
        all.sort();
        prop_assert_eq!(merged.count(), all.len() as u64);
        prop_assert_eq!(merged.max(), whole.max());
        for quantile in QUANTILES.into_iter().filter(|_| !all.is_empty()) {
            prop_assert_eq!(merged.quantile(quantile), whole.quantile(quantile));
            assert_close(merged.quantile(quantile), exact(&all, quantile), 0.001);
        }
    }
}

#[test]
fn latencies_spread_too_widely_for_three_digits_are_kept_within_a_half_percent() {
    let mut all: Vec<_> =
        (0..30_000).map(|n| Duration::from_micros(1.000_59_f64.powi(n) as u64 + 1)).collect();
    all.sort();
    let encoded = histogram(all.iter().copied()).encode();
    assert!(encoded.size_bytes() <= EncodedHistogram::BYTES_MAX);

    let mut merged = LatencyHistogram::new();
    merged.merge_encoded(&encoded);
    assert_eq!(merged.count(), 30_000);
    for quantile in [0.01, 0.5, 0.9, 0.95, 0.99, 0.999] {
        assert_close(merged.quantile(quantile), exact(&all, quantile), 0.005);
    }
}

#[test]
fn what_a_healthy_shard_shows_in_a_slot_fits_without_loss() {
    let usual = latencies(12_500).map(|latency| latency.min(Duration::from_millis(2)));
    assert!(histogram(usual).encode().size_bytes() <= EncodedHistogram::LOSSLESS_BYTES_MAX);
}

#[test]
fn latencies_out_of_range_count_as_the_nearest_in_range() {
    let histogram = histogram([Duration::ZERO, seconds(61), Duration::MAX]);
    assert_eq!(histogram.quantile(0.1), Duration::from_micros(1));
    assert_eq!(histogram.quantile(1.0), seconds(60));
    assert_eq!(histogram.max(), seconds(60));
}

#[test]
fn an_empty_histogram_answers_zero() {
    let mut empty = LatencyHistogram::new();
    empty.merge_encoded(&LatencyHistogram::new().encode());
    assert_eq!(
        (empty.count(), empty.quantile(0.5), empty.max()),
        (0, Duration::ZERO, Duration::ZERO)
    );
}
