//! Earlier metrics: fills a store with the metrics of a router that ran some minutes ago, for the
//! next router.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use analytics::store::{HistoryWriter, StoreAddress};
use analytics::{Labels, Operation, Recorder, Role, Sample};

/// Start of that router, seconds ago: long enough that the last five minutes are read from slots of
/// a second.
const AGO_S: u64 = 600;
/// Seconds in each of which it answered one read.
const BUSY_S: u64 = 400;
/// Seconds after its start at which it was stopped.
const SERVED_S: u64 = 450;

/// Simulates a router that was down for the last two and a half minutes; returns its start, in
/// seconds since 1970.
pub(crate) fn served(store: &Path) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let began = now - AGO_S;
    let shards = ["shard1", "shard2", "shard3"].map(str::to_owned).into();
    let labels = Labels { routes: vec!["/api/read"], shards, slots: 16_384 };
    let recorder = Recorder::without_thread(labels, began * 1_000);
    let worker = recorder.worker();
    let sample = Sample {
        route: 0,
        operation: Operation::Read,
        shard: Some(0),
        slot: None,
        role: Some(Role::Primary),
        status: 200,
        fanout: 1,
        elapsed: Duration::from_millis(2),
        queue: Duration::ZERO,
        database: Duration::from_millis(1),
        key: None,
        trace: None,
    };
    for second in 0..BUSY_S {
        worker.record(&sample, recorder.started() + Duration::from_secs(second));
    }
    recorder.settle_at(recorder.started() + Duration::from_secs(SERVED_S));
    let address = StoreAddress::parse(store.to_str().unwrap()).unwrap().unwrap();
    HistoryWriter::start(address, "router", recorder.history().clone()).unwrap().close();
    began
}
