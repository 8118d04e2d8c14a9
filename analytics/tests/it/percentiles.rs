//! Tests of histograms: merging loses nothing, percentiles are close to the exact values, and other
//! HDR readers accept the encoding.

use std::time::Duration;

use analytics::{LatencyHistogram, Packed};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2Serializer};
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
    // All orders of magnitude up to 60 s are equally likely.
    (0.0..7.778_f64).prop_map(|log| Duration::from_micros(10_f64.powf(log) as u64))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 60,
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
            merged.absorb(&histogram(slot.iter().copied()).packed());
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

    #[test]
    fn two_digits_are_within_a_half_percent(all in vec(micros(), 1..200)) {
        let coarse = histogram(all.iter().copied()).packed_coarse();
        prop_assert_eq!(coarse.digits(), 2);
        let mut merged = LatencyHistogram::new();
        merged.absorb(&coarse);
        let mut all = all;
        all.sort();
        for quantile in [0.01, 0.5, 0.9, 0.99] {
            assert_close(merged.quantile(quantile), exact(&all, quantile), 0.006);
        }
    }

    /// The encoding is compared with that of the crate `hdrhistogram`. The crate must read
    /// Tessera's encoding with the same counts, and Tessera must read the crate's encoding.
    #[test]
    fn the_encoding_is_compatible_with_hdr_readers(all in vec(micros(), 0..300)) {
        let ours = histogram(all.iter().copied());
        let mut theirs = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).unwrap();
        all.iter().for_each(|latency| theirs.record(latency.as_micros() as u64).unwrap());
        let read: Histogram<u64> =
            Deserializer::new().deserialize(&mut &*ours.packed().to_hdr()).unwrap();
        prop_assert_eq!(&read, &theirs);
        for quantile in QUANTILES.into_iter().skip(1).filter(|_| !all.is_empty()) {
            let micros = theirs.value_at_quantile(quantile).min(60_000_000);
            prop_assert_eq!(ours.quantile(quantile), Duration::from_micros(micros));
        }
        let mut bytes = Vec::new();
        V2Serializer::new().serialize(&theirs, &mut bytes).unwrap();
        prop_assert_eq!(Packed::of_hdr(&bytes).unwrap(), ours.packed());

        let mut coarse = Histogram::<u64>::new_with_bounds(1, 60_000_000, 2).unwrap();
        coarse.add(&theirs).unwrap();
        let read: Histogram<u64> =
            Deserializer::new().deserialize(&mut &*ours.packed_coarse().to_hdr()).unwrap();
        prop_assert_eq!(&read, &coarse);
    }

    /// Frames come from other machines, so arbitrary bytes must be refused, or be read as some
    /// histogram, without a panic.
    #[test]
    fn damaged_bytes_are_refused_or_read_as_some_histogram(
        all in vec(micros(), 1..40),
        damage in vec((0_usize..200, any::<u8>()), 1..4),
        cut in 0_usize..200,
    ) {
        let mut bytes = histogram(all).packed().to_hdr();
        for (place, byte) in damage {
            let place = place % bytes.len();
            bytes[place] = byte;
        }
        bytes.truncate(bytes.len().saturating_sub(cut % 3));
        if let Ok(packed) = Packed::of_hdr(&bytes) {
            let mut read = LatencyHistogram::new();
            read.absorb(&packed);
            prop_assert!(read.quantile(1.0) <= seconds(60));
        }
    }
}

#[test]
fn latencies_spread_too_widely_for_three_digits_are_kept_at_two() {
    let mut all: Vec<_> =
        (0..30_000).map(|n| Duration::from_micros(1.000_59_f64.powi(n) as u64 + 1)).collect();
    all.sort();
    let packed = histogram(all.iter().copied()).packed();
    assert_eq!(packed.digits(), 2);
    assert!(packed.size_bytes() <= Packed::FINE_BYTES_MAX);

    let mut merged = LatencyHistogram::new();
    merged.absorb(&packed);
    assert_eq!(merged.count(), 30_000);
    for quantile in [0.01, 0.5, 0.9, 0.95, 0.99, 0.999] {
        assert_close(merged.quantile(quantile), exact(&all, quantile), 0.005);
    }
}

#[test]
fn latencies_of_a_healthy_shard_fit_into_a_slot_without_loss() {
    let usual = latencies(12_500).map(|latency| latency.min(Duration::from_millis(2)));
    assert_eq!(histogram(usual).packed().digits(), 3);
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
    empty.absorb(&LatencyHistogram::new().packed());
    assert_eq!(
        (empty.count(), empty.quantile(0.5), empty.max()),
        (0, Duration::ZERO, Duration::ZERO)
    );
}

#[test]
fn a_histogram_of_other_bounds_is_refused() {
    let mut foreign = Histogram::<u64>::new_with_bounds(1, 3_600_000_000, 3).unwrap();
    foreign.record(5).unwrap();
    let mut bytes = Vec::new();
    V2Serializer::new().serialize(&foreign, &mut bytes).unwrap();
    assert!(Packed::of_hdr(&bytes).unwrap_err().to_string().contains("other bounds"));
    for text in ["", "\"\"", "\"AAAA\"", "\"*\"", "7", "null"] {
        assert!(serde_json::from_str::<Packed>(text).is_err(), "{text}");
    }
}
