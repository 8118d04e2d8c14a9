#![doc = include_str!("../README.md")]
//!
//! # Map
//!
//! Lowest first; a module imports only from lines above its own.
//!
//! | module | noun |
//! | --- | --- |
//! | `dashboard` | the files of the page that people open |
//! | `sample` | one request, as the router reports it; the labels |
//! | `cluster` | the cluster as it is now |
//! | `window`, `query` | how far back a question looks, and at what |
//! | `errors`, `errors_query` | the newest failures, bounded; which of them are asked for |
//! | `clock`, `process` | unix time that never runs backwards; `/proc` |
//! | `packed`, `histogram` | latencies at rest, and while they are counted |
//! | `counted` | counts in a few fixed buckets, since the start |
//! | `entry` | a sample as it lies in a queue |
//! | `frame`, `merge` | one finished slot of time; several as one |
//! | `hot`, `slot_load`, `totals` | the busiest keys; load by slot; what scrapers are told |
//! | `sheet` | the running second |
//! | `spans` | the times in which somebody counted |
//! | `history` | finished slots in three rings |
//! | `ledger` | drains queues, closes seconds |
//! | `metrics`, `curves`, `sums`, `figures` | the answer, and how it is added up |
//! | `shared`, `worker`, `recorder` | the façade and its two ends |
//! | `example_lines`, `openmetrics` | the text of `/metrics` |
//! | `live` | the stream that dashboards watch (feature `live`) |
//! | `trust`, `store` | which certificates are believed; history that survives restarts (feature `store`) |
//! | `settings`, `log_lines`, `probe` | how a program is configured, what it logs, how it is asked whether it is well (feature `program`) |
//! | `foreign`, `readiness`, `served` | what it refuses browsers, and what it answers probes and the page (feature `program`) |
//! | `service` | collects from routers and serves for all of them (feature `service`) |

#![forbid(unsafe_code)]

mod clock;
mod cluster;
mod counted;
mod curves;
pub mod dashboard;
mod entry;
mod errors;
mod errors_query;
mod example_lines;
mod figures;
#[cfg(feature = "program")]
pub mod foreign;
mod frame;
mod histogram;
mod history;
mod hot;
mod ledger;
#[cfg(feature = "live")]
pub mod live;
#[cfg(feature = "program")]
pub mod log_lines;
mod merge;
mod metrics;
mod openmetrics;
mod packed;
#[cfg(feature = "program")]
pub mod probe;
mod process;
mod query;
#[cfg(feature = "program")]
pub mod readiness;
mod recorder;
mod sample;
#[cfg(feature = "program")]
pub mod served;
#[cfg(feature = "service")]
pub mod service;
#[cfg(feature = "program")]
pub mod settings;
mod shared;
mod sheet;
mod slot_load;
mod spans;
#[cfg(feature = "store")]
pub mod store;
mod sums;
mod totals;
#[cfg(feature = "store")]
mod trust;
mod window;
mod worker;

pub use cluster::{
    CacheNow, ClusterNow, ComparedNow, LaneNow, MoveNow, NodeNow, PoolNow, ShardNow,
};
pub use errors::{ErrorEvent, ErrorFilter, ErrorGroup, ErrorLog, FilterError};
pub use errors_query::{ErrorsParameters, ErrorsQuery};
pub use figures::figures;
pub use frame::{Cell, CellLabel, Fanout, Frame, HotCount, Part, Parts, Step, StepError};
pub use histogram::LatencyHistogram;
pub use history::{BUDGETS, History};
pub use metrics::{
    CacheMetrics, ClusterMetrics, FanoutMetrics, Heatmap, HistoryMetrics, HotKey, LatencyMs,
    LatencyParts, Metrics, Named, PartMs, ReadFrom, RouteMetrics, Series, ShardMetrics,
    ShardSeries, Skew,
};
pub use openmetrics::{CONTENT_TYPE, openmetrics};
pub use packed::{Packed, PackedError};
pub use query::{MetricsParameters, MetricsQuery, OperationError};
pub use recorder::Recorder;
pub use sample::{Labels, Operation, Outcome, Role, Sample};
pub use slot_load::SlotLoad;
pub use spans::Spans;
pub use window::{Window, WindowError};
pub use worker::{InFlight, Worker};
