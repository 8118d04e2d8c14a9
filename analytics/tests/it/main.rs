//! Tests of the crate's public interface, one module per subject.

mod errors;
mod figures;
mod frames;
mod gaps;
mod history;
mod hot;
mod json;
mod openmetrics;
mod percentiles;
mod recent_writes;
mod recorder;
mod shard_labels;
mod window;

use std::time::Duration;

use analytics::{
    ClusterNow, Labels, Metrics, MetricsQuery, Operation, Recorder, Role, Sample, ShardNow, Window,
    Worker, figures,
};

/// The time at which every test begins: a whole minute of November 2026, in ms since 1970 UTC.
const BEGIN_MS: u64 = 1_795_255_200_000;
/// `BEGIN_MS` in s.
const BEGIN: u64 = BEGIN_MS / 1_000;
const ROUTES: [&str; 2] = ["/api/write", "/api/read"];

/// Recorder whose clock is set by the test, and one worker of it.
struct TestRecorder {
    recorder: Recorder,
    worker: Worker,
}

impl TestRecorder {
    /// Creates a recorder with the shards `shard1`, `shard2`, ...
    fn of(shards: usize) -> Self {
        let recorder = Recorder::without_thread(labels(shards), BEGIN_MS);
        let worker = recorder.worker();
        Self { recorder, worker }
    }

    /// Records a sample at a time since the beginning.
    fn record(&self, sample: &Sample<'_>, at: Duration) {
        self.worker.record(sample, self.recorder.started() + at);
    }

    /// Returns the metrics of a window that ends at a time since the beginning.
    fn figures(&self, window: &str, at: Duration) -> Metrics {
        let window = Window::parse(window).expect("a window");
        self.query_metrics(&MetricsQuery { window, ..MetricsQuery::default() }, at)
    }

    fn query_metrics(&self, query: &MetricsQuery, at: Duration) -> Metrics {
        let history = self.recorder.settle_at(self.recorder.started() + at);
        let at_ms = BEGIN_MS + at.as_millis() as u64;
        figures(&[history], query, &now(&self.recorder.labels().shards), at_ms)
    }
}

fn labels(shards: usize) -> Labels {
    let shards = (1..=shards).map(|number| format!("shard{number}")).collect();
    Labels { routes: ROUTES.to_vec(), shards, slots: 16_384 }
}

/// Returns the state of a cluster of which only the names of the shards are known.
fn now(shards: &[String]) -> ClusterNow {
    let shard = |name: &String| ShardNow { shard: name.clone(), ..ShardNow::default() };
    ClusterNow { shards: shards.iter().map(shard).collect(), ..ClusterNow::default() }
}

fn read(shard: u16, status: u16, elapsed: Duration) -> Sample<'static> {
    Sample {
        route: 1,
        operation: Operation::Read,
        shard: Some(shard),
        slot: None,
        role: Some(Role::Replica),
        status,
        fanout: 1,
        elapsed,
        queue: Duration::ZERO,
        database: Duration::ZERO,
        key: None,
        trace: None,
    }
}

fn write(shard: u16, status: u16, elapsed: Duration) -> Sample<'static> {
    let role = Some(Role::Primary);
    Sample { route: 0, operation: Operation::Write, role, ..read(shard, status, elapsed) }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Returns realistic latencies, the same in every run: most are near 0.3 ms, and a few take up to
/// seconds.
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

/// Returns the exact quantile: the value at rank ⌈q·n⌉ of all sorted values.
fn exact(sorted: &[Duration], quantile: f64) -> Duration {
    let rank = (quantile * sorted.len() as f64).ceil() as usize;
    sorted[rank.max(1) - 1]
}
