//! Issuers: the systems whose tokens a program accepts, and their keys.
//!
//! # Map
//!
//! | module | contents |
//! | --- | --- |
//! | `config` | the settings of an issuer, and its section in a configuration file |
//! | `files` | keys from files |
//! | `key_sets` | the keys of each issuer that are in force |
//! | `jwks_client`, `key_fetcher` | the HTTP request for an issuer's keys, and its schedule |
//! | `remote_keys` | the state of keys that are fetched |
//!
//! **Invariant:** no request of a client waits for an issuer or a file.
//! **Not here:** the check of a token (`access`), the decision about a request (the programs).

#![forbid(unsafe_code)]

pub mod config;
pub mod files;
pub mod jwks_client;
pub mod key_fetcher;
pub mod key_sets;
pub mod remote_keys;
