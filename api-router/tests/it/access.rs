//! Tests of access control over HTTP: credentials, the right that each route needs, settings and
//! files, the audit log, web pages of other origins, and that no secret is shown.

mod algorithms;
mod audit;
mod bound_callers;
mod caller_rights;
mod canaries;
mod catalog_gone;
mod catalog_keys;
mod certificates;
#[path = "../../../shard-manager/access/tests/access/changed_claims.rs"]
mod changed_claims;
mod client_addresses;
mod client_authority;
mod cors;
mod credentials;
mod doctor;
mod fair;
mod files;
mod guarded;
mod issuer_keys;
mod key_server;
mod limits;
mod matrix;
mod modes;
mod quotas;
mod remote_keys;
mod replacing;
mod session;
mod settings;
mod slow_bodies;
mod tokens;
