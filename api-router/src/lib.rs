#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod data_route;
pub mod hints;
pub mod inflate;
pub mod isolation;
pub mod negotiation;
pub mod problem;
pub mod tls;
pub mod trace;

pub mod paths;
pub mod room;
pub mod trail;

pub mod config;

pub mod body;
pub mod compression;
pub mod filter;
pub mod prefer;

pub mod headers;
pub mod lookout;
pub mod query;

pub mod figures;
#[cfg(feature = "otlp")]
pub mod otlp;
pub mod surplus;

pub mod app;

pub mod answer;

pub mod gate;
pub mod routes;

pub mod server;

pub mod doctor;
