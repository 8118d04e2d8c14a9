//! Recorder: counts data requests, keeps their history, and computes metrics from it.
//!
//! # Map
//!
//! The lowest layer comes first. A module imports only from modules in lines above its own.
//!
//! | module | contents |
//! | --- | --- |
//! | `sample` | one request, as the router reports it, and the labels |
//! | `cluster` | the current state of the cluster |
//! | `shard_labels` | the names of the shards in samples, to which more are added |
//! | `window`, `query` | the time range and the filters of a metrics query |
//! | `errors`, `errors_query` | the newest failures, bounded, and their filters |
//! | `clock`, `process` | unix time that never runs backwards; `/proc` |
//! | `packed`, `histogram` | histograms of latencies: compressed, and while latencies are added |
//! | `bucket_counter` | counts in a few fixed buckets since the start of the process |
//! | `entry` | a sample in the queue between a worker and the aggregator |
//! | `frame`, `merge` | the counts of one finished interval; the sum of several frames |
//! | `hot`, `slot_load`, `totals` | the hottest keys; load of each slot; counts since the start |
//! | `recent_writes` | the keys of the latest writes, a few of each bulk write |
//! | `current_second` | the counts of the current second |
//! | `measured_intervals` | the intervals in which a recorder ran |
//! | `history` | frames of seconds, ten seconds and minutes, in three rings |
//! | `aggregator` | takes samples from the queues, and turns each finished second into a frame |
//! | `metrics`, `curves`, `window_sums`, `figures` | the response to a metrics query |
//! | `recorder_state`, `worker`, `recorder` | the recorder, its thread, and its workers |
//! | `example_lines`, `openmetrics` | the text of `/metrics` |
//! | `tls_roots` | trusted certificates (feature `tls`) |
//! | `store` | history that survives restarts (feature `store`) |
//!
//! **Invariant:** recording a request takes no lock and allocates nothing, except when a queue is
//! full.
//! **Not here:** HTTP, settings and logs of programs (`web-kit`), collecting from other processes
//! (`service`).

#![forbid(unsafe_code)]

mod aggregator;
mod bucket_counter;
mod clock;
mod cluster;
mod current_second;
mod curves;
mod entry;
mod errors;
mod errors_query;
mod example_lines;
mod figures;
mod frame;
mod histogram;
mod history;
mod hot;
mod measured_intervals;
mod merge;
mod metrics;
mod openmetrics;
mod packed;
mod process;
mod query;
mod recent_writes;
mod recorder;
mod recorder_state;
mod sample;
mod shard_labels;
mod slot_load;
#[cfg(feature = "store")]
pub mod store;
#[cfg(feature = "tls")]
pub mod tls_roots;
mod totals;
mod window;
mod window_sums;
mod worker;

pub use cluster::{
    CacheNow, ClusterNow, ComparedNow, LaneNow, MoveNow, MoveTotalsNow, NodeNow, ParkedNow,
    PoolNow, RebalanceNow, ShardNow, WaitBucket,
};
pub use errors::{ErrorEvent, ErrorFilter, ErrorGroup, ErrorLog, FilterError};
pub use errors_query::{ErrorsParameters, ErrorsQuery};
pub use figures::figures;
pub use frame::{Cell, CellLabel, Fanout, Frame, HotCount, PartTimes, Parts, Step, StepError};
pub use histogram::LatencyHistogram;
pub use history::{BUDGETS, History};
pub use measured_intervals::MeasuredIntervals;
pub use merge::merged;
pub use metrics::{
    CacheMetrics, ClusterMetrics, FanoutMetrics, Heatmap, HistoryMetrics, HotKey, LatencyMs,
    LatencyParts, Metrics, Named, PartMs, ReadFrom, RouteMetrics, Series, ShardMetrics,
    ShardSeries, Skew,
};
pub use openmetrics::{
    AccessNow, AuditNow, BackupsNow, CONTENT_TYPE, IssuerNow, MemoryNow, openmetrics,
};
pub use packed::{Packed, PackedError};
pub use query::{MetricsParameters, MetricsQuery, OperationError};
pub use recent_writes::{BULK_KEYS_MAX, RecentWrite, SampledRows, WRITES_MAX};
pub use recorder::{BusyKey, Recorder, busiest_keys, list_sampled_rows, writes_after};
pub use sample::{Labels, Operation, Outcome, Role, Sample};
pub use shard_labels::ShardLabels;
pub use slot_load::SlotLoad;
pub use window::{Window, WindowError};
pub use worker::{InFlight, Worker};
