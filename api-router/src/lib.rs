#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod body_decoding;
pub mod browser_policy;
pub mod caller_rights;
pub mod data_route;
pub mod negotiation;
pub mod problem;
pub mod request_hints;
pub mod tls;
pub mod trace;

pub mod body_budget;
pub mod documented_paths;
pub mod request_record;

pub mod config;

pub mod body_reader;
pub mod compression;
pub mod filter;
pub mod prefer;

pub mod cluster_status;
pub mod headers;
pub mod query;

pub mod access;
pub mod lab_runs;
pub mod metrics_view;
pub mod moving_slots;
pub mod observed_load;
#[cfg(feature = "otlp")]
pub mod otlp;
pub mod unsupported_headers;

pub mod app;

pub mod cluster_change;
pub mod response_budget;
pub mod response_headers;

pub mod middleware;
pub mod router_address;
pub mod routes;

pub mod server;

pub mod doctor;
