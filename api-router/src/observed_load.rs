//! Observed load: counts the requests of each slot that this router has served in the last minutes,
//! for advice and rebalances.
//!
//! **Not here:** recording requests (`analytics`), the conclusions from their counts
//! (`shard_manager::advice`).

use std::sync::{Arc, Weak};
use std::time::Duration;

use analytics::busiest_keys;
use shard_manager::advice::{KeyLoad, SlotLoad};
use shard_manager::keyspace::Slot;
use shard_manager::manager::{LoadSource, ObservedLoad};

use crate::metrics_view::MetricsView;

/// Number of complete minutes whose requests are counted, in addition to the current minute: all
/// that are kept.
const MINUTES: u64 = 15;

/// Source of the load that a router has recorded.
pub struct RecordedLoad(Weak<MetricsView>);

impl RecordedLoad {
    /// Returns the load source for the manager. It refers to the metrics weakly, because they refer
    /// to the manager.
    pub fn of(metrics: &Arc<MetricsView>) -> Arc<dyn LoadSource> {
        Arc::new(Self(Arc::downgrade(metrics)))
    }
}

impl LoadSource for RecordedLoad {
    fn observed(&self) -> Option<ObservedLoad> {
        self.0.upgrade().map(|metrics| count(&metrics))
    }
}

/// Counts the requests of each slot and of the most frequent keys. Takes some milliseconds.
pub fn count(metrics: &MetricsView) -> ObservedLoad {
    let recorder = &metrics.recorder;
    let load = recorder.slot_load(MINUTES).into_iter();
    let slots = load.map(|slot| SlotLoad { reads: slot.reads, writes: slot.writes }).collect();
    let keys = busiest_keys(recorder, MINUTES).into_iter().filter_map(|busy| {
        Some(KeyLoad { key: busy.key, slot: Slot::new(busy.slot?)?, requests: busy.requests })
    });
    ObservedLoad { slots, keys: keys.collect() }
}

/// Returns the length of the period that the counts cover.
pub fn window(metrics: &MetricsView) -> Duration {
    let recorder = &metrics.recorder;
    let running = Duration::from_millis(recorder.at_ms() % 60_000);
    recorder.started().elapsed().min(Duration::from_secs(60 * MINUTES) + running)
}
