#![doc = include_str!("../README.md")]
//!
//! # Crates
//!
//! This crate re-exports three others:
//!
//! | crate | contents | features |
//! | --- | --- | --- |
//! | `recorder` | counts requests, keeps their history, computes metrics | `store` |
//! | `web-kit` | the dashboard's files; settings, log, probes, streams | `live`, `program` |
//! | `service` | collects from routers and serves the metrics of all of them | `service` |
//!
//! **Invariant:** without the feature `service`, a program that uses this crate contains no HTTP
//! client.
//! **Not here:** code other than the re-exports.

#![forbid(unsafe_code)]

#[cfg(feature = "store")]
pub use recorder::store;
pub use recorder::{
    AccessNow, AuditNow, BUDGETS, BULK_KEYS_MAX, BackupsNow, BusyKey, CONTENT_TYPE, CacheMetrics,
    CacheNow, Cell, CellLabel, ClusterMetrics, ClusterNow, ComparedNow, ErrorEvent, ErrorFilter,
    ErrorGroup, ErrorLog, ErrorsParameters, ErrorsQuery, Fanout, FanoutMetrics, FilterError, Frame,
    Heatmap, History, HistoryMetrics, HotCount, HotKey, InFlight, IssuerNow, Labels, LaneNow,
    LatencyHistogram, LatencyMs, LatencyParts, MeasuredIntervals, MemoryNow, Metrics,
    MetricsParameters, MetricsQuery, MoveNow, MoveTotalsNow, Named, NodeNow, Operation,
    OperationError, Outcome, Packed, PackedError, ParkedNow, PartMs, PartTimes, Parts, PoolNow,
    ReadFrom, RebalanceNow, RecentWrite, Recorder, Role, RouteMetrics, Sample, SampledRows, Series,
    ShardMetrics, ShardNow, ShardSeries, Skew, SlotLoad, Step, StepError, WRITES_MAX, WaitBucket,
    Window, WindowError, Worker, busiest_keys, figures, list_sampled_rows, openmetrics,
    writes_after,
};
#[cfg(feature = "service")]
pub use service;
pub use web_kit::dashboard;
#[cfg(feature = "live")]
pub use web_kit::event_stream;
#[cfg(feature = "program")]
pub use web_kit::{
    bearer, cross_origin, end_signals, exit_status, hangup_signals, head_response, health_probe,
    log_format, login, problem_codes, readiness, settings, static_assets,
};
