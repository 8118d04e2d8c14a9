//! What the crate promises, told from outside: one module per noun.

mod errors;
mod json;
mod percentiles;
mod recorder;
mod window;

use std::time::Duration;

use analytics::{Operation, Recorder, Sample};

/// A recorder for `shard1`, `shard2`, ... whose clock the test drives.
fn recorder(shards: usize) -> Recorder {
    Recorder::new((1..=shards).map(|number| format!("shard{number}")).collect())
}

fn read(shard: u16, status: u16, elapsed: Duration) -> Sample {
    Sample { operation: Operation::Read, shard: Some(shard), status, elapsed }
}

fn write(shard: u16, status: u16, elapsed: Duration) -> Sample {
    Sample { operation: Operation::Write, shard: Some(shard), status, elapsed }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Latencies as a service has them: most near 0.3 ms, a tail to seconds. The same in every run.
fn latencies(count: usize) -> impl Iterator<Item = Duration> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    std::iter::repeat_with(move || {
        let normal = (0..12).map(|_| uniform()).sum::<f64>() - 6.0;
        Duration::from_micros((300.0 * (1.2 * normal).exp()) as u64 + 1)
    })
    .take(count)
}

/// The percentile by its definition: the value at rank ⌈q·n⌉ of all, sorted.
fn exact(sorted: &[Duration], quantile: f64) -> Duration {
    let rank = (quantile * sorted.len() as f64).ceil() as usize;
    sorted[rank.max(1) - 1]
}
