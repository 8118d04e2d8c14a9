//! Earlier: the figures that a router kept which served some minutes ago, in the store that the next one is given.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use analytics::store::{Keeper, StoreAddress};
use analytics::{Labels, Operation, Recorder, Role, Sample};

/// So many seconds it served, and answered a read in each of the first half of them.
pub(crate) const SERVED_S: u64 = 100;

/// A router served from `ago` seconds ago on, for [`SERVED_S`]. When it began, in s since 1970.
pub(crate) fn served(store: &Path, ago: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let began = now - ago;
    let shards = ["shard1", "shard2", "shard3"].map(str::to_owned).into();
    let labels = Labels { routes: vec!["/api/read"], shards, slots: 16_384 };
    let recorder = Recorder::by_hand(labels, began * 1_000);
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
    for second in 0..SERVED_S / 2 {
        worker.record(&sample, recorder.started() + Duration::from_secs(second));
    }
    recorder.settle_at(recorder.started() + Duration::from_secs(SERVED_S));
    let address = StoreAddress::parse(store.to_str().unwrap()).unwrap().unwrap();
    Keeper::start(address, "router", recorder.history().clone()).unwrap().close();
    began
}
