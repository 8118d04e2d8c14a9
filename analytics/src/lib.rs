#![doc = include_str!("../README.md")]
//!
//! # Map
//!
//! Lowest first; a module imports only from lines above its own.
//!
//! | module | noun |
//! | --- | --- |
//! | `sample` | one request, as the router reports it |
//! | `window` | how far back a question looks |
//! | `histogram` | latencies: record, merge, quantile |
//! | `errors` | the newest failures, bounded |
//! | `stripe` | where threads leave entries without meeting |
//! | `slot` | five seconds of counts and latencies, running and finished |
//! | `metrics` | the answer, as it is serialized |
//! | `recorder` | the façade: record, roll, snapshot |

#![forbid(unsafe_code)]

mod errors;
mod histogram;
mod metrics;
mod recorder;
mod sample;
mod slot;
mod stripe;
mod window;

pub use errors::{ErrorEvent, ErrorFilter, ErrorGroup, ErrorLog, FilterError};
pub use histogram::{EncodedHistogram, LatencyHistogram};
pub use metrics::{LatencyMs, Metrics, ShardCounts, ShardMetrics};
pub use recorder::Recorder;
pub use sample::{Operation, Outcome, Sample};
pub use window::{Window, WindowError};
