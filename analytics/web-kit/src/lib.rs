//! Web kit: the parts of a program that serves the dashboard.
//!
//! # Map
//!
//! | module | contents | feature |
//! | --- | --- | --- |
//! | `dashboard` | the files of the dashboard | |
//! | `event_stream` | the stream of events that dashboards watch | `live` |
//! | `settings`, `log_format` | configuration and log of a program | `program` |
//! | `readiness`, `health_probe` | `/live` and `/ready`, and the command that probes them |
//! `program` |
//! | `end_signals`, `exit_status` | signals that end a program, and its exit code | `program` |
//! | `hangup_signals` | signals at which a program reads its files again | `program` |
//! | `problem_codes` | declaration of the codes of problems | `program` |
//! | `bearer`, `login` | credentials in requests, and the bodies of a login | `program` |
//! | `cross_origin` | refusal of requests that pages of other origins send | `program` |
//! | `head_response` | responses to HEAD | `program` |
//! | `static_assets` | responses that carry the dashboard and its events | `program` |
//! | `http_client` | requests to other servers | `client` |
//!
//! **Invariant:** a feature adds only the dependencies of its own modules.
//! **Not here:** counting requests (`recorder`), the routes of any program.

#![forbid(unsafe_code)]

#[cfg(feature = "program")]
pub mod bearer;
#[cfg(feature = "program")]
pub mod cross_origin;
pub mod dashboard;
#[cfg(feature = "program")]
pub mod end_signals;
#[cfg(feature = "live")]
pub mod event_stream;
#[cfg(feature = "program")]
pub mod exit_status;
#[cfg(feature = "program")]
pub mod hangup_signals;
#[cfg(feature = "program")]
pub mod head_response;
#[cfg(feature = "program")]
pub mod health_probe;
#[cfg(feature = "client")]
pub mod http_client;
#[cfg(feature = "program")]
pub mod log_format;
#[cfg(feature = "program")]
pub mod login;
#[cfg(feature = "program")]
pub mod problem_codes;
#[cfg(feature = "program")]
pub mod readiness;
#[cfg(feature = "program")]
pub mod settings;
#[cfg(feature = "program")]
pub mod static_assets;
