//! Recording: measures the cost of recording a request, of draining it, and of computing metrics.
//!
//! The benchmark prints the results and does not check them against limits.

use std::hint::black_box;
use std::time::Duration;

use analytics::{
    ClusterNow, Labels, MetricsQuery, Operation, Recorder, Role, Sample, ShardNow, Window, figures,
};
use rustix::time::{ClockId, clock_gettime};

/// The time at which the recorder begins, in ms since 1970 UTC.
const BEGIN_MS: u64 = 1_795_255_200_000;
const ROUTES: [&str; 4] = ["/api/write", "/api/read", "/api/kv/{key}", "/api/bulk-write"];
/// Number of different keys that are requested.
const KEYS: usize = 4_096;

fn recorder(shards: usize) -> Recorder {
    let shards = (1..=shards).map(|number| format!("shard{number}")).collect();
    Recorder::without_thread(Labels { routes: ROUTES.to_vec(), shards, slots: 16_384 }, BEGIN_MS)
}

/// Returns a generator of pseudo-random numbers. Its seed is fixed, so every run gets the same
/// numbers.
fn random() -> impl FnMut() -> u64 {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

/// Returns requests like those of a real service: reads and writes of many keys, most with a
/// latency near 0.3 ms, with a long tail of slower ones.
fn samples(keys: &[String], shards: u64) -> Vec<Sample<'_>> {
    let mut random = random();
    let sample = |_| {
        let uniform = |random: u64| (random >> 11) as f64 / (1_u64 << 53) as f64;
        let normal = (0..12).map(|_| uniform(random())).sum::<f64>() - 6.0;
        let elapsed = Duration::from_nanos((300_000.0 * (0.7 * normal).exp()) as u64);
        let write = random().is_multiple_of(4);
        // The third power makes the first keys the most requested ones.
        let key = (uniform(random()).powi(3) * KEYS as f64) as usize;
        Sample {
            route: (random() % 3) as u8,
            operation: if write { Operation::Write } else { Operation::Read },
            shard: Some((random() % shards) as u16),
            slot: Some((key * 3) as u16),
            role: Some(if write { Role::Primary } else { Role::Replica }),
            status: if random().is_multiple_of(100) { 404 } else { 200 },
            fanout: 1,
            elapsed,
            queue: elapsed / 5,
            database: elapsed / 2,
            key: Some(&keys[key]),
            trace: None,
        }
    };
    (0..65_536).map(sample).collect()
}

/// Returns the CPU time of this thread, which other load on the machine does not increase.
fn busy() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Returns the time for one of `count` operations, in ns.
fn each(took: Duration, count: usize) -> f64 {
    took.as_nanos() as f64 / count as f64
}

/// Records and drains requests in turn, as a worker and the recorder's thread do. Returns the CPU
/// time for recording one request and for draining one, in ns.
fn record_and_drain(samples: &[Sample<'_>], shards: usize) -> (f64, f64) {
    const ROUNDS: usize = 600;
    const BATCH: usize = 2_000;
    let recorder = recorder(shards);
    let worker = recorder.worker();
    let (mut recording, mut draining) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        // This is a rate of 20,000 requests per second, with ten drains per second.
        let now = recorder.started() + Duration::from_millis(round as u64 * 100);
        let began = busy();
        for number in 0..BATCH {
            worker.record(black_box(&samples[(round * BATCH + number) % samples.len()]), now);
        }
        let recorded = busy();
        recorder.drain_at(now + Duration::from_millis(100));
        recording.push(each(recorded - began, BATCH));
        draining.push(each(busy() - recorded, BATCH));
    }
    // For draining, the mean is returned instead of the median, because one drain in ten also
    // closes a second and takes longer.
    (median(recording), draining.iter().sum::<f64>() / draining.len() as f64)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Records a week of a service with 40 requests per second. All 400 requests of ten seconds are
/// recorded in one second, so that the benchmark ends sooner; frames of ten seconds and of a minute
/// still hold as many requests as in real use.
fn week(samples: &[Sample<'_>], shards: usize) -> Recorder {
    let recorder = recorder(shards);
    let worker = recorder.worker();
    let mut next = samples.iter().cycle();
    for ten in 0..7 * 8_640 {
        let now = recorder.started() + Duration::from_secs(ten * 10);
        (0..400).filter_map(|_| next.next()).for_each(|sample| worker.record(sample, now));
    }
    recorder.settle_at(recorder.started() + Duration::from_secs(7 * 86_400));
    recorder
}

fn main() {
    let keys: Vec<String> = (0..KEYS).map(|number| format!("user_{number:06}")).collect();
    for shards in [3, 256] {
        let samples = samples(&keys, shards as u64);
        let (record, drain) = record_and_drain(&samples, shards);
        println!("{shards} shards: {record:.1} ns to record, {drain:.1} ns to drain a request");
    }
    let samples = samples(&keys, 3);
    let began = busy();
    let recorder = week(&samples, 3);
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    let history = recorder.history();
    println!(
        "a week of 40 requests/s on 3 shards: {:.1} MiB of history, {:.1} MiB in all (made in {:.1} s)",
        mib(history.bytes()),
        mib(recorder.bytes()),
        (busy() - began).as_secs_f64()
    );
    let shard = |name: &String| ShardNow { shard: name.clone(), ..ShardNow::default() };
    let shards = recorder.labels().shards.iter().map(shard).collect();
    let now = ClusterNow { shards, ..ClusterNow::default() };
    for name in Window::NAMES {
        let Ok(window) = Window::parse(name) else { continue };
        let query = MetricsQuery { window, ..MetricsQuery::default() };
        let began = busy();
        let metrics = figures(&[history], &query, &now, BEGIN_MS + 7 * 86_400_000);
        let took = (busy() - began).as_secs_f64() * 1e3;
        let dropped = metrics.history.dropped;
        println!(
            "figures of {name}: {took:.1} ms ({} requests, {dropped} intervals dropped)",
            metrics.total
        );
    }
}
